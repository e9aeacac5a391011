package taskmanager_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// TestUpgradeKeepsTheData goes from Redis 7.0 to Valkey 8.0; back is refused, and so is what is not installed.
func TestUpgradeKeepsTheData(t *testing.T) {
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
	if _, err := to("7.0")(); dbaas.ErrorCode(err) != dbaas.BadRequest || !strings.Contains(err.Error(), "possible are: none") {
		t.Errorf("the way back is refused with %v", err)
	}
	h.requireData(t, h.succeed(t, to("valkey-8.0")))
}
