package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// trial is a database under test.
type trial struct {
	*Guest
	desired datastore.Desired
}

// up starts a database on a machine of its own.
func up(t *testing.T, version string) *trial {
	t.Helper()
	return upOn(t, datastoretest.Machine(t), version)
}

func upOn(t *testing.T, h *host.Host, version string) *trial {
	t.Helper()
	g := &trial{Guest: newGuest(h), desired: datastoretest.Desired(version, h)}
	t.Cleanup(func() { _ = g.Close() })
	datastoretest.Up(t, g, g.desired)
	return g
}

// admin is the agent's own connection.
func (g *trial) admin(t testing.TB) *client {
	t.Helper()
	r, err := g.require()
	if err != nil {
		t.Fatal(err)
	}
	c, err := g.connect(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tenant logs in with the first password.
func (g *trial) tenant(t *testing.T) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(g.host.Address, strconv.Itoa(port)), Password: datastoretest.Password,
		MaxRetries: -1, DisableIdentity: true, Protocol: 2, ReadTimeout: 20 * time.Second,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (g *trial) pid(t *testing.T) int {
	t.Helper()
	s, err := g.host.Units.State(t.Context(), unit)
	if err != nil {
		t.Fatal(err)
	}
	return s.PID
}

func (g *trial) restart(t *testing.T) {
	t.Helper()
	if err := errors.Join(g.Stop(t.Context()), g.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	datastoretest.Await(t, g, dbaas.GuestHealthy)
}

// TestTenantCommands tries as a tenant what it may and what it may not.
func TestTenantCommands(t *testing.T) {
	t.Parallel()
	forbidden := []string{
		"config get maxmemory", "config set hz 20", "config rewrite", "config resetstat", "config help",
		"acl list", "acl setuser x", "acl getuser default", "acl load", "acl save", "acl users", "acl log", "acl cat", "acl genpass", "acl deluser x",
		"module list", "module load /tmp/x.so", "debug sleep 0", "debug object k", "replicaof no one", "slaveof no one",
		"shutdown nosave", "monitor", "save", "bgsave", "bgrewriteaof", "failover", "failover abort", "psync ? -1", "sync",
		"replconf listening-port 1", "migrate 127.0.0.1 1 k 0 100", "client kill id 0", "client pause 1", "client unpause",
		"client list", "client no-evict on", "swapdb 0 1", "cluster meet 127.0.0.1 1", "cluster reset", "cluster failover", "cluster addslots 1",
		"cluster flushslots", "cluster forget x", "slowlog reset", "latency reset", "pfdebug getreg x", "script debug no", "pfselftest", "restore-asking k 0 x",
	}
	allowed := []string{
		"ping", "info", "info memory", "keys *", "set k v", "get k", "sort l", "sort_ro l", "flushall", "flushdb", "role", "lastsave", "wait 0 1",
		"acl whoami", "latency latest", "latency history command", "latency doctor", "slowlog get", "slowlog len",
		"client id", "client setname x", "client getname", "client info", "memory usage k", "object help", "scan 0", "eval return(1) 0", "script flush",
		"subscribe c", "publish c m", "multi", "watch k", "command count", "hello 2", "select 1", "dbsize", "dump k", "function list", "xadd s * a b",
		"randomkey", "lolwut", "reset",
	}
	clusterOff := []string{"cluster info", "cluster nodes", "cluster slots", "cluster shards", "cluster myid", "cluster keyslot k", "cluster countkeysinslot 1", "cluster getkeysinslot 1 1"}
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureAccount)
		g := up(t, version)
		if version != redis70 {
			allowed = append(allowed, "waitaof 0 0 1")
		}
		try := func(command string) error {
			c := g.tenant(t).Conn() // a new one each time: some commands change it
			defer func() { _ = c.Close() }()
			var args []any
			for _, word := range strings.Fields(command) {
				args = append(args, word)
			}
			return c.Do(t.Context(), args...).Err()
		}
		for _, command := range forbidden {
			if err := try(command); !hasPrefix(err, "NOPERM", "ERR DEBUG command not allowed", "ERR MODULE command not allowed") {
				t.Errorf("a tenant may %s: %v", command, err)
			}
		}
		for _, command := range allowed {
			if err := try(command); err != nil && !errors.Is(err, redis.Nil) {
				t.Errorf("a tenant may not %s: %v", command, err)
			}
		}
		for _, command := range clusterOff { // refused for another reason
			if err := try(command); hasPrefix(err, "NOPERM") {
				t.Errorf("a tenant may not %s: %v", command, err)
			}
		}
	})
}

// closed tells whether a file has the mode; where the server runs as a user of its own, that user may read it too.
func (g *trial) closed(info os.FileInfo, mode os.FileMode) bool {
	if u := g.host.Owner; u != nil && info.Sys().(*syscall.Stat_t).Gid == uint32(u.GID) {
		return info.Mode().Perm()&0o007 == 0
	}
	return info.Mode().Perm() == mode
}

