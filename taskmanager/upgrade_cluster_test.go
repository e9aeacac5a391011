package taskmanager_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// upgradeClusterTrial needs the version to go to, which make crash has.
func upgradeClusterTrial() trial {
	tr := clusterTrial("upgrade_instance", func(ctx context.Context, t *testing.T, h *house, v *control.ClusterView) (id string, err error) {
		_, err = exec.LookPath("valkey-server")
		must(t, err)
		h.offerAll(t)
		testbed.Eventually(t, time.Minute, func() error { // its members' reports are on their way
			id, err = h.control.UpgradeCluster(ctx, tester, v.ID, "valkey-8.0")
			return err
		})
		return id, err
	})
	tr.spends = true
	return tr
}

// offerAll has every version on offer.
func (h *house) offerAll(t *testing.T) {
	t.Helper()
	must(t, h.control.SyncDatastores(t.Context(), func(v datastore.Version) string { return strings.TrimSuffix(v.Number, ".") + ".15" }))
}

// openUpgradeHouse has a cluster of 7.0 that can be upgraded.
func openUpgradeHouse(t *testing.T, replicas int) (h *house, id string) {
	t.Helper()
	if _, err := exec.LookPath("valkey-server"); err != nil {
		t.Skip("valkey-server is not installed")
	}
	h = openHouse(t, "", t.TempDir())
	h.offerAll(t)
	defer h.run(t, nil)()
	id = h.createCluster(t, replicas)
	h.fill(t, id)
	return h, id
}

// requireVersion requires that the rows and the servers themselves say that all members are of a version.
func (h *house) requireVersion(t *testing.T, id, version, number string) {
	t.Helper()
	v := h.clusterView(t, id)
	if v.Version.Name != version || v.Fault != nil {
		t.Errorf("the cluster is of version %s with the fault %+v", v.Version.Name, v.Fault)
	}
	credentials, err := h.control.ClusterCredentials(t.Context(), tester, id)
	must(t, err)
	for _, m := range v.Members {
		one := redis.NewClient(&redis.Options{Addr: m.Addresses[0].Address + ":6379", Password: credentials.Password, DisableIdentity: true})
		info, err := one.Info(t.Context(), "server").Result()
		_ = one.Close()
		if m.DatastoreVersionID != v.DatastoreVersionID || err != nil || !strings.Contains(info, number+"\r") {
			t.Errorf("member %s has the version %s, and its server says %v %s", m.Name, m.DatastoreVersionID, err, info)
		}
	}
}

// TestClusterUpgrade goes from Redis 7.0 to Valkey 8.0 while a client writes, member by member, and the taskmanager is
// replaced in the middle. Who joins later is of the new version.
func TestClusterUpgrade(t *testing.T) {
	t.Parallel()
	h, id := openUpgradeHouse(t, 1)
	ctx := t.Context()
	client := h.clusterClient(t, id)
	done := counting(t, client)
	defer done()
	var turns atomic.Int32
	reached := make(chan struct{})
	stop := h.run(t, func(at engine.Point, op *engine.Operation) {
		if op.Kind == "upgrade_instance" && op.Step == "markUpgraded" && at == engine.BeforeStep && turns.Add(1) == 4 { // the first master
			close(reached)
		}
	})
	before := h.clusterView(t, id)
	var operation string
	testbed.Eventually(t, time.Minute, func() (err error) { // the members' reports are on their way
		operation, err = h.control.UpgradeCluster(ctx, tester, id, "valkey-8.0")
		return err
	})
	if v := h.clusterView(t, id); v.Task != dbaas.ClusterUpgrading {
		t.Errorf("the task is %s", v.Task)
	}
	select {
	case <-reached:
	case <-time.After(4 * time.Minute):
		t.Error("no master has had its turn within 4 minutes")
	}
	stop()
	h.expireLeases(t)
	defer h.run(t, nil)()
	h.succeeded(t, operation)
	v := h.requireCluster(t, id, 3, 3)
	h.requireVersion(t, id, "valkey-8.0", "valkey_version:8.0.1")
	h.requireTurns(t, before, operation)
	operation, err := h.control.GrowCluster(ctx, tester, id, []control.NewMember{{Replica: true, RelatedTo: v.Members[0].ID}})
	must(t, err)
	h.succeeded(t, operation)
	h.requireVersion(t, id, "valkey-8.0", "valkey_version:8.0.1")
	done()
	h.requireWhole(t, id)
	for version, words := range map[string]string{"7.0": "cannot be made version 7.0", "valkey-8.0": "already", "8.0": "cannot be made version 8.0"} {
		if _, err := h.control.UpgradeCluster(ctx, tester, id, version); dbaas.ErrorCode(err) != dbaas.BadRequest || !strings.Contains(err.Error(), words) {
			t.Errorf("an upgrade to %s afterwards: %v", version, err)
		}
	}
}

