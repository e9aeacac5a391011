package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func newAuthority(t testing.TB) *secret.Authority {
	t.Helper()
	a, err := secret.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t testing.TB, a *secret.Authority, names ...string) string {
	t.Helper()
	pair, err := a.Issue(names, time.Now(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return string(pair)
}

// speak makes the database speak in this mode, with a new certificate when it is to speak TLS.
func (g *trial) speak(t testing.TB, a *secret.Authority, mode dbaas.TLSMode) {
	t.Helper()
	g.desired.TLS, g.desired.Secrets = nil, nil
	if mode != dbaas.TLSOff {
		g.desired.TLS = &datastore.TLS{Mode: mode, CA: a.Certificate()}
		g.desired.Secrets = map[string]string{datastore.SecretTLSKey: issue(t, a, g.host.Address)}
	}
	if _, err := g.Configure(t.Context(), g.desired); err != nil {
		t.Fatalf("speak %s: %v", mode, err)
	}
	g.desired.Secrets = nil
}

func trusting(ca string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// secured is a tenant's connection by TLS, which knows the server by the authority and its address.
func (g *trial) secured(t testing.TB, ca string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(g.host.Address, strconv.Itoa(tlsPort)), Password: datastoretest.Password, TLSConfig: trusting(ca),
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true, Protocol: 2, ReadTimeout: 20 * time.Second,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// requireReached looks who can be reached how.
func (g *trial) requireReached(t *testing.T, ca string, plain, encrypted bool) {
	t.Helper()
	if err := g.tenant(t).Ping(t.Context()).Err(); (err == nil) != plain {
		t.Errorf("plain: %v, want it reached: %v", err, plain)
	}
	if err := g.secured(t, ca).Ping(t.Context()).Err(); (err == nil) != encrypted {
		t.Errorf("TLS: %v, want it reached: %v", err, encrypted)
	}
}

// listener is a subscribed client that must never lose its connection.
type listener struct {
	*redis.PubSub
	publisher *redis.Client
	n         int
}

func listen(t *testing.T, c *redis.Client, publisher *redis.Client) *listener {
	t.Helper()
	s := c.Subscribe(t.Context(), "news")
	t.Cleanup(func() { _ = s.Close() })
	if _, err := s.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &listener{PubSub: s, publisher: publisher}
}

// hears makes sure that the connection of the beginning is the one that hears.
func (l *listener) hears(t *testing.T) {
	t.Helper()
	l.n++
	want := fmt.Sprint("message ", l.n)
	if err := l.publisher.Publish(t.Context(), "news", want).Err(); err != nil {
		t.Fatal(err)
	}
	m, err := l.ReceiveTimeout(t.Context(), time.Minute)
	if err != nil {
		t.Fatalf("the subscribed client lost its connection: %v", err)
	}
	if got, ok := m.(*redis.Message); !ok || got.Payload != want {
		t.Fatalf("the subscribed client heard %v, want %q", m, want)
	}
}

// TestTLSModes goes through all modes and back while clients of both kinds stay connected.
func TestTLSModes(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureTLS)
		a, g := newAuthority(t), up(t, version)
		ca := a.Certificate()
		plain := listen(t, g.tenant(t), g.admin(t).Client)
		g.requireReached(t, ca, true, false)
		g.speak(t, a, dbaas.TLSBoth)
		g.requireReached(t, ca, true, true)
		encrypted := listen(t, g.secured(t, ca), g.admin(t).Client)
		for _, mode := range []dbaas.TLSMode{dbaas.TLSOn, dbaas.TLSBoth, dbaas.TLSOn} {
			g.speak(t, a, mode)
			g.requireReached(t, ca, mode == dbaas.TLSBoth, true)
			plain.hears(t)
			encrypted.n = plain.n
			requireHeard(t, encrypted)
		}
		if err := g.secured(t, newAuthority(t).Certificate()).Ping(t.Context()).Err(); err == nil {
			t.Error("a client that trusts another authority is content")
		}
		g.restart(t)
		g.requireReached(t, ca, false, true)
		var said struct {
			Certificate *datastore.Certificate `json:"certificate"`
		}
		s := g.Status(t.Context())
		if err := json.Unmarshal(s.Observed, &said); err != nil || said.Certificate == nil || said.Certificate.Mode != dbaas.TLSOn ||
			len(said.Certificate.Names) != 1 || said.Certificate.Names[0] != g.host.Address || s.Metrics[expiryMetric] == 0 {
			t.Errorf("it says of its certificate %+v, %v, metric %v", said.Certificate, err, s.Metrics[expiryMetric])
		}
		g.speak(t, a, dbaas.TLSOff)
		g.requireReached(t, ca, true, false)
		if left, _ := filepath.Glob(g.path("tls-*")); len(left) > 0 {
			t.Errorf("files of certificates are left: %v", left)
		}
	})
}

// requireHeard makes sure that the last message came to another listener too.
func requireHeard(t *testing.T, l *listener) {
	t.Helper()
	m, err := l.ReceiveTimeout(t.Context(), time.Minute)
	if got, ok := m.(*redis.Message); err != nil || !ok || got.Payload != fmt.Sprint("message ", l.n) {
		t.Fatalf("the subscribed client heard %v, %v", m, err)
	}
}

// TestTLSRotation: a new certificate is shown to who comes, and nobody who is there notices.
func TestTLSRotation(t *testing.T) {
	t.Parallel()
	a, g := newAuthority(t), up(t, redis70)
	g.speak(t, a, dbaas.TLSOn)
	client := listen(t, g.secured(t, a.Certificate()), g.admin(t).Client)
	serial := func() string {
		conn, err := tls.Dial("tcp", net.JoinHostPort(g.host.Address, strconv.Itoa(tlsPort)), trusting(a.Certificate()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	g.configure(t) // says nothing of a certificate
	if serial() != before {
		t.Error("the certificate is another though nobody gave one")
	}
	g.speak(t, a, dbaas.TLSOn)
	if serial() == before {
		t.Error("the certificate is the old one")
	}
	client.hears(t)
	if files, _ := filepath.Glob(g.path(pairFiles + "*")); len(files) != 1 {
		t.Errorf("the files of certificates are %v", files)
	}
	before = serial()
	g.restart(t)
	if serial() != before {
		t.Error("a restart brings another certificate")
	}
}

// TestTLSRefusals: what cannot be leaves everything as it was, and tells no secret.
func TestTLSRefusals(t *testing.T) {
	t.Parallel()
	a, g := newAuthority(t), up(t, redis70)
	try := func(pair string) {
		t.Helper()
		d := g.desired
		d.TLS = &datastore.TLS{Mode: dbaas.TLSOn, CA: a.Certificate()}
		if d.Secrets = nil; pair != "" {
			d.Secrets = map[string]string{datastore.SecretTLSKey: pair}
		}
		_, err := g.Configure(t.Context(), d)
		if dbaas.ErrorCode(err) != dbaas.BadRequest || pair != "" && strings.Contains(err.Error(), pair[40:80]) {
			t.Errorf("configure with a bad pair: %v", err)
		}
		g.requireReached(t, a.Certificate(), true, false)
	}
	one, other := issue(t, a, g.host.Address), issue(t, a, g.host.Address)
	key, _, _ := strings.Cut(one, "-----BEGIN CERTIFICATE")
	_, certificate, _ := strings.Cut(other, "-----BEGIN CERTIFICATE")
	try("")
	try(strings.Repeat("no certificate at all. ", 10))
	try(key + "-----BEGIN CERTIFICATE" + certificate)

	d := g.desired // one for another address does not open the port
	d.TLS = &datastore.TLS{Mode: dbaas.TLSOn, CA: a.Certificate()}
	d.Secrets = map[string]string{datastore.SecretTLSKey: issue(t, a, "198.51.100.1")}
	if _, err := g.Configure(t.Context(), d); err == nil {
		t.Error("a certificate for another address is taken")
	}
	g.requireReached(t, a.Certificate(), true, false)
	g.speak(t, a, dbaas.TLSOff)
	g.requireReached(t, a.Certificate(), true, false)
}

// TestTLSKeyIsClosed: nobody but its owner reads the key's file.
func TestTLSKeyIsClosed(t *testing.T) {
	t.Parallel()
	a, g := newAuthority(t), up(t, redis70)
	g.speak(t, a, dbaas.TLSBoth)
	err := filepath.Walk(g.host.Dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "PRIVATE KEY") && !g.closed(info, 0o600) {
			t.Errorf("%s with a private key is %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if i, err := g.admin(t).configGet(t.Context(), "tls-key-file"); err != nil || !strings.HasPrefix(filepath.Base(i["tls-key-file"]), pairFiles) {
		t.Errorf("the server's key is %v, %v", i, err)
	}
}

// TestTLSReplication converts a master and its replicas, and has them fail over, without plain text between them.
func TestTLSReplication(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureTLS)
		a, list := newAuthority(t), group(t, version, 2)
		ca := a.Certificate()
		master, replica := list[0], list[1]
		client := listen(t, master.tenant(t), master.admin(t).Client)
		for _, mode := range []dbaas.TLSMode{dbaas.TLSBoth, dbaas.TLSOn} { // masters first
			for _, g := range list {
				g.speak(t, a, mode)
			}
		}
		for _, g := range list[1:] {
			datastoretest.AwaitInStep(t, g)
			if i, err := g.admin(t).info(t.Context()); err != nil || i["master_port"] != strconv.Itoa(tlsPort) {
				t.Errorf("a replica follows port %s, %v", i["master_port"], err)
			}
		}
		for _, g := range list {
			g.requireReached(t, ca, false, true)
		}
		client.hears(t)
		if i, err := master.admin(t).info(t.Context()); err != nil || i["sync_full"] != "2" {
			t.Errorf("the replicas copied everything %s times, %v; once each was enough", i["sync_full"], err)
		}
		if v := replica.Probe(t.Context(), *master.endpoint()); !v.Alive || v.Role != datastore.RoleMaster {
			t.Errorf("a replica sees its master as %+v", v)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := master.Handover(ctx, *replica.endpoint()); err != nil {
			t.Fatal(err)
		}
		replica.desired.Master = nil
		replica.configure(t)
		for _, g := range []*trial{master, list[2]} {
			g.desired.Master = replica.endpoint()
			g.configure(t)
			datastoretest.AwaitInStep(t, g)
		}
		if err := replica.secured(t, ca).Set(t.Context(), "k", "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
		master.restart(t)
		for _, g := range []*trial{master, list[2]} {
			testbed.Eventually(t, time.Minute, func() error {
				v, err := g.secured(t, ca).Get(t.Context(), "k").Result()
				if err == nil && v != "v" {
					err = errors.New("the value is " + v)
				}
				return err
			})
		}
		for _, mode := range []dbaas.TLSMode{dbaas.TLSBoth, dbaas.TLSOff} { // and back; replicas first
			for _, g := range []*trial{master, list[2], replica} {
				g.speak(t, a, mode)
				for _, peer := range list { // whoever was converted already, everybody is seen
					if v := g.Probe(t.Context(), *peer.endpoint()); peer != g && !v.Alive {
						t.Errorf("while becoming %s a member is taken for dead: %+v", mode, v)
					}
				}
			}
		}
		for _, g := range []*trial{master, list[2]} {
			datastoretest.AwaitInStep(t, g)
			g.requireReached(t, ca, true, false)
		}
	})
}

// TestTLSCluster forms a cluster that speaks nothing but TLS, and moves slots while it is written to.
func TestTLSCluster(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureTLSCluster)
		takesMinutes(t, version)
		a := newAuthority(t)
		f := &fleet{t: t, version: version, wish: datastore.ClusterWish{ClusterID: "c"}, authority: a}
		f.addShard(0, 1)
		f.addShard(1, 0)
		f.addShard(2, 0)
		f.converge()
		l := startLoad(t, f.tenant(), true)
		f.addShard(3, 0)
		f.wish.Rebalance = true
		f.converge()
		l.stop(f)
		for _, n := range f.nodes {
			n.requireReached(t, a.Certificate(), false, true)
			conn, err := tls.Dial("tcp", net.JoinHostPort(n.host.Address, strconv.Itoa(busPort)), trusting(a.Certificate()))
			if err != nil {
				t.Fatalf("the bus speaks no TLS: %v", err)
			}
			_ = conn.Close()
		}
		for _, n := range f.nodes {
			n.speak(t, a, dbaas.TLSOn) // new certificates are no reason to leave
			n.trial.restart(t)
		}
		f.converge()
		if h := f.health(); h.State != stateOK {
			t.Errorf("the cluster is %+v", h)
		}
	})
}

// turn leads the members of a cluster into TLS or out of it, one after the other. Half way, plain clients are sent to where
// they can go, and nobody is missed.
func (f *fleet) turn(t *testing.T, a *secret.Authority, mode dbaas.TLSMode, turning bool) {
	t.Helper()
	for i, n := range slices.Backward(f.nodes) {
		if was := f.nodes[0].desired.TLS; i == len(f.nodes)/2 && mode != dbaas.TLSOn && (was == nil || was.Mode != dbaas.TLSOn) {
			f.requireRoutes(t, port, false)
		}
		d := n.desired
		d.TLS, d.Secrets = &datastore.TLS{Mode: mode, CA: a.Certificate(), Turning: turning}, map[string]string{}
		if mode.Encrypted() {
			d.Secrets[datastore.SecretTLSKey] = issue(f.t, a, n.host.Address)
		}
		if _, err := n.Configure(f.t.Context(), d); err != nil {
			f.t.Fatalf("member %s to %s, turning: %v: %v", n.id, mode, turning, err)
		}
		n.desired, n.trial.desired = d, d
	}
}

// requireRoutes looks where each member sends clients to, and that it misses nobody; connected: it can reach all others.
func (f *fleet) requireRoutes(t *testing.T, want int, connected bool) {
	t.Helper()
	for _, n := range f.nodes {
		testbed.Eventually(t, time.Minute, func() error {
			c := n.tenant(t)
			if want == tlsPort {
				c = n.secured(t, f.authority.Certificate())
			}
			defer func() { _ = c.Close() }()
			//lint:ignore SA1019 it is what clients of every age ask for
			slots, err := c.ClusterSlots(t.Context()).Result()
			if err != nil {
				return err
			}
			for _, s := range slots {
				for _, at := range s.Nodes {
					if !strings.HasSuffix(at.Addr, fmt.Sprint(":", want)) {
						return fmt.Errorf("%s sends clients of port %d to %s", n.id, want, at.Addr)
					}
				}
			}
			v, err := n.admin(t).nodes(t.Context())
			if err != nil {
				return err
			}
			for _, other := range v.Nodes {
				if other.Failed || other.Suspected || connected && other.ID != v.ID && !other.Connected {
					return fmt.Errorf("%s sees %+v", n.id, other)
				}
			}
			return nil
		})
	}
}

// requireBus makes sure that the members speak TLS with each other, or not: every link is made by one that does and to one
// that does, once it is younger than the change. And replicas follow by the same.
func (f *fleet) requireBus(encrypted bool, since time.Time) {
	f.t.Helper()
	for _, n := range f.nodes {
		conn, err := tls.Dial("tcp", net.JoinHostPort(n.host.Address, strconv.Itoa(busPort)), trusting(f.authority.Certificate()))
		if (err == nil) != encrypted {
			f.t.Errorf("the bus of %s answers TLS with %v", n.id, err)
		}
		if err == nil {
			_ = conn.Close()
		}
		testbed.Eventually(f.t, time.Minute, func() error {
			links, err := n.admin(f.t).ClusterLinks(f.t.Context()).Result()
			if err != nil {
				return err
			}
			for _, l := range links {
				if time.UnixMilli(l.CreateTime).Before(since) {
					return fmt.Errorf("%s speaks with %s by a link from before", n.id, l.Node)
				}
			}
			i, err := n.admin(f.t).info(f.t.Context())
			if err != nil || i["role"] == "master" {
				return err
			}
			if want := map[bool]string{true: strconv.Itoa(tlsPort), false: strconv.Itoa(port)}[encrypted]; i["master_port"] != want || i["master_link_status"] != "up" {
				return fmt.Errorf("%s follows port %s: %s", n.id, i["master_port"], i["master_link_status"])
			}
			return nil
		})
	}
}

// awaitHeard waits until the members know of each other's last change.
func (f *fleet) awaitHeard(t *testing.T) {
	t.Helper()
	since := time.Now()
	testbed.Eventually(t, time.Minute, func() error {
		heard, err := Datastore{}.Heard(t.Context(), f.wish, f.members(), time.Since(since))
		if err == nil && !heard {
			err = errors.New("not all members have heard of each other")
		}
		return err
	})
}

// empty removes what a load has left: the next one begins at nothing.
func (l *load) empty() {
	l.t.Helper()
	if err := l.client.ForEachMaster(l.t.Context(), func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() }); err != nil {
		l.t.Fatal(err)
	}
}

