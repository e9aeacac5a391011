package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
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
	// Light are those that held little when they were measured: their keys are not measured again one by one.
	Light slotSet `json:"light,omitempty"`
}

// moveResult is what was moved.
type moveResult struct {
	Slots int   `json:"slots"`
	Keys  int64 `json:"keys"`
}

const (
	// moveWorkers move a slot each: while one's keys travel, the others open and close theirs. Keys travel one batch at a
	// time, so that whoever else asks is answered in between.
	moveWorkers = 4
	// A MIGRATE holds up both servers until its keys have arrived. It takes so many keys, of so many bytes.
	migrateKeys  = 64
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

func (m *mover) progress() (done, all int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.Done++
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
	light          map[int]bool

	road sync.Mutex // held while keys travel

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
	t.light = (&clusterNode{Slots: t.Light}).has()
	slots, err := t.prepare(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan int)
	var workers sync.WaitGroup
	for range moveWorkers {
		workers.Go(func() {
			for slot := range queue {
				if err := t.slot(ctx, slot); err != nil {
					cancel(fmt.Errorf("move the hash slot %d: %w", slot, err))
					return
				}
			}
		})
	}
	for i, slot := range slots {
		if i%memoryInterval == 0 {
			if err := errors.Join(t.requireRoom(ctx), t.requireEpoch(ctx)); err != nil {
				cancel(err)
			}
		}
		select {
		case queue <- slot:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(queue)
	workers.Wait()
	return context.Cause(ctx)
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

// slot moves one slot. The receiver is told first, at the beginning, so that it takes whom we send there; and first at the end,
// so that with either of us gone somebody has the slot.
func (t *transfer) slot(ctx context.Context, slot int) error {
	if err := t.target.Do(ctx, "cluster", "setslot", slot, "importing", t.self).Err(); err != nil {
		return fmt.Errorf("open it at the receiver: %w", err)
	}
	if err := t.source.Do(ctx, "cluster", "setslot", slot, "migrating", t.ID).Err(); err != nil {
		return fmt.Errorf("open it: %w", err)
	}
	// What is left is counted right before the receiver becomes the owner: that makes us delete whatever we still have.
	var keys int64
	for left := int64(1); left > 0; {
		moved, err := t.keys(ctx, slot)
		if err != nil {
			return err
		}
		keys += moved
		if left, err = t.source.ClusterCountKeysInSlot(ctx, slot).Result(); err != nil {
			return fmt.Errorf("count what is left: %w", err)
		}
		if left > 0 && moved == 0 {
			return fmt.Errorf("%d keys are left in it", left)
		}
	}
	if err := t.target.Do(ctx, "cluster", "setslot", slot, "node", t.ID).Err(); err != nil {
		return fmt.Errorf("give it to the receiver: %w", err)
	}
	if err := t.source.Do(ctx, "cluster", "setslot", slot, "node", t.ID).Err(); err != nil {
		return fmt.Errorf("give it away: %w", err)
	}
	t.note(ctx, keys)
	return nil
}

func (t *transfer) note(ctx context.Context, keys int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.Slots++
	t.result.Keys += keys
	done, all := t.mover.progress()
	datastore.ReportProgress(ctx, fmt.Sprintf("moving slots: %d of %d", done, all))
}

// keys moves keys of an open slot, all or the first of them. Nobody adds to them: a client that asks for a key that is not
// there is sent to the receiver.
func (t *transfer) keys(ctx context.Context, slot int) (moved int64, err error) {
	keys, err := t.source.ClusterGetKeysInSlot(ctx, slot, 4*pipelineSize).Result()
	if err != nil {
		return 0, fmt.Errorf("list its keys: %w", err)
	}
	sizes := make([]int64, len(keys))
	if !t.light[slot] {
		if sizes, err = keySizes(ctx, t.source, keys); err != nil {
			return 0, err
		}
	}
	for len(keys) > 0 {
		n, bytes := batch(sizes)
		if bytes > mostKey {
			return moved, dbaas.Errorf(dbaas.OverLimit, "A key in the hash slot %d takes %d MiB; keys above %d MiB cannot be moved. Split it into several.", slot, bytes>>20, mostKey>>20)
		}
		if err := t.migrate(ctx, keys[:n], bytes); err != nil {
			return moved, err
		}
		moved += int64(n)
		keys, sizes = keys[n:], sizes[n:]
	}
	return moved, nil
}

// batch gives how many keys go together, and their bytes: a large key goes alone.
func batch(sizes []int64) (n int, bytes int64) {
	for n < len(sizes) && n < migrateKeys && (n == 0 || bytes+sizes[n] <= migrateBytes) {
		bytes += sizes[n]
		n++
	}
	return n, bytes
}

// migrate moves keys. What the receiver may have of them from an attempt before is older.
func (t *transfer) migrate(ctx context.Context, keys []string, bytes int64) (err error) {
	patience := migrateTimeout + time.Duration(bytes/migrateRate)*time.Second
	words := []any{"migrate", t.To.Address, t.To.Port, "", 0, patience.Milliseconds(), "replace", "auth2", replicationUser, t.record.ReplicationSecret, "keys"}
	for _, key := range keys {
		words = append(words, key)
	}
	t.road.Lock()
	defer t.road.Unlock()
	for range migrateTries {
		err = t.source.Do(ctx, words...).Err()
		if !hasPrefix(err, "IOERR") { // it may have been done or not
			break
		}
	}
	switch {
	case hasPrefix(err, "ERR Target instance replied with error: OOM"):
		return dbaas.WrapError(err, dbaas.OverLimit, "The member that receives hash slots has no memory left. Make it larger.")
	case err != nil:
		return fmt.Errorf("migrate %d keys of %d bytes: %w", len(keys), bytes, err)
	}
	return nil
}
