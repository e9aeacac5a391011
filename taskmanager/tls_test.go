package taskmanager_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// setTLSTrial opens TLS beside the plain port, or shuts it.
func setTLSTrial() trial {
	var want dbaas.TLSMode
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			if want = dbaas.TLSBoth; h.view(t, in).TLS == want {
				want = dbaas.TLSOff
			}
			return mustID(t)(h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{TLS: &want}))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.TLS != want {
				t.Errorf("tls is %q, want %q", v.TLS, want)
			}
			h.requireServing(t, v)
			if want == dbaas.TLSBoth {
				h.requireSecured(t, v)
			}
		},
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.TLS.OrOff() == want {
				t.Errorf("tls is %q after a failure to make it so", v.TLS)
			}
			h.requireServing(t, v)
			if v.TLS == dbaas.TLSBoth {
				h.requireSecured(t, v)
			}
		},
	}
}

// clusterTLSTrial has a cluster go over to TLS, or leave it.
func clusterTLSTrial() trial {
	return clusterTrial("", func(ctx context.Context, _ *testing.T, h *house, v *control.ClusterView) (string, error) {
		want := dbaas.TLSBoth
		if v.Members[0].TLS == want {
			want = dbaas.TLSOff
		}
		return h.control.SetClusterTLS(ctx, tester, v.ID, want)
	})
}

// renewTrial expects another certificate than before.
func renewTrial() trial {
	var before string
	return trial{form: "tls",
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			if !h.view(t, in).TLS.Encrypted() { // of another form
				h.ended(t, mustID(t)(h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{TLS: mode(dbaas.TLSBoth)})))
				h.awaitProtected(t, in)
			}
			before = h.requireSecured(t, h.view(t, in))
			return mustID(t)(h.control.RenewCertificates(ctx, tester, in))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if h.requireSecured(t, v) == before {
				t.Error("the certificate is the old one")
			}
		},
	}
}

func (h *house) createEncrypted(t *testing.T) string {
	t.Helper()
	defer h.run(t, nil)()
	created, err := h.control.CreateInstance(t.Context(), tester, control.CreateInstance{Name: "tls", FlavorID: "1", VolumeSize: 1, TLS: dbaas.TLSBoth})
	must(t, err)
	h.ended(t, created.OperationID)
	return created.View.ID
}

// ended waits until an operation has ended well.
func (h *house) ended(t *testing.T, id string) {
	t.Helper()
	if op := h.awaitEnd(t, id); op.Status != dbaas.OperationSucceeded {
		t.Fatalf("%s: %s %+v", op.Kind, op.Status, op.Failure)
	}
}

