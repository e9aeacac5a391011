package control

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// ClusterView is a cluster with all that the API shows beside it.
type ClusterView struct {
	dbaas.Cluster
	Datastore string // name
	Version   dbaas.DatastoreVersion
	Members   []dbaas.InstanceView // the oldest first
	Health    *datastore.Health    // as it was last looked at; nil before that
	Operation *dbaas.Operation     // that works on the cluster, nil when idle
}

// MemberHealth tells how a member was at the last look, nil when that did not find it.
func (v *ClusterView) MemberHealth(in *dbaas.InstanceView) *datastore.MemberHealth {
	if v.Health == nil {
		return nil
	}
	i := slices.IndexFunc(v.Health.Members, func(h datastore.MemberHealth) bool { return h.GuestID == in.PrimaryGuestID })
	if i < 0 {
		return nil
	}
	return &v.Health.Members[i]
}

// Role is what a member is, as observed: by what its own guest says while that is healthy, else by the last look at the
// whole. It is "" before anybody knows.
func (v *ClusterView) Role(in *dbaas.InstanceView) datastore.Role {
	if len(in.Guests) > 0 && in.Guests[0].Status == dbaas.GuestHealthy {
		if r := ObservedRole(&in.Guests[0]); r != "" {
			return r
		}
	}
	if h := v.MemberHealth(in); h != nil {
		return h.Role
	}
	return ""
}

// Link is how a replica last said that it stands to its master, and how many seconds it is behind by that one's word: -1 when
// that is not known. known is false of masters, and of who said nothing.
func (v *ClusterView) Link(in *dbaas.InstanceView) (up bool, lag float64, known bool) {
	if len(in.Guests) == 0 || v.Role(in) != datastore.RoleReplica {
		return false, -1, false
	}
	place := ReplicationIn(in.Guests[0].Observed)
	if place == nil || place.Role != datastore.RoleReplica {
		return false, -1, false
	}
	up, lag = place.LinkUp && in.Guests[0].Status == dbaas.GuestHealthy, -1
	for i := range v.Members {
		m := &v.Members[i]
		if up && len(m.Guests) > 0 && m.Guests[0].Address == place.Master {
			lag = lagBehind(m.Heartbeats[m.Guests[0].ID])
		}
	}
	return up, lag, true
}

// ObservedRole is the role that a guest last said it has, "" when it said none.
func ObservedRole(g *dbaas.Guest) datastore.Role {
	var observed struct {
		Replication datastore.Replication `json:"replication"`
	}
	if len(g.Observed) == 0 || json.Unmarshal(g.Observed, &observed) != nil {
		return ""
	}
	return observed.Replication.Role
}

// Cluster shows a cluster. One that is unknown, deleted or another project's is dbaas.NotFound.
func (s *Service) Cluster(ctx context.Context, c Caller, id string) (*ClusterView, error) {
	if uuid.Validate(id) != nil {
		return nil, clusterNotFound(id)
	}
	cl, err := s.Store.Cluster(ctx, id)
	if dbaas.ErrorCode(err) == dbaas.NotFound || err == nil && !c.sees(cl.ProjectID) {
		return nil, clusterNotFound(id)
	}
	if err != nil {
		return nil, err
	}
	views, err := s.clusterViews(ctx, []dbaas.Cluster{*cl})
	if err != nil {
		return nil, err
	}
	return &views[0], nil
}

// Clusters lists a page of the project's clusters and tells whether there are more.
func (s *Service) Clusters(ctx context.Context, c Caller, f store.ClusterFilter) ([]ClusterView, bool, error) {
	if !c.sees(f.ProjectID) {
		return nil, false, dbaas.Errorf(dbaas.Forbidden, "Only an administrator may list other projects' clusters.")
	}
	list, more, err := s.Store.ListClusters(ctx, f)
	if err != nil {
		return nil, false, err
	}
	views, err := s.clusterViews(ctx, list)
	return views, more, err
}

func (s *Service) clusterViews(ctx context.Context, list []dbaas.Cluster) ([]ClusterView, error) {
	datastores, versions, err := s.Store.Datastores(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(list))
	for i, cl := range list {
		ids[i] = cl.ID
	}
	members, err := s.Store.MemberViews(ctx, ids...)
	if err != nil {
		return nil, err
	}
	views := make([]ClusterView, len(list))
	for i, cl := range list {
		v := ClusterView{Cluster: cl}
		if version, ok := findByID(versions, cl.DatastoreVersionID); ok {
			v.Version, v.Datastore = version, datastoreName(datastores, version.DatastoreID)
		}
		if len(cl.Health) > 0 {
			v.Health = new(datastore.Health)
			if json.Unmarshal(cl.Health, v.Health) != nil || v.Health.State == "" {
				v.Health = nil
			}
		}
		for _, m := range members {
			if m.ClusterID == cl.ID {
				v.Members = append(v.Members, m)
				if m.Operation != nil {
					v.Operation = m.Operation
				}
			}
		}
		views[i] = v
	}
	return views, nil
}

// ClusterMember shows an instance of a cluster; one of another cluster is dbaas.NotFound.
func (s *Service) ClusterMember(ctx context.Context, c Caller, clusterID, id string) (*dbaas.InstanceView, error) {
	if _, err := s.Cluster(ctx, c, clusterID); err != nil {
		return nil, err
	}
	v, err := s.Instance(ctx, c, id)
	if err == nil && v.ClusterID != clusterID {
		return nil, instanceNotFound(id)
	}
	return v, err
}

