package taskmanager

import (
	"context"
	"encoding/json"
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

// clusterSubject is what a step works on when the operation is a cluster's: its rows, read under the operation's lease.
type clusterSubject struct {
	cluster *dbaas.Cluster
	group   *dbaas.Group
	members []member // the oldest first
}

func (m *Manager) loadCluster(ctx context.Context, op *engine.Operation) (*clusterSubject, error) {
	var c *clusterSubject
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) (err error) {
		c, err = readCluster(tx, op.ResourceID)
		return err
	})
	return c, err
}

// updateCluster changes a cluster and its members, under the operation's lease and in one transaction.
func (m *Manager) updateCluster(ctx context.Context, op *engine.Operation, edit func(tx *store.Tx, c *clusterSubject) error) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		c, err := readCluster(tx, op.ResourceID)
		if err != nil {
			return err
		}
		if err := edit(tx, c); err != nil {
			return err
		}
		for _, member := range c.members {
			if err := tx.UpdateInstance(member.instance); err != nil {
				return err
			}
		}
		return tx.UpdateCluster(c.cluster)
	})
}

func readCluster(tx *store.Tx, id string) (*clusterSubject, error) {
	cl, err := tx.Cluster(id)
	if err != nil {
		return nil, err
	}
	c := &clusterSubject{cluster: cl}
	if c.group, err = tx.Group(cl.GroupID); err != nil {
		return nil, err
	}
	instances, err := tx.ClusterMembers(id)
	if err != nil {
		return nil, err
	}
	guests, err := tx.GroupGuests(cl.GroupID)
	if err != nil {
		return nil, err
	}
	for i := range instances {
		g := slices.IndexFunc(guests, func(g dbaas.Guest) bool { return g.ID == instances[i].PrimaryGuestID })
		if g >= 0 {
			c.members = append(c.members, member{instance: &instances[i], guest: &guests[g]})
		}
	}
	return c, nil
}

// on gives the subject that a member is.
func (c *clusterSubject) on(m member) *subject {
	return &subject{instance: m.instance, guest: m.guest, group: c.group, members: c.members}
}

// idsOf gives the instances of those members that keep lets through.
func (c *clusterSubject) idsOf(keep func(m member) bool) []string {
	var ids []string
	for _, m := range c.members {
		if keep(m) {
			ids = append(ids, m.instance.ID)
		}
	}
	return ids
}

// reach is a cluster with what speaks to its members.
type reach struct {
	topology datastore.Topology
	wish     datastore.ClusterWish
	members  []datastore.Member
}

// reach gives what speaks to a cluster's members on behalf of the fence; leaving are the instances that are to go.
func (m *Manager) reach(ctx context.Context, c *clusterSubject, f guest.Fence, leaving ...string) (*reach, error) {
	version, err := m.Store.Version(ctx, c.cluster.DatastoreVersionID)
	if err != nil {
		return nil, err
	}
	manifest, err := m.manifest(*version)
	if err != nil {
		return nil, err
	}
	r := &reach{}
	for _, d := range m.Datastores {
		if t, ok := d.(datastore.Topology); ok && d.Manifest().Name == manifest.Name {
			r.topology = t
		}
	}
	if r.topology == nil {
		return nil, engine.Permanent(dbaas.Errorf(dbaas.NotImplemented, "Datastore %s forms no clusters.", manifest.Name))
	}
	var instances []dbaas.Instance
	var guests []dbaas.Guest
	for _, member := range c.members {
		instances, guests = append(instances, *member.instance), append(guests, *member.guest)
		r.members = append(r.members, m.guests.Member(member.guest, f))
	}
	r.wish = control.ClusterWish(c.cluster.ID, instances, guests, leaving, manifest.URIPort)
	return r, nil
}

// clusterFence is the fence of what a Topology does on behalf of an operation.
func clusterFence(op *engine.Operation, c *clusterSubject) guest.Fence {
	return guest.Fence{GroupEpoch: c.group.Epoch, OperationID: op.ID, LeaseEpoch: op.LeaseEpoch}
}

