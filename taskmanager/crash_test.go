package taskmanager_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// crashPoint is where a taskmanager dies.
type crashPoint struct {
	Kind  string
	Step  string
	Point engine.Point
}

func (p crashPoint) String() string { return fmt.Sprintf("%s/%s/%v", p.Kind, p.Step, p.Point) }

// watch makes an observer that dies at the point. What is saved after a step already names the next one, so it
// remembers which step ran.
func (p crashPoint) watch(die func()) func(engine.Point, *engine.Operation) {
	var mu sync.Mutex
	var ran string
	return func(at engine.Point, op *engine.Operation) {
		mu.Lock()
		if at == engine.BeforeStep {
			ran = op.Kind + "/" + op.Step
		}
		here := ran == p.Kind+"/"+p.Step && at == p.Point
		mu.Unlock()
		if here {
			die()
		}
	}
}

// crashPoints finds every step of every registered workflow, at each of the three points. Nothing is listed here: a
// workflow that is added is covered once it has a trial.
func crashPoints(t *testing.T) []crashPoint {
	t.Helper()
	var points []crashPoint
	for _, w := range sorted(taskmanager.Workflows()) {
		if _, ok := trials()[w.Kind]; !ok {
			t.Errorf("workflow %s has no trial: add one that begins it (trial_test.go)", w.Kind)
			continue
		}
		for _, s := range w.Steps {
			for _, p := range []engine.Point{engine.BeforeStep, engine.AfterEffect, engine.AfterSave} {
				points = append(points, crashPoint{Kind: w.Kind, Step: s.Name, Point: p})
			}
		}
	}
	return points
}

// sorted puts what makes an instance first and what deletes it last, so that one instance serves the trials between.
func sorted(workflows []engine.Workflow) []engine.Workflow {
	rank := func(kind string) int {
		switch tr := trials()[kind]; {
		case tr.creates:
			return 0
		case tr.deletes:
			return 2
		}
		return 1
	}
	return slices.SortedStableFunc(slices.Values(workflows), func(a, b engine.Workflow) int {
		return cmp.Compare(rank(a.Kind), rank(b.Kind))
	})
}

// TestAbandonedAtEveryStep abandons a taskmanager at every point of every step, on both databases; another takes over.
// Afterwards the operation has succeeded, the cloud holds exactly what the rows say, the quota is right, and the
// effects are those of an undisturbed run (R1, R8, R10).
func TestAbandonedAtEveryStep(t *testing.T) {
	for name, url := range databases(t) {
		t.Run(name, func(t *testing.T) {
			h := openHouse(t, url(t), t.TempDir())
			clean := cleanEffects(t, h)
			var in string
			for _, p := range crashPoints(t) {
				in = h.abandonAt(t, p, in, clean[p.Kind])
				if t.Failed() {
					t.Fatalf("at %s", p)
				}
			}
		})
	}
}

// cleanEffects runs every workflow undisturbed and notes its effects.
func cleanEffects(t *testing.T, h *house) map[string][]string {
	t.Helper()
	effects := map[string][]string{}
	var in string
	for _, w := range sorted(taskmanager.Workflows()) {
		tr := trials()[w.Kind]
		if in == "" && !tr.creates {
			in = h.createActive(t)
		}
		h.effects.reset()
		stop := h.run(t, nil)
		id := tr.begin(t.Context(), t, h, in)
		h.awaitEnd(t, id)
		stop()
		in = h.audit(t, id)
		effects[w.Kind] = h.effects.list()
	}
	return effects
}

