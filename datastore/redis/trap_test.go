package redis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestSnapshotAlone: a server that is told of an append-only file begins empty beside a snapshot. Ours reads it.
func TestSnapshotAlone(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureLife)
		g := up(t, version)
		if err := g.tenant(t).Set(t.Context(), "kept", "yes", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := g.admin(t).Save(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(g.Stop(t.Context()), os.RemoveAll(filepath.Join(g.data, aofDir))); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time from the append-only file that the first has made
			if err := g.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			datastoretest.Await(t, g, dbaas.GuestHealthy)
			if v, err := g.tenant(t).Get(t.Context(), "kept").Result(); v != "yes" {
				t.Fatalf("the data are lost: %q, %v", v, err)
			}
			if running, err := g.admin(t).configGet(t.Context(), "appendonly"); err != nil || running["appendonly"] != "yes" {
				t.Errorf("what is written now is not kept: %v, %v", running, err)
			}
			if err := g.host.Units.Kill(t.Context(), unit); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(g.data, rdbFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	})
}

// TestStopWhileConverting: a server that writes its first append-only file refuses to end; a stop is quick all the
// same, and loses nothing.
func TestStopWhileConverting(t *testing.T) {
	t.Parallel()
	g := up(t, redis70)
	if err := g.tenant(t).Set(t.Context(), "kept", "yes", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := g.admin(t).Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Stop(t.Context()), os.RemoveAll(filepath.Join(g.data, aofDir))); err != nil {
		t.Fatal(err)
	}
	r, err := g.require()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.launch(t.Context(), r, false); err != nil {
		t.Fatal(err)
	}
	c, err := g.awaitAnswer(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	testbed.Eventually(t, 10*time.Second, func() error { // slow enough to be met in the middle
		return c.configSet(t.Context(), settings{"rdb-key-save-delay": "60000000"})
	})
	testbed.Eventually(t, 10*time.Second, func() error {
		cause, err := g.open(t.Context(), r, c)
		if err == nil && cause != causeConverting {
			err = fmt.Errorf("it waits for %q", cause)
		}
		return err
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := g.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	datastoretest.Await(t, g, dbaas.GuestHealthy)
	if v, err := g.tenant(t).Get(t.Context(), "kept").Result(); v != "yes" {
		t.Errorf("the data are lost: %q, %v", v, err)
	}
}

// TestLostFiles: where data were and are no more, no empty database takes their place.
func TestLostFiles(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(data string) error{
		"manifest":   func(data string) error { return os.Remove(filepath.Join(data, aofDir, aofManifest)) },
		"everything": func(data string) error { return os.RemoveAll(filepath.Join(data, aofDir)) },
		"mark":       func(data string) error { return os.Remove(filepath.Join(data, markFile)) },
		"volume":     func(data string) error { return os.RemoveAll(data) },
	} {
		t.Run(name, func(t *testing.T) {
			g := up(t, redis70)
			if err := g.tenant(t).Set(t.Context(), "kept", "yes", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(g.Stop(t.Context()), lose(g.data)); err != nil {
				t.Fatal(err)
			}
			if err := g.Start(t.Context()); dbaas.ErrorCode(err) != dbaas.Unavailable {
				t.Errorf("start gave %v", err)
			}
			if s := g.Status(t.Context()); s.Status == dbaas.GuestHealthy {
				t.Error("an empty database serves in the place of the lost one")
			}
			if _, err := os.Stat(filepath.Join(g.data, aofDir, aofManifest)); name == "manifest" && err == nil {
				t.Error("the files that were left have been overwritten")
			}
		})
	}
}

// TestTruncatedTail: a crash of the machine cuts the last command short; everything before is there.
func TestTruncatedTail(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureLife)
		g := up(t, version)
		for _, key := range []string{"a", "b", "c"} {
			if err := g.tenant(t).Set(t.Context(), key, strings.Repeat(key, 100), 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(g.data, aofDir, "*.incr.aof"))
		if err != nil || len(files) != 1 {
			t.Fatalf("the files are %v, %v", files, err)
		}
		info, err := os.Stat(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(files[0], info.Size()-50); err != nil {
			t.Fatal(err)
		}
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		datastoretest.Await(t, g, dbaas.GuestHealthy)
		if n, err := g.tenant(t).DBSize(t.Context()).Result(); n != 2 {
			t.Errorf("%d keys are left, %v; want 2", n, err)
		}
	})
}

// TestDamagedFile: what is broken in the middle is not cut off there by anybody but a person.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	g := up(t, redis70)
	for i := range 100 {
		if err := g.tenant(t).Set(t.Context(), fmt.Sprint(i), "value", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(g.data, aofDir, "*.incr.aof"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the files are %v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	copy(b[len(b)/2:], "\x00\x00garbage\x00\x00")
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = g.Start(t.Context()) // the server ends before it answers, or after
	testbed.Eventually(t, 10*time.Second, func() error {
		if s := g.Status(t.Context()); s.Status != dbaas.GuestCrashed || s.Cause != causeDamaged {
			return fmt.Errorf("the status is %s (%s)", s.Status, s.Cause)
		}
		return nil
	})
	if after, err := os.ReadFile(files[0]); err != nil || string(after) != string(b) {
		t.Errorf("the damaged file was changed, %v", err)
	}
}

// TestLoading: a database that loads is alive, cannot serve, and its port is shut.
func TestLoading(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		g := up(t, version)
		if err := g.tenant(t).Eval(t.Context(), "for i = 1, 15000 do redis.call('set', 'k' .. i, i) end return 1", nil).Err(); err != nil {
			t.Fatal(err)
		}
		if err := g.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := g.require()
		if err != nil {
			t.Fatal(err)
		}
		if err := g.render(r); err != nil {
			t.Fatal(err)
		}
		spec, err := g.spec(t.Context(), r, formAppendOnly)
		if err != nil {
			t.Fatal(err)
		}
		spec.Argv = append(spec.Argv, "--key-load-delay", "50")
		_ = g.Close()
		if err := g.host.Units.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if err := g.Start(t.Context()); err != nil { // does not wait for it
			t.Fatal(err)
		}
		if s := g.Status(t.Context()); s.Status != dbaas.GuestBlocked || s.Cause != causeLoading {
			t.Fatalf("a loading database is %s (%s)", s.Status, s.Cause)
		}
		if err := g.tenant(t).Ping(t.Context()).Err(); err == nil || hasPrefix(err, "LOADING") {
			t.Errorf("the port is open while the database loads: %v", err)
		}
		g.desired.Values = map[string]any{"hz": 20} // can be configured meanwhile
		if _, err := g.Configure(t.Context(), g.desired); err != nil {
			t.Error(err)
		}
		datastoretest.Await(t, g, dbaas.GuestHealthy)
		if n, err := g.tenant(t).DBSize(t.Context()).Result(); n != 15000 {
			t.Errorf("%d keys are left, %v", n, err)
		}
	})
}

// TestAcknowledgedWritesSurviveAKill: with appendfsync always nothing that was acknowledged is lost by a crash, and with
// everysec nothing by a crash of the process.
func TestAcknowledgedWritesSurviveAKill(t *testing.T) {
	t.Parallel()
	g := up(t, redis70)
	c := g.tenant(t)
	for i := range 500 {
		if err := c.RPush(t.Context(), "list", i).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.host.Units.Kill(t.Context(), unit); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	datastoretest.Await(t, g, dbaas.GuestHealthy)
	if n, err := g.tenant(t).LLen(t.Context(), "list").Result(); n != 500 {
		t.Errorf("%d of 500 are left, %v", n, err)
	}
}

// TestFullMemory fills a small flavor: the server refuses, or evicts, and is never killed, not even while the
// append-only file is rewritten.
func TestFullMemory(t *testing.T) {
	t.Parallel()
	const fill = `for i = 1, 300 do redis.call('set', KEYS[1] .. ':' .. ARGV[1] .. ':' .. i, string.rep('x', 4000)) end return 1`
	// touch writes a little to every page, so that a forked child keeps the old ones.
	const touch = `for i = 1, 300 do local k = KEYS[1] .. ':' .. ARGV[1] .. ':' .. i; if redis.call('exists', k) == 1 then redis.call('setrange', k, 0, 'y') end end return 1`
	for _, policy := range []string{"noeviction", "allkeys-lru"} {
		t.Run(policy, func(t *testing.T) {
			g := up(t, redis70)
			g.desired.Values = map[string]any{"maxmemory-policy": policy}
			if _, err := g.Configure(t.Context(), g.desired); err != nil {
				t.Fatal(err)
			}
			pid, c := g.pid(t), g.tenant(t)
			var oom error
			for i := range 300 { // 360 MB
				if i%40 == 20 { // copies on top
					_ = g.admin(t).BgRewriteAOF(t.Context()).Err() // one that runs already is as good
				}
				if err := c.Eval(t.Context(), fill, []string{"key"}, i).Err(); err != nil {
					oom = err
					if !hasPrefix(err, "OOM") {
						t.Fatalf("filled up to %d: %v", i, err)
					}
				}
			}
			if err := c.Del(t.Context(), "key:0:1", "key:1:1").Err(); err != nil { // a little room for the touches
				t.Error(err)
			}
			_ = g.admin(t).BgRewriteAOF(t.Context()).Err() // see above
			for i := range 300 {
				if err := c.Eval(t.Context(), touch, []string{"key"}, i).Err(); err != nil && !hasPrefix(err, "OOM") {
					t.Fatalf("touched up to %d: %v", i, err)
				}
			}
			s := g.Status(t.Context())
			switch {
			case g.pid(t) != pid || s.Status != dbaas.GuestHealthy:
				t.Errorf("the process %d is now %d: %s (%s)", pid, g.pid(t), s.Status, s.Cause)
			case policy == "noeviction" && oom == nil:
				t.Error("the memory is full and everything is taken still")
			case policy != "noeviction" && (oom != nil || s.Metrics["evicted_keys"] == 0):
				t.Errorf("nothing was evicted: %v, %v", oom, s.Metrics)
			}
			if limit := float64(unitMemory(g.desired)); s.Metrics["used_memory_rss"] > limit {
				t.Errorf("the server takes %v of %v", s.Metrics["used_memory_rss"], limit)
			}
			if err := c.Get(t.Context(), "key:0:1").Err(); err != nil && !errors.Is(err, redis.Nil) {
				t.Error(err)
			}
		})
	}
}
