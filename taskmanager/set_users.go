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
	Missed          []string `json:"missed,omitempty"`
}

func (m *Manager) applyUsers(ctx context.Context, op *engine.Operation) error {
	restart, missed, err := m.pushSecrets(ctx, op, "users", control.SecretPendingUsers)
	if err != nil {
		return refused(err)
	}
	return op.Put(usersState{RestartRequired: restart, Missed: missed})
}

func (m *Manager) restoreUsers(ctx context.Context, op *engine.Operation) error {
	_, missed, err := m.pushSecrets(ctx, op, "restore", control.SecretPassword) // with the users that are in force
	if err != nil {
		return err
	}
	return op.Put(usersState{Missed: missed})
}

// pushSecrets gives every member of the group its secrets, a kind of them in a place of its own: the pending password, or
// the pending users. It tells what waits for a restart of the operation's own instance, and which guests were not reached.
func (m *Manager) pushSecrets(ctx context.Context, op *engine.Operation, deed, kind string) (restart, missed []string, err error) {
	s, err := m.load(ctx, op)
	if err != nil {
		return nil, nil, err
	}
	return m.configureAll(ctx, op, s, deed, kind, m.desired)
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
		return leaveBehind(tx, s, s.members, state.Missed)
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
func (m *Manager) keepUsers(ctx context.Context, op *engine.Operation, restored bool) error {
	var state usersState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		s.instance.Task, s.instance.Fault = s.instance.IdleTask(), op.Failure
		if restored {
			if err := leaveBehind(tx, s, s.members, state.Missed); err != nil {
				return err
			}
		}
		id, err := tx.FindSecret(s.group.ID, control.SecretPendingUsers)
		if err != nil || id == "" {
			return err
		}
		return tx.DeleteSecret(id)
	})
}
