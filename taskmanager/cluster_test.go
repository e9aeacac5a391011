package taskmanager_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func clusterWish(replicas int) control.CreateCluster {
	m := control.NewMember{FlavorID: "1", VolumeSize: 1}
	return control.CreateCluster{Name: "shop", Masters: []control.NewMember{m, m, m}, ReplicasPerShard: replicas}
}

// createCluster makes a cluster that serves.
func (h *house) createCluster(t *testing.T, replicas int) string {
	t.Helper()
	created, err := h.control.CreateCluster(t.Context(), tester, clusterWish(replicas))
	must(t, err)
	h.succeeded(t, created.OperationID)
	return created.View.ID
}

// succeeded waits for an operation on a cluster, which may take longer than one on an instance.
func (h *house) succeeded(t *testing.T, id string) {
	t.Helper()
	op, err := h.control.Await(t.Context(), id, 4*time.Minute)
	must(t, err)
	if op.Status != dbaas.OperationSucceeded {
		children, _ := h.store.Children(t.Context(), id)
		for _, c := range children {
			t.Logf("child %s of %s: %s at %s: %s %+v", c.Kind, c.ResourceID, c.Status, c.Step, c.Progress, c.Failure)
		}
		t.Fatalf("%s is %s at %s: %s; %+v", op.Kind, op.Status, op.Step, op.Progress, op.Failure)
	}
}

func (h *house) clusterView(t *testing.T, id string) *control.ClusterView {
	t.Helper()
	v, err := h.control.Cluster(t.Context(), tester, id)
	must(t, err)
	return v
}

// clusterClient connects as a tenant's cluster-aware client does.
func (h *house) clusterClient(t *testing.T, id string) *redis.ClusterClient {
	t.Helper()
	credentials, err := h.control.ClusterCredentials(t.Context(), tester, id)
	must(t, err)
	var addrs []string
	for _, m := range h.clusterView(t, id).Members {
		addrs = append(addrs, m.Addresses[0].Address+":6379")
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, Password: credentials.Password, DisableIdentity: true, MaxRedirects: 20,
		MaxRetryBackoff: time.Second})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// counting writes numbers that only grow, until it is stopped; then every one that was confirmed must be there.
func counting(t *testing.T, c *redis.ClusterClient) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	written := 0
	done.Go(func() {
		for ctx.Err() == nil {
			err := c.Set(context.Background(), "count:"+strconv.Itoa(written), written, 0).Err()
			if err != nil {
				time.Sleep(10 * time.Millisecond) // the client's own retries are over: a tenant tries again
				continue
			}
			written++
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		done.Wait()
		for i := range written {
			if got, err := c.Get(context.Background(), "count:"+strconv.Itoa(i)).Int(); err != nil || got != i {
				t.Errorf("of %d confirmed writes number %d is %d (%v)", written, i, got, err)
				return
			}
		}
		t.Logf("%d confirmed writes are all there", written)
	})
}

func (h *house) requireCluster(t *testing.T, id string, masters, replicas int) *control.ClusterView {
	t.Helper()
	v := h.clusterView(t, id)
	if v.Task != dbaas.ClusterNone || v.Fault != nil || len(v.Members) != masters+replicas {
		t.Fatalf("the cluster has %d members, task %s, fault %+v", len(v.Members), v.Task, v.Fault)
	}
	slots, found := 0, map[datastore.Role]int{}
	for i := range v.Members {
		m := &v.Members[i]
		if m.Task != dbaas.TaskNone {
			t.Errorf("member %s is %s", m.Name, m.Task)
		}
		found[v.Role(m)]++
		if hm := v.MemberHealth(m); hm != nil && hm.Role == datastore.RoleMaster {
			slots += hm.Units
		}
	}
	if v.Health == nil || v.Health.State != "ok" || slots != 16384 || found[datastore.RoleMaster] != masters || found[datastore.RoleReplica] != replicas {
		t.Errorf("roles %v, %d slots, health %+v", found, slots, v.Health)
	}
	return v
}

// requirePlannedGrowth asks what one more master would take: slots of each, which are named as tenants know them.
func (h *house) requirePlannedGrowth(t *testing.T, v *control.ClusterView) {
	t.Helper()
	asks := tester
	asks.DryRun = &control.Plan{}
	if _, err := h.control.GrowCluster(t.Context(), asks, v.ID, []control.NewMember{{Name: "fourth"}}); !errors.Is(err, control.ErrDryRun) {
		t.Fatalf("a dry run ended with %v", err)
	}
	from, units := map[string]bool{}, 0
	for _, m := range asks.DryRun.Moves.Moves {
		from[m.From], units = true, units+m.Units
		if m.To != "fourth" {
			t.Errorf("slots would go to %s", m.To)
		}
	}
	for i := range v.Members {
		m := &v.Members[i]
		if from[m.ID] != (v.Role(m) == datastore.RoleMaster) {
			t.Errorf("%s, a %s, gives slots: %v", m.Name, v.Role(m), from[m.ID])
		}
	}
	if units < 4096-128 || units > 4096+128 { // an even share of slots, or of what the writer has put into them so far
		t.Errorf("%d slots would be moved", units)
	}
}

