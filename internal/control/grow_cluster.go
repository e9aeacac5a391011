package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
)

// GrowState is the private state of a grow_cluster operation.
type GrowState struct {
	Added     []string `json:"added"`     // instances
	Rebalance bool     `json:"rebalance"` // masters were added
}

// ShrinkState is the private state of a shrink_cluster operation.
type ShrinkState struct {
	Leaving []string `json:"leaving"` // instances
}

// GrowCluster adds members: masters, which take their part of the data, and replicas.
func (s *Service) GrowCluster(ctx context.Context, c Caller, id string, items []NewMember) (string, error) {
	plan, err := s.planGrow(ctx, c, id, items)
	if err != nil {
		return "", err
	}
	return s.beginClusterChange(ctx, c, id, dbaas.ClusterGrowing, func(tx *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error) {
		if err := requireWhole(cl, members); err != nil {
			return change{}, err
		}
		if err := requireOneVersion(cl, members); err != nil {
			return change{}, err
		}
		added, masters, err := s.newcomers(ctx, cl, members, items)
		if err != nil {
			return change{}, err
		}
		if err := tx.LockProject(cl.ProjectID); err != nil {
			return change{}, err
		}
		if err := s.insertMembers(tx, added); err != nil {
			return change{}, err
		}
		return change{
			kind: "grow_cluster", state: GrowState{Added: idsOf(added), Rebalance: masters > 0}, lock: idsOf(added), moves: plan,
			before: clusterSizes(members), after: clusterSizes(append(members, added...)),
		}, nil
	})
}

// newcomers works out who is to join, and counts the masters among them.
func (s *Service) newcomers(ctx context.Context, cl *dbaas.Cluster, members []dbaas.Instance, items []NewMember) (added []dbaas.Instance, masters int, err error) {
	version, err := s.versionByID(ctx, cl.DatastoreVersionID)
	if err != nil {
		return nil, 0, err
	}
	shape, err := s.clusterShape(version)
	if err != nil {
		return nil, 0, err
	}
	items = slices.Clone(items)
	names := newNames(cl.Name, members)
	for i := range items {
		if err := s.fitIn(ctx, fmt.Sprintf("grow[%d]", i), &items[i], members, names); err != nil {
			return nil, 0, err
		}
	}
	added, shards := s.newMasters(cl, items, names)
	masters = len(added)
	own := map[string]bool{} // new shards that name their replicas themselves
	for i, m := range items {
		if !m.Replica {
			continue
		}
		shard, isNew, err := relatedShard(fmt.Sprintf("grow[%d]", i), m, members, shards)
		if err != nil {
			return nil, 0, err
		}
		own[shard] = own[shard] || isNew
		added = append(added, s.newMember(cl, m, shard, names))
	}
	for i, master := range added[:masters] {
		if own[master.ShardID] {
			continue
		}
		for round := range cl.ReplicasPerShard {
			m := memberLike(master)
			m.Zone = added[(i+round+1)%masters].Zone
			added = append(added, s.newMember(cl, m, master.ShardID, names))
		}
	}
	if n := len(members) + len(added); n > shape.MostMembers {
		return nil, 0, dbaas.Errorf(dbaas.BadRequest, "A cluster has at most %d members; this one would have %d.", shape.MostMembers, n)
	}
	for i := range added {
		added[i].TLS = members[0].TLS
	}
	return added, masters, nil
}

