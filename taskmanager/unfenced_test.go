package taskmanager_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// unheard is a transport that some agents are not reached by.
type unheard struct {
	rpc.Transport
	topics sync.Map
}

func (u *unheard) Call(ctx context.Context, m *rpc.Envelope, result any) error {
	if _, cut := u.topics.Load(m.Topic); cut {
		<-ctx.Done()
		return dbaas.WrapError(ctx.Err(), dbaas.Unavailable, "No answer to %s came in time.", m.Method)
	}
	return u.Transport.Call(ctx, m, result)
}

// strongCloud cuts no server's power while it is deaf.
type strongCloud struct {
	cloud.Provider
	deaf  atomic.Bool
	asked atomic.Int32
}

func (c *strongCloud) PowerOffServer(ctx context.Context, id string) error {
	if c.deaf.Load() {
		c.asked.Add(1)
		return dbaas.Errorf(dbaas.Unavailable, "The hypervisor does not answer.")
	}
	return c.Provider.PowerOffServer(ctx, id)
}

// unfenced is a hot standby whose primary is suspended, its agent out of reach, and its power not to be cut: it may go on at
// any time.
type unfenced struct {
	*house
	t      *testing.T
	before *dbaas.InstanceView
	client *redis.Client
	pid    int
	power  *strongCloud
}

func leaveUnfenced(t *testing.T, class *dbaas.HighAvailability) *unfenced {
	t.Helper()
	h := openHouse(t, "", t.TempDir())
	u := &unfenced{house: h, t: t, power: &strongCloud{Provider: h.cloud}}
	u.before, u.client = h.standbyOf(t, class, dbaas.PersistenceAOF)
	h.cloud, h.unheard = u.power, &unheard{}
	u.power.deaf.Store(true)
	u.pid = h.processOf(t, u.before.PrimaryGuestID)
	for _, g := range u.before.Guests {
		if g.ID == u.before.PrimaryGuestID {
			h.unheard.topics.Store(rpc.GuestTopic(g.Queue), true)
		}
	}
	stop := h.run(t, nil)
	t.Cleanup(stop)
	must(t, syscall.Kill(u.pid, syscall.SIGSTOP))
	testbed.Eventually(t, 60*time.Second, func() error {
		if u.power.asked.Load() == 0 {
			return errors.New("nobody asked the cloud to cut the primary's power")
		}
		return nil
	})
	return u
}

// heal brings the agent and the cloud back.
func (u *unfenced) heal() {
	u.power.deaf.Store(false)
	u.unheard.topics.Clear()
}

// of reaches the database of one guest by its own address.
func (u *unfenced) of(primary bool) *redis.Client {
	u.t.Helper()
	for _, g := range u.before.Guests {
		if (g.ID == u.before.PrimaryGuestID) == primary {
			o := *u.client.Options()
			o.Addr = g.Address + ":6379"
			c := redis.NewClient(&o)
			u.t.Cleanup(func() { _ = c.Close() })
			return c
		}
	}
	u.t.Fatal("the guest is missing")
	return nil
}

func (u *unfenced) requireValues(want map[string]string) {
	u.t.Helper()
	for key, value := range want {
		testbed.Eventually(u.t, 60*time.Second, func() error {
			if got, err := u.client.Get(u.t.Context(), key).Result(); err != nil || got != value {
				return fmt.Errorf("%s is %q, %v; want %q", key, got, err, value)
			}
			return nil
		})
	}
}

