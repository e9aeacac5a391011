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

const (
	kindUpgrade     = "upgrade_instance"
	kindUpgradePair = "upgrade_pair"
)

func (m *Manager) upgradePair() engine.Workflow {
	return engine.Workflow{
		Kind: kindUpgradePair,
		Doc: "Makes a hot standby another version with its data kept: replicas and the standby first, one at a time; then the standby takes over, " +
			"and the old primary follows.",
		Steps: []engine.Step{
			{Name: "awaitAgent", Doc: "waiting for the guest agent", Run: m.awaitAgent, Within: 10 * time.Minute},
			{Name: "upgradeFollowers", Doc: "upgrading replicas and standby", Run: m.upgradeFollowers, Within: 6 * time.Hour},
			{Name: "handOver", Doc: "handing over to the standby", Run: m.handOverUpgraded, Within: 12 * time.Hour},
			{Name: "upgradeOldPrimary", Doc: "upgrading the old primary, which stands by", Run: m.upgradeOldPrimary, Within: 12 * time.Hour},
			{Name: "awaitReady", Doc: "waiting for the database to serve", Run: m.awaitReady, Within: time.Hour},
			{Name: "awaitStandby", Doc: "waiting for the standby to be in step", Run: m.awaitFollowing, Within: 12 * time.Hour},
			{Name: "markUpgraded", Doc: "publishing the version", Run: m.markUpgraded, Within: 5 * time.Minute},
		},
		ChildrenMayFail: true, // a hand-over is tried again
		Failed:          m.keepOneVersion,
		Ended: "ACTIVE with the fault, of the version that its primary runs: the old one until the standby has taken over. A standby of the other " +
			"version is replaced.",
	}
}

// upgradeState adds what the steps pass on to what the request left.
type upgradeState struct {
	control.UpgradeState
	FromID   string   `json:"from_id,omitempty"`  // version of before
	Upgraded []string `json:"upgraded,omitempty"` // guests that are of the new version, in their order
	Trying   string   `json:"trying,omitempty"`   // guest that may be of either
	// Odd is the standby of a pair whose upgrade failed that may be of another version than the primary.
	Odd string `json:"odd,omitempty"`
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
			if err := m.requirePrimary(ctx, op, on); err != nil {
				return err
			}
			if state.Trying != one.guest.ID { // saved before it is so
				state.Trying = one.guest.ID
				if state.FromID == "" {
					state.FromID = s.instance.DatastoreVersionID
				}
				if err := op.Put(state); err != nil {
					return err
				}
				return engine.Wait(0)
			}
			if err := m.raise(ctx, op, on); err != nil {
				return err
			}
			if err := m.upgradeOne(ctx, op, on, state.VersionID); err != nil {
				return err
			}
			state.Upgraded, state.Trying = append(state.Upgraded, one.guest.ID), ""
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

// raise has a standby whose server is down, or that died as the primary, run and know whom to follow.
func (m *Manager) raise(ctx context.Context, op *engine.Operation, s *subject) error {
	if (member{s.instance, s.guest}).primary() || alive(m.ask(ctx, s)) {
		return nil
	}
	if err := m.powerOn(ctx, op, s); err != nil {
		if dbaas.ErrorCode(err) == dbaas.NotFound {
			return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "The server of the standby is gone."))
		}
		return err
	}
	err := m.configureGuest(ctx, op, s, "raise."+s.guest.ID)
	if err == nil {
		err = m.agent(s).Restart(ctx, fence(op, s, "start."+s.guest.ID))
	}
	if err != nil { // it may be of the new version already
		m.Logger.WarnContext(ctx, "a standby was not started before its upgrade", "guest", s.guest.ID, "error", err)
	}
	return nil
}

// handOverUpgraded has the upgraded standby take over; where there is none, nothing.
func (m *Manager) handOverUpgraded(ctx context.Context, op *engine.Operation) error {
	s, children, err := m.awaitChild(ctx, op)
	if err != nil {
		return err
	}
	var state upgradeState
	if err := op.Load(&state); err != nil || s.inPlace() || slices.Contains(state.Upgraded, s.instance.PrimaryGuestID) {
		return err
	}
	for _, other := range s.standbys() {
		if err := m.raise(ctx, op, s.on(other)); err != nil {
			return err
		}
	}
	return m.switchOver(ctx, op, s, children)
}

// upgradeOldPrimary upgrades who is left, which takes no writes by now, whatever failovers came between.
func (m *Manager) upgradeOldPrimary(ctx context.Context, op *engine.Operation) error {
	if err := m.handOverUpgraded(ctx, op); err != nil {
		return err
	}
	return m.upgradeMaster(ctx, op)
}

// version is what the subject's database is of: its instance's, unless an upgrade that has not ended was there already.
func (m *Manager) version(ctx context.Context, s *subject) (*dbaas.DatastoreVersion, error) {
	var last []*dbaas.Operation
	err := m.Store.Tx(ctx, func(tx *store.Tx) error {
		last = nil
		for _, kind := range []string{kindUpgrade, kindUpgradePair} {
			op, err := tx.LastOperation(cmp.Or(s.instance.ReplicaOf, s.instance.ID), kind)
			if err != nil {
				return err
			}
			last = append(last, op)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	id := s.instance.DatastoreVersionID
	for _, op := range last {
		if op == nil || op.Status.Ended() {
			continue
		}
		var state upgradeState
		if err := json.Unmarshal(op.State, &state); err != nil {
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

// keepOneVersion ends an upgrade of a pair that failed for good. A standby that may be of another version than the primary is
// stopped: it must not take over. The watch has it replaced.
func (m *Manager) keepOneVersion(ctx context.Context, op *engine.Operation) error {
	if err := m.endChildren(ctx, op); err != nil {
		return err
	}
	var state upgradeState
	if err := op.Load(&state); err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, other := range s.standbys() {
		if !state.odd(s.instance.PrimaryGuestID, other.guest.ID) {
			continue
		}
		state.Odd = other.guest.ID
		if err := op.Put(state); err != nil {
			return err
		}
		if !m.endedByAgent(ctx, op, s.on(other)) && inStep(op) < patience {
			return later(op, agentPoll)
		}
	}
	return m.keepVersions(ctx, op)
}

// odd tells whether a standby may be of another version than the primary.
func (u *upgradeState) odd(primary, standby string) bool {
	same := slices.Contains(u.Upgraded, primary) == slices.Contains(u.Upgraded, standby)
	return u.FromID != "" && u.FromID != u.VersionID && (u.Trying == standby || !same)
}

// bringsBack tells of an upgrade that it brings a standby back, in a version that can follow the primary's.
func bringsBack(op *dbaas.Operation, primary, standby string) bool {
	var state upgradeState
	return op != nil && op.Kind == kindUpgradePair && json.Unmarshal(op.State, &state) == nil && state.odd(primary, standby)
}

// isOdd tells whether the last upgrade of the subject's instance left its guest at another version than the primary's.
func (m *Manager) isOdd(ctx context.Context, s *subject) (odd bool, err error) {
	err = m.Store.Tx(ctx, func(tx *store.Tx) error {
		last, err := tx.LastOperation(s.instance.ID, kindUpgradePair)
		if err != nil || last == nil {
			return err
		}
		var state upgradeState
		err = json.Unmarshal(last.State, &state)
		odd = state.Odd == s.guest.ID
		return err
	})
	return odd, err
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
