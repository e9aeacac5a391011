package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/host"
)

// echo is a target that tells its name to each connection and then gives back what it is sent, counting it.
type echo struct {
	name  string
	l     net.Listener
	bytes atomic.Int64
	open  atomic.Int64
}

func newEcho(t testing.TB, name, address string) *echo {
	t.Helper()
	l, err := net.Listen("tcp4", net.JoinHostPort(address, strconv.Itoa(testPort)))
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{name: name, l: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go e.serve(c)
		}
	}()
	return e
}

func (e *echo) serve(c net.Conn) {
	e.open.Add(1)
	defer e.open.Add(-1)
	defer c.Close()
	if _, err := io.WriteString(c, e.name); err != nil {
		return
	}
	b := make([]byte, 512)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		e.bytes.Add(int64(n))
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// scene is a cloud with an address and two targets.
type scene struct {
	c       *Cloud
	address *cloud.Address
	ports   [2]string
	echo    [2]*echo
}

func newScene(t testing.TB, c *Cloud) *scene {
	t.Helper()
	s := &scene{c: c}
	for i := range 2 {
		name := fmt.Sprintf("guest-%d", i)
		p, err := c.EnsurePort(t.Context(), cloud.PortSpec{GuestID: name, Name: name, TCPPorts: []int{testPort}})
		if err != nil {
			t.Fatal(err)
		}
		s.ports[i], s.echo[i] = p.ID, newEcho(t, strconv.Itoa(i), p.Address)
	}
	var err error
	s.address, err = c.EnsureAddress(t.Context(), cloud.AddressSpec{OwnerID: "owner", Name: "owner", TCPPorts: []int{testPort}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scene) point(t testing.TB, to int, epoch int64) {
	t.Helper()
	port := ""
	if to >= 0 {
		port = s.ports[to]
	}
	if err := s.c.PointAddress(context.Background(), s.address.ID, port, epoch); err != nil {
		t.Fatal(err)
	}
}

// connect connects to the address and gives the connection and who answered.
func (s *scene) connect() (net.Conn, string, error) {
	c, err := net.DialTimeout("tcp4", net.JoinHostPort(s.address.Address, strconv.Itoa(testPort)), 20*time.Second)
	if err != nil {
		return nil, "", err
	}
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err != nil {
		c.Close()
		return nil, "", err
	}
	return c, string(b), nil
}

func (s *scene) leadsTo(t testing.TB, want string) net.Conn {
	t.Helper()
	c, who, err := s.connect()
	if err != nil || who != want {
		t.Fatalf("target %q answered, want %q: %v", who, want, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *scene) leadsNowhere(t testing.TB) {
	t.Helper()
	if c, who, err := s.connect(); err == nil {
		c.Close()
		t.Fatalf("target %q answered, want none", who)
	}
}

// TestAddressLeads walks an address through all that may become of it.
func TestAddressLeads(t *testing.T) {
	s := newScene(t, openCloud(t, Config{}))
	s.leadsNowhere(t)
	s.point(t, 0, 1)
	old := s.leadsTo(t, "0")
	s.point(t, 0, 2) // the same target cuts nobody
	if _, err := io.WriteString(old, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(old, make([]byte, 1)); err != nil {
		t.Fatalf("cut by pointing to the same: %v", err)
	}
	s.point(t, 1, 2)
	if n, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the old connection lives: read %d bytes, %v", n, err)
	}
	s.leadsTo(t, "1")
	if err := s.c.DeletePort(t.Context(), s.ports[1]); err != nil { // though something still listens there
		t.Fatal(err)
	}
	s.leadsNowhere(t)
	s.echo[1].l.Close()
	s.point(t, 0, 3)
	s.echo[0].l.Close()
	s.leadsNowhere(t)
	other := cloud.AddressSpec{OwnerID: "owner", Name: "owner", TCPPorts: []int{testPort + 1}}
	if a, err := s.c.EnsureAddress(t.Context(), other); err != nil || *a != *s.address {
		t.Fatalf("with another port: %+v %v", a, err)
	}
	if err := bindable(s.address.Address, []int{testPort}); err != nil {
		t.Fatalf("a port that was given up is listened on: %v", err)
	}
	if bindable(s.address.Address, other.TCPPorts) == nil {
		t.Fatal("another port is not listened on")
	}
	if err := s.c.DeleteAddress(t.Context(), s.address.ID); err != nil {
		t.Fatal(err)
	}
	if err := bindable(s.address.Address, []int{testPort}); err != nil {
		t.Fatalf("a deleted address is listened on: %v", err)
	}
}

// TestHalfClosed: who has said all may still listen, and a reset passes through.
func TestHalfClosed(t *testing.T) {
	s := newScene(t, openCloud(t, Config{}))
	s.point(t, 0, 1)
	c := s.leadsTo(t, "0").(*net.TCPConn)
	if _, err := io.WriteString(c, "last words"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "last words" {
		t.Fatalf("after half a close: %q %v", b, err)
	}
	eventually(t, "the target's end", func() bool { return s.echo[0].open.Load() == 0 })
	c = s.leadsTo(t, "0").(*net.TCPConn)
	_ = c.SetLinger(0)
	_ = c.Close()
	eventually(t, "the target is reset", func() bool { return s.echo[0].open.Load() == 0 })
}

// TestSwitchUnderLoad switches an address to and fro under clients that never stop. After each switch nothing reaches the
// old target any more, and no client hears from it.
func TestSwitchUnderLoad(t *testing.T) {
	before := runtime.NumGoroutine()
	c := openCloud(t, Config{})
	s := newScene(t, c)
	s.point(t, 0, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var now atomic.Int64 // twice the number of the target that may answer, and one while that changes
	var clients sync.WaitGroup
	var answers, wrong atomic.Int64
	for range 16 {
		clients.Go(func() {
			for ctx.Err() == nil {
				began := now.Load()
				conn, who, err := s.connect()
				if err != nil {
					continue
				}
				for err == nil && ctx.Err() == nil {
					at := now.Load()
					if _, err = io.WriteString(conn, "SET"); err == nil {
						_, err = io.ReadFull(conn, make([]byte, 3))
					}
					if err == nil {
						answers.Add(1)
						if at == began && at == now.Load() && at%2 == 0 && who != strconv.FormatInt(at/2%2, 10) {
							wrong.Add(1)
						}
					}
				}
				conn.Close()
			}
		})
	}
	for i := int64(1); i <= 20; i++ {
		want := answers.Load() + 100
		eventually(t, "answers", func() bool { return answers.Load() > want })
		now.Add(1)
		s.point(t, int(i%2), i)
		now.Add(1)
		old := s.echo[(i+1)%2]
		eventually(t, "the old target is alone", func() bool { return old.open.Load() == 0 })
		sent := old.bytes.Load()
		want = answers.Load() + 100
		eventually(t, "answers", func() bool { return answers.Load() > want })
		if late := old.bytes.Load() - sent; late != 0 {
			t.Errorf("%d bytes reached the old target after the switch", late)
		}
	}
	cancel()
	clients.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d answers came from the old target after the switch", n)
	}
	closeCloud(t, c, false)
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+8 })
}

// forwarderHelper plays groved forward.
func forwarderHelper(dir string) error {
	return Forward(context.Background(), dir, slog.New(slog.DiscardHandler))
}

func withForwarder(t testing.TB, dir string) Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{Dir: dir, Forwarder: []string{"/usr/bin/env", helperEnv + "=forward", self, dir}}
}

func forwarderPID(t testing.TB, c *Cloud) int {
	t.Helper()
	s, err := c.forwarder.State(t.Context(), forwarderUnit)
	if err != nil {
		t.Fatal(err)
	}
	return s.PID
}

// TestForwarderIsStartedAgain kills the forwarder; the same addresses answer again, and connections that were idle are
// told that they ended.
func TestForwarderIsStartedAgain(t *testing.T) {
	s := newScene(t, openCloud(t, withForwarder(t, t.TempDir())))
	s.point(t, 0, 1)
	c := s.leadsTo(t, "0")
	pid := forwarderPID(t, s.c)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatal("a connection through a dead forwarder lives")
	}
	eventually(t, "the address answers again", func() bool {
		c, who, err := s.connect()
		if err == nil {
			c.Close()
		}
		return who == "0"
	})
	if forwarderPID(t, s.c) == pid {
		t.Fatal("it was not killed")
	}
	s.point(t, 1, 2)
	s.leadsTo(t, "1")
}

// TestForwarderOutlivesTheCloud: connections survive a cloud that ends and the next takes the forwarder over; a record
// that changed meanwhile is noticed. A clean exit ends it.
func TestForwarderOutlivesTheCloud(t *testing.T) {
	dir := t.TempDir()
	first := openCloud(t, withForwarder(t, dir))
	s := newScene(t, first)
	s.point(t, 0, 1)
	c := s.leadsTo(t, "0")
	pid := forwarderPID(t, first)
	closeCloud(t, first, true)
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("after the cloud's end: %v", err)
	}
	row := first.address.rows[s.address.ID]
	row.PortID, row.Target, row.Epoch = s.ports[1], first.ports.rows[s.ports[1]].Address, 2
	if err := first.address.put(s.address.ID, row); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the old connection lives: %v", err)
	}
	s.leadsTo(t, "1")
	s.c = openCloud(t, withForwarder(t, dir))
	if got := forwarderPID(t, s.c); got != pid {
		t.Fatalf("forwarder %d was not taken over, %d runs", pid, got)
	}
	s.point(t, 0, 3)
	s.leadsTo(t, "0")
	closeCloud(t, s.c, false)
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("the forwarder outlived a clean exit: %v", err)
	}
	s.leadsNowhere(t)
}

