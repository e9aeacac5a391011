package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestCost measures what an agent at rest takes of a server: alone, and while it looks at others of its group.
func TestCost(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "grove-agent")
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	c := connect(t)
	h := datastoretest.Machine(t)
	b := c.account(t, h)
	b.Heartbeat = 10 * time.Second
	agent := launch(t, binary, b, h)
	first := c.await(t, func(r *guest.StatusReport) bool { return len(r.PublicKey) > 0 })
	sealed, err := guest.SealSecrets(first.PublicKey, map[string]string{
		datastore.SecretPassword: datastoretest.Password, datastore.SecretReplication: datastoretest.Password + "-of-members",
	})
	if err != nil {
		t.Fatal(err)
	}
	keys := func(context.Context, string, []byte) ([]byte, error) { return b.RPCKey, nil }
	api := guest.NewClient(c.transport, "test", keys).Guest(&dbaas.Guest{ID: b.GuestID, Queue: b.Queue})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	d := datastoretest.Desired("7.0", h)
	d.Secrets = nil
	fence := guest.Fence{GroupEpoch: 1, OperationID: "op", LeaseEpoch: 1, CommandID: "prepare"}
	testbed.Eventually(t, time.Minute, func() error {
		return api.Prepare(ctx, guest.PrepareRequest{Fence: fence, Desired: d, Sealed: sealed})
	})
	at := c.await(t, func(r *guest.StatusReport) bool { return r.Status.Status == dbaas.GuestHealthy })
	for _, peers := range []int{0, 1, 9} {
		d.Peers = nil
		for i := range peers { // all of them the one that we have
			d.Peers = append(d.Peers, datastore.Endpoint{GuestID: fmt.Sprint("peer-", i), Address: h.Address, Port: 6379})
		}
		fence.CommandID = fmt.Sprint("peers-", peers)
		testbed.Eventually(t, time.Minute, func() error {
			_, err := api.Configure(ctx, guest.ConfigureRequest{Fence: fence, Desired: d})
			return err
		})
		for peers > 0 && !sees(at, peers) {
			at = c.await(t, func(*guest.StatusReport) bool { return true })
		}
		share := load(t, agent.Process.Pid, settled)
		rss := resident(t, agent.Process.Pid)
		t.Logf("%d peers: %.3f %% of a core, %.1f MiB", peers, 100*share, float64(rss)/(1<<20))
		if share > 0.02 || rss > 20<<20 {
			t.Errorf("with %d peers it takes %.3f %% of a core and %d KiB; want far less than 2 %% and 20 MiB", peers, 100*share, rss>>10)
		}
	}
}

// sees tells whether so many others are seen to take writes.
func sees(r *guest.StatusReport, peers int) bool {
	alive := 0
	for _, p := range r.Peers {
		if p.Alive && p.Role == datastore.RoleMaster {
			alive++
		}
	}
	return alive == peers
}

// settled is for how long the load is measured.
const settled = 5 * time.Second

// load gives how much of a core a process takes.
func load(t *testing.T, pid int, over time.Duration) float64 {
	t.Helper()
	before, began := spent(t, pid), time.Now()
	testbed.Eventually(t, over+time.Minute, func() error {
		if left := over - time.Since(began); left > 0 {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
	return (spent(t, pid) - before).Seconds() / time.Since(began).Seconds()
}

// spent gives the time that a process had of all cores: the scheduler's count, finer than the clock's ticks.
func spent(t *testing.T, pid int) time.Duration {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		t.Skipf("the kernel tells no times of process %d: %v", pid, err)
	}
	var sum int64
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that ended
		}
		n, err := strconv.ParseInt(string(bytes.Fields(text)[0]), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return time.Duration(sum)
}