// fitIn fills in what a newcomer leaves open with what the others have, and refuses one that is not like them.
func (s *Service) fitIn(ctx context.Context, path string, m *NewMember, members []dbaas.Instance, names *memberNames) error {
	like := memberLike(members[0])
	if m.FlavorID == "" {
		m.FlavorID = like.FlavorID
	}
	if m.VolumeSize == 0 {
		m.VolumeSize = like.VolumeSize
	}
	if m.VolumeType == "" {
		m.VolumeType = like.VolumeType
	}
	if m.Nic == nil {
		m.Nic = like.Nic
	}
	if err := requireAlike(path, *m, like); err != nil {
		return err
	}
	if m.Name != "" && !names.take(m.Name) {
		return dbaas.Errorf(dbaas.BadRequest, "%s: the name %q is taken in this cluster.", path, m.Name)
	}
	if !m.Replica && m.RelatedTo != "" {
		return dbaas.Errorf(dbaas.BadRequest, "%s: related_to names the master of a member of type \"replica\"; this one is a master.", path)
	}
	return s.requireCatalog(ctx, members[0].ProjectID, CreateInstance{
		FlavorID: m.FlavorID, VolumeSize: m.VolumeSize, VolumeType: m.VolumeType, Zone: m.Zone, Region: m.Region, Nic: m.Nic})
}

// memberLike is the wish for another one like in.
func memberLike(in dbaas.Instance) NewMember {
	m := NewMember{FlavorID: in.FlavorID, VolumeSize: in.VolumeSize, VolumeType: in.VolumeType, Zone: in.Zone}
	if in.Nic != nil {
		nic := *in.Nic
		nic.IPAddress = ""
		m.Nic = &nic
	}
	return m
}

// newMasters gives the masters that are asked for, and their shards by name.
func (s *Service) newMasters(cl *dbaas.Cluster, items []NewMember, names *memberNames) (added []dbaas.Instance, shards map[string]string) {
	shards = map[string]string{}
	for _, m := range items {
		if !m.Replica {
			in := s.newMember(cl, m, newID(), names)
			shards[in.Name] = in.ShardID
			added = append(added, in)
		}
	}
	return added, shards
}

// relatedShard finds the shard that a new replica is to belong to: of the same request, or of a member that is there.
func relatedShard(path string, m NewMember, members []dbaas.Instance, shards map[string]string) (shard string, isNew bool, err error) {
	if m.RelatedTo == "" {
		return "", false, dbaas.Errorf(dbaas.BadRequest, "%s: a replica needs related_to: the id or name of the member whose data it is to copy.", path)
	}
	if shard, ok := shards[m.RelatedTo]; ok {
		return shard, true, nil
	}
	i := slices.IndexFunc(members, func(in dbaas.Instance) bool { return in.ID == m.RelatedTo || in.Name == m.RelatedTo })
	if i < 0 {
		return "", false, dbaas.Errorf(dbaas.BadRequest, "%s: related_to %q is neither a member of this cluster nor a master of this request.", path, m.RelatedTo)
	}
	return members[i].ShardID, false, nil
}

// ShrinkCluster lets members leave: a replica alone; a master together with its replicas, once others have its data.
func (s *Service) ShrinkCluster(ctx context.Context, c Caller, id string, instanceIDs []string) (string, error) {
	view, err := s.Cluster(ctx, c, id)
	if err != nil {
		return "", err
	}
	plan, err := s.planShrink(ctx, c, view, instanceIDs)
	if err != nil {
		return "", err
	}
	return s.beginClusterChange(ctx, c, id, dbaas.ClusterShrinking, func(tx *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error) {
		leaving, err := s.leavers(ctx, view, members, instanceIDs)
		if err != nil {
			return change{}, err
		}
		stay := staying(members, leaving)
		if err := requireWhole(cl, stay); err != nil {
			return change{}, err
		}
		if err := requireOneVersion(cl, members); err != nil {
			return change{}, err
		}
		return change{
			kind: "shrink_cluster", state: ShrinkState{Leaving: leaving}, moves: plan,
			before: clusterSizes(members), after: clusterSizes(stay),
		}, nil
	})
}

