package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// enqueue stores an operation of its own with locks of its own.
func enqueue(t testing.TB, s *Store, kind string, lock ...string) *dbaas.Operation {
	t.Helper()
	op := &dbaas.Operation{Kind: kind, ProjectID: testProject, ResourceType: "instance", ResourceID: "r"}
	if len(lock) > 0 {
		op.ResourceID = lock[0]
	}
	do(t, s, func(tx *Tx) error { return tx.Enqueue(op, lock...) })
	return op
}

func claim(t testing.TB, s *Store, id string, lease time.Duration) *dbaas.Operation {
	t.Helper()
	op, err := s.Claim(t.Context(), "w", id, lease)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

func mustSave(t testing.TB, s *Store, op *dbaas.Operation, how engine.Save) {
	t.Helper()
	if err := s.Save(t.Context(), op, how); err != nil {
		t.Fatal(err)
	}
}

func stored(t testing.TB, s *Store, id string) dbaas.Operation {
	t.Helper()
	op, err := s.Operation(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return *op
}

func TestClaim(t *testing.T) { onBoth(t, testClaim) }

func testClaim(t *testing.T, s *Store) {
	if op := claim(t, s, "", time.Minute); op != nil {
		t.Errorf("claimed %+v from an empty table", op)
	}
	first, second := enqueue(t, s, "k"), enqueue(t, s, "k")
	got := claim(t, s, "", time.Minute)
	now, err := s.Now(t.Context())
	switch {
	case err != nil || got == nil || got.ID != first.ID:
		t.Fatalf("claimed %+v %v, want the one due longest", got, err)
	case got.LeaseEpoch != 1 || got.LeaseOwner != "w":
		t.Errorf("lease %+v", got)
	case got.LeaseUntil.Sub(now) > time.Minute || got.LeaseUntil.Sub(now) < 50*time.Second:
		t.Errorf("the lease ends in %v", got.LeaseUntil.Sub(now))
	}
	if again := claim(t, s, first.ID, time.Minute); again != nil {
		t.Errorf("a leased operation was claimed again: %+v", again)
	}
	if other := claim(t, s, second.ID, 0); other == nil || other.ID != second.ID {
		t.Fatalf("claimed %+v by id", other)
	}
	if other := claim(t, s, "", 0); other == nil || other.ID != second.ID || other.LeaseEpoch != 2 {
		t.Errorf("claimed %+v, want the one whose lease is over", other)
	}
	if diff := cmp.Diff(stored(t, s, first.ID), *got); diff != "" {
		t.Errorf("claimed and stored differ: %s", diff)
	}
	if op := claim(t, s, "none", time.Minute); op != nil {
		t.Errorf("claimed %+v", op)
	}
}

func TestSave(t *testing.T) { onBoth(t, testSave) }

func testSave(t *testing.T, s *Store) {
	id := enqueue(t, s, "k", "r").ID
	op := claim(t, s, id, time.Minute)
	op.Step, op.StepNumber, op.StepTotal, op.State, op.Progress, op.Attempt = "one", 1, 2, dbaas.JSON(`{"n":1}`), "on it", 7
	mustSave(t, s, op, engine.Save{Keep: time.Minute, NewStep: true,
		Step: &dbaas.OperationStep{Kind: "k", Step: "zero", Attempt: 1, StartedAt: 5, Outcome: "done"}})
	switch got := stored(t, s, id); {
	case got.Step != "one" || got.StepNumber != 1 || string(got.State) != `{"n":1}` || got.Progress != "on it":
		t.Errorf("saved %+v", got)
	case got.Attempt != 0 || got.StepSince == 0 || got.LeaseUntil <= got.UpdatedAt || got.LeaseOwner != "w":
		t.Errorf("saved %+v", got)
	case cmp.Diff(got, *op) != "":
		t.Errorf("the holder's row differs: %s", cmp.Diff(got, *op))
	}
	op.Attempt, op.StepSince = 3, 77
	mustSave(t, s, op, engine.Save{WakeAfter: time.Hour, Step: &dbaas.OperationStep{Step: "one", Outcome: "retry"}})
	got := stored(t, s, id)
	if got.Attempt != 3 || got.StepSince != 77 || got.LeaseOwner != "" || got.WakeAt.Sub(got.UpdatedAt) != time.Hour {
		t.Errorf("released %+v", got)
	}
	if claim(t, s, "", time.Minute) != nil {
		t.Error("claimed what sleeps")
	}
	steps, err := s.OperationSteps(t.Context(), id)
	if err != nil || len(steps) != 2 || steps[0].Number != 1 || steps[1].Number != 2 || steps[1].Step != "one" ||
		steps[0].StartedAt != 5 || steps[0].EndedAt == 0 {
		t.Errorf("steps %+v %v", steps, err)
	}
	again := claim(t, s, id, time.Minute)
	op.Progress = "late"
	if err := s.Save(t.Context(), op, engine.Save{}); !errors.Is(err, engine.ErrLeaseLost) {
		t.Errorf("a stale save gives %v", err)
	}
	again.Status = dbaas.OperationSucceeded
	mustSave(t, s, again, engine.Save{Ended: true, Event: &dbaas.Event{Kind: "k.end", ProjectID: testProject, ResourceID: "r"}})
	if got := stored(t, s, id); got.EndedAt == 0 || got.Progress == "late" || got.Status != dbaas.OperationSucceeded {
		t.Errorf("ended %+v", got)
	}
	if err := s.Save(t.Context(), again, engine.Save{Ended: true}); !errors.Is(err, engine.ErrLeaseLost) {
		t.Errorf("a save after the end gives %v", err)
	}
	if claim(t, s, id, time.Minute) != nil {
		t.Error("claimed what has ended")
	}
	events, _, err := s.ListEvents(t.Context(), EventFilter{ResourceID: "r"})
	if err != nil || len(events) != 1 || events[0].Kind != "k.end" || events[0].CreatedAt == 0 {
		t.Errorf("events %+v %v", events, err)
	}
	if n := count(t, s, "SELECT count(*) FROM operation_locks"); n != 0 {
		t.Errorf("%d locks outlive their operation", n)
	}
}

func TestWakeUpIsNotLost(t *testing.T) { onBoth(t, testWakeUp) }

func testWakeUp(t *testing.T, s *Store) {
	id := enqueue(t, s, "k", "r").ID
	op := claim(t, s, id, time.Minute)
	if ids, err := s.WakeOperations(t.Context(), "r"); err != nil || !slices.Equal(ids, []string{id}) {
		t.Fatal(ids, err)
	}
	mustSave(t, s, op, engine.Save{WakeAfter: time.Hour})
	if op = claim(t, s, "", time.Minute); op == nil {
		t.Fatal("a wake-up while the operation was held is lost")
	}
	mustSave(t, s, op, engine.Save{WakeAfter: time.Hour})
	if claim(t, s, "", time.Minute) != nil {
		t.Error("one wake-up woke twice")
	}
	if _, err := s.WakeOperations(t.Context(), "r"); err != nil {
		t.Fatal(err)
	}
	if claim(t, s, "", time.Minute) == nil {
		t.Error("a wake-up does not wake")
	}
}

func TestNextDue(t *testing.T) { onBoth(t, testNextDue) }

func testNextDue(t *testing.T, s *Store) {
	next := func(want time.Duration) {
		t.Helper()
		got, err := s.NextDue(t.Context(), time.Minute)
		if err != nil || got > want || got < want-5*time.Second {
			t.Errorf("next due in %v (%v), want %v", got, err, want)
		}
	}
	next(time.Minute)
	op := enqueue(t, s, "k")
	next(0)
	op = claim(t, s, op.ID, 40*time.Second)
	next(40 * time.Second)
	mustSave(t, s, op, engine.Save{WakeAfter: 20 * time.Second})
	next(20 * time.Second)
	op = claim(t, s, op.ID, 10*time.Second)
	next(20 * time.Second)
	op.Status = dbaas.OperationSucceeded
	mustSave(t, s, op, engine.Save{Ended: true})
	next(time.Minute)
}

func TestOverdue(t *testing.T) { onBoth(t, testOverdue) }

func testOverdue(t *testing.T, s *Store) {
	none := func() {
		t.Helper()
		if got, err := s.Overdue(t.Context()); err != nil || got != 0 {
			t.Errorf("overdue for %v (%v), want nothing", got, err)
		}
	}
	none()
	op := enqueue(t, s, "k")
	testbed.Eventually(t, 5*time.Second, func() error {
		if got, err := s.Overdue(t.Context()); err != nil || got < 10*time.Millisecond {
			return fmt.Errorf("overdue for %v (%w)", got, err)
		}
		return nil
	})
	claim(t, s, op.ID, time.Minute)
	none()
}

func TestLocks(t *testing.T) { onBoth(t, testLocks) }

func testLocks(t *testing.T, s *Store) {
	op := enqueue(t, s, "resize_volume", "a", "b")
	var busy *BusyError
	err := s.Tx(t.Context(), func(tx *Tx) error { return tx.Enqueue(&dbaas.Operation{Kind: "k"}, "c", "b") })
	switch {
	case !errors.As(err, &busy) || busy.Operation.ID != op.ID || busy.Resource != "b":
		t.Errorf("a taken lock gives %v", err)
	case dbaas.ErrorCode(err) != dbaas.Unprocessable || !contains(dbaas.ErrorMessage(err), op.ID) ||
		!contains(dbaas.ErrorMessage(err), "resize_volume"):
		t.Errorf("the user reads %v: %s", dbaas.ErrorCode(err), dbaas.ErrorMessage(err))
	}
	if n := count(t, s, "SELECT count(*) FROM operations"); n != 1 {
		t.Errorf("%d operations, the refused one was kept", n)
	}
	do(t, s, func(tx *Tx) error {
		held, err := tx.OperationHolding("a")
		if err != nil || held == nil || held.ID != op.ID {
			t.Errorf("held by %v %v", held, err)
		}
		held, err = tx.OperationHolding("c")
		if held != nil {
			t.Errorf("c is held by %v", held)
		}
		return err
	})
}

func TestSupersedeRetryCancel(t *testing.T) { onBoth(t, testSupersede) }

func testSupersede(t *testing.T, s *Store) {
	id := enqueue(t, s, "create_instance", "r").ID
	op := claim(t, s, id, time.Minute)
	mustSave(t, s, op, engine.Save{WakeAfter: time.Hour})
	do(t, s, func(tx *Tx) error {
		return firstError(tx.CancelOperation(id), tx.Supersede(id, "delete_instance", "someone"))
	})
	op = claim(t, s, "", time.Minute)
	if op == nil || op.SupersededBy != "delete_instance" || op.Actor != "someone" || !op.Cancel || op.Kind != "create_instance" {
		t.Fatalf("claimed %+v", op)
	}
	op.Kind = "delete_instance"
	mustSave(t, s, op, engine.Save{NewStep: true, Superseded: true, Keep: time.Minute})
	if op.SupersededBy != "" || op.Cancel || op.Kind != "delete_instance" {
		t.Errorf("superseded %+v", op)
	}
	do(t, s, func(tx *Tx) error { return tx.CancelOperation(id) })
	op.Attempt = 5
	mustSave(t, s, op, engine.Save{WakeAfter: time.Hour})
	if !op.Cancel {
		t.Error("a save does not tell its holder of the cancellation")
	}
	mustSave(t, s, claim(t, s, id, time.Minute), engine.Save{WakeAfter: time.Hour})
	do(t, s, func(tx *Tx) error { return tx.RetryOperation(id) })
	if op = claim(t, s, "", time.Minute); op == nil || op.Attempt != 0 {
		t.Fatalf("tried again: %+v", op)
	}
	op.Status = dbaas.OperationFailed
	mustSave(t, s, op, engine.Save{Ended: true})
	for _, change := range []func(*Tx) error{
		func(tx *Tx) error { return tx.CancelOperation(id) },
		func(tx *Tx) error { return tx.RetryOperation(id) },
		func(tx *Tx) error { return tx.Supersede(id, "delete_instance") },
	} {
		if err := s.Tx(t.Context(), change); dbaas.ErrorCode(err) != dbaas.Unprocessable {
			t.Errorf("changing what has ended gives %v", err)
		}
	}
	err := s.Tx(t.Context(), func(tx *Tx) error { return tx.CancelOperation("none") })
	if dbaas.ErrorCode(err) != dbaas.NotFound {
		t.Errorf("cancelling nothing gives %v", err)
	}
}

// TestPreemptParksWhatWasBegun: with an operation all rests that it began; where that is a failover, there is no other.
func TestPreemptParksWhatWasBegun(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		parent := enqueue(t, s, "restart_pair", "i")
		child := &dbaas.Operation{Kind: "restart_instance", ProjectID: testProject, ResourceID: "i", ParentID: parent.ID}
		do(t, s, func(tx *Tx) error { return tx.Enqueue(child) })
		failover := &dbaas.Operation{Kind: "failover", ProjectID: testProject, ResourceID: "i"}
		do(t, s, func(tx *Tx) error { return tx.Preempt(failover, "i") })
		if claim(t, s, child.ID, time.Minute) != nil {
			t.Error("what a parked operation began was claimed")
		}
		f := claim(t, s, failover.ID, time.Minute)
		f.Status = dbaas.OperationSucceeded
		mustSave(t, s, f, engine.Save{Ended: true})
		c := claim(t, s, child.ID, time.Minute)
		if c == nil {
			t.Fatal("what was parked does not go on")
		}
		c.Status = dbaas.OperationSucceeded
		mustSave(t, s, c, engine.Save{Ended: true})
		planned := &dbaas.Operation{Kind: "failover", ProjectID: testProject, ResourceID: "i", ParentID: parent.ID}
		do(t, s, func(tx *Tx) error { return tx.Enqueue(planned) })
		err := s.Tx(t.Context(), func(tx *Tx) error { return tx.Preempt(&dbaas.Operation{Kind: "failover"}, "i") })
		if busy := (*BusyError)(nil); !errors.As(err, &busy) || busy.Operation.ID != planned.ID {
			t.Errorf("a failover beside one that was begun gives %v", err)
		}
	})
}

