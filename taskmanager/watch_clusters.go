package taskmanager

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) healCluster() engine.Workflow {
	return engine.Workflow{
		Kind: "heal_cluster",
		Doc:  "Brings back members whose server is down or gone, and mends slots that nobody serves or that were left half moved.",
		Steps: []engine.Step{
			{Name: "replaceLost", Doc: "looking for members that are lost", Run: m.replaceLost, Within: 10 * time.Minute},
			{Name: "awaitMembers", Doc: "bringing lost members back", Run: m.awaitChildren, Within: 2 * time.Hour},
			{Name: "mendCluster", Doc: "mending the cluster", Run: m.formCluster, Within: 30 * time.Minute},
			{Name: "markCluster", Doc: "publishing the cluster", Run: m.markCluster, Within: 5 * time.Minute},
		},
		Failed: m.keepCluster,
		Ended:  "Task NONE with the fault; it is tried again, after 30 s, a minute, and so on up to 16 minutes.",
	}
}

// replaceLost begins to provision anew what the cloud has no server of, to finish members that an attempt before this one
// left unfinished, and to start what the cloud says is down. A member keeps its id, and its volume where that is still there.
func (m *Manager) replaceLost(ctx context.Context, op *engine.Operation) error {
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return err
	}
	var gone, unfinished, down []string
	for _, member := range c.members {
		status, err := m.serverRuns(ctx, member.guest)
		if err != nil {
			return err
		}
		switch {
		case status == "":
			gone = append(gone, member.instance.ID)
		case status == cloud.ServerShutoff, status == cloud.ServerError:
			down = append(down, member.instance.ID)
		case member.instance.Task == dbaas.TaskError:
			unfinished = append(unfinished, member.instance.ID)
		}
	}
	if err := m.beginChildren(ctx, op, "create_instance", gone, forgetServer); err != nil {
		return err
	}
	if err := m.beginChildren(ctx, op, "create_instance", unfinished, withTask(dbaas.TaskUpdating)); err != nil {
		return err
	}
	return m.beginChildren(ctx, op, "restart_instance", down, withTask(dbaas.TaskRebooting))
}

// forgetServer prepares a member for another server: the agent on that one has another key.
func forgetServer(tx *store.Tx, in *dbaas.Instance) (any, error) {
	g, err := tx.Guest(in.PrimaryGuestID)
	if err != nil {
		return nil, err
	}
	g.PublicKey, g.Status, g.StatusCause = nil, dbaas.GuestUnknown, "The server is gone; another takes its place."
	if err := tx.UpdateGuest(g); err != nil {
		return nil, err
	}
	return withTask(dbaas.TaskUpdating)(tx, in)
}

const (
	clusterTick = 500 * time.Millisecond
	// clusterLook is how often a cluster is looked at when nothing is heard of it, and clusterLookAgain when all is not well.
	clusterLook      = time.Minute
	clusterLookAgain = time.Second
	// clusterPatience is how long a cluster may take to help itself: to elect a master, to restart a database. Each time
	// that it is healed in vain doubles it, up to clusterDoublings times.
	clusterPatience  = 15 * time.Second
	clusterDoublings = 6
	clusterTimeout   = 15 * time.Second
)

// clusterWatch remembers when each cluster is to be looked at, by group. It is lost with the process, which costs a look.
type clusterWatch struct {
	mu   sync.Mutex
	next map[string]time.Time
	ill  map[string]illness
}

// illness is that of a cluster which is not well.
type illness struct {
	since  time.Time // or when it was last to be healed
	healed int       // how often it was to be
}

func newClusterWatch() *clusterWatch {
	return &clusterWatch{next: map[string]time.Time{}, ill: map[string]illness{}}
}

// news has a cluster looked at now, for a member told of a change.
func (w *clusterWatch) news(groupID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.next, groupID)
}

// due tells whether a cluster is to be looked at, and notes when it is next.
func (w *clusterWatch) due(groupID string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if next, ok := w.next[groupID]; ok && now.Before(next) {
		return false
	}
	w.next[groupID] = now.Add(clusterLook)
	return true
}

// saw notes how a cluster was, and tells whether it is to be healed: it has been unwell for longer than it may, and nothing
// is being done to it.
func (w *clusterWatch) saw(groupID string, well, busy bool, now time.Time) (heal bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if well {
		delete(w.ill, groupID)
		return false
	}
	w.next[groupID] = now.Add(clusterLookAgain)
	is, known := w.ill[groupID]
	switch {
	case !known:
		is.since = now
	case busy || now.Sub(is.since) < clusterPatience<<min(is.healed, clusterDoublings):
		return false
	default:
		is, heal = illness{since: now, healed: is.healed + 1}, true
	}
	w.ill[groupID] = is
	return heal
}