// How soon a converging cluster is looked at again.
const (
	convergeSoon = 100 * time.Millisecond
	convergeLate = 2 * time.Second
)

// converge brings a cluster nearer to what it should be; it gives nil once it is there, and stores how it is then.
func (m *Manager) converge(ctx context.Context, op *engine.Operation, c *clusterSubject, rebalance bool, leaving ...string) error {
	r, err := m.reach(ctx, c, clusterFence(op, c), leaving...)
	if err != nil {
		return err
	}
	r.wish.Rebalance = rebalance
	p, err := r.topology.Converge(ctx, r.wish, r.members)
	if err != nil {
		return refused(err)
	}
	if !p.Done {
		op.SetProgress("%s", p.Message)
		return engine.Wait(min(max(time.Duration(p.Again)*time.Millisecond, convergeSoon), convergeLate))
	}
	_, err = m.lookAt(ctx, c, r)
	return err
}

// lookAt finds out how a cluster is, and stores it for the API.
func (m *Manager) lookAt(ctx context.Context, c *clusterSubject, r *reach) (*datastore.Health, error) {
	health, err := r.topology.Health(ctx, r.wish, r.members)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(health)
	if err != nil {
		return nil, err
	}
	if string(text) == string(c.cluster.Health) {
		return health, nil
	}
	return health, m.Store.SetClusterHealth(ctx, c.cluster.ID, text)
}

// beginChildren enqueues an operation of a kind for each instance that has none of it yet. Children take no locks: this
// operation holds them all. prepare, when given, changes the instance's row in the same transaction.
func (m *Manager) beginChildren(ctx context.Context, op *engine.Operation, kind string, instances []string, prepare func(tx *store.Tx, in *dbaas.Instance) (state any, err error)) error {
	var begun []string
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		begun = nil
		children, err := tx.Children(op.ID)
		if err != nil {
			return err
		}
		for _, id := range instances {
			if slices.ContainsFunc(children, func(c dbaas.Operation) bool { return c.ResourceID == id && c.Kind == kind }) {
				continue
			}
			child, err := beginChild(tx, op, kind, id, prepare)
			if err != nil {
				return err
			}
			begun = append(begun, child)
		}
		return nil
	})
	m.nudgeAll(begun)
	return err
}

func (m *Manager) nudgeAll(ids []string) {
	for _, id := range ids {
		if id != "" {
			m.engine.Nudge(id)
		}
	}
}

func beginChild(tx *store.Tx, op *engine.Operation, kind, instanceID string, prepare func(tx *store.Tx, in *dbaas.Instance) (any, error)) (string, error) {
	in, err := tx.Instance(instanceID)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	child := &dbaas.Operation{
		Kind: kind, ProjectID: in.ProjectID, ResourceType: "instance", ResourceID: in.ID, GroupID: in.GroupID, ParentID: op.ID,
		RequestID: op.RequestID, TraceParent: op.TraceParent, Actor: op.Actor,
	}
	if prepare != nil {
		state, err := prepare(tx, in)
		if err != nil {
			return "", err
		}
		if state != nil {
			if child.State, err = json.Marshal(state); err != nil {
				return "", err
			}
		}
		if err := tx.UpdateInstance(in); err != nil {
			return "", err
		}
	}
	err = tx.Enqueue(child)
	return child.ID, err
}

// withTask is the prepare of children that only set their instance's task.
func withTask(task dbaas.Task) func(*store.Tx, *dbaas.Instance) (any, error) {
	return func(_ *store.Tx, in *dbaas.Instance) (any, error) {
		if in.Task.CanBecome(task) { // one in ERROR stays so until its operation succeeds
			in.Task = task
		}
		return nil, nil
	}
}

// awaitChildren waits until every operation that this one began has ended. One that fails, fails this one.
func (m *Manager) awaitChildren(ctx context.Context, op *engine.Operation) error {
	children, err := m.Store.Children(ctx, op.ID)
	if err != nil {
		return err
	}
	open, progress := 0, ""
	for _, c := range children {
		if !c.Status.Ended() {
			open, progress = open+1, m.doing(&c)
		}
	}
	if open == 0 {
		return nil
	}
	op.SetProgress("%d of %d members: %s", len(children)-open, len(children), progress)
	return later(op, childPoll)
}

