package taskmanager_test

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// pairTrial is a change of a hot standby guest by guest. What the standby has confirmed must be there afterwards, however it ends.
func pairTrial(child string, change func(ctx context.Context, t *testing.T, h *house, v *dbaas.InstanceView) (string, error),
	check func(t *testing.T, h *house, v *dbaas.InstanceView)) trial {
	var token string
	kept := func(t *testing.T, h *house, v *dbaas.InstanceView) {
		t.Helper()
		requireGuests(t, h, v, 2)
		h.requireOneMaster(t, v)
		if got, err := h.tenant(t, v).Get(t.Context(), "confirmed").Result(); err != nil || got != token {
			t.Errorf("what was confirmed is %q, %v; want %q", got, err, token)
		}
	}
	return trial{heavy: true, every: 4, settles: true, form: "standby", child: child,
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			v := h.awaitProtected(t, in)
			token = uuid.NewString()
			h.confirm(ctx, t, v, token)
			var id string
			testbed.Eventually(t, 60*time.Second, func() (err error) { // a report that was under way may say that the standby is not in step
				id, err = change(ctx, t, h, v)
				return err
			})
			return id
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			kept(t, h, v)
			if check != nil {
				check(t, h, v)
			}
		},
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.Status() != dbaas.StatusActive {
				t.Errorf("the instance is %s", v.Status())
			}
			kept(t, h, v)
			kept(t, h, h.healed(t, v.ID))
		},
	}
}

// confirm writes what the standby confirms.
func (h *house) confirm(ctx context.Context, t *testing.T, v *dbaas.InstanceView, token string) {
	t.Helper()
	c := h.tenant(t, v)
	testbed.Eventually(t, 60*time.Second, func() error {
		if err := c.Set(ctx, "confirmed", token, 0).Err(); err != nil {
			return err
		}
		n, err := c.Wait(ctx, 1, 5*time.Second).Result()
		if err == nil && n < 1 {
			err = errors.New("not confirmed")
		}
		return err
	})
}

func restartPairTrial() trial {
	return pairTrial("restart_instance", func(ctx context.Context, _ *testing.T, h *house, v *dbaas.InstanceView) (string, error) {
		return h.control.RestartInstance(ctx, tester, v.ID)
	}, nil)
}

func resizePairTrial() trial {
	var want string
	tr := pairTrial("resize_flavor", func(ctx context.Context, _ *testing.T, h *house, v *dbaas.InstanceView) (string, error) {
		if want = "2"; v.FlavorID == want {
			want = "1"
		}
		return h.control.ResizeFlavor(ctx, tester, v.ID, want)
	}, func(t *testing.T, h *house, v *dbaas.InstanceView) { h.requireFlavor(t, v, want) })
	failed := tr.failed
	tr.failed = func(t *testing.T, h *house, v *dbaas.InstanceView) {
		failed(t, h, v)
		old := "1"
		if want == old {
			old = "2"
		}
		h.requireFlavor(t, h.view(t, v.ID), old)
	}
	return tr
}

// requireFlavor requires that the rows and each guest's server have a flavor.
func (h *house) requireFlavor(t *testing.T, v *dbaas.InstanceView, want string) {
	t.Helper()
	if v.FlavorID != want || v.Applied.FlavorID != want {
		t.Errorf("flavor is %s (applied %s), want %s", v.FlavorID, v.Applied.FlavorID, want)
	}
	for _, g := range v.Guests {
		server, err := h.local.Server(t.Context(), g.ServerID)
		must(t, err)
		if server.FlavorID != want || server.Status != cloud.ServerActive {
			t.Errorf("the server of guest %s is %s with flavor %s, want %s", g.ID, server.Status, server.FlavorID, want)
		}
	}
}

