package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
)

// turn is a lock that is waited for no longer than a context lasts.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) lock(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return dbaas.WrapError(ctx.Err(), dbaas.Unavailable, "The guest was busy with another command for too long.")
	}
}

func (t turn) tryLock() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

func (t turn) unlock() { <-t }

// doing is the deed that is at work, so that a more urgent one can end it.
type doing struct {
	mu     sync.Mutex
	cancel context.CancelCauseFunc // nil: none is at work
	epoch  int64
	urgent int // deeds that let no other begin
}

// begin gives the context of a deed of that epoch; end says that it is over.
func (d *doing) begin(ctx context.Context, epoch int64, urgent bool) (_ context.Context, end func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.urgent > 0 && !urgent {
		return nil, nil, pushedAside()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	d.cancel, d.epoch = cancel, epoch
	return ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.cancel = nil
		cancel(nil)
	}, nil
}

// endBefore ends a deed of an earlier epoch: a failover came in between, and whoever ordered it no longer may.
func (d *doing) endBefore(epoch int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel != nil && d.epoch < epoch {
		d.cancel(outdated())
	}
}

// hurry ends the deed that is at work and keeps others from beginning until done.
func (d *doing) hurry() (done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.urgent++
	if d.cancel != nil {
		d.cancel(pushedAside())
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.urgent--
	}
}

func pushedAside() error {
	return dbaas.Errorf(dbaas.Conflict, "The database is being stopped at once; that comes first.")
}

func outdated() error {
	return dbaas.Errorf(dbaas.Conflict, "A failover came in between; what was ordered before it ends.")
}

// prepared is command for a guest that has a database.
func (a *Agent) prepared(ctx context.Context, f guest.Fence, result any, deed func(context.Context) (any, error)) error {
	return a.command(ctx, f, result, a.havingDatabase(deed))
}

func (a *Agent) havingDatabase(deed func(context.Context) (any, error)) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		if !a.memory.get().Prepared {
			return nil, dbaas.Errorf(dbaas.Conflict, "The guest has no database yet.")
		}
		return deed(ctx)
	}
}

// command does a deed once: under the fence, and with the answer of a deed that was done before. result gets it. It
// waits for its turn no longer than ctx lasts, and ends a deed of an earlier epoch.
func (a *Agent) command(ctx context.Context, f guest.Fence, result any, deed func(context.Context) (any, error)) error {
	if err := a.admit(f); err != nil {
		return err
	}
	return a.inTurn(ctx, f, false, result, deed)
}

// inTurn is command for what was admitted; urgent lets it begin while others may not.
func (a *Agent) inTurn(ctx context.Context, f guest.Fence, urgent bool, result any, deed func(context.Context) (any, error)) error {
	if err := a.deed.lock(ctx); err != nil {
		return err
	}
	defer a.deed.unlock()
	defer a.watch.poke()
	if err := a.admit(f); err != nil { // again, for it may have waited for long
		return err
	}
	answer, done, err := a.journal.find(f.CommandID)
	if err != nil {
		return err
	}
	if !done {
		if answer, err = a.perform(ctx, f, urgent, deed); err != nil {
			return err
		}
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer, result)
}

// fleeting is the answer to a question, which a repetition asks anew: it is not journalled.
type fleeting struct{ answer any }

// perform does a deed that was not done before, and records its answer.
func (a *Agent) perform(ctx context.Context, f guest.Fence, urgent bool, deed func(context.Context) (any, error)) (json.RawMessage, error) {
	ctx, end, err := a.doing.begin(ctx, f.GroupEpoch, urgent)
	if err != nil {
		return nil, err
	}
	defer end()
	a.watch.calm() // an order makes a new beginning
	value, err := deed(ctx)
	if err == nil {
		err = a.settleAddress(ctx)
	}
	if err != nil {
		var why *dbaas.Error
		if errors.As(context.Cause(ctx), &why) {
			return nil, why
		}
		return nil, err
	}
	if said, ok := value.(fleeting); ok {
		return json.Marshal(said.answer)
	}
	return a.journal.record(f.CommandID, value)
}

// mostFences bounds how many operations' lease epochs are remembered.
const mostFences = 64

// admit refuses a command of a holder that has lost its lease, or of before a failover. What runs of before the epoch
// that it brings is ended.
func (a *Agent) admit(f guest.Fence) error {
	err := a.memory.change(func(s *state) error {
		if f.GroupEpoch < s.GroupEpoch {
			return dbaas.Errorf(dbaas.Conflict, "The command is of epoch %d; the group is at %d.", f.GroupEpoch, s.GroupEpoch)
		}
		if f.LeaseEpoch < s.Leases[f.OperationID] {
			return dbaas.Errorf(dbaas.Conflict, "Operation %s has another holder now.", f.OperationID)
		}
		s.GroupEpoch = f.GroupEpoch
		s.remember(f.OperationID, f.LeaseEpoch)
		return nil
	})
	if err == nil {
		a.doing.endBefore(f.GroupEpoch)
		a.jobs.endBefore(f.GroupEpoch)
	}
	return err
}
