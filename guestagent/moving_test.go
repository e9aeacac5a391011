package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// wire is a network of machines, each with a namespace and one address of either kind.
type wire struct {
	t      *testing.T
	prefix string // of names
}

func newWire(t *testing.T) *wire {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip (package iproute2) is missing")
	}
	w := &wire{t: t, prefix: fmt.Sprintf("gm%d", os.Getpid())}
	// The bridge is in a namespace of its own: the machine's firewall has no say.
	w.ip("netns add " + w.prefix)
	t.Cleanup(func() { w.ip("netns delete " + w.prefix) })
	w.ip("-n " + w.prefix + " link add bridge type bridge")
	w.ip("-n " + w.prefix + " link set bridge up")
	return w
}

func (w *wire) ip(args string) string {
	w.t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("ip %s: %v: %s", args, err, out)
	}
	return string(out)
}

// plug makes the namespace of the n-th machine.
func (w *wire) plug(n int) (netns string) {
	w.t.Helper()
	netns = fmt.Sprintf("%s-%d", w.prefix, n)
	w.ip("netns add " + netns)
	w.t.Cleanup(func() { w.ip("netns delete " + netns) })
	w.ip(fmt.Sprintf("-n %s link add cable%d type veth peer name eth0 netns %s", w.prefix, n, netns))
	w.ip(fmt.Sprintf("-n %s link set cable%d master bridge up", w.prefix, n))
	w.ip("-n " + netns + " link set lo up")
	w.ip(fmt.Sprintf("-n %s address add %s/24 dev eth0", netns, w.address(n)))
	w.ip(fmt.Sprintf("-n %s address add fd77::%d/64 dev eth0 nodad", netns, n))
	w.ip("-n " + netns + " link set eth0 up")
	return netns
}

func (w *wire) address(n int) string { return fmt.Sprintf("10.77.0.%d", n) }

// bench is a bench whose agent runs on the n-th machine.
func (w *wire) bench(n int) *bench {
	w.t.Helper()
	b := newBench(w.t)
	datastoretest.Destroy(w.t, b.host)
	spec := host.Spec{Dir: b.host.Dir, DataDir: b.host.DataDir, SizeFile: filepath.Join(filepath.Dir(b.host.DataDir), "size"),
		Address: w.address(n), NetNS: w.plug(n), Announces: true}
	h, err := spec.Open(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { datastoretest.Destroy(w.t, h) })
	b.host, b.boot.Address = h, h.Address
	return b
}

