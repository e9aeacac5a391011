// Package testbed starts the real servers that tests need, privately and on loopback, and waits for conditions. It is
// imported by tests only.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// shared is what lives as long as the test binary.
var shared struct {
	mu   sync.Mutex
	ends []func()
}

// Main runs the tests of a package and then ends the servers that they shared. A package whose tests share one has
//
//	func TestMain(m *testing.M) { testbed.Main(m) }
//
// Without it, or when the test binary is killed, the kernel ends the servers, and a shell removes their directories.
func Main(m *testing.M) {
	code := m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	for i := len(shared.ends) - 1; i >= 0; i-- {
		shared.ends[i]()
	}
	os.Exit(code)
}

// AtExit has Main call end after the tests.
func AtExit(end func()) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.ends = append(shared.ends, end)
}

// FreePort gives a TCP port of 127.0.0.1 that nothing listened on a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	return port
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// busy is how much longer than on an idle machine something may take where tests run, with the race detector and beside
// each other.
const busy = 5

// Eventually waits until condition gives nil, and fails the test with its last error when that took busy times as long as
// it may take at most on an idle machine. It takes the place of sleeping.
func Eventually(t testing.TB, atMost time.Duration, condition func() error) {
	t.Helper()
	if err := poll(context.Background(), busy*atMost, condition); err != nil {
		t.Fatalf("not so within %v: %v", busy*atMost, err)
	}
}

func poll(ctx context.Context, atMost time.Duration, condition func() error) error {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	pause := time.Millisecond
	for {
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

// Program finds an installed program under the first of names or paths that exists, and fails the test with a sentence
// when there is none: what a test needs is installed by "make test".
func Program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
		for _, dir := range []string{"/usr/sbin", "/usr/local/bin", "/usr/local/sbin"} {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return path
			}
		}
	}
	t.Fatalf("none of %q is installed; `make test` installs what the tests need", names)
	return ""
}

// process is a server that this test binary started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
}

// startProcess starts cmd in a session of its own, to be killed by the kernel when the test binary dies.
func startProcess(cmd *exec.Cmd) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended shows in done and in its log
		close(p.done)
	}()
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop sends sig and waits; what does not end within atMost is killed.
func (p *process) stop(sig syscall.Signal, atMost time.Duration) {
	_ = p.cmd.Process.Signal(sig) // one that ended already is what we want
	select {
	case <-p.done:
	case <-time.After(atMost):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// RedisServer starts the given redis-server or valkey-server, empty and without saving to disk, and gives its address.
// It ends with the test.
func RedisServer(t testing.TB, binary string) string {
	t.Helper()
	port := FreePort(t)
	cmd := exec.Command(Program(t, binary), "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "",
		"--appendonly", "no", "--dir", t.TempDir())
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatalf("start %s: %v", binary, err)
	}
	t.Cleanup(func() { p.stop(syscall.SIGTERM, 10*time.Second) })
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	Eventually(t, 10*time.Second, func() error { return pingRedis(p, addr) })
	return addr
}

func pingRedis(p *process, addr string) error {
	if p.ended() {
		return errors.New("the server ended at once")
	}
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer := make([]byte, 7)
	if n, err := c.Read(answer); err != nil || string(answer[:n]) != "+PONG\r\n" {
		return fmt.Errorf("PING gave %q, %v", answer[:n], err)
	}
	return nil
}
