package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) resizeFlavor() engine.Workflow {
	return engine.Workflow{
		Kind: "resize_flavor",
		Doc:  "Moves the server to another flavor and fits the database to it; the move is confirmed once the database serves.",
		Steps: []engine.Step{
			{Name: "stopDatabase", Doc: "stopping the database", Run: m.stopDatabase, Within: 15 * time.Minute},
			{Name: "resizeServer", Doc: "resizing the server", Run: m.resizeServer, Within: 10 * time.Minute},
			{Name: "awaitResized", Doc: "waiting for the resized server", Run: m.awaitResized, Within: 30 * time.Minute},
			{Name: "awaitAgent", Doc: "waiting for the guest agent", Run: m.awaitAgent, Within: 15 * time.Minute},
			{Name: "fitDatabase", Doc: "fitting the database to the flavor", Run: m.fitDatabase, Within: 10 * time.Minute},
			{Name: "startDatabase", Doc: "starting the database", Run: m.startDatabase, Within: 15 * time.Minute},
			{Name: "awaitReady", Doc: "waiting for the database to serve", Run: m.awaitReady, Within: 30 * time.Minute},
			{Name: "confirmResize", Doc: "confirming the resize", Run: m.confirmResize, Within: 10 * time.Minute},
			{Name: "awaitServer", Doc: "waiting for the server", Run: m.awaitServer, Within: 10 * time.Minute},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markActive, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.revertFlavor, m.markReverted),
		Ended:  "ACTIVE with the fault on the old flavor; ERROR when the database does not come back there.",
	}
}

func (m *Manager) stopDatabase(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if overtaken(op, s) {
		return errOvertaken()
	}
	return refused(m.agent(s).Stop(ctx, guest.StopRequest{Fence: fence(op, s, "stop")}))
}

// startDatabase starts the database, unless its tenant had it stopped.
func (m *Manager) startDatabase(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil || s.instance.Stopped || op.Failure != nil && overtaken(op, s) {
		return err
	}
	return refused(m.agent(s).Restart(ctx, fence(op, s, "start")))
}

// fitDatabase makes the database, which does not run, as the rows say: its values, its role in its group, its secrets.
func (m *Manager) fitDatabase(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.fit(ctx, op, s)
}

func (m *Manager) fit(ctx context.Context, op *engine.Operation, s *subject) error {
	desired, err := m.desired(ctx, s)
	if err != nil {
		return err
	}
	sealed, err := m.seal(ctx, s, control.SecretPassword)
	if err != nil {
		return err
	}
	_, err = m.agent(s).Configure(ctx, guest.ConfigureRequest{Fence: fence(op, s, "fit"), Desired: desired, Sealed: sealed})
	return refused(err)
}

func (m *Manager) resizeServer(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return refused(m.Cloud.ResizeServer(ctx, s.guest.ServerID, s.instance.FlavorID))
}

func (m *Manager) awaitResized(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	server, err := m.Cloud.Server(ctx, s.guest.ServerID)
	if err != nil {
		return err
	}
	switch {
	case server.Status == cloud.ServerVerifyResize:
		return nil
	case server.Status == cloud.ServerError:
		return engine.Permanent(dbaas.WrapError(serverFault(server.Fault), dbaas.Internal, "The server could not be resized."))
	case server.Status == cloud.ServerActive && server.FlavorID == s.instance.FlavorID:
		return nil
	case server.Status == cloud.ServerActive:
		return engine.Permanent(dbaas.Errorf(dbaas.Internal, "The cloud gave up resizing the server; it is as before."))
	}
	op.SetProgress("the server is %s", server.Status)
	return later(op, cloudPoll)
}

func (m *Manager) confirmResize(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	server, err := m.Cloud.Server(ctx, s.guest.ServerID)
	if err != nil {
		return err
	}
	if server.Status == cloud.ServerActive {
		return nil // confirmed, by an earlier run or by the cloud's own timer
	}
	return m.Cloud.ConfirmResize(ctx, s.guest.ServerID)
}

// revertFlavor brings the server and the database back to what they were.
func (m *Manager) revertFlavor(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil || overtaken(op, s) {
		return err
	}
	done, err := m.revertServer(ctx, s)
	if err != nil {
		return err
	}
	if !done {
		return later(op, cloudPoll)
	}
	s.instance.FlavorID = s.instance.Applied.FlavorID
	return m.restoreDatabase(ctx, op, s)
}

// markReverted ends a failed resize. The database that serves again was started anew: nothing waits for that any more.
func (m *Manager) markReverted(ctx context.Context, op *engine.Operation, reverted bool) error {
	if !reverted {
		return m.giveUp(ctx, op)
	}
	return m.keepServing(ctx, op, func(s *subject) {
		s.instance.FlavorID = s.instance.Applied.FlavorID
		s.instance.Applied.RestartRequired = nil
	})
}

// revertServer asks for the old flavor and tells whether the server runs on it.
func (m *Manager) revertServer(ctx context.Context, s *subject) (bool, error) {
	server, err := m.Cloud.Server(ctx, s.guest.ServerID)
	if err != nil {
		return false, err
	}
	old := s.instance.Applied.FlavorID
	switch {
	case server.Status == cloud.ServerVerifyResize && server.FlavorID == old: // on its way back after a confirmed move
		return false, m.Cloud.ConfirmResize(ctx, server.ID)
	case server.Status == cloud.ServerVerifyResize:
		return false, m.Cloud.RevertResize(ctx, server.ID)
	case server.Status == cloud.ServerActive && server.FlavorID != old:
		return false, m.Cloud.ResizeServer(ctx, server.ID, old)
	}
	return server.Status == cloud.ServerActive, nil
}

// restoreDatabase fits the database to the flavor in s, starts it and requires that it serves.
func (m *Manager) restoreDatabase(ctx context.Context, op *engine.Operation, s *subject) error {
	desired, err := m.desired(ctx, s)
	if err != nil {
		return err
	}
	agent := m.agent(s)
	if _, err := agent.Configure(ctx, guest.ConfigureRequest{Fence: fence(op, s, "refit"), Desired: desired}); err != nil {
		return err
	}
	if s.instance.Stopped {
		return nil
	}
	if err := agent.Restart(ctx, fence(op, s, "restart-after-revert")); err != nil {
		return err
	}
	return m.awaitReady(ctx, op)
}
