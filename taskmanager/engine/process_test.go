package engine

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

func TestStepsFollowOneAnother(t *testing.T) {
	var r *rig
	r = newRig(t, []Workflow{workflow("create", func(step string, op *Operation) error {
		r.note("%s %d/%d", step, op.StepNumber, op.StepTotal)
		return nil
	}, "one", "two")})
	op := r.process(r.start("create"))
	r.expectTrail("started", "one 1/2", "done", "two 2/2", "succeeded")
	if op.Status != dbaas.OperationSucceeded || op.EndedAt.IsZero() || r.holder() != "" || op.LeaseEpoch != 1 {
		t.Errorf("operation ended as %+v, lock held by %q", op, r.holder())
	}
	if diff := cmp.Diff([]string{"one 1 done", "two 1 done"}, r.history(op.ID)); diff != "" {
		t.Error(diff)
	}
	want := []string{"operation.create.one", "operation.create.two", "operation.create.succeeded"}
	if diff := cmp.Diff(want, r.events()); diff != "" {
		t.Error(diff)
	}
}

func TestWaitReleasesAndIsNoAttempt(t *testing.T) {
	ready := false
	r := newRig(t, []Workflow{workflow("create", func(_ string, op *Operation) error {
		if ready {
			return nil
		}
		op.SetProgress("waiting for %s", "rain")
		if err := op.Put(map[string]string{"server": "s1"}); err != nil {
			return err
		}
		return Wait(20 * time.Second)
	}, "one")})
	id := r.start("create")
	op := r.process(id)
	if op.LeaseOwner != "" || op.Attempt != 0 || op.Progress != "waiting for rain" || string(op.State) != `{"server":"s1"}` {
		t.Errorf("waiting as %+v", op)
	}
	if got := op.WakeAt.Sub(dbaas.At(r.clock.Now())); got != 20*time.Second {
		t.Errorf("due in %s", got)
	}
	if worked, _ := r.ProcessOne(context.Background(), ""); worked {
		t.Error("looked at before it was due")
	}
	ready = true
	if op := r.process(id); op.Status != dbaas.OperationSucceeded { // a nudge passes the wait
		t.Errorf("status %s after a nudge", op.Status)
	}
	if diff := cmp.Diff([]string{"one 1 done"}, r.history(id)); diff != "" {
		t.Error(diff)
	}
}

func TestRetriesDoubleUpToACap(t *testing.T) {
	r := newRig(t, []Workflow{workflow("create", func(string, *Operation) error { return errors.New("no route") }, "one")})
	id := r.start("create")
	var delays []time.Duration
	for range 9 {
		op := r.process(id)
		delays = append(delays, op.WakeAt.Sub(dbaas.At(r.clock.Now())))
		r.clock.Advance(delays[len(delays)-1])
	}
	s := time.Second
	if want := []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, minute, minute, minute}; !slices.Equal(delays, want) {
		t.Errorf("delays %v, want %v", delays, want)
	}
	if op := r.row(id); op.Attempt != 9 || op.Status != dbaas.OperationRunning {
		t.Errorf("attempt %d, %s", op.Attempt, op.Status)
	}
	if events := r.events(); len(events) != 1 {
		t.Errorf("retries are events: %q", events)
	}
	if h := r.history(id); len(h) != 9 || h[1] != "one 2 retry An internal error occurred; the operator's log has the details." {
		t.Errorf("history %q", h)
	}
}

func TestJitterTakesOffUpToHalf(t *testing.T) {
	b := Backoff{First: 4 * time.Second, Most: minute, Random: func() float64 { return 0.999999 }}
	if d := b.After(1); d < 2*time.Second || d > 2*time.Second+time.Millisecond {
		t.Errorf("with the largest jitter %s", d)
	}
}

func TestBackoffNeverOverflows(t *testing.T) {
	b := Backoff{First: time.Second, Most: minute, Random: func() float64 { return 0 }}
	if d := b.After(1_000); d != minute {
		t.Errorf("after a thousand tries %s", d)
	}
}