// client is a tenant's connection from a machine to an address; each command dials anew.
func (w *wire) client(netns, address string) *redis.Client {
	from := &host.Host{NetNS: netns}
	c := redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(address, "6379"), Password: datastoretest.Password, DisableIdentity: true, Protocol: 2, MaxRetries: -1,
		DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, ConnMaxLifetime: time.Nanosecond, PoolSize: 1,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			return from.Dial(ctx, network, address)
		},
	})
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestAddressMoves: the address of an instance goes from one guest to the other with their roles, and a client that has
// just spoken to the one speaks to the other, over either kind of address.
func TestAddressMoves(t *testing.T) {
	for kind, address := range map[string]string{"IPv4": "10.77.0.100", "IPv6": "fd77::100"} {
		t.Run(kind, func(t *testing.T) {
			w := newWire(t)
			first, second, tenant := w.bench(1), w.bench(2), w.plug(3)
			order := func(b, other *bench, here bool, master *bench) datastore.Desired {
				d := b.desired()
				pair(dbaas.DurabilityAsync)(&d)
				d.Peers = []datastore.Endpoint{other.member("other")}
				d.Moving = &datastore.MovingAddress{Address: address, Here: here}
				if master != nil {
					d.Master = &d.Peers[0]
				}
				return d
			}
			for _, m := range []struct {
				*bench
				desired datastore.Desired
			}{{first, order(first, second, true, nil)}, {second, order(second, first, false, first)}} {
				m.start()
				key := m.await("a key", func(r guest.StatusReport) bool { return len(r.PublicKey) > 0 })
				sealed, err := guest.SealSecrets(key.PublicKey, map[string]string{
					datastore.SecretPassword: datastoretest.Password, datastore.SecretReplication: "a-secret-of-members-0123456789abcdef",
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := m.client.Prepare(m.ctx(), guest.PrepareRequest{Fence: fence("prepare"), Desired: m.desired, Sealed: sealed}); err != nil {
					t.Fatal(err)
				}
				m.awaitStatus(dbaas.GuestHealthy)
			}
			client := w.client(tenant, address)
			who := func() (string, error) {
				text, err := client.Info(t.Context(), "replication").Result()
				return text, err
			}
			text, err := who()
			if err != nil || !strings.Contains(text, "role:master") {
				t.Fatalf("through the address: %v %s", err, text)
			}
			if w.holders(address) != "1" {
				t.Fatalf("the address is on %q", w.holders(address))
			}
			testbed.Eventually(t, time.Minute, func() error {
				text, err := who()
				if err == nil && !strings.Contains(text, "state=online") {
					err = errors.New("no replica in step")
				}
				return err
			})

			// Fence, promote: nothing else clears what the client remembers of the address.
			stop := guest.StopRequest{Fence: fence("fence", 2, 1), Now: true}
			if err := first.client.Stop(first.ctx(), stop); err != nil {
				t.Fatal(err)
			}
			if at := w.holders(address); at != "" {
				t.Errorf("after the fence the address is on %q", at)
			}
			promote := guest.ConfigureRequest{Fence: fence("promote", 2, 1), Desired: order(second, first, true, nil)}
			if _, err := second.client.Configure(second.ctx(), promote); err != nil {
				t.Fatal(err)
			}
			if at := w.holders(address); at != "2" {
				t.Errorf("after the promotion the address is on %q", at)
			}
			if neighbour := w.ip("-n " + tenant + " neighbour show " + address); !strings.Contains(neighbour, w.hardware(second)) {
				t.Errorf("the client still knows the address as %s", neighbour)
			}
			testbed.Eventually(t, time.Minute, func() error {
				text, err := who()
				if err == nil && !strings.Contains(text, "role:master") {
					err = fmt.Errorf("it is %s", text)
				}
				return err
			})

			// The old one's machine starts again with what it remembers, which is that it was stopped.
			first.end()
			first.start()
			demoted := guest.ConfigureRequest{Fence: fence("repair", 2, 1), Desired: order(first, second, false, second)}
			if _, err := first.client.Configure(first.ctx(), demoted); err != nil {
				t.Fatal(err)
			}
			if err := first.client.Restart(first.ctx(), fence("restart", 2, 1)); err != nil {
				t.Fatal(err)
			}
			first.awaitStatus(dbaas.GuestHealthy)
			if at := w.holders(address); at != "2" {
				t.Errorf("with both up the address is on %q", at)
			}

			// A planned switch, there and back: who hands over has given the address up before the other takes it.
			for epoch, change := range []struct {
				from, to *bench
				at       string
			}{{second, first, "1"}, {first, second, "2"}} {
				do := func(deed string) guest.Fence { return fence(fmt.Sprint(deed, epoch), int64(3+epoch), 3) }
				args, err := json.Marshal(change.to.member("other"))
				if err != nil {
					t.Fatal(err)
				}
				testbed.Eventually(t, time.Minute, func() error { // the replica may not be in step yet
					_, err := change.from.client.Action(change.from.ctx(), guest.ActionRequest{Fence: do("handover"), Name: datastore.ActionHandover, Args: args})
					return err
				})
				if at := w.holders(address); at != "" {
					t.Errorf("after the handover the address is on %q", at)
				}
				promote := guest.ConfigureRequest{Fence: do("promote"), Desired: order(change.to, change.from, true, nil)}
				if _, err := change.to.client.Configure(change.to.ctx(), promote); err != nil {
					t.Fatal(err)
				}
				follow := guest.ConfigureRequest{Fence: do("follow"), Desired: order(change.from, change.to, false, change.to)}
				if _, err := change.from.client.Configure(change.from.ctx(), follow); err != nil {
					t.Fatal(err)
				}
				if at := w.holders(address); at != change.at {
					t.Errorf("after the switch the address is on %q", at)
				}
			}

			// Whatever takes the address away, it comes back; a new agent finds its own.
			w.ip(fmt.Sprintf("-n %s address delete %s dev eth0", second.host.NetNS, w.prefixed(address)))
			second.end()
			second.start()
			testbed.Eventually(t, time.Minute, func() error {
				if at := w.holders(address); at != "2" {
					return fmt.Errorf("the address is on %q", at)
				}
				return nil
			})

			// A master that died alone gives the address up until it is known who takes over.
			if err := second.host.Units.Kill(t.Context(), "redis"); err != nil {
				t.Fatal(err)
			}
			testbed.Eventually(t, time.Minute, func() error {
				if at := w.holders(address); at != "" {
					return fmt.Errorf("the address is on %q", at)
				}
				return nil
			})
		})
	}
}

// holders tells which machines have an address.
func (w *wire) holders(address string) string {
	w.t.Helper()
	var at []string
	for n := range 3 {
		if strings.Contains(w.ip(fmt.Sprintf("-n %s-%d address show dev eth0", w.prefix, n+1)), " "+w.prefixed(address)+" ") {
			at = append(at, fmt.Sprint(n+1))
		}
	}
	slices.Sort(at)
	return strings.Join(at, " ")
}

func (w *wire) prefixed(address string) string {
	if strings.Contains(address, ":") {
		return address + "/128"
	}
	return address + "/32"
}

func (w *wire) hardware(b *bench) string {
	fields := strings.Fields(w.ip("-n " + b.host.NetNS + " link show dev eth0"))
	return fields[slices.Index(fields, "link/ether")+1]
}
