package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/host"
)

// helperEnv makes this test binary play a part of its own instead of running tests.
const helperEnv = "LOCAL_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		os.Exit(m.Run())
	case "database":
		exit(database(os.Args[1], os.Args[2]))
	case "forward":
		exit(forwarderHelper(os.Args[1]))
	case "agent":
		exit(agentProcess(os.Getenv(host.SpecEnv)))
	case "churn":
		exit(churn(os.Args[1], VolumeKind(os.Args[2])))
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// database listens on an address until it is told to stop, and holds a file open on its volume, as databases do.
func database(address, dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "data.aof"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString("started\n"); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			if c, err := l.Accept(); err == nil {
				_, _ = c.Write([]byte("hello\n"))
				_ = c.Close()
			}
		}
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return f.Close()
}

// testPort is what the tests' databases listen on.
const testPort = 17379

// runDatabase is what an agent does: it mounts the volume, starts the database and starts it again when it ends unasked.
func runDatabase(ctx context.Context, h *host.Host) error {
	units := h.Units.(*host.Processes)
	ended := units.Watch(ctx)
	if err := h.Volume.EnsureMounted(ctx); err != nil {
		return err
	}
	for {
		if s, err := units.State(ctx, "db"); err != nil || !s.Running && !s.Stopped {
			if err := startDatabase(ctx, h); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
		}
	}
}

func startDatabase(ctx context.Context, h *host.Host) error {
	if ok, err := h.Volume.Mounted(ctx); err != nil || !ok {
		return fmt.Errorf("volume is not mounted: %w", err)
	}
	return h.Units.Start(ctx, host.UnitSpec{
		Name: "db", Dir: h.DataDir, StopTimeout: 5, Env: []string{helperEnv + "=database"},
		Argv: []string{os.Args[0], net.JoinHostPort(h.Address, strconv.Itoa(testPort)), h.DataDir},
	})
}

func agentProcess(specPath string) error {
	spec, err := host.ReadSpec(specPath)
	if err != nil {
		return err
	}
	h, err := spec.Open(nil)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	return runDatabase(ctx, h)
}

// embedded launches agents as goroutines.
type embedded struct {
	mu       sync.Mutex
	launches map[string]int // by guest id
	failures []error
}

type goroutineAgent struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (a *goroutineAgent) Stop(context.Context) error { a.cancel(); <-a.done; return nil }
func (a *goroutineAgent) Kill() error                { a.cancel(); <-a.done; return nil }
func (a *goroutineAgent) Done() <-chan struct{}      { return a.done }

// Launch starts the agent.
func (l *embedded) Launch(_ context.Context, m Machine) (Agent, error) {
	h, err := m.Host.Open(nil)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.launches == nil {
		l.launches = map[string]int{}
	}
	l.launches[m.GuestID]++
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	a := &goroutineAgent{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		err := runDatabase(ctx, h)
		h.Units.(*host.Processes).Close()
		if err != nil && ctx.Err() == nil {
			l.mu.Lock()
			l.failures = append(l.failures, err)
			l.mu.Unlock()
		}
	}()
	return a, nil
}

// kinds are the kinds of volumes that can be tested here.
func kinds() []VolumeKind {
	if os.Geteuid() == 0 {
		return []VolumeKind{VolumesLoop, VolumesDirectory}
	}
	return []VolumeKind{VolumesDirectory}
}

// openCloud opens a cloud that is closed with the test, and leaves nothing on the machine.
func openCloud(t *testing.T, cfg Config) *Cloud {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Launcher == nil {
		cfg.Launcher = &embedded{}
	}
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("test", t.Name())
	}
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeCloud(t, c, false); checkClean(t, c.cfg.Dir) })
	return c
}

func closeCloud(t *testing.T, c *Cloud, keep bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.Close(ctx, keep); err != nil {
		t.Error(err)
	}
}

// checkClean finds processes, mounts and loop devices that were left.
func checkClean(t *testing.T, dir string) {
	t.Helper()
	if strays, err := host.Strays(dir); err != nil || len(strays) > 0 {
		t.Errorf("processes left: %v %v", strays, err)
	}
	if loops, err := loopsBelow(dir); err != nil || len(loops) > 0 {
		t.Errorf("loop devices left: %v %v", loops, err)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), dir+"/") {
		t.Errorf("mounts left below %s: %v", dir, err)
	}
}

