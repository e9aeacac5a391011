package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) updateAccess() engine.Workflow {
	return engine.Workflow{
		Kind: "update_access",
		Doc:  "Changes who may connect to an instance.",
		Steps: []engine.Step{
			{Name: "applyAccess", Doc: "setting up who may connect", Run: m.changeAccess, Within: 10 * time.Minute},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markAccess, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.restoreAccess, m.keepAccess),
		Ended:  "ACTIVE with the fault and the rules that were in force before.",
	}
}

func (m *Manager) changeAccess(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.applyAccessToAll(ctx, op, s, s.instance.Access)
}

// applyAccessToAll makes the security groups of all guests of the instance, and its address, as access says.
func (m *Manager) applyAccessToAll(ctx context.Context, op *engine.Operation, s *subject, access dbaas.Access) error {
	for _, one := range s.own() {
		if _, err := m.applyAccess(ctx, s.on(one), access); err != nil {
			return err
		}
	}
	return m.ensureAddressOf(ctx, op, s, access.IsPublic)
}

// markAccess is the last step: what waited for a restart before goes on waiting.
func (m *Manager) markAccess(ctx context.Context, op *engine.Operation) error {
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.instance.Task, s.instance.Fault = s.instance.IdleTask(), nil
		return nil
	})
}

func (m *Manager) restoreAccess(ctx context.Context, op *engine.Operation) error {
	var state control.AccessState
	if err := op.Load(&state); err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.applyAccessToAll(ctx, op, s, state.Previous)
}

func (m *Manager) keepAccess(ctx context.Context, op *engine.Operation, _ bool) error {
	var state control.AccessState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.keepServing(ctx, op, func(s *subject) { s.instance.Access = state.Previous })
}
