package redis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// smallDisk mounts a filesystem of a few megabytes, that remount makes larger.
func smallDisk(t *testing.T, dir string) (grow func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount a small filesystem")
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		t.Skipf("this machine mounts nothing: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return func() {
		t.Helper()
		if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDisk fills the volume: the database says so, can be configured, stopped and started, and comes back by itself
// when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureDisk)
		h := datastoretest.Machine(t)
		grow := smallDisk(t, h.DataDir)
		g := upOn(t, h, version)
		t.Cleanup(func() { _ = h.Units.Kill(context.Background(), unit) }) // before the disk goes
		c := g.tenant(t)
		if err := c.Set(t.Context(), "kept", "yes", 0).Err(); err != nil {
			t.Fatal(err)
		}
		value := strings.Repeat("x", 256<<10)
		testbed.Eventually(t, 20*time.Second, func() error {
			if err := c.RPush(t.Context(), "heap", value).Err(); !hasPrefix(err, "MISCONF") {
				return errors.New("it still writes")
			}
			return nil
		})
		if s := datastoretest.Await(t, g, dbaas.GuestBlocked); s.Cause != causeDisk {
			t.Errorf("the cause is %q", s.Cause)
		}
		g.desired.Values = map[string]any{"hz": 20}
		if _, err := g.Configure(t.Context(), g.desired); err != nil {
			t.Errorf("configure on a full disk: %v", err)
		}
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if err := g.Stop(ctx); err != nil {
				t.Errorf("stop on a full disk: %v", err)
			}
			cancel()
			if s := g.Status(t.Context()); s.Status != dbaas.GuestShutdown {
				t.Errorf("stopped on a full disk it is %s (%s)", s.Status, s.Cause)
			}
			if err := g.Start(t.Context()); err != nil {
				t.Errorf("start on a full disk: %v", err)
			}
		}
		grow()
		datastoretest.Await(t, g, dbaas.GuestHealthy)
		testbed.Eventually(t, 20*time.Second, func() error { return g.tenant(t).Set(t.Context(), "more", "yes", 0).Err() })
		if v, err := g.tenant(t).Get(t.Context(), "kept").Result(); v != "yes" {
			t.Errorf("the data are lost: %q, %v", v, err)
		}
	})
}

// holes looks for them in the files that the manifest names.
func (g *trial) holes(t *testing.T) (all []span) {
	t.Helper()
	files, _, err := incrementalFiles(filepath.Join(g.data, aofDir))
	if err != nil || len(files) == 0 {
		t.Fatalf("the append-only files: %v, %v", files, err)
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		found, err := findHoles(t.Context(), f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// awaitInfo waits until the server says so of itself.
func (g *trial) awaitInfo(t *testing.T, name, value string) {
	t.Helper()
	testbed.Eventually(t, 20*time.Second, func() error {
		i, err := g.admin(t).info(t.Context())
		if err == nil && i[name] != value {
			err = fmt.Errorf("%s is %q", name, i[name])
		}
		return err
	})
}

// TestFullDiskAfterRewrite: from a rewrite on, a full disk leaves holes in the append-only file. A start fills them, and
// with room the file is made anew.
func TestFullDiskAfterRewrite(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		h := datastoretest.Machine(t)
		grow := smallDisk(t, h.DataDir)
		g := upOn(t, h, version)
		t.Cleanup(func() { _ = g.host.Units.Kill(context.Background(), unit) }) // before the disk goes
		if err := g.admin(t).BgRewriteAOF(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		g.awaitInfo(t, "aof_rewrites", "1")
		g.awaitInfo(t, "aof_rewrite_in_progress", "0")
		ballast := filepath.Join(h.DataDir, "ballast")
		if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		c, kept := g.tenant(t), int64(0)
		value := strings.Repeat("x", 200_001)
		push := func() error {
			err := c.RPush(t.Context(), "heap", value).Err()
			if err == nil {
				kept++
			}
			return err
		}
		testbed.Eventually(t, 20*time.Second, func() error {
			if err := push(); !hasPrefix(err, "MISCONF") {
				return errors.New("it still writes")
			}
			return nil
		})
		if s := datastoretest.Await(t, g, dbaas.GuestBlocked); s.Cause != causeDisk || !g.suspected() {
			t.Errorf("the cause is %q, remembered: %t", s.Cause, g.suspected())
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		testbed.Eventually(t, 20*time.Second, push)
		whole := func() {
			t.Helper()
			if n, err := g.tenant(t).LLen(t.Context(), "heap").Result(); n != kept {
				t.Errorf("of %d values there are %d, %v", kept, n, err)
			}
		}
		if err := g.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(g.holes(t)) == 0 {
			t.Error("the file has no hole: the test shows nothing")
		}
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		datastoretest.Await(t, g, dbaas.GuestHealthy)
		whole()
		if holes := g.holes(t); len(holes) != 0 {
			t.Errorf("there are holes still: %v", holes)
		}
		if g.awaitInfo(t, "aof_rewrites", "0"); !g.suspected() {
			t.Error("it has forgotten the failed writes without a rewrite")
		}
		grow()
		testbed.Eventually(t, 20*time.Second, func() error {
			if g.Status(t.Context()); g.suspected() {
				return errors.New("the files have not been made anew")
			}
			return nil
		})
		g.Status(t.Context())
		g.awaitInfo(t, "aof_rewrites", "1")
		g.restart(t)
		whole()
	})
}