// childPoll is how soon an operation looks at its children again; the end of one wakes it sooner.
const childPoll = time.Second

// doing tells what an operation is at, as users read it.
func (m *Manager) doing(op *dbaas.Operation) string {
	for _, w := range m.Workflows() {
		for _, s := range w.Steps {
			if w.Kind == op.Kind && s.Name == op.Step {
				return s.Doc
			}
		}
	}
	return "about to begin"
}

// endChildren cancels what this operation began, and waits for its end.
func (m *Manager) endChildren(ctx context.Context, op *engine.Operation) error {
	return m.tellChildren(ctx, op, func(tx *store.Tx, child *dbaas.Operation) error {
		if child.Cancel {
			return nil
		}
		return tx.CancelOperation(child.ID)
	})
}

// deleteMembers deletes members, whatever is being done to them, and waits until they are gone.
func (m *Manager) deleteMembers(ctx context.Context, op *engine.Operation, instances []string) error {
	var begun []string
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		begun = nil
		children, err := tx.Children(op.ID)
		if err != nil {
			return err
		}
		for _, id := range instances {
			i := slices.IndexFunc(children, func(c dbaas.Operation) bool { return c.ResourceID == id && !c.Status.Ended() })
			if i < 0 {
				child, err := beginChild(tx, op, kindDeleteInstance, id, withTask(dbaas.TaskDeleting))
				if err != nil {
					return err
				}
				begun = append(begun, child)
				continue
			}
			if c := children[i]; c.Kind != kindDeleteInstance && c.SupersededBy != kindDeleteInstance {
				if err := tx.Supersede(c.ID, kindDeleteInstance); err != nil {
					return err
				}
				begun = append(begun, c.ID)
			}
		}
		return nil
	})
	m.nudgeAll(begun)
	return err
}

const kindDeleteInstance = "delete_instance"

// tellChildren tells every child that has not ended something, and waits for their end.
func (m *Manager) tellChildren(ctx context.Context, op *engine.Operation, tell func(tx *store.Tx, child *dbaas.Operation) error) error {
	open := false
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		open = false
		children, err := tx.Children(op.ID)
		if err != nil {
			return err
		}
		for i := range children {
			if children[i].Status.Ended() {
				continue
			}
			open = true
			if err := tell(tx, &children[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !open {
		return err
	}
	op.SetProgress("ending what was begun")
	return later(op, childPoll)
}

// rest ends a cluster's operation well: idle, its new members ACTIVE with the others.
func rest(c *clusterSubject) {
	for _, m := range c.members {
		if m.instance.Task == dbaas.TaskBuilding {
			settle(c.on(m), nil)
		}
	}
	c.cluster.Task, c.cluster.Fault = dbaas.ClusterNone, nil
}

func (m *Manager) markCluster(ctx context.Context, op *engine.Operation) error {
	return m.updateCluster(ctx, op, func(_ *store.Tx, c *clusterSubject) error {
		rest(c)
		return nil
	})
}

// keepCluster ends a cluster's operation that failed for good where the cluster goes on serving. What it had begun ends
// first: the locks are given back with it.
func (m *Manager) keepCluster(ctx context.Context, op *engine.Operation) error {
	if err := m.endChildren(ctx, op); err != nil {
		return err
	}
	err := m.updateCluster(ctx, op, func(_ *store.Tx, c *clusterSubject) error {
		rest(c)
		c.cluster.Fault = op.Failure
		return nil
	})
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil
	}
	return err
}

// serverRuns tells whether a member's server is there and runs, as the cloud says.
func (m *Manager) serverRuns(ctx context.Context, g *dbaas.Guest) (cloud.ServerStatus, error) {
	if g.ServerID == "" {
		return "", nil
	}
	server, err := m.Cloud.Server(ctx, g.ServerID)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return server.Status, nil
}
