package taskmanager

import (
	"context"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) createCluster() engine.Workflow {
	return engine.Workflow{
		Kind: "create_cluster",
		Doc:  "Provisions all members side by side and makes one cluster of them.",
		Steps: []engine.Step{
			{Name: "createMembers", Doc: "beginning with all members", Run: m.createMembers, Within: 5 * time.Minute},
			{Name: "awaitMembers", Doc: "waiting for the members", Run: m.awaitChildren, Within: 2 * time.Hour},
			{Name: "formCluster", Doc: "making one cluster of the members", Run: m.formCluster, Within: 30 * time.Minute},
			{Name: "markActive", Doc: "publishing the cluster", Run: m.markCluster, Within: 5 * time.Minute},
		},
		Failed: m.giveClusterUp,
		Ended:  "Task NONE with the fault, its members in ERROR; what was created stays accounted for until the cluster is deleted.",
	}
}

// createMembers begins the provisioning of every member that is being built.
func (m *Manager) createMembers(ctx context.Context, op *engine.Operation) error {
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return err
	}
	return m.beginChildren(ctx, op, "create_instance", c.idsOf(func(m member) bool { return m.instance.Task == dbaas.TaskBuilding }), nil)
}

func (m *Manager) formCluster(ctx context.Context, op *engine.Operation) error {
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return err
	}
	return m.converge(ctx, op, c, false)
}

// giveClusterUp ends a create that came to nothing. Delete is what cleans up.
func (m *Manager) giveClusterUp(ctx context.Context, op *engine.Operation) error {
	if err := m.endChildren(ctx, op); err != nil {
		return err
	}
	return m.updateCluster(ctx, op, func(_ *store.Tx, c *clusterSubject) error {
		for _, m := range c.members {
			if m.instance.Task == dbaas.TaskBuilding {
				m.instance.Task, m.instance.Fault = dbaas.TaskError, op.Failure
			}
		}
		c.cluster.Task, c.cluster.Fault = dbaas.ClusterNone, op.Failure
		return nil
	})
}

func (m *Manager) deleteCluster() engine.Workflow {
	return engine.Workflow{
		Kind: "delete_cluster",
		Doc:  "Deletes all members and all data in them, then the cluster. It takes over from whatever was running.",
		Steps: []engine.Step{
			{Name: "deleteMembers", Doc: "beginning to delete the members", Run: m.deleteAllMembers, Within: 30 * time.Minute},
			{Name: "awaitMembers", Doc: "deleting the members", Run: m.awaitDeleted, Within: 4 * time.Hour},
			{Name: "removeCluster", Doc: "removing the cluster", Run: m.removeCluster, Within: 30 * time.Minute},
		},
		ChildrenMayFail: true,
		Failed:          m.keepCluster,
		Ended:           "Task NONE with the fault; deleting again goes on where it stopped.",
	}
}

func (m *Manager) deleteAllMembers(ctx context.Context, op *engine.Operation) error {
	var ids []string
	members, err := m.clusterMembers(ctx, op)
	if err != nil {
		return err
	}
	for i := range members {
		ids = append(ids, members[i].ID)
	}
	return m.deleteMembers(ctx, op, ids)
}

// clusterMembers reads the instances that belong to the operation's cluster, those without a guest too.
func (m *Manager) clusterMembers(ctx context.Context, op *engine.Operation) (members []dbaas.Instance, err error) {
	err = m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) (err error) {
		members, err = tx.ClusterMembers(op.ResourceID)
		return err
	})
	return members, err
}

// awaitDeleted waits until every member is gone. What the operation had begun that this delete took over may have failed;
// the delete of a member may not.
func (m *Manager) awaitDeleted(ctx context.Context, op *engine.Operation) error {
	if err := m.awaitChildren(ctx, op); err != nil {
		return err
	}
	members, err := m.clusterMembers(ctx, op)
	if err != nil || len(members) == 0 {
		return err
	}
	why := "Members of the cluster could not be deleted."
	if f := members[0].Fault; f != nil {
		why = f.Message
	}
	return engine.Permanent(dbaas.Errorf(dbaas.Conflict, "%s", why))
}

// removeCluster ends the row; its group went with the last member.
func (m *Manager) removeCluster(ctx context.Context, op *engine.Operation) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error { return tx.DeleteCluster(op.ResourceID) })
}

