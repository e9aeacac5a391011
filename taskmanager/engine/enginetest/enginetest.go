// Package enginetest is the conformance suite of engine.Store: each sentence of its contract as a test. The store in
// memory and the SQL stores run the same.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// Subject is a store under test, with what users and failovers do to its rows. Locks are resource ids.
type Subject interface {
	engine.Store
	// Enqueue inserts an operation that is due now and takes its locks, or nothing: dbaas.Unprocessable, naming the
	// operation that holds one.
	Enqueue(ctx context.Context, op *dbaas.Operation, locks ...string) error
	// Preempt inserts a failover that takes the locks over and parks who held them; dbaas.Unprocessable for a second one.
	Preempt(ctx context.Context, failover *dbaas.Operation, locks ...string) error
	Supersede(ctx context.Context, id, kind string) error
	Cancel(ctx context.Context, id string) error
	// Holder tells which operation holds a lock, "" for none.
	Holder(ctx context.Context, resource string) (string, error)
	OperationSteps(ctx context.Context, id string) ([]dbaas.OperationStep, error)
	// OperationEvents gives an operation's events, in any order.
	OperationEvents(ctx context.Context, id string) ([]dbaas.Event, error)
}

// Advancer is a Subject whose clock the suite can move. With others it lets real time pass, some milliseconds at once.
type Advancer interface {
	Advance(d time.Duration)
}

const (
	long  = time.Minute            // a lease that is not over within a test
	short = 30 * time.Millisecond  // one whose end is awaited
	blink = 100 * time.Millisecond // longer than short
	slack = 10 * time.Second       // by which a real clock may have gone on beneath a test
)

// Run runs the suite; each test gets a fresh subject.
func Run(t *testing.T, fresh func(t *testing.T) Subject) {
	for name, test := range map[string]func(*suite){
		"Claim leases":                               (*suite).claimLeases,
		"Claim takes what has been due longest":      (*suite).claimOldest,
		"Claim by id passes the wait":                (*suite).claimByID,
		"Claim again when the lease is over":         (*suite).claimExpired,
		"Claim by many gives each operation once":    (*suite).claimByMany,
		"Claim adds the time without workers":        (*suite).claimAbsence,
		"Save writes the holder's fields":            (*suite).saveWrites,
		"Save is fenced":                             (*suite).saveIsFenced,
		"Save without lease that nobody took":        (*suite).saveLate,
		"Save keeps and refreshes what others set":   (*suite).saveRefreshes,
		"Save keeps the lease":                       (*suite).saveKeeps,
		"Save begins a step":                         (*suite).saveNewStep,
		"Save never loses a wake-up":                 (*suite).saveKeepsWakeUp,
		"Save supersedes":                            (*suite).saveSupersedes,
		"Save does not end what is superseded":       (*suite).saveNeverLosesDelete,
		"Save writes history and event":              (*suite).saveRecords,
		"Save ends":                                  (*suite).saveEnds,
		"Save tells the parent":                      (*suite).saveTellsParent,
		"NextDue":                                    (*suite).nextDue,
		"Operation":                                  (*suite).operation,
		"Enqueue takes all locks or none":            (*suite).locks,
		"Enqueue by many for one lock":               (*suite).lockRace,
		"Preempt takes a free lock":                  (*suite).preemptFree,
		"Preempt parks one that rests":               (*suite).preemptResting,
		"Preempt parks at the boundary":              (*suite).preemptAtWork,
		"Preempt follows a holder that died":         (*suite).preemptDead,
		"Preempt of one that ends with its step":     (*suite).preemptEnding,
		"Preempt never pre-empts a failover":         (*suite).preemptFailover,
		"Flags are refused once it has ended":        (*suite).flagsAfterEnd,
		"A parent's other children keep its failure": (*suite).firstChildFailure,
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			test(&suite{T: t, Subject: fresh(t), ctx: context.Background()})
		})
	}
}

type suite struct {
	*testing.T
	Subject
	ctx context.Context
}

// must ends the test on an error.
func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) check(ok bool, format string, args ...any) {
	s.Helper()
	if !ok {
		s.Errorf(format, args...)
	}
}

// pass lets the store's clock go on.
func (s *suite) pass(d time.Duration) {
	if a, ok := s.Subject.(Advancer); ok {
		a.Advance(d)
		return
	}
	<-time.After(d)
}

