package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// NetworkMode is what separates the servers' networks.
type NetworkMode string

// The modes of the network. With namespaces each server has a network namespace of its own, on a bridge that this cloud
// has for itself, so that a server can be cut off; that needs root. Addresses of instances are loopback ones in both.
const (
	NetworkLoopback   NetworkMode = ""
	NetworkNamespaces NetworkMode = "namespaces"
)

// netnsDir is where ip-netns(8) keeps names.
const netnsDir = "/run/netns"

// bridge is the network of a cloud whose servers have namespaces. All its names come from the cloud's directory, and are
// found again by them.
type bridge struct {
	dir    string
	name   string
	prefix netip.Prefix
}

// prefixBits make a network of a thousand servers.
const prefixBits = 22

// openBridge makes the bridge, or finds the one that an earlier groved left.
func openBridge(ctx context.Context, dir string) (*bridge, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root: run groved as root, or with --network loopback")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, errors.New("network namespaces need the program ip: install the package iproute2, or run groved with --network loopback")
	}
	b := &bridge{dir: dir, name: fmt.Sprintf("gvb%08x", hashOf(dir)&0xffffffff)}
	if err := b.choosePrefix(filepath.Join(dir, "cloud", "bridge.json")); err != nil {
		return nil, err
	}
	if _, err := net.InterfaceByName(b.name); err != nil {
		if err := ip(ctx, "", fmt.Sprintf("link add name %s address %s type bridge", b.name, mac(b.gateway()))); err != nil {
			return nil, err
		}
	}
	_ = os.WriteFile(filepath.Join("/sys/class/net", b.name, "ifalias"), []byte(dir), 0) // for people alone
	return b, ip(ctx, "",
		fmt.Sprintf("addr replace %s/%d dev %s", b.gateway(), prefixBits, b.name),
		fmt.Sprintf("link set %s up", b.name))
}

func hashOf(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	return h.Sum64()
}

// choosePrefix takes the network recorded, else one of 10.0.0.0/8 that overlaps with none of this machine's.
func (b *bridge) choosePrefix(record string) error {
	raw, err := os.ReadFile(record)
	if err == nil {
		return json.Unmarshal(raw, &b.prefix)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	used, err := usedPrefixes()
	if err != nil {
		return err
	}
	start := hashOf(b.dir)
	for i := range uint64(1 << (prefixBits - 8)) {
		n := uint32(start+i) << (32 - prefixBits) & 0x00ffffff
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), prefixBits)
		if !overlaps(p, used) {
			b.prefix = p
			return writeJSON(record, p)
		}
	}
	return errors.New("this machine uses all of 10.0.0.0/8: there is no network for servers left")
}

func usedPrefixes() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var used []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			used = append(used, p)
		}
	}
	return used, nil
}

func overlaps(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// gateway is this machine's address on the bridge.
func (b *bridge) gateway() netip.Addr { return b.prefix.Addr().Next() }

// mac gives an address's own hardware address, so that nobody's memory of it is stale after a restart.
func mac(a netip.Addr) string {
	v := a.As4()
	return fmt.Sprintf("02:67:%02x:%02x:%02x:%02x", v[0], v[1], v[2], v[3])
}

// namespacePrefix begins the names of all namespaces of this cloud.
func (b *bridge) namespacePrefix() string { return b.name + "-" }

func (b *bridge) namespace(guestID string) string { return b.namespacePrefix() + guestID }

// cable is the end outside of a guest's namespace. Its alias is the guest's id.
func (b *bridge) cable(guestID string) string {
	return fmt.Sprintf("gv%013x", hashOf(b.dir+"/"+guestID)&(1<<52-1))
}

// ensure makes a guest's namespace with its address, or finds it.
func (b *bridge) ensure(ctx context.Context, guestID, address string, isolated bool) error {
	err := b.configure(ctx, guestID, address, isolated)
	if err == nil {
		return nil
	}
	if err := b.remove(ctx, guestID); err != nil { // what is half there is made anew
		return err
	}
	if err := b.make(ctx, guestID, address); err != nil {
		return err
	}
	return b.configure(ctx, guestID, address, isolated)
}

func (b *bridge) make(ctx context.Context, guestID, address string) error {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	ns, cable := b.namespace(guestID), b.cable(guestID)
	return ip(ctx, "",
		"netns add "+ns,
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %s", cable, mac(a), ns),
		fmt.Sprintf("link set %s alias %s", cable, guestID))
}

func (b *bridge) configure(ctx context.Context, guestID, address string, isolated bool) error {
	ns, cable := b.namespace(guestID), b.cable(guestID)
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Join(netnsDir, ns), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("network namespace %s is not there", ns)
	}
	if _, err := net.InterfaceByName(cable); err != nil {
		return err
	}
	err := ip(ctx, ns,
		"link set lo up",
		fmt.Sprintf("addr replace %s/%d dev eth0", address, prefixBits),
		"link set eth0 up",
		fmt.Sprintf("route replace default via %s", b.gateway()))
	if err != nil {
		return err
	}
	return b.plug(ctx, guestID, !isolated)
}