func TestPreempt(t *testing.T) { onBoth(t, testPreempt) }

func testPreempt(t *testing.T, s *Store) {
	id := enqueue(t, s, "resize_flavor", "i", "g").ID
	holder := claim(t, s, id, time.Minute)
	failover := &dbaas.Operation{Kind: "failover", ProjectID: testProject, ResourceID: "i"}
	do(t, s, func(tx *Tx) error { return tx.Preempt(failover, "g", "i", "free") })
	if claim(t, s, failover.ID, time.Minute) != nil {
		t.Fatal("the failover was claimed while its victim is at work")
	}
	err := s.Tx(t.Context(), func(tx *Tx) error { return tx.Preempt(&dbaas.Operation{Kind: "failover"}, "g") })
	if busy := (*BusyError)(nil); !errors.As(err, &busy) || busy.Operation.ID != failover.ID {
		t.Errorf("a second failover gives %v", err)
	}
	mustSave(t, s, holder, engine.Save{Keep: time.Minute})
	if holder.ParkedBy != failover.ID {
		t.Fatalf("the holder does not learn that it is parked: %+v", holder)
	}
	holder.Status = dbaas.OperationParked
	mustSave(t, s, holder, engine.Save{})
	if claim(t, s, id, time.Minute) != nil {
		t.Error("a parked operation was claimed")
	}
	f := claim(t, s, "", time.Minute)
	if f == nil || f.ID != failover.ID {
		t.Fatalf("claimed %+v, want the failover", f)
	}
	f.Status = dbaas.OperationSucceeded
	mustSave(t, s, f, engine.Save{Ended: true})
	do(t, s, func(tx *Tx) error {
		for resource, want := range map[string]string{"i": id, "g": id, "free": ""} {
			held, err := tx.OperationHolding(resource)
			if err != nil || (held == nil) != (want == "") || held != nil && held.ID != want {
				t.Errorf("%s is held by %v %v", resource, held, err)
			}
		}
		return nil
	})
	back := claim(t, s, "", time.Minute)
	if back == nil || back.ID != id || back.Status != dbaas.OperationParked || back.ParkedBy != "" {
		t.Errorf("back comes %+v", back)
	}
}

