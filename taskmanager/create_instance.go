package taskmanager

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) createInstance() engine.Workflow {
	return engine.Workflow{
		Kind: "create_instance",
		Doc:  "Provisions a guest for a new instance and starts its database.",
		Steps: []engine.Step{
			{Name: "ensureSecurityGroup", Doc: "setting up who may connect", Run: m.ensureSecurityGroup, Within: 5 * time.Minute},
			{Name: "ensurePort", Doc: "getting an address", Run: m.ensurePort, Within: 5 * time.Minute},
			{Name: "ensureAddress", Doc: "getting the address that stays with the instance", Run: m.ensureAddress, Within: 5 * time.Minute},
			{Name: "beginStandby", Doc: "beginning the standby", Run: m.beginStandby, Within: 5 * time.Minute},
			{Name: "ensureVolume", Doc: "creating the volume", Run: m.ensureVolume, Within: 5 * time.Minute},
			{Name: "awaitVolume", Doc: "waiting for the volume", Run: m.awaitVolume, Within: 10 * time.Minute},
			{Name: "ensureAccount", Doc: "creating the guest's login at the message broker", Run: m.ensureAccount, Within: 5 * time.Minute},
			{Name: "ensureServer", Doc: "creating the server", Run: m.ensureServer, Within: 5 * time.Minute},
			{Name: "awaitServer", Doc: "waiting for the server", Run: m.awaitServer, Within: 10 * time.Minute},
			{Name: "awaitAgent", Doc: "waiting for the guest agent's first contact", Run: m.awaitAgent, Within: m.firstContact()},
			{Name: "prepareGuest", Doc: "installing and starting the database", Run: m.prepareGuest, Within: 10 * time.Minute},
			{Name: "awaitReady", Doc: "waiting for the database to serve", Run: m.awaitReady, Within: 30 * time.Minute},
			{Name: "awaitCopy", Doc: "copying the data of the source", Run: m.awaitCopy, Within: 6 * time.Hour},
			{Name: "pointAddress", Doc: "connecting the instance's address", Run: m.pointAddress, Within: 5 * time.Minute},
			{Name: "awaitStandby", Doc: "waiting for the standby", Run: m.awaitStandby, Within: 6 * time.Hour},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markCreated, Within: 5 * time.Minute},
		},
		Failed: m.giveUpCreating,
		Ended:  "ERROR with the fault; what was created stays accounted for until the instance is deleted.",
	}
}

func (m *Manager) firstContact() time.Duration { return cmp.Or(m.FirstContact, 15*time.Minute) }

// giveUpCreating leaves the instance in ERROR, that of a replica or of a cluster's member too; the making of a standby ends first,
// which nobody would know of.
func (m *Manager) giveUpCreating(ctx context.Context, op *engine.Operation) error {
	if err := m.endChildren(ctx, op); err != nil {
		return err
	}
	m.addConsole(ctx, op)
	return m.fail(ctx, op)
}

const (
	// consoleLines and consoleBytes are how much of a console is kept.
	consoleLines = 20
	consoleBytes = 4000
	consoleTitle = "\nThe console's last lines:\n"
)

// addConsole shows operators what the server of a guest that never came to serve said last, if the cloud tells that.
func (m *Manager) addConsole(ctx context.Context, op *engine.Operation) {
	s, err := m.load(ctx, op)
	if err != nil || s.guest.ServerID == "" || op.Failure == nil || strings.Contains(op.Failure.Details, consoleTitle) {
		return
	}
	text, err := m.Cloud.Console(ctx, s.guest.ServerID, consoleLines)
	if err != nil {
		m.Logger.DebugContext(ctx, "console not read", "server", s.guest.ServerID, "error", err)
	}
	text = strings.ToValidUTF8(strings.TrimSpace(text), "")
	if len(text) > consoleBytes {
		text = strings.ToValidUTF8(text[len(text)-consoleBytes:], "")
	}
	if text != "" {
		op.Failure.Details += consoleTitle + text
	}
}

// markCreated publishes the instance. A member of a cluster that is being built stays so until the whole stands.
func (m *Manager) markCreated(ctx context.Context, op *engine.Operation) error {
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		if s.instance.ClusterID == "" || s.instance.Task != dbaas.TaskBuilding {
			settle(s, nil)
		}
		return nil
	})
}