// ClusterCredentials reveals the password of the tenant's account, the same on every member. The URI names one of them.
func (s *Service) ClusterCredentials(ctx context.Context, c Caller, id string) (*Credentials, error) {
	v, err := s.Cluster(ctx, c, id)
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
	for _, member := range v.Members {
		if len(member.Addresses) > 0 {
			cr.URI = uri(m, member.TLS, url.UserPassword(cr.Username, cr.Password), member.Addresses[0].Address)
			break
		}
	}
	return cr, nil
}

func clusterNotFound(id string) error {
	return dbaas.Errorf(dbaas.NotFound, "Cluster %s not found.", id)
}

// ownCluster locks a cluster and its members for a change.
func ownCluster(tx *store.Tx, c Caller, id string) (*dbaas.Cluster, []dbaas.Instance, error) {
	if uuid.Validate(id) != nil {
		return nil, nil, clusterNotFound(id)
	}
	cl, err := tx.Cluster(id)
	if dbaas.ErrorCode(err) == dbaas.NotFound || err == nil && !c.sees(cl.ProjectID) {
		return nil, nil, clusterNotFound(id)
	}
	if err != nil {
		return nil, nil, err
	}
	members, err := tx.ClusterMembers(id)
	return cl, members, err
}

// requireClusterIdle refuses a change of a cluster that is busy.
func requireClusterIdle(tx *store.Tx, cl *dbaas.Cluster) error {
	op, err := tx.OperationHolding(cl.ID)
	if err != nil {
		return err
	}
	if op != nil {
		return &store.BusyError{Resource: cl.ID, Operation: *op}
	}
	if cl.Task != dbaas.ClusterNone {
		return dbaas.Errorf(dbaas.Unprocessable, "Cluster %s is not available (task %s).", cl.ID, cl.Task)
	}
	return nil
}

// requireWhole refuses a change that needs every member to work.
func requireWhole(cl *dbaas.Cluster, members []dbaas.Instance) error {
	for i := range members {
		if !members[i].Task.Idle() {
			return dbaas.Errorf(dbaas.Unprocessable, "The member %s (%s) of cluster %s is not available (status %s): shrink the cluster by it, or delete the cluster.",
				members[i].Name, members[i].ID, cl.ID, members[i].Task.Status())
		}
	}
	return nil
}

// beginClusterChange locks a cluster, requires it idle, sets its task and enqueues what edit says. members are locked
// too; edit may give more in the change's lock.
func (s *Service) beginClusterChange(ctx context.Context, c Caller, id string, task dbaas.ClusterTask,
	edit func(tx *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error)) (string, error) {
	var operationID string
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		cl, members, err := ownCluster(tx, c, id)
		if err != nil {
			return err
		}
		if err := requireClusterIdle(tx, cl); err != nil {
			return err
		}
		ch, err := edit(tx, cl, members)
		if err != nil {
			return err
		}
		cl.Task, cl.Fault, ch.cluster = task, nil, cl
		if err := tx.UpdateCluster(cl); err != nil {
			return err
		}
		ch.lock = append(ch.lock, idsOf(members)...)
		operationID, err = s.enqueue(tx, c, ch)
		return err
	})
	if err != nil {
		return "", err
	}
	s.nudge(ctx, operationID)
	return operationID, nil
}

func idsOf(members []dbaas.Instance) []string {
	ids := make([]string, len(members))
	for i := range members {
		ids[i] = members[i].ID
	}
	return ids
}

const kindDeleteCluster = "delete_cluster"

// DeleteCluster deletes a cluster in every state: what runs for it is superseded.
func (s *Service) DeleteCluster(ctx context.Context, c Caller, id string) (string, error) {
	var operationID string
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		cl, members, err := ownCluster(tx, c, id)
		if err != nil {
			return err
		}
		running, err := tx.OperationHolding(cl.ID)
		if err != nil {
			return err
		}
		if running != nil && (running.Kind == kindDeleteCluster || running.SupersededBy == kindDeleteCluster) {
			operationID = running.ID
			return nil
		}
		ch := change{kind: kindDeleteCluster, cluster: cl, lock: idsOf(members), before: clusterSizes(members)}
		cl.Task = dbaas.ClusterDeleting
		if err := tx.UpdateCluster(cl); err != nil {
			return err
		}
		if running == nil {
			operationID, err = s.enqueue(tx, c, ch)
			return err
		}
		operationID = running.ID
		s.plan(c, ch)
		if err := tx.Supersede(running.ID, kindDeleteCluster, c.UserID); err != nil {
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

// ResetClusterStatus clears what keeps a cluster from being changed: a running operation is cancelled, whose id it gives;
// where none runs, the task becomes NONE and every member's status is reset.
func (s *Service) ResetClusterStatus(ctx context.Context, c Caller, id string) (string, error) {
	var operationID string
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		cl, members, err := ownCluster(tx, c, id)
		if err != nil {
			return err
		}
		op, err := tx.OperationHolding(cl.ID)
		if err != nil {
			return err
		}
		if op != nil {
			operationID = op.ID
			return tx.CancelOperation(op.ID)
		}
		for i := range members {
			resetTask(&members[i])
			if err := tx.UpdateInstance(&members[i]); err != nil {
				return err
			}
			if err := forgetGuestStatus(tx, members[i].ID); err != nil {
				return err
			}
		}
		cl.Task, cl.Fault = dbaas.ClusterNone, nil
		return tx.UpdateCluster(cl)
	})
	if err == nil && operationID != "" {
		s.nudge(ctx, operationID)
	}
	return operationID, err
}

// clusterSizes is what events record of a cluster, to bill from.
func clusterSizes(members []dbaas.Instance) map[string]any {
	sizes := map[string]any{"members": len(members)}
	if len(members) > 0 {
		sizes["flavor_id"], sizes["volume_size"] = members[0].FlavorID, members[0].VolumeSize
	}
	return sizes
}
