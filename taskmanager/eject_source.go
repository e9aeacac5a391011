package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
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
		if err := m.fenceGuest(ctx, op, s.on(one)); err != nil {
			return err
		}
	}
	return nil
}

// fenceCall is how long the agent of a source that is said to be down is asked before the cloud is.
const fenceCall = 3 * time.Second

func (m *Manager) fenceGuest(ctx context.Context, op *engine.Operation, s *subject) error {
	call, cancel := context.WithTimeout(ctx, fenceCall)
	defer cancel()
	stop := guest.StopRequest{Fence: fence(op, s, "fence"), Now: true}
	if m.agent(s).Stop(call, stop) == nil {
		return nil
	}
	server, err := m.Cloud.Server(ctx, s.guest.ServerID)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if server.Status == cloud.ServerShutoff {
		return nil
	}
	if err := m.Cloud.PowerOffServer(ctx, s.guest.ServerID); err != nil {
		return err
	}
	op.SetProgress("the old source's server is %s", server.Status)
	return later(op, readyPoll)
}

// chooseSuccessor finds the replica that has the most of the old source's writes. One that does not answer is waited for
// a moment: it may have more.
func (m *Manager) chooseSuccessor(ctx context.Context, op *engine.Operation) error {
	state, err := ejectState(op)
	if err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	var best *datastore.Position
	for _, one := range s.up() {
		if one.instance.ReplicaOf != s.instance.ID {
			continue
		}
		p, err := m.position(ctx, op, s.on(one))
		if err != nil && inStep(op) < patience {
			op.SetProgress("replica %s does not answer", one.instance.ID)
			return later(op, agentPoll)
		}
		if err == nil && (best == nil || p.Offset > best.Offset) {
			best, state.SuccessorID = &p, one.instance.ID
		}
	}
	if best == nil {
		return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "No replica answers: there is nobody to take over."))
	}
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