// trust is what a client knows: Grove's authority, as the API tells it.
func (h *house) trust(t *testing.T) *tls.Config {
	t.Helper()
	ca, err := h.control.Authorities(t.Context())
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca.Certificate()))
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// secured is a tenant's client that comes by TLS and checks the certificate against the address that it was given.
func (h *house) secured(t *testing.T, v *dbaas.InstanceView) *redis.Client {
	t.Helper()
	credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
	must(t, err)
	o, err := redis.ParseURL(credentials.URI)
	must(t, err)
	if !strings.HasPrefix(credentials.URI, "rediss://") {
		t.Errorf("the URI of an instance with TLS is not one of TLS")
	}
	o.TLSConfig, o.DisableIdentity, o.Username = h.trust(t), true, ""
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// requireSecured writes by TLS, and gives the serial number of the certificate.
func (h *house) requireSecured(t *testing.T, v *dbaas.InstanceView) (serial string) {
	t.Helper()
	c := h.secured(t, v)
	testbed.Eventually(t, time.Minute, func() error { return c.Set(t.Context(), "k", "v", 0).Err() })
	return h.requireSecuredAt(t, c.Options().Addr)
}

// requireSecuredAt gives the serial number of the certificate that is shown at an address.
func (h *house) requireSecuredAt(t *testing.T, address string) (serial string) {
	t.Helper()
	conn, err := tls.Dial("tcp", address, h.trust(t))
	must(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// requirePlain tells whether a new client gets in without TLS.
func (h *house) requirePlain(t *testing.T, v *dbaas.InstanceView, want bool) {
	t.Helper()
	credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
	must(t, err)
	c := redis.NewClient(&redis.Options{Addr: v.Addresses[0].Address + ":6379", Password: credentials.Password, DisableIdentity: true, MaxRetries: -1})
	defer c.Close()
	testbed.Eventually(t, time.Minute, func() error {
		if err := c.Ping(t.Context()).Err(); (err == nil) != want {
			return fmt.Errorf("a plain client: %v, want it let in: %v", err, want)
		}
		return nil
	})
}

// TestTLSOfAPair: the certificate of a hot standby is good at its one address whoever stands behind it, and after a
// failover nobody has to be told anything.
func TestTLSOfAPair(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	defer h.run(t, nil)()
	created, err := h.control.CreateInstance(t.Context(), tester, control.CreateInstance{
		Name: "pair", FlavorID: "1", VolumeSize: 1, HighAvailability: async(), TLS: dbaas.TLSOn})
	must(t, err)
	h.ended(t, created.OperationID)
	v := h.awaitProtected(t, created.View.ID)
	h.requirePlain(t, v, false)
	before := h.requireSecured(t, v)
	h.ended(t, mustID(t)(h.control.FailOver(t.Context(), tester, v.ID, true)))
	v = h.awaitProtected(t, v.ID)
	if h.requireSecured(t, v) == before {
		t.Error("the other guest shows the certificate of the first")
	}
	h.requirePlain(t, v, false)
	c := control.CertificateOf(*v)
	if c == nil || c.Mode != dbaas.TLSOn || time.Until(c.NotAfter) < 80*24*time.Hour {
		t.Errorf("the certificate is told as %+v", c)
	}
	h.requireNoKeys(t, true)
}

// TestTLSOfASet: a source and its replica change how they are reached together, while a client listens.
func TestTLSOfASet(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createReplicated(t)
	defer h.run(t, nil)()
	source := h.view(t, in)
	replica := h.view(t, source.Replicas[0])
	if _, err := h.control.UpdateInstance(t.Context(), tester, replica.ID, control.UpdateInstance{TLS: mode(dbaas.TLSOn)}); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("tls of a replica alone: %v", err)
	}
	if _, err := h.control.UpdateInstance(t.Context(), tester, in, control.UpdateInstance{TLS: mode("perhaps")}); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("tls perhaps: %v", err)
	}
	if _, err := h.control.RenewCertificates(t.Context(), tester, in); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("new certificates where there are none: %v", err)
	}
	credentials, err := h.control.Credentials(t.Context(), tester, in)
	must(t, err)
	plain := redis.NewClient(&redis.Options{Addr: source.Addresses[0].Address + ":6379", Password: credentials.Password, DisableIdentity: true})
	defer plain.Close()
	news := plain.Subscribe(t.Context(), "news")
	defer news.Close()
	_, err = news.Receive(t.Context())
	must(t, err)

	h.ended(t, mustID(t)(h.control.UpdateInstance(t.Context(), tester, in, control.UpdateInstance{TLS: mode(dbaas.TLSOn)})))
	source, replica = h.view(t, in), h.view(t, replica.ID)
	if source.TLS != dbaas.TLSOn || replica.TLS != dbaas.TLSOn {
		t.Errorf("tls is %s, of the replica %s", source.TLS, replica.TLS)
	}
	for _, v := range []*dbaas.InstanceView{source, replica} {
		h.requirePlain(t, v, false)
	}
	h.requireSecured(t, source)
	c := h.secured(t, source)
	must(t, c.Set(t.Context(), "after", "all", 0).Err())
	must(t, c.Publish(t.Context(), "news", "heard").Err())
	if m, err := news.ReceiveTimeout(t.Context(), time.Minute); err != nil || m.(*redis.Message).Payload != "heard" {
		t.Errorf("the client that was connected before hears %v, %v", m, err)
	}
	testbed.Eventually(t, time.Minute, func() error { return h.secured(t, replica).Get(t.Context(), "after").Err() })
	must(t, h.secured(t, replica).Close())

	h.ended(t, mustID(t)(h.control.RenewCertificates(t.Context(), tester, in)))
	h.ended(t, mustID(t)(h.control.UpdateInstance(t.Context(), tester, in, control.UpdateInstance{TLS: mode(dbaas.TLSOff)})))
	for _, v := range []*dbaas.InstanceView{h.view(t, in), h.view(t, replica.ID)} {
		h.requirePlain(t, v, true)
	}
	h.requireSet(t, source.GroupID)
	h.requireNoKeys(t, false)

	h.lose(t, replica) // which keeps nobody from it, and comes to it when it is back
	h.ended(t, mustID(t)(h.control.UpdateInstance(t.Context(), tester, in, control.UpdateInstance{TLS: mode(dbaas.TLSOn)})))
	h.requireSecured(t, h.view(t, in))
	must(t, h.local.StartServer(t.Context(), replica.Guests[0].ServerID))
	late := h.secured(t, h.view(t, replica.ID))
	testbed.Eventually(t, 2*time.Minute, func() error { return late.Get(t.Context(), "k").Err() })
	h.requirePlain(t, h.view(t, replica.ID), false)
}

