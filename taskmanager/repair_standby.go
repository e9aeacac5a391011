package taskmanager

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

const kindRepair = "repair_standby"

// lostAfter is how long a standby's server may stay out of reach before another takes its place.
const lostAfter = 3 * time.Minute

func (m *Manager) repairStandby() engine.Workflow {
	return engine.Workflow{
		Kind: kindRepair,
		Doc:  "Brings an instance's standby back: an old primary follows the new one; what is lost is replaced.",
		Steps: []engine.Step{
			{Name: "configurePrimary", Doc: "telling the primary of its standby", Run: m.introduceToPrimary, Within: 30 * time.Minute},
			{Name: "startServer", Doc: "starting the standby's server", Run: m.startStandby, Within: 30 * time.Minute},
			{Name: "endStandby", Doc: "ending a database that does not answer", Run: m.endStandby, Within: 30 * time.Minute},
			{Name: "configureStandby", Doc: "letting it follow the primary", Run: m.followPrimary, Within: 30 * time.Minute},
			{Name: "restartStandby", Doc: "starting its database", Run: m.restartStandby, Within: 30 * time.Minute},
			{Name: "awaitInStep", Doc: "waiting for it to be in step", Run: m.awaitRepaired, Within: 6 * time.Hour},
			{Name: "replaceStandby", Doc: "beginning another standby in its place", Run: m.replaceStandby, Within: 5 * time.Minute},
			{Name: "awaitStandby", Doc: "waiting for the other standby", Run: m.awaitStandby, Within: 12 * time.Hour},
			{Name: "repointReplicas", Doc: "telling the replicas whom to follow", Run: m.repointAll, Within: 10 * time.Minute},
			{Name: "markProtected", Doc: "publishing the instance", Run: m.publishRepaired, Within: 5 * time.Minute},
		},
		Failed: m.leaveDegraded,
		Ended:  "ACTIVE and degraded, with one standby that is left; the watch begins another repair.",
	}
}

// repairState is the private state of a repair.
type repairState struct {
	StandbyID string `json:"standby_id"`
	// Lost: the standby cannot be brought back; NewID is the guest that takes its place.
	Lost       bool   `json:"lost,omitempty"`
	NewID      string `json:"new_id,omitempty"`
	aboutGuest        // the one that is removed, when the repair has failed
}

// standby gives the state of a repair and the standby that it is about; nil when there is nothing to do in this step.
func (m *Manager) standby(ctx context.Context, op *engine.Operation) (*repairState, *subject, error) {
	var state repairState
	if err := op.Load(&state); err != nil {
		return nil, nil, err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return nil, nil, err
	}
	if state.StandbyID == s.instance.PrimaryGuestID {
		return nil, nil, engine.Permanent(dbaas.Errorf(dbaas.Conflict, "The guest %s takes the instance's writes now.", state.StandbyID))
	}
	if state.Lost {
		return &state, nil, nil
	}
	s, err = s.about(state.StandbyID)
	return &state, s, err
}

// introduceToPrimary tells a living primary of its standby: another operation may have failed between. A dead one would come
// back by the order, before it is decided who takes the writes.
func (m *Manager) introduceToPrimary(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if s, err = s.primary(); err != nil {
		return err
	}
	r := m.ask(ctx, s)
	switch {
	case alive(r):
		return m.configureGuest(ctx, op, s, "configure."+s.guest.ID)
	case r != nil && hopeless(r.Status.Status):
		return engine.Permanent(primaryDied())
	}
	op.SetProgress("the primary does not answer")
	return later(op, readyPoll)
}

func primaryDied() error {
	return dbaas.Errorf(dbaas.Unavailable, "The primary died while its standby was being repaired.")
}

// startStandby has the standby's server run and its agent answer, or gives it up.
func (m *Manager) startStandby(ctx context.Context, op *engine.Operation) error {
	state, s, err := m.standby(ctx, op)
	if err != nil || s == nil {
		return err
	}
	odd, err := m.isOdd(ctx, s)
	if err != nil {
		return err
	}
	server, err := m.Cloud.Server(ctx, s.guest.ServerID)
	switch {
	case odd:
		return lost(op, state)
	case dbaas.ErrorCode(err) == dbaas.NotFound:
		return lost(op, state)
	case err != nil:
		return err
	case inStep(op) > lostAfter:
		return lost(op, state)
	case server.Status != cloud.ServerActive:
		return m.powerOn(ctx, op, s)
	}
	if _, err := m.Cloud.Volume(ctx, s.guest.VolumeID); dbaas.ErrorCode(err) == dbaas.NotFound {
		return lost(op, state)
	}
	if m.ask(ctx, s) == nil {
		op.SetProgress("the standby's agent does not answer yet")
		return later(op, agentPoll)
	}
	return nil
}

func lost(op *engine.Operation, state *repairState) error {
	state.Lost = true
	return op.Put(state)
}

// endStandby ends the standby's database where it runs and takes no orders: suspended, or silent for long.
func (m *Manager) endStandby(ctx context.Context, op *engine.Operation) error {
	_, s, err := m.standby(ctx, op)
	if err != nil || s == nil {
		return err
	}
	r := m.ask(ctx, s)
	if r == nil || !hopeless(r.Status.Status) && r.SilentSince == 0 {
		return nil
	}
	return m.agent(s).Stop(ctx, guest.StopRequest{Fence: fence(op, s, "end"), Now: true})
}

