package taskmanager_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
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
	return trial{heavy: true, every: 3, settles: true, form: "standby", child: child,
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			v := h.awaitProtected(t, in)
			token = uuid.NewString()
			h.confirm(ctx, t, v, token)
			return mustID(t)(change(ctx, t, h, v))
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