// TestUnfencedBounded: while the old primary may go on, the bounded class has nobody take over; what it confirms when it does
// go on is there after the failover, which comes about when its power can be cut.
func TestUnfencedBounded(t *testing.T) {
	t.Parallel()
	u := leaveUnfenced(t, &dbaas.HighAvailability{Durability: dbaas.DurabilityBounded})
	op, standby, begun := u.newestOperation(t, "failover"), u.of(false), time.Now()
	testbed.Eventually(t, 60*time.Second, func() error {
		if err := standby.Set(t.Context(), "split", 1, 0).Err(); err == nil || !strings.HasPrefix(err.Error(), "READONLY") {
			t.Errorf("the standby answers a write with %v", err)
		}
		if now := u.view(t, u.before.ID).PrimaryGuestID; now != u.before.PrimaryGuestID {
			t.Errorf("the primary is %s without a fence", now)
		}
		var step, progress string
		u.sql(t, "SELECT step, progress FROM operations WHERE id = '"+op+"'", &step, &progress)
		if step != "fence" || !strings.Contains(progress, "in the bounded class nothing is switched") || time.Since(begun) < 13*time.Second { // the other class has gone on by then
			return fmt.Errorf("step %s, %q", step, progress)
		}
		return nil
	})
	must(t, syscall.Kill(u.pid, syscall.SIGCONT))
	testbed.Eventually(t, 60*time.Second, func() error {
		if err := u.client.Set(t.Context(), "late", "confirmed", 0).Err(); err != nil {
			return err
		}
		if n, err := u.client.Wait(t.Context(), 1, 500*time.Millisecond).Result(); n != 1 || err != nil {
			return fmt.Errorf("%d replicas have the write, %v", n, err)
		}
		return nil
	})
	u.heal()
	if ended := u.awaitEnd(t, op); ended.Status != dbaas.OperationSucceeded {
		t.Errorf("the failover ended %s: %+v", ended.Status, ended.Failure)
	}
	u.requireValues(map[string]string{"before": "kept", "late": "confirmed"})
	now := u.awaitProtected(t, u.before.ID)
	if now.PrimaryGuestID == u.before.PrimaryGuestID {
		t.Error("nobody took over")
	}
	u.requireOneMaster(t, now)
}

// TestUnfencedAsync: the asynchronous class goes on after 10 s, and says that nobody fenced the old primary. That may go on
// and take writes of who is beside it, but none that is confirmed, none through the address; and it ends as the standby.
func TestUnfencedAsync(t *testing.T) {
	t.Parallel()
	u := leaveUnfenced(t, async())
	begun := time.Now()
	op := u.newestOperation(t, "failover")
	testbed.Eventually(t, 60*time.Second, func() error {
		var status string
		if u.sql(t, "SELECT status FROM operations WHERE id = '"+op+"'", &status); status != string(dbaas.OperationSucceeded) {
			return fmt.Errorf("the failover is %s", status)
		}
		return nil
	})
	if took := time.Since(begun); took < 9*time.Second {
		t.Errorf("it went on without a fence after %s", took)
	}
	if by := u.fencedBy(); by != "nobody" {
		t.Errorf("the old primary was fenced by %q", by)
	}
	testbed.Eventually(t, 60*time.Second, func() error { return u.client.Set(t.Context(), "after", "new", 0).Err() })
	must(t, syscall.Kill(u.pid, syscall.SIGCONT))
	old := u.of(true)
	testbed.Eventually(t, 60*time.Second, func() error { return old.Ping(t.Context()).Err() })
	if err := old.Set(t.Context(), "after", "old", 0).Err(); err == nil {
		if n, err := old.Wait(t.Context(), 1, time.Second/2).Result(); n != 0 || err != nil {
			t.Errorf("%d replicas confirm what the old primary took, %v", n, err)
		}
	}
	u.requireValues(map[string]string{"before": "kept", "after": "new"})
	u.heal()
	now := u.awaitProtected(t, u.before.ID)
	u.requireOneMaster(t, now)
	u.requireValues(map[string]string{"before": "kept", "after": "new"})
	if got, err := old.Get(t.Context(), "after").Result(); now.PrimaryGuestID == u.before.PrimaryGuestID || err == nil && got != "new" {
		t.Errorf("the primary is %s, was %s; the old one says %q, %v", now.PrimaryGuestID, u.before.PrimaryGuestID, got, err)
	}
}

// fencedBy reads the report of the failover.
func (u *unfenced) fencedBy() string {
	u.t.Helper()
	events, _, err := u.store.ListEvents(u.t.Context(), store.EventFilter{ResourceID: u.before.ID})
	must(u.t, err)
	for _, e := range events {
		if e.Kind == "instance.failover" {
			var report struct{ Fenced string }
			must(u.t, json.Unmarshal(e.After, &report))
			return report.Fenced
		}
	}
	return ""
}
