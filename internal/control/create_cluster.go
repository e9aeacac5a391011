package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
)

// CreateCluster is the wish for a new cluster, its shape already checked by the API.
type CreateCluster struct {
	Name             string
	Datastore        string // id or name; "" is the default
	Version          string // id or name; "" is the datastore's default
	VersionNumber    string
	Masters          []NewMember
	ReplicasPerShard int
	Locality         string
	ConfigurationID  string
	TLS              dbaas.TLSMode // "" is off; all members have it
}

// NewMember is the wish for one member.
type NewMember struct {
	Name       string // "" for one of ours
	FlavorID   string // "" for that of the others, where there are any
	VolumeSize int    // GB; 0 likewise
	VolumeType string
	Zone       string
	Region     string
	Nic        *dbaas.Nic
	// Replica: it follows the member RelatedTo, which is the id or name of one, or a name within the same request.
	Replica   bool
	RelatedTo string
}

// CreatedCluster is an accepted wish. The password is shown this once, and on a reveal call.
type CreatedCluster struct {
	View             *ClusterView
	Password         string
	PasswordSecretID string
	OperationID      string
}

// CreateCluster accepts a cluster: all its rows, secrets, quota and one operation in one transaction. Its members stay
// BUILD until the whole stands.
func (s *Service) CreateCluster(ctx context.Context, c Caller, r CreateCluster) (*CreatedCluster, error) {
	version, err := s.activeVersion(ctx, r.Datastore, r.Version, r.VersionNumber)
	if err != nil {
		return nil, err
	}
	shape, err := s.clusterShape(version)
	if err != nil {
		return nil, err
	}
	if err := s.requireClusterOf(ctx, c.ProjectID, r, shape); err != nil {
		return nil, err
	}
	if err := s.requireTLSOf(ctx, version.ID, r.TLS); err != nil {
		return nil, err
	}
	cl := &dbaas.Cluster{
		ID: newID(), ProjectID: c.ProjectID, GroupID: newID(), Name: r.Name, DatastoreVersionID: version.ID,
		ConfigurationID: r.ConfigurationID, Locality: r.Locality, ReplicasPerShard: r.ReplicasPerShard, Task: dbaas.ClusterBuilding,
	}
	created := &CreatedCluster{Password: secret.GeneratePassword()}
	err = s.commit(ctx, c, func(tx *store.Tx) (err error) {
		created.OperationID, err = s.insertCluster(ctx, tx, c, cl, version, r, created)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.nudge(ctx, created.OperationID)
	created.View, err = s.Cluster(ctx, c, cl.ID)
	return created, err
}

func (s *Service) insertCluster(ctx context.Context, tx *store.Tx, c Caller, cl *dbaas.Cluster, version *VersionView, r CreateCluster, created *CreatedCluster) (string, error) {
	members := s.foundingMembers(cl, r)
	for i := range members {
		members[i].TLS = r.TLS
	}
	group, err := s.configurationFor(ctx, tx, c, &members[0], version)
	if err != nil {
		return "", err
	}
	secrets := Created{Password: created.Password}
	if group != nil {
		if err := s.takePassword(tx, group, &secrets); err != nil {
			return "", err
		}
	}
	if err := tx.LockProject(cl.ProjectID); err != nil {
		return "", err
	}
	if err := tx.InsertGroup(&dbaas.Group{ID: cl.GroupID, ProjectID: cl.ProjectID, Kind: dbaas.GroupCluster}); err != nil {
		return "", err
	}
	if err := putGroupPasswords(tx, cl.GroupID, &secrets); err != nil {
		return "", err
	}
	created.Password, created.PasswordSecretID = secrets.Password, secrets.PasswordSecretID
	if err := tx.InsertCluster(cl); err != nil {
		return "", err
	}
	if err := s.insertMembers(tx, members); err != nil {
		return "", err
	}
	return s.enqueue(tx, c, change{kind: "create_cluster", cluster: cl, lock: idsOf(members), after: clusterSizes(members)})
}

// insertMembers writes new members and requires that the project may have them.
func (s *Service) insertMembers(tx *store.Tx, members []dbaas.Instance) error {
	for i := range members {
		if err := insertWithGuest(tx, &members[i]); err != nil {
			return err
		}
	}
	return s.requireQuota(tx, members[0].ProjectID, dbaas.QuotaInstances, dbaas.QuotaVolumes, dbaas.QuotaRAM)
}

// clusterShape gives the bounds of a version's clusters; without any it is dbaas.NotImplemented.
func (s *Service) clusterShape(version *VersionView) (*datastore.ClusterShape, error) {
	m, err := s.manifest(&version.DatastoreVersion)
	if err != nil {
		return nil, err
	}
	if m.Capabilities.Cluster == nil {
		return nil, dbaas.Errorf(dbaas.NotImplemented, "Datastore %s forms no clusters.", m.Name)
	}
	return m.Capabilities.Cluster, nil
}

func (s *Service) requireClusterOf(ctx context.Context, projectID string, r CreateCluster, shape *datastore.ClusterShape) error {
	if len(r.Masters) < shape.MinMasters {
		return dbaas.Errorf(dbaas.BadRequest, "A cluster has at least %d masters, so that the others can replace one: cluster.instances names %d.",
			shape.MinMasters, len(r.Masters))
	}
	if r.ReplicasPerShard < 0 || r.ReplicasPerShard > shape.MostMembers || len(r.Masters)*(1+r.ReplicasPerShard) > shape.MostMembers {
		return dbaas.Errorf(dbaas.BadRequest, "A cluster has at most %d members; %d masters with %d replicas each are more.",
			shape.MostMembers, len(r.Masters), r.ReplicasPerShard)
	}
	first := r.Masters[0]
	for i, m := range r.Masters {
		if err := requireAlike(fmt.Sprintf("cluster.instances[%d]", i), m, first); err != nil {
			return err
		}
		if err := s.requireCatalog(ctx, projectID, CreateInstance{
			FlavorID: m.FlavorID, VolumeSize: m.VolumeSize, VolumeType: m.VolumeType, Zone: m.Zone, Region: m.Region, Nic: m.Nic}); err != nil {
			return err
		}
	}
	return nil
}

// requireAlike refuses a member of another size or in another network than the others.
func requireAlike(path string, m, first NewMember) error {
	switch {
	case m.FlavorID != first.FlavorID:
		return dbaas.Errorf(dbaas.BadRequest, "%s has flavor %s, the others have %s: all members of a cluster are alike.", path, m.FlavorID, first.FlavorID)
	case m.VolumeSize != first.VolumeSize || m.VolumeType != first.VolumeType:
		return dbaas.Errorf(dbaas.BadRequest, "%s has a volume of %d GB (type %q), the others have %d GB (type %q): all members of a cluster are alike.",
			path, m.VolumeSize, m.VolumeType, first.VolumeSize, first.VolumeType)
	case networkOf(m.Nic) != networkOf(first.Nic):
		return dbaas.Errorf(dbaas.BadRequest, "%s is in another network than the others: all members of a cluster reach each other.", path)
	}
	return nil
}

func networkOf(n *dbaas.Nic) string {
	if n == nil {
		return ""
	}
	return n.NetworkID
}

// foundingMembers gives the masters and their replicas: a shard each. A replica goes to the zone of another master, so that
// where there are several zones it is apart from its own.
func (s *Service) foundingMembers(cl *dbaas.Cluster, r CreateCluster) []dbaas.Instance {
	names := newNames(cl.Name, nil)
	for _, m := range r.Masters {
		names.take(m.Name)
	}
	members := make([]dbaas.Instance, 0, len(r.Masters)*(1+r.ReplicasPerShard))
	for _, m := range r.Masters {
		members = append(members, s.newMember(cl, m, newID(), names))
	}
	for round := range r.ReplicasPerShard {
		for i := range r.Masters {
			wish := r.Masters[i]
			wish.Name, wish.Zone = "", r.Masters[(i+round+1)%len(r.Masters)].Zone
			if wish.Nic != nil { // one address is one member's
				nic := *wish.Nic
				nic.IPAddress = ""
				wish.Nic = &nic
			}
			members = append(members, s.newMember(cl, wish, members[i].ShardID, names))
		}
	}
	return members
}

func (s *Service) newMember(cl *dbaas.Cluster, m NewMember, shardID string, names *memberNames) dbaas.Instance {
	name := m.Name
	if name == "" {
		name = names.next()
	}
	return dbaas.Instance{
		ID: newID(), ProjectID: cl.ProjectID, GroupID: cl.GroupID, ClusterID: cl.ID, ShardID: shardID, Name: name,
		DatastoreVersionID: cl.DatastoreVersionID, ConfigurationID: cl.ConfigurationID, FlavorID: m.FlavorID,
		VolumeSize: m.VolumeSize, VolumeType: m.VolumeType, Region: s.Region, Zone: m.Zone, Locality: cl.Locality, Nic: m.Nic,
		Task: dbaas.TaskBuilding,
	}
}

// memberNames gives out the names <cluster>-member-<n> that are free.
type memberNames struct {
	cluster string
	taken   []string
	n       int
}

func newNames(cluster string, members []dbaas.Instance) *memberNames {
	names := &memberNames{cluster: cluster}
	for i := range members {
		names.take(members[i].Name)
	}
	return names
}

// take notes a name and tells whether it was free.
func (n *memberNames) take(name string) bool {
	if slices.Contains(n.taken, name) {
		return false
	}
	n.taken = append(n.taken, name)
	return true
}

func (n *memberNames) next() string {
	for {
		n.n++
		if name := fmt.Sprintf("%s-member-%d", n.cluster, n.n); n.take(name) {
			return name
		}
	}
}
