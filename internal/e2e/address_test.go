package e2e

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// held is a client with one connection that it never makes anew by itself, to tell a connection that lives.
func (in *instance) held() *redis.Conn {
	in.h.t.Helper()
	conn := in.redis().Conn()
	if err := conn.Ping(in.h.t.Context()).Err(); err != nil {
		in.h.t.Fatal(err)
	}
	return conn
}

// forwarderPID finds the process that leads the addresses of the house.
func (h *house) forwarderPID() int {
	h.t.Helper()
	for _, line := range processesNaming(h.dir) {
		if pid, command, _ := strings.Cut(line, " "); strings.Contains(command, "forward") {
			n, err := strconv.Atoi(pid)
			if err != nil {
				h.t.Fatal(err)
			}
			return n
		}
	}
	h.t.Fatal("no forwarder runs")
	return 0
}

// TestAddressOutlivesGroved: connections through an instance's address survive the end of groved, and the address that of
// its forwarder.
func TestAddressOutlivesGroved(t *testing.T) {
	h := open(t)
	in := h.createActive("cache1")
	address := in.address()
	if guest := guestAddress(t, h); guest == address {
		t.Fatalf("the instance shows its guest's own address %s", guest)
	}
	conn := in.held()
	pid := h.forwarderPID()
	h.kill()
	if err := conn.Set(t.Context(), "greeting", "hello", 0).Err(); err != nil {
		t.Fatalf("the connection ended with groved: %v", err)
	}
	h.start()
	in.await("ACTIVE", "HEALTHY")
	if err := conn.Ping(t.Context()).Err(); err != nil {
		t.Fatalf("the next groved cut the connection: %v", err)
	}
	if again := h.forwarderPID(); again != pid {
		t.Fatalf("forwarder %d was not taken over: %d runs", pid, again)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error { return in.redis().Ping(t.Context()).Err() })
	in.requireValue("greeting", "hello")
	if in.address() != address {
		t.Fatalf("the address became %s", in.address())
	}
}

// guestAddress reads the own address of the only guest there is.
func guestAddress(t *testing.T, h *house) string {
	t.Helper()
	return hostValue(t, h, "address")
}

func hostValue(t *testing.T, h *house, key string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(h.dir, "servers", "*", "host.json"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("hosts %v: %v", paths, err)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(strings.Trim(line, " ,\n"), ": "); ok && name == strconv.Quote(key) {
			return strings.Trim(value, `"`)
		}
	}
	t.Fatalf("no %s in %s", key, b)
	return ""
}

// TestServersInNamespaces runs a database in a network of its own, cuts it off, and joins it again.
func TestServersInNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip (package iproute2) is missing")
	}
	h := open(t, "--network", "namespaces")
	in := h.createActive("cache1")
	in.set("greeting", "hello")
	guest := guestAddress(t, h)
	if !strings.HasPrefix(guest, "10.") || net.ParseIP(guest) == nil {
		t.Fatalf("the guest's address is %s", guest)
	}
	namespace := hostValue(t, h, "netns")
	cable := cableOf(t, strings.SplitN(namespace, "-", 2)[1])
	run(t, "ip", "link", "set", cable, "down")
	eventually(t, 30*time.Second, func() error {
		c := in.redis()
		defer c.Close()
		if err := c.Ping(t.Context()).Err(); err == nil {
			return errors.New("a database that is cut off answers")
		}
		return nil
	})
	run(t, "ip", "link", "set", cable, "up")
	eventually(t, 30*time.Second, func() error { return in.redis().Ping(t.Context()).Err() })
	in.requireValue("greeting", "hello")
	client := in.redis()
	h.kill()
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Errorf("the database stopped with groved: %v", err)
	}
	h.start()
	in.await("ACTIVE", "HEALTHY")
	in.requireValue("greeting", "hello")
	h.stop()
	h.requireNothingLeft()
	if out, err := exec.Command("ip", "netns", "list").Output(); err != nil || strings.Contains(string(out), namespace) {
		t.Errorf("namespaces left: %s %v", out, err)
	}
	if _, err := net.InterfaceByName(strings.SplitN(namespace, "-", 2)[0]); err == nil {
		t.Error("the bridge is left")
	}
}

// cableOf finds the end outside of a guest's namespace: its alias is the guest's id.
func cableOf(t testing.TB, guestID string) string {
	t.Helper()
	paths, err := filepath.Glob("/sys/class/net/*/ifalias")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == guestID {
			return filepath.Base(filepath.Dir(path))
		}
	}
	t.Fatalf("guest %s has no cable", guestID)
	return ""
}

func run(t testing.TB, argv ...string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
}
