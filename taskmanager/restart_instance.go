package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) restartInstance() engine.Workflow {
	return engine.Workflow{
		Kind: "restart_instance",
		Doc:  "Stops the database cleanly and starts it again, and the server too where it is down; pending configuration values take effect.",
		Steps: []engine.Step{
			{Name: "startServer", Doc: "starting the server, should it be down", Run: m.startServer, Within: 10 * time.Minute},
			{Name: "awaitAgent", Doc: "waiting for the guest agent", Run: m.awaitAgent, Within: 10 * time.Minute},
			{Name: "stopDatabase", Doc: "stopping the database", Run: m.stopDatabase, Within: 15 * time.Minute},
			{Name: "fitDatabase", Doc: "making the database as it should be", Run: m.fitDatabase, Within: 5 * time.Minute},
			{Name: "restartDatabase", Doc: "restarting the database", Run: m.restartDatabase, Within: 15 * time.Minute},
			{Name: "awaitReady", Doc: "waiting for the database to serve", Run: m.awaitReady, Within: 30 * time.Minute},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markActive, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.startDatabase, func(ctx context.Context, op *engine.Operation, _ bool) error {
			return m.keepServing(ctx, op, nil)
		}),
		Ended: "ACTIVE with the fault; the operating status tells how the database is.",
	}
}

// startServer brings back a server that is down, such as one whose address was taken when it was to start.
func (m *Manager) startServer(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	server, err := m.Cloud.Server(ctx, s.guest.ServerID)
	if err != nil {
		return err
	}
	switch server.Status {
	case cloud.ServerActive:
		return nil
	case cloud.ServerShutoff, cloud.ServerError:
		if err := m.Cloud.StartServer(ctx, server.ID); err != nil {
			return err
		}
	}
	op.SetProgress("the server is %s", server.Status)
	return later(op, cloudPoll)
}

func (m *Manager) restartDatabase(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return refused(m.agent(s).Restart(ctx, fence(op, s, "restart")))
}