// sweep ends what a killed cloud has left, for tests that fail half way.
func sweep(t *testing.T, dir string) {
	t.Helper()
	_ = host.KillStrays(context.Background(), dir)
	mounts, _ := filepath.Glob(filepath.Join(dir, "servers", "*", dataName))
	for _, m := range mounts {
		_ = host.BlockVolume{MountPoint: m}.Unmount(context.Background())
	}
	_ = detachLoops(dir)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// testGuest makes a guest's resources.
type testGuest struct {
	id                   string
	volume, port, server string
	address              string
}

func build(ctx context.Context, c *Cloud, id string) (*testGuest, error) {
	g := &testGuest{id: id}
	sg, err := c.EnsureSecurityGroup(ctx, cloud.SecurityGroupSpec{GuestID: id, Name: id, TCPPorts: []int{testPort}})
	if err != nil {
		return nil, err
	}
	p, err := c.EnsurePort(ctx, cloud.PortSpec{GuestID: id, Name: id, SecurityGroupID: sg, TCPPorts: []int{testPort}})
	if err != nil {
		return nil, err
	}
	v, err := c.EnsureVolume(ctx, cloud.VolumeSpec{GuestID: id, Name: id, SizeGB: 1})
	if err != nil {
		return nil, err
	}
	s, err := c.EnsureServer(ctx, cloud.ServerSpec{GuestID: id, Name: id, FlavorID: "1", PortID: p.ID, VolumeID: v.ID, UserData: []byte("{}")})
	if err != nil {
		return nil, err
	}
	if s.Status == cloud.ServerError {
		return nil, errors.New(s.Fault)
	}
	g.volume, g.port, g.server, g.address = v.ID, p.ID, s.ID, net.JoinHostPort(p.Address, strconv.Itoa(testPort))
	return g, nil
}

func mustBuild(t *testing.T, c *Cloud, id string) *testGuest {
	t.Helper()
	g, err := build(t.Context(), c, id)
	if err != nil {
		t.Fatal(err)
	}
	g.awaitServing(t)
	return g
}

// wipe deletes all that is owned by a guest, as the delete workflow does.
func wipe(ctx context.Context, c *Cloud, id string) error {
	for _, kind := range []string{cloud.KindServer, cloud.KindVolume, cloud.KindPort, cloud.KindSecurityGroup} {
		all, err := c.Owned(ctx, id)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Kind != kind {
				continue
			}
			del := map[string]func(context.Context, string) error{cloud.KindServer: c.DeleteServer, cloud.KindVolume: c.DeleteVolume,
				cloud.KindPort: c.DeletePort, cloud.KindSecurityGroup: c.DeleteSecurityGroup}[kind]
			if err := del(ctx, r.ID); err != nil {
				return fmt.Errorf("delete %s %s: %w", r.Kind, r.ID, err)
			}
		}
	}
	return nil
}

func (g *testGuest) serves() bool {
	c, err := net.DialTimeout("tcp4", g.address, time.Second)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	b := make([]byte, 6)
	_, err = c.Read(b)
	return err == nil && string(b) == "hello\n"
}

func (g *testGuest) awaitServing(t *testing.T) {
	t.Helper()
	eventually(t, "database serves on "+g.address, g.serves)
}

func (g *testGuest) await(t *testing.T, c *Cloud, status cloud.ServerStatus) *cloud.Server {
	t.Helper()
	var s *cloud.Server
	eventually(t, string(status), func() bool {
		var err error
		if s, err = c.Server(context.Background(), g.server); err != nil {
			t.Fatal(err)
		}
		return s.Status == status
	})
	return s
}

// databasePID is the process that serves a guest.
func databasePID(t *testing.T, c *Cloud, g *testGuest) int {
	t.Helper()
	var pid int
	err := withUnits(c.serverDir(g.id), func(u *host.Processes) error {
		s, err := u.State(context.Background(), "db")
		pid = s.PID
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// asNobody runs tests of this binary again as an ordinary user.
func asNobody(t *testing.T, tests string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return // is one
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("there is no user nobody")
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	dir, err := os.MkdirTemp("", "nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary := filepath.Join(dir, "local.test")
	if out, err := exec.Command("cp", os.Args[0], binary).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run", tests)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
}
