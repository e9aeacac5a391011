package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Config is what an Engine works with. Store, Workflows and Worker are needed; the rest has defaults.
type Config struct {
	Store     Store
	Workflows []Workflow
	Worker    string        // this process among all, never used again by another: stored as LeaseOwner
	Workers   int           // operations at work at one time; 8
	Lease     time.Duration // how long a crashed holder's operation rests; 15 s
	ScanEvery time.Duration // how late an operation starts whose nudge was lost; 1 s
	Grace     time.Duration // what a running step gets once Run's context has ended; 3 s
	Retry     Backoff       // between the tries of a step
	// CleanupWithin bounds a workflow's Failed; 15 min.
	CleanupWithin time.Duration
	// OneStep releases an operation after each step, for tests that want to stand between two steps.
	OneStep bool
	// Clock measures how long steps ran, for log and metrics. Deadlines of operations go by the store's clock.
	Clock  clock.Clock
	Logger *slog.Logger
	// Observe is called around steps. A test may let it panic, exit its goroutine or kill the process: from then on this
	// holder does nothing.
	Observe func(Point, *Operation)
	// OnTransition hears of each transition after it was saved; for metrics.
	OnTransition func(Transition)
	// Timeout makes the contexts that end before a lease does; [context.WithTimeout]. The simulation brings virtual time.
	Timeout func(context.Context, time.Duration) (context.Context, context.CancelFunc)
}

// Point is a moment in the life of a step at which a process may die.
type Point string

// The points around a step.
const (
	BeforeStep  Point = "before the step"
	AfterEffect Point = "after its effect" // it has returned and nothing is saved
	AfterSave   Point = "after it was saved"
)

// Backoff is the delay between tries: it doubles from First to Most. A random part of up to half is taken off, so that
// what failed together does not come back together.
type Backoff struct {
	First  time.Duration  // 1 s
	Most   time.Duration  // 1 min
	Random func() float64 // in [0, 1)
}

// After gives the delay after a try, counted from 1.
func (b Backoff) After(attempt int) time.Duration {
	d := b.First
	for ; attempt > 1 && d < b.Most; attempt-- {
		d *= 2
	}
	d = min(d, b.Most)
	return d - time.Duration(b.Random()*float64(d)/2)
}

// Outcome names what a transition was.
type Outcome string

// The outcomes of transitions.
const (
	Started    Outcome = "started"    // entered its first step
	Done       Outcome = "done"       // a step ended well, the next one begins
	Retry      Outcome = "retry"      // a try failed and will be repeated
	Failing    Outcome = "failing"    // a step failed for good, the cleanup begins
	Parked     Outcome = "parked"     // pre-empted
	Resumed    Outcome = "resumed"    // goes on after it was parked
	Superseded Outcome = "superseded" // became another workflow
	Succeeded  Outcome = "succeeded"
	Failed     Outcome = "failed"
	Cancelled  Outcome = "cancelled"
)

// Transition is one move of an operation.
type Transition struct {
	Operation dbaas.Operation // as it was saved
	Kind      string          // the workflow that was at work
	Step      string          // the step that was at work; "" when the operation was new
	Outcome   Outcome
	Err       error         // of the try, for Retry and Failing
	Ran       time.Duration // how long the step's last run took
	InStep    time.Duration // how long the operation was in the step, waits and retries included
}

// Engine moves operations through their workflows. It is safe for concurrent use.
type Engine struct {
	Config
	workflows map[string]*Workflow
	queue     *queue
	rescan    chan struct{}
}

// New makes an Engine, or tells what is wrong with the workflows.
func New(c Config) (*Engine, error) {
	e := &Engine{Config: withDefaults(c), queue: newQueue(), rescan: make(chan struct{}, 1)}
	var err error
	if e.workflows, err = index(c.Workflows); err != nil {
		return nil, err
	}
	if c.Store == nil || c.Worker == "" {
		return nil, errors.New("engine: a store and a worker's name are needed")
	}
	return e, nil
}

func withDefaults(c Config) Config {
	c.Workers = orElse(c.Workers, 8)
	c.Lease = orElse(c.Lease, 15*time.Second)
	c.ScanEvery = orElse(c.ScanEvery, time.Second)
	c.Grace = orElse(c.Grace, 3*time.Second)
	c.CleanupWithin = orElse(c.CleanupWithin, 15*time.Minute)
	c.Retry.First = orElse(c.Retry.First, time.Second)
	c.Retry.Most = orElse(c.Retry.Most, time.Minute)
	if c.Retry.Random == nil {
		c.Retry.Random = rand.Float64
	}
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(Point, *Operation) {}
	}
	if c.OnTransition == nil {
		c.OnTransition = func(Transition) {}
	}
	if c.Timeout == nil {
		c.Timeout = context.WithTimeout
	}
	return c
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// index checks workflows and finds them by kind.
func index(workflows []Workflow) (map[string]*Workflow, error) {
	byKind := make(map[string]*Workflow, len(workflows))
	var problems []error
	for i := range workflows {
		w := &workflows[i]
		if _, twice := byKind[w.Kind]; twice {
			problems = append(problems, fmt.Errorf("workflow %q is there twice", w.Kind))
		}
		byKind[w.Kind] = w
		problems = append(problems, w.validate())
	}
	return byKind, errors.Join(problems...)
}

func (w *Workflow) validate() error {
	var problems []error
	wrong := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("workflow %q: "+format, append([]any{w.Kind}, args...)...))
	}
	if w.Kind == "" || w.Doc == "" {
		wrong("needs a kind and a doc")
	}
	if len(w.Steps) == 0 {
		wrong("has no steps")
	}
	names := make(map[string]bool, len(w.Steps))
	for _, s := range w.Steps {
		if s.Name == "" || s.Doc == "" || s.Run == nil || s.Within <= 0 {
			wrong("step %q needs a name, a doc, a function and a time limit", s.Name)
		}
		if names[s.Name] {
			wrong("step %q is there twice", s.Name)
		}
		names[s.Name] = true
	}
	return errors.Join(problems...)
}

// find gives the position of a step; "" is the first.
func (w *Workflow) find(step string) (int, bool) {
	if step == "" {
		return 0, true
	}
	for i := range w.Steps {
		if w.Steps[i].Name == step {
			return i, true
		}
	}
	return 0, false
}
