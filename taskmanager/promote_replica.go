package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) promoteReplica() engine.Workflow {
	return engine.Workflow{
		Kind: "promote_replica",
		Doc:  "Makes a replica the source of its set: writes wait for less than a second, none is lost, and all others follow it.",
		Steps: []engine.Step{
			{Name: "awaitInStep", Doc: "waiting for the replica to be in step", Run: m.awaitReplicaInStep, Within: 2 * time.Minute},
			{Name: "handOver", Doc: "handing the writes over", Run: m.handOverToReplica, Within: time.Minute},
			{Name: "swapRoles", Doc: "noting who takes the writes", Run: m.swapRoles, Within: 5 * time.Minute},
			{Name: "tellRoles", Doc: "re-pointing the set", Run: m.tellNewRoles, Within: 5 * time.Minute},
			{Name: "markPromoted", Doc: "publishing the set", Run: m.markPromoted, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.settleRoles, m.endPromotion),
		Ended:  "ACTIVE with the fault, and the roles that the databases have: there is one source, the old or the new one.",
	}
}

// sourceOf gives the instance that is, or was, the source in a promotion, in the subject's group.
func sourceOf(op *engine.Operation, s *subject) (*subject, error) {
	var state control.PromoteState
	if err := op.Load(&state); err != nil {
		return nil, err
	}
	if from := s.primaryOf(state.SourceID); from != nil {
		return from, nil
	}
	return nil, engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "Instance %s is no longer in the set.", state.SourceID))
}

func (m *Manager) awaitReplicaInStep(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	report, err := m.status(ctx, s)
	if err != nil {
		op.SetProgress("the replica's guest agent does not answer")
		return later(op, agentPoll)
	}
	if r := control.ReplicationIn(report.Status.Observed); r == nil || r.Role != datastore.RoleReplica || !r.LinkUp || r.Syncing {
		op.SetProgress("the replica is not in step with its source; its database is %s", report.Status.Status)
		return later(op, readyPoll)
	}
	return nil
}

func (m *Manager) handOverToReplica(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	from, err := sourceOf(op, s)
	if err != nil {
		return err
	}
	return m.handover(ctx, op, from, s)
}

func (m *Manager) swapRoles(ctx context.Context, op *engine.Operation) error {
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		if s.instance.ReplicaOf == "" { // the step ran before
			return nil
		}
		return swapSource(tx, s, s.instance.ID)
	})
}

func (m *Manager) tellNewRoles(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.tellRoles(ctx, op, s, "roles")
}

func (m *Manager) markPromoted(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.endSet(ctx, op, dbaas.TaskPromoting, s.group.ID)
}

// settleRoles goes forward where the replica has taken over, and back where it has not, so that there is one source.
func (m *Manager) settleRoles(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if s.instance.ReplicaOf != "" {
		role, err := m.roleNow(ctx, s)
		if err != nil {
			return err
		}
		if role == datastore.RoleMaster {
			if err := m.swapRoles(ctx, op); err != nil {
				return err
			}
			if s, err = m.load(ctx, op); err != nil {
				return err
			}
		}
	}
	return m.tellRoles(ctx, op, s, "settle")
}

func (m *Manager) endPromotion(ctx context.Context, op *engine.Operation, _ bool) error {
	return m.markPromoted(ctx, op)
}
