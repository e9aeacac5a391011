package redis

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// tlsPort is where TLS is spoken, in every mode that has it: a port never changes what it speaks, so that clients can go
// from one to the other while both are open.
const tlsPort = 6380

// mode is how the server is reached; off where nothing is said.
func (r *record) mode() dbaas.TLSMode {
	if r.Desired.TLS == nil || r.Desired.TLS.Mode == "" {
		return dbaas.TLSOff
	}
	return r.Desired.TLS.Mode
}

// encrypted tells whether the members of the group speak TLS with each other: always when clients may.
func (r *record) encrypted() bool { return r.mode() != dbaas.TLSOff }

// turning tells whether the members of the cluster go over to TLS, or leave it.
func (r *record) turning() bool { return r.Desired.TLS != nil && r.Desired.TLS.Turning }

// reach is where a member of the group is reached by the others.
func (r *record) reach(e datastore.Endpoint) datastore.Endpoint {
	if r.encrypted() {
		e.Port = tlsPort
	}
	return e
}

// adoptCertificate takes over the key and the certificate, which come together and so always match.
func (r *record) adoptCertificate(d datastore.Desired) error {
	if pair := d.Secrets[datastore.SecretTLSKey]; pair != "" {
		if _, err := tls.X509KeyPair([]byte(pair), []byte(pair)); err != nil {
			return dbaas.Errorf(dbaas.BadRequest, "The database's key and certificate cannot be read.") // nothing of them in an error
		}
		r.TLSPair = pair
	}
	if !r.encrypted() {
		r.TLSPair = ""
		return nil
	}
	if r.TLSPair == "" {
		return dbaas.Errorf(dbaas.BadRequest, "A database does not speak TLS without a certificate.")
	}
	return nil
}

// leaf is the server's certificate; nil when there is none.
func (r *record) leaf() *x509.Certificate {
	for _, c := range certificates(r.TLSPair) {
		return c
	}
	return nil
}

// certificates reads those that are in a PEM text.
func certificates(text string) []*x509.Certificate {
	var list []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			list = append(list, c)
		}
	}
	return list
}

// certificate tells of the server's certificate what everybody may know.
func (r *record) certificate() *datastore.Certificate {
	leaf := r.leaf()
	if !r.encrypted() || leaf == nil {
		return nil
	}
	c := &datastore.Certificate{Mode: r.mode(), NotAfter: leaf.NotAfter, Names: leaf.DNSNames, Issuer: hex.EncodeToString(leaf.AuthorityKeyId)}
	for _, ca := range certificates(r.Desired.TLS.CA) {
		c.Trusts = append(c.Trusts, hex.EncodeToString(ca.SubjectKeyId))
	}
	for _, ip := range leaf.IPAddresses {
		c.Names = append(c.Names, ip.String())
	}
	return c
}

// The files that the server reads its certificate from have names of their content's: a new certificate is a new name, and
// the one before is there to go back to.
const (
	pairFiles = "tls-pair-"
	caFiles   = "tls-ca-"
)

func (g *Guest) pemPath(prefix, content string) string {
	sum := sha256.Sum256([]byte(content))
	return g.path(prefix + hex.EncodeToString(sum[:8]) + ".pem")
}

// writeCertificate writes the files that tlsDirectives name.
func (g *Guest) writeCertificate(r *record) error {
	if !r.encrypted() {
		return nil
	}
	return errors.Join(
		g.host.WriteShared(g.pemPath(pairFiles, r.TLSPair), []byte(r.TLSPair)),
		g.host.WriteShared(g.pemPath(caFiles, r.Desired.TLS.CA), []byte(r.Desired.TLS.CA)))
}

// forgetCertificates removes the files of certificates before.
func (g *Guest) forgetCertificates(r *record) {
	keep := map[string]bool{}
	if r.encrypted() {
		keep[g.pemPath(pairFiles, r.TLSPair)], keep[g.pemPath(caFiles, r.Desired.TLS.CA)] = true, true
	}
	for _, prefix := range []string{pairFiles, caFiles} {
		found, _ := filepath.Glob(g.path(prefix + "*.pem"))
		for _, path := range found {
			if !keep[path] {
				_ = os.Remove(path) // the next time
			}
		}
	}
}

