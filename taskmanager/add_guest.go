package taskmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

const (
	kindAddGuest    = "add_guest"
	kindRemoveGuest = "remove_guest"
)

func (m *Manager) addGuest() engine.Workflow {
	return engine.Workflow{
		Kind: kindAddGuest,
		Doc:  "Provisions a standby for an instance and lets it follow the primary, which goes on serving.",
		Steps: []engine.Step{
			{Name: "ensureSecurityGroup", Doc: "setting up who may connect", Run: m.ensureSecurityGroup, Within: 5 * time.Minute},
			{Name: "ensurePort", Doc: "getting an address", Run: m.ensurePort, Within: 5 * time.Minute},
			{Name: "ensureVolume", Doc: "creating the volume", Run: m.ensureVolume, Within: 5 * time.Minute},
			{Name: "awaitVolume", Doc: "waiting for the volume", Run: m.awaitVolume, Within: 10 * time.Minute},
			{Name: "ensureAccount", Doc: "creating the guest's login at the message broker", Run: m.ensureAccount, Within: 5 * time.Minute},
			{Name: "ensureServer", Doc: "creating the server", Run: m.ensureServer, Within: 5 * time.Minute},
			{Name: "awaitServer", Doc: "waiting for the server", Run: m.awaitServer, Within: 10 * time.Minute},
			{Name: "awaitAgent", Doc: "waiting for the guest agent's first contact", Run: m.awaitAgent, Within: m.firstContact()},
			{Name: "awaitPrimary", Doc: "waiting for the primary", Run: m.awaitPrimary, Within: 30 * time.Minute},
			{Name: "prepareGuest", Doc: "installing and starting the standby", Run: m.prepareGuest, Within: 10 * time.Minute},
			{Name: "awaitInStep", Doc: "copying the data to the standby", Run: m.awaitInStep, Within: 6 * time.Hour},
			{Name: "introduceStandby", Doc: "telling the primary of its standby", Run: m.introduceStandby, Within: 10 * time.Minute},
			{Name: "markProtected", Doc: "publishing the instance", Run: m.markProtected, Within: 5 * time.Minute},
		},
		Failed: m.withoutNewGuest,
		Ended: "ACTIVE with the fault and in the form that it had; what was created for the standby is removed. Where that cannot be " +
			"removed it is a hot standby all the same, and the watch replaces the standby.",
	}
}

