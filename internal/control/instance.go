package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// Instance shows an instance. One that is unknown, deleted or another project's is dbaas.NotFound.
func (s *Service) Instance(ctx context.Context, c Caller, id string) (*dbaas.InstanceView, error) {
	if uuid.Validate(id) != nil {
		return nil, instanceNotFound(id)
	}
	v, err := s.Store.InstanceView(ctx, id)
	if dbaas.ErrorCode(err) == dbaas.NotFound || err == nil && !c.sees(v.ProjectID) {
		return nil, instanceNotFound(id)
	}
	return v, err
}

// DeletedInstance shows to the administrator an instance that was deleted, as long as it is kept.
func (s *Service) DeletedInstance(ctx context.Context, c Caller, id string) (*dbaas.InstanceView, error) {
	if !c.Admin || uuid.Validate(id) != nil {
		return nil, instanceNotFound(id)
	}
	v, err := s.Store.InstanceViewAmong(ctx, id, store.Deleted)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil, instanceNotFound(id)
	}
	return v, err
}

// Instances lists a page of instances and tells whether there are more. Without a project in the filter the caller
// must be the administrator.
func (s *Service) Instances(ctx context.Context, c Caller, f store.InstanceFilter) ([]dbaas.InstanceView, bool, error) {
	if !c.sees(f.ProjectID) {
		return nil, false, dbaas.Errorf(dbaas.Forbidden, "Only an administrator may list other projects' instances.")
	}
	return s.Store.ListInstances(ctx, f)
}

// ownInstance locks an instance for a change.
func ownInstance(tx *store.Tx, c Caller, id string) (*dbaas.Instance, error) {
	if uuid.Validate(id) != nil {
		return nil, instanceNotFound(id)
	}
	in, err := tx.Instance(id)
	if dbaas.ErrorCode(err) == dbaas.NotFound || err == nil && !c.sees(in.ProjectID) {
		return nil, instanceNotFound(id)
	}
	return in, err
}

func instanceNotFound(id string) error {
	return dbaas.Errorf(dbaas.NotFound, "Instance %s not found.", id)
}

// requireIdle refuses a change of an instance that is busy or broken. What a running operation is called, the refusal
// by its lock tells; this one speaks where no operation runs.
func requireIdle(tx *store.Tx, in *dbaas.Instance) error {
	if in.ClusterID != "" {
		return dbaas.Errorf(dbaas.NotImplemented, "Instance %s is a member of cluster %s: change the cluster.", in.ID, in.ClusterID)
	}
	return requireQuiet(tx, in)
}

// requireQuiet is requireIdle for what may also be asked of a member of a cluster.
func requireQuiet(tx *store.Tx, in *dbaas.Instance) error {
	op, err := tx.OperationHolding(in.ID)
	if err != nil {
		return err
	}
	if op != nil {
		return &store.BusyError{Resource: in.ID, Operation: *op}
	}
	if !in.Task.Idle() {
		return dbaas.Errorf(dbaas.Unprocessable, "Instance %s is not available (status %s).", in.ID, in.Task.Status())
	}
	return nil
}

// beginChange locks an instance, requires it idle, sets its task and enqueues what edit says.
func (s *Service) beginChange(ctx context.Context, c Caller, id string, task dbaas.Task,
	edit func(tx *store.Tx, in *dbaas.Instance) (change, error)) (string, error) {
	return s.beginChangeIf(ctx, c, id, task, requireIdle, edit)
}

// beginChangeIf is beginChange with another condition in the place of requireIdle.
func (s *Service) beginChangeIf(ctx context.Context, c Caller, id string, task dbaas.Task,
	require func(*store.Tx, *dbaas.Instance) error, edit func(*store.Tx, *dbaas.Instance) (change, error)) (string, error) {
	var operationID string
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		in, err := ownInstance(tx, c, id)
		if err != nil {
			return err
		}
		if err := require(tx, in); err != nil {
			return err
		}
		ch, err := edit(tx, in)
		if err != nil {
			return err
		}
		in.Task, in.Fault, ch.instance = task, nil, in
		if err := tx.UpdateInstance(in); err != nil {
			return err
		}
		operationID, err = s.enqueue(tx, c, ch)
		return err
	})
	if err != nil {
		return "", err
	}
	s.nudge(ctx, operationID)
	return operationID, nil
}

// RestartInstance restarts the database; pending configuration values take effect. A stopped one is started.
func (s *Service) RestartInstance(ctx context.Context, c Caller, id string) (string, error) {
	return s.beginChange(ctx, c, id, dbaas.TaskRebooting, func(_ *store.Tx, in *dbaas.Instance) (change, error) {
		if in.Stopped {
			return change{kind: "start_instance"}, nil
		}
		return change{kind: forPair(in, "restart_instance", "restart_pair")}, nil
	})
}