// TestClusterUpgradeThatStops leaves the members of two versions serving together; asked for again, it goes on with the rest.
func TestClusterUpgradeThatStops(t *testing.T) {
	t.Parallel()
	h, id := openUpgradeHouse(t, 0)
	h.requirePlannedUpgrade(t, id)
	upgrade := func() (operation string) {
		t.Helper()
		testbed.Eventually(t, time.Minute, func() (err error) { // the members' reports are on their way
			operation, err = h.control.UpgradeCluster(t.Context(), tester, id, "valkey-8.0")
			return err
		})
		return operation
	}
	var turns atomic.Int32
	stop := h.run(t, func(at engine.Point, op *engine.Operation) {
		if op.Kind == "upgrade_instance" && op.Step == "awaitAgent" && at == engine.BeforeStep && turns.Add(1) == 2 {
			_ = h.store.Tx(context.Background(), func(tx *store.Tx) error { return tx.CancelOperation(op.ID) })
		}
	})
	operation := upgrade()
	if op := h.awaitEnd(t, operation); op.Status != dbaas.OperationCancelled {
		t.Errorf("with a member whose turn is cancelled the upgrade ended %s", op.Status)
	}
	stop()
	v := h.clusterView(t, id)
	if v.Task != dbaas.ClusterNone || v.Fault == nil || v.Version.Name != "7.0" {
		t.Errorf("the cluster is %s with the fault %+v and of version %s", v.Task, v.Fault, v.Version.Name)
	}
	found := map[string]int{}
	for _, m := range v.Members {
		found[m.Version.Name]++
		if m.Task != dbaas.TaskNone {
			t.Errorf("member %s is %s", m.Name, m.Task)
		}
	}
	if found["valkey-8.0"] != 1 || found["7.0"] != 2 {
		t.Errorf("the members are of %v", found)
	}
	if _, err := h.control.GrowCluster(t.Context(), tester, id, []control.NewMember{{}}); dbaas.ErrorCode(err) != dbaas.Unprocessable {
		t.Errorf("growing it then: %v", err)
	}
	defer h.run(t, nil)()
	h.succeeded(t, upgrade())
	h.requireVersion(t, id, "valkey-8.0", "valkey_version:8.0.1")
	h.requireWhole(t, id)
}

// requireTurns requires that every member had one turn, one after the other, and that a replica was the first.
func (h *house) requireTurns(t *testing.T, before *control.ClusterView, operation string) {
	t.Helper()
	children, err := h.store.Children(t.Context(), operation)
	must(t, err)
	had := map[string]bool{}
	for i, c := range children {
		had[c.ResourceID] = true
		if i > 0 && c.CreatedAt < children[i-1].EndedAt {
			t.Errorf("turn %d began before the one before it ended", i)
		}
	}
	if len(children) != len(before.Members) || len(had) != len(children) {
		t.Fatalf("%d members had %d turns", len(had), len(children))
	}
	first := slices.IndexFunc(before.Members, func(in dbaas.InstanceView) bool { return in.ID == children[0].ResourceID })
	if role := before.Role(&before.Members[first]); role != datastore.RoleReplica {
		t.Errorf("the first turn was that of a %s", role)
	}
}

func (h *house) requirePlannedUpgrade(t *testing.T, id string) {
	t.Helper()
	asks := tester
	asks.DryRun = &control.Plan{}
	testbed.Eventually(t, time.Minute, func() error { // the members' reports are on their way
		_, err := h.control.UpgradeCluster(t.Context(), asks, id, "valkey-8.0")
		if errors.Is(err, control.ErrDryRun) {
			return nil
		}
		return fmt.Errorf("a dry run ended with %w", err)
	})
	alone := strings.Contains(fmt.Sprint(asks.DryRun.Effects), "have no replica")
	if v := h.clusterView(t, id); v.Task != dbaas.ClusterNone || asks.DryRun.Operation != "upgrade_cluster" || alone != (len(v.Members) == 3) {
		t.Errorf("the plan is %+v, the task %s", asks.DryRun, v.Task)
	}
}
