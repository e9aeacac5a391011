package taskmanager_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func async() *dbaas.HighAvailability {
	return &dbaas.HighAvailability{Durability: dbaas.DurabilityAsync}
}

// createStandby makes a protected hot standby.
func (h *house) createStandby(t *testing.T) string {
	t.Helper()
	defer h.run(t, nil)()
	created, err := h.control.CreateInstance(t.Context(), tester, control.CreateInstance{
		Name: "pair", FlavorID: "1", VolumeSize: 1, HighAvailability: async()})
	must(t, err)
	if op := h.awaitEnd(t, created.OperationID); op.Status != dbaas.OperationSucceeded {
		t.Fatalf("create: %s %+v", op.Status, op.Failure)
	}
	h.tellAfterFailure(t, created.View.ID)
	h.awaitProtected(t, created.View.ID)
	return created.View.ID
}

// awaitProtected waits until a hot standby is as it should be, and nothing is done to it.
func (h *house) awaitProtected(t *testing.T, in string) *dbaas.InstanceView {
	t.Helper()
	var v *dbaas.InstanceView
	testbed.Eventually(t, 90*time.Second, func() (err error) {
		if v, err = h.control.Instance(t.Context(), tester, in); err != nil {
			return err
		}
		var running int
		h.sql(t, "SELECT COUNT(*) FROM operations WHERE ended_at = 0 AND resource_id = '"+in+"'", &running)
		p := h.control.Protection(v)
		if p == nil || p.State != control.Protected || v.Status() != dbaas.StatusActive || running > 0 {
			return fmt.Errorf("status %s, %d operations, protection %+v, standby %+v", v.Status(), running, p, p.Standby)
		}
		return nil
	})
	return v
}

func (h *house) availability(ctx context.Context, t *testing.T, in string, wish *dbaas.HighAvailability) string {
	t.Helper()
	return mustID(t)(h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{Availability: &control.ChangeAvailability{Wish: wish}}))
}

func addGuestTrial() trial {
	return trial{heavy: true, every: 4, spends: true,
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			return h.availability(ctx, t, in, async())
		},
		check:  func(t *testing.T, h *house, v *dbaas.InstanceView) { requireGuests(t, h, v, 2) },
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) { requireGuests(t, h, v, 1) },
	}
}

func removeGuestTrial() trial {
	return trial{heavy: true, every: 3, spends: true, form: "standby",
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			return h.availability(ctx, t, in, nil)
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) { requireGuests(t, h, v, 1) },
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			h.requireServing(t, v)
			requireGuests(t, h, h.healed(t, v.ID), 2)
		},
	}
}

// healed has the watch at work until a hot standby whose operation failed is protected again.
func (h *house) healed(t *testing.T, in string) *dbaas.InstanceView {
	t.Helper()
	defer h.run(t, nil)()
	h.sql(t, "UPDATE operations SET created_at = 1 WHERE kind = 'repair_standby' AND ended_at > 0") // the last repair was another day
	testbed.Eventually(t, 90*time.Second, func() error {                                            // what is stored of a lost one may say for a while that it is well
		for _, g := range h.view(t, in).Guests {
			if _, err := h.local.Server(t.Context(), g.ServerID); err != nil {
				return err
			}
			if findProcess(g.ID) == 0 {
				return fmt.Errorf("guest %s has no database process", g.ID)
			}
		}
		return nil
	})
	return h.awaitProtected(t, in)
}

func requireGuests(t *testing.T, h *house, v *dbaas.InstanceView, n int) {
	t.Helper()
	if len(v.Guests) != n || (v.HighAvailability != nil) != (n == 2) {
		t.Errorf("%d guests and high_availability %v, want %d", len(v.Guests), v.HighAvailability, n)
	}
	h.requireServing(t, v)
}

func changeAvailabilityTrial() trial {
	want := &dbaas.HighAvailability{Durability: dbaas.DurabilityBounded, WhenDegraded: dbaas.DegradedAccept}
	return trial{heavy: true, form: "standby",
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			v, err := h.control.Instance(ctx, tester, in)
			must(t, err)
			if want = async(); v.HighAvailability.Durability == dbaas.DurabilityAsync {
				want = &dbaas.HighAvailability{Durability: dbaas.DurabilityBounded, WhenDegraded: dbaas.DegradedAccept}
			}
			return h.availability(ctx, t, in, want)
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if *v.HighAvailability != *want {
				t.Errorf("high_availability is %v, want %v", v.HighAvailability, want)
			}
			h.requireServing(t, v)
		},
	}
}

