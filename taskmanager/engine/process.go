package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/telemetry"
)

const (
	// cancelled is the sentence of an operation that an operator ended.
	cancelled = "The operation was cancelled by an operator."
	// cleanup is the name under which a workflow's Failed stands in an operation's history.
	cleanup = "cleanup"
	// strangerAfter is when an operation is looked at again that this release does not know.
	strangerAfter = 30 * time.Second
)

// hold is an operation while this worker has its lease.
type hold struct {
	*Operation
	lease  context.Context // ends before the lease does
	cancel context.CancelFunc
	now    dbaas.Instant        // the store's now at the last claim or save
	record *dbaas.OperationStep // of a step whose save was refused with ErrSuperseded
}

// ProcessOne claims an operation (the one with this id, or with "" the one that has been due longest) and works on it
// until it ends, waits, or must be tried again later. It is false when there was nothing to claim. An error tells that
// the store failed; the operation is taken up again when its lease is over.
func (e *Engine) ProcessOne(ctx context.Context, id string) (worked bool, err error) {
	h, err := e.claim(ctx, id)
	if h == nil {
		return false, err
	}
	return true, e.work(ctx, h)
}

func (e *Engine) claim(ctx context.Context, id string) (*hold, error) {
	lease, cancel := e.newLease(ctx) // before the store reads its clock
	row, err := e.Store.Claim(ctx, e.Worker, id, e.Lease)
	if row == nil || err != nil {
		cancel()
		if err != nil {
			err = fmt.Errorf("claim operation: %w", err)
		}
		return nil, err
	}
	h := &hold{Operation: &Operation{Operation: *row}, lease: lease, cancel: cancel}
	h.now = h.LeaseUntil.Add(-e.Lease)
	return h, nil
}

// newLease makes a context that ends a margin before a lease taken now does. It outlives ctx by the grace.
func (e *Engine) newLease(ctx context.Context) (context.Context, context.CancelFunc) {
	lease, cancel := e.Timeout(context.WithoutCancel(ctx), e.Lease-e.Lease/5)
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(e.Grace)
		defer timer.Stop()
		select {
		case <-lease.Done():
		case <-timer.C:
			cancel()
		}
	})
	return lease, func() { stop(); cancel() }
}

// work takes steps until the lease is given up.
func (e *Engine) work(ctx context.Context, h *hold) error {
	defer func() { h.cancel() }()
	for {
		m := e.next(h)
		if m.lost {
			e.Logger.Info("lease lost", "operation", h.ID, "kind", h.Kind, "step", h.Step, "epoch", h.LeaseEpoch)
			return nil
		}
		if goOn, err := e.save(ctx, h, m); !goOn || err != nil {
			return err
		}
	}
}

// move is what becomes of an operation: how it is saved, and what is told about it. Without an outcome it is no
// transition: the operation waits, or is left to others.
type move struct {
	Save
	outcome Outcome
	kind    string // of the workflow that was at work
	step    string // that was at work
	err     error
	ran     time.Duration
	inStep  time.Duration
	lost    bool // the lease was lost: nothing may be saved
}

// next decides what comes next for an operation and does it: one look at the flags, at most one step.
func (e *Engine) next(h *hold) move {
	kind, step, inStep := h.Kind, h.Step, time.Duration(0)
	if !h.StepSince.IsZero() {
		inStep = h.now.Sub(h.StepSince)
	}
	m := e.look(h)
	m.kind, m.step, m.inStep = kind, step, inStep+m.ran
	return m
}

func (e *Engine) look(h *hold) move {
	w, known := e.workflows[h.Kind]
	heir, superseded := e.workflows[h.SupersededBy]
	switch {
	case h.ParkedBy != "":
		h.Status = dbaas.OperationParked
		return move{outcome: Parked}
	case superseded:
		return e.supersede(h, heir)
	case !known || h.SupersededBy != "":
		return e.leave(h, "operation of an unknown kind left to others")
	}
	i, known := w.find(h.Step)
	switch {
	case !known:
		return e.leave(h, "operation at an unknown step left to others")
	case h.Status == dbaas.OperationParked:
		return e.attempt(h, e.resumption(h, w, &w.Steps[i]))
	case h.Status == dbaas.OperationFailing:
		return e.attempt(h, e.cleanup(h, w))
	case h.Cancel:
		return e.fail(h, w, dbaas.Fault{Message: cancelled})
	case h.ChildFailure != "" && !w.ChildrenMayFail:
		return e.fail(h, w, dbaas.Fault{Message: h.ChildFailure, Details: "an operation that this one started has failed"})
	case h.Step == "":
		h.enter(w, 0)
		return move{Save: Save{NewStep: true}, outcome: Started}
	}
	return e.attempt(h, e.step(h, w, i))
}

