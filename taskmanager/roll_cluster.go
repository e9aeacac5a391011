package taskmanager

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// rolling is a change of a cluster that is one of its members after the other.
type rolling struct {
	child string // kind of the operation that changes one member
	task  dbaas.Task
	// away: a member does not serve meanwhile. Replicas go first, and a master hands its shard over before its turn.
	away bool
}

func (m *Manager) restartCluster() engine.Workflow {
	return m.roll("restart_cluster", "Restarts the members one after the other, replicas first; a master hands its shard over to a replica before.",
		rolling{child: "restart_instance", task: dbaas.TaskRebooting, away: true})
}

func (m *Manager) resizeClusterVolume() engine.Workflow {
	return m.roll("resize_cluster_volume", "Grows the members' volumes one after the other, while they serve.",
		rolling{child: "resize_volume", task: dbaas.TaskResizing})
}

func (m *Manager) resizeClusterFlavor() engine.Workflow {
	return m.roll("resize_cluster_flavor", "Moves the members to the flavor one after the other, replicas first; a master hands its shard over to a replica before.",
		rolling{child: "resize_flavor", task: dbaas.TaskResizing, away: true})
}

// upgradeCluster hands a shard over to a replica of the new version. There is no way back from that: the old master reads
// nothing of the new one's, so that its turn comes next.
func (m *Manager) upgradeCluster() engine.Workflow {
	return m.roll("upgrade_cluster", "Makes the members another version one after the other, with their data kept, replicas first; a master hands its shard over to a replica before.",
		rolling{child: "upgrade_instance", task: dbaas.TaskUpgrading, away: true})
}

func (m *Manager) roll(kind, doc string, r rolling) engine.Workflow {
	return engine.Workflow{
		Kind: kind, Doc: doc,
		Steps: []engine.Step{
			{Name: "rollMembers", Doc: "changing the members one by one", Within: 24 * time.Hour,
				Run: func(ctx context.Context, op *engine.Operation) error { return m.rollMembers(ctx, op, r) }},
			{Name: "settleCluster", Doc: "waiting until the cluster is whole", Run: m.formCluster, Within: 2 * time.Hour},
			{Name: "markCluster", Doc: "publishing the cluster", Run: m.markRolled, Within: 5 * time.Minute},
		},
		Failed: m.rollFailed,
		Ended:  "Task NONE with the fault; members whose turn had not come are as before.",
	}
}

// rollPatience is how long a cluster may take to be whole again after a member's turn. A member that was away copies
// everything at worst.
const rollPatience = 2 * time.Hour

// lostPatience is how long a member's server may be down before the rest waits for it no longer: it is brought back by a
// healing, which waits for this operation.
const lostPatience = time.Minute

// requireServers fails for good when a member's server is down or gone.
func (m *Manager) requireServers(ctx context.Context, c *clusterSubject) error {
	for _, one := range c.members {
		status, err := m.serverRuns(ctx, one.guest)
		if err != nil {
			return err
		}
		if status == "" || status == cloud.ServerShutoff || status == cloud.ServerError {
			return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable,
				"The server of the member %s is down. It is brought back by itself; then ask again for what is left, members that were changed stay so.", one.instance.Name))
		}
	}
	return nil
}

// rollMembers changes the next member once the cluster is whole: at any time no more than one is away.
func (m *Manager) rollMembers(ctx context.Context, op *engine.Operation, r rolling) error {
	children, err := m.Store.Children(ctx, op.ID)
	if err != nil {
		return err
	}
	last := op.StepSince
	for _, c := range children {
		if !c.Status.Ended() {
			return m.awaitTurn(op, children)
		}
		last = max(last, c.EndedAt)
	}
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return err
	}
	to, err := target(op)
	if err != nil {
		return err
	}
	left := c.left(children, to)
	if len(left) == 0 {
		return nil
	}
	if op.UpdatedAt.Sub(last) > rollPatience {
		return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "The cluster is not whole, so that no further member can be taken away: %s. Members that were changed stay so.", op.Progress))
	}
	behind, err := m.behindMaster(ctx, op, c, left, to)
	if err != nil {
		return err
	}
	if behind != nil {
		return m.beginTurn(ctx, op, behind, r, to)
	}
	if err := m.converge(ctx, op, c, false); err != nil {
		if op.UpdatedAt.Sub(last) > lostPatience {
			return cmp.Or(m.requireServers(ctx, c), err)
		}
		return err
	}
	return m.nextTurn(ctx, op, c, left, r, to)
}

// target is the version that the members are to have, by id; "" where they keep theirs.
func target(op *engine.Operation) (string, error) {
	var state control.UpgradeState
	err := op.Load(&state)
	return state.VersionID, err
}

// left gives the members whose turn is still to come: those that are of the version to go to had it in an operation before.
func (c *clusterSubject) left(children []dbaas.Operation, to string) []member {
	var left []member
	for _, m := range c.members {
		had := slices.ContainsFunc(children, func(c dbaas.Operation) bool { return c.ResourceID == m.instance.ID })
		if !had && m.instance.DatastoreVersionID != to {
			left = append(left, m)
		}
	}
	return left
}

