package taskmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) setUsers() engine.Workflow {
	return engine.Workflow{
		Kind: "set_users",
		Doc:  "Gives every member of the group the tenant's accounts; connections of those that stay as they are stay too.",
		Steps: []engine.Step{
			{Name: "applyUsers", Doc: "setting the users", Run: m.applyUsers, Within: 10 * time.Minute},
			{Name: "markUsers", Doc: "publishing the users", Run: m.markUsers, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.restoreUsers, m.keepUsers),
		Ended:  "ACTIVE with the fault and the users as they were.",
	}
}

// usersState is what the steps of set_users pass on.
type usersState struct {
	RestartRequired []string `json:"restart_required,omitempty"`
}

func (m *Manager) applyUsers(ctx context.Context, op *engine.Operation) error {
	restart, err := m.pushUsers(ctx, op, "users", control.SecretPendingUsers)
	if err != nil {
		return refused(err)
	}
	return op.Put(usersState{RestartRequired: restart})
}

func (m *Manager) restoreUsers(ctx context.Context, op *engine.Operation) error {
	_, err := m.pushUsers(ctx, op, "restore", control.SecretPassword) // with the users that are in force
	return err
}

// pushUsers gives every member of the group the secrets of a kind, as seal takes it, the users among them. It tells what waits for a restart of the
// operation's own instance.
func (m *Manager) pushUsers(ctx context.Context, op *engine.Operation, deed, kind string) (restart []string, err error) {
	s, err := m.load(ctx, op)
	if err != nil {
		return nil, err
	}
	for _, one := range s.members {
		applied, err := m.pushUsersTo(ctx, s.on(one), fence(op, s, deed), kind)
		if err != nil {
			return nil, err
		}
		if one.guest.ID == s.guest.ID {
			restart = applied.RestartRequired
		}
	}
	return restart, nil
}

func (m *Manager) pushUsersTo(ctx context.Context, s *subject, f guest.Fence, kind string) (*datastore.Applied, error) {
	desired, err := m.desired(ctx, s)
	if err != nil {
		return nil, err
	}
	sealed, err := m.seal(ctx, s, kind)
	if err != nil {
		return nil, err
	}
	return m.agent(s).Configure(ctx, guest.ConfigureRequest{Fence: f, Desired: desired, Sealed: sealed})
}

// markUsers makes the pending users the group's.
func (m *Manager) markUsers(ctx context.Context, op *engine.Operation) error {
	var state usersState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		if err := adoptUsers(tx, s.group.ID); err != nil {
			return err
		}
		settle(s, state.RestartRequired)
		return nil
	})
}

// adoptUsers writes the rows of the pending users. Without pending ones it was done before.
func adoptUsers(tx *store.Tx, groupID string) error {
	id, err := tx.FindSecret(groupID, control.SecretPendingUsers)
	if err != nil || id == "" {
		return err
	}
	value, err := tx.RevealSecret(id)
	if err != nil {
		return err
	}
	var accounts []datastore.UserAccount
	if err := json.Unmarshal(value, &accounts); err != nil {
		return fmt.Errorf("decode the users: %w", err)
	}
	before, err := tx.Users(groupID)
	if err != nil {
		return err
	}
	for _, old := range before {
		if !slices.ContainsFunc(accounts, func(a datastore.UserAccount) bool { return a.Name == old.Name }) {
			if err := tx.DeleteUser(groupID, old.Name); err != nil {
				return err
			}
		}
	}
	for _, a := range accounts {
		if err := tx.PutUser(&dbaas.User{GroupID: groupID, Name: a.Name, Grants: a.Grants}); err != nil {
			return err
		}
	}
	return tx.SecretMoveTo(id, control.SecretUsers)
}

// keepUsers forgets the users that were not set after all.
func (m *Manager) keepUsers(ctx context.Context, op *engine.Operation, _ bool) error {
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		s.instance.Task, s.instance.Fault = s.instance.IdleTask(), op.Failure
		id, err := tx.FindSecret(s.group.ID, control.SecretPendingUsers)
		if err != nil || id == "" {
			return err
		}
		return tx.DeleteSecret(id)
	})
}
