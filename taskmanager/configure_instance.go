package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) configureInstance() engine.Workflow {
	return engine.Workflow{
		Kind: "configure_instance",
		Doc:  "Applies the values of the instance's configuration group: dynamic ones live, others at the next restart.",
		Steps: []engine.Step{
			{Name: "applyConfiguration", Doc: "applying the configuration", Run: m.applyConfiguration, Within: 10 * time.Minute},
			{Name: "markConfigured", Doc: "publishing the instance", Run: m.markConfigured, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.restoreConfiguration, m.keepConfiguration),
		Ended:  "ACTIVE with the fault and the values that were in force before.",
	}
}

// configureState adds what the steps pass on to what the request left.
type configureState struct {
	control.ConfigureState
	RestartRequired []string `json:"restart_required,omitempty"`
	Missed          []string `json:"missed,omitempty"`
}

func (m *Manager) applyConfiguration(ctx context.Context, op *engine.Operation) error {
	var state configureState
	if err := op.Load(&state); err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	kind := ""
	if state.SetsPassword {
		kind = control.SecretPendingPassword
	}
	if state.RestartRequired, state.Missed, err = m.configureAll(ctx, op, s, "configure", kind, m.desired); err != nil {
		return refused(err)
	}
	return op.Put(state)
}

func (m *Manager) markConfigured(ctx context.Context, op *engine.Operation) error {
	var state configureState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		if state.SetsPassword {
			if err := adoptPassword(tx, s.group.ID); err != nil {
				return err
			}
		}
		settle(s, state.RestartRequired)
		return leaveBehind(tx, s, told(s, state.SetsPassword), state.Missed)
	})
}

// restoreConfiguration puts the values back that were in force before the change.
func (m *Manager) restoreConfiguration(ctx context.Context, op *engine.Operation) error {
	var state configureState
	if err := op.Load(&state); err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	kind := ""
	if state.SetsPassword {
		kind = control.SecretPassword
	}
	previous := func(ctx context.Context, s *subject) (datastore.Desired, error) {
		return m.desiredWith(ctx, s, state.PreviousValues)
	}
	if state.RestartRequired, state.Missed, err = m.configureAll(ctx, op, s, "restore", kind, previous); err != nil {
		return err
	}
	return op.Put(state)
}

// keepConfiguration attaches the group again that was attached before, unless it was deleted meanwhile.
func (m *Manager) keepConfiguration(ctx context.Context, op *engine.Operation, restored bool) error {
	var state configureState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		if err := dropPending(tx, s.group.ID); err != nil {
			return err
		}
		if !restored && s.instance.Applied != nil {
			state.RestartRequired = s.instance.Applied.RestartRequired
		}
		var err error
		if s.instance.ConfigurationID, err = stillThere(tx, state.PreviousConfigurationID); err != nil {
			return err
		}
		settle(s, state.RestartRequired)
		s.instance.Fault = op.Failure
		if !restored {
			return nil // who was behind still is
		}
		return leaveBehind(tx, s, told(s, state.SetsPassword), state.Missed)
	})
}

// told gives the members that a change of values concerns: the instance's own, or with a password the group's.
func told(s *subject, password bool) []member {
	if password {
		return s.members
	}
	return s.own()
}

// stillThere gives the id of a configuration group that lives, else "".
func stillThere(tx *store.Tx, configurationID string) (string, error) {
	if configurationID == "" {
		return "", nil
	}
	_, err := tx.Configuration(configurationID)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return "", nil
	}
	return configurationID, err
}

// reapply configures the guest as desired and, with password, with the instance's own password.
func (m *Manager) reapply(ctx context.Context, op *engine.Operation, s *subject, desired datastore.Desired, password bool) (_ *datastore.Applied, err error) {
	request := guest.ConfigureRequest{Fence: fence(op, s, "restore"), Desired: desired}
	if password {
		if request.Sealed, err = m.seal(ctx, s, control.SecretPassword); err != nil {
			return nil, err
		}
	}
	return m.agent(s).Configure(ctx, request)
}

// adoptPassword makes the pending password the instance's. Without a pending one it was done before.
func adoptPassword(tx *store.Tx, groupID string) error {
	id, err := tx.FindSecret(groupID, control.SecretPendingPassword)
	if err != nil || id == "" {
		return err
	}
	return tx.SecretMoveTo(id, control.SecretPassword)
}

// dropPending forgets a password that was not set after all.
func dropPending(tx *store.Tx, groupID string) error {
	id, err := tx.FindSecret(groupID, control.SecretPendingPassword)
	if err != nil || id == "" {
		return err
	}
	return tx.DeleteSecret(id)
}