// TestClusterLife is a cluster from its first day to its last, while a client writes.
func TestClusterLife(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	defer h.run(t, nil)()
	ctx := t.Context()
	id := h.createCluster(t, 1)
	v := h.requireCluster(t, id, 3, 3)
	client := h.clusterClient(t, id)
	testbed.Eventually(t, 30*time.Second, func() error { return client.Set(ctx, "k", "v", 0).Err() })
	stop := counting(t, client)
	defer stop()
	operation := func(id string, err error) { t.Helper(); must(t, err); h.succeeded(t, id) }

	h.requirePlannedGrowth(t, v)
	operation(h.control.GrowCluster(ctx, tester, id, []control.NewMember{{Name: "fourth"}}))
	h.requireCluster(t, id, 4, 4)
	operation(h.control.GrowCluster(ctx, tester, id, []control.NewMember{{Replica: true, RelatedTo: "fourth", Name: "extra"}}))
	v = h.requireCluster(t, id, 4, 5)
	for _, m := range v.Members {
		if m.Name == "fourth" {
			operation(h.control.ShrinkCluster(ctx, tester, id, []string{m.ID}))
		}
	}
	h.requireCluster(t, id, 3, 3)
	operation(h.control.ResizeClusterVolume(ctx, tester, id, 2))
	operation(h.control.RestartCluster(ctx, tester, id))
	operation(h.control.ResizeClusterFlavor(ctx, tester, id, "2"))
	v = h.requireCluster(t, id, 3, 3)
	for _, m := range v.Members {
		if m.FlavorID != "2" || m.VolumeSize != 2 || m.Applied.FlavorID != "2" || m.Applied.VolumeSize != 2 {
			t.Errorf("member %s has flavor %s and %d GB", m.Name, m.FlavorID, m.VolumeSize)
		}
	}
	stop()
	root, err := h.control.EnableClusterRoot(ctx, tester, id, "")
	must(t, err)
	h.succeeded(t, root.OperationID)
	for _, m := range h.requireCluster(t, id, 3, 3).Members {
		one := redis.NewClient(&redis.Options{Addr: m.Addresses[0].Address + ":6379", Password: root.Password, DisableIdentity: true})
		if err := one.Ping(ctx).Err(); err != nil {
			t.Errorf("the new password on %s: %v", m.Name, err)
		}
		_ = one.Close()
	}
	operation(h.control.DeleteCluster(ctx, tester, id))
	if _, err := h.control.Cluster(ctx, tester, id); dbaas.ErrorCode(err) != dbaas.NotFound {
		t.Errorf("the deleted cluster: %v", err)
	}
	owned, err := h.local.Owned(ctx, "")
	must(t, err)
	if len(owned) != 0 {
		t.Errorf("the cloud still has %v", owned)
	}
}

// TestLostMembersComeBack: a killed master is replaced by its replica, which the API shows; a server that is gone is made
// anew; nobody has to ask.
func TestLostMembersComeBack(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	defer h.run(t, nil)()
	ctx := t.Context()
	id := h.createCluster(t, 1)
	v := h.requireCluster(t, id, 3, 3)
	client := h.clusterClient(t, id)
	testbed.Eventually(t, 30*time.Second, func() error { return client.Set(ctx, "k", "v", 0).Err() })
	var lost dbaas.InstanceView
	for i := range v.Members {
		if v.Role(&v.Members[i]) == datastore.RoleMaster {
			lost = v.Members[i]
			break
		}
	}
	before := lost.Guests[0].ServerID
	began := time.Now()
	must(t, h.local.DeleteServer(ctx, before))
	testbed.Eventually(t, time.Minute, func() error {
		v := h.clusterView(t, id)
		for i := range v.Members {
			m := &v.Members[i]
			if m.ShardID == lost.ShardID && m.ID != lost.ID && v.Role(m) == datastore.RoleMaster {
				return nil
			}
		}
		return errors.New("the shard's replica is not shown as its master")
	})
	t.Logf("the failover was visible %s after the loss", time.Since(began).Round(100*time.Millisecond))
	testbed.Eventually(t, 3*time.Minute, func() error {
		v := h.clusterView(t, id)
		for _, m := range v.Members {
			if m.ID == lost.ID && m.Guests[0].ServerID != before && v.Health != nil && v.Health.State == "ok" && v.Operation == nil && v.Task == dbaas.ClusterNone {
				return nil
			}
		}
		return fmt.Errorf("health is %+v, operation %+v", v.Health, v.Operation)
	})
	v = h.requireCluster(t, id, 3, 3)
	if err := client.Set(ctx, "k", "w", 0).Err(); err != nil {
		t.Error(err)
	}
	h.requirePasswordWithout(t, &v.Members[0])
}

// requirePasswordWithout has a member's server lose its power: the others get a new password all the same, and it too when it
// is back.
func (h *house) requirePasswordWithout(t *testing.T, lost *dbaas.InstanceView) {
	t.Helper()
	must(t, h.local.PowerOffServer(t.Context(), lost.Guests[0].ServerID))
	root, err := h.control.EnableClusterRoot(t.Context(), tester, lost.ClusterID, "")
	must(t, err)
	h.succeeded(t, root.OperationID)
	for _, m := range h.clusterView(t, lost.ClusterID).Members {
		one := redis.NewClient(&redis.Options{Addr: m.Addresses[0].Address + ":6379", Password: root.Password, DisableIdentity: true})
		defer one.Close()
		if m.ID != lost.ID {
			must(t, one.Ping(t.Context()).Err())
			continue
		}
		var state string
		h.sql(t, "SELECT state FROM operations WHERE id = '"+root.OperationID+"'", &state)
		if !strings.Contains(state, `"missed":["`+m.Guests[0].ID+`"]`) {
			t.Errorf("the guest was told, or waited for: %s", state)
		}
		defer testbed.Eventually(t, 3*time.Minute, func() error { return one.Ping(t.Context()).Err() })
	}
	testbed.Eventually(t, 3*time.Minute, func() error {
		if now := h.view(t, lost.ID); len(now.Applied.Behind) > 0 || !now.Task.Idle() {
			return fmt.Errorf("the member is %s and behind: %v", now.Task, now.Applied.Behind)
		}
		return nil
	})
}
