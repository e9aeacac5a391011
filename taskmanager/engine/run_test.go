package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// live is an engine that runs on the machine's clock.
type live struct {
	*Memory
	*Engine
	t    *testing.T
	stop func() // ends Run and waits for it
}

func runLive(t *testing.T, store *Memory, workflows []Workflow, configure ...func(*Config)) *live {
	t.Helper()
	config := Config{Store: store, Workflows: workflows, Worker: t.Name(), ScanEvery: 20 * time.Millisecond}
	for _, f := range configure {
		f(&config)
	}
	e, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return &live{Memory: store, Engine: e, t: t, stop: stop}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (l *live) enqueue(id string) {
	l.t.Helper()
	if err := l.Enqueue(context.Background(), &dbaas.Operation{ID: id, Kind: "create"}, id); err != nil {
		l.t.Fatal(err)
	}
}

func (l *live) status(id string) dbaas.OperationStatus {
	op, err := l.Memory.Operation(context.Background(), id)
	if err != nil {
		return ""
	}
	return op.Status
}

func TestRunFindsWhatNobodyNudged(t *testing.T) {
	l := runLive(t, NewMemory(clock.Real{}), []Workflow{workflow("create", nil, "one", "two")})
	for i := range 50 {
		l.enqueue(fmt.Sprint("op", i))
	}
	for i := range 50 {
		eventually(t, "it succeeded", func() bool { return l.status(fmt.Sprint("op", i)) == dbaas.OperationSucceeded })
	}
}

func TestNudgeStartsAtOnce(t *testing.T) {
	l := runLive(t, NewMemory(clock.Real{}), []Workflow{workflow("create", nil, "one")}, func(c *Config) { c.ScanEvery = time.Hour })
	l.enqueue("a")
	l.Nudge("a")
	l.Nudge("nobody")
	l.Nudge("")
	eventually(t, "it succeeded", func() bool { return l.status("a") == dbaas.OperationSucceeded })
}

func TestANudgeDuringAStepLooksAgain(t *testing.T) {
	looks, began, goOn := 0, make(chan struct{}), make(chan struct{})
	l := runLive(t, NewMemory(clock.Real{}), []Workflow{workflow("create", func(string, *Operation) error {
		if looks++; looks > 1 {
			return nil
		}
		close(began)
		<-goOn
		return Wait(time.Hour)
	}, "one")})
	l.enqueue("a")
	<-began
	l.Nudge("a")
	l.Nudge("a")
	close(goOn)
	eventually(t, "it succeeded", func() bool { return l.status("a") == dbaas.OperationSucceeded })
	l.stop()
	if looks != 2 {
		t.Errorf("%d looks", looks)
	}
}

func TestWaitsAreWokenInTime(t *testing.T) {
	var looks atomic.Int32
	w := workflow("create", func(string, *Operation) error {
		if looks.Add(1) < 5 {
			return Wait(20 * time.Millisecond)
		}
		return nil
	}, "one")
	l := runLive(t, NewMemory(clock.Real{}), []Workflow{w}, func(c *Config) { c.ScanEvery = time.Hour })
	l.enqueue("a")
	l.Nudge("a")
	eventually(t, "it succeeded", func() bool { return l.status("a") == dbaas.OperationSucceeded })
}

func TestADeadHoldersOperationIsTakenOverWhenItsLeaseIsOver(t *testing.T) {
	store := NewMemory(clock.Real{})
	lease := 300 * time.Millisecond
	var died atomic.Int64
	workflows := []Workflow{workflow("create", nil, "one", "two")}
	dead := runLive(t, store, workflows, func(c *Config) {
		c.Worker, c.Workers, c.Lease = "dead", 1, lease
		c.Observe = func(p Point, op *Operation) {
			if p == AfterEffect && op.Step == "two" {
				died.Store(time.Now().UnixNano())
				runtime.Goexit()
			}
		}
	})
	dead.enqueue("a")
	eventually(t, "the holder died", func() bool { return died.Load() != 0 })
	heir := runLive(t, store, workflows, func(c *Config) { c.Worker, c.Lease, c.ScanEvery = "heir", lease, time.Hour })
	eventually(t, "it succeeded", func() bool { return heir.status("a") == dbaas.OperationSucceeded })
	if took := time.Since(time.Unix(0, died.Load())); took > lease+250*time.Millisecond {
		t.Errorf("taken over after %s", took)
	}
}

func TestWorkersShareAndNeverMeet(t *testing.T) {
	var mu sync.Mutex
	at, runs := map[string]int{}, map[string]int{}
	w := workflow("create", func(step string, op *Operation) error {
		mu.Lock()
		at[op.ID]++
		runs[op.ID+step]++
		if at[op.ID] > 1 {
			t.Errorf("two workers are at %s", op.ID)
		}
		mu.Unlock()
		runtime.Gosched()
		mu.Lock()
		at[op.ID]--
		mu.Unlock()
		return nil
	}, "one", "two", "three")
	store := NewMemory(clock.Real{})
	var engines []*live
	for i := range 4 {
		engines = append(engines, runLive(t, store, []Workflow{w}, func(c *Config) { c.Worker = fmt.Sprint("w", i) }))
	}
	for i := range 200 {
		id := fmt.Sprint("op", i)
		engines[0].enqueue(id)
		for _, e := range engines {
			e.Nudge(id)
		}
	}
	for i := range 200 {
		eventually(t, "it succeeded", func() bool { return engines[0].status(fmt.Sprint("op", i)) == dbaas.OperationSucceeded })
	}
	mu.Lock()
	defer mu.Unlock()
	for key, n := range runs {
		if n != 1 {
			t.Errorf("%s ran %d times", key, n)
		}
	}
}

func TestStopLetsTheStepEndAndReleases(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	w := workflow("create", func(step string, _ *Operation) error {
		if step == "two" {
			t.Error("went on to the next step")
		}
		close(began)
		<-goOn
		return nil
	}, "one", "two")
	l := runLive(t, NewMemory(clock.Real{}), []Workflow{w})
	l.enqueue("a")
	<-began
	stopped := make(chan struct{})
	go func() { l.stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("stopped beneath a running step")
	case <-time.After(20 * time.Millisecond):
	}
	close(goOn)
	<-stopped
	op, _ := l.Memory.Operation(context.Background(), "a")
	if op.Step != "two" || op.LeaseOwner != "" || op.LeaseUntil > dbaas.At(time.Now()) {
		t.Errorf("left as %+v", op)
	}
	l.enqueue("b")
	l.Nudge("b")
	if l.status("b") != dbaas.OperationRunning {
		t.Error("worked on after the stop")
	}
}

func TestStopCancelsAStepAfterTheGrace(t *testing.T) {
	began := make(chan struct{})
	w := workflow("create", nil, "one")
	w.Steps[0].Run = func(ctx context.Context, _ *Operation) error {
		close(began)
		<-ctx.Done()
		return fmt.Errorf("call cloud: %w", ctx.Err())
	}
	l := runLive(t, NewMemory(clock.Real{}), []Workflow{w}, func(c *Config) { c.Grace = 10 * time.Millisecond })
	l.enqueue("a")
	<-began
	l.stop()
	op, _ := l.Memory.Operation(context.Background(), "a")
	if op.Attempt != 0 || op.LeaseOwner != "" || op.Status != dbaas.OperationRunning || op.Progress != "" {
		t.Errorf("left as %+v", op)
	}
}

func TestAStepsContextEndsBeforeItsLease(t *testing.T) {
	lease := 200 * time.Millisecond
	ends := make(chan time.Duration, 100)
	w := workflow("create", nil, "one")
	w.Steps[0].Run = func(ctx context.Context, _ *Operation) error {
		began := time.Now()
		<-ctx.Done()
		ends <- time.Since(began)
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("ended with %v", ctx.Err())
		}
		return ctx.Err()
	}
	l := runLive(t, NewMemory(clock.Real{}), []Workflow{w}, func(c *Config) { c.Lease = lease })
	l.enqueue("a")
	if d := <-ends; d > lease*9/10 || d < lease/2 {
		t.Errorf("the context ended after %s of a lease of %s", d, lease)
	}
	eventually(t, "the try was counted", func() bool {
		op, _ := l.Memory.Operation(context.Background(), "a")
		return op.Attempt == 1
	})
}