// createState is what the steps of a create pass on.
type createState struct {
	aboutGuest
	SecurityGroupID string `json:"security_group_id"`
}

// objectName is what everything made for a guest is called in the cloud.
func objectName(guestID string) string { return "grove-" + guestID }

func (m *Manager) ensureSecurityGroup(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	id, err := m.applyAccess(ctx, s, s.instance.Access)
	if err != nil {
		return m.refusedByCloud(ctx, op, err)
	}
	return op.Put(createState{aboutGuest: aboutGuest{GuestID: s.guest.ID}, SecurityGroupID: id})
}

// applyAccess makes the guest's security group as access says. The members of its group reach each other in any case.
func (m *Manager) applyAccess(ctx context.Context, s *subject, access dbaas.Access) (string, error) {
	version, err := m.Store.Version(ctx, s.instance.DatastoreVersionID)
	if err != nil {
		return "", err
	}
	manifest, err := m.manifest(*version)
	if err != nil {
		return "", err
	}
	id, err := m.Cloud.EnsureSecurityGroup(ctx, accessSpec(s, manifest, access))
	return id, refused(err)
}

func accessSpec(s *subject, manifest *datastore.Manifest, access dbaas.Access) cloud.SecurityGroupSpec {
	return cloud.SecurityGroupSpec{
		GuestID: s.guest.ID, Name: objectName(s.guest.ID), TCPPorts: manifest.TCPPorts, AllowedCIDRs: access.AllowedCIDRs,
		Nic: s.nic(), PeersID: s.group.ID, PeerPorts: manifest.PeerPorts,
	}
}

// nic is where the subject's instance is connected; zero for the default network.
func (s *subject) nic() dbaas.Nic {
	if s.instance.Nic == nil {
		return dbaas.Nic{}
	}
	return *s.instance.Nic
}

func (m *Manager) tcpPorts(ctx context.Context, s *subject) ([]int, error) {
	version, err := m.Store.Version(ctx, s.instance.DatastoreVersionID)
	if err != nil {
		return nil, err
	}
	manifest, err := m.manifest(*version)
	if err != nil {
		return nil, err
	}
	return manifest.TCPPorts, nil
}

func (m *Manager) ensurePort(ctx context.Context, op *engine.Operation) error {
	var state createState
	if err := op.Load(&state); err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	ports, err := m.tcpPorts(ctx, s)
	if err != nil {
		return err
	}
	spec := cloud.PortSpec{
		GuestID: s.guest.ID, Name: objectName(s.guest.ID), SecurityGroupID: state.SecurityGroupID,
		Nic: s.nic(), TCPPorts: ports, RecordedID: s.guest.PortID,
	}
	if hasAddress(s.instance) {
		spec.Nic.IPAddress = "" // the wish is for the instance's address
	}
	port, err := m.Cloud.EnsurePort(ctx, spec)
	if err != nil {
		return m.refusedByCloud(ctx, op, err)
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.guest.PortID, s.guest.Address = port.ID, port.Address
		if !hasAddress(s.instance) {
			s.instance.Addresses = shown(port.Address, port.Network)
		}
		return nil
	})
}

func (m *Manager) ensureVolume(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	volume, err := m.Cloud.EnsureVolume(ctx, cloud.VolumeSpec{
		GuestID: s.guest.ID, Name: objectName(s.guest.ID), SizeGB: s.instance.VolumeSize,
		Type: s.instance.VolumeType, Zone: s.instance.Zone, RecordedID: s.guest.VolumeID,
	})
	if err != nil {
		return m.refusedByCloud(ctx, op, err)
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.guest.VolumeID = volume.ID
		return nil
	})
}

func (m *Manager) awaitVolume(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.volumeReady(ctx, op, s)
}

// volumeReady waits for the subject's volume to be there, and as large as it should be.
func (m *Manager) volumeReady(ctx context.Context, op *engine.Operation, s *subject) error {
	volume, err := m.Cloud.Volume(ctx, s.guest.VolumeID)
	if err != nil {
		return err
	}
	switch {
	case volume.Status == cloud.VolumeError:
		return engine.Permanent(dbaas.Errorf(dbaas.Internal, "The volume could not be provided."))
	case volume.Status != cloud.VolumeAvailable && volume.Status != cloud.VolumeInUse, volume.SizeGB < s.instance.VolumeSize:
		op.SetProgress("the volume is %s", volume.Status)
		return soon(op, volumeSoon)
	}
	return nil
}

