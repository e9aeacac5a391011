package taskmanager_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// persistenceTrial goes back and forth between snapshots and the append-only file.
func persistenceTrial() trial {
	var want dbaas.Persistence
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			if want = dbaas.PersistenceRDB; h.view(t, in).Persistence == want {
				want = dbaas.PersistenceAOF
			}
			return mustID(t)(h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{Persistence: &want}))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.Persistence != want {
				t.Errorf("persistence is %q, want %q", v.Persistence, want)
			}
			h.requireServing(t, v)
		},
	}
}

func profileTrial() trial {
	var want string
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			if want = "cache"; h.view(t, in).Profile == want {
				want = "queue"
			}
			return mustID(t)(h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{Profile: &want}))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.Profile != want {
				t.Errorf("the profile is %q, want %q", v.Profile, want)
			}
			h.requireServing(t, v)
		},
	}
}

// upgradeTrial applies the instance's version anew: another one may not be installed where this runs.
func upgradeTrial() trial {
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			v := h.view(t, in)
			return mustID(t)(h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{Version: &v.Version.Name}))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) { h.requireServing(t, v) },
	}
}

// rebuildTrial expects what was written before.
func rebuildTrial() trial {
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			h.requireServing(t, h.view(t, in))
			return mustID(t)(h.control.RebuildInstance(ctx, tester, in))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) { h.requireData(t, v) },
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) { // it may stand half way: another rebuild brings it back
			if v.Status() != dbaas.StatusActive || v.Fault == nil {
				t.Errorf("after a failed rebuild the instance is %s with the fault %v", v.Status(), v.Fault)
			}
			h.requireData(t, h.succeed(t, func() (string, error) { return h.control.RebuildInstance(t.Context(), tester, v.ID) }))
		},
	}
}

// requireData requires that what requireServing wrote is there.
func (h *house) requireData(t *testing.T, v *dbaas.InstanceView) {
	t.Helper()
	credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
	must(t, err)
	client := redis.NewClient(&redis.Options{Addr: v.Addresses[0].Address + ":6379", Password: credentials.Password, DisableIdentity: true})
	defer client.Close()
	if got, err := client.Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Errorf("the data is %q, %v", got, err)
	}
}
