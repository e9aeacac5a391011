package taskmanager_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestUpgradeKeepsTheData goes from Redis 7.0 to Valkey 8.0; back is refused, and so is what is not installed.
func TestUpgradeKeepsTheData(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("valkey-server"); err != nil {
		t.Skip("valkey-server is not installed")
	}
	h := openHouse(t, "", t.TempDir())
	must(t, h.control.SyncDatastores(t.Context(), func(v datastore.Version) string { return strings.TrimSuffix(v.Number, ".") + ".15" }))
	in := h.createActive(t)
	h.requireServing(t, h.view(t, in))
	to := func(version string) func() (string, error) {
		return func() (string, error) {
			return h.control.UpdateInstance(t.Context(), tester, in, control.UpdateInstance{Version: &version})
		}
	}
	v := h.succeed(t, to("valkey-8.0"))
	h.requireData(t, v)
	if v.Version.Name != "valkey-8.0" || v.Fault != nil || v.Status() != dbaas.StatusActive {
		t.Errorf("after the upgrade the instance is %s of version %s with the fault %v", v.Status(), v.Version.Name, v.Fault)
	}
	if _, err := to("7.0")(); dbaas.ErrorCode(err) != dbaas.BadRequest || !strings.Contains(err.Error(), "cannot be made version 7.0") {
		t.Errorf("the way back is refused with %v", err)
	}
	h.requireData(t, h.succeed(t, to("valkey-8.0")))
}

// TestUpgradeOfASet brings a master and its replica to another version, and they go on together.
func TestUpgradeOfASet(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("valkey-server"); err != nil {
		t.Skip("valkey-server is not installed")
	}
	h := openHouse(t, "", t.TempDir())
	must(t, h.control.SyncDatastores(t.Context(), func(v datastore.Version) string { return strings.TrimSuffix(v.Number, ".") + ".15" }))
	source := h.view(t, forms()["replication"](h, t))
	if source.ReplicaOf != "" {
		source = h.view(t, source.ReplicaOf)
	}
	h.requireServing(t, source)
	version := "valkey-8.0"
	v := h.succeed(t, func() (string, error) {
		return h.control.UpdateInstance(t.Context(), tester, source.ID, control.UpdateInstance{Version: &version})
	})
	h.requireData(t, v)
	if len(v.Replicas) == 0 {
		t.Error("the source has no replicas any more")
	}
	for _, id := range append([]string{v.ID}, v.Replicas...) {
		if one := h.view(t, id); one.Version.Name != version || one.Status() != dbaas.StatusActive {
			t.Errorf("instance %s is %s of version %s", id, one.Status(), one.Version.Name)
		}
	}
	credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
	must(t, err)
	for _, id := range v.Replicas {
		client := redis.NewClient(&redis.Options{Addr: h.view(t, id).Addresses[0].Address + ":6379", Password: credentials.Password, DisableIdentity: true})
		defer client.Close()
		testbed.Eventually(t, 30*time.Second, func() error { return client.Get(t.Context(), "k").Err() }) // once it has caught up
	}
}