// enter puts an operation at the beginning of a step.
func (h *hold) enter(w *Workflow, i int) {
	h.Step, h.StepNumber, h.StepTotal, h.Progress = w.Steps[i].Name, i+1, len(w.Steps), ""
}

// supersede makes the operation one of another workflow: the same row, with the same locks, from its first step.
func (e *Engine) supersede(h *hold, heir *Workflow) move {
	h.Kind, h.Status, h.State, h.Failure = heir.Kind, dbaas.OperationRunning, nil, nil
	h.enter(heir, 0)
	return move{Save: Save{NewStep: true, Superseded: true}, outcome: Superseded}
}

// leave releases an operation that only another release understands.
func (e *Engine) leave(h *hold, message string) move {
	e.Logger.Warn(message, "operation", h.ID, "kind", h.Kind, "step", h.Step)
	return move{Save: Save{WakeAfter: strangerAfter}}
}

// fail begins the end of an operation.
func (e *Engine) fail(h *hold, w *Workflow, f dbaas.Fault) move {
	f.At = h.now
	h.Failure = &f
	if w.Failed == nil {
		return e.end(h, failedStatus(h))
	}
	h.Status, h.Progress = dbaas.OperationFailing, ""
	return move{Save: Save{NewStep: true}, outcome: Failing}
}

func failedStatus(h *hold) dbaas.OperationStatus {
	if h.Failure.Message == cancelled {
		return dbaas.OperationCancelled
	}
	return dbaas.OperationFailed
}

func (e *Engine) end(h *hold, s dbaas.OperationStatus) move {
	h.Status, h.Progress = s, ""
	return move{Save: Save{Ended: true}, outcome: Outcome(s)}
}

// task is something to try until it succeeds or its time is over: a step, a cleanup, a resumption.
type task struct {
	name   string
	doc    string
	within time.Duration
	run    func(context.Context, *Operation) error
	done   func() move            // it succeeded
	broken func(dbaas.Fault) move // it failed for good
}

func (e *Engine) step(h *hold, w *Workflow, i int) task {
	s := &w.Steps[i]
	done := func() move {
		if i+1 == len(w.Steps) {
			return e.end(h, dbaas.OperationSucceeded)
		}
		h.enter(w, i+1)
		return move{Save: Save{NewStep: true}, outcome: Done}
	}
	broken := func(f dbaas.Fault) move { return e.fail(h, w, f) }
	return task{name: s.Name, doc: s.Doc, within: s.Within, run: s.Run, done: done, broken: broken}
}

func (e *Engine) cleanup(h *hold, w *Workflow) task {
	status := failedStatus(h)
	broken := func(f dbaas.Fault) move {
		h.Failure = &dbaas.Fault{
			Message: h.Failure.Message + " Cleaning up after it did not finish.",
			Details: strings.TrimSpace(h.Failure.Details + "\n" + cleanup + ": " + f.Details),
			At:      h.Failure.At,
		}
		return e.end(h, status)
	}
	done := func() move { return e.end(h, status) }
	return task{name: cleanup, doc: "cleaning up", within: e.CleanupWithin, run: w.Failed, done: done, broken: broken}
}

// resumption lets the workflow look at the world again before an operation goes on that a failover had pre-empted. One
// that was cleaning up goes on with that.
func (e *Engine) resumption(h *hold, w *Workflow, s *Step) task {
	step := h.Step
	run := func(ctx context.Context, op *Operation) error {
		if w.Resumed == nil || op.Failure != nil {
			return nil
		}
		chosen, err := w.Resumed(ctx, op)
		step = orElse(chosen, step)
		return err
	}
	broken := func(f dbaas.Fault) move { return e.fail(h, w, f) }
	done := func() move {
		i, known := w.find(step)
		if !known {
			return broken(dbaas.Fault{Message: failed(s.Doc, nil), Details: fmt.Sprintf("resumed at an unknown step %q", step)})
		}
		h.enter(w, i)
		h.Status = dbaas.OperationRunning
		if h.Failure != nil {
			h.Status = dbaas.OperationFailing
		}
		return move{Save: Save{NewStep: true}, outcome: Resumed}
	}
	return task{name: h.Step, doc: s.Doc, within: s.Within, run: run, done: done, broken: broken}
}

