package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func TestMain(m *testing.M) { testbed.Main(m) }

// TestLinks: what the agent carries, every tenant's server carries.
func TestLinks(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, banned := range []string{
			"gorm.io", "gophercloud", "sqlite", "jackc", "mongo-driver", "prometheus", "opentelemetry", "cobra", "gorilla", "protobuf", "yaml",
			"grove/api", "grove/internal/store", "grove/internal/control", "grove/taskmanager", "grove/internal/config", "html/template", "encoding/xml",
		} {
			if strings.Contains(dep, banned) {
				t.Errorf("the agent links %s", dep)
			}
		}
	}
}

// resident gives what a process has in memory, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kb), "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("the kernel tells no VmRSS")
	return 0
}

// TestAgent runs the real program against a real broker and a real database: it does as told, stays small, and ends
// without its database.
func TestAgent(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "grove-agent")
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if info, err := os.Stat(binary); err != nil || info.Size() > 15<<20 {
		t.Errorf("the program is %v, %v; at most 15 MiB", info, err)
	}
	c := connect(t)
	h := datastoretest.Machine(t)
	b := c.account(t, h)
	agent := launch(t, binary, b, h)

	first := c.await(t, func(r *guest.StatusReport) bool { return len(r.PublicKey) > 0 })
	sealed, err := guest.SealSecrets(first.PublicKey, map[string]string{"password": datastoretest.Password})
	if err != nil {
		t.Fatal(err)
	}
	keys := func(context.Context, string, []byte) ([]byte, error) { return b.RPCKey, nil }
	api := guest.NewClient(c.transport, "test", keys).Guest(&dbaas.Guest{ID: b.GuestID, Queue: b.Queue})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	d := datastoretest.Desired("7.0", h)
	d.Secrets = nil
	fence := guest.Fence{GroupEpoch: 1, OperationID: "op", LeaseEpoch: 1, CommandID: "prepare"}
	testbed.Eventually(t, time.Minute, func() error { // our side may be connecting still
		return api.Prepare(ctx, guest.PrepareRequest{Fence: fence, Desired: d, Sealed: sealed})
	})
	c.await(t, func(r *guest.StatusReport) bool { return r.Status.Status == dbaas.GuestHealthy })
	for i := range 1000 {
		if _, err := api.Status(ctx); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			fence.CommandID = fmt.Sprint("configure-", i)
			d.Values = map[string]any{"hz": 10 + i/100}
			if _, err := api.Configure(ctx, guest.ConfigureRequest{Fence: fence, Desired: d}); err != nil {
				t.Fatal(err)
			}
		}
	}
	rss := resident(t, agent.Process.Pid)
	t.Logf("resident after 1,000 commands: %.1f MiB", float64(rss)/(1<<20))
	if rss > 25<<20 {
		t.Errorf("the agent takes %d KiB after 1,000 commands; at most 25 MiB", rss>>10)
	}

	if err := errors.Join(agent.Process.Signal(syscall.SIGTERM), agent.Wait()); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
	again, err := host.Spec{Dir: h.Dir, DataDir: h.DataDir}.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer datastoretest.Destroy(t, again)
	if s, err := again.Units.State(t.Context(), "redis"); err != nil || !s.Running {
		t.Errorf("the database has ended with the agent: %+v, %v", s, err)
	}
}

// launch starts the program.
func launch(t *testing.T, binary string, b guest.Bootstrap, h *host.Host) *exec.Cmd {
	t.Helper()
	spec := host.Spec{Dir: h.Dir, DataDir: h.DataDir, Address: h.Address, SizeFile: filepath.Join(filepath.Dir(h.DataDir), "size")}
	text, err := json.Marshal(bootstrap{Bootstrap: b, Host: &spec})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--config", config)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // one that has ended is as well
		_ = cmd.Wait()
		left, err := spec.Open(nil)
		if err != nil {
			t.Error(err)
			return
		}
		datastoretest.Destroy(t, left) // its database goes on
	})
	return cmd
}

// control is the control plane as the agent sees it.
type control struct {
	transport rpc.Transport
	accounts  *amqp.Accounts
	vhostURL  string
	key       []byte
	reports   chan *guest.StatusReport
}

func connect(t *testing.T) *control {
	t.Helper()
	broker := testbed.RabbitMQ(t)
	vhost, url := broker.Vhost(t)
	c := &control{vhostURL: url, key: []byte("a key of thirty-two bytes, or so"), reports: make(chan *guest.StatusReport, 1000)}
	var err error
	if c.accounts, err = amqp.NewAccounts(broker.ManagementURL, vhost, nil); err != nil {
		t.Fatal(err)
	}
	if c.transport, err = amqp.Dial(t.Context(), amqp.Config{URL: url, Role: amqp.RoleControl}); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = c.transport.Serve(t.Context(), rpc.TopicReports, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
			r, err := guest.VerifyReport(c.key, m)
			if err == nil {
				c.reports <- r
			}
			return nil, err
		})
	}()
	t.Cleanup(func() {
		if err := c.transport.Close(); err != nil {
			t.Error(err)
		}
		<-served
	})
	return c
}

// account makes a guest's login, and its bootstrap file.
func (c *control) account(t *testing.T, h *host.Host) guest.Bootstrap {
	t.Helper()
	b := guest.Bootstrap{GuestID: "guest-1", Datastore: "redis", Version: "7.0", Address: h.Address, Queue: "0123456789abcdef0123456789abcdef", RPCKey: c.key}
	if err := c.accounts.Ensure(t.Context(), rpc.Account{GuestID: b.GuestID, Queue: b.Queue, Password: "broker-password"}); err != nil {
		t.Fatal(err)
	}
	scheme, rest, _ := strings.Cut(c.vhostURL, "://")
	_, rest, _ = strings.Cut(rest, "@")
	b.RPCURL = scheme + "://" + b.GuestID + ":broker-password@" + rest
	return b
}

func (c *control) await(t *testing.T, wanted func(r *guest.StatusReport) bool) *guest.StatusReport {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case r := <-c.reports:
			if wanted(r) {
				return r
			}
		case <-deadline:
			t.Fatal("the report did not come")
		}
	}
}

func TestBootstrap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bootstrap.json")
	for _, text := range []string{"", "{", "{}", `{"guest_id": "x"}`, `{"guest_id": "x", "rpc_url": "amqp://"}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readBootstrap(path); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	t.Setenv(host.SpecEnv, "")
	if _, err := machineOf(bootstrap{}); err == nil {
		t.Error("a machine that is not described is taken")
	}
}

func FuzzBootstrap(f *testing.F) {
	f.Add([]byte(`{"guest_id": "x", "rpc_url": "amqp://u:p@h", "rpc_key": "AAAA", "host": {"dir": "/x"}}`))
	path := filepath.Join(f.TempDir(), "bootstrap.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := readBootstrap(path); err == nil && (b.GuestID == "" || b.RPCURL == "" || len(b.RPCKey) == 0) {
			t.Errorf("%q is taken as %+v", text, b.GuestID)
		}
	})
}