func rebuildPairTrial() trial {
	tr := pairTrial("rebuild_instance", func(ctx context.Context, _ *testing.T, h *house, v *dbaas.InstanceView) (string, error) {
		return h.control.RebuildInstance(ctx, tester, v.ID)
	}, nil)
	tr.soaks = true
	return tr
}

// TestPairsKeepWhatIsInMemoryAlone changes a pair that keeps nothing on disk: the other guest has the data meanwhile.
func TestPairsKeepWhatIsInMemoryAlone(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	v := h.view(t, h.createStandby(t))
	none := dbaas.PersistenceNone
	h.succeed(t, func() (string, error) {
		return h.control.UpdateInstance(t.Context(), tester, v.ID, control.UpdateInstance{Persistence: &none})
	})
	h.confirm(t.Context(), t, v, "x")
	for name, change := range map[string]func() (string, error){
		"restart": func() (string, error) { return h.control.RestartInstance(t.Context(), tester, v.ID) },
		"resize":  func() (string, error) { return h.control.ResizeFlavor(t.Context(), tester, v.ID, "2") },
		"rebuild": func() (string, error) { return h.control.RebuildInstance(t.Context(), tester, v.ID) },
	} {
		h.healed(t, v.ID)
		after := h.succeed(t, change)
		if got, err := h.tenant(t, after).Get(t.Context(), "confirmed").Result(); err != nil || got != "x" {
			t.Errorf("after %s: %q, %v", name, got, err)
		}
	}
}

// TestRestartOfAPair restarts both databases, each while the other takes the writes.
func TestRestartOfAPair(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	v := h.view(t, h.createStandby(t))
	h.confirm(t.Context(), t, v, "x")
	before := map[string]int{}
	for _, g := range v.Guests {
		before[g.ID] = h.processOf(t, g.ID)
	}
	after := h.succeed(t, func() (string, error) { return h.control.RestartInstance(t.Context(), tester, v.ID) })
	for _, g := range after.Guests {
		if h.processOf(t, g.ID) == before[g.ID] {
			t.Errorf("guest %s was not restarted", g.ID)
		}
	}
	if after.PrimaryGuestID == v.PrimaryGuestID {
		t.Error("the primary is still the same: it was restarted in place")
	}
	if after.Status() != dbaas.StatusActive || after.Fault != nil {
		t.Errorf("the instance is %s, %+v", after.Status(), after.Fault)
	}
}

// upgradePairTrial applies the instance's version anew: another one may not be installed where this runs.
func upgradePairTrial() trial {
	return pairTrial("failover", func(ctx context.Context, _ *testing.T, h *house, v *dbaas.InstanceView) (string, error) {
		return h.control.UpdateInstance(ctx, tester, v.ID, control.UpdateInstance{Version: &v.Version.Name})
	}, nil)
}

// valkeyHouse opens a house whose instances can be brought from Redis 7.0 to Valkey 8.0.
func valkeyHouse(t *testing.T) *house {
	t.Helper()
	if _, err := exec.LookPath("valkey-server"); err != nil {
		t.Skip("valkey-server is not installed")
	}
	h := openHouse(t, "", t.TempDir())
	must(t, h.control.SyncDatastores(t.Context(), func(v datastore.Version) string { return strings.TrimSuffix(v.Number, ".") + ".15" }))
	return h
}

const valkey = "valkey-8.0"

func (h *house) upgrade(t *testing.T, in string) func() (string, error) {
	version := valkey
	return func() (string, error) {
		return h.control.UpdateInstance(t.Context(), tester, in, control.UpdateInstance{Version: &version})
	}
}

// servers tells what each guest's database says that it is.
func (h *house) servers(t *testing.T, v *dbaas.InstanceView) map[string]string {
	t.Helper()
	credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
	must(t, err)
	found := map[string]string{}
	for _, g := range v.Guests {
		c := redis.NewClient(&redis.Options{Addr: g.Address + ":6379", Password: credentials.Password, DisableIdentity: true})
		defer c.Close()
		testbed.Eventually(t, 60*time.Second, func() error {
			info, err := c.Info(t.Context(), "server").Result()
			found[g.ID] = "7.0"
			if strings.Contains(info, "valkey_version:8.0") {
				found[g.ID] = valkey
			}
			return err
		})
	}
	return found
}

