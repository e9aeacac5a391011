package redis

import (
	"context"
	"errors"
	"os"
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
