package taskmanager_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// writer writes numbered keys to whichever of several databases takes them, until it is stopped.
type writer struct {
	clients []*redis.Client
	mu      sync.Mutex
	acked   int // keys 1 to acked were acknowledged
	pause   time.Duration
}

// writeTo writes until stop is called.
func writeTo(clients ...*redis.Client) (w *writer, stop func()) {
	w = &writer{clients: clients}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { w.write(ctx) })
	return w, sync.OnceFunc(func() { cancel(); done.Wait() })
}

func (w *writer) write(ctx context.Context) {
	last, at := time.Now(), 0
	for ctx.Err() == nil {
		err := w.clients[at].Set(context.Background(), fmt.Sprintf("key:%d", w.acked+1), w.acked+1, 0).Err()
		if err != nil {
			at = (at + 1) % len(w.clients)
			continue
		}
		now := time.Now()
		w.mu.Lock()
		w.acked++
		w.pause = max(w.pause, now.Sub(last))
		w.mu.Unlock()
		last = now
	}
}

func (w *writer) seen() (int, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked, w.pause
}

// requireAll requires that a database has every key that was acknowledged.
func (w *writer) requireAll(t *testing.T, client *redis.Client) {
	t.Helper()
	acked, _ := w.seen()
	for n := 1; n <= acked; n++ {
		if got, err := client.Get(t.Context(), fmt.Sprintf("key:%d", n)).Int(); err != nil || got != n {
			t.Fatalf("of %d acknowledged writes key:%d is lost: %d, %v", acked, n, got, err)
		}
	}
}

// TestPromotedUnderWrites: a promotion loses no acknowledged write; the pause is told. Then a new password reaches every
// member without a link going down, and is good for links that are made anew.
func TestPromotedUnderWrites(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	ctx, source := t.Context(), h.view(t, h.createReplicated(t))
	replica := h.view(t, h.replicaBeside(t, source.ID))
	before, after := h.client(t, source), h.client(t, replica)
	w, stop := writeTo(before, after)
	defer stop()
	h.requireProgress(t, w)
	promoted := h.succeed(t, func() (string, error) { return h.control.PromoteReplica(ctx, tester, replica.ID) })
	h.requireProgress(t, w)
	stop()
	acked, pause := w.seen()
	t.Logf("%d writes, the longest pause %s", acked, pause)
	w.requireAll(t, after)
	h.requireSet(t, promoted.GroupID)

	syncs := info(t, after, "sync_full")
	root, err := h.control.EnableRoot(ctx, tester, promoted.ID, "")
	must(t, err)
	h.succeed(t, func() (string, error) { return root.OperationID, nil })
	before, after = h.client(t, source), h.client(t, replica)
	if now := info(t, after, "sync_full"); now != syncs || info(t, before, "master_link_status") != "up" {
		t.Errorf("the link did not stay: %s full copies were %s", now, syncs)
	}
	h.requireSet(t, promoted.GroupID) // by the new password, on every member
	h.succeed(t, func() (string, error) { return h.control.RestartInstance(ctx, tester, source.ID) })
	h.requireSet(t, promoted.GroupID) // over a link that was made anew
}

// TestDeletedWhileMade: of two replicas one is deleted while they are made; the other comes about, and nothing is left.
func TestDeletedWhileMade(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	ctx, source := t.Context(), h.createActive(t)
	created, err := h.control.CreateReplicas(ctx, tester, control.CreateReplicas{Of: source, Count: 2, Name: "replica"})
	must(t, err)
	mustID(t)(h.control.DeleteInstance(ctx, tester, created.View.ID))
	v := h.succeed(t, func() (string, error) { return created.OperationID, nil })
	if len(v.Replicas) != 1 || v.Replicas[0] == created.View.ID {
		t.Errorf("the source has the replicas %v", v.Replicas)
	}
	h.requireSet(t, v.GroupID)
	h.audit(t, created.OperationID)
	h.delete(t, v.Replicas[0])
	var kind string
	if h.sql(t, "SELECT kind FROM instance_groups WHERE id = '"+v.GroupID+"'", &kind); kind != string(dbaas.GroupSingle) {
		t.Errorf("without replicas the set is a group of the kind %s", kind)
	}
}

// requireProgress waits until a writer has got on.
func (h *house) requireProgress(t *testing.T, w *writer) {
	t.Helper()
	from, _ := w.seen()
	testbed.Eventually(t, 30*time.Second, func() error {
		if now, _ := w.seen(); now < from+100 {
			return fmt.Errorf("%d writes since", now-from)
		}
		return nil
	})
}

// info reads one field of INFO.
func info(t *testing.T, client *redis.Client, field string) string {
	t.Helper()
	text, err := client.Info(t.Context()).Result()
	must(t, err)
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// TestSetsGrowTogether: a source's volume takes its replicas' along, and a replica that is detached keeps its data.
func TestSetsGrowTogether(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	ctx, source := t.Context(), h.view(t, h.createReplicated(t))
	replica := h.replicaBeside(t, source.ID)
	h.succeed(t, func() (string, error) { return h.control.ResizeVolume(ctx, tester, source.ID, 3) })
	for _, v := range h.set(t, source.GroupID) {
		volume, err := h.local.Volume(ctx, v.Guests[0].VolumeID)
		must(t, err)
		if v.VolumeSize != 3 || v.Applied.VolumeSize != 3 || volume.SizeGB != 3 || v.Task != dbaas.TaskNone {
			t.Errorf("%s has %d GB (applied %d, volume %d) and is %s", v.Name, v.VolumeSize, v.Applied.VolumeSize, volume.SizeGB, v.Task)
		}
	}
	h.requireSet(t, source.GroupID)
	detached := h.succeed(t, func() (string, error) {
		return h.control.UpdateInstance(ctx, tester, replica, control.UpdateInstance{Detach: true})
	})
	if got, err := h.client(t, detached).Get(ctx, "set").Result(); err != nil || got == "" {
		t.Errorf("the detached replica has %q: %v", got, err)
	}
	h.requireServing(t, detached)
}
