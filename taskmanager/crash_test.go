package taskmanager_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// crashPoint is where a taskmanager dies.
type crashPoint struct {
	Kind  string // or the name of one of its trials
	Child string // the workflow of an operation that one of Kind begins, and whose step it is; "" for Kind's own
	Step  string
	Point engine.Point
}

func (p crashPoint) String() string {
	return fmt.Sprintf("%s/%s/%v", strings.TrimSuffix(p.Kind+"/"+p.Child, "/"), p.Step, p.Point)
}

// watch makes an observer that dies at the point. What is saved after a step already names the next one, so it
// remembers which step ran.
func (p crashPoint) watch(die func()) func(engine.Point, *engine.Operation) {
	var mu sync.Mutex
	ran := map[string]string{} // by operation
	return func(at engine.Point, op *engine.Operation) {
		mu.Lock()
		if at == engine.BeforeStep {
			ran[op.ID] = op.Kind + "/" + op.Step
		}
		here := ran[op.ID] == cmp.Or(p.Child, kindOf(p.Kind))+"/"+p.Step && at == p.Point
		mu.Unlock()
		if here {
			die()
		}
	}
}

// crashPoints finds every step of every registered workflow, at each of the three points that keep lets through. Nothing
// is listed here: a workflow that is added is covered once it has a trial. GROVE_CRASH=full (make crash) keeps all.
func crashPoints(t *testing.T, keep func(n int, tr trial, p crashPoint) bool) []crashPoint {
	t.Helper()
	var points []crashPoint
	n := 0
	for _, w := range sorted(t, tried()) {
		tr, ok := trials()[w.Kind]
		if !ok {
			t.Errorf("workflow %s has no trial: add one that begins it (trial_test.go)", w.Kind)
			continue
		}
		if _, ok := forms()[tr.form]; !ok {
			t.Errorf("nothing makes instances of the form %q: add it to forms (trial_test.go)", tr.form)
		}
		for i, s := range w.Steps {
			for _, at := range []engine.Point{engine.BeforeStep, engine.AfterEffect, engine.AfterSave} {
				p := crashPoint{Kind: w.Kind, Step: s.Name, Point: at}
				if n++; !tr.heavy || fullCrash() || !tr.soaks && tr.sampled(i) && keep(n, tr, p) {
					points = append(points, p)
				}
			}
		}
	}
	return points
}

// childPoints finds, for those workflows among the points that change the members of a cluster by operations of their own,
// the end of each step of these. They are make crash's.
func childPoints(points []crashPoint) []crashPoint {
	var found []crashPoint
	seen := map[string]bool{}
	for _, p := range points {
		child := trials()[p.Kind].child
		if !fullCrash() || child == "" || seen[p.Kind] {
			continue
		}
		seen[p.Kind] = true
		for _, w := range taskmanager.Workflows() {
			for _, s := range w.Steps {
				if w.Kind == child {
					found = append(found, crashPoint{Kind: p.Kind, Child: child, Step: s.Name, Point: engine.AfterEffect})
				}
			}
		}
	}
	return found
}

// fullCrash tells whether heavy trials are to be killed at every point, on every database. GROVE_CRASH is "full", or names
// the only kinds to be tried: "promote_replica,eject_source".
func fullCrash() bool { return os.Getenv("GROVE_CRASH") != "" }

func chosen(kind string) bool {
	only := os.Getenv("GROVE_CRASH")
	return only == "" || only == "full" || slices.Contains(strings.Split(only, ","), kindOf(kind))
}

// killSample is at which share of a heavy trial's points make test kills a child by SIGKILL.
const killSample = 12

// standing is the instance that one trial leaves to the next: its form, and its id, "" when there is none.
type standing struct{ form, id string }

// ready gives a trial an instance of its form, and none to one that creates its own.
func (h *house) ready(t *testing.T, tr trial, at standing) standing {
	t.Helper()
	if at.id != "" && (tr.creates || at.form != tr.form) {
		h.clear(t)
		at.id = ""
	}
	if at.id == "" && !tr.creates {
		at.id = forms()[tr.form](h, t)
	}
	return standing{form: tr.form, id: at.id}
}

