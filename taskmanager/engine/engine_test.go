package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const minute = time.Minute

// rig is an engine on a store in memory with a clock that the test moves.
type rig struct {
	*Memory
	*Engine
	t     *testing.T
	clock *clock.Manual
	trail []string // what steps, cleanups and transitions said, in order
}

// newRig makes an engine for the workflows; configure changes its configuration.
func newRig(t *testing.T, workflows []Workflow, configure ...func(*Config)) *rig {
	t.Helper()
	c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	r := &rig{t: t, clock: c, Memory: NewMemory(c)}
	config := Config{
		Store: r.Memory, Workflows: workflows, Worker: "w1", Clock: c,
		Retry:        Backoff{Random: func() float64 { return 0 }},
		OnTransition: func(tr Transition) { r.note("%s", tr.Outcome) },
	}
	for _, f := range configure {
		f(&config)
	}
	var err error
	if r.Engine, err = New(config); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) note(format string, args ...any) {
	r.trail = append(r.trail, fmt.Sprintf(format, args...))
}

// start enqueues an operation of the kind under its lock and gives its id.
func (r *rig) start(kind string) string {
	r.t.Helper()
	op := &dbaas.Operation{ID: "op-" + kind, Kind: kind, ResourceType: "instance", ResourceID: "db"}
	if err := r.Enqueue(context.Background(), op, "db"); err != nil {
		r.t.Fatal(err)
	}
	return op.ID
}

// process has the engine look at an operation once, and gives the row.
func (r *rig) process(id string) *dbaas.Operation {
	r.t.Helper()
	if _, err := r.ProcessOne(context.Background(), id); err != nil {
		r.t.Fatal(err)
	}
	return r.row(id)
}

func (r *rig) row(id string) *dbaas.Operation {
	r.t.Helper()
	op, err := r.Memory.Operation(context.Background(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return op
}

// settle lets time pass until the operation has ended, minute by minute at most, and gives the row.
func (r *rig) settle(id string) *dbaas.Operation {
	r.t.Helper()
	for range 10_000 {
		if _, err := r.ProcessOne(context.Background(), ""); err != nil {
			r.t.Fatal(err)
		}
		if op := r.row(id); op.Status.Ended() {
			return op
		}
		d, _ := r.NextDue(context.Background(), minute)
		r.clock.Advance(max(d, time.Microsecond))
	}
	r.t.Fatalf("operation %s does not end", id)
	return nil
}

func (r *rig) expectTrail(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.trail); diff != "" {
		r.t.Errorf("trail (-want +got):\n%s", diff)
	}
}

func (r *rig) history(id string) (lines []string) {
	r.Edit(func(_ dbaas.Instant, rows *Rows) {
		for _, s := range rows.Steps {
			if s.OperationID == id {
				lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %d %s %s", s.Step, s.Attempt, s.Outcome, s.Message)))
			}
		}
	})
	return lines
}

func (r *rig) events() (kinds []string) {
	r.Edit(func(_ dbaas.Instant, rows *Rows) {
		for _, e := range rows.Events {
			kinds = append(kinds, e.Kind)
		}
	})
	return kinds
}

func (r *rig) holder() string {
	id, _ := r.Holder(context.Background(), "db")
	return id
}

// workflow makes one of steps with the names; run is called with the step's name and may be nil.
func workflow(kind string, run func(step string, op *Operation) error, names ...string) Workflow {
	w := Workflow{Kind: kind, Doc: "Does " + kind + "."}
	for _, name := range names {
		w.Steps = append(w.Steps, Step{
			Name: name, Doc: "doing " + name, Within: 30 * minute,
			Run: func(_ context.Context, op *Operation) error {
				if run == nil {
					return nil
				}
				return run(name, op)
			},
		})
	}
	return w
}