func (s *suite) enqueue(id string, locks ...string) {
	s.Helper()
	s.must(s.Enqueue(s.ctx, newOperation(id), locks...))
	s.pass(time.Millisecond) // so that the next one is due later
}

func newOperation(id string) *dbaas.Operation {
	return &dbaas.Operation{
		ID: id, Kind: "create", ProjectID: "demo", ResourceType: "instance", ResourceID: "db",
		Status: dbaas.OperationRunning, RequestID: "req-1", Actor: "user",
	}
}

// claim leases an operation, and ends the test when there is none.
func (s *suite) claim(id string, lease time.Duration) *dbaas.Operation {
	s.Helper()
	op, err := s.Claim(s.ctx, "w1", id, lease)
	s.must(err)
	if op == nil {
		s.Fatalf("nothing to claim for %q", id)
	}
	return op
}

// idle checks that there is nothing to claim.
func (s *suite) idle(id, why string) {
	s.Helper()
	op, err := s.Claim(s.ctx, "w2", id, long)
	s.must(err)
	if op != nil {
		s.Errorf("claimed %s: %s", op.ID, why)
	}
}

func (s *suite) save(op *dbaas.Operation, how engine.Save) {
	s.Helper()
	s.must(s.Save(s.ctx, op, how))
}

func (s *suite) row(id string) *dbaas.Operation {
	s.Helper()
	op, err := s.Operation(s.ctx, id)
	s.must(err)
	return op
}

func (s *suite) holds(resource, want string) {
	s.Helper()
	got, err := s.Holder(s.ctx, resource)
	s.must(err)
	s.check(got == want, "lock of %s is held by %q, want %q", resource, got, want)
}

// around checks that a duration is what was asked for, give or take what a real clock went on.
func (s *suite) around(what string, got, want time.Duration) {
	s.Helper()
	s.check(got <= want+slack && got >= want-slack, "%s is %s, want about %s", what, got, want)
}

func (s *suite) end(op *dbaas.Operation, status dbaas.OperationStatus) {
	s.Helper()
	op.Status = status
	s.save(op, engine.Save{Ended: true})
}

func (s *suite) claimLeases() {
	s.idle("", "the store is empty")
	s.idle("none", "there is no such operation")
	s.enqueue("a")
	op := s.claim("", long)
	s.check(op.ID == "a" && op.LeaseOwner == "w1" && op.LeaseEpoch == 1 && op.Status == dbaas.OperationRunning, "claimed as %+v", op)
	s.around("the lease", op.LeaseUntil.Sub(op.CreatedAt), long)
	if diff := cmp.Diff(op, s.row("a")); diff != "" {
		s.Errorf("row differs from what was claimed: %s", diff)
	}
	s.idle("", "it is leased")
	s.idle("a", "it is leased")
}

func (s *suite) claimOldest() {
	for _, id := range []string{"c", "a", "b"} {
		s.enqueue(id)
	}
	for _, want := range []string{"c", "a", "b"} {
		op := s.claim("", long)
		s.check(op.ID == want, "claimed %s before %s", op.ID, want)
	}
	s.idle("", "all are leased")
}

func (s *suite) claimByID() {
	s.enqueue("a")
	s.save(s.claim("a", long), engine.Save{WakeAfter: time.Hour})
	s.idle("", "it is not due")
	op := s.claim("a", long)
	s.check(op.LeaseEpoch == 2, "epoch %d after two claims", op.LeaseEpoch)
}

func (s *suite) claimExpired() {
	s.enqueue("a")
	s.claim("a", short)
	s.pass(blink)
	op := s.claim("", short)
	s.check(op.LeaseEpoch == 2, "epoch %d after two claims", op.LeaseEpoch)
	s.pass(blink)
	op = s.claim("a", short)
	s.check(op.LeaseEpoch == 3, "epoch %d after three claims", op.LeaseEpoch)
}

