package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Memory is a [Store] in memory, for tests and the simulation. What internal/store does with rows and transactions it
// does with maps under a lock: the same locks, pre-emption, superseding and waking.
type Memory struct {
	mu    sync.Mutex
	clock clock.Clock
	rows  Rows
}

// Rows is what a Memory holds, each in the order of insertion.
type Rows struct {
	Operations []*dbaas.Operation
	Locks      []*dbaas.OperationLock
	Steps      []dbaas.OperationStep
	Events     []dbaas.Event
}

// NewMemory makes an empty Memory whose now is the clock's.
func NewMemory(c clock.Clock) *Memory { return &Memory{clock: c} }

var _ Store = (*Memory)(nil)

// Edit lets f look at the rows and change them, alone. Tests plant faults with it.
func (m *Memory) Edit(f func(now dbaas.Instant, rows *Rows)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m.now(), &m.rows)
}

func (m *Memory) now() dbaas.Instant { return dbaas.At(m.clock.Now()) }

// Operation finds a row, nil when there is none.
func (r *Rows) Operation(id string) *dbaas.Operation {
	for _, op := range r.Operations {
		if op.ID == id {
			return op
		}
	}
	return nil
}

// Lock finds a resource's lock, nil when it is free.
func (r *Rows) Lock(resource string) *dbaas.OperationLock {
	for _, l := range r.Locks {
		if l.ResourceID == resource {
			return l
		}
	}
	return nil
}

// Claim implements [Store].
func (m *Memory) Claim(_ context.Context, worker, id string, lease time.Duration) (*dbaas.Operation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var found *dbaas.Operation
	for _, op := range m.rows.Operations {
		if (id != "" && op.ID != id) || !m.rows.claimable(op, now) || (id == "" && op.WakeAt > now) {
			continue
		}
		if found == nil || op.WakeAt < found.WakeAt {
			found = op
		}
	}
	if found == nil {
		return nil, nil
	}
	if absent := now.Sub(max(found.WakeAt, found.LeaseUntil)) - lease; absent > 0 && found.StepSince != 0 {
		found.StepSince = found.StepSince.Add(absent)
	}
	found.LeaseOwner, found.LeaseUntil, found.UpdatedAt = worker, now.Add(lease), now
	found.LeaseEpoch++
	row := *found
	return &row, nil
}

// claimable tells whether an operation may be claimed, were it due.
func (r *Rows) claimable(op *dbaas.Operation, now dbaas.Instant) bool {
	return !op.Status.Ended() && op.ParkedBy == "" && r.freeAt(op) <= now
}

// freeAt tells when the lease of an operation, and of those that it parked, is over.
func (r *Rows) freeAt(op *dbaas.Operation) dbaas.Instant {
	at := op.LeaseUntil
	for _, parked := range r.Operations {
		if parked.ParkedBy == op.ID {
			at = max(at, parked.LeaseUntil)
		}
	}
	return at
}

// NextDue implements [Store].
func (m *Memory) NextDue(_ context.Context, limit time.Duration) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	due := now.Add(limit)
	for _, op := range m.rows.Operations {
		if !op.Status.Ended() && op.ParkedBy == "" {
			due = min(due, max(op.WakeAt, m.rows.freeAt(op)))
		}
	}
	return max(due.Sub(now), 0), nil
}

// Operation implements [Store].
func (m *Memory) Operation(_ context.Context, id string) (*dbaas.Operation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	op := m.rows.Operation(id)
	if op == nil {
		return nil, dbaas.Errorf(dbaas.NotFound, "Operation %s could not be found.", id)
	}
	row := *op
	return &row, nil
}

