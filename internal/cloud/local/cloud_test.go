package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// each runs a test with each kind of volumes.
func each(t *testing.T, test func(t *testing.T, kind VolumeKind)) {
	for _, kind := range kinds() {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

func TestDatabaseOutlivesTheCloud(t *testing.T) {
	each(t, func(t *testing.T, kind VolumeKind) {
		cfg := Config{Dir: t.TempDir(), Volumes: kind, Launcher: &embedded{}}
		c := openCloud(t, cfg)
		g := mustBuild(t, c, "guest")
		pid := databasePID(t, c, g)

		closeCloud(t, c, true)
		if !g.serves() {
			t.Fatal("the database ended with a cloud that keeps")
		}
		c = openCloud(t, cfg)
		if s := g.await(t, c, cloud.ServerActive); s.Fault != "" {
			t.Fatalf("%+v", s)
		}
		if now := databasePID(t, c, g); now != pid {
			t.Fatalf("process %d is now %d", pid, now)
		}

		closeCloud(t, c, false)
		checkClean(t, c.cfg.Dir)
		c = openCloud(t, cfg)
		g.awaitServing(t)
		data, err := os.ReadFile(filepath.Join(c.serverDir(g.id), dataName, "data.aof"))
		if err != nil || strings.Count(string(data), "started") != 2 {
			t.Fatalf("%q %v", data, err)
		}
		if err := wipe(t.Context(), c, g.id); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(c.serverDir(g.id)); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("its directory is left: %v", err)
		}
	})
}

func TestPowerCutAndStart(t *testing.T) {
	each(t, func(t *testing.T, kind VolumeKind) {
		c := openCloud(t, Config{Volumes: kind})
		g := mustBuild(t, c, "guest")
		if err := c.PowerOffServer(t.Context(), g.server); err != nil {
			t.Fatal(err)
		}
		g.await(t, c, cloud.ServerShutoff)
		if g.serves() {
			t.Fatal("the database survived")
		}
		checkClean(t, c.cfg.Dir)
		if err := c.StartServer(t.Context(), g.server); err != nil {
			t.Fatal(err)
		}
		g.awaitServing(t)
		g.await(t, c, cloud.ServerActive)
		if err := c.PowerOffServer(t.Context(), "nosuch"); dbaas.ErrorCode(err) != dbaas.NotFound {
			t.Fatal(err)
		}
	})
}

func TestResizedServerHasItsFlavorAndVolume(t *testing.T) {
	each(t, func(t *testing.T, kind VolumeKind) {
		launcher := &recording{}
		c := openCloud(t, Config{Volumes: kind, Launcher: launcher})
		g := mustBuild(t, c, "guest")
		if m := launcher.last(); m.Flavor.RAM != 512 || m.Host.Address+fmt.Sprintf(":%d", testPort) != g.address || string(m.Bootstrap) != "{}" {
			t.Fatalf("%+v", m)
		}
		if fi, err := os.Stat(launcher.last().BootstrapPath); err != nil || fi.Mode() != 0o600 {
			t.Fatalf("%v %v", fi, err)
		}
		if err := c.ResizeServer(t.Context(), g.server, "3"); err != nil {
			t.Fatal(err)
		}
		g.await(t, c, cloud.ServerVerifyResize)
		g.awaitServing(t)
		if m := launcher.last(); m.Flavor.RAM != 2048 {
			t.Fatalf("%+v", m.Flavor)
		}
		if err := c.ExtendVolume(t.Context(), g.volume, 2); err != nil {
			t.Fatal(err)
		}
		v := launcher.last().Host.Volume()
		err := v.Grow(t.Context())
		if errors.Is(err, host.ErrVolumeBusy) { // as its contract says
			units := unitsOf(t, c, g)
			if err := units.Stop(t.Context(), "db"); err != nil {
				t.Fatal(err)
			}
			err = v.Grow(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, total, err := v.Usage(t.Context()); err != nil || total < 1900<<20 {
			t.Fatalf("%d %v", total, err)
		}
	})
}

func unitsOf(t *testing.T, c *Cloud, g *testGuest) *host.Processes {
	t.Helper()
	units, err := host.OpenProcesses(filepath.Join(c.serverDir(g.id), agentName), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(units.Close)
	return units
}

// recording remembers what was launched.
type recording struct {
	embedded
	machines []Machine
}

func (r *recording) Launch(ctx context.Context, m Machine) (Agent, error) {
	r.mu.Lock()
	r.machines = append(r.machines, m)
	r.mu.Unlock()
	return r.embedded.Launch(ctx, m)
}

func (r *recording) last() Machine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.machines[len(r.machines)-1]
}

func TestAgentThatDiesIsLaunchedAgain(t *testing.T) {
	launcher := &embedded{}
	c := openCloud(t, Config{Volumes: VolumesDirectory, Launcher: launcher})
	g := mustBuild(t, c, "guest")
	pid := databasePID(t, c, g)
	m := c.machine(g.server)
	m.turn.Lock()
	agent := m.agent
	m.turn.Unlock()
	if err := agent.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another launch", func() bool {
		launcher.mu.Lock()
		defer launcher.mu.Unlock()
		return launcher.launches["guest"] == 2
	})
	if now := databasePID(t, c, g); now != pid || !g.serves() {
		t.Fatalf("the database went with its agent: %d, now %d", pid, now)
	}
}

func TestAgentProcesses(t *testing.T) {
	each(t, func(t *testing.T, kind VolumeKind) {
		cfg := Config{Dir: t.TempDir(), Volumes: kind, Launcher: ProcessLauncher{Binary: os.Args[0], Env: []string{helperEnv + "=agent"}}}
		c := openCloud(t, cfg)
		g := mustBuild(t, c, "guest")
		pid, agent := databasePID(t, c, g), agentPID(t, c, g)
		closeCloud(t, c, true)
		c = openCloud(t, cfg)
		g.await(t, c, cloud.ServerActive)
		eventually(t, "the agent is taken over", func() bool {
			m := c.machine(g.server)
			m.turn.Lock()
			defer m.turn.Unlock()
			return m.agent != nil
		})
		if now := agentPID(t, c, g); now != agent {
			t.Fatalf("agent %d is now %d", agent, now)
		}
		if err := syscall.Kill(agent, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a new agent", func() bool { now := agentPID(t, c, g); return now != 0 && now != agent })
		if now := databasePID(t, c, g); now != pid || !g.serves() {
			t.Fatalf("the database went with its agent: %d, now %d", pid, now)
		}
		if err := c.StopServer(t.Context(), g.server); err != nil {
			t.Fatal(err)
		}
		g.await(t, c, cloud.ServerShutoff)
		checkClean(t, c.cfg.Dir)
		if err := c.StartServer(t.Context(), g.server); err != nil {
			t.Fatal(err)
		}
		g.awaitServing(t)
	})
}

func agentPID(t *testing.T, c *Cloud, g *testGuest) int {
	t.Helper()
	units, err := host.OpenProcesses(filepath.Join(c.serverDir(g.id), machineDir), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer units.Close()
	s, err := units.State(t.Context(), agentUnit)
	if err != nil {
		t.Fatal(err)
	}
	return s.PID
}

func TestAddressThatWasTakenMeanwhile(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Volumes: VolumesDirectory}
	c := openCloud(t, cfg)
	g := mustBuild(t, c, "guest")
	closeCloud(t, c, false)
	l, err := net.Listen("tcp4", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c = openCloud(t, cfg)
	s := g.await(t, c, cloud.ServerError)
	address, port, _ := strings.Cut(g.address, ":")
	if !strings.Contains(s.Fault, address) || !strings.Contains(s.Fault, port) {
		t.Fatalf("fault: %q", s.Fault)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartServer(t.Context(), g.server); err != nil {
		t.Fatal(err)
	}
	g.awaitServing(t)
	if s = g.await(t, c, cloud.ServerActive); s.Fault != "" {
		t.Fatalf("%+v", s)
	}
}

func TestAddressWithAPortInUseIsNotGiven(t *testing.T) {
	c := openCloud(t, Config{Volumes: VolumesDirectory, Networks: []dbaas.Network{{ID: "n", Name: "n", CIDR: "127.79.3.0/30"}}})
	l, err := net.Listen("tcp4", fmt.Sprintf("127.79.3.1:%d", testPort))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	spec := cloud.PortSpec{GuestID: "a", Name: "a", TCPPorts: []int{testPort}}
	p, err := c.EnsurePort(t.Context(), spec)
	if err != nil || p.Address != "127.79.3.2" {
		t.Fatalf("%+v %v", p, err)
	}
	spec.GuestID = "b"
	if _, err = c.EnsurePort(t.Context(), spec); dbaas.ErrorCode(err) != dbaas.OverLimit {
		t.Fatal(err)
	}
	spec.Nic.IPAddress = "127.79.3.1"
	if _, err = c.EnsurePort(t.Context(), spec); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Fatal(err)
	}
}

func TestUsableAddresses(t *testing.T) {
	for cidr, want := range map[string]map[string]bool{
		"127.77.0.0/16": {"127.77.0.0": false, "127.77.0.1": true, "127.77.255.255": false, "127.77.3.0": false, "127.77.3.255": false, "127.78.0.1": false, "::1": false},
		"10.1.2.64/26":  {"10.1.2.64": false, "10.1.2.65": true, "10.1.2.127": false, "10.1.2.126": true},
	} {
		for a, ok := range want {
			if got := usable(netip.MustParsePrefix(cidr), netip.MustParseAddr(a)); got != ok {
				t.Errorf("%s in %s: %v", a, cidr, got)
			}
		}
	}
}

func TestSecondCloudInTheSameDirectoryIsRefused(t *testing.T) {
	c := openCloud(t, Config{Volumes: VolumesDirectory})
	if _, err := Open(t.Context(), c.cfg); err == nil {
		t.Fatal("opened twice")
	}
}

// TestLostVolumeIsNotMadeAnew: an empty database in place of a lost one is the worst of all answers.
func TestLostVolumeIsNotMadeAnew(t *testing.T) {
	each(t, func(t *testing.T, kind VolumeKind) {
		cfg := Config{Dir: t.TempDir(), Volumes: kind}
		c := openCloud(t, cfg)
		g := mustBuild(t, c, "guest")
		closeCloud(t, c, false)
		lost := filepath.Join(c.serverDir(g.id), dataName)
		if kind == VolumesLoop {
			lost = c.imagePath(g.volume, volume{GuestID: g.id})
		}
		if err := os.RemoveAll(lost); err != nil {
			t.Fatal(err)
		}
		c = openCloud(t, cfg)
		if s := g.await(t, c, cloud.ServerError); !strings.Contains(s.Fault, "gone") {
			t.Fatalf("%+v", s)
		}
		v, err := c.Volume(t.Context(), g.volume)
		if err != nil || v.Status != cloud.VolumeError || v.Fault == "" {
			t.Fatalf("%+v %v", v, err)
		}
		if _, err := os.Stat(lost); kind == VolumesLoop && !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("made anew: %v", err)
		}
		if err := wipe(t.Context(), c, g.id); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLeaksShow: what has no record is owned nevertheless, and can be deleted.
func TestLeaksShow(t *testing.T) {
	each(t, func(t *testing.T, kind VolumeKind) {
		c := openCloud(t, Config{Volumes: kind})
		g := mustBuild(t, c, "guest")
		c.mu.Lock()
		for _, err := range []error{c.servers.remove(g.server), c.volumes.remove(g.volume)} {
			if err != nil {
				t.Error(err)
			}
		}
		m := c.machines[g.server]
		c.mu.Unlock()
		m.turn.Lock()
		if err := m.agent.Kill(); err != nil {
			t.Error(err)
		}
		m.agent = nil
		m.turn.Unlock()
		all, err := c.Owned(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, r := range all {
			seen[r.Kind] = true
		}
		if !seen[cloud.KindServer] || kind == VolumesLoop && !seen[cloud.KindVolume] {
			t.Fatalf("%+v", all)
		}
		if err := wipe(t.Context(), c, g.id); err != nil {
			t.Fatal(err)
		}
		if all, err = c.Owned(t.Context(), ""); err != nil || len(all) > 0 {
			t.Fatalf("left: %v %v", all, err)
		}
		checkClean(t, c.cfg.Dir)
	})
}

// churn builds and deletes guests until it is killed.
func churn(dir string, kind VolumeKind) error {
	ctx := context.Background()
	c, err := Open(ctx, Config{Dir: dir, Volumes: kind, Launcher: &embedded{}})
	if err != nil {
		return err
	}
	fmt.Println("open")
	for {
		id := uuid.NewString()
		g, err := build(ctx, c, id)
		if err != nil {
			return err
		}
		for _, do := range []func() error{
			func() error { return c.RebootServer(ctx, g.server) },
			func() error { return c.ExtendVolume(ctx, g.volume, 2) },
			func() error { return c.ResizeServer(ctx, g.server, "2") },
		} {
			if rand.IntN(2) == 0 {
				_ = do() // may be refused while the last one is at work
			}
		}
		if rand.IntN(3) > 0 {
			if err := wipe(ctx, c, id); err != nil {
				return err
			}
		}
	}
}

// TestKilledAtAnyMoment kills whoever holds the cloud, again and again, and looks each time that the next one finds a
// whole: all that is there is owned, what should run comes to run, and all can be deleted.
func TestKilledAtAnyMoment(t *testing.T) {
	each(t, func(t *testing.T, kind VolumeKind) {
		dir := t.TempDir()
		t.Cleanup(func() { sweep(t, dir) })
		for round := range 5 {
			killDuringChurn(t, dir, kind)
			checkAfterKill(t, dir, kind, round%2 == 1)
		}
	})
}

func killDuringChurn(t *testing.T, dir string, kind VolumeKind) {
	t.Helper()
	cmd := exec.Command(os.Args[0], dir, string(kind))
	cmd.Env = append(os.Environ(), helperEnv+"=churn")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	_, err = io.ReadFull(out, b)
	time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil || complaint.Len() > 0 {
		t.Fatalf("churn: %v %s", err, complaint.String())
	}
}

func checkAfterKill(t *testing.T, dir string, kind VolumeKind, empty bool) {
	t.Helper()
	ctx := context.Background()
	c, err := Open(ctx, Config{Dir: dir, Volumes: kind, Launcher: &embedded{}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeCloud(t, c, false)
	all, err := c.Owned(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	guests := map[string]bool{}
	for _, r := range all {
		guests[r.GuestID] = true
	}
	entries, err := os.ReadDir(filepath.Join(c.cfg.Dir, "servers"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !guests[e.Name()] {
			t.Errorf("directory of guest %s is owned by nobody", e.Name())
		}
	}
	for guest := range guests { // whoever was half built is built, at the second call of each Ensure
		var g *testGuest
		eventually(t, "guest "+guest+" is built", func() bool {
			if g, err = build(ctx, c, guest); err != nil && !strings.Contains(err.Error(), "is being deleted") {
				t.Fatalf("guest %s: %v", guest, err)
			}
			return err == nil
		})
		eventually(t, "guest "+guest+" runs", func() bool {
			s, err := c.Server(ctx, g.server)
			if err != nil {
				t.Fatal(err)
			}
			return (s.Status == cloud.ServerActive || s.Status == cloud.ServerVerifyResize) && g.serves()
		})
	}
	if !empty {
		return
	}
	for guest := range guests {
		if err := wipe(ctx, c, guest); err != nil {
			t.Fatal(err)
		}
	}
	if all, err = c.Owned(ctx, ""); err != nil || len(all) > 0 {
		t.Fatalf("left: %v %v", all, err)
	}
	checkClean(t, c.cfg.Dir)
}

// TestPowerOffIsFinished: a power cut that groved began and did not live to finish is finished by the next, and the server
// does not count as off before.
func TestPowerOffIsFinished(t *testing.T) {
	dir := t.TempDir()
	first := openCloud(t, Config{Dir: dir})
	g, err := build(t.Context(), first, "guest")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the database answers", func() bool { return greets(g.address) })
	closeCloud(t, first, true)
	if off, err := first.beginPowerOff(g.server); off || err != nil { // the record is written, nothing is done
		t.Fatalf("off: %v, %v", off, err)
	}
	if s := first.servers.rows[g.server]; s.Status == cloud.ServerShutoff || !greets(g.address) {
		t.Fatalf("off too early: %+v", s)
	}
	second := openCloud(t, Config{Dir: dir})
	g.await(t, second, cloud.ServerShutoff)
	if greets(g.address) {
		t.Fatal("a database of a server without power answers")
	}
	if err := second.StartServer(t.Context(), g.server); err != nil {
		t.Fatal(err)
	}
	g.await(t, second, cloud.ServerActive)
	eventually(t, "the database answers again", func() bool { return greets(g.address) })
}