// DeleteInstance deletes in every state: what runs for the instance is superseded. A protected instance and a source
// with replicas are refused (dbaas.Forbidden).
func (s *Service) DeleteInstance(ctx context.Context, c Caller, id string) (string, error) {
	var operationID string
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		in, err := ownInstance(tx, c, id)
		if err != nil {
			return err
		}
		if err := requireDeletable(tx, in); err != nil {
			return err
		}
		running, err := tx.OperationHolding(in.ID)
		if err != nil {
			return err
		}
		if running != nil && running.ResourceID != in.ID {
			operationID, err = s.deleteWithin(tx, c, in, running)
			return err
		}
		if running != nil && (running.Kind == kindDelete || running.SupersededBy == kindDelete) {
			operationID = running.ID
			return nil
		}
		ch := change{kind: kindDelete, instance: in, before: sizes(in)}
		in.Task = dbaas.TaskDeleting
		if err := tx.UpdateInstance(in); err != nil {
			return err
		}
		if running == nil {
			operationID, err = s.enqueue(tx, c, ch)
			return err
		}
		operationID = running.ID
		s.plan(c, ch)
		if err := tx.Supersede(running.ID, kindDelete, c.UserID); err != nil {
			return err
		}
		return tx.InsertEvent(newEvent(c, ch, running.ID))
	})
	if err != nil {
		return "", err
	}
	s.nudge(ctx, operationID)
	return operationID, nil
}

// deleteWithin deletes an instance that a larger operation is creating: its part of that becomes the deletion. Other
// changes of a whole set, which are short, are waited for.
func (s *Service) deleteWithin(tx *store.Tx, c Caller, in *dbaas.Instance, parent *dbaas.Operation) (string, error) {
	busy := &store.BusyError{Resource: in.ID, Operation: *parent}
	parts, err := tx.Children(parent.ID)
	if err != nil {
		return "", err
	}
	part := slices.IndexFunc(parts, func(op dbaas.Operation) bool { return op.ResourceID == in.ID })
	ch := change{kind: kindDelete, instance: in, before: sizes(in)}
	switch {
	case part < 0 && in.Task != dbaas.TaskBuilding, part >= 0 && parts[part].Status.Ended():
		return "", busy
	case part >= 0:
		parent = &parts[part]
		if err := tx.Supersede(parent.ID, kindDelete, c.UserID); err != nil {
			return "", err
		}
	}
	in.Task = dbaas.TaskDeleting
	if err := tx.UpdateInstance(in); err != nil {
		return "", err
	}
	s.plan(c, ch)
	return parent.ID, tx.InsertEvent(newEvent(c, ch, parent.ID))
}

const kindDelete = "delete_instance"

func requireDeletable(tx *store.Tx, in *dbaas.Instance) error {
	if in.DeletionProtection {
		return dbaas.Errorf(dbaas.Forbidden, "Instance %s is protected: set deletion_protection to false before deleting it.", in.ID)
	}
	if in.ClusterID != "" {
		return dbaas.Errorf(dbaas.NotImplemented, "Instance %s is a member of cluster %s: shrink or delete the cluster.", in.ID, in.ClusterID)
	}
	replicas, err := tx.Replicas(in.ID)
	if err != nil {
		return err
	}
	if len(replicas) > 0 {
		return dbaas.Errorf(dbaas.Forbidden, "Instance %s has replicas: detach or delete them before deleting their source.", in.ID)
	}
	return nil
}

// ResetStatus clears what keeps an instance from being changed or deleted: a running operation is cancelled, whose id it
// gives; where none runs, an ERROR or a status that nobody is working on becomes ACTIVE (ERROR while deleting). What the
// guest says is unknown until it reports again.
func (s *Service) ResetStatus(ctx context.Context, c Caller, id string) (string, error) {
	var operationID string
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		in, err := ownInstance(tx, c, id)
		if err != nil {
			return err
		}
		op, err := tx.OperationHolding(in.ID)
		if err != nil {
			return err
		}
		if op != nil {
			operationID = op.ID
			return tx.CancelOperation(op.ID)
		}
		resetTask(in)
		if err := tx.UpdateInstance(in); err != nil {
			return err
		}
		return forgetGuestStatus(tx, in.ID)
	})
	if err == nil && operationID != "" {
		s.nudge(ctx, operationID)
	}
	return operationID, err
}

func resetTask(in *dbaas.Instance) {
	switch {
	case in.Task.Idle():
		return
	case in.Task == dbaas.TaskDeleting:
		in.Task = dbaas.TaskError
	default:
		in.Task = dbaas.TaskNone
	}
	if in.Applied == nil { // its create failed: there is nothing else that a failed change could go back to
		in.Applied = in.Shape()
	}
}

func forgetGuestStatus(tx *store.Tx, instanceID string) error {
	guests, err := tx.Guests(instanceID)
	if err != nil {
		return err
	}
	for i := range guests {
		guests[i].Status, guests[i].StatusCause = dbaas.GuestUnknown, "The status was reset."
		if err := tx.UpdateGuest(&guests[i]); err != nil {
			return err
		}
	}
	return nil
}

