package taskmanager_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// createMember makes a cluster that serves and gives one of its members.
func (h *house) createMember(t *testing.T) string {
	t.Helper()
	defer h.run(t, nil)()
	id := h.createCluster(t, 0)
	h.fill(t, id)
	return h.clusterView(t, id).Members[0].ID
}

const keptKeys = 300

// fill writes keys to a cluster that the trials on it must not lose, and waits until they have left the servers: one may
// lose its power next.
func (h *house) fill(t *testing.T, id string) {
	t.Helper()
	client := h.clusterClient(t, id)
	defer client.Close()
	for i := range keptKeys {
		key := fmt.Sprint("kept:", i)
		testbed.Eventually(t, time.Minute, func() error { return client.Set(t.Context(), key, i, 0).Err() })
	}
	testbed.Eventually(t, time.Minute, func() error {
		return client.ForEachMaster(t.Context(), func(ctx context.Context, c *redis.Client) error {
			info, err := c.Info(ctx, "persistence").Result()
			if err == nil && !strings.Contains(info, "aof_buffer_length:0\r") {
				err = errors.New("something waits to be written")
			}
			return err
		})
	})
}

// requireWhole requires that every member of a cluster is idle with what it asked for, that all of them see every hash slot
// served and nobody who is no member, and that no key is lost.
func (h *house) requireWhole(t *testing.T, id string) {
	t.Helper()
	v := h.clusterView(t, id)
	if v.Task != dbaas.ClusterNone {
		t.Errorf("the cluster's task is %s", v.Task)
	}
	credentials, err := h.control.ClusterCredentials(t.Context(), tester, id)
	must(t, err)
	for _, m := range v.Members {
		if a := m.Applied; m.Task != dbaas.TaskNone || m.Fault != nil || a == nil || a.FlavorID != m.FlavorID || a.VolumeSize != m.VolumeSize {
			t.Errorf("member %s is %s with fault %+v, flavor %s and %d GB, applied %+v", m.Name, m.Task, m.Fault, m.FlavorID, m.VolumeSize, a)
		}
		one := redis.NewClient(&redis.Options{Addr: m.Addresses[0].Address + ":6379", Password: credentials.Password, DisableIdentity: true})
		testbed.Eventually(t, time.Minute, func() error {
			info, err := one.ClusterInfo(t.Context()).Result()
			for _, want := range []string{"cluster_state:ok", "cluster_slots_ok:16384", fmt.Sprint("cluster_known_nodes:", len(v.Members))} {
				if err == nil && !strings.Contains(info, want+"\r") {
					err = fmt.Errorf("%s sees %s, want %s", m.Name, info, want)
				}
			}
			return err
		})
		_ = one.Close()
	}
	client := h.clusterClient(t, id)
	defer client.Close()
	for i := range keptKeys {
		var got string
		testbed.Eventually(t, time.Minute, func() (err error) {
			if got, err = client.Get(t.Context(), fmt.Sprint("kept:", i)).Result(); errors.Is(err, redis.Nil) {
				err = nil
			}
			return err
		})
		if got != fmt.Sprint(i) {
			t.Fatalf("key %d of %d is %q", i, keptKeys, got)
		}
	}
}

// clusterTrial is a change of the cluster that an instance belongs to, by child: the workflow that changes one member, "" for
// none.
func clusterTrial(child string, change func(ctx context.Context, t *testing.T, h *house, v *control.ClusterView) (string, error)) trial {
	return trial{form: "cluster", heavy: true, soaks: true, child: child, begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
		member, err := h.control.Instance(ctx, tester, in)
		must(t, err)
		return mustID(t)(change(ctx, t, h, h.clusterView(t, member.ClusterID)))
	}}
}

// rarely has make test take the trial too, at its first step alone.
func (tr trial) rarely() trial {
	tr.soaks, tr.every = false, 100
	return tr
}