// Save implements [Store].
func (m *Memory) Save(_ context.Context, op *dbaas.Operation, s Save) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.rows.Operation(op.ID)
	if row == nil || row.LeaseEpoch != op.LeaseEpoch || row.Status.Ended() {
		return ErrLeaseLost
	}
	if s.Ended && row.SupersededBy != "" {
		return ErrSuperseded
	}
	now := m.now()
	row.Kind, row.Status, row.State, row.Progress, row.Failure = op.Kind, op.Status, op.State, op.Progress, op.Failure
	row.Step, row.StepNumber, row.StepTotal, row.Attempt, row.StepSince = op.Step, op.StepNumber, op.StepTotal, op.Attempt, op.StepSince
	reschedule(row, op.WakeAt, now, s)
	if s.NewStep {
		row.StepSince, row.Attempt = now, 0
	}
	if s.Superseded {
		row.Cancel, row.ChildFailure = false, ""
		if row.SupersededBy == row.Kind {
			row.SupersededBy = ""
		}
	}
	m.rows.record(row, now, s)
	if row.Status == dbaas.OperationParked {
		m.rows.wake(row.ParkedBy, now)
	}
	if s.Ended {
		m.rows.end(row, now)
	}
	*op = *row
	return nil
}

// reschedule sets when a saved row is due, and its lease. A wake-up that came since the holder read the row stays.
func reschedule(row *dbaas.Operation, read, now dbaas.Instant, s Save) {
	wake := now.Add(s.WakeAfter)
	if row.WakeAt != read {
		wake = min(wake, row.WakeAt)
	}
	row.WakeAt, row.UpdatedAt = wake, now
	row.LeaseUntil = now
	if s.Keep > 0 {
		row.LeaseUntil = now.Add(s.Keep)
	} else {
		row.LeaseOwner = ""
	}
}

// record keeps a save's line of history and event.
func (r *Rows) record(op *dbaas.Operation, now dbaas.Instant, s Save) {
	if s.Step != nil {
		step := *s.Step
		step.Number, step.EndedAt = 1, now
		for _, other := range r.Steps {
			if other.OperationID == op.ID {
				step.Number++
			}
		}
		r.Steps = append(r.Steps, step)
	}
	if s.Event != nil {
		event := *s.Event
		event.ID, event.CreatedAt = orElse(event.ID, fmt.Sprintf("event-%d", len(r.Events)+1)), orElse(event.CreatedAt, now)
		r.Events = append(r.Events, event)
	}
}

// wakeNow makes an operation due. The time always changes: by that a holder that saves notices it.
func wakeNow(op *dbaas.Operation, now dbaas.Instant) {
	if op.WakeAt > now {
		op.WakeAt = now
	} else {
		op.WakeAt--
	}
}

func (r *Rows) wake(id string, now dbaas.Instant) {
	if op := r.Operation(id); op != nil && !op.Status.Ended() {
		wakeNow(op, now)
	}
}

// end releases what an ended operation held, and tells its parent.
func (r *Rows) end(op *dbaas.Operation, now dbaas.Instant) {
	op.EndedAt = now
	for _, l := range r.Locks {
		switch {
		case l.ParkedID == op.ID: // it ended with the step in which a failover took its lock
			l.ParkedID = ""
		case l.OperationID == op.ID && l.ParkedID != "":
			l.OperationID, l.ParkedID = l.ParkedID, ""
		}
	}
	r.Locks = slices.DeleteFunc(r.Locks, func(l *dbaas.OperationLock) bool { return l.OperationID == op.ID })
	for _, parked := range r.Operations {
		if parked.ParkedBy == op.ID && !parked.Status.Ended() {
			r.unpark(parked, now)
		}
	}
	if parent := r.Operation(op.ParentID); parent != nil {
		if op.Status != dbaas.OperationSucceeded && op.Failure != nil && parent.ChildFailure == "" {
			parent.ChildFailure = op.Failure.Message
		}
		r.wake(parent.ID, now)
	}
}

// unpark lets an operation go on. A holder that never came to the boundary is shut out by the epoch.
func (r *Rows) unpark(op *dbaas.Operation, now dbaas.Instant) {
	op.ParkedBy, op.Status, op.StepSince = "", dbaas.OperationParked, now
	if op.LeaseOwner != "" {
		op.LeaseOwner = ""
		op.LeaseEpoch++
	}
	wakeNow(op, now)
}