func (h *house) requireServers(t *testing.T, v *dbaas.InstanceView, version string) {
	t.Helper()
	if v.Version.Name != version {
		t.Errorf("the instance is of version %s, want %s", v.Version.Name, version)
	}
	for id, is := range h.servers(t, v) {
		if is != version {
			t.Errorf("the server of guest %s is %s, want %s", id, is, version)
		}
	}
}

// TestUpgradeOfAPair brings both databases to another version, each while the other takes the writes; and a replica with them.
func TestUpgradeOfAPair(t *testing.T) {
	t.Parallel()
	h := valkeyHouse(t)
	v := h.view(t, h.createStandby(t))
	h.confirm(t.Context(), t, v, "x")
	after := h.succeed(t, h.upgrade(t, v.ID))
	h.requireServers(t, after, valkey)
	if got, err := h.tenant(t, after).Get(t.Context(), "confirmed").Result(); err != nil || got != "x" {
		t.Errorf("what was there is %q, %v", got, err)
	}
	if after.PrimaryGuestID == v.PrimaryGuestID {
		t.Error("the primary is still the same: it was upgraded in place")
	}
}

// TestUpgradeOfAPairThatIsFailedOver kills the primary once the standby is of the new version: the upgrade goes on with the
// old primary.
func TestUpgradeOfAPairThatIsFailedOver(t *testing.T) {
	t.Parallel()
	h := valkeyHouse(t)
	v := h.view(t, h.createStandby(t))
	h.confirm(t.Context(), t, v, "x")
	var once sync.Once
	stop := h.run(t, func(at engine.Point, op *engine.Operation) {
		if at == engine.BeforeStep && op.Kind == "upgrade_pair" && op.Step == "handOver" {
			once.Do(func() { h.kill(v.PrimaryGuestID) })
		}
	})
	defer stop()
	if op := h.awaitEnd(t, mustID(t)(h.upgrade(t, v.ID)())); op.Status != dbaas.OperationSucceeded {
		t.Errorf("the upgrade %s: %+v", op.Status, op.Failure)
	}
	after := h.awaitProtected(t, v.ID)
	h.requireServers(t, after, valkey)
	if got, err := h.tenant(t, after).Get(t.Context(), "confirmed").Result(); err != nil || got != "x" {
		t.Errorf("what was there is %q, %v", got, err)
	}
}

// TestUpgradeOfAPairThatFails ends an upgrade before (its failover looks at the pair again) and after the standby has taken over: the
// instance is of one version then, its primary's, and the standby of the other one is replaced.
func TestUpgradeOfAPairThatFails(t *testing.T) {
	t.Parallel()
	h := valkeyHouse(t)
	v := h.view(t, h.createStandby(t))
	h.confirm(t.Context(), t, v, "x")
	for _, at := range []struct{ step, version string }{{"confirm", "7.0"}, {"upgradeOldPrimary", valkey}} {
		before := h.view(t, v.ID)
		h.during(t, at.step, nil, h.upgrade(t, v.ID))
		after := h.healed(t, v.ID)
		h.requireServers(t, after, at.version)
		if got, err := h.tenant(t, after).Get(t.Context(), "confirmed").Result(); err != nil || got != "x" {
			t.Errorf("what was there is %q, %v", got, err)
		}
		replaced := 0
		for _, g := range after.Guests {
			if !slices.ContainsFunc(before.Guests, func(b dbaas.Guest) bool { return b.ID == g.ID }) {
				replaced++
			}
		}
		if replaced != 1 {
			t.Errorf("failed at %s: %d guests were replaced, want the standby", at.step, replaced)
		}
	}
}