func (m *Manager) removeGuest() engine.Workflow {
	return engine.Workflow{
		Kind: kindRemoveGuest,
		Doc:  "Removes an instance's standby; the primary goes on serving.",
		Steps: []engine.Step{
			{Name: "dismissStandby", Doc: "telling the primary that it is alone", Run: m.dismissStandby, Within: 10 * time.Minute},
			{Name: "deleteServer", Doc: "deleting the standby's server", Run: m.deleteOwned(cloud.KindServer, m.deleteServer), Within: 30 * time.Minute},
			{Name: "deleteAccount", Doc: "removing its login at the message broker", Run: m.deleteAccount, Within: 30 * time.Minute},
			{Name: "deleteVolume", Doc: "deleting its volume", Run: m.deleteOwned(cloud.KindVolume, m.deleteVolume), Within: 30 * time.Minute},
			{Name: "deletePort", Doc: "giving its address back", Run: m.deleteOwned(cloud.KindPort, m.deletePort), Within: 30 * time.Minute},
			{Name: "deleteSecurityGroup", Doc: "removing who may connect", Run: m.deleteOwned(cloud.KindSecurityGroup, m.deleteSecurityGroup), Within: 30 * time.Minute},
			{Name: "removeGuest", Doc: "removing the standby", Run: m.removeGuestRow, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.introduceAgain, m.keepGuest),
		Ended:  "ACTIVE with the fault, and a hot standby still; what is lost of the standby the watch replaces.",
	}
}

func (m *Manager) changeAvailability() engine.Workflow {
	return engine.Workflow{
		Kind: "change_availability",
		Doc:  "Changes what a hot standby promises of durability.",
		Steps: []engine.Step{
			{Name: "configureStandby", Doc: "configuring the standby", Run: m.configureOther, Within: 10 * time.Minute},
			{Name: "configurePrimary", Doc: "configuring the primary", Run: m.configurePrimary, Within: 10 * time.Minute},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markActive, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.restoreAvailability, m.keepAvailability),
		Ended:  "ACTIVE with the fault and the class that it had.",
	}
}

// beginStandby has the further guests of a new instance provisioned beside the first.
func (m *Manager) beginStandby(ctx context.Context, op *engine.Operation) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		s, err := readSubject(tx, op)
		if err != nil || s.instance.HighAvailability == nil {
			return err
		}
		for _, other := range s.standbys() {
			if err := beginForGuest(tx, op, kindAddGuest, other.guest.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// beginForGuest begins an operation about a guest of op's instance, unless it was begun before.
func beginForGuest(tx *store.Tx, op *engine.Operation, kind, guestID string) error {
	children, err := tx.Children(op.ID)
	if err != nil {
		return err
	}
	state, err := json.Marshal(control.GuestState{GuestID: guestID})
	if err != nil {
		return err
	}
	begun := func(child dbaas.Operation) bool {
		var about aboutGuest
		return child.Kind == kind && json.Unmarshal(child.State, &about) == nil && about.GuestID == guestID
	}
	if slices.ContainsFunc(children, begun) {
		return nil
	}
	return tx.Enqueue(&dbaas.Operation{
		Kind: kind, ProjectID: op.ProjectID, ResourceType: op.ResourceType, ResourceID: op.ResourceID, GroupID: op.GroupID,
		ParentID: op.ID, State: state, RequestID: op.RequestID, TraceParent: op.TraceParent, Actor: op.Actor,
	})
}

// awaitStandby waits for what beginStandby began. One that fails fails the operation.
func (m *Manager) awaitStandby(ctx context.Context, op *engine.Operation) error {
	running, err := m.runningChild(ctx, op)
	if err != nil || running == nil {
		return err
	}
	op.SetProgress("the standby: %s", running.Step)
	return later(op, cloudPoll)
}

// runningChild gives one of the operations that op began that has not ended, nil when all have.
func (m *Manager) runningChild(ctx context.Context, op *engine.Operation) (*dbaas.Operation, error) {
	children, err := m.Store.Children(ctx, op.ID)
	if err != nil {
		return nil, err
	}
	for i := range children {
		if !children[i].Status.Ended() {
			return &children[i], nil
		}
	}
	return nil, nil
}

// standbys gives the other guests of the subject's instance.
func (s *subject) standbys() []member {
	var others []member
	for _, m := range s.members {
		if m.instance.ID == s.instance.ID && m.guest.ID != s.instance.PrimaryGuestID {
			others = append(others, m)
		}
	}
	return others
}

// primary gives the subject of the guest that takes the instance's writes.
func (s *subject) primary() (*subject, error) { return s.about(s.instance.PrimaryGuestID) }

// about gives the subject of one of the instance's guests.
func (s *subject) about(guestID string) (*subject, error) {
	for _, m := range s.members {
		if m.instance.ID == s.instance.ID && m.guest.ID == guestID {
			return s.on(m), nil
		}
	}
	return nil, engine.Permanent(dbaas.Errorf(dbaas.Internal, "Instance %s has no guest %s.", s.instance.ID, guestID))
}

// without gives the subject as if a guest were gone.
func (s *subject) without(guestID string) *subject {
	rest := *s
	rest.members = slices.DeleteFunc(slices.Clone(s.members), func(m member) bool { return m.guest.ID == guestID })
	return &rest
}

// awaitPrimary waits until there is something to follow.
func (m *Manager) awaitPrimary(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if master := s.follows(); master != nil && (master.guest.Address == "" || master.guest.Status != dbaas.GuestHealthy) {
		op.SetProgress("the primary is %s", master.guest.Status)
		return later(op, readyPoll)
	}
	return nil
}

// awaitInStep waits until the subject's database follows its master closely, and has what the API shows say so too.
func (m *Manager) awaitInStep(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	report, err := m.status(ctx, s)
	if err != nil {
		op.SetProgress("the guest agent does not answer")
		return later(op, agentPoll)
	}
	if !inStepNow(report) {
		op.SetProgress("the standby is %s and not in step yet %s", report.Status.Status, report.Status.Cause)
		if hopeless(report.Status.Status) && inStep(op) > crashPatience {
			return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "The standby does not come up. %s", report.Status.Cause))
		}
		return later(op, readyPoll)
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error { // its report is on its way, or was lost
		if s.guest.Status != dbaas.GuestHealthy {
			s.guest.Status, s.guest.StatusCause, s.guest.StatusAt = dbaas.GuestHealthy, "", tx.Now()
		}
		s.guest.Observed = report.Status.Observed
		return nil
	})
}

// inStepNow tells whether a database serves and follows closely.
func inStepNow(r *guest.StatusReport) bool {
	place := control.ReplicationIn(r.Status.Observed)
	return r.Status.Status == dbaas.GuestHealthy && place != nil &&
		place.Role == datastore.RoleReplica && place.LinkUp && !place.Syncing
}

// introduceStandby tells the primary who stands by: from now on it waits to be failed over when it dies.
func (m *Manager) introduceStandby(ctx context.Context, op *engine.Operation) error {
	return m.configurePrimary(ctx, op)
}

func (m *Manager) configurePrimary(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if s, err = s.primary(); err != nil {
		return err
	}
	return m.configureGuest(ctx, op, s, "configure."+s.guest.ID)
}

// configureOther configures the standby; where there is none, nothing.
func (m *Manager) configureOther(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, other := range s.standbys() {
		if err := m.configureGuest(ctx, op, s.on(other), "configure."+other.guest.ID); err != nil {
			return err
		}
	}
	return nil
}

// configureGuest makes a guest's database as the rows say.
func (m *Manager) configureGuest(ctx context.Context, op *engine.Operation, s *subject, deed string) error {
	_, err := m.configureWith(ctx, op, s, deed, "", m.desired)
	return refused(err)
}

// markProtected ends the adding of a standby. Where it is a part of a larger operation, that one publishes the instance.
func (m *Manager) markProtected(ctx context.Context, op *engine.Operation) error {
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error {
		if op.ParentID == "" {
			settle(s, restartRequired(s.instance))
		}
		return note(tx, s.instance, op.ID, eventProtected, "The standby is in step.", nil)
	})
}

