package taskmanager

import (
	"context"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// subject is what a step works on: the rows around the operation's instance, read under its lease.
type subject struct {
	instance *dbaas.Instance
	guest    *dbaas.Guest // that the step is about: the one that the operation's state names, else the primary
	group    *dbaas.Group
	members  []member // everyone in the group, this guest included
}

// member is a guest of the group with its instance.
type member struct {
	instance *dbaas.Instance
	guest    *dbaas.Guest
}

// on gives the subject of the same operation with another member in its middle.
func (s *subject) on(m member) *subject {
	return &subject{instance: m.instance, guest: m.guest, group: s.group, members: s.members}
}

// primary tells whether the member takes its instance's writes.
func (m member) primary() bool {
	return m.instance.PrimaryGuestID == "" || m.instance.PrimaryGuestID == m.guest.ID
}

// aboutGuest is the part of an operation's state that names the guest it is about.
type aboutGuest struct {
	GuestID string `json:"guest_id,omitempty"`
}

// load reads the operation's subject. It fails with engine.ErrLeaseLost when another worker holds the operation.
func (m *Manager) load(ctx context.Context, op *engine.Operation) (*subject, error) {
	var s *subject
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) (err error) {
		s, err = readSubject(tx, op)
		return err
	})
	return s, err
}

// update changes the operation's subject, under its lease and in one transaction.
func (m *Manager) update(ctx context.Context, op *engine.Operation, edit func(tx *store.Tx, s *subject) error) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		s, err := readSubject(tx, op)
		if err != nil {
			return err
		}
		if err := edit(tx, s); err != nil {
			return err
		}
		if err := tx.UpdateGuest(s.guest); err != nil {
			return err
		}
		return tx.UpdateInstance(s.instance)
	})
}

func readSubject(tx *store.Tx, op *engine.Operation) (*subject, error) {
	var about aboutGuest
	if err := op.Load(&about); err != nil {
		return nil, err
	}
	return subjectOf(tx, op.ResourceID, about.GuestID)
}

// subjectOf reads the rows around a guest of an instance; its primary with "".
func subjectOf(tx *store.Tx, instanceID, guestID string) (*subject, error) {
	group, err := tx.GroupOf(instanceID)
	if err != nil {
		return nil, err
	}
	s := &subject{group: group}
	if s.members, err = readMembers(tx, group.ID); err != nil {
		return nil, err
	}
	for _, m := range s.members {
		if m.instance.ID == instanceID && (m.guest.ID == guestID || guestID == "" && m.primary()) {
			return s.on(m), nil
		}
	}
	return nil, engine.Permanent(dbaas.Errorf(dbaas.Internal, "Instance %s has no guest %s.", instanceID, guestID))
}

// readMembers reads the guests of a group with their instances.
func readMembers(tx *store.Tx, groupID string) ([]member, error) {
	instances, err := tx.GroupMembers(groupID)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*dbaas.Instance, len(instances))
	for i := range instances {
		byID[instances[i].ID] = &instances[i]
	}
	guests, err := tx.GroupGuests(groupID)
	if err != nil {
		return nil, err
	}
	var members []member
	for i := range guests {
		if instance := byID[guests[i].InstanceID]; instance != nil {
			members = append(members, member{instance: instance, guest: &guests[i]})
		}
	}
	return members, nil
}

// follows gives the member whose writes the subject's guest is to follow; nil when it takes writes itself, or keeps its
// own topology.
func (s *subject) follows() *member {
	of := s.instance.ReplicaOf
	if !(member{s.instance, s.guest}).primary() {
		of = s.instance.ID
	}
	for i, m := range s.members {
		if of != "" && m.instance.ID == of && m.primary() {
			return &s.members[i]
		}
	}
	return nil
}

// agent gives the API of the subject's agent.
func (m *Manager) agent(s *subject) guest.API { return m.guests.Guest(s.guest) }

// fence marks a command to the guest, so that a late one does no harm and a repeated one is recognised.
func fence(op *engine.Operation, s *subject, deed string) guest.Fence {
	return guest.Fence{
		GroupEpoch: s.group.Epoch, OperationID: op.ID, LeaseEpoch: op.LeaseEpoch,
		CommandID: op.ID + "." + deed,
	}
}

// desired says what the subject's database should be. It carries no secrets.
func (m *Manager) desired(ctx context.Context, s *subject) (datastore.Desired, error) {
	values := map[string]any{}
	if s.instance.ConfigurationID != "" {
		group, err := m.Store.Configuration(ctx, s.instance.ConfigurationID)
		if err != nil {
			return datastore.Desired{}, err
		}
		values = group.Values
	}
	return m.desiredWith(ctx, s, values)
}