// watchClusters keeps an eye on clusters that nothing is being done to.
func (m *Manager) watchClusters(ctx context.Context) error {
	return m.every(ctx, clusterTick, "watch clusters", func(ctx context.Context) error {
		list, _, err := m.Store.ListClusters(ctx, store.ClusterFilter{})
		if err != nil {
			return err
		}
		var looks sync.WaitGroup
		errs := make([]error, len(list))
		room := make(chan struct{}, 8)
		for i := range list {
			if list[i].Task != dbaas.ClusterNone || !m.clusters.due(list[i].GroupID, m.Clock.Now()) {
				continue
			}
			looks.Go(func() {
				room <- struct{}{}
				defer func() { <-room }()
				errs[i] = m.watchCluster(ctx, list[i].ID)
			})
		}
		looks.Wait()
		return errors.Join(errs...)
	})
}

// watchCluster looks at one cluster and has it healed when it does not do so by itself.
func (m *Manager) watchCluster(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	var c *clusterSubject
	busy := false
	err := m.Store.Tx(ctx, func(tx *store.Tx) (err error) {
		if c, err = readCluster(tx, id); err != nil {
			return err
		}
		op, err := tx.OperationHolding(id)
		busy = op != nil
		return err
	})
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil
	}
	if err != nil || !c.stood() {
		return err
	}
	r, err := m.reach(ctx, c, guest.Fence{GroupEpoch: c.group.Epoch})
	if err != nil {
		return err
	}
	health, err := m.lookAt(ctx, c, r)
	if err != nil {
		return err
	}
	if m.clusters.saw(c.cluster.GroupID, (health.State == healthOK || c.halfUpgraded(health)) && !c.unfinished(), busy, m.Clock.Now()) {
		return m.beginHealing(ctx, id, health)
	}
	return nil
}

// healthOK is the state of a cluster that lacks nothing.
const healthOK = "ok"

// healthDegraded is that of one which serves and lacks something, and of a member that is not in step.
const healthDegraded = "degraded"

// stood tells whether the cluster has ever been whole: one whose create failed is not healed.
func (c *clusterSubject) stood() bool {
	for _, m := range c.members {
		if m.instance.Applied == nil {
			return false
		}
	}
	return len(c.members) > 0
}

// halfUpgraded tells whether all that a cluster lacks is that members of an older version cannot follow masters of a newer
// one. No healing helps: the upgrade that stopped has to go on.
func (c *clusterSubject) halfUpgraded(h *datastore.Health) bool {
	versions := map[string]string{} // by guest
	for _, m := range c.members {
		versions[m.guest.ID] = m.instance.DatastoreVersionID
	}
	behind := 0
	for _, m := range h.Members {
		master := versions[masterIn(h, m.GuestID)]
		if m.State == healthDegraded && master != "" && master != versions[m.GuestID] {
			behind++
		}
	}
	return h.State == healthDegraded && behind > 0 && behind == len(h.Causes)
}

// unfinished tells whether an attempt to heal the cluster left a member in ERROR.
func (c *clusterSubject) unfinished() bool {
	return slices.ContainsFunc(c.members, func(m member) bool { return m.instance.Task == dbaas.TaskError })
}

// beginHealing enqueues that a cluster is healed, unless something else is done to it.
func (m *Manager) beginHealing(ctx context.Context, id string, health *datastore.Health) error {
	op := &dbaas.Operation{Kind: "heal_cluster", ResourceType: "cluster", ResourceID: id, Actor: "watch"}
	err := m.Store.Tx(ctx, func(tx *store.Tx) error {
		op.ID = ""
		c, err := readCluster(tx, id)
		if err != nil || c.cluster.Task != dbaas.ClusterNone {
			return err
		}
		op.ProjectID, op.GroupID = c.cluster.ProjectID, c.cluster.GroupID
		lock := append(c.idsOf(func(member) bool { return true }), id, c.cluster.GroupID)
		if err := tx.Enqueue(op, lock...); err != nil {
			return err
		}
		return tx.InsertEvent(&dbaas.Event{
			ProjectID: op.ProjectID, ResourceType: "cluster", ResourceID: id, OperationID: op.ID, Actor: op.Actor,
			Kind: "cluster.health", Message: healthMessage(health),
		})
	})
	var busy *store.BusyError
	if errors.As(err, &busy) || dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil
	}
	if err == nil {
		m.nudgeAll([]string{op.ID})
	}
	return err
}

func healthMessage(h *datastore.Health) string {
	message := "The cluster is " + h.State + "; it is being healed."
	if h.State == healthOK {
		message = "A member of the cluster is in ERROR; it is being healed."
	}
	for _, cause := range h.Causes {
		message += " " + cause
	}
	return clip(message, longestSentence)
}
