package taskmanager_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// requireKept waits until the address takes writes, and looks for what was written before.
func (h *house) requireKept(t *testing.T, c *redis.Client) {
	t.Helper()
	testbed.Eventually(t, 120*time.Second, func() error { return c.Set(t.Context(), "after", 1, 0).Err() })
	if got, err := c.Get(t.Context(), "before").Result(); err != nil || got != "kept" {
		t.Errorf("what was written before is %q, %v", got, err)
	}
}

// standbyWith makes a protected hot standby in which something is written and confirmed.
func (h *house) standbyWith(t *testing.T, persistence dbaas.Persistence) (*dbaas.InstanceView, *redis.Client) {
	t.Helper()
	return h.standbyOf(t, async(), persistence)
}

func (h *house) standbyOf(t *testing.T, class *dbaas.HighAvailability, persistence dbaas.Persistence) (*dbaas.InstanceView, *redis.Client) {
	t.Helper()
	stop := h.run(t, nil)
	created, err := h.control.CreateInstance(t.Context(), tester, control.CreateInstance{
		Name: "pair", FlavorID: "1", VolumeSize: 1, HighAvailability: class, Persistence: persistence})
	must(t, err)
	h.awaitEnd(t, created.OperationID)
	v := h.awaitProtected(t, created.View.ID)
	h.tellAfterFailure(t, v.ID)
	stop()
	c := h.tenant(t, v)
	must(t, c.Set(t.Context(), "before", "kept", 0).Err())
	if n, err := c.Wait(t.Context(), 1, 30*time.Second).Result(); n != 1 || err != nil {
		t.Fatalf("%d replicas have the write, %v", n, err)
	}
	return v, c
}

// TestCancelledDrillKeepsData cancels a drill when the primary is stopped, and has nothing on its disk: the standby takes
// over all the same.
func TestCancelledDrillKeepsData(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	v, c := h.standbyWith(t, dbaas.PersistenceNone)
	defer h.run(t, once("failover", "choose", func(op *engine.Operation) {
		_ = h.store.Tx(context.Background(), func(tx *store.Tx) error { return tx.CancelOperation(op.ID) })
	}))()
	op := h.awaitEnd(t, h.failOver(t.Context(), t, v.ID, true))
	if op.Status != dbaas.OperationCancelled || op.Failure == nil {
		t.Errorf("the drill ended %s: %+v", op.Status, op.Failure)
	}
	h.requireKept(t, c)
	h.awaitProtected(t, v.ID)
}

// TestBothDie ends both databases of a hot standby that keeps nothing on disk: nobody has any data, and it serves again.
func TestBothDie(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	v, c := h.standbyWith(t, dbaas.PersistenceNone)
	defer h.run(t, nil)()
	for _, g := range v.Guests {
		must(t, syscall.Kill(h.processOf(t, g.ID), syscall.SIGKILL))
	}
	testbed.Eventually(t, 120*time.Second, func() error { return c.Set(t.Context(), "after", 1, 0).Err() })
	h.awaitProtected(t, v.ID)
	if err := c.Get(t.Context(), "after").Err(); err != nil {
		t.Errorf("what was written since is lost: %v", err)
	}
}

// TestStandbyThatComesLate suspends the standby of a primary that dies with nothing on its disk: that one is to be started
// again, and is not while the standby may have its data. The standby goes on, and takes over.
func TestStandbyThatComesLate(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	v, c := h.standbyWith(t, dbaas.PersistenceNone)
	primary, standby := h.processesOf(t, v)
	defer h.run(t, once("failover", "promote", func(*engine.Operation) { _ = syscall.Kill(standby, syscall.SIGCONT) }))()
	must(t, syscall.Kill(standby, syscall.SIGSTOP))
	must(t, syscall.Kill(primary, syscall.SIGKILL))
	h.requireKept(t, c)
	if now := h.awaitProtected(t, v.ID); now.PrimaryGuestID == v.PrimaryGuestID {
		t.Error("the dead primary was started again")
	}
}

// TestSlowStandby suspends the standby of a primary that dies, for longer than it takes to start that again: with snapshots alone
// it is waited for, for the primary has forgotten what the standby has.
func TestSlowStandby(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	v, c := h.standbyWith(t, dbaas.PersistenceRDB)
	primary, standby := h.processesOf(t, v)
	must(t, syscall.Kill(standby, syscall.SIGSTOP))
	h.requireWaitedFor(t, v, c, primary, func() {
		time.AfterFunc(slowFor, func() { _ = syscall.Kill(standby, syscall.SIGCONT) })
	})
}

// TestBusyStandbyAgent has the standby's agent not answer while a successor to a dead primary is chosen: it is waited for, for
// its database may serve.
func TestBusyStandbyAgent(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	v, c := h.standbyWith(t, dbaas.PersistenceAOF)
	primary, _ := h.processesOf(t, v)
	h.unheard = &unheard{}
	h.requireWaitedFor(t, v, c, primary, func() {
		for _, g := range v.Guests {
			h.unheard.topics.Store(rpc.GuestTopic(g.Queue), true)
		}
		time.AfterFunc(slowFor, h.unheard.topics.Clear)
	})
}

// slowFor is longer than a standby is waited for that has answered.
const slowFor = 5 * time.Second

// requireWaitedFor kills a primary, and calls choosing when its successor is to be chosen: that is to be the standby.
func (h *house) requireWaitedFor(t *testing.T, v *dbaas.InstanceView, c *redis.Client, primary int, choosing func()) {
	t.Helper()
	defer h.run(t, once("failover", "choose", func(*engine.Operation) { choosing() }))()
	must(t, syscall.Kill(primary, syscall.SIGKILL))
	h.requireKept(t, c)
	if now := h.awaitProtected(t, v.ID); now.PrimaryGuestID == v.PrimaryGuestID {
		t.Error("the dead primary was started again")
	}
}

// TestStandbyThatDoesNotTakeOver takes the chosen standby's server away: the old primary is gone back to.
func TestStandbyThatDoesNotTakeOver(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	v, c := h.standbyWith(t, dbaas.PersistenceAOF)
	defer h.run(t, once("failover", "promote", func(*engine.Operation) {
		if err := h.local.DeleteServer(context.Background(), v.Guests[1].ServerID); err != nil {
			t.Error(err)
		}
	}))()
	op := h.awaitEnd(t, h.failOver(t.Context(), t, v.ID, true))
	if now := h.view(t, v.ID); op.Status != dbaas.OperationSucceeded || now.PrimaryGuestID != v.PrimaryGuestID {
		t.Errorf("the drill ended %s: %+v; the primary is %s, was %s", op.Status, op.Failure, now.PrimaryGuestID, v.PrimaryGuestID)
	}
	h.requireKept(t, c)
	h.healed(t, v.ID)
}

// TestPrimaryThatDiesInItsHandover kills a primary that is about to hand over: the watch has the standby take over.
func TestPrimaryThatDiesInItsHandover(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	v, c := h.standbyWith(t, dbaas.PersistenceAOF)
	pid := h.processOf(t, v.PrimaryGuestID)
	defer h.run(t, once("failover", "handOver", func(*engine.Operation) { _ = syscall.Kill(pid, syscall.SIGKILL) }))()
	op := h.awaitEnd(t, h.failOver(t.Context(), t, v.ID, false))
	if op.Status != dbaas.OperationFailed {
		t.Errorf("the planned failover ended %s: %+v", op.Status, op.Failure)
	}
	h.requireKept(t, c)
	if now := h.awaitProtected(t, v.ID); now.PrimaryGuestID == v.PrimaryGuestID {
		t.Error("the dead primary was not failed over")
	}
}
