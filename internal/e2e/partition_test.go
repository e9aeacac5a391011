package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/host"
)

// place is where a guest is: the server's directory, its own address, its network namespace.
type place struct {
	dir     string
	Address string `json:"address"`
	NetNS   string `json:"netns"`
}

// placeOf finds the place of a database's process.
func (h *house) placeOf(pid int) place {
	h.t.Helper()
	p := place{dir: filepath.Join(h.dir, "servers", h.guestOf(pid))}
	text, err := os.ReadFile(filepath.Join(p.dir, "host.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := json.Unmarshal(text, &p); err != nil {
		h.t.Fatal(err)
	}
	return p
}

// otherPlace finds the other of two guests.
func (h *house) otherPlace(one place) (other place) {
	h.t.Helper()
	paths, _ := filepath.Glob(filepath.Join(h.dir, "servers", "*"))
	for _, path := range paths {
		if path == one.dir {
			continue
		}
		text, err := os.ReadFile(filepath.Join(path, "host.json"))
		if err == nil {
			err = json.Unmarshal(text, &other)
		}
		if err != nil {
			h.t.Fatal(err)
		}
		other.dir = path
	}
	return other
}

// plug takes a guest's cable down, or up again.
func (p place) plug(t testing.TB, state string) {
	t.Helper()
	_, guest, _ := strings.Cut(p.NetNS, "-")
	run(t, "ip", "link", "set", cableOf(t, guest), state)
}

// lose has everything get lost on its way from one guest to another.
func (p place) lose(t *testing.T, to string) {
	t.Helper()
	run(t, "ip", "-n", p.NetNS, "neigh", "replace", to, "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")
}

func (p place) find(t *testing.T, to string) {
	t.Helper()
	run(t, "ip", "-n", p.NetNS, "neigh", "del", to, "dev", "eth0")
}

// inside is a client on the guest's own side of whatever cuts it off.
func (in *instance) inside(p place) *redis.Client {
	in.h.t.Helper()
	from := host.Host{Address: p.Address, NetNS: p.NetNS}
	c := redis.NewClient(&redis.Options{Addr: p.Address + ":6379", Password: in.password, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1,
		ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			return from.Dial(ctx, network, address)
		}})
	in.h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// openNamespaces opens a house whose servers have networks of their own.
func openNamespaces(t *testing.T) *house {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip (package iproute2) is missing")
	}
	return open(t, "--network", "namespaces")
}

// TestPrimaryCutOff cuts a primary off from everybody. The standby takes over; what WAIT confirmed is there; and from the
// moment that the other takes writes, the old one takes none, not even of a program on its own side.
func TestPrimaryCutOff(t *testing.T) {
	t.Parallel()
	h := openNamespaces(t)
	for _, class := range []object{async(), bounded("refuse")} {
		in := h.createProtected("shop", class)
		old := h.placeOf(in.primaryProcess())
		w := writes(t, in.patient(), "k")
		near := in.inside(old)
		old.plug(t, "down")
		cut := time.Now()
		in.awaitFailovers(1)
		for n := range 20 {
			if err := near.Set(t.Context(), "vanishes", n, 0).Err(); err == nil {
				t.Errorf("%v: the old primary takes a write although the other has taken over", class)
			}
		}
		t.Logf("%v: failed over %s after the cut", class, time.Since(cut).Round(time.Millisecond))
		w.awaitWrite(60 * time.Second)
		if fenced := in.requireReport().text("after", "fenced"); fenced != "cloud" {
			t.Errorf("%v: fenced by %q", class, fenced)
		}
		in.awaitProtection("protected") // its server is started again, with its cable plugged in
		if err := near.Set(t.Context(), "vanishes", "again", 0).Err(); err == nil {
			t.Errorf("%v: the old primary takes a write as the standby", class)
		}
		w.stop()
		t.Log(w.summary())
		w.requireAll(in.patient(), false)
		in.requireFailovers(1)
	}
}

// TestPrimaryAndStandbyApart cuts a primary off from its standby alone: clients and the control plane reach both. That is no
// reason for a failover, which would change nothing for the better.
func TestPrimaryAndStandbyApart(t *testing.T) {
	t.Parallel()
	h := openNamespaces(t)
	in := h.createProtected("shop", async())
	primary := h.placeOf(in.primaryProcess())
	standby := h.otherPlace(primary)
	w := writes(t, in.patient(), "k")
	primary.lose(t, standby.Address)
	standby.lose(t, primary.Address)
	eventually(t, 90*time.Second, func() error {
		if v := in.show(); v.text("instance", "high_availability", "state") != "degraded" {
			return fmt.Errorf("apart, it shows %v", v.at("instance", "high_availability"))
		}
		return nil
	})
	w.awaitWriteAfter(time.Now().Add(20*time.Second), 30*time.Second)
	in.requireFailovers(0)
	w.requireNoErrors("primary and standby are apart")
	primary.find(t, standby.Address)
	standby.find(t, primary.Address)
	in.awaitProtection("protected")
	in.requireFailovers(0)
	w.stop()
	t.Log(w.summary())
	w.requireAll(in.patient(), true)
}
