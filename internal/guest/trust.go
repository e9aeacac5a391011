package guest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// BrokerTrust is whom an agent is to know the broker by.
type BrokerTrust struct {
	CA string `json:"ca"` // certificates of those who sign the broker's, in PEM
}

// Authorities are certificates of those who sign the broker's, as far as two sides need to agree on them.
type Authorities struct {
	Names  []string  // a short fingerprint of each, in order
	Newest time.Time // when the youngest of them begins
}

// fingerprintSize is how much of a certificate's SHA-256 tells it from every other.
const fingerprintSize = 16

// ParseAuthorities reads certificates in PEM; no certificates are an error.
func ParseAuthorities(text []byte) (a Authorities, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return a, dbaas.Errorf(dbaas.BadRequest, "Whom to know the broker by are certificates in PEM, and nothing else.")
		}
		sum := sha256.Sum256(c.Raw)
		a.Names = append(a.Names, hex.EncodeToString(sum[:fingerprintSize]))
		if c.NotBefore.After(a.Newest) {
			a.Newest = c.NotBefore
		}
	}
	if len(a.Names) == 0 {
		return a, dbaas.Errorf(dbaas.BadRequest, "There is no certificate in PEM to know the broker by.")
	}
	slices.Sort(a.Names)
	a.Names = slices.Compact(a.Names)
	return a, nil
}