// Enqueue inserts an operation that is due at once, and takes its locks, or none: dbaas.Unprocessable when an
// operation holds one already.
func (m *Memory) Enqueue(_ context.Context, op *dbaas.Operation, locks ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, resource := range locks {
		if l := m.rows.Lock(resource); l != nil {
			return m.rows.busy(l)
		}
	}
	m.rows.insert(op, m.now())
	for _, resource := range locks {
		m.rows.Locks = append(m.rows.Locks, &dbaas.OperationLock{ResourceID: resource, OperationID: op.ID})
	}
	return nil
}

func (r *Rows) busy(l *dbaas.OperationLock) error {
	holder := r.Operation(l.OperationID)
	return dbaas.Errorf(dbaas.Unprocessable, "Resource %s is busy: operation %s (%s) is not finished.", l.ResourceID, holder.ID, holder.Kind)
}

func (r *Rows) insert(op *dbaas.Operation, now dbaas.Instant) {
	op.ID = orElse(op.ID, fmt.Sprintf("operation-%d", len(r.Operations)+1))
	op.Status, op.CreatedAt, op.UpdatedAt, op.WakeAt = dbaas.OperationRunning, now, now, now
	row := *op
	r.Operations = append(r.Operations, &row)
}

// Preempt inserts a failover, which takes the locks over and parks who held them; dbaas.Unprocessable when that is a
// failover too.
func (m *Memory) Preempt(_ context.Context, failover *dbaas.Operation, locks ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, resource := range locks {
		if l := m.rows.Lock(resource); l != nil && (l.ParkedID != "" || m.rows.Operation(l.OperationID).Kind == failover.Kind) {
			return m.rows.busy(l)
		}
	}
	now := m.now()
	m.rows.insert(failover, now)
	for _, resource := range locks {
		l := m.rows.Lock(resource)
		if l == nil {
			m.rows.Locks = append(m.rows.Locks, &dbaas.OperationLock{ResourceID: resource, OperationID: failover.ID})
			continue
		}
		l.ParkedID, l.OperationID = l.OperationID, failover.ID
		m.rows.park(l.ParkedID, failover.ID, now)
	}
	return nil
}

// park stops an operation: at once when nobody holds its lease, else at its holder's next step boundary, for which the
// failover waits.
func (r *Rows) park(id, by string, now dbaas.Instant) {
	parked := r.Operation(id)
	parked.ParkedBy = by
	if parked.LeaseUntil <= now {
		parked.Status = dbaas.OperationParked
	}
}

// Supersede has an operation become one of another kind before its next step.
func (m *Memory) Supersede(_ context.Context, id, kind string) error {
	return m.mark(id, func(op *dbaas.Operation) { op.SupersededBy = kind })
}

// Cancel has an operation fail at its next step boundary.
func (m *Memory) Cancel(_ context.Context, id string) error {
	return m.mark(id, func(op *dbaas.Operation) { op.Cancel = true })
}

// Wake makes an operation due.
func (m *Memory) Wake(_ context.Context, id string) error {
	return m.mark(id, func(*dbaas.Operation) {})
}

// mark changes what others than the holder may change, and wakes the operation.
func (m *Memory) mark(id string, change func(*dbaas.Operation)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	op := m.rows.Operation(id)
	if op == nil {
		return dbaas.Errorf(dbaas.NotFound, "Operation %s could not be found.", id)
	}
	if op.Status.Ended() {
		return dbaas.Errorf(dbaas.Unprocessable, "Operation %s has ended.", id)
	}
	change(op)
	wakeNow(op, m.now())
	return nil
}

// Holder tells which operation holds a resource's lock, "" when it is free.
func (m *Memory) Holder(_ context.Context, resource string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.rows.Lock(resource); l != nil {
		return l.OperationID, nil
	}
	return "", nil
}

// OperationSteps gives an operation's history.
func (m *Memory) OperationSteps(_ context.Context, id string) ([]dbaas.OperationStep, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.rows.Steps), func(s dbaas.OperationStep) bool { return s.OperationID != id }), nil
}

// OperationEvents gives the events of an operation.
func (m *Memory) OperationEvents(_ context.Context, id string) ([]dbaas.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(m.rows.Events), func(e dbaas.Event) bool { return e.OperationID != id }), nil
}
