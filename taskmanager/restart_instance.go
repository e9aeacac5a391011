package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) restartInstance() engine.Workflow {
	return engine.Workflow{
		Kind: "restart_instance",
		Doc:  "Stops the database cleanly and starts it again; pending configuration values take effect.",
		Steps: []engine.Step{
			{Name: "restartDatabase", Doc: "restarting the database", Run: m.restartDatabase, Within: 15 * time.Minute},
			{Name: "awaitReady", Doc: "waiting for the database to serve", Run: m.awaitReady, Within: 30 * time.Minute},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markActive, Within: 5 * time.Minute},
		},
		Failed: func(ctx context.Context, op *engine.Operation) error { return m.keepServing(ctx, op, nil) },
		Ended:  "ACTIVE with the fault; the operating status tells how the database is.",
	}
}

func (m *Manager) restartDatabase(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.agent(s).Restart(ctx, fence(op, s, "restart"))
}
