package local

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/cloud/cloudtest"
)

func needNamespaces(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip (package iproute2) is missing")
	}
}

func openNamespaces(t *testing.T, dir string) *Cloud {
	t.Helper()
	c := openCloud(t, Config{Dir: dir, Volumes: VolumesDirectory, NetworkMode: NetworkNamespaces})
	b := *c.bridge
	t.Cleanup(func() {
		left, _ := filepath.Glob(filepath.Join(netnsDir, b.namespacePrefix()+"*"))
		if _, err := net.InterfaceByName(b.name); err == nil || len(left) > 0 {
			t.Errorf("left behind: the bridge, or the namespaces %v", left)
			_ = b.close(context.Background())
		}
	})
	t.Cleanup(func() { closeCloud(t, c, false) })
	return c
}

func TestConformanceInNamespaces(t *testing.T) {
	needNamespaces(t)
	cloudtest.Run(t, func(t *testing.T) cloudtest.Fixture {
		c := openNamespaces(t, "")
		return cloudtest.Fixture{Cloud: c, TCPPorts: []int{testPort}, Surplus: surplus(c)}
	})
}

// greets tells whether a database answers at an address.
func greets(address string) bool {
	c, err := net.DialTimeout("tcp4", address, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	b, err := io.ReadAll(c)
	return err == nil && string(b) == "hello\n"
}

// TestServerInANamespace: a server is reached at its own address and at its instance's; it can be cut off and joined
// again; it survives groved; a loss of power takes it off the network; and a clean exit leaves nothing of all that.
func TestServerInANamespace(t *testing.T) {
	needNamespaces(t)
	dir := t.TempDir()
	c := openNamespaces(t, dir)
	g, err := build(t.Context(), c, "guest")
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.EnsureAddress(t.Context(), cloud.AddressSpec{OwnerID: "owner", Name: "owner", TCPPorts: []int{testPort}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PointAddress(t.Context(), a.ID, g.port, 1); err != nil {
		t.Fatal(err)
	}
	through := net.JoinHostPort(a.Address, strconv.Itoa(testPort))
	answers := func() bool { return greets(g.address) && greets(through) }
	silent := func() bool { return !greets(g.address) && !greets(through) }
	if ip := netip.MustParseAddrPort(g.address).Addr(); ip.IsLoopback() || !c.bridge.prefix.Contains(ip) {
		t.Fatalf("the server's address is %s", ip)
	}
	eventually(t, "the database answers", answers)
	if err := c.Isolate(t.Context(), g.server); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is cut off", silent)
	if !c.CutOff("guest") {
		t.Fatal("a server that is cut off does not count as that")
	}
	if err := c.RebootServer(t.Context(), g.server); err != nil {
		t.Fatal(err)
	}
	g.await(t, c, cloud.ServerActive)
	if greets(g.address) {
		t.Fatal("a restart joined the server again")
	}
	if err := c.Rejoin(t.Context(), g.server); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server has joined again", answers)
	if c.CutOff("guest") {
		t.Fatal("a server that has joined counts as cut off")
	}

	closeCloud(t, c, true)
	if !greets(g.address) {
		t.Fatal("the database does not outlive groved")
	}
	c = openNamespaces(t, dir)
	eventually(t, "the database answers under the next groved", answers)
	if err := c.PowerOffServer(t.Context(), g.server); err != nil {
		t.Fatal(err)
	}
	if !silent() {
		t.Fatal("a server without power answers")
	}
	if err := c.StartServer(t.Context(), g.server); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the database answers after the loss of power", answers)
}

// TestNamespacesHeal: whatever is missing of a server's network is made again at its next start.
func TestNamespacesHeal(t *testing.T) {
	needNamespaces(t)
	c := openNamespaces(t, "")
	g, err := build(t.Context(), c, "guest")
	if err != nil {
		t.Fatal(err)
	}
	for what, destroy := range map[string]func() error{
		"the cable":     func() error { return c.bridge.unplug(t.Context(), "guest") },
		"the namespace": func() error { return ip(t.Context(), "", "netns delete "+c.bridge.namespace("guest")) },
		"its name only": func() error {
			if err := c.bridge.remove(t.Context(), "guest"); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(netnsDir, c.bridge.namespace("guest")), nil, 0o600)
		},
	} {
		if err := c.StopServer(t.Context(), g.server); err != nil {
			t.Fatal(err)
		}
		g.await(t, c, cloud.ServerShutoff)
		if err := c.bridge.ensure(t.Context(), "guest", netip.MustParseAddrPort(g.address).Addr().String(), false); err != nil {
			t.Fatal(err)
		}
		if err := destroy(); err != nil {
			t.Fatalf("destroy %s: %v", what, err)
		}
		if err := c.StartServer(t.Context(), g.server); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the database answers without "+what, func() bool { return greets(g.address) })
	}
}

func TestPrefixesDoNotCollide(t *testing.T) {
	dir := t.TempDir()
	free := &bridge{dir: dir}
	if err := free.choosePrefix(filepath.Join(dir, "a.json")); err != nil {
		t.Fatal(err)
	}
	if !netip.MustParsePrefix("10.0.0.0/8").Contains(free.prefix.Addr()) || free.prefix.Bits() != prefixBits || free.prefix != free.prefix.Masked() {
		t.Fatalf("chose %s", free.prefix)
	}
	again := &bridge{dir: "elsewhere"}
	if err := again.choosePrefix(filepath.Join(dir, "a.json")); err != nil || again.prefix != free.prefix {
		t.Fatalf("recorded %s, read %s: %v", free.prefix, again.prefix, err)
	}
	if !overlaps(free.prefix, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}) {
		t.Fatal("no overlap seen")
	}
}
