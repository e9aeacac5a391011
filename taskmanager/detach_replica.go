package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) detachReplica() engine.Workflow {
	return engine.Workflow{
		Kind: "detach_replica",
		Doc:  "Makes a replica an instance of its own: it keeps its data, and the password as it is now.",
		Steps: []engine.Step{
			{Name: "stopFollowing", Doc: "letting go of the source", Run: m.stopFollowing, Within: 5 * time.Minute},
			{Name: "leaveSet", Doc: "leaving the set", Run: m.leaveSet, Within: 5 * time.Minute},
			{Name: "tellSet", Doc: "telling the others", Run: m.tellSet, Within: 5 * time.Minute},
			{Name: "markDetached", Doc: "publishing the instance", Run: m.markDetached, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.followAgain, func(ctx context.Context, op *engine.Operation, _ bool) error {
			return m.keepServing(ctx, op, nil)
		}),
		Ended: "ACTIVE with the fault: a replica as before or, when it had left its set already, an instance of its own.",
	}
}

// detachState remembers the set that the replica was in.
type detachState struct {
	GroupID string `json:"group_id"`
}

func (m *Manager) stopFollowing(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	desired, err := m.desired(ctx, s)
	if err != nil {
		return err
	}
	desired.Master, desired.Peers = nil, nil
	if _, err := m.agent(s).Configure(ctx, guest.ConfigureRequest{Fence: fence(op, s, "detach"), Desired: desired}); err != nil {
		return refused(err)
	}
	return op.Put(detachState{GroupID: s.group.ID})
}

func (m *Manager) leaveSet(ctx context.Context, op *engine.Operation) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		s, err := readSubject(tx, op)
		if err != nil || s.instance.ReplicaOf == "" { // the step ran before
			return err
		}
		return leaveGroup(tx, s)
	})
}

// tellSet tells those who stay who is left.
func (m *Manager) tellSet(ctx context.Context, op *engine.Operation) error {
	var state detachState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.tellRest(ctx, op, state.GroupID)
}

// tellRest tells a group that somebody has left.
func (m *Manager) tellRest(ctx context.Context, op *engine.Operation, groupID string) error {
	var rest []dbaas.Instance
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) (err error) {
		rest, err = tx.GroupMembers(groupID)
		return err
	})
	if err != nil || len(rest) == 0 {
		return err
	}
	s, err := m.loadOf(ctx, op, rest[0].ID)
	if err != nil {
		return err
	}
	return m.tellRoles(ctx, op, s, "rest")
}

func (m *Manager) markDetached(ctx context.Context, op *engine.Operation) error {
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.instance.Task, s.instance.Fault = s.instance.IdleTask(), nil
		return nil
	})
}

// followAgain makes the database what the rows say: a replica, unless it had left its set already.
func (m *Manager) followAgain(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.configureGuest(ctx, op, s, "follow-again")
}