// desiredWith is desired with these values in the place of the attached group's.
func (m *Manager) desiredWith(ctx context.Context, s *subject, values map[string]any) (datastore.Desired, error) {
	version, err := m.version(ctx, s)
	if err != nil {
		return datastore.Desired{}, err
	}
	catalog, err := m.Store.Catalog(ctx, m.Region)
	if err != nil {
		return datastore.Desired{}, err
	}
	flavor, ok := catalog.Flavor(s.instance.FlavorID)
	if !ok {
		return datastore.Desired{}, engine.Permanent(dbaas.Errorf(dbaas.BadRequest, "Flavor %s is no longer on offer.", s.instance.FlavorID))
	}
	manifest, err := m.manifest(*version)
	if err != nil {
		return datastore.Desired{}, err
	}
	d := datastore.Desired{
		Version: version.Name, Address: s.guest.Address, FlavorRAM: flavor.RAM, VCPUs: flavor.VCPUs,
		VolumeSize: s.instance.VolumeSize, Values: values,
		Persistence: s.instance.Persistence, Profile: s.instance.Profile,
		Cluster: s.instance.ClusterID != "", Durability: s.instance.HighAvailability,
	}
	s.place(&d, manifest.URIPort)
	d.TLS, err = m.tlsWish(ctx, s)
	return d, err
}

// place says where in its group the subject's database stands.
func (s *subject) place(d *datastore.Desired, port int) {
	if master := s.follows(); master != nil {
		d.Master = master.endpoint(port)
	}
	if i := slices.IndexFunc(s.instance.Addresses, func(a dbaas.Address) bool { return a.Type == addressPrivate }); i >= 0 && s.instance.AddressID != "" {
		d.Moving = &datastore.MovingAddress{Address: s.instance.Addresses[i].Address, Here: member{s.instance, s.guest}.primary()}
	}
	for _, m := range s.members {
		if m.guest.ID != s.guest.ID && m.guest.Address != "" {
			d.Peers = append(d.Peers, *m.endpoint(port))
		}
		if m.instance.ID == s.instance.ID && !m.primary() {
			d.Failover = true
		}
	}
}

func (m member) endpoint(port int) *datastore.Endpoint {
	return &datastore.Endpoint{GuestID: m.guest.ID, Address: m.guest.Address, Port: port}
}

// seal gives the group's secrets and a certificate, sealed to the agent. kind says which password is the tenant's, or that the users are the
// pending ones.
func (m *Manager) seal(ctx context.Context, s *subject, kind string) (guest.Sealed, error) {
	users := control.SecretUsers
	if kind == control.SecretPendingUsers {
		kind, users = control.SecretPassword, kind
	}
	password, err := m.Store.RevealSecret(ctx, s.group.ID, kind)
	if err != nil {
		return nil, err
	}
	replication, err := m.Store.RevealSecret(ctx, s.group.ID, control.SecretReplication)
	if err != nil {
		return nil, err
	}
	secrets := map[string]string{datastore.SecretPassword: string(password), datastore.SecretReplication: string(replication)}
	accounts, err := m.Store.RevealSecret(ctx, s.group.ID, users)
	switch {
	case err == nil:
		secrets[datastore.SecretUsers] = string(accounts)
	case dbaas.ErrorCode(err) != dbaas.NotFound:
		return nil, err
	case users == control.SecretUsers: // never made any, or a failed attempt at the first
		secrets[datastore.SecretUsers] = "[]"
	}
	if s.instance.TLS.Encrypted() {
		if secrets[datastore.SecretTLSKey], err = m.issue(ctx, s); err != nil {
			return nil, err
		}
	}
	return guest.SealSecrets(s.guest.PublicKey, secrets)
}

// awaitAgent waits until the agent answers.
func (m *Manager) awaitAgent(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if len(s.guest.PublicKey) == 0 {
		return later(op, agentPoll)
	}
	if _, err := m.status(ctx, s); err != nil {
		op.SetProgress("the guest agent does not answer yet")
		return later(op, agentPoll)
	}
	return nil
}

// status asks the subject's agent how its database is. A silent one keeps a worker no longer than a user would wait.
func (m *Manager) status(ctx context.Context, s *subject) (*guest.StatusReport, error) {
	ctx, cancel := context.WithTimeout(ctx, rpc.DefaultCallTimeout)
	defer cancel()
	return m.agent(s).Status(ctx)
}

