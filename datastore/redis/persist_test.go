package redis

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// keep changes what is kept on disk and waits until it is.
func (g *trial) keep(t *testing.T, p dbaas.Persistence) {
	t.Helper()
	g.desired.Persistence, g.desired.Secrets = p, nil
	applied, err := g.Configure(t.Context(), g.desired)
	if err != nil || len(applied.Warnings) != 1 {
		t.Fatalf("keep %s: %+v, %v", p, applied, err)
	}
	g.awaitKept(t)
}

func (g *trial) awaitKept(t *testing.T) {
	t.Helper()
	datastoretest.Await(t, g, dbaas.GuestHealthy)
	testbed.Eventually(t, time.Minute, func() error {
		r, err := g.require()
		if err != nil {
			return err
		}
		if done, err := g.persistNow(t.Context(), r, g.admin(t)); !done {
			return fmt.Errorf("data are not kept as wanted: %v", err)
		}
		return nil
	})
}

// crash kills the server and starts it again.
func (g *trial) crash(t *testing.T) {
	t.Helper()
	awaitWritten(t, g.admin(t))
	if err := errors.Join(g.host.Units.Kill(t.Context(), unit), g.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	datastoretest.Await(t, g, dbaas.GuestHealthy)
}

// awaitWritten waits until the server has given all that it keeps to the kernel: while an fsync runs, it holds back the next
// write for up to two seconds, which a kill would lose.
func awaitWritten(t testing.TB, c *client) {
	t.Helper()
	testbed.Eventually(t, time.Minute, func() error {
		i, err := c.info(t.Context())
		if err != nil || i["aof_enabled"] != "1" {
			return err
		}
		if i["aof_buffer_length"] != "0" || i["aof_pending_bio_fsync"] != "0" {
			return fmt.Errorf("%s bytes wait to be written", i["aof_buffer_length"])
		}
		return nil
	})
}

func (g *trial) requireKeys(t *testing.T, want int64) {
	t.Helper()
	if n, err := g.tenant(t).DBSize(t.Context()).Result(); err != nil || n != want {
		t.Fatalf("%d keys, %v; want %d", n, err, want)
	}
}

// TestPersistence goes from each way of keeping data to the others while the server runs, and kills it after each.
func TestPersistence(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureFiles)
		g := up(t, version)
		set := func(key string) {
			t.Helper()
			if err := g.tenant(t).Set(t.Context(), key, "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		files := func(want ...string) {
			t.Helper()
			for _, name := range []string{aofDir, rdbFile} {
				_, err := os.Stat(filepath.Join(g.data, name))
				wanted := false
				for _, w := range want {
					wanted = wanted || w == name
				}
				if wanted != (err == nil) {
					t.Errorf("of %s %v is on disk: %v", g.desired.Persistence, name, err)
				}
			}
		}
		set("a")
		g.keep(t, dbaas.PersistenceRDB)
		files(rdbFile)
		set("lost with a crash")
		g.crash(t)
		g.requireKeys(t, 1)
		set("b")
		g.restart(t) // a clean stop writes what is not written yet
		g.requireKeys(t, 2)
		g.keep(t, dbaas.PersistenceAOF)
		set("c")
		g.crash(t)
		g.requireKeys(t, 3)
		g.keep(t, dbaas.PersistenceNone)
		files()
		g.requireKeys(t, 3)
		g.crash(t)
		g.requireKeys(t, 0)
		set("d")
		g.keep(t, dbaas.PersistenceAOF)
		g.crash(t)
		g.requireKeys(t, 1)
		g.keep(t, dbaas.PersistenceNone)
		g.keep(t, dbaas.PersistenceRDB)
		g.crash(t)
		g.requireKeys(t, 1)
	})
}

// TestPersistenceAtFirst starts databases that keep snapshots, or nothing, from the beginning; a crash before there is
// anything does not keep them from starting.
func TestPersistenceAtFirst(t *testing.T) {
	t.Parallel()
	for _, p := range []dbaas.Persistence{dbaas.PersistenceRDB, dbaas.PersistenceNone} {
		t.Run(string(p), func(t *testing.T) {
			h := datastoretest.Machine(t)
			g := &trial{Guest: newGuest(h), desired: datastoretest.Desired(redis70, h)}
			t.Cleanup(func() { _ = g.Close() })
			g.desired.Persistence = p
			datastoretest.Up(t, g, g.desired)
			g.crash(t)
			g.restart(t)
			g.requireKeys(t, 0)
		})
	}
}

// TestSwitchWhileStopped: what is there is read first, however it is to be kept.
func TestSwitchWhileStopped(t *testing.T) {
	t.Parallel()
	g := up(t, redis70)
	if err := g.tenant(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []dbaas.Persistence{dbaas.PersistenceRDB, dbaas.PersistenceAOF, dbaas.PersistenceRDB, dbaas.PersistenceNone} {
		if err := g.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.desired.Persistence, g.desired.Secrets = p, nil
		g.configure(t)
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.awaitKept(t)
		g.requireKeys(t, 1)
	}
}

// TestEmptyMaster: a master that kept nothing and died is not started for its replicas to copy its emptiness.
func TestEmptyMaster(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureFiles)
		master, replica := pair(t, version)
		if err := master.tenant(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
		for _, g := range []*trial{master, replica} {
			g.keep(t, dbaas.PersistenceNone)
		}
		replica.awaitKeys(t, 1)
		if err := master.host.Units.Kill(t.Context(), unit); err != nil {
			t.Fatal(err)
		}
		if err := master.Start(t.Context()); dbaas.ErrorCode(err) != dbaas.Unavailable {
			t.Fatalf("an empty master starts: %v", err)
		}
		replica.requireKeys(t, 1)
		replica.desired.Master = nil
		replica.configure(t)
		master.desired.Master = replica.endpoint()
		master.configure(t)
		if err := master.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		datastoretest.AwaitInStep(t, master)
		master.requireKeys(t, 1)
		replica.requireKeys(t, 1)
	})
}

// TestReplicaThatLostItsFiles copies them again, and is no candidate before.
func TestReplicaThatLostItsFiles(t *testing.T) {
	t.Parallel()
	master, replica := pair(t, redis70)
	if err := master.tenant(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	replica.awaitKeys(t, 1)
	if err := errors.Join(replica.Stop(t.Context()), dropFiles(replica.data), master.Stop(t.Context()), replica.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	if s := replica.Status(t.Context()); s.Status != dbaas.GuestBlocked || s.Cause != causeCopying {
		t.Errorf("an empty replica is %+v", s)
	}
	promoted := replica.desired
	promoted.Master = nil
	if _, err := replica.Configure(t.Context(), promoted); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("an empty replica becomes the master: %v", err)
	}
	if err := master.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	datastoretest.AwaitInStep(t, replica)
	replica.requireKeys(t, 1)
}
