package taskmanager

import (
	"context"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) createReplicas() engine.Workflow {
	return engine.Workflow{
		Kind: "create_replicas",
		Doc:  "Provisions replicas of an instance, which goes on serving without a pause; each is an operation of its own.",
		Steps: []engine.Step{
			{Name: "beginReplicas", Doc: "beginning the replicas", Run: m.beginReplicas, Within: 5 * time.Minute},
			{Name: "awaitReplicas", Doc: "waiting for the replicas", Run: m.awaitReplicas, Within: 7 * time.Hour},
			{Name: "introduceReplicas", Doc: "telling the members of the set of each other", Run: m.introduce, Within: 10 * time.Minute},
			{Name: "markReplicas", Doc: "publishing the set", Run: m.markReplicas, Within: 5 * time.Minute},
		},
		Failed: m.withoutReplicas,
		Ended:  "The replicas that did not come about are in ERROR with the fault, to be deleted; the source is as before.",
	}
}

// beginReplicas begins an operation for each replica: it is created or, when its tenant has lost patience already, deleted.
func (m *Manager) beginReplicas(ctx context.Context, op *engine.Operation) error {
	var state control.ReplicasState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		begun, err := tx.Children(op.ID)
		if err != nil {
			return err
		}
		for _, id := range state.ReplicaIDs {
			if slices.ContainsFunc(begun, func(child dbaas.Operation) bool { return child.ResourceID == id }) {
				continue
			}
			child := dbaas.Operation{
				Kind: "create_instance", ProjectID: op.ProjectID, ResourceType: op.ResourceType, ResourceID: id, GroupID: op.GroupID,
				ParentID: op.ID, RequestID: op.RequestID, TraceParent: op.TraceParent, Actor: op.Actor,
			}
			if in, err := tx.Instance(id); err != nil {
				return err
			} else if in.Task == dbaas.TaskDeleting {
				child.Kind = "delete_instance"
			}
			if err := tx.Enqueue(&child); err != nil {
				return err
			}
		}
		return nil
	})
}

// awaitReplicas waits for the operations that were begun. One that fails fails this one.
func (m *Manager) awaitReplicas(ctx context.Context, op *engine.Operation) error {
	children, err := m.Store.Children(ctx, op.ID)
	if err != nil {
		return err
	}
	running := 0
	for _, child := range children {
		if !child.Status.Ended() {
			running++
			op.SetProgress("%d of %d are not done yet: %s", running, len(children), child.Step)
		}
	}
	if running > 0 {
		return later(op, cloudPoll)
	}
	return nil
}

// introduce tells every member of the group that can be told who the others are, and whom it follows.
func (m *Manager) introduce(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.tellRoles(ctx, op, s, "introduce")
}

// markReplicas ends the creation. What the source waited for before, it goes on waiting for.
func (m *Manager) markReplicas(ctx context.Context, op *engine.Operation) error {
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		s.instance.Fault = nil
		return fitGroup(tx, s.group)
	})
}

// withoutReplicas ends a creation of which a part failed: it lets the other parts end first, unless it was cancelled.
func (m *Manager) withoutReplicas(ctx context.Context, op *engine.Operation) error {
	var state control.ReplicasState
	if err := op.Load(&state); err != nil {
		return err
	}
	if op.Cancel {
		if err := m.cancelChildren(ctx, op); err != nil {
			return err
		}
	}
	if err := m.awaitReplicas(ctx, op); err != nil {
		return err
	}
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		for _, id := range state.ReplicaIDs {
			in, err := tx.Instance(id)
			if dbaas.ErrorCode(err) == dbaas.NotFound {
				continue
			}
			if err != nil {
				return err
			}
			if in.Task != dbaas.TaskBuilding { // its own operation has said how it ended
				continue
			}
			in.Task, in.Fault = dbaas.TaskError, op.Failure
			if err := tx.UpdateInstance(in); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.keepServing(ctx, op, nil)
}

// cancelChildren ends the operations that op began, at their next step boundaries.
func (m *Manager) cancelChildren(ctx context.Context, op *engine.Operation) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		children, err := tx.Children(op.ID)
		if err != nil {
			return err
		}
		for _, child := range children {
			if child.Status.Ended() || child.Cancel {
				continue
			}
			if err := tx.CancelOperation(child.ID); err != nil {
				return err
			}
		}
		return nil
	})
}
