package control

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
)

// CreateInstance is the wish for a new instance, its shape already checked by the API.
type CreateInstance struct {
	Name               string
	FlavorID           string
	VolumeSize         int // GB
	VolumeType         string
	Datastore          string // id or name; "" is the default
	Version            string // id or name; "" is the datastore's default
	VersionNumber      string // tells versions of one name apart
	ConfigurationID    string
	Zone               string
	Region             string
	Locality           string
	Nic                *dbaas.Nic
	Access             dbaas.Access
	DeletionProtection bool
	Persistence        dbaas.Persistence       // "" is the datastore's default
	Profile            string                  // of tuning; "" is none
	HighAvailability   *dbaas.HighAvailability // nil: no standby
	TLS                dbaas.TLSMode           // "" is off
}

// Created is an accepted wish. The password is shown this once, and on a reveal call.
type Created struct {
	View             *dbaas.InstanceView
	Password         string
	PasswordSecretID string
	OperationID      string
}

// CreateInstance accepts an instance: its rows, secrets, quota and operation in one transaction.
func (s *Service) CreateInstance(ctx context.Context, c Caller, r CreateInstance) (*Created, error) {
	version, err := s.activeVersion(ctx, r.Datastore, r.Version, r.VersionNumber)
	if err != nil {
		return nil, err
	}
	if err := s.requireCatalog(ctx, c.ProjectID, r); err != nil {
		return nil, err
	}
	if err := s.requireOffered(version, r); err != nil {
		return nil, err
	}
	created := &Created{Password: secret.GeneratePassword()}
	in := newInstance(c, r, version, s.Region)
	if in.HighAvailability != nil {
		if err := s.requireStandbyPossible(version, in); err != nil {
			return nil, err
		}
	}
	err = s.commit(ctx, c, func(tx *store.Tx) error {
		configured, err := s.configurationFor(ctx, tx, c, in, version)
		if err != nil {
			return err
		}
		if configured != nil {
			if err := s.takePassword(tx, configured, created); err != nil {
				return err
			}
		}
		if err := tx.LockProject(in.ProjectID); err != nil { // as late as may be: it lets one request at a time pass
			return err
		}
		if err := insertInstance(tx, in, created); err != nil {
			return err
		}
		if err := s.requireQuota(tx, in.ProjectID, dbaas.QuotaInstances, dbaas.QuotaVolumes, dbaas.QuotaRAM); err != nil {
			return err
		}
		created.OperationID, err = s.enqueue(tx, c, change{kind: "create_instance", instance: in, after: sizes(in)})
		return err
	})
	if err != nil {
		return nil, err
	}
	s.nudge(ctx, created.OperationID)
	created.View, err = s.Store.InstanceView(ctx, in.ID)
	return created, err
}

// requireOffered refuses what the datastore does not do.
func (s *Service) requireOffered(version *VersionView, r CreateInstance) error {
	m, err := s.manifest(&version.DatastoreVersion)
	if err != nil {
		return err
	}
	if err := requirePersistence(m, r.Persistence); err != nil {
		return err
	}
	if err := requireTLS(m, r.TLS); err != nil {
		return err
	}
	return requireProfile(m, r.Profile)
}

func newInstance(c Caller, r CreateInstance, version *VersionView, region string) *dbaas.Instance {
	return &dbaas.Instance{
		ID: newID(), ProjectID: c.ProjectID, GroupID: newID(), Name: r.Name,
		DatastoreVersionID: version.ID, FlavorID: r.FlavorID, VolumeSize: r.VolumeSize, VolumeType: r.VolumeType,
		ConfigurationID: r.ConfigurationID, Region: region, Zone: r.Zone, Locality: r.Locality,
		Nic: r.Nic, Access: r.Access, DeletionProtection: r.DeletionProtection,
		Persistence: r.Persistence, Profile: r.Profile, Task: dbaas.TaskBuilding, HighAvailability: r.HighAvailability,
		TLS: r.TLS,
	}
}

// insertInstance writes the rows of a single instance: group, instance, guest and their secrets.
func insertInstance(tx *store.Tx, in *dbaas.Instance, created *Created) error {
	if err := tx.InsertGroup(&dbaas.Group{ID: in.GroupID, ProjectID: in.ProjectID, Kind: dbaas.GroupSingle}); err != nil {
		return err
	}
	if err := insertWithGuest(tx, in); err != nil {
		return err
	}
	return putGroupPasswords(tx, in.GroupID, created)
}

// insertWithGuest writes an instance and its first guest into a group that is there.
func insertWithGuest(tx *store.Tx, in *dbaas.Instance) error {
	in.PrimaryGuestID = newID()
	if err := tx.InsertInstance(in); err != nil {
		return err
	}
	if _, err := InsertGuest(tx, in, in.PrimaryGuestID); err != nil {
		return err
	}
	if in.HighAvailability == nil {
		return nil
	}
	_, err := InsertGuest(tx, in, newID())
	return err
}