// leave gives what a trial whose operation has ended leaves to the next one.
func (h *house) leave(t *testing.T, tr trial, operationID string) standing {
	t.Helper()
	left := standing{form: tr.form, id: h.audit(t, operationID)}
	if op, err := h.store.Operation(t.Context(), operationID); err == nil && op.ResourceType == "cluster" && left.id != "" {
		if tr.creates {
			h.fill(t, op.ResourceID)
		}
		h.requireWhole(t, op.ResourceID)
		if v := h.clusterView(t, op.ResourceID); v.Fault != nil {
			t.Errorf("the cluster has the fault %+v", v.Fault)
		}
	}
	if tr.spends && left.id != "" {
		h.clear(t)
		left.id = ""
	}
	return left
}

// all lists the tenant's instances.
func (h *house) all(t *testing.T) []dbaas.InstanceView {
	t.Helper()
	all, _, err := h.store.ListInstances(t.Context(), store.InstanceFilter{ProjectID: tester.ProjectID})
	must(t, err)
	return all
}

// clear deletes all instances, replicas first.
func (h *house) clear(t *testing.T) {
	t.Helper()
	all := h.all(t)
	slices.SortStableFunc(all, func(a, b dbaas.InstanceView) int { return cmp.Compare(len(a.Replicas), len(b.Replicas)) })
	defer h.run(t, nil)()
	for _, in := range all {
		h.awaitEnd(t, mustID(t)(h.control.DeleteInstance(t.Context(), tester, in.ID)))
	}
	clusters, _, err := h.store.ListClusters(t.Context(), store.ClusterFilter{ProjectID: tester.ProjectID})
	must(t, err)
	for _, cl := range clusters {
		h.awaitEnd(t, mustID(t)(h.control.DeleteCluster(t.Context(), tester, cl.ID)))
	}
}

// sorted puts the workflows of one form together, what makes an instance first and what deletes it last, so that one
// instance serves the trials between.
func sorted(t *testing.T, workflows []engine.Workflow) []engine.Workflow {
	t.Helper()
	workflows = slices.DeleteFunc(workflows, func(w engine.Workflow) bool { return !chosen(w.Kind) })
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
		return cmp.Or(cmp.Compare(trials()[a.Kind].form, trials()[b.Kind].form), cmp.Compare(rank(a.Kind), rank(b.Kind)))
	})
}

// TestAbandonedAtEveryStep abandons a taskmanager at every point of every step, on both databases; another takes over.
// Afterwards the operation has succeeded, the cloud holds exactly what the rows say, the quota is right, and the
// effects are those of an undisturbed run (R1, R8, R10).
func TestAbandonedAtEveryStep(t *testing.T) {
	t.Parallel()
	for name, url := range databases(t) {
		points := crashPoints(t, func(n int, tr trial, p crashPoint) bool {
			return name == "sqlite" && p.Point == engine.AfterEffect
		})
		points = append(points, childPoints(points)...)
		eachForm(t, name, func(t *testing.T, mine func(kind string) bool) {
			points := pointsOf(points, mine)
			if len(points) == 0 {
				t.Skip("no point of it is tried here")
			}
			h := openHouse(t, url(t), t.TempDir())
			clean := cleanEffects(t, h, points)
			var at standing
			for _, p := range points {
				at = h.abandonAt(t, p, at, clean[p.Kind])
				if t.Failed() {
					t.Fatalf("at %s", p)
				}
			}
		})
	}
}

// eachForm runs a test side by side for the trials of each form, those with single instances, which are most, in two
// halves: they share nothing. mine tells whether a trial is for this run.
func eachForm(t *testing.T, name string, run func(t *testing.T, mine func(kind string) bool)) {
	t.Helper()
	for form := range forms() {
		kinds := slices.DeleteFunc(slices.Sorted(maps.Keys(trials())), func(kind string) bool { return trials()[kind].form != form })
		parts := map[string][]string{form: kinds}
		if form == "" {
			parts = map[string][]string{"single1": kinds[:len(kinds)/2], "single2": kinds[len(kinds)/2:]}
		}
		for part, kinds := range parts {
			t.Run(name+"/"+part, func(t *testing.T) {
				t.Parallel()
				run(t, func(kind string) bool { return slices.Contains(kinds, kind) })
			})
		}
	}
}

// pointsOf keeps the points of some trials.
func pointsOf(points []crashPoint, mine func(kind string) bool) []crashPoint {
	return slices.DeleteFunc(slices.Clone(points), func(p crashPoint) bool { return !mine(p.Kind) })
}