// TestForwarderEndsWithItsDirectory: a data directory that was removed leaves no process behind.
func TestForwarderEndsWithItsDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "cloud", addressesName), 0o700); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Forward(t.Context(), dir, slog.New(slog.DiscardHandler)) }()
	eventually(t, "it listens", func() bool {
		c, err := dialUnix(t.Context(), filepath.Join(dir, "cloud"), forwarderSocket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if fi, err := os.Stat(filepath.Join(dir, "cloud", forwarderSocket)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("the socket is for all: %v %v", fi.Mode(), err)
	}
	second := Forward(t.Context(), dir, slog.New(slog.DiscardHandler))
	if !errors.Is(second, host.ErrLocked) {
		t.Fatalf("two at once: %v", second)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestManyConnections measures what a forwarder holds for connections on which nothing moves.
func TestManyConnections(t *testing.T) {
	const most = 2000
	s := newScene(t, openCloud(t, withForwarder(t, t.TempDir())))
	s.point(t, 0, 1)
	empty := rss(t, forwarderPID(t, s.c))
	conns := make([]net.Conn, most)
	for i := range conns {
		conns[i] = s.leadsTo(t, "0")
	}
	for _, c := range conns {
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	each := (rss(t, forwarderPID(t, s.c)) - empty) / most
	t.Logf("%d KiB empty, %d bytes for each of %d connections", empty>>10, each, most)
	if each > 40<<10 && !raceDetector {
		t.Errorf("a connection costs %d bytes", each)
	}
	s.point(t, 1, 2)
	for _, c := range conns {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("an old connection lives: %v", err)
		}
	}
	s.leadsTo(t, "1")
}

func rss(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// BenchmarkAddress measures a round trip through an address, beside one without.
func BenchmarkAddress(b *testing.B) {
	c, err := Open(b.Context(), func() Config {
		cfg := withForwarder(b, b.TempDir())
		cfg.Launcher, cfg.Volumes = &embedded{}, VolumesDirectory
		return cfg
	}())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(context.Background(), false); err != nil {
			b.Error(err)
		}
	})
	s := newScene(b, c)
	s.point(b, 0, 1)
	direct := &scene{address: &cloud.Address{Address: s.echo[0].l.Addr().(*net.TCPAddr).IP.String()}}
	for name, s := range map[string]*scene{"through": s, "direct": direct} {
		b.Run(name, func(b *testing.B) {
			conn := s.leadsTo(b, "0")
			_ = conn.SetDeadline(time.Time{})
			buf := make([]byte, 64)
			for b.Loop() {
				if _, err := conn.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(conn, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestClientsWait: who connects while the target is down hears from the one that replaces it.
func TestClientsWait(t *testing.T) {
	s := newScene(t, openCloud(t, Config{}))
	s.point(t, 0, 1)
	s.echo[0].l.Close()
	answered := make(chan string, 1)
	conn, err := net.Dial("tcp4", net.JoinHostPort(s.address.Address, strconv.Itoa(testPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		b := make([]byte, 1)
		_, _ = io.ReadFull(conn, b)
		answered <- string(b)
	}()
	s.point(t, 1, 2)
	if who := <-answered; who != "1" {
		t.Fatalf("target %q answered who waited", who)
	}
}