// TestAccounts looks at what is written of passwords, and at who may come in how.
func TestAccounts(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureAccount)
		g := up(t, version)
		b, err := os.ReadFile(g.path(aclFile))
		if err != nil || !strings.HasPrefix(string(b), "user default reset on #"+hashPassword(datastoretest.Password)+" ") {
			t.Errorf("the accounts are %q, %v", b, err)
		}
		for _, name := range []string{recordFile, aclFile, configFile} {
			if info, err := os.Stat(g.path(name)); err != nil || !g.closed(info, 0o600) {
				t.Errorf("%s: %v, %v; only its owner may read it", name, info, err)
			}
		}
		for _, dir := range []string{g.dir, g.data} {
			if info, err := os.Stat(dir); err != nil || !g.closed(info, 0o700) {
				t.Errorf("%s: %v, %v; only its owner may look into it", dir, info, err)
			}
		}
		anybody := redis.NewClient(&redis.Options{Addr: net.JoinHostPort(g.host.Address, strconv.Itoa(port)), MaxRetries: -1, DisableIdentity: true, Protocol: 2})
		defer func() { _ = anybody.Close() }()
		if err := anybody.Get(t.Context(), "k").Err(); !hasPrefix(err, "NOAUTH") {
			t.Errorf("a stranger gets %v", err)
		}
	})
}