func TestAStepThatWasFencedSavesNothing(t *testing.T) {
	r := newRig(t, []Workflow{workflow("create", func(string, *Operation) error { return ErrLeaseLost }, "one")})
	id := r.start("create")
	r.process(id)
	if op := r.row(id); op.Attempt != 0 || op.LeaseOwner != "w1" || len(r.history(id)) != 0 {
		t.Errorf("saved %+v, history %q", op, r.history(id))
	}
}

func TestAttemptsCountPerStep(t *testing.T) {
	fail := true
	r := newRig(t, []Workflow{workflow("create", func(step string, op *Operation) error {
		if step == "two" && op.Attempt != 0 {
			t.Errorf("step two begins with attempt %d", op.Attempt)
		}
		if fail {
			fail = false
			return errors.New("once")
		}
		return nil
	}, "one", "two")})
	op := r.settle(r.start("create"))
	if op.Status != dbaas.OperationSucceeded {
		t.Error(op.Status)
	}
	if got := r.history(op.ID); len(got) != 3 || got[1] != "one 2 done" || got[2] != "two 1 done" {
		t.Errorf("history %q", got)
	}
}

func TestStepExpires(t *testing.T) {
	for name, test := range map[string]struct {
		end     error
		message string
		details string
	}{
		"wait":  {Wait(7 * minute), "Doing one did not finish within 30m: waiting for rain.", "waiting"},
		"error": {errors.New("secret host 10.0.0.1 refused"), "Doing one did not finish within 30m: waiting for rain.", "secret host"},
		"said":  {dbaas.WrapError(errors.New("409"), dbaas.Unavailable, "No server is free."), "Doing one did not finish within 30m: No server is free.", "409"},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			var last time.Time
			var r *rig
			w := workflow("create", func(_ string, op *Operation) error {
				tries++
				last = r.clock.Now()
				op.SetProgress("waiting for rain")
				return test.end
			}, "one", "two")
			r = newRig(t, []Workflow{w})
			began := r.clock.Now()
			op := r.settle(r.start("create"))
			if op.Status != dbaas.OperationFailed || op.Failure.Message != test.message || !strings.Contains(op.Failure.Details, test.details) {
				t.Errorf("%s with %+v", op.Status, op.Failure)
			}
			if after := last.Sub(began); after < 30*minute || after > 30*minute+time.Second {
				t.Errorf("the last look was after %s", after)
			}
			if tries < 5 || r.holder() != "" {
				t.Errorf("%d tries, lock held by %q", tries, r.holder())
			}
		})
	}
}

func TestTimeWithoutWorkersDoesNotCount(t *testing.T) {
	tries := 0
	r := newRig(t, []Workflow{workflow("create", func(string, *Operation) error {
		if tries++; tries < 4 {
			return Wait(time.Second)
		}
		return nil
	}, "one")})
	id := r.start("create")
	r.process(id)
	for range 3 {
		r.clock.Advance(24 * time.Hour)
		r.process(id)
	}
	if op := r.row(id); op.Status != dbaas.OperationSucceeded {
		t.Errorf("%s: %+v", op.Status, op.Failure)
	}
}

func TestAStepThatKillsItsHolderExpires(t *testing.T) {
	tries := 0
	w := workflow("create", func(string, *Operation) error { tries++; return nil }, "one")
	w.Failed = func(context.Context, *Operation) error { return nil }
	r := newRig(t, []Workflow{w}, func(c *Config) {
		c.Observe = func(p Point, op *Operation) {
			if p == AfterEffect && op.Status == dbaas.OperationRunning {
				panic("killed")
			}
		}
	})
	id := r.start("create")
	for range 1000 {
		func() {
			defer func() { _ = recover() }()
			r.process(id)
		}()
		d, _ := r.NextDue(context.Background(), minute)
		r.clock.Advance(d + 500*time.Millisecond)
	}
	if op := r.row(id); op.Status != dbaas.OperationFailed || !strings.Contains(op.Failure.Message, "did not finish within 30m") || tries < 50 {
		t.Errorf("after %d tries %s %+v", tries, op.Status, op.Failure)
	}
}