func (m *Manager) growCluster() engine.Workflow {
	return engine.Workflow{
		Kind: "grow_cluster",
		Doc:  "Provisions new members, lets them join, and moves to new masters their part of the data while the cluster serves.",
		Steps: []engine.Step{
			{Name: "createMembers", Doc: "beginning with the new members", Run: m.createMembers, Within: 5 * time.Minute},
			{Name: "awaitMembers", Doc: "waiting for the new members", Run: m.awaitNewMembers, Within: 2 * time.Hour},
			{Name: "balanceCluster", Doc: "letting the new members join", Run: m.balanceCluster, Within: 24 * time.Hour},
			{Name: "markCluster", Doc: "publishing the cluster", Run: m.markCluster, Within: 5 * time.Minute},
		},
		Failed: m.growFailed,
		Ended:  "Task NONE with the fault; members that had not joined are removed, those that had stay.",
	}
}

// growState adds what the steps pass on to what the request left.
type growState struct {
	control.GrowState
	// Joined: from here on new members may hold data, and are not removed.
	Joined bool `json:"joined,omitempty"`
}

func (m *Manager) awaitNewMembers(ctx context.Context, op *engine.Operation) error {
	if err := m.awaitChildren(ctx, op); err != nil {
		return err
	}
	var state growState
	if err := op.Load(&state); err != nil {
		return err
	}
	state.Joined = true
	return op.Put(state)
}

func (m *Manager) balanceCluster(ctx context.Context, op *engine.Operation) error {
	var state growState
	if err := op.Load(&state); err != nil {
		return err
	}
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return err
	}
	return m.converge(ctx, op, c, state.Rebalance)
}

// growFailed removes new members that cannot hold data yet. Those that can stay: the cluster is mended with them.
func (m *Manager) growFailed(ctx context.Context, op *engine.Operation) error {
	var state growState
	if err := op.Load(&state); err != nil {
		return err
	}
	if state.Joined {
		return m.keepCluster(ctx, op)
	}
	members, err := m.clusterMembers(ctx, op)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(members, func(in dbaas.Instance) bool { return slices.Contains(state.Added, in.ID) }) {
		return m.keepCluster(ctx, op)
	}
	if err := m.deleteMembers(ctx, op, state.Added); err != nil {
		return err
	}
	op.SetProgress("removing the new members")
	return later(op, childPoll)
}

func (m *Manager) shrinkCluster() engine.Workflow {
	return engine.Workflow{
		Kind: "shrink_cluster",
		Doc:  "Moves the data of members that leave to those that stay while the cluster serves, has them forgotten, and deletes them.",
		Steps: []engine.Step{
			{Name: "planShrink", Doc: "looking whether the data fit", Run: m.planShrink, Within: 10 * time.Minute},
			{Name: "drainMembers", Doc: "moving the data away", Run: m.drainMembers, Within: 24 * time.Hour},
			{Name: "deleteMembers", Doc: "beginning to delete the members that left", Run: m.deleteLeavers, Within: 30 * time.Minute},
			{Name: "awaitMembers", Doc: "deleting the members that left", Run: m.awaitChildren, Within: 4 * time.Hour},
			{Name: "markCluster", Doc: "publishing the cluster", Run: m.markCluster, Within: 5 * time.Minute},
		},
		Failed: m.keepCluster,
		Ended:  "Task NONE with the fault; members that had not left stay, with the data that they have.",
	}
}

func (m *Manager) planShrink(ctx context.Context, op *engine.Operation) error {
	c, leaving, err := m.leaving(ctx, op)
	if err != nil {
		return err
	}
	r, err := m.reach(ctx, c, clusterFence(op, c), leaving...)
	if err != nil {
		return err
	}
	_, err = r.topology.Plan(ctx, r.wish, r.members)
	return refused(err)
}

func (m *Manager) drainMembers(ctx context.Context, op *engine.Operation) error {
	c, leaving, err := m.leaving(ctx, op)
	if err != nil {
		return err
	}
	return m.converge(ctx, op, c, false, leaving...)
}

// leaving gives the cluster and who leaves it. One whose server is gone can neither give anything nor take its leave: it
// is left out, and the others forget it.
func (m *Manager) leaving(ctx context.Context, op *engine.Operation) (*clusterSubject, []string, error) {
	var state control.ShrinkState
	if err := op.Load(&state); err != nil {
		return nil, nil, err
	}
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return nil, nil, err
	}
	var there []member
	for _, member := range c.members {
		if slices.Contains(state.Leaving, member.instance.ID) {
			status, err := m.serverRuns(ctx, member.guest)
			if err != nil {
				return nil, nil, err
			}
			if status != cloud.ServerActive {
				continue
			}
		}
		there = append(there, member)
	}
	c.members = there
	return c, state.Leaving, nil
}

func (m *Manager) deleteLeavers(ctx context.Context, op *engine.Operation) error {
	var state control.ShrinkState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.deleteMembers(ctx, op, state.Leaving)
}
