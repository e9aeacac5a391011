package taskmanager_test

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// changesOfPairs are the operations on a hot standby that its primary may die in; they have the trials of the crash suite.
func changesOfPairs() []string {
	return []string{
		"restart_pair", "resize_volume", "resize_pair", "rebuild_pair", "configure_instance", "set_password", "set_users", "set_persistence",
		"set_profile", "upgrade_pair", "update_access", "change_availability", "create_replicas", "set_tls", "renew_certificates",
	}
}

// TestPrimaryDiesDuringOperations kills the primary of a hot standby in the middle of each kind of operation, with
// GROVE_CRASH at each of its steps: the address takes writes again soon, with what WAIT confirmed; the operation ends, well or
// with a reason; and the instance is protected again.
func TestPrimaryDiesDuringOperations(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createStandby(t)
	for _, w := range sorted(t, taskmanager.Workflows()) {
		if !slices.Contains(changesOfPairs(), w.Kind) {
			continue
		}
		for i, step := range w.Steps {
			if chosen(w.Kind) && (fullCrash() || i == len(w.Steps)/2) {
				t.Run(w.Kind+"/"+step.Name, func(t *testing.T) {
					h.primaryDiesDuring(t, in, crashPoint{Kind: w.Kind, Step: step.Name, Point: engine.BeforeStep})
				})
			}
		}
	}
}

func (h *house) primaryDiesDuring(t *testing.T, in string, p crashPoint) {
	var mu sync.Mutex
	killed := false
	stop := h.run(t, fromStep(t, p, func() {
		mu.Lock()
		defer mu.Unlock()
		if killed {
			return
		}
		v, err := h.control.Instance(context.Background(), tester, in)
		if err == nil && h.kill(v.PrimaryGuestID) {
			killed = true
		}
	}))
	defer stop()
	v := h.awaitProtected(t, in)
	c := h.tenant(t, v)
	must(t, c.Set(t.Context(), "before", p.String(), 0).Err())
	followers := 1 + len(v.Replicas)
	if n, err := c.Wait(t.Context(), followers, 10*time.Second).Result(); err != nil || n != int64(followers) {
		t.Fatalf("%d of %d followers confirm, %v", n, followers, err)
	}
	id := trials()[p.Kind].begin(t.Context(), t, h, in)
	op := h.awaitEnd(t, id)
	if op.Status == dbaas.OperationFailed && (op.Failure == nil || op.Failure.Message == "") {
		t.Errorf("it failed without a reason: %+v", op)
	}
	mu.Lock()
	died := killed
	mu.Unlock()
	if !died {
		t.Fatal("at no step from there on there was a primary to kill")
	}
	credentials, err := h.control.Credentials(t.Context(), tester, in)
	must(t, err)
	c = redis.NewClient(&redis.Options{Addr: v.Addresses[0].Address + ":6379", Password: credentials.Password, DisableIdentity: true, MaxRetries: -1})
	defer c.Close()
	testbed.Eventually(t, 60*time.Second, func() error { return c.Set(t.Context(), "after", p.String(), 0).Err() })
	now := h.awaitProtected(t, in)
	if got, err := c.Get(t.Context(), "before").Result(); err != nil || got != p.String() {
		t.Errorf("what was confirmed before is %q, %v", got, err)
	}
	t.Logf("%s: the operation %s; failed over: %v", p, op.Status, now.PrimaryGuestID != v.PrimaryGuestID)
	h.audit(t, id)
}

// fromStep makes an observer that calls do before the point's step and each later one, for not all paths lead through each
// step, and in some the primary does not run.
func fromStep(t *testing.T, p crashPoint, do func()) func(engine.Point, *engine.Operation) {
	workflows := sorted(t, taskmanager.Workflows())
	w := workflows[slices.IndexFunc(workflows, func(w engine.Workflow) bool { return w.Kind == p.Kind })]
	index := func(step string) int {
		return slices.IndexFunc(w.Steps, func(s engine.Step) bool { return s.Name == step })
	}
	from := index(p.Step)
	return func(at engine.Point, op *engine.Operation) {
		if at == engine.BeforeStep && op.Kind == p.Kind && index(op.Step) >= from {
			do()
		}
	}
}

// kill kills the database of a guest, and tells whether there was one.
func (h *house) kill(guestID string) bool {
	pid := findProcess(guestID)
	return pid != 0 && syscall.Kill(pid, syscall.SIGKILL) == nil
}