func TestPermanentFailsAtOnce(t *testing.T) {
	var r *rig
	w := workflow("create", func(string, *Operation) error {
		return Permanent(dbaas.WrapError(errors.New("nova said 400"), dbaas.BadRequest, "The flavor does not exist."))
	}, "one", "two")
	w.Failed = func(_ context.Context, op *Operation) error {
		r.note("cleanup of %s: %s", op.Step, op.Failure.Message)
		return nil
	}
	r = newRig(t, []Workflow{w})
	op := r.process(r.start("create"))
	r.expectTrail("started", "failing", "cleanup of one: Doing one failed: The flavor does not exist.", "failed")
	if op.Status != dbaas.OperationFailed || op.Failure.Details != "The flavor does not exist.: nova said 400" || op.Failure.At.IsZero() {
		t.Errorf("%s %+v", op.Status, op.Failure)
	}
	want := []string{"one 1 failed Doing one failed: The flavor does not exist.", "cleanup 1 done"}
	if diff := cmp.Diff(want, r.history(op.ID)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"operation.create.one", "operation.create.failing", "operation.create.failed"}, r.events()); diff != "" {
		t.Error(diff)
	}
}

func TestAPanicIsAFailedTry(t *testing.T) {
	tries := 0
	r := newRig(t, []Workflow{workflow("create", func(string, *Operation) error {
		if tries++; tries == 1 {
			var none map[string]int
			//lint:ignore SA5000 the panic is the point
			none["x"] = 1
		}
		return nil
	}, "one")})
	op := r.settle(r.start("create"))
	if got := r.history(op.ID); op.Status != dbaas.OperationSucceeded || len(got) != 2 || !strings.HasPrefix(got[0], "one 1 retry") {
		t.Errorf("%s, history %q", op.Status, got)
	}
}

// broken is a workflow whose only step fails for good, and whose cleanup is run.
func broken(run func(op *Operation) error) Workflow {
	w := workflow("create", func(string, *Operation) error { return Permanent(errors.New("no")) }, "one")
	w.Failed = func(_ context.Context, op *Operation) error { return run(op) }
	return w
}

func TestCleanupIsRetriedAndWaits(t *testing.T) {
	tries := 0
	r := newRig(t, []Workflow{broken(func(op *Operation) error {
		switch tries++; tries {
		case 1:
			return errors.New("not yet")
		case 2:
			panic("not yet")
		case 3:
			return Wait(minute)
		}
		if op.Attempt != 2 {
			t.Errorf("attempt %d", op.Attempt)
		}
		return nil
	})})
	id := r.start("create")
	if op := r.process(id); op.Status != dbaas.OperationFailing || r.holder() != id {
		t.Errorf("%s, lock held by %q", op.Status, r.holder())
	}
	op := r.settle(id)
	if op.Status != dbaas.OperationFailed || strings.Contains(op.Failure.Message, "Cleaning up") || tries != 4 {
		t.Errorf("%s %+v after %d tries", op.Status, op.Failure, tries)
	}
}

func TestCleanupIsBounded(t *testing.T) {
	for name, end := range map[string]error{"retry": errors.New("cloud is gone"), "wait": Wait(minute), "permanent": Permanent(errors.New("cloud is gone"))} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, []Workflow{broken(func(*Operation) error { return end })})
			began := r.clock.Now()
			op := r.settle(r.start("create"))
			if op.Status != dbaas.OperationFailed || !strings.HasSuffix(op.Failure.Message, " Cleaning up after it did not finish.") || !strings.HasPrefix(op.Failure.Message, "Doing one failed: ") {
				t.Errorf("%s %+v", op.Status, op.Failure)
			}
			if took := r.clock.Now().Sub(began); took > 16*minute || (name != "permanent" && took < 15*minute) {
				t.Errorf("ended after %s", took)
			}
			if r.holder() != "" {
				t.Errorf("lock held by %q", r.holder())
			}
		})
	}
}

