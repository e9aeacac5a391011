package taskmanager

import (
	"context"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// settleFailover ends a failover that failed for good, one step of it at a time: what was ordered before is shut out, and a
// primary that serves is kept. One that does not may have been stopped by us, and may have less on its disk than the standby
// has: then the failover is carried through.
func (m *Manager) settleFailover(ctx context.Context, op *engine.Operation) error {
	var state control.FailoverState
	if err := op.Load(&state); err != nil {
		return err
	}
	rest := []func(context.Context, *engine.Operation) error{
		m.raiseEpochFirst, m.keepOld, m.fenceOld, m.chooseNew, m.decideNew, m.promoteNew, m.pointToNew, m.repointReplicas,
	}
	if state.Over || state.Settled == len(rest) || inStep(op) > revertTime {
		return m.publishSettled(ctx, op, &state)
	}
	if err := rest[state.Settled](ctx, op); err != nil {
		return err
	}
	if err := op.Load(&state); err != nil {
		return err
	}
	state.Settled++
	if err := op.Put(state); err != nil {
		return err
	}
	return engine.Wait(0) // saved before the next: none may run twice after the one that follows it
}

// keepOld leaves the writes with the old primary, where it serves and nobody was chosen in its place. One that has handed
// over already has nothing that the standby lacks: that one takes over.
func (m *Manager) keepOld(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, s *subject) error {
		if state.Fenced != "" || state.Revive || s.instance.PrimaryGuestID != state.From {
			return nil
		}
		old, err := s.about(state.From)
		if err != nil {
			return err
		}
		if state.Planned {
			for _, other := range old.others() {
				if at, err := m.askPosition(ctx, op, s.on(other)); err == nil && at.Role == datastore.RoleMaster {
					state.To = other.guest.ID
					return nil
				}
			}
		}
		serves, dead := m.stillServes(ctx, op, old)
		switch {
		case serves:
			state.Over = true
			return m.followOld(ctx, op, old)
		case state.Planned && !dead && inStep(op) < orderWithin:
			return engine.Wait(readyPoll)
		case state.Planned: // nothing was stopped here: the watch finds out whether it is dead, before it comes back by itself
			state.Over = true
		}
		return nil
	})
}

// stillServes has a guest that serves take the writes, and tells whether it does, or is dead by its agent's word. From its
// order on an earlier one is too late. A dead one gets no order: it would come back by it, with less than the standby has.
func (m *Manager) stillServes(ctx context.Context, op *engine.Operation, s *subject) (serves, dead bool) {
	look := func() *guest.StatusReport { return m.ask(ctx, s) }
	if r := look(); !alive(r) {
		return false, r != nil && hopeless(r.Status.Status)
	}
	orderCtx, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	if err := m.configureGuest(orderCtx, op, s, "keep"); err != nil {
		m.Logger.WarnContext(ctx, "the primary was not told to stay it", "guest", s.guest.ID, "error", err)
		return false, false
	}
	return alive(look()), false
}

// followOld has the others follow the primary that stays. Who cannot be told is told by the repair.
func (m *Manager) followOld(ctx context.Context, op *engine.Operation, old *subject) error {
	ctx, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	for _, other := range old.others() {
		if err := m.configureGuest(ctx, op, old.on(other), "keep."+other.guest.ID); err != nil {
			m.Logger.WarnContext(ctx, "a standby was not told to follow on", "guest", other.guest.ID, "error", err)
		}
	}
	return nil
}

// publishSettled tells how a failover that failed has ended. What was parked goes on with the instance.
func (m *Manager) publishSettled(ctx context.Context, op *engine.Operation, state *control.FailoverState) error {
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		if op.ParentID == "" {
			s.instance.Fault = op.Failure
		}
		if (state.Planned || state.Drill) && op.ParentID == "" {
			s.instance.Task = s.instance.IdleTask()
		}
		if state.Over || state.PointedAt == 0 {
			return nil
		}
		return note(tx, s.instance, op.ID, eventFailover, message(state), reportOf(state, s))
	})
}
