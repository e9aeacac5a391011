package redis

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

const (
	// tolerance is how far a master may be from the mean before slots are moved for balance alone, in percent.
	tolerance = 5
	// heavyPart of a master's fair share makes a slot heavy: heavy ones are placed first, while there is room, and the many
	// light ones fill what is left, in ranges.
	heavyPart = 100
	// minMasters is with how many a cluster can vote.
	minMasters = 3
	// mostMembers is how many members may talk to each other: all do, all the time.
	mostMembers = 60
)

// balance is what the masters hold, and may hold.
type balance struct {
	masters []string         // who stay, in order
	owner   map[int]string   // of each slot; who is not among the masters gives all
	keys    map[int]int64    // of each slot
	bytes   map[int]int64    // of each slot
	free    map[string]int64 // bytes that a master can take; not in it: not known
	even    bool             // until all have the same
}

// balance measures all slots.
func (s *survey) balance(ctx context.Context) (*balance, error) {
	b := &balance{keys: map[int]int64{}, bytes: map[int]int64{}, free: map[string]int64{}, even: s.wish.Rebalance}
	b.owner, _ = s.owners()
	for i, guest := range s.homes() {
		if guest == "" { // not there yet, when it is planned
			guest = s.firstMaster(s.shards()[i])
		}
		b.masters = append(b.masters, guest)
		if free, known := s.free(guest); known {
			b.free[guest] = free
		}
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	var failed error
	for guest := range maps.Keys(inverse(b.owner)) {
		all.Go(func() {
			sizes := new(slotSizes)
			err := s.members[guest].Do(ctx, actionSizes, nothing{}, sizes)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
			for slot, n := range sizes.Keys {
				if b.owner[slot] == guest {
					b.keys[slot], b.bytes[slot] = n, sizes.Bytes[slot]
				}
			}
		})
	}
	all.Wait()
	return b, failed
}

// firstMaster gives whom the wish names as the master of a shard.
func (s *survey) firstMaster(shard string) string {
	for _, w := range s.wish.Members {
		if w.ShardID == shard && w.Role == datastore.RoleMaster {
			return w.GuestID
		}
	}
	return ""
}

// free gives how many bytes a master can take without coming near its limit.
func (s *survey) free(guest string) (bytes int64, known bool) {
	most, used := s.wished[guest].MaxMemory, int64(0)
	if v := s.views[guest]; v != nil {
		used = v.Memory
		if v.MaxMemory > 0 {
			most = v.MaxMemory
		}
	}
	return max(0, most/100*fullPercent-used), most > 0
}

// inverse gives the slots of each owner, ascending.
func inverse(owner map[int]string) map[string]slotSet {
	slots := map[string]slotSet{}
	for slot := range slotCount {
		if guest := owner[slot]; guest != "" {
			slots[guest] = append(slots[guest], slot)
		}
	}
	return slots
}

// needs is what bytes of keys take where they arrive, with what goes along.
func needs(bytes int64) int64 { return bytes + bytes/10 }

// distribution is a balance in the making.
type distribution struct {
	*balance
	weight  func(slot int) int64
	slots   map[string]slotSet
	load    map[string]int64 // weight, by guest
	target  int64            // weight of a fair share
	left    map[string]int64 // bytes that a receiver can still take
	current string           // receiver of the range that is being given
	moves   map[int]string
}

// moves works out which slots go where: as many bytes as it takes and no more.
func (b *balance) moves() (map[int]string, error) {
	d := b.distribute()
	if !d.needed() {
		return nil, nil
	}
	var heavy []int
	for guest, slots := range d.slots {
		if !d.gives(guest) {
			continue
		}
		for _, slot := range slots {
			if d.weight(slot) > d.target/heavyPart {
				heavy = append(heavy, slot)
			}
		}
	}
	slices.SortFunc(heavy, func(x, y int) int { return cmp.Or(cmp.Compare(d.weight(y), d.weight(x)), cmp.Compare(x, y)) })
	for _, slot := range heavy {
		if err := d.place(slot); err != nil {
			return nil, err
		}
	}
	for _, slot := range d.light() {
		if err := d.place(slot); err != nil {
			return nil, err
		}
	}
	d.evenOut()
	return d.moves, nil
}

// light gives the light slots that are to be placed: of who leaves all, of the others those with something in them, where
// they can make up for what is too much.
func (d *distribution) light() []int {
	var all []int
	for guest, slots := range d.slots {
		if !d.gives(guest) {
			continue
		}
		var mine []int
		var sum int64
		for _, slot := range slots {
			if w := d.weight(slot); w <= d.target/heavyPart && d.moves[slot] == "" && (w > 0 || d.leaves(guest)) {
				mine = append(mine, slot)
				sum += w
			}
		}
		if d.leaves(guest) || sum >= (d.load[guest]-d.target)/2 {
			all = append(all, mine...)
		}
	}
	slices.Sort(all)
	return all
}

// evenOut gives those who have few slots more that hold next to nothing: what is written later goes by slots.
func (d *distribution) evenOut() {
	if !d.evens() {
		return
	}
	var moved int64
	counts := map[string]int{}
	for slot, guest := range d.owner {
		if to := d.moves[slot]; to != "" {
			moved += d.bytes[slot]
			guest = to
		}
		counts[guest]++
	}
	budget, fair := moved/100, slotCount/len(d.masters)
	gives, takes := d.sides()
	for slot := range slotCount {
		from := d.owner[slot]
		if d.moves[slot] != "" || takes[from] || counts[from] <= fair || d.bytes[slot] > budget || d.bytes[slot] > max(moved, slotCount)/slotCount {
			continue
		}
		to := ""
		for _, guest := range d.masters {
			if !gives[guest] && counts[guest] < fair && (to == "" || counts[guest] < counts[to]) {
				to = guest
			}
		}
		if to == "" {
			return
		}
		gives[from], takes[to] = true, true
		budget -= d.bytes[slot]
		d.moves[slot] = to
		counts[from]--
		counts[to]++
	}
}

// sides tells who gives and who takes so far. Nobody does both at once.
func (d *distribution) sides() (gives, takes map[string]bool) {
	gives, takes = map[string]bool{}, map[string]bool{}
	for slot, to := range d.moves {
		gives[d.owner[slot]], takes[to] = true, true
	}
	return gives, takes
}

func (b *balance) distribute() *distribution {
	var total int64
	for _, n := range b.bytes {
		total += n
	}
	overhead := int64(0)
	if total < heavyPart*slotCount { // next to nothing: what is written later goes by slots
		overhead = heavyPart
	}
	d := &distribution{
		balance: b, slots: inverse(b.owner), load: map[string]int64{}, left: maps.Clone(b.free), moves: map[int]string{},
		weight: func(slot int) int64 { return b.bytes[slot] + overhead },
	}
	for guest, slots := range d.slots {
		for _, slot := range slots {
			d.load[guest] += d.weight(slot)
			d.target += d.weight(slot)
		}
	}
	d.target /= int64(max(1, len(b.masters)))
	return d
}

func (d *distribution) leaves(guest string) bool { return !slices.Contains(d.masters, guest) }

// evens tells whether the masters are to be made even: it is wished, or one has nothing.
func (d *distribution) evens() bool {
	return d.even || slices.ContainsFunc(d.masters, func(guest string) bool { return len(d.slots[guest]) == 0 })
}

// gives tells whether a guest gives slots away.
func (d *distribution) gives(guest string) bool {
	return d.leaves(guest) || d.evens() && d.load[guest] > d.target
}

// needed tells whether anything is to be moved at all.
func (d *distribution) needed() bool {
	for guest, slots := range d.slots {
		if d.leaves(guest) && len(slots) > 0 {
			return true
		}
	}
	if !d.evens() {
		return false
	}
	for _, guest := range d.masters {
		if len(d.slots[guest]) == 0 || math.Abs(float64(d.load[guest]-d.target))*100 > tolerance*float64(d.target) {
			return true
		}
	}
	return false
}

// place gives a slot to a receiver that it brings to no more than a fair share. A slot that fits nowhere stays, or goes where
// there is most room when its owner leaves.
func (d *distribution) place(slot int) error {
	from, weight := d.owner[slot], d.weight(slot)
	leaves := d.leaves(from)
	if !leaves && d.load[from]-weight < d.target {
		return nil
	}
	fits := func(guest string) bool {
		left, known := d.left[guest]
		return guest != from && (!known || left >= needs(d.bytes[slot]))
	}
	to := d.current
	if to == "" || !fits(to) || d.load[to]+weight > d.target || weight > d.target/heavyPart {
		to = d.roomiest(fits)
	}
	switch {
	case to == "" && leaves:
		return dbaas.Errorf(dbaas.OverLimit, "The data of the members that leave do not fit into the others, which are filled up to %d %% of their memory. Make the members larger, or keep more of them.", fullPercent)
	case to == "", !leaves && d.load[to]+weight > d.target:
		return nil
	}
	if weight <= d.target/heavyPart {
		d.current = to
	}
	d.moves[slot] = to
	d.load[from] -= weight
	d.load[to] += weight
	if _, known := d.left[to]; known {
		d.left[to] -= needs(d.bytes[slot])
	}
	return nil
}

// roomiest gives the master with the least of those that a slot fits.
func (d *distribution) roomiest(fits func(string) bool) string {
	best := ""
	for _, guest := range d.masters {
		if fits(guest) && (best == "" || d.load[guest] < d.load[best]) {
			best = guest
		}
	}
	return best
}

// What a move takes: measured on two cores, and rather too much.
const (
	slotsPerSecond = 200
	bytesPerSecond = 30 << 20
)

// Plan implements [datastore.Topology].
func (Datastore) Plan(ctx context.Context, wish datastore.ClusterWish, members []datastore.Member) (*datastore.Plan, error) {
	s := look(ctx, wish, members, viewArgs{})
	if n := len(s.shards()); n < minMasters {
		return nil, dbaas.Errorf(dbaas.BadRequest, "A cluster has at least %d masters, so that the others can replace one; this would have %d.", minMasters, n)
	}
	plan := &datastore.Plan{Moves: []datastore.Move{}, FreeMemory: map[string]int64{}}
	if !s.covered() && len(s.views) == 0 {
		return plan, nil // a new one
	}
	for guest := range s.members {
		if s.views[guest] == nil {
			return nil, dbaas.Errorf(dbaas.Unavailable, "A member of the cluster does not answer; moves cannot be planned without what it holds. Try again when the cluster is healthy.")
		}
	}
	b, err := s.balance(ctx)
	if err != nil {
		return nil, err
	}
	moves, err := b.moves()
	if err != nil {
		return nil, err
	}
	describe(plan, b, moves)
	return plan, nil
}

// describe writes moves into a plan, those between the same two as one.
func describe(plan *datastore.Plan, b *balance, moves map[int]string) {
	type pair struct{ from, to string }
	by := map[pair]slotSet{}
	for _, slot := range slices.Sorted(maps.Keys(moves)) {
		p := pair{b.owner[slot], moves[slot]}
		by[p] = append(by[p], slot)
	}
	pairs := slices.SortedFunc(maps.Keys(by), func(x, y pair) int {
		return cmp.Or(cmp.Compare(x.from, y.from), cmp.Compare(x.to, y.to))
	})
	for _, p := range pairs {
		m := datastore.Move{From: p.from, To: p.to, What: "slots " + by[p].String(), Units: len(by[p])}
		for _, slot := range by[p] {
			m.Bytes += b.bytes[slot]
		}
		plan.Moves = append(plan.Moves, m)
		plan.Bytes += m.Bytes
		plan.FreeMemory[p.to] += needs(m.Bytes)
	}
	if len(moves) > 0 {
		plan.Duration = 1 + len(moves)/slotsPerSecond + int(plan.Bytes/bytesPerSecond)
	}
}