// leavers gives the instances that leave with those that are named, and refuses what would leave no cluster behind.
func (s *Service) leavers(ctx context.Context, view *ClusterView, members []dbaas.Instance, named []string) ([]string, error) {
	version, err := s.versionByID(ctx, view.DatastoreVersionID)
	if err != nil {
		return nil, err
	}
	shape, err := s.clusterShape(version)
	if err != nil {
		return nil, err
	}
	var leaving []string
	for _, id := range named {
		i := slices.IndexFunc(members, func(in dbaas.Instance) bool { return in.ID == id })
		if i < 0 {
			return nil, dbaas.Errorf(dbaas.BadRequest, "shrink: instance %s is not a member of cluster %s.", id, view.ID)
		}
		for j := range members {
			if j == i || members[j].ShardID == members[i].ShardID && view.isMaster(&members[i]) {
				leaving = append(leaving, members[j].ID)
			}
		}
	}
	slices.Sort(leaving)
	leaving = slices.Compact(leaving)
	if n := len(shardsOf(staying(members, leaving))); n < shape.MinMasters {
		return nil, dbaas.Errorf(dbaas.BadRequest, "A cluster has at least %d masters, so that the others can replace one; %d would be left. (A master leaves together with its replicas.)",
			shape.MinMasters, n)
	}
	return leaving, nil
}

// isMaster tells whether a member is its shard's master: as observed, and before anybody has looked, the shard's first.
func (v *ClusterView) isMaster(in *dbaas.Instance) bool {
	known := false
	for i := range v.Members {
		m := &v.Members[i]
		if m.ShardID != in.ShardID {
			continue
		}
		if role := v.Role(m); role != "" {
			known = true
			if m.ID == in.ID {
				return role == datastore.RoleMaster
			}
		}
	}
	for i := range v.Members {
		if v.Members[i].ShardID == in.ShardID {
			return !known && v.Members[i].ID == in.ID
		}
	}
	return false
}

func staying(members []dbaas.Instance, leaving []string) []dbaas.Instance {
	return slices.DeleteFunc(slices.Clone(members), func(in dbaas.Instance) bool { return slices.Contains(leaving, in.ID) })
}

func shardsOf(members []dbaas.Instance) []string {
	var ids []string
	for i := range members {
		if !slices.Contains(ids, members[i].ShardID) {
			ids = append(ids, members[i].ShardID)
		}
	}
	return ids
}

// ClusterWish says what a cluster should be: these members, of which some leave. guests are the members' own; a member
// whose guest has no address yet is not reachable, and left out.
func ClusterWish(clusterID string, members []dbaas.Instance, guests []dbaas.Guest, leaving []string, port int) datastore.ClusterWish {
	wish := datastore.ClusterWish{ClusterID: clusterID}
	begun := map[string]bool{} // shards that have a master to begin with: the oldest
	for i := range members {
		in := &members[i]
		g := slices.IndexFunc(guests, func(g dbaas.Guest) bool { return g.ID == in.PrimaryGuestID })
		if g < 0 || guests[g].Address == "" {
			continue
		}
		if slices.Contains(leaving, in.ID) {
			wish.Leaving = append(wish.Leaving, guests[g].ID)
			continue
		}
		w := datastore.MemberWish{
			Endpoint: datastore.Endpoint{GuestID: guests[g].ID, Address: guests[g].Address, Port: port},
			ShardID:  in.ShardID, Role: datastore.RoleReplica,
		}
		if !begun[in.ShardID] {
			begun[in.ShardID], w.Role = true, datastore.RoleMaster
		}
		wish.Members = append(wish.Members, w)
	}
	return wish
}

// planGrow works out the moves of a grow, for a dry run alone: growing needs no room that is not there.
func (s *Service) planGrow(ctx context.Context, c Caller, id string, items []NewMember) (*datastore.Plan, error) {
	if c.DryRun == nil {
		return nil, nil
	}
	view, err := s.Cluster(ctx, c, id)
	if err != nil {
		return nil, err
	}
	t, wish, reach, err := s.topologyOf(view, nil)
	if err != nil || t == nil || len(view.Members) == 0 {
		return nil, err
	}
	catalog, err := s.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	flavor, _ := catalog.Flavor(view.Members[0].FlavorID)
	for i, m := range items {
		if m.Replica {
			continue
		}
		wish.Rebalance = true
		name := m.Name
		if name == "" {
			name = fmt.Sprintf("new-%d", i+1)
		}
		wish.Members = append(wish.Members, datastore.MemberWish{
			Endpoint: datastore.Endpoint{GuestID: name}, ShardID: name, Role: datastore.RoleMaster, MaxMemory: int64(flavor.RAM) << 20,
		})
	}
	plan, err := t.Plan(ctx, wish, reach)
	return inInstances(plan, view), err
}