// putGroupPasswords stores the passwords that all members of a group share.
func putGroupPasswords(tx *store.Tx, groupID string, created *Created) error {
	if _, err := tx.PutSecret(groupID, SecretReplication, []byte(secret.GeneratePassword())); err != nil {
		return err
	}
	var err error
	created.PasswordSecretID, err = tx.PutSecret(groupID, SecretPassword, []byte(created.Password))
	return err
}

// InsertGuest writes the rows of a guest of an instance.
func InsertGuest(tx *store.Tx, in *dbaas.Instance, id string) (*dbaas.Guest, error) {
	guest := &dbaas.Guest{ID: id, InstanceID: in.ID, GroupID: in.GroupID, ProjectID: in.ProjectID, Status: dbaas.GuestNew}
	guest.Queue = guest.ID + "." + hex.EncodeToString(randomBytes(16))
	if err := tx.InsertGuest(guest); err != nil {
		return nil, err
	}
	_, err := tx.PutSecret(guest.ID, SecretRPCKey, NewRPCKey())
	return guest, err
}

// NewRPCKey makes a key that signs a guest's messages.
func NewRPCKey() []byte { return randomBytes(32) }

// requireCatalog refuses what the region does not have.
func (s *Service) requireCatalog(ctx context.Context, projectID string, r CreateInstance) error {
	catalog, err := s.Catalog(ctx)
	if err != nil {
		return err
	}
	if err := s.requireRegion(catalog, projectID, r.Region, r.Zone, r.Nic); err != nil {
		return err
	}
	if _, ok := catalog.Flavor(r.FlavorID); !ok {
		return unknownFlavor(catalog, r.FlavorID)
	}
	if err := s.requireVolumeSize(r.VolumeSize); err != nil {
		return err
	}
	if r.VolumeType != "" && !slices.ContainsFunc(catalog.VolumeTypes, func(t dbaas.VolumeType) bool {
		return t.ID == r.VolumeType || t.Name == r.VolumeType
	}) {
		return dbaas.Errorf(dbaas.BadRequest, "Volume type %q does not exist.", r.VolumeType)
	}
	return nil
}

// requireRegion refuses places that the region does not have.
func (s *Service) requireRegion(catalog *dbaas.Catalog, projectID, region, zone string, nic *dbaas.Nic) error {
	if region != "" && region != s.Region {
		return dbaas.Errorf(dbaas.BadRequest, "Region %q is not served here; use %q.", region, s.Region)
	}
	if zone != "" && !slices.Contains(catalog.Zones, zone) {
		return dbaas.Errorf(dbaas.BadRequest, "Availability zone %q does not exist; there are: %s.", zone, strings.Join(catalog.Zones, ", "))
	}
	return requireNetwork(catalog, projectID, nic)
}

// requireNetwork refuses the networks of others as if they did not exist: the cloud would not, for it knows Grove's account only.
func requireNetwork(catalog *dbaas.Catalog, projectID string, nic *dbaas.Nic) error {
	if nic == nil || slices.ContainsFunc(catalog.Networks, func(n dbaas.Network) bool { return n.Has(nic) && n.For(projectID) }) {
		return nil
	}
	if nic.NetworkID == "" {
		return dbaas.Errorf(dbaas.BadRequest, "Subnet %q does not exist.", nic.SubnetID)
	}
	return dbaas.Errorf(dbaas.BadRequest, "Network %q does not exist.", nic.NetworkID)
}

func unknownFlavor(catalog *dbaas.Catalog, id string) error {
	ids := make([]string, len(catalog.Flavors))
	for i, f := range catalog.Flavors {
		ids[i] = f.ID
	}
	return dbaas.Errorf(dbaas.BadRequest, "Flavor %q does not exist; there are: %s.", id, strings.Join(ids, ", "))
}

func (s *Service) requireVolumeSize(gb int) error {
	if gb > s.MaxVolumeSize {
		return dbaas.Errorf(dbaas.OverLimit, "A volume of %d GB is larger than the allowed maximum of %d GB.", gb, s.MaxVolumeSize)
	}
	return nil
}

// requireQuota recounts what the project has, the new rows included, under the lock on its row. Only the resources of
// which the request takes more are in question: a project that is over a limit may still change the rest.
func (s *Service) requireQuota(tx *store.Tx, projectID string, more ...string) error {
	usages, err := tx.Usage(projectID, s.Quotas)
	if err != nil {
		return err
	}
	for _, u := range usages {
		if u.Limit >= 0 && u.InUse > u.Limit && slices.Contains(more, u.Resource) {
			return dbaas.Errorf(dbaas.OverLimit, "Quota exceeded: this would take %s to %d, the limit is %d.", u.Resource, u.InUse, u.Limit)
		}
	}
	return nil
}

// sizes is what events record of an instance, to bill from.
func sizes(in *dbaas.Instance) map[string]any {
	return map[string]any{"flavor_id": in.FlavorID, "volume_size": in.VolumeSize, "volume_type": in.VolumeType}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic(fmt.Sprintf("the system has no randomness: %v", err)) // documented never to happen
	}
	return b
}