// A holder that is silent past its lease must not write over the operation that a failover gave back.
func TestPreemptedHolderComesLate(t *testing.T) { onBoth(t, testLateHolder) }

func testLateHolder(t *testing.T, s *Store) {
	id := enqueue(t, s, "resize_flavor", "i").ID
	holder := claim(t, s, id, time.Millisecond)
	failover := &dbaas.Operation{Kind: "failover", ResourceID: "i"}
	do(t, s, func(tx *Tx) error { return tx.Preempt(failover, "i") })
	var f *dbaas.Operation
	for deadline := time.Now().Add(10 * time.Second); f == nil && time.Now().Before(deadline); {
		f = claim(t, s, failover.ID, time.Minute)
	}
	f.Status = dbaas.OperationSucceeded
	mustSave(t, s, f, engine.Save{Ended: true})
	if err := s.Save(t.Context(), holder, engine.Save{}); !errors.Is(err, engine.ErrLeaseLost) {
		t.Errorf("the late holder's save gives %v", err)
	}
	if got := stored(t, s, id); got.Status != dbaas.OperationParked || got.ParkedBy != "" {
		t.Errorf("given back as %+v", got)
	}
}

func TestParkedHolderEnds(t *testing.T) { onBoth(t, testParkedHolderEnds) }