// failoverTrial is a planned failover and a drill in turn. What the standby has confirmed must be there afterwards.
func failoverTrial() trial {
	var before, token string
	kept := func(t *testing.T, h *house, v *dbaas.InstanceView) {
		t.Helper()
		h.requireServing(t, v)
		h.requireOneMaster(t, v)
		if got, err := h.tenant(t, v).Get(t.Context(), "confirmed").Result(); err != nil || got != token {
			t.Errorf("what was confirmed is %q, %v; want %q", got, err, token)
		}
	}
	return trial{heavy: true, varies: true, settles: true, form: "standby",
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			v := h.awaitProtected(t, in)
			before, token = v.PrimaryGuestID, uuid.NewString()
			h.confirm(ctx, t, v, token)
			return h.failOver(ctx, t, in, h.turn(t, "failover")%2 == 1)
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.PrimaryGuestID == before {
				t.Error("the primary is still the one that was failed over")
			}
			kept(t, h, v)
		},
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			kept(t, h, v)
			kept(t, h, h.healed(t, v.ID))
		},
	}
}

// failOver asks for a failover until none of a report that was under way says any more that the standby is not in step.
func (h *house) failOver(ctx context.Context, t *testing.T, in string, drill bool) (id string) {
	t.Helper()
	testbed.Eventually(t, 60*time.Second, func() (err error) {
		id, err = h.control.FailOver(ctx, tester, in, drill)
		return err
	})
	return id
}

// turn counts how often a trial has begun in this house, by whatever process.
func (h *house) turn(t *testing.T, kind string) int {
	t.Helper()
	path := filepath.Join(h.dir, "turn."+kind)
	text, _ := os.ReadFile(path)
	must(t, os.WriteFile(path, append(text, '.'), 0o600))
	return len(text)
}

func (h *house) count(t *testing.T, kind string) (n int) {
	t.Helper()
	h.sql(t, "SELECT COUNT(*) FROM operations WHERE kind = '"+kind+"'", &n)
	return n
}

// requireOneMaster asks the databases of an instance's guests: one at most takes writes, of those that run.
func (h *house) requireOneMaster(t *testing.T, v *dbaas.InstanceView) {
	t.Helper()
	credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
	must(t, err)
	masters := 0
	for _, g := range v.Guests {
		c := redis.NewClient(&redis.Options{Addr: g.Address + ":6379", Password: credentials.Password, DisableIdentity: true, MaxRetries: -1})
		err := c.Set(t.Context(), "mine", g.ID, 0).Err()
		must(t, c.Close())
		if err == nil {
			masters++
		}
	}
	if masters > 1 {
		t.Errorf("%d guests take writes", masters)
	}
}

// repairTrial is the replacement of a standby whose server is gone, and the return of an old primary after a drill, in turn.
func repairTrial() trial {
	return trial{heavy: true, every: 4, varies: true, settles: true, unasked: true, form: "standby",
		begin: func(ctx context.Context, t *testing.T, h *house, in string) (id string) {
			v := h.awaitProtected(t, in)
			if h.turn(t, "repair_standby")%2 == 0 {
				return h.loseStandby(ctx, t, v)
			}
			count := h.count(t, "repair_standby")
			h.failOver(ctx, t, in, true)
			testbed.Eventually(t, 60*time.Second, func() error {
				if h.count(t, "repair_standby") == count {
					return errors.New("no repair was begun")
				}
				return nil
			})
			return h.newestOperation(t, "repair_standby")
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) { requireGuests(t, h, v, 2) },
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			h.requireServing(t, v)
			requireGuests(t, h, h.healed(t, v.ID), 2)
		},
	}
}

// loseStandby deletes the standby's server behind Grove's back, and begins the repair that the watch would begin later.
func (h *house) loseStandby(ctx context.Context, t *testing.T, v *dbaas.InstanceView) string {
	t.Helper()
	standby := v.Guests[0]
	if standby.ID == v.PrimaryGuestID {
		standby = v.Guests[1]
	}
	must(t, h.local.DeleteServer(ctx, standby.ServerID))
	op := &dbaas.Operation{
		Kind: "repair_standby", ProjectID: v.ProjectID, ResourceType: "instance", ResourceID: v.ID, GroupID: v.GroupID,
		State: dbaas.JSON(`{"standby_id":"` + standby.ID + `"}`), Actor: "watch",
	}
	must(t, h.store.Tx(ctx, func(tx *store.Tx) error { return tx.Enqueue(op, v.GroupID, v.ID) }))
	return op.ID
}