// followPrimary makes the standby's database a replica of the primary. It may have missed a change of the password.
func (m *Manager) followPrimary(ctx context.Context, op *engine.Operation) error {
	state, s, err := m.standby(ctx, op)
	if err != nil || s == nil {
		return err
	}
	if r := m.ask(ctx, s); r != nil && r.Status.Status == dbaas.GuestBuilding {
		return m.leaveToRebuild(ctx, op, state)
	}
	desired, err := m.desired(ctx, s)
	if err != nil {
		return err
	}
	sealed, err := m.seal(ctx, s, control.SecretPassword)
	if err != nil {
		return err
	}
	_, err = m.agent(s).Configure(ctx, guest.ConfigureRequest{Fence: fence(op, s, "follow"), Desired: desired, Sealed: sealed})
	return err
}

// leaveToRebuild is for a standby on a new root disk that has no database yet. The rebuild that this repair has pushed aside goes on
// when it ends; where none waits, the standby is lost.
func (m *Manager) leaveToRebuild(ctx context.Context, op *engine.Operation, state *repairState) error {
	waits, err := m.Store.Parks(ctx, op.ID)
	switch {
	case err != nil:
		return err
	case waits:
		return engine.Permanent(dbaas.Errorf(dbaas.Conflict, "The standby's server is being rebuilt; that goes on first."))
	}
	return lost(op, state)
}

func (m *Manager) restartStandby(ctx context.Context, op *engine.Operation) error {
	_, s, err := m.standby(ctx, op)
	if err != nil || s == nil {
		return err
	}
	if r := m.ask(ctx, s); r != nil && r.Status.Status == dbaas.GuestHealthy {
		return nil // it runs, and follows already
	}
	return m.agent(s).Restart(ctx, fence(op, s, "restart"))
}

// awaitRepaired waits until the standby is in step. A primary that died meanwhile comes first.
func (m *Manager) awaitRepaired(ctx context.Context, op *engine.Operation) error {
	_, s, err := m.standby(ctx, op)
	if err != nil || s == nil {
		return err
	}
	reports := m.askAll(ctx, append(s.others(), member{s.instance, s.guest}))
	if r := reports[s.guest.ID]; r != nil && inStepNow(r) {
		return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
			g, err := tx.Guest(s.guest.ID)
			if err != nil {
				return err
			}
			g.Status, g.StatusCause, g.Observed = dbaas.GuestHealthy, "", r.Status.Observed
			return tx.UpdateGuest(g)
		})
	}
	if r := reports[s.instance.PrimaryGuestID]; r != nil && hopeless(r.Status.Status) {
		return engine.Permanent(primaryDied())
	}
	op.SetProgress("the standby is copying the data")
	return later(op, readyPoll)
}

// replaceStandby has another guest provisioned in the place of a lost one, which is removed.
func (m *Manager) replaceStandby(ctx context.Context, op *engine.Operation) error {
	var state repairState
	if err := op.Load(&state); err != nil {
		return err
	}
	if !state.Lost {
		return nil
	}
	if state.NewID == "" { // chosen before it is used, so that a second run finds it again
		state.NewID = uuid.Must(uuid.NewV7()).String()
		if err := op.Put(state); err != nil {
			return err
		}
		return engine.Wait(0)
	}
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		in, err := tx.Instance(op.ResourceID)
		if err != nil {
			return err
		}
		guests, err := tx.Guests(in.ID)
		if err != nil {
			return err
		}
		if !hasGuest(guests, state.NewID) {
			if _, err := control.InsertGuest(tx, in, state.NewID); err != nil {
				return err
			}
		}
		if hasGuest(guests, state.StandbyID) {
			if err := beginForGuest(tx, op, kindRemoveGuest, state.StandbyID); err != nil {
				return err
			}
		}
		return beginForGuest(tx, op, kindAddGuest, state.NewID)
	})
}

func hasGuest(guests []dbaas.Guest, id string) bool {
	for _, g := range guests {
		if g.ID == id {
			return true
		}
	}
	return false
}

// repointAll tells everyone in the group whom to follow: a failover may have missed some.
func (m *Manager) repointAll(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range s.members {
		if one.instance.ID == s.instance.ID {
			continue
		}
		if err := m.configureGuest(ctx, op, s.on(one), "repoint."+one.guest.ID); err != nil {
			m.Logger.WarnContext(ctx, "a replica was not told its source", "guest", one.guest.ID, "error", err)
		}
	}
	return nil
}

func (m *Manager) publishRepaired(ctx context.Context, op *engine.Operation) error {
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		return note(tx, s.instance, op.ID, eventProtected, "The standby is in step again.", nil)
	})
}

// leaveDegraded ends a repair that failed: what it began ends first, and one standby is left, the lost one or else the new.
func (m *Manager) leaveDegraded(ctx context.Context, op *engine.Operation) error {
	if err := m.endChildren(ctx, op); err != nil {
		return err
	}
	var state repairState
	if err := op.Load(&state); err != nil || state.NewID == "" {
		return err
	}
	var guests []dbaas.Guest
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) (err error) {
		guests, err = tx.Guests(op.ResourceID)
		return err
	})
	if err != nil || !hasGuest(guests, state.NewID) || !hasGuest(guests, state.StandbyID) {
		return err
	}
	if state.GuestID == "" {
		state.GuestID = state.NewID
		if err := op.Put(state); err != nil {
			return err
		}
	}
	if err := m.removeObjects(ctx, op); err != nil {
		return err
	}
	err = m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error { return tx.DeleteGuest(state.NewID) })
	if err == nil {
		m.keys.forget(state.NewID)
	}
	return err
}