func TestADeleteSupersedesBeforeTheNextStep(t *testing.T) {
	var r *rig
	create := workflow("create", func(step string, op *Operation) error {
		r.note("%s", step)
		if err := op.Put("private"); err != nil {
			return err
		}
		return r.Supersede(context.Background(), op.ID, "delete")
	}, "one", "two")
	remove := workflow("delete", func(step string, op *Operation) error {
		r.note("%s %d/%d %s", step, op.StepNumber, op.StepTotal, op.State)
		return nil
	}, "stop", "remove")
	r = newRig(t, []Workflow{create, remove})
	op := r.process(r.start("create"))
	r.expectTrail("started", "one", "done", "superseded", "stop 1/2 ", "done", "remove 2/2 ", "succeeded")
	if op.Kind != "delete" || op.SupersededBy != "" || op.Status != dbaas.OperationSucceeded {
		t.Errorf("%+v", op)
	}
}

func TestADeleteDuringTheLastStepIsNotLost(t *testing.T) {
	for name, end := range map[string]error{"success": nil, "failure": Permanent(errors.New("no"))} {
		t.Run(name, func(t *testing.T) {
			var r *rig
			r = newRig(t, []Workflow{workflow("create", func(_ string, op *Operation) error {
				if err := r.Supersede(context.Background(), op.ID, "delete"); err != nil {
					t.Error(err)
				}
				return end
			}, "one"), workflow("delete", nil, "remove")})
			op := r.process(r.start("create"))
			r.expectTrail("started", "superseded", "succeeded")
			if op.Kind != "delete" || op.Failure != nil || op.Status != dbaas.OperationSucceeded || r.holder() != "" {
				t.Errorf("%+v", op)
			}
			if h := r.history(op.ID); len(h) != 2 || !strings.HasPrefix(h[0], "one 1") {
				t.Errorf("history %q", h)
			}
		})
	}
}

func TestWhatBecomesAStrangerIsLeftToOthers(t *testing.T) {
	r := newRig(t, []Workflow{workflow("create", nil, "one")})
	id := r.start("create")
	if err := r.Supersede(context.Background(), id, "future"); err != nil {
		t.Fatal(err)
	}
	if op := r.process(id); op.Status != dbaas.OperationRunning || op.LeaseOwner != "" || op.Kind != "create" {
		t.Errorf("left as %+v", op)
	}
}

func TestADeleteSupersedesACleanup(t *testing.T) {
	r := newRig(t, []Workflow{broken(func(*Operation) error { return Wait(minute) }), workflow("delete", nil, "remove")})
	id := r.start("create")
	r.process(id)
	if err := r.Supersede(context.Background(), id, "delete"); err != nil {
		t.Fatal(err)
	}
	if op := r.process(id); op.Status != dbaas.OperationSucceeded || op.Failure != nil {
		t.Errorf("%s %+v", op.Status, op.Failure)
	}
	r.expectTrail("started", "failing", "superseded", "succeeded")
}

func TestADeleteSupersedesWhatThisReleaseDoesNotKnow(t *testing.T) {
	r := newRig(t, []Workflow{workflow("delete", nil, "remove")})
	id := r.start("future")
	if err := r.Supersede(context.Background(), id, "delete"); err != nil {
		t.Fatal(err)
	}
	if op := r.process(id); op.Status != dbaas.OperationSucceeded {
		t.Error(op.Status)
	}
}

func TestStrangersAreLeftToOthers(t *testing.T) {
	r := newRig(t, []Workflow{workflow("create", nil, "one")})
	unknown := &dbaas.Operation{ID: "a", Kind: "future"}
	newer := &dbaas.Operation{ID: "b", Kind: "create", Step: "gone"}
	for _, op := range []*dbaas.Operation{unknown, newer} {
		if err := r.Enqueue(context.Background(), op); err != nil {
			t.Fatal(err)
		}
		got := r.process(op.ID)
		if got.Status != dbaas.OperationRunning || got.LeaseOwner != "" || got.Step != op.Step || got.WakeAt.Sub(got.UpdatedAt) != strangerAfter {
			t.Errorf("left as %+v", got)
		}
	}
	r.expectTrail()
}