// attempt tries a task once, and judges how that ended.
func (e *Engine) attempt(h *hold, t task) move {
	record := dbaas.OperationStep{OperationID: h.ID, Kind: h.Kind, Step: t.name, Attempt: h.Attempt + 1, StartedAt: h.now}
	if h.now.Sub(h.StepSince) > t.within+2*e.Lease { // it had its last look, and took its holder along
		return told(h, t.broken(t.expired(h, errNoReturn)), record, errNoReturn)
	}
	e.Observe(BeforeStep, h.Operation)
	began := e.Clock.Now()
	err := e.run(h, t.run)
	ran := e.Clock.Now().Sub(began)
	e.Observe(AfterEffect, h.Operation)
	m := told(h, e.judge(h, t, err), record, err)
	m.ran = ran
	return m
}

// run calls a step, a panic in which is a failed try.
func (e *Engine) run(h *hold, f func(context.Context, *Operation) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e.Logger.Error("step panicked", "operation", h.ID, "kind", h.Kind, "step", h.Step, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic in step %s: %v", h.Step, p)
		}
	}()
	if err := h.lease.Err(); err != nil {
		return fmt.Errorf("the lease is over: %w", err)
	}
	ctx := telemetry.WithTraceParent(telemetry.WithRequestID(h.lease, h.RequestID), h.TraceParent)
	return f(ctx, h.Operation)
}

// judge tells what becomes of an operation after a try.
func (e *Engine) judge(h *hold, t task, err error) move {
	left := t.within - h.now.Sub(h.StepSince)
	var wait *waitError
	var permanent *permanentError
	switch {
	case err == nil:
		return t.done()
	case errors.Is(err, ErrLeaseLost):
		return move{lost: true}
	case errors.As(err, &permanent):
		return t.broken(dbaas.Fault{Message: failed(t.doc, err), Details: err.Error()})
	case errors.Is(h.lease.Err(), context.Canceled): // this process is stopping: not the step's fault
		return move{}
	case left <= 0:
		return t.broken(t.expired(h, err))
	case errors.As(err, &wait):
		return move{Save: Save{WakeAfter: min(max(wait.after, 0), left)}}
	}
	h.Attempt++
	if sentence := userMessage(err); sentence != "" {
		h.Progress = sentence
	}
	return move{Save: Save{WakeAfter: min(e.Retry.After(h.Attempt), left)}, outcome: Retry}
}

// told adds to a move the line that the operation's history gets. Waits leave none.
func told(h *hold, m move, record dbaas.OperationStep, err error) move {
	switch {
	case m.outcome == "" || m.outcome == Parked:
		return m
	case err == nil:
		record.Outcome = "done"
	case m.outcome == Retry:
		record.Outcome, record.Message = "retry", dbaas.ErrorMessage(err)
	default:
		record.Outcome, record.Message = "failed", h.Failure.Message
	}
	m.Step, m.err = &record, err
	return m
}

// errNoReturn is how the last try of a step ended that took its holder along each time.
var errNoReturn = errors.New("its last try did not return")

// expired is the fault of a task whose time is over; err is how its last try ended.
func (t task) expired(h *hold, err error) dbaas.Fault {
	last := orElse(userMessage(err), h.Progress)
	message := fmt.Sprintf("%s did not finish within %s", capital(t.doc), short(t.within))
	if last != "" {
		message += ": " + last
	}
	return dbaas.Fault{Message: sentence(message), Details: err.Error()}
}

// failed is the sentence for users about something that no retry can mend.
func failed(doc string, err error) string {
	if reason := userMessage(err); reason != "" {
		return sentence(capital(doc) + " failed: " + reason)
	}
	return capital(doc) + " failed: " + dbaas.ErrorMessage(errNoReturn) // the fixed sentence about internal errors
}

