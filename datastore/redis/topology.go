package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

var _ datastore.Topology = Datastore{}

// survey is a cluster as its members see it now, beside what it should be.
type survey struct {
	wish    datastore.ClusterWish
	wished  map[string]datastore.MemberWish // by guest
	members map[string]datastore.Member     // by guest
	views   map[string]*clusterView         // of those who answered, by guest
	errs    map[string]error                // of those of the wish who did not, by guest
	guests  map[string]string               // node id: guest
	bytes   map[int]int64                   // that slots hold, where they were measured
}

// look asks all members at once.
func look(ctx context.Context, wish datastore.ClusterWish, members []datastore.Member, args viewArgs) *survey {
	s := &survey{
		wish: wish, wished: map[string]datastore.MemberWish{}, members: map[string]datastore.Member{},
		views: map[string]*clusterView{}, errs: map[string]error{}, guests: map[string]string{},
	}
	for _, w := range wish.Members {
		s.wished[w.GuestID] = w
		s.errs[w.GuestID] = dbaas.Errorf(dbaas.Unavailable, "The member is not there yet.")
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, m := range members {
		if _, ok := s.wished[m.GuestID()]; !ok && !slices.Contains(wish.Leaving, m.GuestID()) {
			continue
		}
		s.members[m.GuestID()] = m
		all.Go(func() {
			v := new(clusterView)
			err := m.Do(ctx, actionView, args, v)
			if err == nil && v.self() == nil {
				err = errors.New("the member does not know itself")
			}
			mu.Lock()
			defer mu.Unlock()
			if _, stays := s.wished[m.GuestID()]; err != nil {
				if stays {
					s.errs[m.GuestID()] = err
				}
				return
			}
			delete(s.errs, m.GuestID())
			s.views[m.GuestID()] = v
			s.guests[v.ID] = m.GuestID()
		})
	}
	all.Wait()
	s.nameSilent()
	return s
}

// nameSilent finds the node ids of members that did not answer by their addresses, as the others know them.
func (s *survey) nameSilent() {
	for _, v := range s.views {
		for _, n := range v.Nodes {
			if s.guests[n.ID] != "" || n.Handshake {
				continue
			}
			for guest := range s.errs {
				if n.Address == s.wished[guest].Address {
					s.guests[n.ID] = guest
				}
			}
		}
	}
}

// answering gives the guests of the wish that answered, in its order.
func (s *survey) answering() []string {
	var list []string
	for _, w := range s.wish.Members {
		if s.views[w.GuestID] != nil {
			list = append(list, w.GuestID)
		}
	}
	return list
}

// everybody gives all guests that answered, those who leave last.
func (s *survey) everybody() []string {
	list := s.answering()
	for _, guest := range s.wish.Leaving {
		if s.views[guest] != nil && !slices.Contains(list, guest) {
			list = append(list, guest)
		}
	}
	return list
}

// owners gives the guest of each owned slot, by what the masters say of themselves: of two, the one of the higher epoch.
// disputed are the slots that had two.
func (s *survey) owners() (owner map[int]string, disputed map[string]bool) {
	owner, disputed = map[int]string{}, map[string]bool{}
	for _, guest := range s.everybody() {
		self := s.views[guest].self()
		if !self.Master {
			continue
		}
		for _, slot := range self.Slots {
			other, taken := owner[slot]
			if !taken {
				owner[slot] = guest
				continue
			}
			if self.Epoch > s.views[other].self().Epoch {
				owner[slot] = guest
			}
			disputed[owner[slot]] = true
		}
	}
	return owner, disputed
}

// shards gives the ids of the shards in the order of the wish.
func (s *survey) shards() []string {
	var ids []string
	for _, w := range s.wish.Members {
		if !slices.Contains(ids, w.ShardID) {
			ids = append(ids, w.ShardID)
		}
	}
	return ids
}

// master gives who is the master of a shard: the one with slots, else the one that the wish names. It is "" while that
// cannot be told.
func (s *survey) master(shard string) string {
	var best, named string
	silent := false
	for _, w := range s.wish.Members {
		if w.ShardID != shard {
			continue
		}
		v := s.views[w.GuestID]
		switch {
		case v == nil:
			silent = true
		case !v.self().Master:
		case len(v.self().Slots) > 0:
			if best == "" || len(v.self().Slots) > len(s.views[best].self().Slots) {
				best = w.GuestID
			}
		case w.Role == datastore.RoleMaster || named == "":
			named = w.GuestID
		}
	}
	if best != "" {
		return best
	}
	if silent && s.ownedBySilent(shard) {
		return ""
	}
	return named
}

// ownedBySilent tells whether a member of the shard that does not answer has slots, as others see it.
func (s *survey) ownedBySilent(shard string) bool {
	for _, v := range s.views {
		for _, n := range v.Nodes {
			guest := s.guests[n.ID]
			if s.views[guest] == nil && s.wished[guest].ShardID == shard && len(n.Slots) > 0 {
				return true
			}
		}
	}
	return false
}

// again is the progress of something that goes on.
func again(milliseconds int, format string, args ...any) *datastore.Progress {
	return &datastore.Progress{Again: milliseconds, Message: fmt.Sprintf(format, args...)}
}

// step does what is needed of its kind. With neither progress nor an error there was nothing to do.
type step func(ctx context.Context) (*datastore.Progress, error)

// Converge implements [datastore.Topology]. Each step is the condition of those after it.
func (Datastore) Converge(ctx context.Context, wish datastore.ClusterWish, members []datastore.Member) (datastore.Progress, error) {
	s := look(ctx, wish, members, viewArgs{Strays: true})
	for _, do := range []step{s.welcome, s.introduce, s.follow, s.awaitMoves, s.cover, s.inherit, s.mend, s.agree, s.rebalance, s.dismiss, s.awaitAll} {
		p, err := do(ctx)
		if err != nil {
			return datastore.Progress{}, err
		}
		if p != nil {
			return *p, nil
		}
	}
	return datastore.Progress{Done: true, Message: "the cluster is as it should be"}, nil
}

// do runs an action of a member. That it cannot be reached, or is not so far yet, is no failure: one comes back.
func (s *survey) do(ctx context.Context, guest, action string, args any) error {
	err := s.members[guest].Do(ctx, action, args, nil)
	if code := dbaas.ErrorCode(err); code == dbaas.BadRequest || code == dbaas.OverLimit || ctx.Err() != nil {
		return err
	}
	return nil
}

// welcome has those stay who were told to leave and are wished for again: with its port shut a master is copied by nobody.
func (s *survey) welcome(ctx context.Context) (*datastore.Progress, error) {
	for _, guest := range s.answering() {
		if !s.views[guest].Leaves {
			continue
		}
		if err := s.do(ctx, guest, actionWelcome, nothing{}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// introduce makes everybody known to everybody. What was begun and came to nothing is begun again; a member whose address
// has changed is met at the new one.
func (s *survey) introduce(ctx context.Context) (*datastore.Progress, error) {
	guests := s.answering()
	if len(guests) == 0 {
		return again(1000, "waiting for the members"), nil
	}
	for i, guest := range guests { // an epoch each, before they meet
		if v := s.views[guest]; len(v.Nodes) == 1 && v.Epoch == 0 && !s.covered() {
			if err := s.do(ctx, guest, actionEpoch, epochArgs{Epoch: i + 1}); err != nil {
				return nil, err
			}
		}
	}
	seed := s.seed(guests)
	waiting := 0
	for _, guest := range guests {
		if guest == seed || s.knowEachOther(seed, guest) {
			continue
		}
		waiting++
		if s.shaking(seed, guest) || s.mistaken(guest) {
			continue
		}
		if err := s.do(ctx, seed, actionMeet, s.wished[guest].Endpoint); err != nil {
			return nil, err
		}
	}
	if waiting > 0 {
		return again(200, "introducing members: %d of %d", len(guests)-waiting, len(guests)), nil
	}
	for _, a := range guests { // the others learn of each other by gossip
		for _, b := range guests {
			if !s.knows(a, b) {
				return again(200, "introducing members to each other"), nil
			}
		}
	}
	return nil, nil
}

// covered tells whether anybody has slots: the cluster stands.
func (s *survey) covered() bool {
	for _, v := range s.views {
		for _, n := range v.Nodes {
			if len(n.Slots) > 0 {
				return true
			}
		}
	}
	return false
}

// seed is who introduces: whoever knows most of the others.
func (s *survey) seed(guests []string) string {
	return slices.MaxFunc(guests, func(a, b string) int {
		return s.acquaintances(a) - s.acquaintances(b)
	})
}

func (s *survey) acquaintances(guest string) int {
	n := 0
	for other := range s.views {
		if s.knows(guest, other) {
			n++
		}
	}
	if len(s.views[guest].self().Slots) > 0 {
		n++ // of two with none, the one that has something
	}
	return n
}

func (s *survey) knowEachOther(a, b string) bool { return s.knows(a, b) && s.knows(b, a) }

// knows tells whether a knows b by its id, at its address.
func (s *survey) knows(a, b string) bool {
	if a == b {
		return true
	}
	n := s.views[a].node(s.views[b].ID)
	return n != nil && !n.Handshake && n.Address == s.wished[b].Address
}

// shaking tells whether a is about to get to know b.
func (s *survey) shaking(a, b string) bool {
	return slices.ContainsFunc(s.views[a].Nodes, func(n clusterNode) bool {
		return n.Handshake && n.Address == s.wished[b].Address
	})
}

// follow makes those who are not the master of their shard its replicas.
func (s *survey) follow(ctx context.Context) (*datastore.Progress, error) {
	waiting := 0
	for _, w := range s.wish.Members {
		v, master := s.views[w.GuestID], s.master(w.ShardID)
		if v == nil || master == "" || master == w.GuestID || v.self().Follows == s.views[master].ID {
			continue
		}
		if v.self().Master && (len(v.self().Slots) > 0 || v.Keys > 0) {
			continue // it is relieved of them first
		}
		waiting++
		if err := s.do(ctx, w.GuestID, actionReplicate, nodeArgs{ID: s.views[master].ID}); err != nil {
			return nil, err
		}
	}
	if waiting > 0 {
		return again(200, "attaching %d replicas", waiting), nil
	}
	return nil, nil
}

// awaitMoves lets jobs that move slots go on.
func (s *survey) awaitMoves(context.Context) (*datastore.Progress, error) {
	done, all, running := 0, 0, false
	for _, v := range s.views {
		if v.Mover.Running {
			running = true
			done += v.Mover.Done
			all += v.Mover.All
		}
	}
	if running {
		return again(500, "moving slots: %d of %d", done, all), nil
	}
	return nil, nil
}

// cover gives the slots that nobody has to somebody: to whoever has keys of them, or had them as another node; of the rest
// each shard takes its even part.
// It waits until everybody answers, for who is silent may have them.
func (s *survey) cover(ctx context.Context) (*datastore.Progress, error) {
	owner, disputed := s.owners()
	for guest := range disputed {
		if err := s.do(ctx, guest, actionBump, nothing{}); err != nil {
			return nil, err
		}
	}
	if len(disputed) > 0 {
		return again(500, "settling which member has the slots that two claim"), nil
	}
	if len(owner) == slotCount {
		return nil, nil
	}
	silent, heirs := s.ownedBySilentNodes(), s.heirs()
	homes := s.homes()
	take := map[string]slotSet{}
	for slot := range slotCount {
		if owner[slot] != "" || silent[slot] && heirs[slot] == "" {
			continue
		}
		guest := s.holder(slot)
		if guest == "" {
			guest = heirs[slot]
		}
		if guest == "" {
			guest = homes[slot*len(homes)/slotCount]
		}
		if guest == "" {
			return again(500, "waiting for the masters of all shards"), nil
		}
		take[guest] = append(take[guest], slot)
	}
	if len(take) == 0 {
		return nil, nil // the silent ones have them
	}
	if len(s.errs) > 0 {
		return again(1000, "waiting for %d members before slots without an owner are given away", len(s.errs)), nil
	}
	for guest, slots := range take {
		if err := s.do(ctx, guest, actionAddSlots, slotArgs{Slots: slots}); err != nil {
			return nil, err
		}
	}
	return again(500, "giving away slots"), nil
}

// homes gives the master of each shard.
func (s *survey) homes() []string {
	var list []string
	for _, shard := range s.shards() {
		list = append(list, s.master(shard))
	}
	return list
}

// ownedBySilentNodes gives the slots of nodes that did not answer, as the others see them.
func (s *survey) ownedBySilentNodes() map[int]bool {
	slots := map[int]bool{}
	for _, v := range s.views {
		for _, n := range v.Nodes {
			if s.views[s.guests[n.ID]] != nil {
				continue
			}
			for _, slot := range n.Slots {
				slots[slot] = true
			}
		}
	}
	return slots
}

// holder gives who has most keys of a slot that is not its own, "" when nobody has any.
func (s *survey) holder(slot int) string {
	best, most := "", int64(0)
	for _, guest := range s.everybody() {
		if n := s.views[guest].Strays[slot]; n > most {
			best, most = guest, n
		}
	}
	return best
}

// mend closes slots that somebody has left half moved. Nobody moves any now: what is marked, or has keys where it should
// not, is left over. Where keys have arrived the move goes on in its direction, for clients find them only there; where none
// have, it is as if nothing had been.
func (s *survey) mend(ctx context.Context) (*datastore.Progress, error) {
	owner, _ := s.owners()
	forward := map[string]map[string]slotSet{} // from, to
	calm := map[string]slotSet{}
	for _, slot := range s.open() {
		from, to := owner[slot], s.holder(slot)
		switch {
		case from == "":
			continue // of a silent member
		case to != "":
			if forward[from] == nil {
				forward[from] = map[string]slotSet{}
			}
			forward[from][to] = append(forward[from][to], slot)
			continue
		}
		for _, guest := range s.everybody() {
			v := s.views[guest]
			if v.self().Master && (v.Migrating[slot] != "" || v.Importing[slot] != "") {
				calm[guest] = append(calm[guest], slot)
			}
		}
	}
	for guest, slots := range calm {
		if err := s.do(ctx, guest, actionCalm, slotArgs{Slots: slots}); err != nil {
			return nil, err
		}
	}
	if len(forward) > 0 {
		return s.begin(ctx, forward)
	}
	if len(calm) > 0 {
		return again(200, "closing slots that were left half moved"), nil
	}
	return nil, nil
}

// open gives the slots that have a mark, or keys at another than their owner.
func (s *survey) open() []int {
	slots := map[int]bool{}
	for _, v := range s.views {
		if !v.self().Master { // a replica's marks mean nothing
			continue
		}
		for slot := range v.Migrating {
			slots[slot] = true
		}
		for slot := range v.Importing {
			slots[slot] = true
		}
		for slot := range v.Strays {
			slots[slot] = true
		}
	}
	return slices.Sorted(maps.Keys(slots))
}

// begin starts the jobs of moves, one at each giver. Nobody gives and takes at once: to take raises a member's epoch, and
// whose epoch rises while it gives takes back what it has given, without the keys. The rest has its turn later.
func (s *survey) begin(ctx context.Context, moves map[string]map[string]slotSet) (*datastore.Progress, error) {
	if err := s.noRoom(ctx); err != nil {
		return nil, err
	}
	all := 0
	gives, takes := map[string]bool{}, map[string]bool{}
	for _, from := range slices.Sorted(maps.Keys(moves)) {
		receivers := maps.Clone(moves[from])
		maps.DeleteFunc(receivers, func(to string, _ slotSet) bool { return gives[to] })
		if takes[from] || len(receivers) == 0 {
			continue
		}
		gives[from] = true
		for to := range receivers {
			takes[to] = true
		}
		var args moveArgs
		for _, to := range slices.Sorted(maps.Keys(receivers)) {
			slots := receivers[to]
			all += len(slots)
			mv := slotMove{To: s.endpoint(to), ID: s.views[to].ID, Slots: slots, Bytes: map[int]int64{}}
			for _, slot := range slots {
				if bytes, measured := s.bytes[slot]; measured {
					mv.Bytes[slot] = bytes
				}
			}
			args.Moves = append(args.Moves, mv)
		}
		if err := s.beginJob(ctx, from, args); err != nil {
			return nil, err
		}
	}
	return again(500, "moving slots: 0 of %d", all), nil
}

// noRoom tells of a job that has ended because the receiver was full, once: the next attempt may find more room.
func (s *survey) noRoom(ctx context.Context) (found error) {
	for _, guest := range s.everybody() {
		e := s.views[guest].Mover.Error
		if e == nil || e.Code != dbaas.OverLimit {
			continue
		}
		found = e
		if err := s.do(ctx, guest, actionStopMoves, nothing{}); err != nil {
			return err
		}
	}
	return found
}

// beginJob starts a job that moves slots. Its name is that of the next one there, so that to begin it twice is to begin it
// once; one of its name that has ended did not come to move anything.
func (s *survey) beginJob(ctx context.Context, from string, args moveArgs) error {
	mover := s.views[from].Mover
	for try := range 100 {
		name := fmt.Sprintf("%s-%s-%d.%d", actionMove, mover.Life, mover.Number+1, try)
		job, err := s.members[from].Job(ctx, name)
		if err == nil && (job.State == "failed" || job.State == "succeeded") {
			continue
		}
		err = s.members[from].BeginJob(ctx, name, actionMove, args)
		if dbaas.ErrorCode(err) == dbaas.BadRequest {
			return err
		}
		break
	}
	return ctx.Err()
}

// endpoint gives where a guest is, also one that leaves.
func (s *survey) endpoint(guest string) datastore.Endpoint {
	if w, ok := s.wished[guest]; ok {
		return w.Endpoint
	}
	return datastore.Endpoint{GuestID: guest, Address: s.views[guest].self().Address, Port: port}
}

// agree waits until all members see the same owners, and the cluster serves.
func (s *survey) agree(context.Context) (*datastore.Progress, error) {
	owner, _ := s.owners()
	for _, guest := range s.everybody() {
		v := s.views[guest]
		if len(v.Nodes) == 1 {
			continue // it has left
		}
		if v.State != "ok" {
			return again(500, "waiting until the cluster serves"), nil
		}
		if !s.sees(v, owner) {
			return again(200, "waiting until all members agree"), nil
		}
	}
	for _, guest := range s.answering() {
		if v := s.views[guest]; !v.self().Master && !v.LinkUp {
			return again(500, "replicas are copying the data"), nil
		}
	}
	return nil, nil
}

// sees tells whether a member sees the owners as they are.
func (s *survey) sees(v *clusterView, owner map[int]string) bool {
	seen := 0
	for _, n := range v.Nodes {
		for _, slot := range n.Slots {
			if owner[slot] == s.guests[n.ID] {
				seen++
			} else if owner[slot] != "" {
				return false
			}
		}
	}
	return seen == len(owner)
}

// rebalance moves slots: from those who leave, and to those who have none; when it is wished, until all have the same.
func (s *survey) rebalance(ctx context.Context) (*datastore.Progress, error) {
	if !s.moveNeeded() {
		return nil, nil
	}
	if len(s.errs) > 0 {
		return again(1000, "waiting for %d members before slots are moved", len(s.errs)), nil
	}
	b, err := s.balance(ctx)
	if err != nil {
		return again(1000, "measuring slots"), ctx.Err()
	}
	moves, err := b.moves()
	if err != nil || len(moves) == 0 {
		return nil, err
	}
	by := map[string]map[string]slotSet{}
	s.bytes = map[int]int64{}
	for slot, to := range moves {
		s.bytes[slot] = b.bytes[slot]
		from := b.owner[slot]
		if by[from] == nil {
			by[from] = map[string]slotSet{}
		}
		by[from][to] = append(by[from][to], slot)
	}
	for _, receivers := range by {
		for _, slots := range receivers {
			slices.Sort(slots)
		}
	}
	return s.begin(ctx, by)
}

// moveNeeded tells whether the slots are to be looked at.
func (s *survey) moveNeeded() bool {
	if s.wish.Rebalance {
		return true
	}
	for _, guest := range s.everybody() {
		self := s.views[guest].self()
		w, stays := s.wished[guest]
		isMaster := stays && s.master(w.ShardID) == guest
		if self.Master && isMaster == (len(self.Slots) == 0) {
			return true
		}
	}
	return false
}

// dismiss makes those who leave, and nodes that nobody wishes for, unknown to all. One that leaves is reset first, so that
// it does not come back by itself; the others forget it within the minute in which gossip is not believed.
func (s *survey) dismiss(ctx context.Context) (*datastore.Progress, error) {
	staying := 0
	for _, guest := range s.wish.Leaving {
		v := s.views[guest]
		if v == nil || len(v.Nodes) == 1 && len(v.self().Slots) == 0 {
			continue
		}
		if err := s.members[guest].Do(ctx, actionReset, nodeArgs{ID: v.ID}, nil); err != nil {
			if dbaas.ErrorCode(err) == dbaas.Conflict {
				return nil, err
			}
			staying++
		}
	}
	if staying > 0 {
		return again(1000, "waiting for %d members that leave", staying), nil
	}
	if len(s.errs) > 0 {
		return nil, nil // who is silent may be taken for a stranger
	}
	strangers := 0
	for _, guest := range s.answering() {
		for _, n := range s.views[guest].Nodes {
			if _, stays := s.wished[s.guests[n.ID]]; stays || n.Handshake {
				continue
			}
			strangers++
			if len(n.Slots) > 0 {
				return again(2000, "waiting for a lost member that has the slots %s", n.Slots), nil
			}
			if err := s.do(ctx, guest, actionForget, nodeArgs{ID: n.ID}); err != nil {
				return nil, err
			}
		}
	}
	if strangers > 0 {
		return again(200, "forgetting members that have left"), nil
	}
	return nil, nil
}

// awaitAll is for members that did not answer.
func (s *survey) awaitAll(context.Context) (*datastore.Progress, error) {
	if n := len(s.errs); n > 0 {
		return again(1000, "waiting for %d of %d members", n, len(s.wish.Members)), nil
	}
	return nil, nil
}
