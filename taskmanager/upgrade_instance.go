package taskmanager

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) upgradeInstance() engine.Workflow {
	return engine.Workflow{
		Kind: "upgrade_instance",
		Doc:  "Makes the database another version with its data kept: replicas and a standby first, one at a time, then the master.",
		Steps: []engine.Step{
			{Name: "awaitAgent", Doc: "waiting for the guest agent", Run: m.awaitAgent, Within: 10 * time.Minute},
			{Name: "upgradeFollowers", Doc: "upgrading replicas and standby", Run: m.upgradeFollowers, Within: 6 * time.Hour},
			{Name: "upgradeMaster", Doc: "upgrading the database", Run: m.upgradeMaster, Within: time.Hour},
			{Name: "awaitReady", Doc: "waiting for the database to serve", Run: m.awaitReady, Within: time.Hour},
			{Name: "markUpgraded", Doc: "publishing the version", Run: m.markUpgraded, Within: 5 * time.Minute},
		},
		Failed: m.keepVersions,
		Ended:  "ACTIVE with the fault; each instance shows the version that it runs.",
	}
}

// upgradeState adds what the steps pass on to what the request left.
type upgradeState struct {
	control.UpgradeState
	Upgraded []string `json:"upgraded,omitempty"` // guests that are of the new version, in their order
}

// upgradeFollowers upgrades those who take no writes, one after the other: the next begins when the one before serves.
func (m *Manager) upgradeFollowers(ctx context.Context, op *engine.Operation) error {
	return m.upgradeAll(ctx, op, func(s *subject) bool { return s.follows() != nil })
}

// upgradeMaster upgrades who is left. In a cluster each member has its own turn (see upgradeCluster).
func (m *Manager) upgradeMaster(ctx context.Context, op *engine.Operation) error {
	return m.upgradeAll(ctx, op, func(s *subject) bool { return s.instance.ClusterID == "" || s.instance.ID == op.ResourceID })
}

func (m *Manager) upgradeAll(ctx context.Context, op *engine.Operation, chosen func(*subject) bool) error {
	var state upgradeState
	if err := op.Load(&state); err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range s.members {
		on := s.on(one)
		switch {
		case !chosen(on):
			continue
		case !slices.Contains(state.Upgraded, one.guest.ID):
			if err := m.upgradeOne(ctx, op, on, state.VersionID); err != nil {
				return err
			}
			state.Upgraded = append(state.Upgraded, one.guest.ID)
			if err := op.Put(state); err != nil {
				return err
			}
			return later(op, readyPoll)
		}
		if report, err := m.status(ctx, on); err != nil || report.Status.Status != dbaas.GuestHealthy {
			if err == nil && hopeless(report.Status.Status) && inStep(op) > crashPatience {
				return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "The upgraded database does not come up. %s", report.Status.Cause))
			}
			op.SetProgress("waiting for %s to serve again", one.instance.Name)
			return later(op, readyPoll)
		}
	}
	return nil
}

func (m *Manager) upgradeOne(ctx context.Context, op *engine.Operation, s *subject, versionID string) error {
	s.instance.DatastoreVersionID = versionID
	desired, err := m.desired(ctx, s)
	if err != nil {
		return err
	}
	op.SetProgress("upgrading %s to version %s", s.instance.Name, desired.Version)
	return refused(m.agent(s).Upgrade(ctx, guest.ConfigureRequest{Fence: fence(op, s, "upgrade"), Desired: desired}))
}

// version is what the subject's database is of: its instance's, unless an upgrade that a failover has parked was there
// already.
func (m *Manager) version(ctx context.Context, s *subject) (*dbaas.DatastoreVersion, error) {
	parked, _, err := m.Store.ListOperations(ctx, store.OperationFilter{
		ResourceID: cmp.Or(s.instance.ReplicaOf, s.instance.ID), Status: dbaas.OperationParked,
	})
	if err != nil {
		return nil, err
	}
	id := s.instance.DatastoreVersionID
	for i := range parked {
		var state upgradeState
		if parked[i].Kind != "upgrade_instance" {
			continue
		}
		if err := json.Unmarshal(parked[i].State, &state); err != nil {
			return nil, err
		}
		if slices.Contains(state.Upgraded, s.guest.ID) {
			id = state.VersionID
		}
	}
	return m.Store.Version(ctx, id)
}

func (m *Manager) markUpgraded(ctx context.Context, op *engine.Operation) error {
	return m.noteVersions(ctx, op, func(s *subject) { settle(s, nil) })
}

// keepVersions ends an upgrade that failed for good: what was upgraded stays so, for data goes one way only.
func (m *Manager) keepVersions(ctx context.Context, op *engine.Operation) error {
	return m.noteVersions(ctx, op, func(s *subject) { s.instance.Task, s.instance.Fault = s.instance.IdleTask(), op.Failure })
}

// noteVersions writes the version of each instance whose primary was upgraded.
func (m *Manager) noteVersions(ctx context.Context, op *engine.Operation, end func(s *subject)) error {
	var state upgradeState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		for _, one := range s.members {
			if !one.primary() || !slices.Contains(state.Upgraded, one.guest.ID) {
				continue
			}
			one.instance.DatastoreVersionID = state.VersionID
			if one.instance.ID == s.instance.ID {
				continue // written with the rest
			}
			if err := tx.UpdateInstance(one.instance); err != nil {
				return err
			}
		}
		end(s)
		return nil
	})
}
