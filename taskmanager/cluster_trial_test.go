package taskmanager_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// createMember makes a cluster that serves and gives one of its members.
func (h *house) createMember(t *testing.T) string {
	t.Helper()
	defer h.run(t, nil)()
	return h.clusterView(t, h.createCluster(t, 0)).Members[0].ID
}

// clusterTrial is a change of the cluster that an instance belongs to.
func clusterTrial(change func(ctx context.Context, t *testing.T, h *house, v *control.ClusterView) (string, error)) trial {
	return trial{form: "cluster", heavy: true, soaks: true, begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
		member, err := h.control.Instance(ctx, tester, in)
		must(t, err)
		return mustID(t)(change(ctx, t, h, h.clusterView(t, member.ClusterID)))
	}}
}

func createClusterTrial() trial {
	return trial{form: "cluster", heavy: true, soaks: true, creates: true, begin: func(ctx context.Context, t *testing.T, h *house, _ string) string {
		created, err := h.control.CreateCluster(ctx, tester, clusterWish(0))
		must(t, err)
		return created.OperationID
	}}
}

func deleteClusterTrial() trial {
	tr := clusterTrial(func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		return h.control.DeleteCluster(ctx, tester, v.ID)
	})
	tr.deletes = true
	return tr
}

func growClusterTrial() trial {
	tr := clusterTrial(func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		return h.control.GrowCluster(ctx, tester, v.ID, []control.NewMember{{}, {Replica: true, RelatedTo: v.Members[0].ID}})
	})
	tr.spends = true
	return tr
}

func shrinkClusterTrial() trial {
	tr := clusterTrial(func(ctx context.Context, t *testing.T, h *house, v *control.ClusterView) (string, error) {
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
	return clusterTrial(func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		return h.control.RestartCluster(ctx, tester, v.ID)
	})
}

func resizeClusterVolumeTrial() trial {
	return clusterTrial(func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		return h.control.ResizeClusterVolume(ctx, tester, v.ID, v.Members[0].VolumeSize+1)
	})
}

func resizeClusterFlavorTrial() trial {
	return clusterTrial(func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		want := "2"
		if v.Members[0].FlavorID == want {
			want = "1"
		}
		return h.control.ResizeClusterFlavor(ctx, tester, v.ID, want)
	})
}

func configureClusterTrial() trial {
	return clusterTrial(func(ctx context.Context, t *testing.T, h *house, v *control.ClusterView) (string, error) {
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
	return clusterTrial(func(ctx context.Context, t *testing.T, h *house, v *control.ClusterView) (id string, err error) {
		must(t, h.local.DeleteServer(ctx, v.Members[0].Guests[0].ServerID))
		testbed.Eventually(t, time.Minute, func() error {
			list, _, err := h.store.ListOperations(ctx, store.OperationFilter{ResourceID: v.ID, Limit: 1})
			if err == nil && (len(list) == 0 || list[0].Kind != "heal_cluster") {
				err = errors.New("nothing heals the cluster")
			}
			if err == nil {
				id = list[0].ID
			}
			return err
		})
		return id, nil
	})
}

// leaveFailedCluster requires that a cluster whose change failed is idle with the fault, and that its members are as they
// were. It is not used again.
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
	h.clear(t)
	h.audit(t, op.ID)
	return standing{form: tr.form}
}
