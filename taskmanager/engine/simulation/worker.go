package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// worker is a taskmanager. It dies and comes back under another name.
type worker struct {
	world   *world
	number  int
	lives   int
	name    string
	engine  *engine.Engine
	threads []*thread
}

const threadsPerWorker = 2

func (w *world) newWorker(number int) *worker {
	k := &worker{world: w, number: number}
	k.rise()
	return k
}

// rise starts the process.
func (k *worker) rise() {
	w := k.world
	k.lives++
	k.name = fmt.Sprintf("worker%d.%d", k.number, k.lives)
	var err error
	k.engine, err = engine.New(engine.Config{
		Store: &gate{world: w, worker: k.name}, Workflows: w.workflows(), Worker: k.name, Lease: lease,
		Clock: storeClock{w}, Retry: engine.Backoff{Random: w.rng.Float64},
		Timeout: func(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
			return leaseContext{ctx, w, w.now + d}, func() {}
		},
		Observe: func(p engine.Point, op *engine.Operation) {
			w.trace(k.name, string(p), op.ID, op.Kind, op.Step)
			w.pause(time.Millisecond)
			if p == engine.BeforeStep {
				w.audit.acts(k.name, op)
			}
		},
		OnTransition: func(t engine.Transition) {
			w.result.Moves[t.Kind+" "+string(t.Outcome)]++
			w.trace(k.name, t.Operation.ID, t.Kind, t.Step, string(t.Outcome))
		},
	})
	if err != nil {
		panic(err)
	}
	if w.Bug != NoScan {
		lives := k.lives
		w.after(w.upTo(scanEvery), func() { k.scan(lives) })
	}
}

// scan takes up what is due, as the engine's own loop does.
func (k *worker) scan(lives int) {
	w := k.world
	if k.lives != lives || k.name == "" || w.done() {
		return
	}
	due, _ := w.memory.NextDue(context.Background(), scanEvery)
	if due <= 0 {
		k.process("")
		due = 100 * time.Millisecond
	}
	w.after(due, func() { k.scan(lives) })
}

// process has the engine look at an operation, or with "" at what is due.
func (k *worker) process(id string) {
	if k.name == "" || len(k.threads) >= threadsPerWorker {
		return
	}
	k.spawn(func() {
		_, err := k.engine.ProcessOne(context.Background(), id)
		if err != nil {
			k.world.trace(k.name, err.Error())
		}
	})
}

func (k *worker) finished(t *thread) {
	k.threads = slices.DeleteFunc(k.threads, func(other *thread) bool { return other == t })
}

// crash kills the process; another is started later.
func (k *worker) crash() {
	if k.name == "" {
		return
	}
	w := k.world
	w.result.Crashes++
	w.trace(k.name, "crashes")
	k.kill()
	w.after(w.upTo(20*time.Second), k.rise)
}

func (k *worker) kill() {
	k.name = ""
	threads := k.threads
	k.threads = nil
	for _, t := range threads {
		t.dead = true
		k.world.current = t
		t.stop()
	}
	k.world.current = nil
}

// nudge rings the doorbell at one of the workers.
func (w *world) nudge(id string) {
	w.send("nudge", func() { w.workers[w.rng.IntN(len(w.workers))].process(id) })
}

var errStoreDown = errors.New("the store cannot be reached")

// gate is the way from a worker to the store: it takes time, calls fail before they begin, and answers are lost.
type gate struct {
	world  *world
	worker string
}

func (g *gate) begin() error {
	g.world.pause(2 * time.Millisecond)
	if g.world.chance(g.world.storeDown) {
		return errStoreDown
	}
	return nil
}

func (g *gate) end() error {
	g.world.pause(2 * time.Millisecond)
	if g.world.chance(g.world.storeDown) {
		return errStoreDown
	}
	return nil
}

// Claim implements engine.Store.
func (g *gate) Claim(ctx context.Context, worker, id string, d time.Duration) (*dbaas.Operation, error) {
	if err := g.begin(); err != nil {
		return nil, err
	}
	op, err := g.claim(ctx, worker, id, d)
	if op == nil || err != nil {
		return nil, err
	}
	g.world.trace(worker, "claims", op.ID)
	g.world.audit.claimed(worker, op)
	g.hide(op)
	if err := g.end(); err != nil {
		return nil, err
	}
	return op, nil
}

// Save implements engine.Store.
func (g *gate) Save(ctx context.Context, op *dbaas.Operation, s engine.Save) error {
	if err := g.begin(); err != nil {
		return err
	}
	epoch := op.LeaseEpoch
	err := g.save(ctx, op, s)
	if errors.Is(err, engine.ErrLeaseLost) {
		g.world.result.Refused++
		g.world.trace(g.worker, "refused", op.ID)
	}
	if err != nil {
		return err
	}
	g.world.audit.saved(g.worker, epoch, op, s)
	g.hide(op)
	return g.end()
}

// NextDue implements engine.Store.
func (g *gate) NextDue(ctx context.Context, limit time.Duration) (time.Duration, error) {
	return g.world.memory.NextDue(ctx, limit)
}

// Operation implements engine.Store.
func (g *gate) Operation(ctx context.Context, id string) (*dbaas.Operation, error) {
	return g.world.memory.Operation(ctx, id)
}