func mode(m dbaas.TLSMode) *dbaas.TLSMode { return &m }

// TestRenewDue: what expires soon is renewed without being asked for; what does not, is left alone.
func TestRenewDue(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createEncrypted(t)
	before := h.requireSecured(t, h.view(t, in))
	m := h.manager(t, nil)
	must(t, m.RenewDue(t.Context()))
	if v := h.view(t, in); v.Operation != nil {
		t.Fatalf("a new certificate is renewed by %+v", v.Operation)
	}
	later := h.manager(t, nil)
	later.Clock = clock.NewManual(time.Now().Add(70 * 24 * time.Hour))
	must(t, later.RenewDue(t.Context()))
	must(t, later.RenewDue(t.Context())) // another one that looks changes nothing
	v := h.view(t, in)
	if v.Operation == nil || v.Operation.Kind != "renew_certificates" {
		t.Fatalf("the operation is %+v", v.Operation)
	}
	defer h.run(t, nil)()
	h.ended(t, v.Operation.ID)
	if h.requireSecured(t, v) == before {
		t.Error("the certificate is the old one")
	}
}

// requireNoKeys looks for private keys wherever they must not be: everywhere but in the directories of the agents.
func (h *house) requireNoKeys(t *testing.T, encrypted bool) {
	t.Helper()
	where := 0
	err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // files come and go
		}
		text, err := os.ReadFile(path)
		switch own := strings.Contains(path, "/redis/"); {
		case err != nil || !strings.Contains(string(text), "PRIVATE KEY"):
		case own:
			where++
		default:
			t.Errorf("%s has a private key in it", path)
		}
		return nil
	})
	must(t, err)
	if encrypted && where == 0 {
		t.Error("no database has a key either: the search finds nothing")
	}
}