// Credentials are what a client needs to connect.
type Credentials struct {
	Username string
	Password string
	URI      string
}

// Credentials reveals the password of the tenant's account.
func (s *Service) Credentials(ctx context.Context, c Caller, id string) (*Credentials, error) {
	v, err := s.Instance(ctx, c, id)
	if err != nil {
		return nil, err
	}
	m, err := s.manifest(&v.Version)
	if err != nil {
		return nil, err
	}
	password, err := s.Store.RevealSecret(ctx, v.GroupID, SecretPassword)
	if err != nil {
		return nil, err
	}
	cr := &Credentials{Username: m.Username, Password: string(password)}
	if len(v.Addresses) > 0 {
		cr.URI = uri(m, v.TLS, url.UserPassword(cr.Username, cr.Password), v.Addresses[0].Address)
	}
	return cr, nil
}

// URI is where a client connects, without the password; "" while there is no address.
func (s *Service) URI(v *dbaas.InstanceView) string {
	m, ok := s.manifests[v.Version.Manager]
	if !ok || len(v.Addresses) == 0 {
		return ""
	}
	return uri(m, v.TLS, url.User(m.Username), v.Addresses[0].Address)
}

// Persistence is what an instance's database keeps on disk, "" where that is no choice.
func (s *Service) Persistence(v *dbaas.InstanceView) dbaas.Persistence {
	m, ok := s.manifests[v.Version.Manager]
	if v.Instance.Persistence != "" || !ok || len(m.Capabilities.Persistence) == 0 {
		return v.Instance.Persistence
	}
	return m.Capabilities.Persistence[0]
}

// uri is how a new client should come: by TLS where there is any.
func uri(m *datastore.Manifest, mode dbaas.TLSMode, who *url.Userinfo, address string) string {
	scheme, port := m.URIScheme, m.URIPort
	if mode.Encrypted() {
		scheme, port = m.TLSScheme, m.TLSPort
	}
	u := url.URL{Scheme: scheme, User: who, Host: net.JoinHostPort(address, strconv.Itoa(port))}
	return u.String()
}

// The kinds of secrets.
const (
	SecretPassword        = "password"             // of a group: the tenant's account, the same on every member
	SecretReplication     = "replication"          // of a group: the account by which its members reach each other
	SecretPendingPassword = "pending-password"     // of a group: what an operation is setting
	SecretUsers           = "users"                // of a group: its tenants' further accounts, as datastore.SecretUsers
	SecretPendingUsers    = "pending-users"        // of a group: what an operation is making of them
	SecretRPCKey          = "rpc-key"              // of a guest: signs its messages
	SecretNextCredentials = "next-broker-password" // of a guest that is being rebuilt: the operation, its next login, its next key
	SecretBrokerPassword  = "broker-password"      // of a guest: its login at the broker
	SecretAuthority       = "authority"            // of Grove itself: signs the certificates of databases
	secretValuePrefix     = "value:"               // of a configuration group: a secret parameter
)

// DefaultConfiguration gives the template's values for an instance.
func (s *Service) DefaultConfiguration(ctx context.Context, c Caller, id string) (map[string]any, error) {
	v, err := s.Instance(ctx, c, id)
	if err != nil {
		return nil, err
	}
	m, err := s.manifest(&v.Version)
	if err != nil {
		return nil, err
	}
	size, err := s.sizing(ctx, &v.Instance)
	if err != nil {
		return nil, err
	}
	return m.Defaults(v.Version.Name, size), nil
}

// sizing gives what parameter checks compare with.
func (s *Service) sizing(ctx context.Context, in *dbaas.Instance) (datastore.Sizing, error) {
	catalog, err := s.Catalog(ctx)
	if err != nil {
		return datastore.Sizing{}, err
	}
	flavor, _ := catalog.Flavor(in.FlavorID)
	return datastore.Sizing{
		FlavorRAM: flavor.RAM, VolumeSize: in.VolumeSize, Profile: in.Profile, Persistence: in.Persistence,
		Replicated: in.HighAvailability != nil || in.ReplicaOf != "" || in.ClusterID != "",
	}, nil
}

// RevealSecret gives the value of an instance's secret by id, for answers that are repeated under an idempotency key. It
// gives dbaas.NotFound when the secret has been replaced since, its instance is gone, or is another project's.
func (s *Service) RevealSecret(ctx context.Context, c Caller, secretID string) (string, error) {
	var value []byte
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		row, err := tx.Secret(secretID)
		if err != nil {
			return err
		}
		group, err := tx.Group(row.OwnerID)
		if err != nil || !c.sees(group.ProjectID) {
			return dbaas.Errorf(dbaas.NotFound, "Secret %s not found.", secretID)
		}
		value, err = tx.RevealSecret(secretID)
		return err
	})
	return string(value), err
}

func encode(v any) (dbaas.JSON, error) {
	if v == nil {
		return nil, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}