// cleanEffects runs every workflow that has a point undisturbed and notes its effects. It leaves no instance.
func cleanEffects(t *testing.T, h *house, points []crashPoint) map[string][]string {
	t.Helper()
	effects := map[string][]string{}
	var at standing
	for _, w := range sorted(t, tried()) {
		if !slices.ContainsFunc(points, func(p crashPoint) bool { return p.Kind == w.Kind }) {
			continue
		}
		tr := trials()[w.Kind]
		at = h.ready(t, tr, at)
		h.effects.reset()
		stop := h.run(t, nil)
		id := tr.begin(t.Context(), t, h, at.id)
		if op := h.awaitEnd(t, id); op.Status != dbaas.OperationSucceeded {
			t.Fatalf("%s, undisturbed, ended in %s: %+v", w.Kind, op.Status, op.Failure)
		}
		stop()
		effects[w.Kind] = h.effects.list()
		at = h.leave(t, tr, id)
	}
	h.clear(t)
	return effects
}

// abandonAt runs the trial of p's workflow, abandons the taskmanager at p, lets another finish, and checks the outcome.
// It gives the instance that the next trial may use.
func (h *house) abandonAt(t *testing.T, p crashPoint, at standing, clean []string) standing {
	t.Helper()
	tr := trials()[p.Kind]
	at = h.ready(t, tr, at)
	h.effects.reset()
	reached := make(chan struct{}, 1)
	stop := h.run(t, p.watch(func() {
		select {
		case reached <- struct{}{}:
		default:
		}
		runtime.Goexit() // the worker is gone; its lease stays
	}))
	id := tr.begin(t.Context(), t, h, at.id)
	select {
	case <-reached:
	case <-time.After(time.Minute):
		t.Errorf("%s was not reached within a minute", p)
	}
	stop()
	h.expireLeases(t)
	stop = h.run(t, nil)
	defer stop()
	op := h.awaitEnd(t, id)
	if op.Status != dbaas.OperationSucceeded {
		t.Errorf("%s: a crash alone ended in %s: %+v", p, op.Status, op.Failure)
	}
	if got := h.effects.list(); !tr.settles && !slices.Equal(got, clean) {
		t.Errorf("%s: effects differ from an undisturbed run:\n got  %v\n want %v", p, got, clean)
	}
	if v, err := h.control.Instance(t.Context(), tester, op.ResourceID); err == nil && tr.check != nil {
		tr.check(t, h, v)
	}
	stop()
	return h.leave(t, tr, id)
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
	t.Parallel()
	points := crashPoints(t, func(n int, _ trial, _ crashPoint) bool { return n%killSample == 0 })
	eachForm(t, "sqlite", func(t *testing.T, mine func(kind string) bool) {
		dir := t.TempDir()
		var at standing
		for _, p := range pointsOf(points, mine) {
			at = killAt(t, dir, p, at)
			if t.Failed() {
				t.Fatalf("at %s", p)
			}
		}
		h := openHouse(t, "", dir)
		h.clear(t)
		h.close(t, false)
	})
}

// killAt lets a child begin the trial and die at p, and finishes its work in this process.
func killAt(t *testing.T, dir string, p crashPoint, at standing) standing {
	t.Helper()
	tr := trials()[p.Kind]
	h := openHouse(t, "", dir)
	at = h.ready(t, tr, at)
	h.close(t, true)
	order, err := json.Marshal(crashOrder{Dir: dir, At: p, Instance: at.id})
	must(t, err)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestKilledAtEveryStep$", "-test.timeout", "120s")
	child.Env = append(os.Environ(), crashVariable+"="+string(order))
	out, err := child.CombinedOutput()
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("%s: the child did not die by SIGKILL: %v\n%s", p, err, out)
	}
	h = openHouse(t, "", dir)
	defer h.close(t, true)
	h.expireLeases(t)
	stop := h.run(t, nil)
	defer stop()
	op := h.awaitEnd(t, h.newestOperation(t, kindOf(p.Kind)))
	if op.Status != dbaas.OperationSucceeded {
		t.Errorf("%s: a kill alone ended in %s: %+v", p, op.Status, op.Failure)
	}
	stop()
	return h.leave(t, tr, op.ID)
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
	const patience = 6 * time.Minute // ten times what the longest takes on an idle machine
	op, err := h.control.Await(t.Context(), id, patience)
	must(t, err)
	if !op.Status.Ended() {
		t.Fatalf("operation %s (%s) stands at %s (%s) after %v: %s", op.ID, op.Kind, op.Step, op.Status, patience, op.Progress)
	}
	if op.Status == dbaas.OperationSucceeded && trials()[op.Kind].settles {
		h.awaitProtected(t, op.ResourceID)
	}
	return op
}
