package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netnsDir is where network namespaces have their names, by the convention of ip-netns(8).
const netnsDir = "/run/netns"

// Dial connects to an address as everything of the guest does: from the guest's own address, and in the network
// namespace of its machine. Whoever wants to know what the guest can reach (its own database, its peers) asks with this,
// also an agent that runs elsewhere.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	if ip := net.ParseIP(h.Address); ip != nil && strings.HasPrefix(network, "tcp") {
		d.LocalAddr = &net.TCPAddr{IP: ip}
	}
	var conn net.Conn
	err := InNetNS(h.NetNS, func() (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// InNetNS does something in a network namespace, "" for the one that we are in: what it opens and starts belongs there.
// It must do so on the goroutine that it is called on.
func InNetNS(name string, do func() error) error {
	if name == "" {
		return do()
	}
	away, err := os.Open(filepath.Join(netnsDir, name))
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	defer func() { _ = away.Close() }()
	result := make(chan error)
	go func() { result <- within(away, do) }()
	if err := <-result; err != nil {
		return fmt.Errorf("in network namespace %s: %w", name, err)
	}
	return nil
}

// within does something on a thread that is in another network namespace meanwhile. One that cannot come back ends with
// its goroutine.
func within(away *os.File, do func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net") // not self: that is the main thread's, which may be away
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter: %w", err)
	}
	defer func() { _ = home.Close() }()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter: %w", err)
	}
	err = do()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}
