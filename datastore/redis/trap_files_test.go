package redis

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestAppendOnlyWhileSaving: while a snapshot is written the first writing of an append-only file is only scheduled. Until
// that has happened the snapshot counts, and nothing is said to be done.
func TestAppendOnlyWhileSaving(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureFiles)
		g := up(t, version)
		g.keep(t, dbaas.PersistenceRDB)
		g.fill(t, 10)
		c := g.admin(t)
		if err := errors.Join(c.Save(t.Context()).Err(), c.configSet(t.Context(), settings{"rdb-key-save-delay": "60000000"}), c.BgSave(t.Context()).Err()); err != nil {
			t.Fatal(err)
		}
		g.desired.Persistence = dbaas.PersistenceAOF
		g.configure(t)
		r, err := g.require()
		if err != nil {
			t.Fatal(err)
		}
		testbed.Eventually(t, time.Minute, func() error {
			done, err := g.persistNow(t.Context(), r, c)
			if done {
				t.Fatal("the append-only file is said to be complete before it was begun")
			}
			if i, infoErr := c.info(t.Context()); err != nil || infoErr != nil || i["aof_rewrite_scheduled"] != "1" || i["rdb_bgsave_in_progress"] != "1" {
				return fmt.Errorf("scheduled %q, saving %q, %v", i["aof_rewrite_scheduled"], i["rdb_bgsave_in_progress"], errors.Join(err, infoErr))
			}
			return nil
		})
		g.crash(t)
		g.requireKeys(t, 10)
		g.awaitKept(t)
		g.fill(t, 20)
		g.crash(t)
		g.requireKeys(t, 20)
	})
}

// TestClusterMemberWithKeysStays: a member is not reset while it has keys or slots.
func TestClusterMemberWithKeysStays(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redis70, 3, 0)
	f.fill(f.tenant(), 10, 10)
	for _, n := range f.nodes {
		if err := n.Do(t.Context(), actionReset, nodeArgs{ID: f.nodeID(t, n)}, nil); dbaas.ErrorCode(err) != dbaas.Conflict {
			t.Errorf("%s is reset with all that it has: %v", n.id, err)
		}
	}
	f.verify(f.tenant(), 10, 10)
}

// TestCommandsNeverSent looks for what an agent must not do unattended: it would destroy data, or stop the server for long.
func TestCommandsNeverSent(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	never := regexp.MustCompile(`"(?i:flushall|flushdb|flushslots|swapdb|debug|monitor|keys \*|takeover|shutdown)"|\.(FlushAll|FlushDB|Keys|Save|Shutdown\w*|Monitor|ClusterFlushSlots|ClusterFailover|SwapDB)\(ctx`)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for i, line := range strings.Split(string(b), "\n") {
			if never.MatchString(line) {
				t.Errorf("%s:%d: %s", name, i+1, strings.TrimSpace(line))
			}
		}
	}
	if !never.MatchString(`c.FlushAll(ctx)`) || !never.MatchString(`c.Do(ctx, "flushall")`) {
		t.Error("it would not be seen")
	}
}

// TestStopOnFullDisk: the last snapshot of a database that keeps snapshots cannot be written to a full disk. It goes on
// with what it has rather than end without it.
func TestStopOnFullDisk(t *testing.T) {
	t.Parallel()
	h := datastoretest.Machine(t)
	grow := smallDisk(t, h.DataDir)
	g := upOn(t, h, redis70)
	t.Cleanup(func() { _ = h.Units.Kill(t.Context(), unit) }) // before the disk goes
	g.keep(t, dbaas.PersistenceRDB)
	g.fill(t, 10)
	if err := g.admin(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	g.fill(t, 20)
	_ = os.WriteFile(filepath.Join(h.DataDir, "filler"), make([]byte, 1<<30), 0o600) // as much as there is room for
	pid := g.pid(t)
	if err := g.Stop(t.Context()); dbaas.ErrorCode(err) != dbaas.Conflict || g.pid(t) != pid {
		t.Fatalf("stop without room for the last snapshot: %v, process %d and before %d", err, g.pid(t), pid)
	}
	grow()
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	datastoretest.Await(t, g, dbaas.GuestHealthy)
	g.requireKeys(t, 20)
}