// TestTLSClusterTurns has a cluster that is written to go over to TLS and leave it again.
func TestTLSClusterTurns(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureTLSCluster)
		takesMinutes(t, version)
		a, f := newAuthority(t), newFleet(t, version, 3, 1)
		f.authority = nil
		plain := startLoad(t, f.tenant(), true)
		f.authority = a
		f.turn(t, a, dbaas.TLSOff, true)
		f.awaitHeard(t)
		f.turn(t, a, dbaas.TLSBoth, true)
		f.requireRoutes(t, port, true)
		since := time.Now()
		f.turn(t, a, dbaas.TLSBoth, false)
		f.requireRoutes(t, port, true)
		f.requireRoutes(t, tlsPort, true)
		f.requireBus(true, since)
		plain.stop(f)
		plain.empty()

		encrypted := startLoad(t, f.tenant(), true)
		f.turn(t, a, dbaas.TLSOn, false)
		f.requireRoutes(t, tlsPort, true)
		for _, n := range f.nodes {
			n.requireReached(t, a.Certificate(), false, true)
		}
		f.turn(t, a, dbaas.TLSBoth, false)
		encrypted.stop(f)
		encrypted.empty()

		f.authority = nil
		plain = startLoad(t, f.tenant(), true)
		f.authority = a
		f.turn(t, a, dbaas.TLSBoth, true)
		f.awaitHeard(t)
		f.turn(t, a, dbaas.TLSOff, true)
		since = time.Now()
		f.turn(t, a, dbaas.TLSOff, false)
		f.requireRoutes(t, port, true)
		f.requireBus(false, since.Add(-time.Minute)) // a server that is not told of a change keeps its links
		plain.stop(f)
		if h := f.health(); h.State != stateOK {
			t.Errorf("the cluster is %+v", h)
		}
	})
}
