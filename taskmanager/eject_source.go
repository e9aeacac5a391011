package taskmanager

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) ejectSource() engine.Workflow {
	return engine.Workflow{
		Kind: "eject_source",
		Doc:  "Has the most advanced replica take over from a source that is down. The old source is stopped for good, and detached with its data.",
		Steps: []engine.Step{
			{Name: "raiseEpoch", Doc: "shutting out late commands", Run: m.raiseEpoch, Within: 5 * time.Minute},
			{Name: "fenceSource", Doc: "making sure that the old source is down", Run: m.fenceSource, Within: 5 * time.Minute},
			{Name: "chooseSuccessor", Doc: "finding the most advanced replica", Run: m.chooseSuccessor, Within: 5 * time.Minute},
			{Name: "replaceSource", Doc: "noting who takes the writes", Run: m.replaceSource, Within: 5 * time.Minute},
			{Name: "tellRoles", Doc: "re-pointing the set", Run: m.tellSuccessor, Within: 5 * time.Minute},
			{Name: "markEjected", Doc: "publishing the set", Run: m.markEjected, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.settleEjection, func(ctx context.Context, op *engine.Operation, _ bool) error { return m.markEjected(ctx, op) }),
		Ended:  "ACTIVE with the fault: the set as it was, its source started again where it can be reached; or, once the successor was noted, with that one as its source.",
	}
}

func ejectState(op *engine.Operation) (control.EjectState, error) {
	var state control.EjectState
	return state, op.Load(&state)
}

func (m *Manager) raiseEpoch(ctx context.Context, op *engine.Operation) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		s, err := readSubject(tx, op)
		if err != nil {
			return err
		}
		s.group.Epoch++
		return tx.UpdateGroup(s.group)
	})
}

// fenceSource makes sure that the old source takes no write any more: its agent has ended the database or, where that
// does not answer, its server has no power.
func (m *Manager) fenceSource(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range s.own() {
		by, err := m.cutOff(ctx, op, s.on(one), &control.FailoverState{})
		if err != nil {
			return err
		}
		if by == "" {
			op.SetProgress("the old source is being powered off")
			return later(op, readyPoll)
		}
	}
	return nil
}

// sourceHistory is the history that the source told of last, which its replicas should have.
func sourceHistory(s *subject) *datastore.Position {
	if r := control.ReplicationIn(s.guest.Observed); r != nil && r.Role == datastore.RoleMaster {
		return &datastore.Position{Replication: *r}
	}
	return nil
}

// chooseSuccessor finds the replica that has the most of the old source's writes, as a failover does. One that does not
// answer is waited for a moment: it may have more.
func (m *Manager) chooseSuccessor(ctx context.Context, op *engine.Operation) error {
	state, err := ejectState(op)
	if err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	candidates := slices.DeleteFunc(s.up(), func(one member) bool { return one.instance.ReplicaOf != s.instance.ID || !one.primary() })
	patient := inStep(op) < patience
	best, _, silent := m.furthest(ctx, op, s, candidates, sourceHistory(s), !patient)
	if patient && (best == nil || len(silent) > 0) {
		op.SetProgress("%d of %d replicas do not answer, or have not the source's history", len(silent), len(candidates))
		return later(op, agentPoll)
	}
	if best == nil {
		return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "No replica that has the data answers: there is nobody to take over."))
	}
	if len(silent) > 0 {
		m.Logger.WarnContext(ctx, "a successor is chosen without those that do not answer", "operation", op.ID, "guests", slices.Sorted(maps.Keys(silent)))
	}
	state.SuccessorID = best.instance.ID
	return op.Put(state)
}

// replaceSource detaches the old source, which stays stopped until its tenant starts it, and makes the successor the
// source of the others.
func (m *Manager) replaceSource(ctx context.Context, op *engine.Operation) error {
	state, err := ejectState(op)
	if err != nil {
		return err
	}
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		successor, err := subjectOf(tx, state.SuccessorID, "")
		if err != nil || successor.instance.ReplicaOf == "" { // the step ran before
			return err
		}
		old, err := readSubject(tx, op)
		if err != nil {
			return err
		}
		old.instance.Stopped = true
		if err := leaveGroup(tx, old); err != nil {
			return err
		}
		if successor, err = subjectOf(tx, state.SuccessorID, ""); err != nil {
			return err
		}
		return swapSource(tx, successor, state.SuccessorID)
	})
}

func (m *Manager) tellSuccessor(ctx context.Context, op *engine.Operation) error {
	state, err := ejectState(op)
	if err != nil {
		return err
	}
	s, err := m.loadOf(ctx, op, state.SuccessorID)
	if err != nil {
		return err
	}
	return m.tellRoles(ctx, op, s, "roles")
}

func (m *Manager) markEjected(ctx context.Context, op *engine.Operation) error {
	state, err := ejectState(op)
	if err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	groups := []string{s.group.ID}
	if state.SuccessorID != "" {
		successor, err := m.loadOf(ctx, op, state.SuccessorID)
		if err != nil {
			return err
		}
		if successor.group.ID != s.group.ID {
			groups = append(groups, successor.group.ID)
		}
	}
	return m.endSet(ctx, op, dbaas.TaskEjecting, groups...)
}

// settleEjection goes forward once the successor is noted. Before, the old source is the source still: it is started
// again, where its agent is heard.
func (m *Manager) settleEjection(ctx context.Context, op *engine.Operation) error {
	state, err := ejectState(op)
	if err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if state.SuccessorID != "" {
		successor, err := m.loadOf(ctx, op, state.SuccessorID)
		if err != nil {
			return err
		}
		if successor.instance.ReplicaOf == "" {
			return m.tellRoles(ctx, op, successor, "settle")
		}
	}
	if s.instance.Stopped {
		return nil
	}
	err = m.agent(s).Restart(ctx, fence(op, s, "revive"))
	if err != nil && inStep(op) < patience {
		return err
	}
	return nil
}