// behindMaster gives a replica of those left whose master is of the version to go to: it may understand nothing of what that
// one sends, so that the cluster is not whole before its turn.
func (m *Manager) behindMaster(ctx context.Context, op *engine.Operation, c *clusterSubject, left []member, to string) (*member, error) {
	if to == "" {
		return nil, nil
	}
	reach, err := m.reach(ctx, c, clusterFence(op, c))
	if err != nil {
		return nil, err
	}
	health, err := m.lookAt(ctx, c, reach)
	if err != nil {
		return nil, err
	}
	for i, one := range left {
		master := masterIn(health, one.guest.ID)
		if slices.ContainsFunc(c.members, func(m member) bool { return m.guest.ID == master && m.instance.DatastoreVersionID == to }) {
			return &left[i], nil
		}
	}
	return nil, nil
}

func (m *Manager) awaitTurn(op *engine.Operation, children []dbaas.Operation) error {
	for _, c := range children {
		if !c.Status.Ended() {
			op.SetProgress("member %d: %s", len(children), m.doing(&c))
		}
	}
	return engine.Wait(childPoll)
}

// nextTurn begins with one of those who are left. The whole is known to be well.
func (m *Manager) nextTurn(ctx context.Context, op *engine.Operation, c *clusterSubject, left []member, r rolling, to string) error {
	next := left[0]
	if r.away {
		reach, err := m.reach(ctx, c, clusterFence(op, c))
		if err != nil {
			return err
		}
		health, err := m.lookAt(ctx, c, reach)
		if err != nil {
			return err
		}
		masters := func(m member) bool { return roleIn(health, m.guest.ID) == datastore.RoleMaster }
		if i := slices.IndexFunc(left, func(m member) bool { return !masters(m) }); i >= 0 {
			next = left[i]
		} else if heir := heirOf(c, health, next); heir != nil {
			op.SetProgress("%s hands its shard over to %s", next.instance.Name, heir.instance.Name)
			// Whether it came to that, the next look tells.
			_ = m.guests.Member(heir.guest, clusterFence(op, c)).Do(ctx, datastore.ActionTakeOver, struct{}{}, nil)
			return engine.Wait(childPoll)
		}
	}
	return m.beginTurn(ctx, op, &next, r, to)
}

func (m *Manager) beginTurn(ctx context.Context, op *engine.Operation, next *member, r rolling, to string) error {
	prepare := func(tx *store.Tx, in *dbaas.Instance) (any, error) {
		if to == "" {
			return withTask(r.task)(tx, in)
		}
		_, err := withTask(r.task)(tx, in)
		return control.UpgradeState{VersionID: to}, err
	}
	if err := m.beginChildren(ctx, op, r.child, []string{next.instance.ID}, prepare); err != nil {
		return err
	}
	return engine.Wait(childPoll)
}

func roleIn(h *datastore.Health, guestID string) datastore.Role {
	for _, m := range h.Members {
		if m.GuestID == guestID {
			return m.Role
		}
	}
	return ""
}

// masterIn gives the guest that one follows, "" when it follows none or nobody knows.
func masterIn(h *datastore.Health, guestID string) string {
	for _, m := range h.Members {
		if m.GuestID == guestID && m.Role == datastore.RoleReplica {
			return m.Master
		}
	}
	return ""
}

// heirOf gives a replica that can take a master's place, nil when the shard has none.
func heirOf(c *clusterSubject, h *datastore.Health, master member) *member {
	for i, m := range c.members {
		if m.instance.ShardID != master.instance.ShardID || m.guest.ID == master.guest.ID {
			continue
		}
		if roleIn(h, m.guest.ID) == datastore.RoleReplica {
			return &c.members[i]
		}
	}
	return nil
}

// rollFailed leaves the members that were changed as they are, and takes the wish of the others back.
func (m *Manager) rollFailed(ctx context.Context, op *engine.Operation) error {
	if err := m.endChildren(ctx, op); err != nil {
		return err
	}
	children, err := m.Store.Children(ctx, op.ID)
	if err != nil {
		return err
	}
	return m.updateCluster(ctx, op, func(_ *store.Tx, c *clusterSubject) error {
		for _, m := range c.members {
			begun := slices.ContainsFunc(children, func(c dbaas.Operation) bool { return c.ResourceID == m.instance.ID })
			if a := m.instance.Applied; a != nil && !begun { // those begun ended by themselves, with what they have
				m.instance.FlavorID, m.instance.VolumeSize = a.FlavorID, a.VolumeSize
			}
		}
		rest(c)
		c.cluster.Fault = op.Failure
		return noteVersion(op, c)
	})
}

func (m *Manager) markRolled(ctx context.Context, op *engine.Operation) error {
	return m.updateCluster(ctx, op, func(_ *store.Tx, c *clusterSubject) error {
		rest(c)
		return noteVersion(op, c)
	})
}

// noteVersion makes the version that the members were to have that of the cluster, once all have it.
func noteVersion(op *engine.Operation, c *clusterSubject) error {
	to, err := target(op)
	if err == nil && to != "" && len(c.left(nil, to)) == 0 {
		c.cluster.DatastoreVersionID = to
	}
	return err
}
