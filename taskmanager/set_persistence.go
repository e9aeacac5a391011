package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) setPersistence() engine.Workflow {
	return m.reshape("set_persistence", "Changes what the database keeps on disk, while it serves.")
}

func (m *Manager) setProfile() engine.Workflow {
	return m.reshape("set_profile", "Tunes the database for another kind of use: dynamic values live, others at the next restart.")
}

// reshape makes every guest of an instance as its row says.
func (m *Manager) reshape(kind, doc string) engine.Workflow {
	return engine.Workflow{
		Kind: kind,
		Doc:  doc,
		Steps: []engine.Step{
			{Name: "applyShape", Doc: "applying the change", Run: m.applyShape, Within: 15 * time.Minute},
			{Name: "awaitReady", Doc: "waiting for the database to serve", Run: m.awaitReady, Within: 30 * time.Minute},
			{Name: "markShaped", Doc: "publishing the instance", Run: m.markReconfigured, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.restoreShape, m.keepShape),
		Ended:  "ACTIVE with the fault and what was in force before.",
	}
}

// reconfigureState remembers what a Configure left for the next start.
type reconfigureState struct {
	RestartRequired []string `json:"restart_required"`
}

// markReconfigured is the last step of a change that a Configure made.
func (m *Manager) markReconfigured(ctx context.Context, op *engine.Operation) error {
	var state reconfigureState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		settle(s, state.RestartRequired)
		return nil
	})
}

func (m *Manager) applyShape(ctx context.Context, op *engine.Operation) error {
	restart, err := m.pushShape(ctx, op, "shape", nil)
	if err != nil {
		return refused(err)
	}
	var state struct {
		control.ReshapeState
		reconfigureState
	}
	if err := op.Load(&state); err != nil {
		return err
	}
	state.RestartRequired = restart
	return op.Put(state)
}

func (m *Manager) restoreShape(ctx context.Context, op *engine.Operation) error {
	var before control.ReshapeState
	if err := op.Load(&before); err != nil {
		return err
	}
	_, err := m.pushShape(ctx, op, "restore", &before)
	return err
}

// pushShape configures every guest of the instance, the primary last; with before, as it was. It tells what waits for a
// restart of the primary.
func (m *Manager) pushShape(ctx context.Context, op *engine.Operation, deed string, before *control.ReshapeState) (restart []string, err error) {
	s, err := m.load(ctx, op)
	if err != nil {
		return nil, err
	}
	if before != nil {
		s.instance.Persistence, s.instance.Profile = before.Persistence, before.Profile
	}
	for _, one := range s.own() {
		desired, err := m.desired(ctx, s.on(one))
		if err != nil {
			return nil, err
		}
		applied, err := m.agent(s.on(one)).Configure(ctx, guest.ConfigureRequest{Fence: fence(op, s, deed), Desired: desired})
		if err != nil {
			return nil, err
		}
		restart = applied.RestartRequired
	}
	return restart, nil
}

func (m *Manager) keepShape(ctx context.Context, op *engine.Operation, _ bool) error {
	var before control.ReshapeState
	if err := op.Load(&before); err != nil {
		return err
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.instance.Persistence, s.instance.Profile = before.Persistence, before.Profile
		s.instance.Task, s.instance.Fault = s.instance.IdleTask(), op.Failure
		return nil
	})
}
