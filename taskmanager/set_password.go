package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) setPassword() engine.Workflow {
	return engine.Workflow{
		Kind: "set_password",
		Doc:  "Gives the tenant's account a new password, on every member of the group; open connections and replication links stay.",
		Steps: []engine.Step{
			{Name: "applyPassword", Doc: "setting the password", Run: m.applyPassword, Within: 10 * time.Minute},
			{Name: "markPassword", Doc: "publishing the instance", Run: m.markPassword, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.restorePassword, m.keepPassword),
		Ended:  "ACTIVE with the fault and the old password.",
	}
}

func (m *Manager) applyPassword(ctx context.Context, op *engine.Operation) error {
	restart, missed, err := m.pushSecrets(ctx, op, "password", control.SecretPendingPassword)
	if err != nil {
		return refused(err)
	}
	var state passwordState
	if err := op.Load(&state); err != nil {
		return err
	}
	state.RestartRequired, state.Missed = restart, missed
	return op.Put(state)
}

// passwordState adds what the steps pass on to what the request left.
type passwordState struct {
	control.PasswordState
	RestartRequired []string `json:"restart_required,omitempty"`
	Missed          []string `json:"missed,omitempty"`
}

func (m *Manager) markPassword(ctx context.Context, op *engine.Operation) error {
	var state passwordState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		if err := adoptPassword(tx, s.group.ID); err != nil {
			return err
		}
		s.instance.RootEnabledAt, s.instance.RootEnabledBy = dbaas.Instant(0), ""
		if state.RootEnabled {
			s.instance.RootEnabledAt, s.instance.RootEnabledBy = tx.Now(), state.EnabledBy
		}
		settle(s, state.RestartRequired)
		return leaveBehind(tx, s, s.members, state.Missed)
	})
}

// restorePassword puts the old password back, for the new one may have been set before the failure.
func (m *Manager) restorePassword(ctx context.Context, op *engine.Operation) error {
	var state passwordState
	if err := op.Load(&state); err != nil {
		return err
	}
	var err error
	if _, state.Missed, err = m.pushSecrets(ctx, op, "restore", control.SecretPassword); err != nil {
		return err
	}
	return op.Put(state)
}

func (m *Manager) keepPassword(ctx context.Context, op *engine.Operation, restored bool) error {
	var state passwordState
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
		return dropPending(tx, s.group.ID)
	})
}
