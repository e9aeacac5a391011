package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// moveArgs are slots that a master gives to others, one receiver after the other.
type moveArgs struct {
	Moves []slotMove `json:"moves"`
}

type slotMove struct {
	To    datastore.Endpoint `json:"to"`
	ID    string             `json:"id"` // node id of the receiver
	Slots slotSet            `json:"slots"`
	// Bytes is what slots held when they were measured. The keys of one that held little are not measured again one by one.
	Bytes map[int]int64 `json:"bytes,omitempty"`
}

// moveResult is what was moved.
type moveResult struct {
	Slots int   `json:"slots"`
	Keys  int64 `json:"keys"`
}

const (
	// moveWorkers move a group of slots each: while one's keys travel, the others open and close theirs. Keys travel one batch
	// at a time, so that whoever else asks is answered in between.
	moveWorkers = 2
	// groupSlots are how many slots that hold little are opened together.
	groupSlots = 16
	// A MIGRATE holds up both servers until its keys have arrived: it should not for longer than slice. It takes so many keys,
	// of so many bytes.
	slice        = time.Millisecond
	leastKeys    = 16
	mostKeys     = 128
	migrateBytes = 256 << 10
	// mostKey is the largest key that is moved: for a larger one both servers would be deaf for seconds, and taken for dead.
	mostKey = 256 << 20
	// migrateTimeout is the patience with a MIGRATE, beside the time that its bytes take at migrateRate per second.
	migrateTimeout = 5 * time.Second
	migrateRate    = 20 << 20
	migrateTries   = 3
	// memoryInterval is after how many slots the receiver's memory is looked at.
	memoryInterval = 32
	// fullPercent of its maxmemory is what a receiver may come to use.
	fullPercent = 85
	// seenTimeout is the patience with gossip.
	seenTimeout = 15 * time.Second
	seenPoll    = 20 * time.Millisecond
)

// mover is what a guest knows of its one job that moves slots.
type mover struct {
	mu    sync.Mutex
	state moverState
	stop  context.CancelFunc
}

// moverState is how the job stands. Life and Number name it: a new agent has another life.
type moverState struct {
	Life    string       `json:"life"`
	Number  int          `json:"number"` // of jobs begun in this life
	Running bool         `json:"running"`
	Done    int          `json:"done"` // slots
	All     int          `json:"all"`
	Error   *dbaas.Error `json:"error,omitempty"` // of the last one that ended
}

func (m *mover) look() moverState {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.Life == "" {
		m.state.Life = uuid.NewString()
	}
	return m.state
}

// begin claims the guest for a job.
func (m *mover) begin(all int, stop context.CancelFunc) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.Running {
		return dbaas.Errorf(dbaas.Conflict, "The member moves hash slots already.")
	}
	m.state.Number++
	m.state.Running, m.state.Done, m.state.All, m.state.Error = true, 0, all, nil
	m.stop = stop
	return nil
}

func (m *mover) progress(slots int) (done, all int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Done += slots
	return m.state.Done, m.state.All
}

func (m *mover) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Running, m.stop = false, nil
	if err != nil {
		m.state.Error = dbaas.Errorf(dbaas.ErrorCode(err), "%s", dbaas.ErrorMessage(err))
	}
}

// stopMoves ends the job that moves slots, between two batches of keys, and forgets how the last one ended. What is half
// moved is served all the same.
func (m member) stopMoves(context.Context, nothing) (nothing, error) {
	m.mover.mu.Lock()
	defer m.mover.mu.Unlock()
	if m.mover.state.Error = nil; m.mover.stop != nil {
		m.mover.stop()
	}
	return nothing{}, nil
}

// move moves slots, with their keys, while they are read and written. It stops at the first thing that is not as it should be:
// whoever sees the whole cluster decides how it goes on.
func (m member) move(ctx context.Context, args moveArgs) (result *moveResult, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	all := 0
	for _, mv := range args.Moves {
		all += len(mv.Slots)
	}
	if err := m.mover.begin(all, stop); err != nil {
		return nil, err
	}
	defer func() { m.mover.end(err) }()
	source := m.ownConnections(moveWorkers)
	defer func() { _ = source.Close() }()
	result = &moveResult{}
	for _, mv := range args.Moves {
		t := &transfer{member: m, slotMove: mv, source: source, result: result}
		if err := t.run(ctx); err != nil {
			return result, err
		}
	}
	return result, nil
}

