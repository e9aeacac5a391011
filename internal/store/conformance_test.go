package store

import (
	"context"
	"testing"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine/enginetest"
)

// subject is a Store as the engine's conformance suite wants it.
type subject struct{ *Store }

func (s subject) Enqueue(ctx context.Context, op *dbaas.Operation, locks ...string) error {
	return s.Tx(ctx, func(tx *Tx) error { return tx.Enqueue(op, locks...) })
}

func (s subject) Preempt(ctx context.Context, failover *dbaas.Operation, locks ...string) error {
	return s.Tx(ctx, func(tx *Tx) error { return tx.Preempt(failover, locks...) })
}

func (s subject) Supersede(ctx context.Context, id, kind string) error {
	return s.Tx(ctx, func(tx *Tx) error { return tx.Supersede(id, kind) })
}

func (s subject) Cancel(ctx context.Context, id string) error {
	return s.Tx(ctx, func(tx *Tx) error { return tx.CancelOperation(id) })
}

func (s subject) Holder(ctx context.Context, resource string) (id string, err error) {
	err = s.Tx(ctx, func(tx *Tx) error {
		op, err := tx.OperationHolding(resource)
		if op != nil {
			id = op.ID
		}
		return err
	})
	return id, err
}

func (s subject) OperationEvents(ctx context.Context, id string) (events []dbaas.Event, err error) {
	err = s.read.WithContext(ctx).Where("operation_id = ?", id).Find(&events).Error
	return events, err
}

func TestEngineStore(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		enginetest.Run(t, func(t *testing.T) enginetest.Subject { return subject{openSQLite(t)} })
	})
	t.Run("postgres", func(t *testing.T) {
		s := openPostgres(t) // one for all, emptied: making a database takes longer than a test
		enginetest.Run(t, func(t *testing.T) enginetest.Subject {
			do(t, s, func(tx *Tx) error {
				return tx.db.Exec("TRUNCATE operations, operation_steps, operation_locks, events").Error
			})
			return subject{s}
		})
	})
}
