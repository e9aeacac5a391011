package local

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// front is one address at work.
type front struct {
	f         *forwarder
	address   string
	listeners map[int]net.Listener // guarded by f.turn

	mu     sync.Mutex
	target string
	leads  context.Context // ends when the address leads elsewhere
	leave  context.CancelFunc
	relays map[*relay]struct{} // to the target
}

func newFront(f *forwarder, address string) *front {
	fr := &front{f: f, address: address, listeners: map[int]net.Listener{}, relays: map[*relay]struct{}{}}
	fr.leads, fr.leave = context.WithCancel(context.Background())
	return fr
}

// listen listens on these ports, and on no others.
func (fr *front) listen(ports []int) error {
	for port, l := range fr.listeners {
		if !slices.Contains(ports, port) {
			_ = l.Close()
			delete(fr.listeners, port)
		}
	}
	var errs []error
	for _, port := range ports {
		if fr.listeners[port] != nil {
			continue
		}
		l, err := net.Listen("tcp4", net.JoinHostPort(fr.address, strconv.Itoa(port)))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fr.listeners[port] = l
		fr.f.work.Go(func() {
			accept(context.Background(), l, fr.f.log, func(c net.Conn) {
				fr.f.work.Go(func() { fr.serve(c.(*net.TCPConn), port) })
			})
		})
	}
	return errors.Join(errs...)
}

// point makes new connections lead to target, "" for nowhere, and cuts those that lead elsewhere. When it returns none of
// them moves a byte any more.
func (fr *front) point(target string) {
	fr.mu.Lock()
	if fr.target == target {
		fr.mu.Unlock()
		return
	}
	old := fr.relays
	fr.leave()
	fr.target, fr.relays = target, map[*relay]struct{}{}
	fr.leads, fr.leave = context.WithCancel(context.Background())
	fr.mu.Unlock()
	for l := range old {
		l.cut()
	}
	for l := range old {
		<-l.ended
	}
}

func (fr *front) close() {
	for _, l := range fr.listeners {
		_ = l.Close()
	}
	fr.point("")
}

// connectTimeout is how long a client waits for a target that does not answer, or is just being started.
const connectTimeout = 3 * time.Second

// connect connects to a target. One that refuses is asked again: who comes while a database restarts, or is about to be
// replaced by another, hears nothing of it when that is soon over.
func connect(ctx context.Context, address string) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var d net.Dialer
	for delay := 10 * time.Millisecond; ; delay = min(2*delay, 200*time.Millisecond) {
		c, err := d.DialContext(ctx, "tcp4", address)
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(delay):
		}
	}
}

// serve connects a client to the target. Where the address comes to lead elsewhere meanwhile, it tries again there.
func (fr *front) serve(client *net.TCPConn, port int) {
	for {
		fr.mu.Lock()
		target, leads := fr.target, fr.leads
		fr.mu.Unlock()
		if target == "" {
			abort(client)
			return
		}
		server, err := connect(leads, net.JoinHostPort(target, strconv.Itoa(port)))
		if err != nil && leads.Err() == nil {
			abort(client)
			return
		}
		if err != nil {
			continue
		}
		l := &relay{client: client, server: server, ended: make(chan struct{})}
		if !fr.admit(l, leads) {
			abort(l.server)
			continue
		}
		l.run(&fr.f.buffers)
		fr.forget(l)
		return
	}
}

// admit notes a relay, unless it leads to where the address no longer does.
func (fr *front) admit(l *relay, leads context.Context) bool {
	fr.mu.Lock()
	defer fr.mu.Unlock()
	if leads.Err() != nil {
		return false
	}
	fr.relays[l] = struct{}{}
	return true
}

func (fr *front) forget(l *relay) {
	fr.mu.Lock()
	defer fr.mu.Unlock()
	delete(fr.relays, l)
}

// relay is a client's connection and its continuation to the target.
type relay struct {
	client, server *net.TCPConn
	ended          chan struct{}
}

// run moves data both ways until both have ended, or one has failed.
func (l *relay) run(buffers *sync.Pool) {
	defer close(l.ended)
	var back sync.WaitGroup
	back.Go(func() { l.move(l.client, l.server, buffers) })
	l.move(l.server, l.client, buffers)
	back.Wait()
	_, _ = l.client.Close(), l.server.Close()
}

// move moves data one way. The end of it is passed on, while the other way goes on; a failure ends both.
func (l *relay) move(to, from *net.TCPConn, buffers *sync.Pool) {
	err := pump(to, from, buffers)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		l.cut()
	}
}

// cut ends both connections at once: what is on its way is dropped.
func (l *relay) cut() {
	abort(l.client)
	abort(l.server)
}

// abort closes a connection with a reset, so that the other end does not take it for an orderly end.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// pump copies until the end of from. io.Copy would hold a pipe of its own, or a buffer, for every connection, also for
// those on which nothing moves; here a buffer is held only while data is.
func pump(to, from *net.TCPConn, buffers *sync.Pool) error {
	raw, err := from.SyscallConn()
	if err != nil {
		return err
	}
	var b *buffer
	var n int
	var readErr error
	read := func(fd uintptr) bool {
		b = buffers.Get().(*buffer)
		for {
			n, readErr = unix.Read(int(fd), b[:])
			if !errors.Is(readErr, unix.EINTR) {
				break
			}
		}
		if !errors.Is(readErr, unix.EAGAIN) {
			return true
		}
		buffers.Put(b)
		return false
	}
	for {
		if err := raw.Read(read); err != nil {
			return err
		}
		if readErr == nil && n > 0 {
			_, err = to.Write(b[:n])
		}
		buffers.Put(b)
		switch {
		case readErr != nil:
			return readErr
		case n == 0:
			return nil
		case err != nil:
			return err
		}
	}
}