// awaitReady waits until the database serves, and has what the API shows say so too. One that was stopped is not to.
func (m *Manager) awaitReady(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil || s.instance.Stopped {
		return err
	}
	report, err := m.status(ctx, s)
	if err != nil {
		op.SetProgress("the guest agent does not answer")
		return later(op, agentPoll)
	}
	if report.Status.Status != dbaas.GuestHealthy {
		op.SetProgress("the database is %s: %s", report.Status.Status, report.Status.Cause)
		if hopeless(report.Status.Status) && inStep(op) > crashPatience {
			return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "The database does not come up. %s", report.Status.Cause))
		}
		return later(op, readyPoll)
	}
	if s.guest.Status == dbaas.GuestHealthy {
		return nil
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error { // its report is on its way, or was lost
		s.guest.Status, s.guest.StatusCause, s.guest.StatusAt = dbaas.GuestHealthy, "", tx.Now()
		return nil
	})
}

// crashPatience is how long a database may keep ending by itself before waiting for it is given up: what else a tenant
// can do about it (a larger volume, another value) is refused as long as the operation runs.
const crashPatience = time.Minute

// hopeless tells a database that does not run from one that is on its way.
func hopeless(g dbaas.GuestStatus) bool { return g == dbaas.GuestCrashed || g == dbaas.GuestFailed }

// How soon a step looks again at what it waits for; see later.
const (
	cloudPoll  = time.Second            // the cloud does not tell by itself
	volumeSoon = 100 * time.Millisecond // it has made one in less than a second as a rule
	serverSoon = 250 * time.Millisecond // in a few
	agentPoll  = time.Second            // a first contact wakes the operation sooner
	readyPoll  = 200 * time.Millisecond // a report wakes the operation sooner
	mostPoll   = 10 * time.Second
)

// later ends a step that has to look again: soon at first, less and less often the longer it takes, so that many slow
// operations are no load.
func later(op *engine.Operation, first time.Duration) error {
	return engine.Wait(min(max(first, inStep(op)/8), mostPoll))
}

// soon is later for what the cloud does quickly as a rule: there the first looks are closer together.
func soon(op *engine.Operation, first time.Duration) error {
	return engine.Wait(min(max(first, inStep(op)/2), max(cloudPoll, inStep(op)/8), mostPoll))
}

// inStep is how long the operation has been in its step (or its Failed), by the store's clock at its last claim or save.
func inStep(op *engine.Operation) time.Duration { return op.UpdatedAt.Sub(op.StepSince) }

// settle ends a change well: the instance is idle again and what it has now is what the next failure goes back to.
// restart names parameters that take effect only at the next start.
func settle(s *subject, restart []string) {
	s.instance.Fault = nil
	behind := behind(s.instance)
	s.instance.Applied = s.instance.Shape()
	s.instance.Applied.Behind = behind
	s.instance.Applied.RestartRequired = restart
	s.instance.Task = s.instance.IdleTask()
}

// markActive is the last step of a change after which nothing is pending.
func (m *Manager) markActive(ctx context.Context, op *engine.Operation) error {
	if partial(op) {
		return nil
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		settle(s, nil)
		return nil
	})
}

// keepServing ends a change that failed for good where a usable database remains: ACTIVE, with the fault and what
// restore puts back.
func (m *Manager) keepServing(ctx context.Context, op *engine.Operation, restore func(s *subject)) error {
	if partial(op) {
		return nil
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		if restore != nil {
			restore(s)
		}
		s.instance.Task = s.instance.IdleTask()
		s.instance.Fault = op.Failure
		return nil
	})
}

// giveUp ends a change that left no usable database: ERROR, with the fault. Delete is what cleans up; where it has
// removed the instance already there is nothing left to say.
func (m *Manager) giveUp(ctx context.Context, op *engine.Operation) error {
	if partial(op) {
		return nil
	}
	return m.fail(ctx, op)
}

// fail leaves the instance in ERROR, with the fault.
func (m *Manager) fail(ctx context.Context, op *engine.Operation) error {
	err := m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.instance.Task = dbaas.TaskError
		s.instance.Fault = op.Failure
		return nil
	})
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil
	}
	return err
}

// revertTime is how long a failed change may try to put the world back as it was.
const revertTime = 10 * time.Minute

// restoring makes a workflow's Failed. restore puts the world back as it was before the change; end writes the rows, and
// is told whether that succeeded. A world that does not answer within revertTime, or cannot be put back at all, must not
// keep the instance busy: then end comes without it.
func (m *Manager) restoring(restore func(context.Context, *engine.Operation) error,
	end func(ctx context.Context, op *engine.Operation, restored bool) error) func(context.Context, *engine.Operation) error {
	return func(ctx context.Context, op *engine.Operation) error {
		restored := false
		if inStep(op) < revertTime {
			err := restore(ctx, op)
			if err != nil && !engine.IsPermanent(err) {
				return err
			}
			if err != nil {
				m.Logger.ErrorContext(ctx, "failed change not reverted", "operation", op.ID, "kind", op.Kind, "error", err)
			}
			restored = err == nil
		}
		return end(ctx, op, restored)
	}
}
