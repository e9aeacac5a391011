package e2e

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/testbed"
)

// relay leads connections to a server until it is cut: then those that are there end, and new ones are refused.
type relay struct {
	t        *testing.T
	to       string
	address  string
	mu       sync.Mutex // guards the fields below
	listener net.Listener
	open     map[net.Conn]bool
}

func openRelay(t *testing.T, to string) *relay {
	t.Helper()
	r := &relay{t: t, to: to, address: "127.0.0.1:0", open: map[net.Conn]bool{}}
	r.join()
	t.Cleanup(r.cut)
	return r
}

// join lets connections through, again at the same address.
func (r *relay) join() {
	r.t.Helper()
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.address = l.Addr().String()
	r.mu.Lock()
	r.listener = l
	r.mu.Unlock()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", r.to)
			if err != nil || !r.keep(l, client, server) {
				_ = client.Close()
				continue
			}
			go r.copy(server, client)
			go r.copy(client, server)
		}
	}()
}

// keep notes connections to end them; false when they are too late.
func (r *relay) keep(l net.Listener, both ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range both {
		if r.listener == l {
			r.open[c] = true
		} else {
			_ = c.Close()
		}
	}
	return r.listener == l
}

func (r *relay) copy(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, from)
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		_ = r.listener.Close()
	}
	for c := range r.open {
		_ = c.Close()
	}
	r.listener = nil
}

// openProduction opens a house that needs its servers: PostgreSQL, through a relay, and RabbitMQ; agents are processes.
func openProduction(t *testing.T) (h *house, database *relay, broker *testbed.Broker) {
	t.Helper()
	u, err := url.Parse(testbed.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	database = openRelay(t, u.Host)
	u.Host = database.address
	broker = testbed.RabbitMQ(t)
	config := filepath.Join(t.TempDir(), "grove.yaml")
	text := fmt.Sprintf("database: {url: %q}\nrpc: {url: %q, management_url: %q}\ncloud: {local: {agents: process, agent_binary: %q}}\n",
		u.String(), broker.URL, broker.ManagementURL, filepath.Join(bin, "grove-agent"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return open(t, "--config", config), database, broker
}

// agentOf finds the agent's process of a guest's directory.
func agentOf(t *testing.T, dir string) int {
	t.Helper()
	for _, line := range processesNaming(dir) {
		if number, command, _ := strings.Cut(line, " "); strings.Contains(command, "grove-agent") {
			pid, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no agent runs for %s", dir)
	return 0
}

// TestOutages takes away what the control plane needs, one after the other, while a program writes: that is no reason for a
// failover. A primary that is killed meanwhile takes writes again soon, by its own agent where nobody else can act.
func TestOutages(t *testing.T) {
	t.Parallel()
	h, database, broker := openProduction(t)
	in := h.createProtected("shop", async())
	client := in.patient()
	w := writes(t, client, "k")
	failovers := 0
	for _, outage := range []struct {
		name    string
		away    func()
		back    func()
		killToo bool
		atSoak  bool // left to `make soak`
	}{
		{name: "PostgreSQL", away: database.cut, back: database.join},
		{name: "PostgreSQL, and the primary dies", away: database.cut, back: database.join, killToo: true, atSoak: true},
		{name: "RabbitMQ", away: broker.Kill, back: func() { broker.Start(t) }},
		{name: "RabbitMQ, and the primary dies", away: broker.Kill, back: func() { broker.Start(t) }, killToo: true},
		{name: "all taskmanagers", away: h.kill, back: h.start, atSoak: true},
		{name: "all taskmanagers, and the primary dies", away: h.kill, back: h.start, killToo: true},
	} {
		if outage.atSoak && !soaking() {
			continue
		}
		primary := in.primaryProcess()
		outage.away()
		w.forget()
		if outage.killToo {
			if err := syscall.Kill(primary, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: writes again after %s", outage.name, w.awaitWrite(60*time.Second).Round(time.Millisecond))
		} else {
			w.awaitWriteAfter(time.Now().Add(8*time.Second), 30*time.Second)
		}
		outage.back()
		in.awaitProtection("protected")
		w.awaitWrite(60 * time.Second)
		if !outage.killToo {
			w.requireNoErrors(outage.name)
			if n := len(in.events("instance.failover")); n != failovers {
				t.Errorf("%s away: %d needless failovers", outage.name, n-failovers)
			}
		}
		failovers = len(in.events("instance.failover"))
	}

	// The primary's agent alone is silent: no failover; then its database dies, which nobody says but the standby.
	primary := in.primaryProcess()
	agent := agentOf(t, filepath.Join(h.dir, "servers", h.guestOf(primary)))
	if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.forget()
	w.awaitWriteAfter(time.Now().Add(10*time.Second), 30*time.Second)
	w.requireNoErrors("the primary's agent is silent")
	in.requireFailovers(failovers)
	if err := syscall.Kill(primary, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Logf("a primary whose agent is silent dies: writes again after %s", w.awaitWrite(150*time.Second).Round(time.Millisecond))
	in.awaitFailovers(failovers + 1)
	in.awaitProtection("protected")
	w.stop()
	t.Log(w.summary())
	w.requireAll(client, false)
}