// TestTLSOfACluster: a cluster goes over to TLS, takes new certificates, and leaves TLS again, while its clients write and
// read.
func TestTLSOfACluster(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	defer h.run(t, nil)()
	id := h.createCluster(t, 0)
	members := h.clusterView(t, id).Members
	set := func(mode dbaas.TLSMode) {
		t.Helper()
		h.ended(t, mustID(t)(h.control.SetClusterTLS(t.Context(), tester, id, mode)))
	}
	reached := func(plain bool) {
		t.Helper()
		for i := range members {
			h.requirePlain(t, &members[i], plain)
		}
	}
	plain := h.writeAlways(t, h.clusterClient(t, id))
	if _, err := h.control.SetClusterTLS(t.Context(), tester, id, dbaas.TLSOff); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("a cluster becomes what it is: %v", err)
	}
	set(dbaas.TLSBoth)
	reached(true)
	plain()
	encrypted := h.writeAlways(t, h.securedCluster(t, id))
	set(dbaas.TLSOn)
	h.ended(t, mustID(t)(h.control.RenewClusterCertificates(t.Context(), tester, id)))
	reached(false)
	for i := range members {
		h.requireSecuredAt(t, members[i].Addresses[0].Address+":6380")
	}
	h.requireNoKeys(t, true)
	if c := control.CertificateOf(h.clusterView(t, id).Members...); c == nil || time.Until(c.NotAfter) < 80*24*time.Hour {
		t.Errorf("the certificate of the cluster is told as %+v", c)
	}
	encrypted()
	set(dbaas.TLSOff)
	reached(true)
	h.writeAlways(t, h.clusterClient(t, id))()
}

// securedCluster is a tenant's client of a cluster that comes by TLS.
func (h *house) securedCluster(t *testing.T, id string) *redis.ClusterClient {
	t.Helper()
	credentials, err := h.control.ClusterCredentials(t.Context(), tester, id)
	must(t, err)
	var addresses []string
	for _, m := range h.clusterView(t, id).Members {
		addresses = append(addresses, m.Addresses[0].Address+":6380")
	}
	return redis.NewClusterClient(&redis.ClusterOptions{Addrs: addresses, Password: credentials.Password, TLSConfig: h.trust(t), DisableIdentity: true})
}

// writeAlways counts and reads back until the function that it gives is called: no command may have failed, and none of
// what was written may be gone.
func (h *house) writeAlways(t *testing.T, c *redis.ClusterClient) (stop func()) {
	t.Helper()
	const keys = 100
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	counts := make([]int64, keys)
	var worker sync.WaitGroup
	key := func(n int) string { return fmt.Sprint("count ", n) }
	for n := range keys {
		must(t, c.Set(ctx, key(n), 0, 0).Err())
	}
	worker.Go(func() {
		for n := 0; ctx.Err() == nil; n = (n + 1) % keys {
			if got, err := c.Incr(context.Background(), key(n)).Result(); err != nil || got != counts[n]+1 {
				t.Errorf("the key %d is %d, %v after %d", n, got, err, counts[n])
				return
			}
			counts[n]++
		}
	})
	return func() {
		t.Helper()
		end()
		worker.Wait()
		for n, want := range counts {
			if got, err := c.Get(t.Context(), key(n)).Int64(); err != nil || got != want {
				t.Errorf("the key %d is %d, %v, want %d", n, got, err, want)
			}
		}
		_ = c.Close()
	}
}

