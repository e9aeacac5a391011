package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) rebuildInstance() engine.Workflow {
	return engine.Workflow{
		Kind: "rebuild_instance",
		Doc:  "Gives the server a new root disk and a new agent, and brings the database back from its volume.",
		Steps: []engine.Step{
			{Name: "stopForRebuild", Doc: "stopping the database", Run: m.stopForRebuild, Within: 15 * time.Minute},
			{Name: "rebuildServer", Doc: "rebuilding the server", Run: m.rebuildServer, Within: 10 * time.Minute},
			{Name: "awaitServer", Doc: "waiting for the server", Run: m.awaitServer, Within: 30 * time.Minute},
			{Name: "meetAgent", Doc: "waiting for the new guest agent", Run: m.meetAgent, Within: 15 * time.Minute},
			{Name: "prepareGuest", Doc: "preparing the database on its volume", Run: m.prepareGuest, Within: 15 * time.Minute},
			{Name: "awaitReady", Doc: "waiting for the database to serve", Run: m.awaitReady, Within: time.Hour},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markActive, Within: 5 * time.Minute},
		},
		Failed: func(ctx context.Context, op *engine.Operation) error { return m.keepServing(ctx, op, nil) },
		Ended:  "ACTIVE with the fault; the volume is as it was, and the operating status tells how the database is.",
	}
}

// rebuildPatience is how long a silent agent is asked to stop its database: a broken root disk is why servers are rebuilt.
const rebuildPatience = 30 * time.Second

// stopForRebuild has the data on the volume, where there is still an agent to see to it.
func (m *Manager) stopForRebuild(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if overtaken(op, s) {
		return errOvertaken()
	}
	err = m.agent(s).Stop(ctx, guest.StopRequest{Fence: fence(op, s, "stop")})
	if err != nil && inStep(op) < rebuildPatience {
		op.SetProgress("the guest agent does not answer")
		return later(op, agentPoll)
	}
	return nil
}

func (m *Manager) rebuildServer(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	version, err := m.Store.Version(ctx, s.instance.DatastoreVersionID)
	if err != nil {
		return err
	}
	next, err := m.nextCredentials(ctx, op, s)
	if err != nil {
		return err
	}
	bootstrap, err := m.bootstrap(s, version, next)
	if err != nil {
		return err
	}
	err = refused(m.Cloud.RebuildServer(ctx, s.guest.ServerID, cloud.ServerSpec{
		GuestID: s.guest.ID, Name: objectName(s.guest.ID), FlavorID: s.instance.FlavorID,
		Image: version.Image, ImageTags: version.ImageTags, Zone: s.instance.Zone,
		PortID: s.guest.PortID, VolumeID: s.guest.VolumeID, RecordedID: s.guest.ServerID, UserData: bootstrap,
		Metadata: map[string]string{"grove_instance_id": s.instance.ID, "grove_project_id": s.instance.ProjectID},
	}))
	if err != nil {
		return err
	}
	return m.renewCredentials(ctx, op, s, next)
}

// meetAgent waits for the agent that came with the new root disk and takes its key, which secrets are sealed to.
func (m *Manager) meetAgent(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	report, err := m.status(ctx, s)
	if err != nil {
		op.SetProgress("the guest agent does not answer yet")
		return later(op, agentPoll)
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		if err := tx.MeetAgent(s.guest, report.PublicKey); err != nil {
			return err
		}
		return dropSecret(tx, s.guest.ID, control.SecretNextCredentials)
	})
}
