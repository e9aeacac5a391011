package local

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/internal/host"
)

// Forward forwards the TCP connections of all addresses of the cloud in dir to what the addresses' records say they lead
// to, until ctx ends or the records' directory is gone. It looks at a record when it is told to on its socket, at all of
// them at its start, and when it finds that one has changed.
//
// It knows nothing but records, so that it can outlive the groved that writes them.
func Forward(ctx context.Context, dir string, log *slog.Logger) error {
	cloudDir := filepath.Join(dir, "cloud")
	lock, err := host.LockFile(ctx, filepath.Join(cloudDir, "forwarder.lock"))
	if err != nil {
		return fmt.Errorf("forward: is another at work? %w", err)
	}
	defer func() { _ = lock.Close() }()
	f := &forwarder{records: filepath.Join(cloudDir, addressesName), log: log, fronts: map[string]*front{}}
	f.buffers.New = func() any { return new(buffer) }
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := listenUnix(cloudDir, forwarderSocket)
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	f.work.Go(func() { f.obey(ctx, l) })
	err = f.follow(ctx)
	_ = l.Close()
	cancel()
	for id, fr := range f.fronts { // to which nobody adds any more
		fr.close()
		delete(f.fronts, id)
	}
	f.work.Wait()
	return err
}

// forwarder is all addresses of a cloud at work.
type forwarder struct {
	records string // directory
	log     *slog.Logger
	buffers sync.Pool // of *buffer
	work    sync.WaitGroup

	turn   sync.Mutex // held while a record is applied
	fronts map[string]*front
	ended  bool
}

// buffer is what one connection needs while data moves, and only then.
type buffer [32 << 10]byte

// rescan is how soon a record is noticed that nobody spoke of.
const rescan = time.Second

// follow applies all records now, and again whenever the directory changed.
func (f *forwarder) follow(ctx context.Context) error {
	defer f.end()
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	var seen time.Time
	again := true
	for {
		fi, err := os.Stat(f.records)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		changed := !fi.ModTime().Equal(seen)
		if changed || again { // twice, for a change may have come within the same tick of the file system's clock
			f.applyAll()
		}
		seen, again = fi.ModTime(), changed
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (f *forwarder) end() {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.ended = true
}

func (f *forwarder) applyAll() {
	f.turn.Lock()
	ids := map[string]bool{}
	for id := range f.fronts {
		ids[id] = true
	}
	f.turn.Unlock()
	paths, _ := filepath.Glob(filepath.Join(f.records, "*.json"))
	for _, path := range paths {
		ids[strings.TrimSuffix(filepath.Base(path), ".json")] = true
	}
	for id := range ids {
		if err := f.apply(id); err != nil {
			f.log.Error("address not in force", "address", id, "error", err)
		}
	}
}

// apply puts a record in force: when it returns no connection leads to where the address no longer leads.
func (f *forwarder) apply(id string) error {
	f.turn.Lock()
	defer f.turn.Unlock()
	if f.ended {
		return errors.New("the forwarder is ending")
	}
	var row address
	b, err := os.ReadFile(filepath.Join(f.records, filepath.Base(id)+".json"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		if fr := f.fronts[id]; fr != nil {
			fr.close()
			delete(f.fronts, id)
		}
		return nil
	case err != nil:
		return err
	}
	if err := json.Unmarshal(b, &row); err != nil {
		return fmt.Errorf("read address %s: %w", id, err)
	}
	fr := f.fronts[id]
	if fr == nil {
		fr = newFront(f, row.Address)
		f.fronts[id] = fr
	}
	fr.point(row.Target)
	return fr.listen(row.TCPPorts)
}

// The words of the socket: an address's id is answered with done, or with what went wrong.
const (
	forwarderSocket = "forwarder.sock"
	done            = "done"
)

// obey applies the records that are named on the socket.
func (f *forwarder) obey(ctx context.Context, l net.Listener) {
	accept(ctx, l, f.log, func(c net.Conn) {
		f.work.Go(func() {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			defer func() { _ = c.Close() }()
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				answer := done
				if err := f.apply(lines.Text()); err != nil {
					answer = err.Error()
				}
				if _, err := io.WriteString(c, strings.ReplaceAll(answer, "\n", " ")+"\n"); err != nil {
					return
				}
			}
		})
	})
}

// mostAcceptDelay is the longest that a listener waits before it tries again what failed for want of files or memory.
const mostAcceptDelay = time.Second

// accept gives each connection that comes to serve, until the listener is closed or ctx ends.
func accept(ctx context.Context, l net.Listener, log *slog.Logger, serve func(net.Conn)) {
	var delay time.Duration
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			delay = 0
			serve(c)
			continue
		case errors.Is(err, net.ErrClosed):
			return
		}
		if delay == 0 {
			log.Error("connections are not accepted", "address", l.Addr().String(), "error", err)
		}
		delay = min(max(2*delay, 5*time.Millisecond), mostAcceptDelay)
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

// mostSocketPath is a little less than what the kernel takes as the name of a socket.
const mostSocketPath = 100

// socketPath gives a name of a socket that is short enough for the kernel, valid until closed.
func socketPath(dir, name string) (path string, closed func(), err error) {
	path = filepath.Join(dir, name)
	if len(path) <= mostSocketPath {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), func() { _ = d.Close() }, nil
}

// listenUnix listens on a socket that only our own user can reach, in place of the one that a killed process left.
func listenUnix(dir, name string) (net.Listener, error) {
	path, closed, err := socketPath(dir, name)
	if err != nil {
		return nil, err
	}
	defer closed()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by a path that is not valid any more then
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func dialUnix(ctx context.Context, dir, name string) (net.Conn, error) {
	path, closed, err := socketPath(dir, name)
	if err != nil {
		return nil, err
	}
	defer closed()
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}