// ensureAccount gives the guest its login. The password is chosen and stored first, so that a second run gives the same.
func (m *Manager) ensureAccount(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	password, err := m.brokerPassword(ctx, op, s)
	if err != nil {
		return err
	}
	return m.Accounts.Ensure(ctx, rpc.Account{GuestID: s.guest.ID, Queue: s.guest.Queue, Password: password})
}

// brokerPassword gives the guest's password at the broker, choosing it the first time.
func (m *Manager) brokerPassword(ctx context.Context, op *engine.Operation, s *subject) (string, error) {
	var password string
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		id, err := tx.FindSecret(s.guest.ID, control.SecretBrokerPassword)
		if err != nil {
			return err
		}
		if id == "" {
			password = secret.GeneratePassword()
			_, err = tx.PutSecret(s.guest.ID, control.SecretBrokerPassword, []byte(password))
			return err
		}
		value, err := tx.RevealSecret(id)
		password = string(value)
		return err
	})
	return password, err
}

func (m *Manager) ensureServer(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	version, err := m.Store.Version(ctx, s.instance.DatastoreVersionID)
	if err != nil {
		return err
	}
	var c credentials
	if c.key, err = m.Store.RevealSecret(ctx, s.guest.ID, control.SecretRPCKey); err != nil {
		return err
	}
	if m.GuestRPCURL != nil {
		if c.password, err = m.brokerPassword(ctx, op, s); err != nil {
			return err
		}
	}
	bootstrap, err := m.bootstrap(s, version, c)
	if err != nil {
		return err
	}
	group, err := m.serverGroup(ctx, s)
	if err != nil {
		return m.refusedByCloud(ctx, op, err)
	}
	if group != "" && s.guest.ServerID == "" && inStep(op) < placingPatience {
		if placing, err := m.placing(ctx, s); err != nil || placing {
			return cmp.Or(err, soon(op, serverSoon))
		}
	}
	server, err := m.Cloud.EnsureServer(ctx, cloud.ServerSpec{
		GroupID: group,
		GuestID: s.guest.ID, Name: objectName(s.guest.ID), FlavorID: s.instance.FlavorID,
		Image: version.Image, ImageTags: version.ImageTags, Zone: s.instance.Zone,
		PortID: s.guest.PortID, VolumeID: s.guest.VolumeID, RecordedID: s.guest.ServerID, UserData: bootstrap,
		Metadata: map[string]string{"grove_instance_id": s.instance.ID, "grove_project_id": s.instance.ProjectID},
	})
	if err != nil {
		return m.refusedByCloud(ctx, op, err)
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.guest.ServerID = server.ID
		return nil
	})
}

// placingPatience is how long a guest waits until those made before it have their places.
const placingPatience = 2 * time.Minute

// placing tells whether the cloud is still to choose where the server of an earlier guest of the group runs. Of servers that it places
// at the same moment Nova sends two to one host: a soft rule is then broken, and a hard one fails a server for which there is room.
func (m *Manager) placing(ctx context.Context, s *subject) (bool, error) {
	for _, one := range s.members {
		if one.guest.ID >= s.guest.ID {
			continue
		}
		if one.guest.ServerID == "" {
			if one.instance.Task == dbaas.TaskBuilding {
				return true, nil
			}
			continue
		}
		server, err := m.Cloud.Server(ctx, one.guest.ServerID)
		switch {
		case dbaas.ErrorCode(err) == dbaas.NotFound:
		case err != nil:
			return false, err
		case server.Status == cloud.ServerBuild:
			return true, nil
		}
	}
	return false, nil
}

// serverGroup gives the group that keeps an instance's servers apart, or as its locality says; "" where there is no rule.
func (m *Manager) serverGroup(ctx context.Context, s *subject) (string, error) {
	policy := s.instance.Locality
	if policy == "" && s.instance.HighAvailability != nil {
		policy = "soft-anti-affinity"
	}
	if policy == "" {
		return "", nil
	}
	id, err := m.Cloud.EnsureServerGroup(ctx, s.group.ID, policy)
	return id, refused(err)
}