func testParkedHolderEnds(t *testing.T, s *Store) {
	id := enqueue(t, s, "resize_flavor", "i").ID
	holder := claim(t, s, id, time.Minute)
	failover := &dbaas.Operation{Kind: "failover", ResourceID: "i"}
	do(t, s, func(tx *Tx) error { return tx.Preempt(failover, "i") })
	holder.Status = dbaas.OperationSucceeded // its last step ended before it learned that it is parked
	mustSave(t, s, holder, engine.Save{Ended: true})
	f := claim(t, s, failover.ID, time.Minute)
	f.Status = dbaas.OperationSucceeded
	mustSave(t, s, f, engine.Save{Ended: true})
	if n := count(t, s, "SELECT count(*) FROM operation_locks"); n != 0 {
		t.Errorf("%d locks are held by nobody that runs", n)
	}
}

func TestChildren(t *testing.T) { onBoth(t, testChildren) }

func testChildren(t *testing.T, s *Store) {
	parent := claim(t, s, enqueue(t, s, "parent").ID, time.Minute)
	mustSave(t, s, parent, engine.Save{WakeAfter: time.Hour})
	var children []*dbaas.Operation
	for range 3 {
		child := &dbaas.Operation{Kind: "child", ParentID: parent.ID}
		do(t, s, func(tx *Tx) error { return tx.Enqueue(child) })
		children = append(children, claim(t, s, child.ID, time.Minute))
	}
	children[0].Status = dbaas.OperationSucceeded
	children[1].Status, children[1].Failure = dbaas.OperationFailed, &dbaas.Fault{Message: "the disk is full"}
	children[2].Status, children[2].Failure = dbaas.OperationFailed, &dbaas.Fault{Message: "second"}
	mustSave(t, s, children[0], engine.Save{Ended: true})
	if p := claim(t, s, "", time.Minute); p == nil || p.ID != parent.ID || p.ChildFailure != "" {
		t.Fatalf("after a child's success: %+v", p)
	}
	mustSave(t, s, children[1], engine.Save{Ended: true})
	mustSave(t, s, children[2], engine.Save{Ended: true})
	if got := stored(t, s, parent.ID); got.ChildFailure != "the disk is full" {
		t.Errorf("child failure %q", got.ChildFailure)
	}
}