// TestUsersCannotLockUsOut fills all connections, and starves them for memory; the agent still sees and configures.
func TestUsersCannotLockUsOut(t *testing.T) {
	t.Parallel()
	g := up(t, redis70)
	g.desired.Values = map[string]any{"maxclients": 50, "maxmemory-clients": "1mb"}
	g.desired.Secrets = nil
	if _, err := g.Configure(t.Context(), g.desired); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range 80 {
		c, err := net.Dial("tcp", net.JoinHostPort(g.host.Address, strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	testbed.Eventually(t, 10*time.Second, func() error {
		s := g.Status(t.Context())
		if s.Status != dbaas.GuestHealthy {
			t.Fatalf("with all connections in use the database is %s (%s)", s.Status, s.Cause)
		}
		if s.Metrics["connected_clients"] < 50 || s.Metrics["rejected_connections"] == 0 {
			return fmt.Errorf("%v clients, %v rejected", s.Metrics["connected_clients"], s.Metrics["rejected_connections"])
		}
		return nil
	})
	g.desired.Values = nil
	if _, err := g.Configure(t.Context(), g.desired); err != nil {
		t.Error(err)
	}
}

// TestRefusedValuesLeaveEverything compares files and server before and after a refusal.
func TestRefusedValuesLeaveEverything(t *testing.T) {
	t.Parallel()
	g := up(t, redis70)
	snapshot := func() (files string, running settings) {
		for _, name := range []string{recordFile, configFile, aclFile} {
			b, err := os.ReadFile(g.path(name))
			if err != nil {
				t.Fatal(err)
			}
			files += string(b)
		}
		running, err := g.admin(t).configGet(t.Context(), "*")
		if err != nil {
			t.Fatal(err)
		}
		return files, running
	}
	files, running := snapshot()
	d := g.desired
	d.Values = map[string]any{"activedefrag": true, "hz": 33, "maxmemory-policy": "allkeys-lfu"}
	d.Secrets = map[string]string{"password": "never-to-be"}
	_, err := g.Configure(t.Context(), d)
	if dbaas.ErrorCode(err) != dbaas.Unprocessable || !strings.Contains(dbaas.ErrorMessage(err), `"activedefrag"`) {
		t.Errorf("the refusal is %v", err)
	}
	filesAfter, runningAfter := snapshot()
	if files != filesAfter {
		t.Error("a refused change has changed the files")
	}
	for name := range running {
		if running[name] != runningAfter[name] {
			t.Errorf("a refused change has made %s %q", name, runningAfter[name])
		}
	}
	if err := g.tenant(t).Ping(t.Context()).Err(); err != nil {
		t.Errorf("the password does not work any more: %v", err)
	}
}

// TestFilesThatCannotBeWritten makes the agent's directory unwritable half way: the server is put back.
func TestFilesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	g := up(t, redis70)
	d := g.desired
	d.Values = map[string]any{"hz": 33}
	// In the place of a file a directory cannot be replaced by rename.
	if err := errors.Join(os.Remove(g.path(aclFile)), os.MkdirAll(filepath.Join(g.path(aclFile), "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Configure(t.Context(), d); err == nil {
		t.Error("the files could not be written, and nobody says so")
	}
	running, err := g.admin(t).configGet(t.Context(), "hz")
	if err != nil || running["hz"] != "10" {
		t.Errorf("hz is %v, %v", running, err)
	}
	if err := os.RemoveAll(g.path(aclFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Configure(t.Context(), d); err != nil {
		t.Error(err)
	}
}

// TestConfigurationThatKeepsItFromStarting: the tenant reads which value it was.
func TestConfigurationThatKeepsItFromStarting(t *testing.T) {
	t.Parallel()
	h := datastoretest.Machine(t)
	g := newGuest(h)
	d := datastoretest.Desired(redis70, h)
	d.Values = map[string]any{"activedefrag": true}
	if err := g.Prepare(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); dbaas.ErrorCode(err) != dbaas.Unprocessable || !strings.Contains(err.Error(), "activedefrag") {
		t.Errorf("start gave %v", err)
	}
	if s := g.Status(t.Context()); s.Status != dbaas.GuestFailed || !strings.Contains(s.Cause, "activedefrag") {
		t.Errorf("the status is %s (%s)", s.Status, s.Cause)
	}
	d.Values = nil
	if err := g.Prepare(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	datastoretest.Up(t, g, d)
}

// TestResize changes the flavor of a running database.
func TestResize(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureResize)
		g := up(t, version)
		maxmemory := func() string {
			t.Helper()
			running, err := g.admin(t).configGet(t.Context(), "maxmemory")
			if err != nil {
				t.Fatal(err)
			}
			return running["maxmemory"]
		}
		pid := g.pid(t)
		for _, ram := range []int{2048, 512} {
			g.desired.FlavorRAM = ram
			if _, err := g.Configure(t.Context(), g.desired); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint(sizing(datastore.Sizing{FlavorRAM: ram}).ceiling); maxmemory() != want {
				t.Errorf("maxmemory is %s, want %s", maxmemory(), want)
			}
		}
		if g.pid(t) != pid {
			t.Error("the resize has restarted the server")
		}
	})
}

// TestLongSocketPath: the kernel's limit on the names of sockets is not ours.
func TestLongSocketPath(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
		g := upOn(t, datastoretest.MachineIn(t, dir), version)
		if err := g.tenant(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
			t.Error(err)
		}
		g.restart(t)
	})
}

// TestSilentServer stops the process in its tracks: it is alive, and cannot serve.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	g := up(t, redis70)
	process, err := os.FindProcess(g.pid(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Signal(stopSignal); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if s := g.Status(ctx); s.Status != dbaas.GuestBlocked || s.Cause != causeSilent {
		t.Errorf("a stopped process is %s (%s)", s.Status, s.Cause)
	}
	if err := process.Signal(continueSignal); err != nil {
		t.Fatal(err)
	}
	datastoretest.Await(t, g, dbaas.GuestHealthy)
}

// TestBusyScript: a script that does not end keeps everybody waiting, and the tenant reads so.
func TestBusyScript(t *testing.T) {
	t.Parallel()
	g := up(t, redis70)
	g.desired.Values = map[string]any{"busy-reply-threshold": 50}
	if _, err := g.Configure(t.Context(), g.desired); err != nil {
		t.Fatal(err)
	}
	c := g.tenant(t)
	ended := make(chan error, 1)
	go func() { ended <- c.Eval(context.Background(), "while true do end", nil).Err() }()
	testbed.Eventually(t, 10*time.Second, func() error {
		if s := g.Status(t.Context()); s.Cause != causeBusy {
			return fmt.Errorf("%s (%s)", s.Status, s.Cause)
		}
		return nil
	})
	if err := g.tenant(t).ScriptKill(t.Context()).Err(); err != nil {
		t.Error(err)
	}
	<-ended
	datastoretest.Await(t, g, dbaas.GuestHealthy)
}

// TestPortTaken: another program has the port; the database waits for it and says so.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	h := datastoretest.Machine(t)
	l, err := net.Listen("tcp", net.JoinHostPort(h.Address, strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(h)
	if err := g.Prepare(t.Context(), datastoretest.Desired(redis70, h)); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("start gave %v", err)
	}
	if s := g.Status(t.Context()); s.Status != dbaas.GuestBlocked || !strings.Contains(s.Cause, "taken by another program") {
		t.Errorf("the status is %s (%s)", s.Status, s.Cause)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	datastoretest.Await(t, g, dbaas.GuestHealthy)
}

// TestOtherVersion: the program is not of the version that the data are for.
func TestOtherVersion(t *testing.T) {
	t.Parallel()
	h := datastoretest.Machine(t)
	fake := filepath.Join(t.TempDir(), "redis-server")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\necho Redis server v=7.2.4 sha=0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	installed := h.Programs
	h.Programs = func(string) []string { return []string{fake} }
	if err := newGuest(h).Prepare(t.Context(), datastoretest.Desired(redis70, h)); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("prepare gave %v", err)
	}
	h.Programs = installed
	if err := newGuest(h).Prepare(t.Context(), datastoretest.Desired("6.2", h)); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("prepare gave %v", err)
	}
	d := datastoretest.Desired(redis70, h)
	d.Secrets = nil
	if err := newGuest(h).Prepare(t.Context(), d); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("prepare without a password gave %v", err)
	}
}