// tlsDirectives make the server speak TLS with the other members, and able to with clients. Members of a cluster that
// understand TLS cannot connect anew to those that do not; what is connected stays so, until a member says that it has
// another port: so nobody does before all understand it. And a port that stays unsaid would be 0 to those of the other kind.
func (g *Guest) tlsDirectives(r *record) []directive {
	announced := port
	if r.encrypted() && !r.turning() {
		announced = tlsPort
	}
	list := []directive{{"replica-announce-port", strconv.Itoa(announced)}}
	if r.encrypted() || r.turning() {
		list = append(list, directive{"cluster-announce-tls-port", strconv.Itoa(announced)})
	}
	if !r.encrypted() {
		return list
	}
	pair, replication := g.pemPath(pairFiles, r.TLSPair), "yes"
	if r.turning() {
		replication = "no" // as the port that masters say they have
	}
	return append(list,
		directive{"tls-cert-file", pair},
		directive{"tls-key-file", pair},
		directive{"tls-ca-cert-file", g.pemPath(caFiles, r.Desired.TLS.CA)},
		directive{"tls-auth-clients", "no"}, // clients show a password
		directive{"tls-replication", replication},
		directive{"tls-cluster", "yes"})
}

// tlsSettings is what must be set on the running server to be as tlsDirectives say.
func (g *Guest) tlsSettings(r *record, running settings) (settings, error) {
	if _, able := running["tls-port"]; !able && r.encrypted() {
		return nil, dbaas.Errorf(dbaas.NotImplemented, "The database server on the guest was built without TLS.")
	}
	wanted := settings{"tls-replication": "no", "tls-cluster": "no", "cluster-announce-tls-port": "0"}
	for _, d := range g.tlsDirectives(r) {
		wanted[d.name] = d.value
	}
	return wanted.differing(running), nil
}

// doors are the ports as they should be while the database serves; running tells which ports the server has.
func (r *record) doors(running settings) settings {
	wanted := settings{"port": strconv.Itoa(port), "tls-port": "0"}
	switch r.mode() {
	case dbaas.TLSOn:
		wanted = settings{"port": "0", "tls-port": strconv.Itoa(tlsPort)}
	case dbaas.TLSBoth:
		wanted["tls-port"] = strconv.Itoa(tlsPort)
	}
	return wanted.differing(running)
}

// differing gives the settings that a server that knows them has otherwise.
func (s settings) differing(running settings) settings {
	some := settings{}
	for name, value := range s {
		if now, known := running[name]; known && now != value {
			some[name] = value
		}
	}
	return some
}

// ports names the ports that are to be opened.
func (s settings) ports() string {
	var list []string
	for _, number := range s {
		if number != "0" {
			list = append(list, number)
		}
	}
	return strings.Join(list, " or ")
}

// shutDoors are the ports of a server that lets nobody in.
func shutDoors(running settings) settings {
	return settings{"port": "0", "tls-port": "0"}.differing(running)
}

func isOpen(running settings) bool { return len(shutDoors(running)) > 0 }

// dialPeer connects to another member as members do. While both ways are open, the other one may have shut TLS already, or
// not opened it yet.
func (g *Guest) dialPeer(r *record) func(ctx context.Context, network, address string) (net.Conn, error) {
	if !r.encrypted() {
		return g.host.Dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		name, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		conn, err := g.host.Dial(ctx, network, address)
		if errors.Is(err, syscall.ECONNREFUSED) && r.mode() == dbaas.TLSBoth {
			return g.host.Dial(ctx, network, net.JoinHostPort(name, strconv.Itoa(port)))
		}
		if err != nil {
			return nil, err
		}
		return handshake(ctx, conn, name, r.Desired.TLS.CA)
	}
}

// handshake makes a connection one over which the server has shown who it is.
func handshake(ctx context.Context, conn net.Conn, name, ca string) (net.Conn, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca)) // without any, nobody is trusted
	secured := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12})
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return secured, nil
}

// trust names how peers are reached and known, for connections that are kept.
func (r *record) trust() string {
	if !r.encrypted() {
		return ""
	}
	return string(r.mode()) + r.Desired.TLS.CA
}

// expiryMetric is when the server's certificate expires, in seconds since 1970.
const expiryMetric = "tls_certificate_not_after_seconds"

func noteExpiry(m map[string]float64, c *datastore.Certificate) {
	if c != nil {
		m[expiryMetric] = float64(c.NotAfter.Truncate(time.Second).Unix())
	}
}

// withoutTLS tells whether a server refused its configuration because it knows no TLS.
func withoutTLS(reason string) bool {
	return strings.HasPrefix(reason, "'tls-") && strings.Contains(reason, "Bad directive")
}
