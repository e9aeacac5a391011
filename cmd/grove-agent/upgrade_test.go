package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// unit starts the agent again whenever it ends, as systemd does.
type unit struct {
	argv []string
	mu   sync.Mutex
	cmd  *exec.Cmd
	done bool
	over chan struct{}
}

func startUnit(t *testing.T, argv ...string) *unit {
	t.Helper()
	u := &unit{argv: argv, over: make(chan struct{})}
	started := make(chan error, 1)
	go u.keep(started)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.mu.Lock()
		u.done = true
		_ = u.cmd.Process.Kill()
		u.mu.Unlock()
		<-u.over
	})
	return u
}

func (u *unit) keep(started chan<- error) {
	defer close(u.over)
	for {
		u.mu.Lock()
		if u.done {
			u.mu.Unlock()
			return
		}
		u.cmd = exec.Command(u.argv[0], u.argv[1:]...)
		u.cmd.Stderr = os.Stderr
		err := u.cmd.Start()
		u.mu.Unlock()
		if started != nil {
			started <- err
			started = nil
		}
		if err != nil {
			return
		}
		_ = u.cmd.Wait()
	}
}

func (u *unit) kill() { u.signal(syscall.SIGKILL) }

func (u *unit) signal(s syscall.Signal) {
	u.mu.Lock()
	defer u.mu.Unlock()
	_ = u.cmd.Process.Signal(s)
}

// build makes an agent of that version.
func build(t *testing.T, path, version string) {
	t.Helper()
	if out, err := exec.Command("go", "build", "-ldflags", "-s -w -X main.version="+version, "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

// mirror serves programs by their names.
func mirror(t *testing.T, programs map[string][]byte) (url string, sums map[string]string) {
	t.Helper()
	sums = map[string]string{}
	for name, text := range programs {
		sum := sha256.Sum256(text)
		sums[name] = hex.EncodeToString(sum[:])
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := programs[r.URL.Path[1:]]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(text)
	}))
	t.Cleanup(s.Close)
	return s.URL, sums
}

// upgraded is an agent that is a unit, with a database, on a machine of its own.
type upgraded struct {
	t         *testing.T
	c         *control
	unit      *unit
	api       guest.API
	dir       string
	installed string
	commands  int
}

func openUpgraded(t *testing.T) *upgraded {
	t.Helper()
	c := connect(t)
	h := datastoretest.Machine(t)
	b := c.account(t, h)
	a := &upgraded{t: t, c: c, dir: h.Dir, installed: filepath.Join(t.TempDir(), "grove-agent")}
	build(t, a.installed, "one")
	spec := host.Spec{Dir: h.Dir, DataDir: h.DataDir, Address: h.Address, SizeFile: filepath.Join(filepath.Dir(h.DataDir), "size")}
	text, err := json.Marshal(bootstrap{Bootstrap: b, Host: &spec})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := spec.Open(nil)
		if err != nil {
			t.Error(err)
			return
		}
		datastoretest.Destroy(t, left)
	})
	a.unit = startUnit(t, a.installed, "--config", config)
	first := c.await(t, func(r *guest.StatusReport) bool { return len(r.PublicKey) > 0 })
	sealed, err := guest.SealSecrets(first.PublicKey, map[string]string{"password": datastoretest.Password})
	if err != nil {
		t.Fatal(err)
	}
	keys := func(context.Context, string, []byte) ([]byte, error) { return b.RPCKey, nil }
	a.api = guest.NewClient(c.transport, "test", keys).Guest(&dbaas.Guest{ID: b.GuestID, Queue: b.Queue})
	d := datastoretest.Desired("7.0", h)
	d.Secrets = nil
	testbed.Eventually(t, time.Minute, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return a.api.Prepare(ctx, guest.PrepareRequest{Fence: guest.Fence{GroupEpoch: 1, OperationID: "op", LeaseEpoch: 1, CommandID: "prepare"}, Desired: d, Sealed: sealed})
	})
	c.await(t, func(r *guest.StatusReport) bool { return r.Status.Status == dbaas.GuestHealthy })
	return a
}

// upgrade orders a program until the agent has become it, or has refused it.
func (a *upgraded) upgrade(location, sum string, patience time.Duration) error {
	a.t.Helper()
	a.commands++
	r := guest.AgentRequest{Location: location, SHA256: sum, Patience: patience,
		Fence: guest.Fence{GroupEpoch: 1, OperationID: "upgrade", LeaseEpoch: 1, CommandID: fmt.Sprint("upgrade-", a.commands)}}
	var end error
	testbed.Eventually(a.t, 30*time.Second, func() error {
		ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Second)
		defer cancel()
		u, err := a.api.UpgradeAgent(ctx, r)
		switch {
		case dbaas.ErrorCode(err) == dbaas.Unavailable:
			return err
		case err != nil:
			end = err
			return nil
		case !u.Done:
			return errors.New(u.Progress)
		}
		return nil
	})
	return end
}

