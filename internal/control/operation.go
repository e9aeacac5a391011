package control

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// OperationView is an operation with its history.
type OperationView struct {
	dbaas.Operation
	Steps []dbaas.OperationStep
}

// Operation shows an operation.
func (s *Service) Operation(ctx context.Context, c Caller, id string) (*OperationView, error) {
	op, err := s.ownOperation(ctx, c, id)
	if err != nil {
		return nil, err
	}
	steps, err := s.Store.OperationSteps(ctx, id)
	return &OperationView{Operation: *op, Steps: steps}, err
}

func (s *Service) ownOperation(ctx context.Context, c Caller, id string) (*dbaas.Operation, error) {
	if uuid.Validate(id) != nil {
		return nil, operationNotFound(id)
	}
	op, err := s.Store.Operation(ctx, id)
	if dbaas.ErrorCode(err) == dbaas.NotFound || err == nil && !c.sees(op.ProjectID) {
		return nil, operationNotFound(id)
	}
	return op, err
}

func operationNotFound(id string) error {
	return dbaas.Errorf(dbaas.NotFound, "Operation %s not found.", id)
}

// Operations lists a page of operations, the newest first.
func (s *Service) Operations(ctx context.Context, c Caller, f store.OperationFilter) ([]dbaas.Operation, bool, error) {
	if !c.sees(f.ProjectID) {
		return nil, false, dbaas.Errorf(dbaas.Forbidden, "Only an administrator may list other projects' operations.")
	}
	return s.Store.ListOperations(ctx, f)
}

// RetryOperation lets a running operation try its step again now, its time limit counted anew.
func (s *Service) RetryOperation(ctx context.Context, c Caller, id string) error {
	return s.changeOperation(ctx, c, id, (*store.Tx).RetryOperation)
}

// CancelOperation ends a running operation at its next step boundary, as a failure for good does.
func (s *Service) CancelOperation(ctx context.Context, c Caller, id string) error {
	return s.changeOperation(ctx, c, id, (*store.Tx).CancelOperation)
}

func (s *Service) changeOperation(ctx context.Context, c Caller, id string, change func(*store.Tx, string) error) error {
	op, err := s.ownOperation(ctx, c, id)
	if err != nil {
		return err
	}
	if op.Status.Ended() {
		return dbaas.Errorf(dbaas.Unprocessable, "Operation %s has ended already (%s).", id, op.Status)
	}
	if err := s.commit(ctx, c, func(tx *store.Tx) error { return change(tx, id) }); err != nil {
		return err
	}
	s.nudge(ctx, id)
	return nil
}

// Events lists a page of events, the newest first.
func (s *Service) Events(ctx context.Context, c Caller, f store.EventFilter) ([]dbaas.Event, bool, error) {
	if !c.sees(f.ProjectID) {
		return nil, false, dbaas.Errorf(dbaas.Forbidden, "Only an administrator may list other projects' events.")
	}
	return s.Store.ListEvents(ctx, f)
}

// Claim is a request's hold on its idempotency key. What the request does is written to the key in the same transaction,
// so that it is known even when the process ends before there is an answer.
type Claim struct {
	Row    *dbaas.Idempotency
	effect store.Effect
}

// effect notes what the caller's request does, the first of several.
func (c Caller) effect(e store.Effect) {
	if c.Claim != nil && c.Claim.effect == (store.Effect{}) {
		c.Claim.effect = e
	}
}

// BeginIdempotent remembers that a request with this key is at work; fresh is false when the key is known, and the
// row then tells the first one's answer, or what it did if it ended without one.
func (s *Service) BeginIdempotent(ctx context.Context, c Caller, key, hash string, givenUp time.Duration) (row *dbaas.Idempotency, fresh bool, err error) {
	return s.Store.BeginIdempotent(ctx, c.ProjectID, key, hash, givenUp)
}

// FinishIdempotent stores the answer.
func (s *Service) FinishIdempotent(ctx context.Context, row *dbaas.Idempotency) error {
	return s.Store.FinishIdempotent(ctx, row)
}

// ForgetIdempotent lets the key be used anew, after a failure that changed nothing.
func (s *Service) ForgetIdempotent(ctx context.Context, row *dbaas.Idempotency) error {
	return s.Store.ForgetIdempotent(ctx, row)
}