func createClusterTrial() trial {
	return trial{form: "cluster", heavy: true, soaks: true, creates: true, child: "create_instance", begin: func(ctx context.Context, t *testing.T, h *house, _ string) string {
		created, err := h.control.CreateCluster(ctx, tester, clusterWish(0))
		must(t, err)
		return created.OperationID
	}}
}

func deleteClusterTrial() trial {
	tr := clusterTrial("delete_instance", func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		return h.control.DeleteCluster(ctx, tester, v.ID)
	})
	tr.deletes = true
	return tr
}

func growClusterTrial() trial {
	tr := clusterTrial("", func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		return h.control.GrowCluster(ctx, tester, v.ID, []control.NewMember{{}, {Replica: true, RelatedTo: v.Members[0].ID}})
	})
	tr.spends = true
	return tr
}

func shrinkClusterTrial() trial {
	tr := clusterTrial("delete_instance", func(ctx context.Context, t *testing.T, h *house, v *control.ClusterView) (string, error) {
		if len(v.Members) == 3 {
			stop := h.run(t, nil)
			id, err := h.control.GrowCluster(ctx, tester, v.ID, []control.NewMember{{}})
			must(t, err)
			h.succeeded(t, id)
			stop()
			v = h.clusterView(t, v.ID)
		}
		return h.control.ShrinkCluster(ctx, tester, v.ID, []string{v.Members[len(v.Members)-1].ID})
	})
	tr.spends = true
	return tr
}

func restartClusterTrial() trial {
	return clusterTrial("restart_instance", func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		return h.control.RestartCluster(ctx, tester, v.ID)
	})
}

func resizeClusterVolumeTrial() trial {
	return clusterTrial("resize_volume", func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		return h.control.ResizeClusterVolume(ctx, tester, v.ID, v.Members[0].VolumeSize+1)
	})
}

func resizeClusterFlavorTrial() trial {
	tr := clusterTrial("resize_flavor", func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		want := "2"
		if v.Members[0].FlavorID == want {
			want = "1"
		}
		return h.control.ResizeClusterFlavor(ctx, tester, v.ID, want)
	})
	return tr.rarely()
}

func configureClusterTrial() trial {
	return clusterTrial("", func(ctx context.Context, t *testing.T, h *house, v *control.ClusterView) (string, error) {
		if v.ConfigurationID != "" {
			return h.control.DetachClusterConfiguration(ctx, tester, v.ID)
		}
		group, err := h.control.CreateConfiguration(ctx, tester, control.CreateConfiguration{
			Name: "trial", Datastore: "redis", Values: map[string]any{"timeout": 300}})
		must(t, err)
		return h.control.AttachClusterConfiguration(ctx, tester, v.ID, group.ID)
	})
}

// healClusterTrial loses a server and waits until that is noticed.
func healClusterTrial() trial {
	return clusterTrial("create_instance", func(ctx context.Context, t *testing.T, h *house, v *control.ClusterView) (id string, err error) {
		newest := func() (string, error) {
			list, _, err := h.store.ListOperations(ctx, store.OperationFilter{ResourceID: v.ID, Limit: 1})
			if err != nil || len(list) == 0 || list[0].Kind != "heal_cluster" {
				return "", err
			}
			return list[0].ID, nil
		}
		before, err := newest()
		must(t, err)
		must(t, h.local.DeleteServer(ctx, v.Members[0].Guests[0].ServerID))
		testbed.Eventually(t, 2*time.Minute, func() error {
			id, err = newest()
			if err == nil && (id == before || id == "") {
				err = errors.New("nothing heals the cluster")
			}
			return err
		})
		return id, nil
	})
}

// TestClusterDeletedAtEveryStep has a tenant delete a cluster while each step of a change of it runs, where a step has the
// members changed while one of them is. What was begun ends, and nothing is left. make test takes a growth alone.
func TestClusterDeletedAtEveryStep(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	var at standing
	for _, w := range sorted(t, tried()) {
		tr := trials()[w.Kind]
		if tr.form != "cluster" || tr.deletes {
			continue
		}
		for _, s := range w.Steps {
			if !fullCrash() && (w.Kind != "grow_cluster" || s.Name != "awaitMembers") {
				continue
			}
			at = h.deleteClusterDuring(t, w.Kind, s.Name, at)
			if t.Failed() {
				t.Fatalf("at %s/%s", w.Kind, s.Name)
			}
		}
	}
}