// claimByMany is the trial in which a lease condition that is not repeated hands one row to two workers.
func (s *suite) claimByMany() {
	const operations, workers = 60, 8
	for i := range operations {
		s.must(s.Enqueue(s.ctx, newOperation(fmt.Sprintf("op-%03d", i))))
	}
	s.pass(time.Millisecond)
	var mu sync.Mutex
	var all sync.WaitGroup
	times := map[string]int{}
	for w := range workers {
		all.Go(func() {
			for i := range operations {
				id := "" // by turns what is due and a certain one that others are after
				if i%3 == 2 {
					id = fmt.Sprintf("op-%03d", i)
				}
				op, err := s.Claim(s.ctx, fmt.Sprint("w", w), id, long)
				if err != nil {
					s.Error(err)
					return
				}
				if op != nil {
					mu.Lock()
					times[op.ID]++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	s.check(len(times) == operations, "%d of %d operations were claimed", len(times), operations)
	for id, n := range times {
		s.check(n == 1, "%s was claimed %d times within its lease", id, n)
	}
}

func (s *suite) claimAbsence() {
	s.enqueue("a")
	op := s.claim("a", long)
	s.check(op.StepSince == 0, "StepSince is %d before the first step", op.StepSince)
	s.save(op, engine.Save{NewStep: true})
	entered := op.StepSince
	s.pass(10 * blink)
	op = s.claim("a", short)
	waited := op.StepSince.Sub(entered)
	s.check(waited >= 10*blink-2*short && waited <= slack, "nobody came for %s of which %s were forgiven", 10*blink, waited)
	since := op.StepSince
	s.pass(blink) // its holder dies; the next comes soon after the end of the lease
	op = s.claim("a", slack)
	s.check(op.StepSince == since, "%s more were forgiven for a death", op.StepSince.Sub(since))
	s.save(op, engine.Save{WakeAfter: time.Hour})
	op = s.claim("a", long)
	s.check(op.StepSince == since, "a nudge moved StepSince by %s", op.StepSince.Sub(since))
}

func (s *suite) saveWrites() {
	s.enqueue("a")
	op := s.claim("a", long)
	op.Kind, op.Status, op.Step, op.StepNumber, op.StepTotal = "delete", dbaas.OperationFailing, "two", 2, 7
	op.State, op.Attempt, op.Progress = dbaas.JSON(`{"n": 1}`), 3, "waiting"
	op.StepSince = op.CreatedAt.Add(-time.Hour)
	op.Failure = &dbaas.Fault{Message: "m", Details: "d", At: op.CreatedAt}
	want := *op
	s.save(op, engine.Save{WakeAfter: time.Minute})
	got := s.row("a")
	if diff := cmp.Diff(op, got); diff != "" {
		s.Errorf("op differs from the row: %s", diff)
	}
	s.around("due in", got.WakeAt.Sub(want.WakeAt), time.Minute)
	s.check(got.LeaseOwner == "", "lease owner %q after the release", got.LeaseOwner)
	want.WakeAt, want.LeaseOwner, want.LeaseUntil, want.UpdatedAt = got.WakeAt, got.LeaseOwner, got.LeaseUntil, got.UpdatedAt
	if diff := cmp.Diff(&want, got, cmp.Transformer("text", func(j dbaas.JSON) string { return strings.ReplaceAll(string(j), " ", "") })); diff != "" {
		s.Errorf("written (-want +got): %s", diff)
	}
	got.State, got.Failure = nil, nil
	op = s.claim("a", long)
	op.State, op.Failure = nil, nil
	s.save(op, engine.Save{})
	s.check(len(s.row("a").State) == 0 && s.row("a").Failure == nil, "state and failure were not cleared")
	s.claim("", long)
}

func (s *suite) saveIsFenced() {
	s.enqueue("a", "db")
	stale := s.claim("a", short)
	s.pass(blink)
	op := s.claim("a", long)
	for name, how := range map[string]engine.Save{"keep": {Keep: long}, "release": {}, "end": {Ended: true}} {
		old := *stale
		old.Step, old.Status = "stale", dbaas.OperationRunning
		if how.Ended {
			old.Status = dbaas.OperationSucceeded
		}
		how.Step = &dbaas.OperationStep{OperationID: "a", Step: "stale", Outcome: "done"}
		how.Event = &dbaas.Event{OperationID: "a", Kind: "stale"}
		if err := s.Save(s.ctx, &old, how); !errors.Is(err, engine.ErrLeaseLost) {
			s.Errorf("%s with a lost lease: %v", name, err)
		}
	}
	if diff := cmp.Diff(op, s.row("a")); diff != "" {
		s.Errorf("a lost lease wrote: %s", diff)
	}
	steps, err := s.OperationSteps(s.ctx, "a")
	s.must(err)
	events, err := s.OperationEvents(s.ctx, "a")
	s.must(err)
	s.check(len(steps) == 0 && len(events) == 0, "a lost lease wrote %v %v", steps, events)
	s.holds("db", "a")
	s.end(op, dbaas.OperationSucceeded)
	if err := s.Save(s.ctx, op, engine.Save{Ended: true}); !errors.Is(err, engine.ErrLeaseLost) {
		s.Errorf("save after the end: %v", err)
	}
}

func (s *suite) saveLate() {
	s.enqueue("a")
	op := s.claim("a", short)
	s.pass(blink)
	op.Step = "late"
	s.save(op, engine.Save{})
	s.check(s.row("a").Step == "late", "the step was not saved")
}

func (s *suite) saveRefreshes() {
	s.enqueue("a", "db")
	op := s.claim("a", long)
	s.must(s.Supersede(s.ctx, "a", "delete"))
	s.must(s.Cancel(s.ctx, "a"))
	s.must(s.Preempt(s.ctx, failover("f"), "db"))
	s.save(op, engine.Save{Keep: long})
	s.check(op.SupersededBy == "delete" && op.Cancel && op.ParkedBy == "f", "holder sees %+v", op)
	stale := *op
	stale.SupersededBy, stale.Cancel, stale.ParkedBy = "", false, ""
	s.save(&stale, engine.Save{Keep: long})
	got := s.row("a")
	s.check(got.SupersededBy == "delete" && got.Cancel && got.ParkedBy == "f", "a save wrote what others set: %+v", got)
}

func (s *suite) saveKeeps() {
	s.enqueue("a")
	op := s.claim("a", short)
	s.save(op, engine.Save{Keep: long})
	s.pass(blink)
	s.idle("a", "its lease was extended")
	s.check(op.LeaseOwner == "w1" && op.LeaseEpoch == 1, "kept as %+v", op)
	s.around("the lease", op.LeaseUntil.Sub(op.CreatedAt), long)
	s.save(op, engine.Save{})
	s.claim("", long)
}

func (s *suite) saveNewStep() {
	s.enqueue("a")
	op := s.claim("a", long)
	op.Step, op.Attempt = "one", 4
	s.pass(blink)
	s.save(op, engine.Save{NewStep: true, Keep: long})
	s.check(op.Attempt == 0 && op.StepSince >= op.CreatedAt.Add(blink), "entered as %+v", op)
	since := op.StepSince
	s.pass(blink)
	op.Attempt = 1
	s.save(op, engine.Save{})
	s.check(op.Attempt == 1 && op.StepSince == since, "a retry changed attempt to %d, StepSince by %s", op.Attempt, op.StepSince.Sub(since))
}

func (s *suite) saveKeepsWakeUp() {
	s.enqueue("a")
	op := s.claim("a", long)
	s.must(s.Cancel(s.ctx, "a"))
	s.save(op, engine.Save{WakeAfter: time.Hour})
	s.pass(time.Millisecond)
	op = s.claim("", long) // it is due: it was woken while its holder worked
	s.save(op, engine.Save{WakeAfter: time.Hour})
	s.idle("", "nobody woke it again")
	s.must(s.Supersede(s.ctx, "a", "delete"))
	s.pass(time.Millisecond)
	s.claim("", long)
}

func (s *suite) saveSupersedes() {
	s.enqueue("a")
	op := s.claim("a", long)
	s.must(s.Cancel(s.ctx, "a"))
	s.must(s.Supersede(s.ctx, "a", "delete"))
	s.save(op, engine.Save{Keep: long})
	op.Kind = op.SupersededBy
	s.save(op, engine.Save{Keep: long, NewStep: true, Superseded: true})
	got := s.row("a")
	s.check(got.Kind == "delete" && got.SupersededBy == "" && !got.Cancel && got.ChildFailure == "", "superseded as %+v", got)
	s.check(op.SupersededBy == "" && !op.Cancel, "the holder sees %+v", op)
}

func (s *suite) saveNeverLosesDelete() {
	s.enqueue("a", "db")
	op := s.claim("a", long)
	s.must(s.Supersede(s.ctx, "a", "delete"))
	before := s.row("a")
	op.Status = dbaas.OperationSucceeded
	err := s.Save(s.ctx, op, engine.Save{
		Ended: true,
		Step:  &dbaas.OperationStep{OperationID: "a", Step: "one", Outcome: "done"},
		Event: &dbaas.Event{OperationID: "a", Kind: "k"},
	})
	if !errors.Is(err, engine.ErrSuperseded) {
		s.Fatalf("a superseded operation was ended: %v", err)
	}
	if diff := cmp.Diff(before, s.row("a")); diff != "" {
		s.Errorf("the refused save wrote: %s", diff)
	}
	s.holds("db", "a")
	op = s.row("a")
	op.Kind = op.SupersededBy
	s.save(op, engine.Save{Keep: long, NewStep: true, Superseded: true})
	s.end(op, dbaas.OperationSucceeded)
	steps, err := s.OperationSteps(s.ctx, "a")
	s.must(err)
	s.check(len(steps) == 0, "the refused save left history %+v", steps)
}

func (s *suite) saveRecords() {
	s.enqueue("a")
	op := s.claim("a", long)
	started := op.LeaseUntil.Add(-long)
	for i, outcome := range []string{"retry", "done"} {
		s.save(op, engine.Save{
			Keep:  long,
			Step:  &dbaas.OperationStep{OperationID: "a", Kind: "create", Step: "one", Attempt: i + 1, StartedAt: started, Outcome: outcome, Message: "m"},
			Event: &dbaas.Event{ProjectID: "demo", ResourceType: "instance", ResourceID: "db", OperationID: "a", Kind: "k", Message: "m", Actor: "user", RequestID: "req-1"},
		})
	}
	steps, err := s.OperationSteps(s.ctx, "a")
	s.must(err)
	if len(steps) != 2 {
		s.Fatalf("history %+v", steps)
	}
	for i, step := range steps {
		s.check(step.Number == i+1 && step.Attempt == i+1 && step.Step == "one" && step.Kind == "create" && step.Message == "m", "history %+v", step)
		s.check(step.StartedAt == started && step.EndedAt >= started, "times of %+v", step)
	}
	s.check(steps[0].Outcome == "retry" && steps[1].Outcome == "done", "outcomes %+v", steps)
	events, err := s.OperationEvents(s.ctx, "a")
	s.must(err)
	if len(events) != 2 || events[0].ID == "" || events[0].ID == events[1].ID || events[0].CreatedAt == 0 || events[0].Kind != "k" {
		s.Errorf("events %+v", events)
	}
}

func (s *suite) saveEnds() {
	for _, status := range []dbaas.OperationStatus{dbaas.OperationSucceeded, dbaas.OperationFailed, dbaas.OperationCancelled} {
		id := string(status)
		s.enqueue(id, "db", "group")
		op := s.claim(id, long)
		s.holds("db", id)
		s.end(op, status)
		s.holds("db", "")
		s.holds("group", "")
		got := s.row(id)
		s.check(got.Status == status && got.EndedAt >= got.CreatedAt && got.EndedAt != 0, "ended as %+v", got)
		s.idle(id, "it has ended")
		s.idle("", "it has ended")
	}
}

func (s *suite) saveTellsParent() {
	s.enqueue("parent", "cluster")
	s.save(s.claim("parent", long), engine.Save{WakeAfter: time.Hour})
	s.child("good")
	s.end(s.claim("good", long), dbaas.OperationSucceeded)
	s.pass(time.Millisecond)
	parent := s.claim("", long)
	s.check(parent.ID == "parent" && parent.ChildFailure == "", "a child that succeeded left %+v", parent)
	s.child("bad")
	bad := s.claim("bad", long)
	bad.Failure = &dbaas.Fault{Message: "No space."}
	s.end(bad, dbaas.OperationFailed)
	s.save(parent, engine.Save{WakeAfter: time.Hour})
	s.check(parent.ChildFailure == "No space.", "the parent at work sees %q", parent.ChildFailure)
	s.pass(time.Millisecond)
	s.check(s.claim("", long).ID == "parent", "the parent at work was not woken")
}

func (s *suite) child(id string) {
	s.Helper()
	op := newOperation(id)
	op.ParentID = "parent"
	s.must(s.Enqueue(s.ctx, op))
}

func (s *suite) firstChildFailure() {
	s.enqueue("parent")
	for _, id := range []string{"first", "second"} {
		s.child(id)
		op := s.claim(id, long)
		op.Failure = &dbaas.Fault{Message: id}
		s.end(op, dbaas.OperationFailed)
	}
	s.check(s.row("parent").ChildFailure == "first", "the parent's failure is %q", s.row("parent").ChildFailure)
}

func (s *suite) nextDue() {
	due := func() time.Duration {
		s.Helper()
		d, err := s.NextDue(s.ctx, time.Hour)
		s.must(err)
		return d
	}
	s.check(due() == time.Hour, "the empty store is due in %s", due())
	s.enqueue("a", "db")
	s.check(due() == 0, "a new operation is due in %s", due())
	op := s.claim("a", long)
	s.around("a leased operation is due in", due(), long)
	s.save(op, engine.Save{WakeAfter: 5 * time.Minute})
	s.around("a waiting operation is due in", due(), 5*time.Minute)
	s.claim("a", short)
	s.pass(blink)
	s.around("one whose holder died is due in", due(), 5*time.Minute)
	s.must(s.Preempt(s.ctx, failover("f"), "db"))
	s.end(s.claim("f", long), dbaas.OperationSucceeded)
	op = s.claim("a", long)
	s.end(op, dbaas.OperationSucceeded)
	s.check(due() == time.Hour, "with all ended due in %s", due())
	s.enqueue("b")
	s.save(s.claim("b", long), engine.Save{WakeAfter: 2 * time.Hour})
	s.check(due() == time.Hour, "beyond the limit due in %s", due())
}

func (s *suite) operation() {
	_, err := s.Operation(s.ctx, "00000000-0000-0000-0000-000000000000")
	s.check(dbaas.ErrorCode(err) == dbaas.NotFound, "a missing operation: %v", err)
	s.enqueue("a")
	got := s.row("a")
	s.check(got.Kind == "create" && got.ProjectID == "demo" && got.ResourceID == "db" && got.RequestID == "req-1" && got.Actor == "user", "read %+v", got)
	s.check(got.Status == dbaas.OperationRunning && got.CreatedAt != 0 && got.WakeAt != 0 && got.LeaseEpoch == 0, "read %+v", got)
}

func (s *suite) locks() {
	s.enqueue("a", "db", "group")
	err := s.Enqueue(s.ctx, newOperation("b"), "other", "group")
	s.check(dbaas.ErrorCode(err) == dbaas.Unprocessable && strings.Contains(dbaas.ErrorMessage(err), "create"), "a taken lock: %v", err)
	s.holds("other", "")
	_, err = s.Operation(s.ctx, "b")
	s.check(dbaas.ErrorCode(err) == dbaas.NotFound, "a refused operation was inserted: %v", err)
	s.enqueue("c", "other")
	s.holds("other", "c")
	s.holds("group", "a")
}

func (s *suite) lockRace() {
	const callers = 8
	var wins, refusals int
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			err := s.Enqueue(s.ctx, newOperation(fmt.Sprint("op", i)), "db")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				wins++
			case dbaas.ErrorCode(err) == dbaas.Unprocessable:
				refusals++
			default:
				s.Error(err)
			}
		})
	}
	all.Wait()
	s.check(wins == 1 && refusals == callers-1, "%d callers got the lock, %d were refused", wins, refusals)
}

func failover(id string) *dbaas.Operation {
	op := newOperation(id)
	op.Kind = "failover"
	return op
}

func (s *suite) preemptFree() {
	s.must(s.Preempt(s.ctx, failover("f"), "db", "group"))
	s.holds("db", "f")
	s.holds("group", "f")
	s.end(s.claim("f", long), dbaas.OperationSucceeded)
	s.holds("db", "")
	s.holds("group", "")
}

func (s *suite) preemptResting() {
	s.enqueue("a", "db", "group")
	s.save(s.claim("a", long), engine.Save{WakeAfter: time.Hour, NewStep: true})
	s.must(s.Preempt(s.ctx, failover("f"), "db"))
	s.holds("db", "f")
	s.holds("group", "a")
	got := s.row("a")
	s.check(got.Status == dbaas.OperationParked && got.ParkedBy == "f", "parked as %+v", got)
	s.idle("a", "it is parked")
	f := s.claim("f", long)
	s.pass(blink)
	s.idle("", "it is parked")
	s.end(f, dbaas.OperationFailed) // whatever its end
	s.holds("db", "a")
	s.holds("group", "a")
	s.pass(time.Millisecond)
	op := s.claim("", long)
	s.check(op.ID == "a" && op.Status == dbaas.OperationParked && op.ParkedBy == "", "goes on as %+v", op)
	s.check(op.StepSince >= op.CreatedAt.Add(blink), "the failover's time counts against its step")
	op.Status = dbaas.OperationRunning
	s.save(op, engine.Save{Keep: long, NewStep: true})
	s.end(op, dbaas.OperationSucceeded)
	s.holds("db", "")
	s.holds("group", "")
}

func (s *suite) preemptAtWork() {
	s.enqueue("a", "db")
	op := s.claim("a", long)
	s.must(s.Preempt(s.ctx, failover("f"), "db"))
	s.check(s.row("a").Status == dbaas.OperationRunning, "the holder at work is %s", s.row("a").Status)
	s.idle("f", "its victim is in a step")
	s.idle("", "its victim is in a step")
	s.save(op, engine.Save{Keep: long})
	s.check(op.ParkedBy == "f", "the holder was not told")
	s.idle("f", "its victim has not come to rest")
	op.Status = dbaas.OperationParked
	s.save(op, engine.Save{})
	s.pass(time.Millisecond)
	f := s.claim("", long)
	s.check(f.ID == "f", "claimed %s in place of the failover", f.ID)
	s.end(f, dbaas.OperationSucceeded)
	s.pass(time.Millisecond)
	s.check(s.claim("", long).ID == "a", "the victim does not go on")
}

func (s *suite) preemptDead() {
	s.enqueue("a", "db")
	dead := s.claim("a", blink)
	s.must(s.Preempt(s.ctx, failover("f"), "db"))
	s.pass(2 * blink)
	f := s.claim("", long)
	s.check(f.ID == "f", "claimed %s in place of the failover", f.ID)
	s.end(f, dbaas.OperationSucceeded)
	dead.Step = "stale"
	if err := s.Save(s.ctx, dead, engine.Save{Keep: long}); !errors.Is(err, engine.ErrLeaseLost) {
		s.Errorf("a holder from before the failover saved: %v", err)
	}
	s.pass(time.Millisecond)
	op := s.claim("", long)
	s.check(op.ID == "a" && op.Status == dbaas.OperationParked && op.Step == "", "goes on as %+v", op)
}

func (s *suite) preemptEnding() {
	s.enqueue("a", "db")
	op := s.claim("a", long)
	s.must(s.Preempt(s.ctx, failover("f"), "db"))
	s.end(op, dbaas.OperationSucceeded)
	s.holds("db", "f")
	s.pass(time.Millisecond)
	f := s.claim("", long)
	s.check(f.ID == "f", "claimed %s in place of the failover", f.ID)
	s.end(f, dbaas.OperationSucceeded)
	s.holds("db", "")
	s.check(s.row("a").Status == dbaas.OperationSucceeded, "the failover's end changed what had ended to %s", s.row("a").Status)
	s.idle("a", "it has ended")
}

func (s *suite) preemptFailover() {
	s.must(s.Preempt(s.ctx, failover("f"), "db"))
	err := s.Preempt(s.ctx, failover("g"), "db")
	s.check(dbaas.ErrorCode(err) == dbaas.Unprocessable, "a second failover: %v", err)
	s.holds("db", "f")
	s.enqueue("a", "other")
	s.must(s.Preempt(s.ctx, failover("h"), "other"))
	err = s.Preempt(s.ctx, failover("i"), "other")
	s.check(dbaas.ErrorCode(err) == dbaas.Unprocessable, "a second failover of a pre-empted one: %v", err)
	s.check(s.row("a").ParkedBy == "h", "parked by %q", s.row("a").ParkedBy)
}

func (s *suite) flagsAfterEnd() {
	s.enqueue("a")
	s.end(s.claim("a", long), dbaas.OperationSucceeded)
	s.check(s.Cancel(s.ctx, "a") != nil, "an ended operation was cancelled")
	s.check(s.Supersede(s.ctx, "a", "delete") != nil, "an ended operation was superseded")
	s.check(s.row("a").SupersededBy == "" && !s.row("a").Cancel, "an ended row changed")
}
