package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) updateAccess() engine.Workflow {
	return engine.Workflow{
		Kind: "update_access",
		Doc:  "Changes who may connect to an instance.",
		Steps: []engine.Step{
			{Name: "applyAccess", Doc: "setting up who may connect", Run: m.changeAccess, Within: 10 * time.Minute},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markActive, Within: 5 * time.Minute},
		},
		Failed: m.restoreAccess,
		Ended:  "ACTIVE with the fault and the rules that were in force before.",
	}
}

func (m *Manager) changeAccess(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	_, err = m.applyAccess(ctx, s, s.instance.Access)
	return err
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
	now, err := m.Store.Now(ctx)
	if err != nil {
		return err
	}
	if now.Sub(op.StepSince) < revertTime {
		if _, err := m.applyAccess(ctx, s, state.Previous); err != nil {
			return err
		}
	}
	return m.keepServing(ctx, op, func(s *subject) { s.instance.Access = state.Previous })
}