func TestAStoreThatIsDownDoesNotStopTheEngine(t *testing.T) {
	down := &downStore{Memory: NewMemory(clock.Real{})}
	down.down.Store(true)
	l := runLive(t, down.Memory, []Workflow{workflow("create", nil, "one")}, func(c *Config) { c.Store = down })
	l.enqueue("a")
	l.Nudge("a")
	eventually(t, "it was tried", func() bool { return down.refused.Load() > 2 })
	down.down.Store(false)
	eventually(t, "it succeeded", func() bool { return l.status("a") == dbaas.OperationSucceeded })
}

// downStore refuses claims and scans while it is down.
type downStore struct {
	*Memory
	down    atomic.Bool
	refused atomic.Int32
}

func (d *downStore) Claim(ctx context.Context, worker, id string, lease time.Duration) (*dbaas.Operation, error) {
	if d.down.Load() {
		d.refused.Add(1)
		return nil, errors.New("connection refused")
	}
	return d.Memory.Claim(ctx, worker, id, lease)
}

func (d *downStore) NextDue(ctx context.Context, limit time.Duration) (time.Duration, error) {
	if d.down.Load() {
		d.refused.Add(1)
		return 0, errors.New("connection refused")
	}
	return d.Memory.NextDue(ctx, limit)
}

func TestQueueKeepsEachIDOnceAndIsBounded(t *testing.T) {
	q := newQueue()
	for range 3 {
		q.push("a")
	}
	if id, _ := q.take(); id != "a" {
		t.Errorf("took %q", id)
	}
	if id, ok := q.take(); ok {
		t.Errorf("took %q again", id)
	}
	for i := range mostQueued + 10 {
		q.push(fmt.Sprint(i))
	}
	if len(q.ids) != mostQueued || len(q.waiting) != mostQueued {
		t.Errorf("%d ids queued", len(q.ids))
	}
}

func TestQueueLooksAgainAtWhatIsBusy(t *testing.T) {
	q := newQueue()
	if !q.begin("a") || q.begin("a") { // the second is a worker that took a nudge off the queue meanwhile
		t.Fatal("two workers may begin at once")
	}
	q.end("a")
	if id, _ := q.take(); id != "a" {
		t.Errorf("took %q after the first was done", id)
	}
	if !q.begin("a") {
		t.Error("still busy")
	}
	q.end("a")
	if id, ok := q.take(); ok {
		t.Errorf("took %q though nobody asked", id)
	}
}