// abandonAt runs the trial of p's workflow, abandons the taskmanager at p, lets another finish, and checks the outcome.
// It gives the instance that the next trial may use, "" when there is none.
func (h *house) abandonAt(t *testing.T, p crashPoint, in string, clean []string) string {
	t.Helper()
	tr := trials()[p.Kind]
	if tr.creates && in != "" {
		h.delete(t, in)
	} else if !tr.creates && in == "" {
		in = h.createActive(t)
	}
	h.effects.reset()
	reached := make(chan struct{}, 1)
	stop := h.run(t, p.watch(func() {
		reached <- struct{}{}
		runtime.Goexit() // the worker is gone; its lease stays
	}))
	id := tr.begin(t.Context(), t, h, in)
	select {
	case <-reached:
	case <-time.After(30 * time.Second):
		t.Errorf("%s was not reached within 30 s", p)
	}
	stop()
	h.expireLeases(t)
	stop = h.run(t, nil)
	defer stop()
	op := h.awaitEnd(t, id)
	if op.Status != dbaas.OperationSucceeded {
		t.Errorf("%s: a crash alone ended in %s: %+v", p, op.Status, op.Failure)
	}
	next := h.audit(t, id)
	if got := h.effects.list(); !slices.Equal(got, clean) {
		t.Errorf("%s: effects differ from an undisturbed run:\n got  %v\n want %v", p, got, clean)
	}
	if v, err := h.control.Instance(t.Context(), tester, next); err == nil && tr.check != nil {
		tr.check(t, h, v)
	}
	return next
}

// crashVariable tells the child process of TestKilledAtEveryStep what to do.
const crashVariable = "GROVE_TEST_CRASH"

// crashOrder is the child's whole task.
type crashOrder struct {
	Dir      string
	At       crashPoint
	Instance string // "" for a trial that creates its own
}

// TestKilledAtEveryStep does the same with a process that kills itself (SIGKILL) at the point.
func TestKilledAtEveryStep(t *testing.T) {
	if order := os.Getenv(crashVariable); order != "" {
		killSelf(t, order)
		return
	}
	dir := t.TempDir()
	var in string
	for _, p := range crashPoints(t) {
		in = killAt(t, dir, p, in)
		if t.Failed() {
			t.Fatalf("at %s", p)
		}
	}
}

// killAt lets a child begin the trial and die at p, and finishes its work in this process.
func killAt(t *testing.T, dir string, p crashPoint, in string) string {
	t.Helper()
	tr := trials()[p.Kind]
	if tr.creates != (in == "") {
		h := openHouse(t, "", dir)
		if tr.creates {
			h.delete(t, in)
			in = ""
		} else {
			in = h.createActive(t)
		}
		h.close(t, true)
	}
	order, err := json.Marshal(crashOrder{Dir: dir, At: p, Instance: in})
	must(t, err)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestKilledAtEveryStep$", "-test.timeout", "60s")
	child.Env = append(os.Environ(), crashVariable+"="+string(order))
	out, err := child.CombinedOutput()
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("%s: the child did not die by SIGKILL: %v\n%s", p, err, out)
	}
	h := openHouse(t, "", dir)
	defer h.close(t, true)
	h.expireLeases(t)
	stop := h.run(t, nil)
	defer stop()
	op := h.awaitEnd(t, h.newestOperation(t, p.Kind))
	if op.Status != dbaas.OperationSucceeded {
		t.Errorf("%s: a kill alone ended in %s: %+v", p, op.Status, op.Failure)
	}
	return h.audit(t, op.ID)
}

// killSelf is the child: it begins the trial and dies.
func killSelf(t *testing.T, text string) {
	var order crashOrder
	must(t, json.Unmarshal([]byte(text), &order))
	h := openHouse(t, "", order.Dir)
	h.run(t, order.At.watch(func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}))
	id := trials()[order.At.Kind].begin(t.Context(), t, h, order.Instance)
	op := h.awaitEnd(t, id)
	t.Errorf("%s was not reached: the operation ended %s", order.At, op.Status)
}

// awaitEnd waits for an operation and gives it.
func (h *house) awaitEnd(t *testing.T, id string) *dbaas.Operation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	op, err := h.control.Await(ctx, id, 60*time.Second)
	must(t, err)
	if !op.Status.Ended() {
		t.Fatalf("operation %s (%s) stands at %s (%s) after 60 s: %s", op.ID, op.Kind, op.Step, op.Status, op.Progress)
	}
	return op
}