// planShrink works out the moves of a shrink, which fails where the data would not fit. Members that do not answer keep
// only a dry run from its plan: the operation looks again before anything is moved.
func (s *Service) planShrink(ctx context.Context, c Caller, view *ClusterView, named []string) (*datastore.Plan, error) {
	members := make([]dbaas.Instance, len(view.Members))
	for i := range view.Members {
		members[i] = view.Members[i].Instance
	}
	leaving, err := s.leavers(ctx, view, members, named)
	if err != nil || view.Task != dbaas.ClusterNone {
		return nil, err
	}
	t, wish, reach, err := s.topologyOf(view, leaving)
	if err != nil || t == nil {
		return nil, err
	}
	plan, err := t.Plan(ctx, wish, reach)
	switch code := dbaas.ErrorCode(err); {
	case err == nil, code == dbaas.BadRequest, code == dbaas.OverLimit, c.DryRun != nil:
		return inInstances(plan, view), err
	}
	return nil, nil
}

// inInstances names the members of a plan by their instances, which tenants know, in place of their guests.
func inInstances(plan *datastore.Plan, view *ClusterView) *datastore.Plan {
	if plan == nil {
		return nil
	}
	instances := map[string]string{}
	for i := range view.Members {
		for j := range view.Members[i].Guests {
			instances[view.Members[i].Guests[j].ID] = view.Members[i].ID
		}
	}
	named := func(id string) string { return cmp.Or(instances[id], id) }
	told := *plan
	told.Moves, told.FreeMemory = nil, map[string]int64{}
	for _, m := range plan.Moves {
		m.From, m.To = named(m.From), named(m.To)
		told.Moves = append(told.Moves, m)
	}
	for id, bytes := range plan.FreeMemory {
		told.FreeMemory[named(id)] = bytes
	}
	return &told
}

// topologyOf gives what speaks to a cluster's members, and how it should be without those who leave. It is nil in a
// process that reaches no guests: then nothing can be planned ahead of the operation.
func (s *Service) topologyOf(view *ClusterView, leaving []string) (datastore.Topology, datastore.ClusterWish, []datastore.Member, error) {
	m, err := s.manifest(&view.Version)
	if err != nil {
		return nil, datastore.ClusterWish{}, nil, err
	}
	i := slices.IndexFunc(s.Config.Datastores, func(d datastore.Datastore) bool { return d.Manifest().Name == m.Name })
	t, ok := s.Config.Datastores[i].(datastore.Topology)
	if !ok || s.Transport == nil {
		return nil, datastore.ClusterWish{}, nil, nil
	}
	client := guest.NewClient(s.Transport, s.Node, s.guestKey)
	var members []dbaas.Instance
	var guests []dbaas.Guest
	var reach []datastore.Member
	for i := range view.Members {
		members = append(members, view.Members[i].Instance)
		for j := range view.Members[i].Guests {
			g := &view.Members[i].Guests[j]
			guests = append(guests, *g)
			reach = append(reach, client.Member(g, guest.Fence{}))
		}
	}
	return t, ClusterWish(view.ID, members, guests, leaving, m.URIPort), reach, nil
}

// guestKey finds the key that a guest's messages are signed with.
func (s *Service) guestKey(ctx context.Context, guestID string, _ []byte) ([]byte, error) {
	return s.Store.RevealSecret(ctx, guestID, SecretRPCKey)
}