func TestCancelEndsAtTheBoundary(t *testing.T) {
	for name, cleanup := range map[string]func(context.Context, *Operation) error{
		"without cleanup": nil,
		"with cleanup":    func(context.Context, *Operation) error { return nil },
		"cleanup fails":   func(context.Context, *Operation) error { return Permanent(errors.New("no")) },
	} {
		t.Run(name, func(t *testing.T) {
			var r *rig
			w := workflow("create", func(step string, op *Operation) error {
				r.note("%s", step)
				return r.Memory.Cancel(context.Background(), op.ID)
			}, "one", "two")
			w.Failed = cleanup
			r = newRig(t, []Workflow{w})
			op := r.process(r.start("create"))
			if op.Status != dbaas.OperationCancelled || !strings.HasPrefix(op.Failure.Message, "The operation was cancelled by an operator.") || slices.Contains(r.trail, "two") {
				t.Errorf("%s %+v, trail %q", op.Status, op.Failure, r.trail)
			}
		})
	}
}

func TestCancelDoesNotChangeAFailure(t *testing.T) {
	r := newRig(t, []Workflow{broken(func(*Operation) error { return Wait(minute) })})
	id := r.start("create")
	r.process(id)
	if err := r.Memory.Cancel(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	if op := r.settle(id); op.Status != dbaas.OperationFailed {
		t.Error(op.Status)
	}
}

func TestAChildFailsItsParent(t *testing.T) {
	var r *rig
	parent := workflow("cluster", func(_ string, op *Operation) error {
		err := r.Enqueue(context.Background(), &dbaas.Operation{ID: "child", Kind: "create", ParentID: op.ID}, "member")
		if err != nil && dbaas.ErrorCode(err) != dbaas.Unprocessable {
			return err
		}
		return Wait(time.Hour)
	}, "members")
	parent.Failed = func(_ context.Context, op *Operation) error {
		r.note("cleanup: %s", op.Failure.Message)
		return nil
	}
	child := workflow("create", func(string, *Operation) error {
		return Permanent(dbaas.Errorf(dbaas.OverLimit, "No space."))
	}, "one")
	r = newRig(t, []Workflow{parent, child})
	id := r.start("cluster")
	r.process(id)
	r.process("child")
	if _, err := r.ProcessOne(context.Background(), ""); err != nil { // the parent is due though it waits for an hour
		t.Fatal(err)
	}
	if op := r.row(id); op.Status != dbaas.OperationFailed || op.Failure.Message != "Doing one failed: No space." {
		t.Errorf("%s %+v", op.Status, op.Failure)
	}
	r.expectTrail("started", "started", "failed", "failing", "cleanup: Doing one failed: No space.", "failed")
}

// failover is a workflow that says what it does.
func (r *rig) preempt() string {
	r.t.Helper()
	op := &dbaas.Operation{ID: "op-failover", Kind: "failover"}
	if err := r.Preempt(context.Background(), op, "db"); err != nil {
		r.t.Fatal(err)
	}
	return op.ID
}

func TestAFailoverParksAndTheHolderLooksAgain(t *testing.T) {
	var r *rig
	resize := workflow("resize", func(step string, op *Operation) error {
		r.note("%s", step)
		if step == "one" {
			r.preempt()
			r.process("op-failover") // cannot start while the holder is in its step
			if failover := r.row("op-failover"); failover.Status.Ended() || failover.Step != "" {
				r.t.Errorf("failover is %s at %q beside its victim's step", failover.Status, failover.Step)
			}
		}
		return nil
	}, "zero", "one", "two")
	resize.Resumed = func(_ context.Context, op *Operation) (string, error) {
		r.note("look again at %s", op.Step)
		return "zero", nil
	}
	r = newRig(t, []Workflow{resize, workflow("failover", nil, "promote")})
	id := r.start("resize")
	if op := r.process(id); op.Status != dbaas.OperationParked || r.holder() != "op-failover" {
		t.Fatalf("%s, lock held by %q", op.Status, r.holder())
	}
	if worked, _ := r.ProcessOne(context.Background(), id); worked {
		t.Error("a parked operation was claimed")
	}
	r.clock.Advance(time.Hour) // a long failover does not count against the step
	r.process("op-failover")
	if r.holder() != id {
		t.Errorf("lock held by %q", r.holder())
	}
	resize.Steps[1].Run = func(context.Context, *Operation) error { r.note("one again"); return nil }
	op := r.process(id)
	r.expectTrail("started", "zero", "done", "one", "done", "parked", "started", "succeeded",
		"look again at two", "resumed", "zero", "done", "one again", "done", "two", "succeeded")
	if op.Status != dbaas.OperationSucceeded || op.ParkedBy != "" || r.holder() != "" {
		t.Errorf("%+v", op)
	}
}

func TestResumedMayEndTheOperation(t *testing.T) {
	w := workflow("resize", func(string, *Operation) error { return Wait(minute) }, "one")
	w.Resumed = func(context.Context, *Operation) (string, error) {
		return "", Permanent(dbaas.Errorf(dbaas.Conflict, "The primary is another one now."))
	}
	cleaned := false
	w.Failed = func(context.Context, *Operation) error { cleaned = true; return nil }
	r := newRig(t, []Workflow{w, workflow("failover", nil, "promote")})
	id := r.start("resize")
	r.process(id)
	r.process(r.preempt())
	if op := r.process(id); op.Status != dbaas.OperationFailed || !cleaned || !strings.Contains(op.Failure.Message, "The primary is another one now.") {
		t.Errorf("%s %+v", op.Status, op.Failure)
	}
}

func TestResumedIsRetried(t *testing.T) {
	tries := 0
	w := workflow("resize", func(string, *Operation) error {
		if tries == 0 {
			return Wait(minute)
		}
		return nil
	}, "one")
	w.Resumed = func(context.Context, *Operation) (string, error) {
		switch tries++; tries {
		case 1:
			return "", errors.New("not now")
		case 2:
			return "", Wait(minute)
		}
		return "", nil
	}
	r := newRig(t, []Workflow{w, workflow("failover", nil, "promote")})
	id := r.start("resize")
	r.process(id)
	r.process(r.preempt())
	if op := r.settle(id); op.Status != dbaas.OperationSucceeded || tries != 3 {
		t.Errorf("%s after %d tries", op.Status, tries)
	}
}

func TestACleanupGoesOnAfterAFailover(t *testing.T) {
	parked := false
	w := broken(func(*Operation) error {
		if !parked {
			return Wait(minute)
		}
		return nil
	})
	w.Resumed = func(context.Context, *Operation) (string, error) {
		t.Error("a cleanup was resumed as a step")
		return "", nil
	}
	r := newRig(t, []Workflow{w, workflow("failover", nil, "promote")})
	id := r.start("create")
	r.process(id)
	r.process(r.preempt())
	parked = true
	if op := r.process(id); op.Status != dbaas.OperationFailed || op.Failure.Message == "" {
		t.Errorf("%s %+v", op.Status, op.Failure)
	}
	r.expectTrail("started", "failing", "started", "succeeded", "resumed", "failed")
}

func TestALostLeaseStopsTheHolder(t *testing.T) {
	for name, lostInStep := range map[string]bool{"told by the step": true, "found on save": false} {
		t.Run(name, func(t *testing.T) {
			var r *rig
			r = newRig(t, []Workflow{workflow("create", func(step string, op *Operation) error {
				r.note("%s by %s", step, op.LeaseOwner)
				r.clock.Advance(16 * time.Second)
				if _, err := r.Claim(context.Background(), "w2", op.ID, 15*time.Second); err != nil {
					t.Error(err)
				}
				if lostInStep {
					return errors.Join(errors.New("fenced"), ErrLeaseLost)
				}
				return nil
			}, "one", "two")})
			id := r.start("create")
			op := r.process(id)
			r.expectTrail("started", "one by w1")
			if op.LeaseOwner != "w2" || op.Step != "one" || op.LeaseEpoch != 2 || op.LeaseUntil <= dbaas.At(r.clock.Now()) {
				t.Errorf("the other's row is %+v", op)
			}
		})
	}
}

func TestAKilledHolderIsFollowedAtTheSameStep(t *testing.T) {
	for _, point := range []Point{BeforeStep, AfterEffect, AfterSave} {
		t.Run(string(point), func(t *testing.T) {
			effects := map[string]int{}
			died := false
			r := newRig(t, []Workflow{workflow("create", func(step string, _ *Operation) error {
				effects[step]++
				return nil
			}, "one", "two", "three")}, func(c *Config) {
				c.Observe = func(p Point, op *Operation) {
					if p == point && op.Step == "two" && !died {
						died = true
						panic("killed")
					}
				}
			})
			id := r.start("create")
			func() {
				defer func() { _ = recover() }()
				r.process(id)
				t.Error("was not killed")
			}()
			if worked, _ := r.ProcessOne(context.Background(), id); worked {
				t.Error("taken over within the lease")
			}
			r.clock.Advance(15 * time.Second)
			if op := r.process("" + id); op.Status != dbaas.OperationSucceeded || op.LeaseEpoch != 2 {
				t.Errorf("%s in epoch %d", op.Status, op.LeaseEpoch)
			}
			again := 1
			if point == AfterEffect {
				again = 2
			}
			if diff := cmp.Diff(map[string]int{"one": 1, "two": again, "three": 1}, effects); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOneStepReleasesBetweenSteps(t *testing.T) {
	r := newRig(t, []Workflow{workflow("create", nil, "one", "two")}, func(c *Config) { c.OneStep = true })
	id := r.start("create")
	var steps []string
	for range 3 {
		op := r.process(id)
		steps = append(steps, op.Step+" "+op.LeaseOwner)
	}
	if want := []string{"one ", "two ", "two "}; !slices.Equal(steps, want) {
		t.Errorf("steps %q", steps)
	}
	if r.row(id).Status != dbaas.OperationSucceeded {
		t.Error("not done after three looks")
	}
}

func TestOneLineAndOneMetricPerTransition(t *testing.T) {
	var lines strings.Builder
	var seen []Transition
	tries := 0
	r := newRig(t, []Workflow{workflow("create", func(string, *Operation) error {
		if tries++; tries == 1 {
			return errors.New("once")
		}
		return nil
	}, "one", "two")}, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&lines, nil))
		c.OnTransition = func(tr Transition) { seen = append(seen, tr) }
	})
	r.settle(r.start("create"))
	if n := strings.Count(lines.String(), "\n"); n != 4 || len(seen) != 4 {
		t.Errorf("%d lines and %d transitions:\n%s", n, len(seen), lines.String())
	}
	if retry := seen[1]; retry.Outcome != Retry || retry.Step != "one" || retry.Err == nil || retry.Kind != "create" {
		t.Errorf("%+v", retry)
	}
	if done := seen[2]; done.Outcome != Done || done.Step != "one" || done.InStep < time.Second || done.Operation.Step != "two" {
		t.Errorf("%+v", done)
	}
}

// failingStore refuses saves.
type failingStore struct {
	*Memory
	err error
}

func (f *failingStore) Save(ctx context.Context, op *dbaas.Operation, s Save) error {
	if f.err != nil {
		return f.err
	}
	return f.Memory.Save(ctx, op, s)
}

func TestAnUnsavedStepIsTakenUpAgain(t *testing.T) {
	store := &failingStore{}
	tries := 0
	r := newRig(t, []Workflow{workflow("create", func(string, *Operation) error {
		if tries++; tries == 1 {
			store.err = errors.New("database is gone")
		}
		return nil
	}, "one")}, func(c *Config) {
		store.Memory = c.Store.(*Memory)
		c.Store = store
	})
	id := r.start("create")
	if _, err := r.ProcessOne(context.Background(), id); err == nil {
		t.Error("the store's failure was not told")
	}
	store.err = nil
	if op := r.settle(id); op.Status != dbaas.OperationSucceeded || tries != 2 {
		t.Errorf("%s after %d tries", op.Status, tries)
	}
}
