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
			{Name: "deleteServer", Doc: "deleting the server", Run: m.deleteOwned(cloud.KindServer, m.deleteServer), Within: 30 * time.Minute},
			{Name: "deleteVolume", Doc: "deleting the volume", Run: m.deleteOwned(cloud.KindVolume, m.deleteVolume), Within: 30 * time.Minute},
			m.deleteAddressStep(),
			{Name: "deletePort", Doc: "giving the address back", Run: m.deleteOwned(cloud.KindPort, m.deletePort), Within: 30 * time.Minute},
			{Name: "deleteSecurityGroup", Doc: "removing who may connect", Run: m.deleteOwned(cloud.KindSecurityGroup, m.deleteSecurityGroup), Within: 30 * time.Minute},
			{Name: "deleteAccount", Doc: "removing the guest's login at the message broker", Run: m.deleteAccount, Within: 30 * time.Minute},
			{Name: "removeInstance", Doc: "removing the instance", Run: m.removeInstance, Within: 30 * time.Minute},
		},
		Failed: m.giveUp,
		Ended:  "ERROR with the fault; deleting again goes on where it stopped.",
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
	return m.Accounts.Delete(ctx, s.guest.ID, s.guest.Queue)
}

// removeInstance ends the rows. An instance that is gone already is success: the step ran before.
func (m *Manager) removeInstance(ctx context.Context, op *engine.Operation) error {
	var guestID string
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		s, err := readSubject(tx, op)
		if err != nil {
			return err
		}
		guestID = s.guest.ID
		return tx.DeleteInstance(op.ResourceID)
	})
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil
	}
	if err == nil {
		m.keys.forget(guestID)
	}
	return err
}
