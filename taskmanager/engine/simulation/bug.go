package simulation

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// Bug is a mistake that can be planted, to see that the auditor finds it.
type Bug string

// The mistakes.
const (
	NoBug                  Bug = ""
	SaveWithoutLease       Bug = "a save does not look whether the lease is still held"
	EpochStays             Bug = "a claim does not increment the lease's epoch"
	ClaimOfLeased          Bug = "a claim by id takes what is leased"
	LocksKept              Bug = "an operation's end does not release its locks"
	LockOutsideTransaction Bug = "the lock is looked at before the transaction that takes it"
	EffectNotLookedUp      Bug = "a resource is created without looking whether it is there"
	VolumeForgotten        Bug = "a delete leaves the volume"
	NoScan                 Bug = "work is found by nudges alone"
	QuotaGivenBackTwice    Bug = "a delete that is repeated gives its quota back again"
	DeafWhileFailing       Bug = "a delete is not seen by an operation that is cleaning up"
	DeleteLostAtTheEnd     Bug = "an operation ends though a delete was accepted during its last step"
	ParkedForever          Bug = "a failover's end does not give the lock back"
	FailoverRushes         Bug = "a failover does not wait for the step of whom it parked"
	GuestTakesAnyEpoch     Bug = "a guest obeys a holder that was replaced"
	OwnEffectIsConflict    Bug = "a repeated step takes its own effect for somebody else's"
	RowsWithoutFence       Bug = "a step writes rows without looking whether the lease is still held"
	ChildFailureLost       Bug = "a child's failure does not reach its parent"
)

// Bugs lists them all.
func Bugs() []Bug {
	return []Bug{
		SaveWithoutLease, EpochStays, ClaimOfLeased, LocksKept, LockOutsideTransaction, EffectNotLookedUp, VolumeForgotten,
		NoScan, QuotaGivenBackTwice, DeafWhileFailing, DeleteLostAtTheEnd, ParkedForever, FailoverRushes, GuestTakesAnyEpoch,
		OwnEffectIsConflict, RowsWithoutFence, ChildFailureLost,
	}
}

// claim is the store's, with the mistakes that concern claiming.
func (g *gate) claim(ctx context.Context, worker, id string, d time.Duration) (*dbaas.Operation, error) {
	m := g.world.memory
	undo := func() {}
	switch g.world.Bug {
	case ClaimOfLeased:
		edit(m, func(op *dbaas.Operation) bool { return op.ID == id }, func(op *dbaas.Operation) { op.LeaseUntil = 0 })
	case FailoverRushes:
		victim := func(op *dbaas.Operation) bool { return op.ParkedBy != "" && op.ParkedBy == id }
		edit(m, victim, func(op *dbaas.Operation) {
			until := op.LeaseUntil
			op.LeaseUntil = 0
			undo = func() { op.LeaseUntil = until }
		})
	}
	op, err := m.Claim(ctx, worker, id, d)
	undo()
	if op != nil && g.world.Bug == EpochStays {
		op.LeaseEpoch--
		edit(m, func(row *dbaas.Operation) bool { return row.ID == op.ID }, func(row *dbaas.Operation) { row.LeaseEpoch-- })
	}
	return op, err
}

// save is the store's, with the mistakes that concern saving.
func (g *gate) save(ctx context.Context, op *dbaas.Operation, s engine.Save) error {
	m := g.world.memory
	row, _ := m.Operation(ctx, op.ID)
	switch deaf := g.world.Bug == DeafWhileFailing && row.Status == dbaas.OperationFailing; {
	case g.world.Bug == SaveWithoutLease:
		op.LeaseEpoch = row.LeaseEpoch
	case s.Ended && (deaf || g.world.Bug == DeleteLostAtTheEnd):
		edit(m, func(other *dbaas.Operation) bool { return other.ID == op.ID }, func(other *dbaas.Operation) { other.SupersededBy = "" })
	}
	err := m.Save(ctx, op, s)
	if err != nil || !s.Ended {
		return err
	}
	m.Edit(func(_ dbaas.Instant, rows *engine.Rows) {
		switch g.world.Bug {
		case LocksKept:
			rows.Locks = append(rows.Locks, &dbaas.OperationLock{ResourceID: op.ResourceID, OperationID: op.ID})
		case ParkedForever:
			for _, other := range rows.Operations {
				if other.Status == dbaas.OperationParked && !other.Status.Ended() && other.ResourceID == op.ResourceID {
					other.ParkedBy = op.ID
				}
			}
		case ChildFailureLost:
			if parent := rows.Operation(op.ParentID); parent != nil {
				parent.ChildFailure = ""
			}
		}
	})
	return nil
}

// hide keeps from a holder what it would not see.
func (g *gate) hide(op *dbaas.Operation) {
	if g.world.Bug == DeafWhileFailing && op.Status == dbaas.OperationFailing {
		op.SupersededBy = ""
	}
}

func edit(m *engine.Memory, which func(*dbaas.Operation) bool, change func(*dbaas.Operation)) {
	m.Edit(func(_ dbaas.Instant, rows *engine.Rows) {
		for _, op := range rows.Operations {
			if which(op) {
				change(op)
			}
		}
	})
}