func TestFenced(t *testing.T) { onBoth(t, testFenced) }

func testFenced(t *testing.T, s *Store) {
	id := enqueue(t, s, "k").ID
	stale := claim(t, s, id, 0)
	holder := claim(t, s, id, time.Minute)
	write := func(tx *Tx) error { return tx.SetQuota(dbaas.Quota{ProjectID: "p", Resource: "ram", Limit: 1}) }
	if err := s.Fenced(t.Context(), stale, write); !errors.Is(err, engine.ErrLeaseLost) {
		t.Errorf("a stale holder gets %v", err)
	}
	if n := count(t, s, "SELECT count(*) FROM quotas"); n != 0 {
		t.Error("a stale holder wrote")
	}
	if err := s.Fenced(t.Context(), holder, write); err != nil {
		t.Error(err)
	}
	holder.Status = dbaas.OperationSucceeded
	mustSave(t, s, holder, engine.Save{Ended: true})
	if err := s.Fenced(t.Context(), holder, write); !errors.Is(err, engine.ErrLeaseLost) {
		t.Errorf("a holder of what has ended gets %v", err)
	}
}

// The lease is lost between the beginning and the end of what is fenced.
func TestFencedLosesItsLeaseMeanwhile(t *testing.T) {
	s := openPostgres(t)
	id := enqueue(t, s, "k").ID
	holder := claim(t, s, id, 0)
	err := s.Fenced(t.Context(), holder, func(tx *Tx) error {
		if claim(t, s, id, time.Minute) == nil {
			t.Fatal("not claimed")
		}
		return tx.SetQuota(dbaas.Quota{ProjectID: "p", Resource: "ram", Limit: 1})
	})
	if !errors.Is(err, engine.ErrLeaseLost) || count(t, s, "SELECT count(*) FROM quotas") != 0 {
		t.Errorf("it wrote: %v", err)
	}
}

