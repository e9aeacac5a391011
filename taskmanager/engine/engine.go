// Package engine runs operations: rows that survive any crash, moved from step to step by whoever holds their lease.
//
// It knows the operation row and nothing of Redis or Nova. A workflow is data: a kind, its steps, and what to do when
// it fails for good. A step has at most one outside effect, may run twice, may stop half way, and never waits: it says
// [Wait] and the engine comes back.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Workflow is what an operation of one kind does.
type Workflow struct {
	Kind  string // "create_instance"; stored in rows
	Doc   string // one sentence, for docs/workflows.md
	Steps []Step
	// Failed brings the resource into the end state that the workflow declares when a step failed for good: removes
	// what was added, restores the old values, sets the fault (op.Failure). Like a step it may run twice and may Wait.
	Failed func(ctx context.Context, op *Operation) error
	// Resumed is called before the next step when a pre-empted operation goes on: it looks at the world again and gives
	// the step to go on with ("" for the one at hand), or a Permanent error to end it. nil goes on where it was.
	Resumed func(ctx context.Context, op *Operation) (step string, err error)
	// ChildrenMayFail: a failed child is no failure of this operation.
	ChildrenMayFail bool
	// Ended describes for docs/workflows.md how a resource ends when the workflow fails.
	Ended string
}

// Step is one link of a workflow.
type Step struct {
	Name string // "ensureVolume"; stored in rows
	Doc  string // what is being done, as users read it: "creating the volume"
	Run  func(ctx context.Context, op *Operation) error
	// Within is how long the step may take in all, waits and retries included; every step has one.
	Within time.Duration
}

// Operation is what a step sees: the row, which it may change only through the methods here.
type Operation struct {
	dbaas.Operation
}

// Load decodes the workflow's private state into v.
func (op *Operation) Load(v any) error {
	if len(op.State) == 0 {
		return nil
	}
	if err := json.Unmarshal(op.State, v); err != nil {
		return fmt.Errorf("decode state of operation %s: %w", op.ID, err)
	}
	return nil
}

// Put replaces the workflow's private state; it is saved with the step's outcome.
func (op *Operation) Put(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode state of operation %s: %w", op.ID, err)
	}
	op.State = b
	return nil
}

// SetProgress tells users what is being waited for.
func (op *Operation) SetProgress(format string, args ...any) {
	op.Progress = fmt.Sprintf(format, args...)
}

type waitError struct{ after time.Duration }

func (w *waitError) Error() string { return fmt.Sprintf("waiting %s", w.after) }

// Wait ends a step that must be looked at again after d, or sooner when something nudges the operation. It is neither
// a failure nor an attempt, and holds no worker.
func Wait(d time.Duration) error { return &waitError{after: d} }

type permanentError struct{ err error }

func (p *permanentError) Error() string { return p.err.Error() }
func (p *permanentError) Unwrap() error { return p.err }

// Permanent marks an error that no retry can mend: the operation fails at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err: err}
}

// IsPermanent tells whether err was marked by [Permanent].
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

// ErrLeaseLost tells that another worker holds the operation now: the holder stops without a further effect.
var ErrLeaseLost = errors.New("the operation's lease was lost")

// ErrSuperseded tells that an operation was not ended, for it is to become another one: the holder looks again.
var ErrSuperseded = errors.New("the operation was superseded before it ended")

// Store keeps operations. Implementations: internal/store on SQL, [Memory] in memory; both pass engine/enginetest.
// "Now" is the store's own clock, the same for all workers. Others write rows too: a delete sets SupersededBy, a
// failover ParkedBy, an operator Cancel, a child that failed ChildFailure; each wakes it: WakeAt becomes now, or where it
// is earlier already another time than it was, for the holder's save to notice.
//
// A failover that finds a lock taken parks its holder: it takes the lock over, remembers whose it was in the lock's
// ParkedID, and sets the holder's ParkedBy. An operation with ParkedBy is never claimed. When the failover ends it gets
// the lock back: ParkedBy is cleared, Status is "parked" until the engine has resumed it, StepSince and WakeAt are now. A
// holder that never came to the boundary is shut out by LeaseEpoch.
type Store interface {
	// Claim leases a due operation to worker: the one with this id, or with id "" the one that has been due longest.
	// Due is: not ended, ParkedBy empty, WakeAt reached (a nudge by id may pass it), no valid lease, and no operation
	// that it parked holds a valid lease either. Each claim increments LeaseEpoch. The row is given as it stands after
	// the claim: LeaseUntil is the store's now plus lease. Time in which nobody came to claim it does not count against
	// the step, beyond the length of a lease: what passed since both WakeAt and LeaseUntil as they were, less lease, is
	// added to StepSince (where that is set). It gives nil when there is none.
	Claim(ctx context.Context, worker, id string, lease time.Duration) (*dbaas.Operation, error)
	// Save writes what the holder did. The row is guarded by LeaseEpoch: ErrLeaseLost when another has claimed it, or
	// when it has ended. Written are Kind, Status, Step, StepNumber, StepTotal, State, Attempt, StepSince, Progress and
	// Failure; never what others set. Afterwards op is the row as it stands, with what others have set meanwhile
	// (SupersededBy, ParkedBy, Cancel, ChildFailure, WakeAt). A save whose Status is "parked" wakes the operation named
	// by ParkedBy. A save that ends an operation whose row has SupersededBy writes nothing and gives ErrSuperseded: a
	// delete that was accepted during the last step would be lost.
	Save(ctx context.Context, op *dbaas.Operation, s Save) error
	// NextDue tells how long until an operation can be claimed with id "": due, and its lease over; at most limit.
	NextDue(ctx context.Context, limit time.Duration) (time.Duration, error)
	// Operation reads a row; dbaas.NotFound when there is none.
	Operation(ctx context.Context, id string) (*dbaas.Operation, error)
}

// Save is how an operation leaves a step.
type Save struct {
	// Keep extends the lease to the store's now plus this, for the holder to go on with the next step; 0 releases it.
	Keep time.Duration
	// WakeAfter sets WakeAt to the store's now plus this. When somebody set the row's WakeAt since the holder read it
	// (it differs from op.WakeAt), the earlier of the two stays: a wake-up is never lost.
	WakeAfter time.Duration
	// NewStep tells that the operation entered op.Step: StepSince becomes now and Attempt 0.
	NewStep bool
	// Superseded tells that the operation became that of SupersededBy: Cancel and ChildFailure are cleared, and
	// SupersededBy where it is still Kind.
	Superseded bool
	// Step, when set, is appended to the operation's history; Number and EndedAt are the store's.
	Step *dbaas.OperationStep
	// Ended: op.Status has come to an end. Locks are released (or given back to the operation that was parked, which
	// becomes runnable), EndedAt is set, and a parent is woken; a failure is written to its ChildFailure (the first one
	// stays).
	Ended bool
	// Event, when set, is recorded in the same transaction; ID and CreatedAt are the store's where empty.
	Event *dbaas.Event
}
