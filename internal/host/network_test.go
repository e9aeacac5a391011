package host

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// newNetNS makes a network namespace whose loopback is up, and removes it with the test.
func newNetNS(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip (package iproute2) is missing")
	}
	name := fmt.Sprintf("grove-test-%d", os.Getpid())
	for _, args := range []string{"netns add " + name, "-n " + name + " link set lo up"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", name).CombinedOutput(); err != nil {
			t.Errorf("delete namespace: %v: %s", err, out)
		}
	})
	return name
}

// TestNetNS: units run in the guest's network namespace, and Dial connects from its address there.
func TestNetNS(t *testing.T) {
	name := newNetNS(t)
	var l net.Listener
	err := InNetNS(name, func() (err error) {
		l, err = net.Listen("tcp", "127.66.0.2:17399")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := Spec{Dir: t.TempDir(), DataDir: t.TempDir(), Address: "127.66.0.9", NetNS: name}.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if from := c.LocalAddr().(*net.TCPAddr).IP.String(); from != h.Address {
		t.Errorf("connected from %s", from)
	}
	if c, err := (&Host{Address: h.Address}).Dial(t.Context(), "tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the namespace's listener is reached from outside")
	}
	units := h.Units.(*Processes)
	t.Cleanup(func() {
		if err := units.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
		units.Close()
	})
	if err := units.Start(t.Context(), UnitSpec{Name: "sleeper", Argv: []string{"sleep", "600"}}); err != nil {
		t.Fatal(err)
	}
	s, err := units.State(t.Context(), "sleeper")
	if err != nil || !s.Running {
		t.Fatalf("%+v %v", s, err)
	}
	at := func(pid string) string {
		link, err := os.Readlink(filepath.Join("/proc", pid, "ns/net"))
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	if at(fmt.Sprint(s.PID)) == at("self") {
		t.Error("the unit runs outside of the namespace")
	}
	if err := InNetNS("grove-nosuch", func() error { return nil }); err == nil {
		t.Error("entered a namespace that is not there")
	}
}
