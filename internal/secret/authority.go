package secret

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// authorityLife is how long an authority is good for.
const authorityLife = 20 * 365 * 24 * time.Hour

// skew is how much a client's clock may be behind ours.
const skew = time.Hour

// Authority signs the certificates of databases. Whoever trusts its certificate knows a database by its addresses.
type Authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

// NewAuthority makes an authority.
func NewAuthority(now time.Time) (*Authority, error) {
	return newAuthority("Grove database authority", now)
}

// NewBrokerAuthority makes an authority that signs the certificates of message brokers.
func NewBrokerAuthority(now time.Time) (*Authority, error) {
	return newAuthority("Grove broker authority", now)
}

func newAuthority(name string, now time.Time) (*Authority, error) {
	template := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Grove"}, CommonName: name},
		NotBefore: now.Add(-skew), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key, der, err := sign(template, nil)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &Authority{key: key, certificate: certificate}, err
}

// ParseAuthority reads what Bytes gave.
func ParseAuthority(b []byte) (*Authority, error) {
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, errors.New("read the authority: there is no key")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("read the authority's key") // nothing of it in an error
	}
	if block, _ = pem.Decode(rest); block == nil {
		return nil, errors.New("read the authority: there is no certificate")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	return &Authority{key: key, certificate: certificate}, nil
}

// Bytes encodes the authority, its key included: a secret.
func (a *Authority) Bytes() ([]byte, error) { return encodePair(a.key, a.certificate.Raw) }

// Certificate is what clients trust, in PEM.
func (a *Authority) Certificate() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

// ID names the authority: certificates that it issued name it as theirs, and whoever trusts it can tell.
func (a *Authority) ID() string { return hex.EncodeToString(a.certificate.SubjectKeyId) }

// NotBefore is when the authority was made, less a client's skew.
func (a *Authority) NotBefore() time.Time { return a.certificate.NotBefore }

// NotAfter is when the authority's certificate expires.
func (a *Authority) NotAfter() time.Time { return a.certificate.NotAfter }

// Issue makes a key and a certificate for a server of those names, which are host names or IP addresses, in PEM: the key,
// then the certificate. It is good for a client as well: the members of a cluster show it to each other.
func (a *Authority) Issue(names []string, now time.Time, life time.Duration) ([]byte, error) {
	if len(names) == 0 {
		return nil, errors.New("a certificate needs a name")
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Grove"}, CommonName: names[0]},
		NotBefore: now.Add(-skew), NotAfter: now.Add(life),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key, der, err := sign(template, a)
	if err != nil {
		return nil, err
	}
	return encodePair(key, der)
}

// String hides the key from logs.
func (a *Authority) String() string { return "authority" }

// GoString hides the key from logs.
func (a *Authority) GoString() string { return "authority" }

// sign makes a key and a certificate for it, by the authority or, with nil, by itself.
func sign(template *x509.Certificate, by *Authority) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, fmt.Errorf("make a serial number: %w", err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate: %w", err)
	}
	return key, der, nil
}

func encodePair(key *ecdsa.PrivateKey, certificate []byte) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}); err != nil {
		return nil, err
	}
	err = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	return b.Bytes(), err
}