// processOf finds the database's process of a guest.
func (h *house) processOf(t *testing.T, guestID string) int {
	t.Helper()
	pid := findProcess(guestID)
	if pid == 0 {
		t.Fatalf("guest %s has no database process", guestID)
	}
	return pid
}

// processesOf finds those of a hot standby.
func (h *house) processesOf(t *testing.T, v *dbaas.InstanceView) (primary, standby int) {
	t.Helper()
	for _, g := range v.Guests {
		if g.ID == v.PrimaryGuestID {
			primary = h.processOf(t, g.ID)
		} else {
			standby = h.processOf(t, g.ID)
		}
	}
	return primary, standby
}

// findProcess finds the database's process of a guest, 0 when there is none.
func findProcess(guestID string) int {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil || !strings.Contains(string(text), "redis-server") && !strings.Contains(string(text), "valkey-server") {
			continue
		}
		dir := filepath.Dir(p)
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		if strings.Contains(string(text), guestID) || strings.Contains(cwd, guestID) {
			if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
				return pid
			}
		}
	}
	return 0
}

// tellAfterFailure writes down what was done and told, should the test fail.
func (h *house) tellAfterFailure(t *testing.T, in string) {
	t.Cleanup(func() {
		if !t.Failed() || h.store == nil {
			return
		}
		operations, _, err := h.store.ListOperations(context.Background(), store.OperationFilter{ResourceID: in})
		t.Log("operations:", err)
		for _, op := range operations {
			t.Logf("%s %s %s step %s, %s, %+v %s", op.CreatedAt.Time().Format(time.StampMilli), op.Kind, op.Status, op.Step, op.Progress, op.Failure, op.State)
		}
		events, _, err := h.store.ListEvents(context.Background(), store.EventFilter{ResourceID: in, Limit: 20})
		t.Log("events:", err)
		for _, e := range events {
			t.Logf("%s %s %s", e.CreatedAt.Time().Format(time.StampMilli), e.Kind, e.Message)
		}
		if v, err := h.control.Instance(context.Background(), tester, in); err == nil {
			for _, g := range v.Guests {
				t.Logf("guest %s %s %s peers %s observed %s", g.ID, g.Status, g.StatusCause, g.Peers, g.Observed)
			}
		}
	})
}

