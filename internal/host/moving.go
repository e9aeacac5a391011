package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// A moving address is one that the machine has beside its own, on the same interface, for as long as it is told to:
// others may have it before and after. It is nowhere on disk, so that a machine that starts again does not have it.

// AllowListening lets programs of the machine listen on addresses that it does not have now: a database that waits to take
// an address over listens already.
func (h *Host) AllowListening() error {
	return InNetNS(h.NetNS, func() error {
		for _, path := range []string{"/proc/sys/net/ipv4/ip_nonlocal_bind", "/proc/sys/net/ipv6/ip_nonlocal_bind"} {
			err := os.WriteFile(path, []byte("1"), 0)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
				return fmt.Errorf("allow listening on moving addresses: %w", err)
			}
		}
		return nil
	})
}

// TakeAddress gives the machine a moving address, and tells its neighbours. One that it has already is success.
func (h *Host) TakeAddress(ctx context.Context, address string) (taken bool, err error) {
	a, at, has, err := h.findAddress(address)
	if err != nil || has {
		return false, err
	}
	// Nobody is asked whether another has it (nodad): the control plane decides that.
	argv := h.ip("address", "add", prefixOf(a), "dev", at.Name, "nodad")
	if a.Is4() {
		argv = argv[:len(argv)-1]
	}
	if _, err := Run(ctx, argv...); err != nil {
		return false, err
	}
	return true, h.Announce(address)
}

// DropAddress takes a moving address from the machine. One that it has not is success.
func (h *Host) DropAddress(ctx context.Context, address string) (dropped bool, err error) {
	a, at, has, err := h.findAddress(address)
	if err != nil || !has {
		return false, err
	}
	_, err = Run(ctx, h.ip("address", "delete", prefixOf(a), "dev", at.Name)...)
	return err == nil, err
}

// Announce tells all neighbours that a moving address is here: a gratuitous ARP, or an unsolicited neighbour
// advertisement. Who knows the address elsewhere sends here from then on. On an interface without neighbours it does
// nothing.
func (h *Host) Announce(address string) error {
	a, at, has, err := h.findAddress(address)
	if err != nil || len(at.HardwareAddr) != 6 {
		return err
	}
	if !has {
		return fmt.Errorf("announce %s: this machine does not have it", address)
	}
	announce := announceIPv6
	if a.Is4() {
		announce = announceIPv4
	}
	if err := InNetNS(h.NetNS, func() error { return announce(a, at) }); err != nil {
		return fmt.Errorf("announce %s: %w", address, err)
	}
	return nil
}

// ip is a command of ip(8) in the machine's namespace.
func (h *Host) ip(args ...string) []string {
	if h.NetNS != "" {
		args = append([]string{"-n", h.NetNS}, args...)
	}
	return append([]string{"ip"}, args...)
}

func prefixOf(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// findAddress finds the interface that carries the machine's own address, and tells whether it has the moving one too.
func (h *Host) findAddress(address string) (a netip.Addr, at *net.Interface, has bool, err error) {
	if a, err = netip.ParseAddr(address); err != nil {
		return a, nil, false, fmt.Errorf("moving address: %w", err)
	}
	own, err := netip.ParseAddr(h.Address)
	if err != nil {
		return a, nil, false, fmt.Errorf("the machine's own address: %w", err)
	}
	if own == a {
		return a, nil, false, fmt.Errorf("%s is the machine's own address, and stays", address)
	}
	err = InNetNS(h.NetNS, func() error {
		at, has, err = carrier(own, a)
		return err
	})
	return a, at, has, err
}

func carrier(own, moving netip.Addr) (*net.Interface, bool, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, false, fmt.Errorf("list interfaces: %w", err)
	}
	for i := range all {
		list, err := all[i].Addrs()
		if err != nil {
			return nil, false, fmt.Errorf("list the addresses of %s: %w", all[i].Name, err)
		}
		here := map[netip.Addr]bool{}
		for _, one := range list {
			if p, err := netip.ParsePrefix(one.String()); err == nil {
				here[p.Addr()] = true
			}
		}
		if here[own] {
			return &all[i], here[moving], nil
		}
	}
	return nil, false, fmt.Errorf("no interface has the machine's own address %s", own)
}

// announceIPv4 sends a gratuitous ARP in both of its forms, for some neighbours heed only one.
func announceIPv4(a netip.Addr, at *net.Interface) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	everybody := &unix.SockaddrLinklayer{
		Protocol: binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ARP)),
		Ifindex:  at.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255},
	}
	const request, reply = 1, 2
	for _, form := range []byte{request, reply} {
		// Ethernet, IPv4, their lengths; the form; the sender's two addresses, then the target's.
		packet := []byte{0, 1, 8, 0, 6, 4, 0, form}
		packet = append(append(packet, at.HardwareAddr...), a.AsSlice()...)
		packet = append(append(packet, 255, 255, 255, 255, 255, 255), a.AsSlice()...)
		if err := unix.Sendto(fd, packet, 0, everybody); err != nil {
			return err
		}
	}
	return nil
}

// announceIPv6 sends an unsolicited neighbour advertisement (RFC 4861, 7.2.6). The kernel adds the checksum.
func announceIPv6(a netip.Addr, at *net.Interface) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	// A neighbour believes only what cannot have passed a router.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: a.As16(), ZoneId: uint32(at.Index)}); err != nil {
		return err
	}
	const advertisement, override, targetHardware = 136, 0x20, 2
	packet := append([]byte{advertisement, 0, 0, 0, override, 0, 0, 0}, a.AsSlice()...)
	packet = append(append(packet, targetHardware, 1), at.HardwareAddr...)
	everybody := netip.MustParseAddr("ff02::1").As16()
	return unix.Sendto(fd, packet, 0, &unix.SockaddrInet6{Addr: everybody, ZoneId: uint32(at.Index)})
}
