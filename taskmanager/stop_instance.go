package taskmanager

import (
	"context"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) stopInstance() engine.Workflow {
	return engine.Workflow{
		Kind: "stop_instance",
		Doc:  "Stops the database cleanly, a standby first; it stays stopped until it is started.",
		Steps: []engine.Step{
			{Name: "stopGuests", Doc: "stopping the database", Run: m.stopGuests, Within: 15 * time.Minute},
			{Name: "awaitStopped", Doc: "waiting for the database to end", Run: m.awaitStopped, Within: 15 * time.Minute},
			{Name: "markStopped", Doc: "publishing the instance", Run: m.markActive, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.startGuests, m.keepStarted),
		Ended:  "ACTIVE with the fault; the database is started again where it can be reached.",
	}
}

func (m *Manager) startInstance() engine.Workflow {
	return engine.Workflow{
		Kind: "start_instance",
		Doc:  "Starts a stopped database, a standby last, and the server too where it is down.",
		Steps: []engine.Step{
			{Name: "startServer", Doc: "starting the server, should it be down", Run: m.startServer, Within: 10 * time.Minute},
			{Name: "awaitAgent", Doc: "waiting for the guest agent", Run: m.awaitAgent, Within: 10 * time.Minute},
			{Name: "fitGuests", Doc: "making the database as it should be", Run: m.fitGuests, Within: 5 * time.Minute},
			{Name: "startGuests", Doc: "starting the database", Run: m.startGuests, Within: 15 * time.Minute},
			{Name: "markStarted", Doc: "noting that the database is to run", Run: m.markStarted, Within: 5 * time.Minute},
			{Name: "awaitReady", Doc: "waiting for the database to serve", Run: m.awaitReady, Within: 30 * time.Minute},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markActive, Within: 5 * time.Minute},
		},
		Failed: func(ctx context.Context, op *engine.Operation) error {
			return m.keepServing(ctx, op, func(s *subject) { s.instance.Stopped = false })
		},
		Ended: "ACTIVE with the fault; the operating status tells how the database is.",
	}
}

// own gives the guests of the subject's instance, the primary last.
func (s *subject) own() []member {
	var all []member
	for _, m := range s.members {
		if m.instance.ID == s.instance.ID && !m.primary() {
			all = append(all, m)
		}
	}
	for _, m := range s.members {
		if m.instance.ID == s.instance.ID && m.primary() {
			all = append(all, m)
		}
	}
	return all
}

func (m *Manager) stopGuests(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range s.own() {
		if err := m.agent(s.on(one)).Stop(ctx, guest.StopRequest{Fence: fence(op, s, "stop")}); err != nil {
			return refused(err)
		}
	}
	return nil
}

// fitGuests makes the databases as the rows say, for much may have changed while they were stopped.
func (m *Manager) fitGuests(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range s.own() {
		if err := m.fit(ctx, op, s.on(one)); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) startGuests(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	all := s.own()
	slices.Reverse(all)
	for _, one := range all {
		if err := m.agent(s.on(one)).Restart(ctx, fence(op, s, "start")); err != nil {
			return refused(err)
		}
	}
	return nil
}

// awaitStopped waits until every database has ended, and has what the API shows say so.
func (m *Manager) awaitStopped(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range s.own() {
		report, err := m.status(ctx, s.on(one))
		if err != nil {
			op.SetProgress("the guest agent does not answer")
			return later(op, agentPoll)
		}
		if report.Status.Status != dbaas.GuestShutdown {
			op.SetProgress("the database is %s", report.Status.Status)
			return later(op, readyPoll)
		}
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error { // their reports are on the way, or were lost
		for _, one := range s.own() {
			one.guest.Status, one.guest.StatusCause, one.guest.StatusAt = dbaas.GuestShutdown, "The database is stopped.", tx.Now()
			if err := tx.UpdateGuest(one.guest); err != nil {
				return err
			}
		}
		return nil
	})
}

// markStarted makes the instance's failures failures again.
func (m *Manager) markStarted(ctx context.Context, op *engine.Operation) error {
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.instance.Stopped = false
		return nil
	})
}

func (m *Manager) keepStarted(ctx context.Context, op *engine.Operation, _ bool) error {
	return m.keepServing(ctx, op, func(s *subject) { s.instance.Stopped = false })
}