func TestListOperations(t *testing.T) { onBoth(t, testListOperations) }

func testListOperations(t *testing.T, s *Store) {
	var ids []string
	do(t, s, func(tx *Tx) error {
		for n := range 30 {
			op := &dbaas.Operation{Kind: "k", ProjectID: fmt.Sprint("p", n%2), ResourceID: fmt.Sprint("r", n%6)}
			if err := tx.Enqueue(op); err != nil {
				return err
			}
			ids = append([]string{op.ID}, ids...)
		}
		return nil
	})
	done := claim(t, s, ids[0], time.Minute) // n = 29: p1, r5
	done.Status = dbaas.OperationSucceeded
	mustSave(t, s, done, engine.Save{Ended: true})
	for _, test := range []struct {
		filter OperationFilter
		want   int
	}{
		{OperationFilter{}, 30}, {OperationFilter{ProjectID: "p0"}, 15}, {OperationFilter{ResourceID: "r5"}, 5},
		{OperationFilter{ProjectID: "p1", ResourceID: "r5"}, 5}, {OperationFilter{ProjectID: "p0", ResourceID: "r5"}, 0},
		{OperationFilter{Status: dbaas.OperationSucceeded}, 1}, {OperationFilter{ProjectID: "p1", Status: dbaas.OperationRunning}, 14},
		{OperationFilter{ProjectID: "p1", ResourceID: "r5", Status: dbaas.OperationRunning}, 4},
	} {
		for _, limit := range []int{0, 1, 4} {
			f, got := test.filter, []string(nil)
			for f.Limit = limit; ; f.Marker = got[len(got)-1] {
				list, more, err := s.ListOperations(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				for _, op := range list {
					got = append(got, op.ID)
				}
				if !more || len(list) == 0 {
					break
				}
			}
			if len(got) != test.want || !slices.IsSortedFunc(got, func(a, b string) int { return slices.Index(ids, a) - slices.Index(ids, b) }) {
				t.Errorf("%+v: %d operations, want %d, newest first: %v", f, len(got), test.want, got)
			}
		}
	}
}

func TestOperationSurvivesReopen(t *testing.T) {
	o := Options{URL: "sqlite://" + filepath.Join(t.TempDir(), "grove.db"), Keyring: newKeyring(t)}
	s := openMigrated(t, o)
	id := enqueue(t, s, "k").ID
	if stored(t, open(t, o), id).Kind != "k" {
		t.Error("not there for another connection")
	}
}