func (h *house) tenant(t *testing.T, v *dbaas.InstanceView) *redis.Client {
	t.Helper()
	credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
	must(t, err)
	c := redis.NewClient(&redis.Options{Addr: v.Addresses[0].Address + ":6379", Password: credentials.Password,
		DisableIdentity: true, MaxRetries: -1, DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestDeadPrimaryIsFailedOver kills, suspends and cuts the power of primaries in turn: each time the same address takes
// writes again, what was there before is there, and the standby is repaired.
func TestDeadPrimaryIsFailedOver(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createStandby(t)
	defer h.run(t, nil)()
	for name, fail := range map[string]func(v *dbaas.InstanceView){
		"killed": func(v *dbaas.InstanceView) {
			must(t, syscall.Kill(h.processOf(t, v.PrimaryGuestID), syscall.SIGKILL))
		},
		"suspended": func(v *dbaas.InstanceView) {
			must(t, syscall.Kill(h.processOf(t, v.PrimaryGuestID), syscall.SIGSTOP))
		},
		"off": func(v *dbaas.InstanceView) {
			must(t, h.local.PowerOffServer(t.Context(), v.Guests[0].ServerID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := h.awaitProtected(t, in)
			c := h.tenant(t, v)
			must(t, c.Set(t.Context(), "before", name, 0).Err())
			must(t, c.Wait(t.Context(), 1, 5*time.Second).Err())
			begun := time.Now()
			fail(v)
			testbed.Eventually(t, 25*time.Second, func() error { return c.Set(t.Context(), "after", name, 0).Err() })
			t.Logf("%s: writes again after %s", name, time.Since(begun).Round(time.Millisecond))
			if got, err := c.Get(t.Context(), "before").Result(); err != nil || got != name {
				t.Errorf("what was written before is %q, %v", got, err)
			}
			now := h.awaitProtected(t, in)
			if now.PrimaryGuestID == v.PrimaryGuestID || now.Addresses[0] != v.Addresses[0] {
				t.Errorf("primary %s then %s, address %v then %v", v.PrimaryGuestID, now.PrimaryGuestID, v.Addresses, now.Addresses)
			}
			h.requireReport(t, in)
			h.sql(t, "UPDATE operations SET created_at = 0 WHERE kind = 'failover'") // the next failure is another day
		})
	}
}

// requireReport looks for the last failover's event with its timeline.
func (h *house) requireReport(t *testing.T, in string) {
	t.Helper()
	events, _, err := h.store.ListEvents(t.Context(), store.EventFilter{ResourceID: in})
	must(t, err)
	for _, e := range events {
		if e.Kind != "instance.failover" {
			continue
		}
		var report struct {
			Fenced     string
			DetectedAt int64 `json:"detected_at"`
			Published  int64 `json:"published_ms"`
			Loss       string
		}
		must(t, json.Unmarshal(e.After, &report))
		if report.Fenced == "" || report.DetectedAt == 0 || report.Published == 0 || !strings.Contains(report.Loss, "old") {
			t.Errorf("the report lacks something: %s", e.After)
		}
		t.Log(report.Loss)
		return
	}
	t.Error("there is no event instance.failover")
}

// TestPlannedFailoverLosesNothing lets a client count up through a planned failover: every confirmed write is there.
func TestPlannedFailoverLosesNothing(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createStandby(t)
	defer h.run(t, nil)()
	v := h.awaitProtected(t, in)
	c := h.tenant(t, v)
	confirmed, stop, done := int64(0), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, err := c.Incr(context.Background(), "n").Result(); err == nil {
				confirmed = n
			}
		}
	}()
	op := h.awaitEnd(t, mustID(t)(h.control.FailOver(t.Context(), tester, in, false)))
	if op.Status != dbaas.OperationSucceeded {
		t.Errorf("failover: %s %+v", op.Status, op.Failure)
	}
	now := h.awaitProtected(t, in)
	close(stop)
	<-done
	if got, err := c.Get(t.Context(), "n").Int64(); err != nil || got < confirmed {
		t.Errorf("the count is %d, %v; %d was confirmed", got, err, confirmed)
	}
	if now.PrimaryGuestID == v.PrimaryGuestID {
		t.Error("the primary did not change")
	}
}

// TestTwoWatchersActOnce has two taskmanagers see the same failure: there is one failover.
func TestTwoWatchersActOnce(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createStandby(t)
	defer h.run(t, nil)()
	defer h.run(t, nil)()
	v := h.awaitProtected(t, in)
	must(t, syscall.Kill(h.processOf(t, v.PrimaryGuestID), syscall.SIGKILL))
	testbed.Eventually(t, 25*time.Second, func() error {
		now, err := h.control.Instance(t.Context(), tester, in)
		if err == nil && now.PrimaryGuestID == v.PrimaryGuestID {
			err = errors.New("not failed over yet")
		}
		return err
	})
	h.awaitProtected(t, in)
	var failovers int
	h.sql(t, "SELECT COUNT(*) FROM operations WHERE kind = 'failover'", &failovers)
	if failovers != 1 {
		t.Errorf("%d failovers", failovers)
	}
}

// TestLostStandbyIsReplaced deletes the standby's server behind Grove's back: another guest takes its place.
func TestLostStandbyIsReplaced(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createStandby(t)
	defer h.run(t, nil)()
	v := h.awaitProtected(t, in)
	must(t, h.local.DeleteServer(t.Context(), v.Guests[1].ServerID))
	testbed.Eventually(t, 90*time.Second, func() error {
		now, err := h.control.Instance(t.Context(), tester, in)
		if err == nil && (len(now.Guests) != 2 || now.Guests[1].ID == v.Guests[1].ID) {
			err = errors.New("not replaced yet")
		}
		return err
	})
	now := h.awaitProtected(t, in)
	if now.PrimaryGuestID != v.PrimaryGuestID {
		t.Error("the primary changed")
	}
	h.audit(t, h.newestOperation(t, "repair_standby"))
	h.requireServing(t, now)
}

// once makes an observer that does a deed the first time that a step of a kind begins.
func once(kind, step string, deed func(op *engine.Operation)) func(engine.Point, *engine.Operation) {
	var first sync.Once
	return func(at engine.Point, op *engine.Operation) {
		if at == engine.BeforeStep && op.Kind == kind && op.Step == step && op.Status == dbaas.OperationRunning {
			first.Do(func() { deed(op) })
		}
	}
}