// userMessage is what an error says to users, "" when it has nothing for them.
func userMessage(err error) string {
	if e := (*dbaas.Error)(nil); errors.As(err, &e) {
		return e.Message
	}
	return ""
}

func sentence(s string) string {
	if strings.HasSuffix(s, ".") || strings.HasSuffix(s, "!") {
		return s
	}
	return s + "."
}

func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// short writes a duration without zero minutes and seconds: 30m, not 30m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// save writes a move and tells of it. It is true when this holder goes on.
func (e *Engine) save(ctx context.Context, h *hold, m move) (goOn bool, err error) {
	if m.NewStep && !e.OneStep && ctx.Err() == nil {
		m.Keep = e.Lease
	}
	if m.Step == nil {
		m.Step = h.record
	}
	m.Event = event(h, m)
	lease, cancel := e.newLease(ctx) // before the store reads its clock
	h.cancel()
	h.lease, h.cancel = lease, cancel
	err = e.Store.Save(lease, &h.Operation.Operation, m.Save)
	switch {
	case errors.Is(err, ErrLeaseLost):
		e.Logger.Info("lease lost", "operation", h.ID, "kind", m.kind, "step", m.step, "epoch", h.LeaseEpoch)
		return false, nil
	case errors.Is(err, ErrSuperseded):
		return e.reload(lease, h, m)
	case err != nil:
		e.Logger.Warn("operation not saved", "operation", h.ID, "kind", m.kind, "step", m.step, "error", err)
		return false, fmt.Errorf("save operation %s: %w", h.ID, err)
	}
	h.now, h.record = h.LeaseUntil.Add(-m.Keep), nil
	e.tell(h, m)
	e.Observe(AfterSave, h.Operation)
	return m.Keep > 0, nil
}

// reload looks at the row again that could not be ended, for a delete was accepted during its last step.
func (e *Engine) reload(ctx context.Context, h *hold, m move) (goOn bool, err error) {
	row, err := e.Store.Operation(ctx, h.ID)
	if err != nil {
		return false, fmt.Errorf("read operation %s: %w", h.ID, err)
	}
	if row.LeaseEpoch != h.LeaseEpoch || row.SupersededBy == "" {
		return false, nil
	}
	h.Operation.Operation, h.record = *row, m.Step
	return true, nil
}

// tell writes the log line and the metric of a transition.
func (e *Engine) tell(h *hold, m move) {
	if m.outcome == "" {
		e.Logger.Debug("operation waits", "operation", h.ID, "kind", h.Kind, "step", h.Step, "for", m.WakeAfter)
		return
	}
	args := []any{
		"operation", h.ID, "kind", m.kind, "resource", h.ResourceID, "step", m.step, "outcome", m.outcome,
		"next", h.Step, "ran", m.ran, "in_step", m.inStep, "request_id", h.RequestID,
	}
	if m.err != nil {
		e.Logger.Warn("operation moved", append(args, "attempt", h.Attempt, "error", m.err)...)
	} else {
		e.Logger.Info("operation moved", args...)
	}
	e.OnTransition(Transition{
		Operation: h.Operation.Operation, Kind: m.kind, Step: m.step, Outcome: m.outcome, Err: m.err, Ran: m.ran, InStep: m.inStep,
	})
}

// event is the line about a transition among what happened to the resource. A retry is in the operation's history only.
func event(h *hold, m move) *dbaas.Event {
	name, message := string(m.outcome), ""
	switch m.outcome {
	case "", Retry:
		return nil
	case Started, Done:
		name, message = h.Step, fmt.Sprintf("Step %d of %d: %s.", h.StepNumber, h.StepTotal, h.Step)
	case Failing, Failed, Cancelled:
		message = h.Failure.Message
	case Superseded:
		message = fmt.Sprintf("The operation %s became %s.", m.kind, h.Kind)
	default:
		message = fmt.Sprintf("The operation %s %s.", h.Kind, map[Outcome]string{
			Parked: "waits for a failover", Resumed: "goes on after a failover", Succeeded: "succeeded",
		}[m.outcome])
	}
	return &dbaas.Event{
		ProjectID: h.ProjectID, ResourceType: h.ResourceType, ResourceID: h.ResourceID, OperationID: h.ID,
		Kind: "operation." + m.kind + "." + name, Message: message, Actor: h.Actor, RequestID: h.RequestID,
	}
}
