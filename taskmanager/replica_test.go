package taskmanager_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func createReplicasTrial() trial {
	return trial{heavy: true, spends: true,
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			created, err := h.control.CreateReplicas(ctx, tester, control.CreateReplicas{Of: in, Count: 1, Name: "replica"})
			must(t, err)
			return created.OperationID
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.Task != dbaas.TaskNone || len(v.Replicas) != 1 {
				t.Errorf("the source is %s with replicas %v", v.Task, v.Replicas)
			}
			h.requireSet(t, v.GroupID)
		},
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.Task != dbaas.TaskNone {
				t.Errorf("the source is %s, want NONE", v.Task)
			}
			h.requireServing(t, v)
			for _, id := range v.Replicas { // what became of them is for their tenant to delete
				if r := h.view(t, id); r.Task == dbaas.TaskBuilding {
					t.Errorf("the replica %s is still %s", id, r.Task)
				}
				h.delete(t, id)
			}
		},
	}
}

// createReplicated makes a source with one replica, and gives the source.
func (h *house) createReplicated(t *testing.T) string {
	t.Helper()
	in := h.createActive(t)
	defer h.run(t, nil)()
	op := h.awaitEnd(t, createReplicasTrial().begin(t.Context(), t, h, in))
	if op.Status != dbaas.OperationSucceeded {
		t.Fatalf("create a replica: %s %+v", op.Status, op.Failure)
	}
	return in
}

func promoteTrial() trial {
	return trial{heavy: true, form: "replication",
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			return mustID(t)(h.control.PromoteReplica(ctx, tester, h.replicaBeside(t, in)))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.ReplicaOf != "" || len(v.Replicas) != 1 {
				t.Errorf("the promoted replica follows %q and has the replicas %v", v.ReplicaOf, v.Replicas)
			}
			h.requireSet(t, v.GroupID)
		},
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) { h.requireSet(t, v.GroupID) },
	}
}

func ejectTrial() trial {
	return trial{heavy: true, form: "replication", spends: true,
		begin: func(ctx context.Context, t *testing.T, h *house, in string) (id string) {
			source := h.sourceBeside(t, in)
			testbed.Eventually(t, 30*time.Second, func() (err error) {
				h.lose(t, source) // again, when what its agent said last comes late
				id, err = h.control.EjectSource(ctx, tester, source.ID)
				return err
			})
			return id
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.ReplicaOf != "" || len(v.Replicas) != 0 || !v.Stopped {
				t.Errorf("the old source follows %q, has the replicas %v, is stopped: %t", v.ReplicaOf, v.Replicas, v.Stopped)
			}
			for _, other := range h.others(t, v) {
				h.requireServing(t, &other)
			}
		},
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.Task != dbaas.TaskNone || v.Fault == nil {
				t.Errorf("the source is %s with fault %v", v.Task, v.Fault)
			}
		},
	}
}

func detachTrial() trial {
	return trial{heavy: true, form: "replication", spends: true,
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			return mustID(t)(h.control.UpdateInstance(ctx, tester, h.replicaBeside(t, in), control.UpdateInstance{Detach: true}))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.ReplicaOf != "" || v.Task != dbaas.TaskNone {
				t.Errorf("the detached replica follows %q and is %s", v.ReplicaOf, v.Task)
			}
			h.requireServing(t, v)
			for _, other := range h.others(t, v) {
				if other.GroupID == v.GroupID {
					t.Errorf("it is in one group with %s still", other.ID)
				}
				h.requireServing(t, &other)
			}
		},
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.ReplicaOf != "" {
				h.requireSet(t, v.GroupID)
			}
		},
	}
}

// replicaBeside gives a replica of the set that an instance is in.
func (h *house) replicaBeside(t *testing.T, in string) string {
	t.Helper()
	for _, v := range h.set(t, h.view(t, in).GroupID) {
		if v.ReplicaOf != "" {
			return v.ID
		}
	}
	t.Fatalf("there is no replica in the set of %s", in)
	return ""
}

func (h *house) sourceBeside(t *testing.T, in string) *dbaas.InstanceView {
	t.Helper()
	v := h.view(t, in)
	if v.ReplicaOf == "" {
		return v
	}
	return h.view(t, v.ReplicaOf)
}

func (h *house) set(t *testing.T, groupID string) []dbaas.InstanceView {
	t.Helper()
	set, err := h.store.GroupViews(t.Context(), groupID)
	must(t, err)
	return set
}

// others gives all instances but one.
func (h *house) others(t *testing.T, v *dbaas.InstanceView) []dbaas.InstanceView {
	t.Helper()
	all := h.all(t)
	for i := range all {
		if all[i].ID == v.ID {
			return append(all[:i:i], all[i+1:]...)
		}
	}
	return all
}

// lose takes the power of an instance's server, and lets the time pass until it is known to be down.
func (h *house) lose(t *testing.T, v *dbaas.InstanceView) {
	t.Helper()
	must(t, h.local.PowerOffServer(t.Context(), v.Guests[0].ServerID))
	testbed.Eventually(t, 30*time.Second, func() error {
		h.sql(t, "INSERT INTO heartbeats (guest_id, boot_id, sequence, seen_at, volume_used, volume_total, metrics) VALUES ('"+
			v.Guests[0].ID+"', 'lost', 1, 1, 0, 0, '{}') ON CONFLICT (guest_id) DO UPDATE SET seen_at = 1")
		if now := h.view(t, v.ID); !now.Down(dbaas.At(time.Now())) {
			return fmt.Errorf("it is %s", now.OperatingStatus(dbaas.At(time.Now())))
		}
		return nil
	})
}

// client connects as the tenant does.
func (h *house) client(t *testing.T, v *dbaas.InstanceView) *redis.Client {
	t.Helper()
	credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
	must(t, err)
	client := redis.NewClient(&redis.Options{Addr: v.Addresses[0].Address + ":6379", Password: credentials.Password, DisableIdentity: true})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// requireSet requires of a replication set that one member takes writes, that the rows say which, and that all others
// have what it was given, and take none themselves.
func (h *house) requireSet(t *testing.T, groupID string) {
	t.Helper()
	ctx, set := t.Context(), h.set(t, groupID)
	value, sources := fmt.Sprint(time.Now().UnixNano()), 0
	for i := range set {
		if set[i].Task != dbaas.TaskNone {
			t.Errorf("%s is %s", set[i].ID, set[i].Task)
		}
		if set[i].ReplicaOf == "" {
			sources++
			client := h.client(t, &set[i])
			testbed.Eventually(t, 30*time.Second, func() error { return client.Set(ctx, "set", value, 0).Err() })
		}
	}
	if sources != 1 {
		t.Errorf("the set has %d sources", sources)
	}
	for i := range set {
		if set[i].ReplicaOf == "" {
			continue
		}
		client := h.client(t, &set[i])
		testbed.Eventually(t, 30*time.Second, func() error {
			got, err := client.Get(ctx, "set").Result()
			if err == nil && got != value {
				err = fmt.Errorf("the replica has %q, its source %q", got, value)
			}
			return err
		})
		if err := client.Set(ctx, "set", "other", 0).Err(); err == nil {
			t.Errorf("the replica %s takes writes", set[i].ID)
		}
	}
}