// bootstrap is what the new server's agent must know before its first contact.
func (m *Manager) bootstrap(s *subject, version *dbaas.DatastoreVersion, c credentials) ([]byte, error) {
	b := guest.Bootstrap{
		GuestID: s.guest.ID, Datastore: version.Manager, Version: version.Name, Address: s.guest.Address, VolumeID: s.guest.VolumeID,
		Queue: s.guest.Queue, RPCKey: c.key, Heartbeat: m.Heartbeat,
	}
	if m.GuestRPCURL != nil {
		b.RPCURL = m.GuestRPCURL(s.guest.ID, c.password)
	}
	if m.BrokerCA != nil {
		ca, err := m.BrokerCA()
		if err != nil {
			return nil, fmt.Errorf("read rpc.ca_file: %w", err)
		}
		b.BrokerCA = string(ca)
	}
	return json.Marshal(b)
}

func (m *Manager) awaitServer(ctx context.Context, op *engine.Operation) error {
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
	case cloud.ServerError:
		if server.NoRoom {
			return m.refusedByCloud(ctx, op, dbaas.WrapError(serverFault(server.Fault), dbaas.OverLimit,
				"The cloud has no machine left for the server, or none where its locality and zone let it run."))
		}
		return engine.Permanent(dbaas.WrapError(serverFault(server.Fault), dbaas.Internal, "The server could not be started."))
	default:
		op.SetProgress("the server is %s", server.Status)
		return soon(op, serverSoon)
	}
}

// serverFault is the provider's own reason, which only operators see.
type serverFault string

func (f serverFault) Error() string { return string(f) }

func (m *Manager) prepareGuest(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	desired, err := m.desired(ctx, s)
	if err != nil {
		return err
	}
	sealed, err := m.seal(ctx, s, control.SecretPassword)
	if err != nil {
		return err
	}
	err = m.agent(s).Prepare(ctx, guest.PrepareRequest{Fence: fence(op, s, "prepare"), Desired: desired, Sealed: sealed})
	if dbaas.ErrorCode(err) == dbaas.Conflict {
		return cmp.Or(m.takeKey(ctx, op, s), err)
	}
	return refused(err)
}

// takeKey takes the key of the agent that answers, for the next try: of two rebuilds in a row, the first one's taskmanager having died,
// it was the first one's agent that was met.
func (m *Manager) takeKey(ctx context.Context, op *engine.Operation, s *subject) error {
	report, err := m.status(ctx, s)
	if err != nil || bytes.Equal(report.PublicKey, s.guest.PublicKey) {
		return err
	}
	return m.update(ctx, op, func(tx *store.Tx, s *subject) error { return tx.MeetAgent(s.guest, report.PublicKey) })
}

// awaitCopy waits until a new replica has all that its source has. Others have nothing to wait for.
func (m *Manager) awaitCopy(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil || s.follows() == nil {
		return err
	}
	report, err := m.status(ctx, s)
	if err != nil {
		op.SetProgress("the guest agent does not answer")
		return later(op, agentPoll)
	}
	if r := control.ReplicationIn(report.Status.Observed); r != nil && !(r.LinkUp && !r.Syncing) {
		op.SetProgress("the replica is not in step with its source yet")
		return later(op, readyPoll)
	}
	return nil
}

// refusedByCloud is refused, and tells operators when the cloud is exhausted: tenants cannot mend that.
func (m *Manager) refusedByCloud(ctx context.Context, op *engine.Operation, err error) error {
	if dbaas.ErrorCode(err) == dbaas.OverLimit {
		m.Operations.Exhausted(op.Step)
		m.Logger.ErrorContext(ctx, "the cloud is exhausted", "operation", op.ID, "kind", op.Kind, "step", op.Step, "resource", op.ResourceID, "error", err)
		told := m.Store.Tx(ctx, func(tx *store.Tx) error {
			return tx.InsertEvent(&dbaas.Event{ // of no project: for administrators
				ResourceType: op.ResourceType, ResourceID: op.ResourceID, OperationID: op.ID, Kind: "cloud.exhausted",
				Message: dbaas.ErrorMessage(err), Actor: "taskmanager", RequestID: op.RequestID,
			})
		})
		if told != nil {
			return told // and tried again
		}
	}
	return refused(err)
}

// refused tells an answer that no retry can change from one that may pass.
func refused(err error) error {
	switch dbaas.ErrorCode(err) {
	case dbaas.BadRequest, dbaas.OverLimit, dbaas.NotFound, dbaas.Forbidden, dbaas.NotImplemented, dbaas.Unprocessable:
		return engine.Permanent(err)
	default:
		return err
	}
}