// TestRotateAuthority replaces the authority of a hot standby: at each stage both databases hear from each other, a client
// that is there stays, and one that comes trusts what the API tells. No stage begins before its time.
func TestRotateAuthority(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	defer h.run(t, nil)()
	m := h.manager(t, nil)
	created, err := h.control.CreateInstance(t.Context(), tester, control.CreateInstance{
		Name: "pair", FlavorID: "1", VolumeSize: 1, HighAvailability: async(), TLS: dbaas.TLSOn})
	must(t, err)
	h.ended(t, created.OperationID)
	in := created.View.ID
	v := h.awaitProtected(t, in)
	first := h.trust(t)
	news := h.secured(t, v).Subscribe(t.Context(), "news")
	defer news.Close()
	_, err = news.Receive(t.Context())
	must(t, err)

	rotate := func() error {
		_, err := control.RotateAuthority(t.Context(), h.store, clock.Real{}, false)
		return err
	}
	// next begins a stage as soon as it may; both authorities are trusted then.
	next := func() {
		t.Helper()
		testbed.Eventually(t, time.Minute, rotate)
		ca, err := h.control.Authorities(t.Context())
		must(t, err)
		if got := strings.Count(ca.Certificate(), "BEGIN CERTIFICATE"); got != 2 {
			t.Errorf("clients are told of %d authorities, want 2", got)
		}
	}
	// renewed has the watch give new certificates.
	renewed := func() {
		t.Helper()
		testbed.Eventually(t, time.Minute, func() error {
			must(t, m.RenewDue(t.Context()))
			ca, err := h.control.Authorities(t.Context())
			must(t, err)
			for _, g := range h.view(t, in).Guests {
				if c := control.CertificateIn(g.Observed); c == nil || c.Issuer == "" || !ca.Fits(c) {
					return fmt.Errorf("the certificate is %+v", c)
				}
			}
			return nil
		})
		v = h.awaitProtected(t, in)
		c := h.secured(t, v)
		must(t, c.Set(t.Context(), "k", "v", 0).Err())
		must(t, c.Publish(t.Context(), "news", "heard").Err())
		if got, err := news.ReceiveTimeout(t.Context(), time.Minute); err != nil || got.(*redis.Message).Payload != "heard" {
			t.Errorf("the client that was there before hears %v, %v", got, err)
		}
	}
	shown := func(trust *tls.Config) error {
		conn, err := tls.Dial("tcp", v.Addresses[0].Address+":6380", trust)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}

	must(t, m.RenewDue(t.Context()))
	next()
	if err := rotate(); dbaas.ErrorCode(err) != dbaas.Conflict || !strings.Contains(err.Error(), in) {
		t.Errorf("an authority that nobody trusts yet is to sign: %v", err)
	}
	renewed()
	must(t, shown(first))
	next()
	if err := rotate(); dbaas.ErrorCode(err) != dbaas.Conflict || !strings.Contains(err.Error(), in) {
		t.Errorf("an authority is withdrawn whose certificates are in use: %v", err)
	}
	renewed()
	if shown(first) == nil {
		t.Error("the certificate is of the old authority still")
	}
	must(t, shown(h.trust(t)))
	testbed.Eventually(t, time.Minute, func() error { // the watch withdraws the old one as soon as nobody has certificates of it
		must(t, m.RenewDue(t.Context()))
		ca, err := h.control.Authorities(t.Context())
		must(t, err)
		if ca.Old != nil || ca.Next != nil || strings.Count(ca.Certificate(), "BEGIN CERTIFICATE") != 1 {
			return errors.New("the old authority is trusted still")
		}
		return nil
	})
	renewed()
	must(t, shown(h.trust(t)))
	h.ended(t, mustID(t)(h.control.FailOver(t.Context(), tester, in, true)))
	v = h.awaitProtected(t, in)
	must(t, shown(h.trust(t)))

	later := h.manager(t, nil) // by itself, a year before its end
	ca, err := h.control.Authorities(t.Context())
	must(t, err)
	later.Clock = clock.NewManual(ca.Signs.NotAfter().Add(-300 * 24 * time.Hour))
	must(t, later.RenewDue(t.Context()))
	if ca, err = h.control.Authorities(t.Context()); err != nil || ca.Next == nil {
		t.Errorf("no authority is to follow one that ends: %v", err)
	}
}

// TestOneAuthority: however many ask for the authority first, there is one.
func TestOneAuthority(t *testing.T) {
	t.Parallel()
	for name, url := range databases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := openHouse(t, url(t), t.TempDir())
			const askers = 8
			seen := make(chan string, askers)
			for range askers {
				go func() {
					ca, err := control.ReadAuthorities(t.Context(), h.store, clock.Real{})
					if err != nil {
						t.Error(err)
						seen <- ""
						return
					}
					seen <- ca.Certificate()
				}()
			}
			first := <-seen
			for range askers - 1 {
				if other := <-seen; other != first {
					t.Error("there are two authorities")
				}
			}
		})
	}
}