func restartRequired(in *dbaas.Instance) []string {
	if in.Applied == nil {
		return nil
	}
	return in.Applied.RestartRequired
}

// withoutNewGuest removes a guest that could not be added. In a larger operation that is for the larger one to decide.
func (m *Manager) withoutNewGuest(ctx context.Context, op *engine.Operation) error {
	if op.ParentID != "" {
		return nil
	}
	var state control.GuestState
	if err := op.Load(&state); err != nil {
		return err
	}
	if _, err := m.Store.Guest(ctx, state.GuestID); dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil // it came as far as this before
	}
	if err := m.dismissStandby(ctx, op); err != nil && inStep(op) < revertTime {
		return err
	}
	if err := m.removeObjects(ctx, op); err != nil {
		if inStep(op) < revertTime+time.Minute {
			return err
		}
		return m.keepServing(ctx, op, nil) // the guest's row stays, for nothing else knows of them
	}
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		in, err := tx.Instance(op.ResourceID)
		if err != nil {
			return err
		}
		in.HighAvailability, in.Task, in.Fault = state.Previous, in.IdleTask(), op.Failure
		if err := tx.UpdateInstance(in); err != nil {
			return err
		}
		return tx.DeleteGuest(state.GuestID)
	})
}

// removeObjects removes all that the cloud and the broker have of the operation's guest.
func (m *Manager) removeObjects(ctx context.Context, op *engine.Operation) error {
	for _, step := range m.removeGuest().Steps {
		if step.Name == "dismissStandby" || step.Name == "removeGuest" {
			continue
		}
		if err := step.Run(ctx, op); err != nil {
			return err
		}
	}
	return nil
}

