package taskmanager

import (
	"context"
	"fmt"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) deleteInstance() engine.Workflow {
	return engine.Workflow{
		Kind: "delete_instance",
		Doc:  "Removes everything that carries the instance's tag, then the instance. It takes over from whatever was running.",
		Steps: []engine.Step{
			{Name: "cancelChildren", Doc: "ending what was begun for the instance", Run: m.dropChildren, Within: 30 * time.Minute},
			{Name: "deleteAccount", Doc: "removing the guest's login at the message broker", Run: m.deleteAccounts, Within: 30 * time.Minute},
			{Name: "deleteServer", Doc: "deleting the server", Run: m.deleteOfAll(cloud.KindServer, m.deleteServer), Within: 30 * time.Minute},
			{Name: "deleteServerGroup", Doc: "removing the rule of where servers run", Run: m.deleteServerGroup, Within: 30 * time.Minute},
			{Name: "deleteVolume", Doc: "deleting the volume", Run: m.deleteOfAll(cloud.KindVolume, m.deleteVolume), Within: 30 * time.Minute},
			m.deleteAddressStep(),
			{Name: "deletePort", Doc: "giving the address back", Run: m.deleteOfAll(cloud.KindPort, m.deletePort), Within: 30 * time.Minute},
			{Name: "deleteSecurityGroup", Doc: "removing who may connect", Run: m.deleteOfAll(cloud.KindSecurityGroup, m.deleteSecurityGroup), Within: 30 * time.Minute},
			{Name: "removeInstance", Doc: "removing the instance", Run: m.removeInstance, Within: 30 * time.Minute},
		},
		ChildrenMayFail: true,
		Failed:          m.giveUp,
		Ended:           "ERROR with the fault; deleting again goes on where it stopped.",
	}
}

// dropChildren ends what the operation had begun that this delete took over, and waits for that: it would go on making what is being deleted.
// What that operation remembered is of no use any more.
func (m *Manager) dropChildren(ctx context.Context, op *engine.Operation) error {
	op.State = nil
	return m.endChildren(ctx, op)
}

// deleteServerGroup removes the policy of where the group's servers run with the last instance of the group.
func (m *Manager) deleteServerGroup(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, other := range s.members {
		if other.instance.ID != s.instance.ID {
			return nil
		}
	}
	return m.Cloud.DeleteServerGroup(ctx, s.group.ID)
}

// deleteOfAll is deleteOwned for every guest of the instance.
func (m *Manager) deleteOfAll(kind string, del func(ctx context.Context, id string) error) func(context.Context, *engine.Operation) error {
	return func(ctx context.Context, op *engine.Operation) error {
		s, err := m.load(ctx, op)
		if err != nil {
			return err
		}
		var last error
		for _, one := range append(s.others(), member{s.instance, s.guest}) {
			if err := m.deleteAll(ctx, op, one.guest.ID, kind, del); err != nil {
				last = err // the others need not wait for it
			}
		}
		return last
	}
}

// deleteOwned makes a step that deletes what the cloud has of one kind with the guest's tag, recorded or not, and comes
// back until nothing is left.
func (m *Manager) deleteOwned(kind string, del func(ctx context.Context, id string) error) func(context.Context, *engine.Operation) error {
	return func(ctx context.Context, op *engine.Operation) error {
		s, err := m.load(ctx, op)
		if err != nil {
			return err
		}
		return m.deleteAll(ctx, op, s.guest.ID, kind, del)
	}
}

// deleteAll deletes what the cloud has of one kind with an owner's tag, and comes back until nothing is left.
func (m *Manager) deleteAll(ctx context.Context, op *engine.Operation, ownerID, kind string, del func(ctx context.Context, id string) error) error {
	for range 2 { // a provider that deletes at once is done without a wait
		owned, err := m.owned(ctx, ownerID, kind)
		if err != nil {
			return err
		}
		if len(owned) == 0 {
			return nil
		}
		for _, r := range owned {
			if err := del(ctx, r.ID); err != nil {
				return fmt.Errorf("delete %s %s: %w", kind, r.ID, err)
			}
		}
	}
	op.SetProgress("the cloud is deleting the %s", kind)
	return later(op, cloudPoll)
}

func (m *Manager) owned(ctx context.Context, guestID, kind string) ([]cloud.Resource, error) {
	all, err := m.Cloud.Owned(ctx, guestID)
	if err != nil {
		return nil, err
	}
	var found []cloud.Resource
	for _, r := range all {
		if r.Kind == kind {
			found = append(found, r)
		}
	}
	return found, nil
}

// The provider is looked up when the step runs: documentation lists the workflows without one.
func (m *Manager) deleteServer(ctx context.Context, id string) error {
	return m.Cloud.DeleteServer(ctx, id)
}
func (m *Manager) deleteVolume(ctx context.Context, id string) error {
	return m.Cloud.DeleteVolume(ctx, id)
}
func (m *Manager) deletePort(ctx context.Context, id string) error {
	return m.Cloud.DeletePort(ctx, id)
}
func (m *Manager) deleteSecurityGroup(ctx context.Context, id string) error {
	return m.Cloud.DeleteSecurityGroup(ctx, id)
}

func (m *Manager) deleteAccount(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.deleteAccountOf(ctx, op, s.guest)
}

func (m *Manager) deleteAccounts(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range append(s.others(), member{s.instance, s.guest}) {
		if err := m.deleteAccountOf(ctx, op, one.guest); err != nil {
			return err
		}
	}
	return nil
}

// removeInstance ends the rows. An instance that is gone already is success: the step ran before.
func (m *Manager) removeInstance(ctx context.Context, op *engine.Operation) error {
	var guests []member
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		s, err := readSubject(tx, op)
		if err != nil {
			return err
		}
		guests = append(s.others(), member{s.instance, s.guest})
		if err := tx.DeleteInstance(op.ResourceID); err != nil {
			return err
		}
		return fitGroup(tx, s.group)
	})
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil
	}
	if err == nil {
		for _, one := range guests {
			m.keys.forget(one.guest.ID)
		}
	}
	return err
}