// plug connects a guest to the bridge, or cuts it off.
func (b *bridge) plug(ctx context.Context, guestID string, in bool) error {
	state := "down"
	if in {
		state = "up"
	}
	return ip(ctx, "", fmt.Sprintf("link set %s master %s %s", b.cable(guestID), b.name, state))
}

// unplug takes a guest's cable away: what its processes say from now on reaches nobody.
func (b *bridge) unplug(ctx context.Context, guestID string) error {
	plugged := func() bool { _, err := net.InterfaceByName(b.cable(guestID)); return err == nil }
	if !plugged() {
		return nil
	}
	// The kernel takes the cable of a namespace that was deleted away by itself, some time later.
	if err := ip(ctx, "", "link delete "+b.cable(guestID)); err != nil && plugged() {
		return err
	}
	return nil
}

// remove removes a guest's namespace, in which nothing runs any more.
func (b *bridge) remove(ctx context.Context, guestID string) error {
	if err := b.unplug(ctx, guestID); err != nil {
		return err
	}
	if !exists(filepath.Join(netnsDir, b.namespace(guestID))) {
		return nil
	}
	return ip(ctx, "", "netns delete "+b.namespace(guestID))
}

// close removes all namespaces and the bridge.
func (b *bridge) close(ctx context.Context) error {
	paths, err := filepath.Glob(filepath.Join(netnsDir, b.namespacePrefix()+"*"))
	errs := []error{err}
	for _, path := range paths {
		errs = append(errs, b.remove(ctx, strings.TrimPrefix(filepath.Base(path), b.namespacePrefix())))
	}
	return errors.Join(append(errs, ip(ctx, "", "link delete "+b.name))...)
}

// ip runs commands of ip(8) one after the other, in a namespace unless it is "".
func ip(ctx context.Context, namespace string, commands ...string) error {
	args := []string{"-batch", "-"}
	if namespace != "" {
		args = append([]string{"-n", namespace}, args...)
	}
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(commands, "; "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// joinNetwork gives a server that is about to run its namespace.
func (c *Cloud) joinNetwork(ctx context.Context, guestID string, h *host.Spec) error {
	a, err := netip.ParseAddr(h.Address)
	switch {
	case err != nil:
		return err
	case a.IsLoopback(): // also in a cloud that had no namespaces when the server was made
		return nil
	case c.bridge == nil:
		return fmt.Errorf("the server's address %s is in a network namespace: run groved with --network namespaces", h.Address)
	}
	c.mu.Lock()
	isolated := c.isolated[guestID]
	c.mu.Unlock()
	h.NetNS = c.bridge.namespace(guestID)
	return c.bridge.ensure(ctx, guestID, h.Address, isolated)
}

// leaveNetwork takes the network from a server in which nothing runs any more.
func (c *Cloud) leaveNetwork(ctx context.Context, guestID string) error {
	if c.bridge == nil {
		return nil
	}
	return c.bridge.remove(ctx, guestID)
}

// Isolate cuts a server's network off from all others, as a broken cable does: it runs, and reaches nobody. That lasts
// until Rejoin, or until this Cloud is closed. It needs network namespaces.
func (c *Cloud) Isolate(ctx context.Context, serverID string) error {
	return c.setIsolated(ctx, serverID, true)
}

// Rejoin ends what Isolate began.
func (c *Cloud) Rejoin(ctx context.Context, serverID string) error {
	return c.setIsolated(ctx, serverID, false)
}

// CutOff tells whether a guest is off the network of its cloud, by Isolate or by whoever took its cable down. The messages
// of an agent inside this process know no network; who carries them can ask.
func (c *Cloud) CutOff(guestID string) bool {
	return c.bridge != nil && !c.bridge.plugged(guestID)
}

// plugged tells whether a guest's cable is there and up.
func (b *bridge) plugged(guestID string) bool {
	name, err := unix.NewIfreq(b.cable(guestID))
	if err != nil {
		return false
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true // not known
	}
	defer func() { _ = unix.Close(fd) }()
	err = unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, name)
	return err == nil && name.Uint16()&unix.IFF_UP != 0
}

func (c *Cloud) setIsolated(ctx context.Context, serverID string, isolated bool) error {
	if c.bridge == nil {
		return dbaas.Errorf(dbaas.BadRequest, "Only servers in network namespaces can be cut off: run groved with --network namespaces.")
	}
	c.mu.Lock()
	s, ok := c.servers.rows[serverID]
	if ok && isolated {
		c.isolated[s.GuestID] = true
	} else {
		delete(c.isolated, s.GuestID)
	}
	c.mu.Unlock()
	if !ok {
		return noServer(serverID)
	}
	m := c.machine(serverID)
	m.turn.Lock()
	defer m.turn.Unlock()
	if _, err := net.InterfaceByName(c.bridge.cable(s.GuestID)); err != nil {
		return nil // it is off
	}
	return c.bridge.plug(ctx, s.GuestID, !isolated)
}