// dismissStandby tells the primary that it is alone from now on: it restarts by itself when it dies.
func (m *Manager) dismissStandby(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	leaving := s.guest.ID
	if s, err = s.without(leaving).primary(); err != nil {
		return err
	}
	return m.configureGuest(ctx, op, s, "dismiss."+leaving)
}

// removeGuestRow ends a guest's row. One that is gone already is success: the step ran before.
func (m *Manager) removeGuestRow(ctx context.Context, op *engine.Operation) error {
	var state control.GuestState
	if err := op.Load(&state); err != nil {
		return err
	}
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		in, err := tx.Instance(op.ResourceID)
		if err != nil {
			return err
		}
		if state.GuestID == in.PrimaryGuestID {
			return engine.Permanent(dbaas.Errorf(dbaas.Conflict, "The guest %s takes the instance's writes now.", state.GuestID))
		}
		if op.ParentID == "" {
			in.Fault, in.Task = nil, in.IdleTask()
			if err := tx.UpdateInstance(in); err != nil {
				return err
			}
		}
		return tx.DeleteGuest(state.GuestID)
	})
	if err == nil {
		m.keys.forget(state.GuestID)
	}
	return err
}

// introduceAgain tells the primary that it has a standby all the same, in the class that it had. It may have lost it, which is
// for the watch to see.
func (m *Manager) introduceAgain(ctx context.Context, op *engine.Operation) error {
	if op.ParentID != "" {
		return nil
	}
	var state control.GuestState
	if err := op.Load(&state); err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	s.instance.HighAvailability = state.Previous
	if s, err = s.primary(); err != nil {
		return err
	}
	return m.configureGuest(ctx, op, s, "introduce."+s.guest.ID)
}

// keepGuest ends a removal that failed: the standby stays the instance's, whatever is left of it.
func (m *Manager) keepGuest(ctx context.Context, op *engine.Operation, _ bool) error {
	if op.ParentID != "" {
		return nil
	}
	var state control.GuestState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.keepServing(ctx, op, func(s *subject) { s.instance.HighAvailability = state.Previous })
}

func (m *Manager) restoreAvailability(ctx context.Context, op *engine.Operation) error {
	var state control.GuestState
	if err := op.Load(&state); err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	s.instance.HighAvailability = state.Previous
	for _, each := range append(s.standbys(), member{s.instance, s.guest}) {
		if err := m.configureGuest(ctx, op, s.on(each), "restore."+each.guest.ID); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) keepAvailability(ctx context.Context, op *engine.Operation, _ bool) error {
	var state control.GuestState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.keepServing(ctx, op, func(s *subject) { s.instance.HighAvailability = state.Previous })
}

// The events of a hot standby.
const (
	eventFailover  = "instance.failover"
	eventDegraded  = "instance.degraded"
	eventProtected = "instance.protected"
)

// note records what happened to an instance, once in a row: its protection is looked at by several.
func note(tx *store.Tx, in *dbaas.Instance, operationID, kind, message string, after any) error {
	if kind == eventFailover { // once for each, though a step may run twice
		last, err := tx.LastEvent(in.ID, kind)
		if err != nil || last != nil && last.OperationID == operationID {
			return err
		}
	} else {
		last, err := tx.LastEvent(in.ID, eventDegraded, eventProtected)
		if err != nil || last != nil && last.Kind == kind {
			return err
		}
	}
	var text dbaas.JSON
	if after != nil {
		var err error
		if text, err = json.Marshal(after); err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
	}
	return tx.InsertEvent(&dbaas.Event{
		ProjectID: in.ProjectID, ResourceType: "instance", ResourceID: in.ID, OperationID: operationID,
		Kind: kind, Message: message, Actor: "watch", After: text,
	})
}