// deleteClusterDuring runs a trial, and deletes its cluster while a step runs.
func (h *house) deleteClusterDuring(t *testing.T, kind, step string, at standing) standing {
	t.Helper()
	tr := trials()[kind]
	at = h.ready(t, tr, at)
	var once sync.Once
	var refused error
	stop := h.run(t, func(at engine.Point, op *engine.Operation) {
		if at == engine.AfterEffect && op.Kind == kindOf(kind) && op.Step == step && (step != "rollMembers" || h.hasChild(op.ID)) {
			once.Do(func() { _, refused = h.control.DeleteCluster(context.Background(), tester, op.ResourceID) })
		}
	})
	defer stop()
	op := h.awaitEnd(t, tr.begin(t.Context(), t, h, at.id))
	if refused != nil || op.Kind != "delete_cluster" || op.Status != dbaas.OperationSucceeded {
		t.Errorf("the operation ended as %s %s: %+v; the deletion: %v", op.Kind, op.Status, op.Failure, refused)
	}
	stop()
	left, _, err := h.store.ListInstances(t.Context(), store.InstanceFilter{IncludeClustered: true})
	must(t, err)
	if len(left) != 0 {
		t.Errorf("instances are left: %+v", left)
	}
	return standing{form: tr.form, id: h.audit(t, op.ID)}
}

// hasChild tells whether an operation that another began has not ended yet.
func (h *house) hasChild(id string) bool {
	children, err := h.store.Children(context.Background(), id)
	return err == nil && slices.ContainsFunc(children, func(c dbaas.Operation) bool { return !c.Status.Ended() })
}

// awaitHealed waits until the watch has healed a cluster.
func (h *house) awaitHealed(t *testing.T, id string) {
	t.Helper()
	defer h.run(t, nil)()
	testbed.Eventually(t, 4*time.Minute, func() error {
		v := h.clusterView(t, id)
		for _, m := range v.Members {
			if m.Task != dbaas.TaskNone {
				return fmt.Errorf("member %s is %s: %+v", m.Name, m.Task, m.Fault)
			}
		}
		if v.Operation != nil || v.Task != dbaas.ClusterNone || v.Health == nil || v.Health.State != "ok" {
			return fmt.Errorf("task %s, operation %+v, health %+v", v.Task, v.Operation, v.Health)
		}
		return nil
	})
}

// leaveFailedCluster requires that a cluster whose change failed is idle with the fault, and that its members are as they
// were. It is not used again, unless it was being healed: that is tried again until it succeeds, and no key is lost.
func (h *house) leaveFailedCluster(t *testing.T, tr trial, op *dbaas.Operation) standing {
	t.Helper()
	v := h.clusterView(t, op.ResourceID)
	if v.Task != dbaas.ClusterNone || v.Fault == nil || v.Fault.Message == "" {
		t.Errorf("the task is %s and the fault %+v, want NONE with a reason", v.Task, v.Fault)
	}
	if !tr.creates && !tr.deletes {
		for i := range v.Members {
			m := &v.Members[i]
			if !m.Task.Idle() && op.Kind != "heal_cluster" && op.Kind != "shrink_cluster" || m.Applied != nil && m.Task.Idle() && m.FlavorID != m.Applied.FlavorID {
				t.Errorf("member %s is %s with flavor %s, applied %+v", m.Name, m.Task, m.FlavorID, m.Applied)
			}
		}
	}
	if op.Kind == "heal_cluster" {
		h.awaitHealed(t, v.ID)
		h.requireWhole(t, v.ID)
		return standing{form: tr.form, id: h.audit(t, op.ID)}
	}
	h.clear(t)
	h.audit(t, op.ID)
	return standing{form: tr.form}
}