func (a *upgraded) requireVersion(version string) {
	a.t.Helper()
	testbed.Eventually(a.t, 20*time.Second, func() error {
		ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Second)
		defer cancel()
		r, err := a.api.Status(ctx)
		if err == nil && (r.AgentVersion != version || r.Status.Status != dbaas.GuestHealthy) {
			err = fmt.Errorf("the agent is %s, its database %s", r.AgentVersion, r.Status.Status)
		}
		return err
	})
}

// database gives the identity of the database's process.
func (a *upgraded) database() string {
	a.t.Helper()
	record, err := os.ReadFile(filepath.Join(a.dir, "units", "redis.json"))
	var u struct{ Process json.RawMessage }
	if err = errors.Join(err, json.Unmarshal(record, &u)); err != nil {
		a.t.Fatal(err)
	}
	return string(u.Process)
}

// TestUpgrade: an agent replaces itself by another build and by what is no agent at all; the database notices nothing.
func TestUpgrade(t *testing.T) {
	a := openUpgraded(t)
	before := a.database()
	two := filepath.Join(t.TempDir(), "two")
	build(t, two, "two")
	text, err := os.ReadFile(two)
	if err != nil {
		t.Fatal(err)
	}
	url, sums := mirror(t, map[string][]byte{
		"two": text, "exits": []byte("#!/bin/sh\nexit 1\n"), "silent": []byte("#!/bin/sh\nexec sleep 3600\n"), "nothing": []byte("no program"),
	})
	const patience = time.Minute
	for _, bad := range []struct {
		location, sum, reason string
		patience              time.Duration
	}{
		{"two", strings.Repeat("ab", 32), "another SHA-256", patience},
		{"nowhere", strings.Repeat("ab", 32), "404", patience},
		{"exits", sums["exits"], "ended by itself", patience},
		{"nothing", sums["nothing"], "cannot be started", patience},
		{"silent", sums["silent"], "was silent for 2s", 2 * time.Second},
	} {
		if err := a.upgrade(url+"/"+bad.location, bad.sum, bad.patience); dbaas.ErrorCode(err) != dbaas.Unprocessable || !strings.Contains(err.Error(), bad.reason) {
			t.Errorf("%s: %v, want %q", bad.location, err, bad.reason)
		}
		a.requireVersion("one")
	}
	if err := a.upgrade(url+"/two", sums["two"], patience); err != nil {
		t.Fatal(err)
	}
	a.requireVersion("two")
	if programs, _ := filepath.Glob(filepath.Join(a.dir, "program", "grove-agent-*")); len(programs) != 1 {
		t.Errorf("programs are left: %v", programs)
	}
	if err := a.upgrade(url+"/silent", sums["silent"], 2*time.Second); dbaas.ErrorCode(err) != dbaas.Unprocessable {
		t.Errorf("a silent one after a good one: %v", err)
	}
	a.requireVersion("two")
	a.unit.kill()
	a.requireVersion("two")
	next := a.installed + ".new"
	build(t, next, "three")
	if err := os.Rename(next, a.installed); err != nil { // as a package does
		t.Fatal(err)
	}
	a.unit.kill()
	a.requireVersion("three")
	if after := a.database(); after != before {
		t.Errorf("the database's process was %s and is %s", before, after)
	}
}

// TestUpgradeKilled: the agent is killed at each moment of its replacement, and it comes to its end all the same.
func TestUpgradeKilled(t *testing.T) {
	a := openUpgraded(t)
	before := a.database()
	two := filepath.Join(t.TempDir(), "two")
	build(t, two, "two")
	text, err := os.ReadFile(two)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	var mu sync.Mutex
	fetched := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		fetched++
		times := fetched
		mu.Unlock()
		_, _ = w.Write(text[:len(text)/2])
		if times <= 2 { // half of it is there
			_ = http.NewResponseController(w).Flush()
			a.unit.signal([]syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[times-1])
			<-r.Context().Done()
			return
		}
		_, _ = w.Write(text[len(text)/2:])
	}))
	defer s.Close()
	done := make(chan struct{})
	killed := make(chan []string, 1)
	go func() { // at each new state that is on disk
		var states [][]byte
		var names []string
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				killed <- names
				return
			case <-tick.C:
			}
			for _, name := range []string{"state.json", "confirmed"} {
				now, err := os.ReadFile(filepath.Join(a.dir, "program", name))
				seen := err != nil || bytes.Contains(now, []byte(`"attempts":2`)) || bytes.Contains(now, []byte(`"attempts":3`))
				for _, s := range states {
					seen = seen || bytes.Equal(s, now)
				}
				if !seen {
					states, names = append(states, now), append(names, name)
					a.unit.kill()
				}
			}
		}
	}()
	if err := a.upgrade(s.URL, hex.EncodeToString(sum[:]), time.Minute); err != nil {
		t.Error(err)
	}
	a.requireVersion("two")
	close(done)
	if at := <-killed; len(at) < 3 {
		t.Errorf("it was killed at %v only", at)
	} else {
		t.Logf("killed at %v", at)
	}
	if after := a.database(); after != before {
		t.Errorf("the database's process was %s and is %s", before, after)
	}
}
