package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// port is the record of a port: an address that is one guest's alone.
type port struct {
	GuestID         string `json:"guest_id"`
	Name            string `json:"name"`
	Network         string `json:"network"` // id
	Address         string `json:"address"`
	TCPPorts        []int  `json:"tcp_ports,omitempty"`
	SecurityGroupID string `json:"security_group_id,omitempty"`
	Born            int64  `json:"born"`
}

func (p port) tag() (string, string) { return p.GuestID, p.Name }
func (p port) born() int64           { return p.Born }

func (p port) view(id string) *cloud.Port {
	return &cloud.Port{ID: id, Address: p.Address, Network: p.Network}
}

// securityGroup is the record of a security group. On one machine it is not enforced: loopback is nobody else's.
type securityGroup struct {
	GuestID      string   `json:"guest_id"`
	Name         string   `json:"name"`
	TCPPorts     []int    `json:"tcp_ports,omitempty"`
	AllowedCIDRs []string `json:"allowed_cidrs,omitempty"`
	Born         int64    `json:"born"`
}

func (g securityGroup) tag() (string, string) { return g.GuestID, g.Name }
func (g securityGroup) born() int64           { return g.Born }

// EnsureSecurityGroup records who may reach a guest. It filters nothing, so that peers reach each other in any case.
func (c *Cloud) EnsureSecurityGroup(_ context.Context, s cloud.SecurityGroupSpec) (string, error) {
	if err := checkTag(s.GuestID, s.Name); err != nil {
		return "", err
	}
	for _, cidr := range s.AllowedCIDRs {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			return "", dbaas.Errorf(dbaas.BadRequest, "%q is not a network in CIDR notation, such as 10.0.0.0/8.", cidr)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	row := securityGroup{GuestID: s.GuestID, Name: s.Name, TCPPorts: s.TCPPorts, AllowedCIDRs: s.AllowedCIDRs, Born: c.now()}
	ids := find(c.security, s.GuestID, s.Name, "")
	if len(ids) > 0 {
		row.Born = c.security.rows[ids[0]].Born
		for _, id := range ids[1:] {
			if err := c.security.remove(id); err != nil {
				return "", err
			}
		}
		return ids[0], c.security.put(ids[0], row)
	}
	id, err := newID()
	if err != nil {
		return "", err
	}
	return id, c.security.put(id, row)
}

// DeleteSecurityGroup forgets a security group.
func (c *Cloud) DeleteSecurityGroup(_ context.Context, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.security.remove(id)
}

// EnsurePort gives a guest an address of its own, on which the given TCP ports are free.
func (c *Cloud) EnsurePort(_ context.Context, s cloud.PortSpec) (*cloud.Port, error) {
	if err := checkTag(s.GuestID, s.Name); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ids := find(c.ports, s.GuestID, s.Name, s.RecordedID); len(ids) > 0 {
		for _, id := range ids[1:] {
			if err := c.ports.remove(id); err != nil {
				return nil, err
			}
		}
		return c.ports.rows[ids[0]].view(ids[0]), nil
	}
	wish := place{tag: s.GuestID + "/" + s.Name, nic: s.Nic, ports: s.TCPPorts}
	if c.bridge != nil {
		wish.within, wish.ports = c.bridge.prefix, nil // where nobody else is
	}
	network, address, err := c.chooseAddress(wish)
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	row := port{GuestID: s.GuestID, Name: s.Name, Network: network, Address: address.String(), TCPPorts: s.TCPPorts,
		SecurityGroupID: s.SecurityGroupID, Born: c.now()}
	return row.view(id), c.ports.put(id, row)
}

// DeletePort gives an address back. Nothing leads there any more before another guest can have it.
func (c *Cloud) DeletePort(ctx context.Context, id string) error {
	if err := c.unpoint(ctx, id); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ports.remove(id)
}

// place is a wish for an address on which some TCP ports are free.
type place struct {
	tag    string // differs between any two
	nic    dbaas.Nic
	ports  []int
	within netip.Prefix // zero: the network's own addresses
}

func (c *Cloud) chooseAddress(s place) (id string, a netip.Addr, err error) {
	if s.nic.SubnetID != "" {
		return "", a, dbaas.Errorf(dbaas.BadRequest, "The local cloud has no subnets, and so no %q: name a network.", s.nic.SubnetID)
	}
	n, err := c.cfg.network(s.nic.NetworkID)
	if err != nil {
		return "", a, err
	}
	prefix := netip.MustParsePrefix(n.CIDR).Masked() // checked by Open
	taken := map[string]bool{}
	if s.within.IsValid() {
		prefix = s.within
		taken[c.bridge.gateway().String()] = true
	}
	for _, p := range c.ports.rows {
		taken[p.Address] = true
	}
	for _, a := range c.address.rows {
		taken[a.Address] = true
	}
	if s.nic.IPAddress != "" {
		a, err = wishedAddress(s, n, prefix, taken)
	} else {
		a, err = freeAddress(s, n, prefix, taken)
	}
	return n.ID, a, err
}

// wishedAddress checks an address that was asked for.
func wishedAddress(s place, n dbaas.Network, prefix netip.Prefix, taken map[string]bool) (netip.Addr, error) {
	a, err := netip.ParseAddr(s.nic.IPAddress)
	if err != nil || !usable(prefix, a) {
		return a, dbaas.Errorf(dbaas.BadRequest, "%q is no address that network %s (%s) can give.", s.nic.IPAddress, n.Name, n.CIDR)
	}
	if taken[a.String()] {
		return a, dbaas.Errorf(dbaas.BadRequest, "Address %s belongs to another instance.", a)
	}
	if err := bindable(a.String(), s.ports); err != nil {
		return a, dbaas.WrapError(err, dbaas.BadRequest, "Address %s is used by another process of this machine.", a)
	}
	return a, nil
}

// addressTries bounds the search, for where a port is taken on all addresses at once.
const addressTries = 1024

// freeAddress looks for an address from a point on that differs from guest to guest, so that several clouds in one
// network hardly ever meet.
func freeAddress(s place, n dbaas.Network, prefix netip.Prefix, taken map[string]bool) (netip.Addr, error) {
	base := prefix.Addr().As4()
	size := uint64(1) << (32 - prefix.Bits())
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.tag))
	start := h.Sum64() % size
	var lastErr error
	tries := 0
	for i := uint64(0); i < size && tries < addressTries; i++ {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+uint32((start+i)%size))
		a := netip.AddrFrom4(b)
		if !usable(prefix, a) || taken[a.String()] {
			continue
		}
		tries++
		if lastErr = bindable(a.String(), s.ports); lastErr == nil {
			return a, nil
		}
	}
	if lastErr == nil {
		return netip.Addr{}, dbaas.Errorf(dbaas.OverLimit, "Network %s (%s) has no free address left.", n.Name, n.CIDR)
	}
	return netip.Addr{}, dbaas.WrapError(lastErr, dbaas.OverLimit,
		"Network %s (%s) has no address with TCP ports %v free; does a process listen on all addresses?", n.Name, n.CIDR, s.ports)
}

// usable tells whether an address may be a guest's: the first and last of a network, and those that look so, may not.
func usable(prefix netip.Prefix, a netip.Addr) bool {
	if !a.Is4() || !prefix.Contains(a) || a == prefix.Addr() {
		return false
	}
	b, base := a.As4(), prefix.Addr().As4()
	last := binary.BigEndian.Uint32(base[:]) + uint32(uint64(1)<<(32-prefix.Bits())-1)
	if binary.BigEndian.Uint32(b[:]) == last {
		return false
	}
	return prefix.Bits() >= 24 || b[3] != 0 && b[3] != 255
}

// bindable tells why the ports of an address can't be listened on.
func bindable(address string, ports []int) error {
	for _, p := range ports {
		l, err := net.Listen("tcp4", net.JoinHostPort(address, strconv.Itoa(p)))
		if err != nil {
			if errors.Is(err, unix.EADDRINUSE) {
				return fmt.Errorf("address %s, port %d is in use by another process", address, p)
			}
			return fmt.Errorf("address %s, port %d: %w", address, p, err)
		}
		_ = l.Close()
	}
	return nil
}