// transfer moves slots to one receiver.
type transfer struct {
	member
	slotMove
	source, target *redis.Client
	self           string // our node id
	epoch          int64  // ours

	road sync.Mutex // held while keys travel
	pace pace       // guarded by road

	mu     sync.Mutex // guards the result
	result *moveResult
}

func (t *transfer) run(ctx context.Context) error {
	t.To = t.record.reach(t.To)
	t.target = redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(t.To.Address, strconv.Itoa(t.To.Port)), Username: replicationUser, Password: t.record.ReplicationSecret,
		Protocol: 2, DisableIdentity: true, PoolSize: moveWorkers, MaxRetries: -1,
		DialTimeout: 5 * time.Second, ReadTimeout: time.Minute, ContextTimeoutEnabled: true,
		Dialer: t.dialPeer(t.record),
	})
	defer func() { _ = t.target.Close() }()
	slots, err := t.prepare(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan []int)
	var workers sync.WaitGroup
	for range moveWorkers {
		workers.Go(func() {
			for group := range queue {
				if err := t.group(ctx, group); err != nil {
					cancel(fmt.Errorf("move the hash slots %s: %w", slotSet(group), err))
					return
				}
			}
		})
	}
	since := memoryInterval
	for _, group := range t.groups(slots) {
		if since >= memoryInterval {
			since = 0
			if err := errors.Join(t.requireRoom(ctx), t.requireEpoch(ctx)); err != nil {
				cancel(err)
			}
		}
		since += len(group)
		select {
		case queue <- group:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(queue)
	workers.Wait()
	return context.Cause(ctx)
}

// light tells whether a slot is known to hold little.
func (t *transfer) light(slot int) bool {
	bytes, measured := t.Bytes[slot]
	return measured && bytes <= migrateBytes
}

// groups puts slots that hold little together; others go alone.
func (t *transfer) groups(slots []int) (list [][]int) {
	var open []int
	for _, slot := range slots {
		if !t.light(slot) {
			list = append(list, []int{slot})
			continue
		}
		if open = append(open, slot); len(open) == groupSlots {
			list, open = append(list, open), nil
		}
	}
	if len(open) > 0 {
		list = append(list, open)
	}
	return list
}

// prepare makes sure of both ends, and gives the slots that are still to be moved.
func (t *transfer) prepare(ctx context.Context) (slots []int, err error) {
	v, err := t.nodes(ctx)
	if err != nil {
		return nil, err
	}
	t.self, t.epoch = v.ID, v.self().Epoch
	own := v.self().has()
	for _, slot := range t.Slots {
		if own[slot] {
			slots = append(slots, slot)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, seenTimeout)
	defer cancel()
	for {
		ready, err := t.reconcile(ctx, slots)
		if err != nil || ready {
			return slots, err
		}
		select {
		case <-ctx.Done():
			return nil, dbaas.Errorf(dbaas.Unavailable, "The members do not agree about the owners of hash slots.")
		case <-time.After(seenPoll):
		}
	}
}

// has tells which slots a node has.
func (n *clusterNode) has() map[int]bool {
	own := make(map[int]bool, len(n.Slots))
	for _, slot := range n.Slots {
		own[slot] = true
	}
	return own
}

// reconcile tells whether the receiver sees us as we are, with an epoch above ours; below it, it would lose what it has
// taken to our next word, and delete the keys. What keeps it from seeing us is a mark of whoever was the owner before us: it
// goes, the keys that have arrived stay.
func (t *transfer) reconcile(ctx context.Context, slots []int) (ready bool, err error) {
	text, err := t.target.ClusterNodes(ctx).Result()
	if err != nil {
		return false, dbaas.WrapError(err, dbaas.Unavailable, "The member that receives hash slots does not answer.")
	}
	v, err := parseNodes(text)
	if err != nil {
		return false, err
	}
	if v.ID != t.ID || !v.self().Master {
		return false, dbaas.Errorf(dbaas.Conflict, "The member that receives hash slots is not the master that it was.")
	}
	giver := v.node(t.self)
	if giver == nil || giver.Epoch != t.epoch {
		return false, nil
	}
	ready = true
	if v.self().Epoch <= t.epoch {
		ready = false
		if err := t.target.Do(ctx, "cluster", "bumpepoch").Err(); err != nil {
			return false, fmt.Errorf("raise the receiver's epoch: %w", err)
		}
	}
	ours := giver.has()
	for _, slot := range slots {
		if ours[slot] {
			continue
		}
		ready = false
		if v.Importing[slot] == "" {
			continue // it will hear of it
		}
		if err := t.target.Do(ctx, "cluster", "setslot", slot, "stable").Err(); err != nil {
			return false, fmt.Errorf("take an old mark away: %w", err)
		}
	}
	return ready, nil
}

// requireEpoch makes sure that nothing has raised our epoch: see reconcile.
func (t *transfer) requireEpoch(ctx context.Context) error {
	text, err := t.source.ClusterInfo(ctx).Result()
	if err != nil {
		return fmt.Errorf("cluster info: %w", err)
	}
	if parseInfo(text).integer("cluster_my_epoch") != t.epoch {
		return dbaas.Errorf(dbaas.Conflict, "The member's epoch has changed while it moves hash slots.")
	}
	return nil
}

// requireRoom refuses to fill the receiver so far that it would evict what it has, or refuse what it gets.
func (t *transfer) requireRoom(ctx context.Context) error {
	text, err := t.target.Info(ctx, "memory").Result()
	if err != nil {
		return dbaas.WrapError(err, dbaas.Unavailable, "The member that receives hash slots does not answer.")
	}
	i := parseInfo(text)
	used, most := i.integer("used_memory"), i.integer("maxmemory")
	if most > 0 && used > most/100*fullPercent {
		return dbaas.Errorf(dbaas.OverLimit, "The member that receives hash slots uses %d MiB of the %d MiB that it has; more than %d %% are not filled by moving. Make it larger.", used>>20, most>>20, fullPercent)
	}
	return nil
}

// group moves slots together: a server that is told of many at once writes its map of the cluster once. The receiver is told
// first, at the beginning, so that it takes whom we send there; and first at the end, so that with either of us gone somebody
// has the slot.
func (t *transfer) group(ctx context.Context, slots []int) error {
	if err := t.setSlots(ctx, t.target, slots, "importing", t.self); err != nil {
		return fmt.Errorf("open them at the receiver: %w", err)
	}
	if err := t.setSlots(ctx, t.source, slots, "migrating", t.ID); err != nil {
		return fmt.Errorf("open them: %w", err)
	}
	// What is left is counted right before the receiver becomes the owner: that makes us delete whatever we still have.
	var keys int64
	for left := slots; ; {
		moved, err := t.carry(ctx, left)
		if err != nil {
			return err
		}
		keys += moved
		if left, err = t.filled(ctx, left); err != nil {
			return err
		}
		if len(left) == 0 {
			break
		}
		if moved == 0 {
			return fmt.Errorf("keys are left in %s", slotSet(left))
		}
	}
	if err := t.setSlots(ctx, t.target, slots, "node", t.ID); err != nil {
		return fmt.Errorf("give them to the receiver: %w", err)
	}
	if err := t.setSlots(ctx, t.source, slots, "node", t.ID); err != nil {
		return fmt.Errorf("give them away: %w", err)
	}
	t.note(ctx, len(slots), keys)
	return nil
}

// setSlots says the same of many slots.
func (t *transfer) setSlots(ctx context.Context, c *redis.Client, slots []int, what, node string) error {
	p := c.Pipeline()
	for _, slot := range slots {
		p.Do(ctx, "cluster", "setslot", slot, what, node)
	}
	_, err := p.Exec(ctx)
	return err
}

// filled gives those slots that still have keys here.
func (t *transfer) filled(ctx context.Context, slots []int) (left []int, err error) {
	counts, err := countKeysInSlots(ctx, t.source, slots)
	for _, slot := range slots {
		if counts[slot] > 0 {
			left = append(left, slot)
		}
	}
	return left, err
}

func (t *transfer) note(ctx context.Context, slots int, keys int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.Slots += slots
	t.result.Keys += keys
	done, all := t.mover.progress(slots)
	datastore.ReportProgress(ctx, fmt.Sprintf("moving slots: %d of %d", done, all))
}

// carry moves keys of open slots, all or the first of each. Nobody adds to them: a client that asks for a key that is not
// there is sent to the receiver.
func (t *transfer) carry(ctx context.Context, slots []int) (moved int64, err error) {
	p := t.source.Pipeline()
	lists := make([]*redis.StringSliceCmd, len(slots))
	for i, slot := range slots {
		lists[i] = p.ClusterGetKeysInSlot(ctx, slot, 4*pipelineSize)
	}
	if _, err := p.Exec(ctx); err != nil {
		return 0, fmt.Errorf("list their keys: %w", err)
	}
	var all []string
	var sizes []int64
	bounds := map[int]bool{} // where a slot begins
	for i, slot := range slots {
		keys := lists[i].Val()
		bounds[len(all)] = true
		all = append(all, keys...)
		if t.light(slot) { // its keys are taken to be alike
			sizes = append(sizes, slices.Repeat([]int64{t.Bytes[slot] / int64(max(1, len(keys)))}, len(keys))...)
			continue
		}
		measured, err := keySizes(ctx, t.source, keys)
		if err != nil {
			return 0, err
		}
		if largest := slices.Max(append(measured, 0)); largest > mostKey {
			return 0, dbaas.Errorf(dbaas.OverLimit, "A key in the hash slot %d takes %d MiB; keys above %d MiB cannot be moved. Split it into several.", slot, largest>>20, mostKey>>20)
		}
		sizes = append(sizes, measured...)
	}
	for at := 0; at < len(all); {
		n, err := t.send(ctx, all[at:], sizes[at:], func(i int) bool { return bounds[at+i] })
		if err != nil {
			return moved, err
		}
		at += n
		moved += int64(n)
	}
	return moved, nil
}

// send moves the first of some keys: as many as hold up the servers for about slice.
func (t *transfer) send(ctx context.Context, keys []string, sizes []int64, begins func(int) bool) (n int, err error) {
	t.road.Lock()
	defer t.road.Unlock()
	n, bytes := batch(sizes, t.pace.keys())
	var batches [][]string // a MIGRATE has keys of one slot
	for i, key := range keys[:n] {
		if i == 0 || begins(i) {
			batches = append(batches, nil)
		}
		batches[len(batches)-1] = append(batches[len(batches)-1], key)
	}
	start := clock.Real{}.Now()
	err = t.migrate(ctx, batches, bytes)
	t.pace.adapt(clock.Real{}.Now().Sub(start))
	return n, err
}

// batch gives how many keys go together, of at most so many, and their bytes: a large key goes alone.
func batch(sizes []int64, most int) (n int, bytes int64) {
	for n < len(sizes) && n < most && (n == 0 || bytes+sizes[n] <= migrateBytes) {
		bytes += sizes[n]
		n++
	}
	return n, bytes
}

// migrate moves keys, those of each slot with a command of their own. What the receiver may have of them from an attempt
// before is older.
func (t *transfer) migrate(ctx context.Context, batches [][]string, bytes int64) (err error) {
	patience := migrateTimeout + time.Duration(bytes/migrateRate)*time.Second
	for range migrateTries {
		p := t.source.Pipeline()
		for _, keys := range batches {
			words := []any{"migrate", t.To.Address, t.To.Port, "", 0, patience.Milliseconds(), "replace", "auth2", replicationUser, t.record.ReplicationSecret, "keys"}
			for _, key := range keys {
				words = append(words, key)
			}
			p.Do(ctx, words...)
		}
		if _, err = p.Exec(ctx); !hasPrefix(err, "IOERR") { // it may have been done or not
			break
		}
	}
	switch {
	case hasPrefix(err, "ERR Target instance replied with error: OOM"):
		return dbaas.WrapError(err, dbaas.OverLimit, "The member that receives hash slots has no memory left. Make it larger.")
	case err != nil:
		return fmt.Errorf("migrate keys of %d bytes: %w", bytes, err)
	}
	return nil
}

// pace is how many keys go at once. It follows from how long the last ones took: on a server with much to do, fewer.
type pace struct{ per float64 }

func (p *pace) keys() int {
	if p.per == 0 {
		p.per = leastKeys
	}
	return int(p.per)
}

func (p *pace) adapt(took time.Duration) {
	factor := 0.8
	if took < slice {
		factor = 1.2
	}
	p.per = min(mostKeys, max(leastKeys, p.per*factor))
}
