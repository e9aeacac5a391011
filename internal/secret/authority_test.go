package secret_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/secret"
)

// TestAuthority issues a certificate after the authority went through a store, and has it checked as a client does.
func TestAuthority(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)
	made, err := secret.NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := made.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	a, err := secret.ParseAuthority(b)
	if err != nil {
		t.Fatal(err)
	}
	if a.Certificate() != made.Certificate() || strings.Contains(a.Certificate(), "PRIVATE") || fmt.Sprintf("%v %#v", a, a) != "authority authority" {
		t.Error("the authority is not the same, or shows its key")
	}
	pair, err := a.Issue([]string{"192.0.2.1", "db.example"}, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tls.X509KeyPair(pair, pair)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(made.Certificate()))
	for name, good := range map[string]bool{"192.0.2.1": true, "db.example": true, "192.0.2.2": false, "example": false} {
		_, err := loaded.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now})
		if (err == nil) != good {
			t.Errorf("as %s: %v", name, err)
		}
	}
	if _, err := loaded.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now.Add(2 * time.Hour)}); err == nil {
		t.Error("the certificate never expires")
	}
	if _, err := a.Issue(nil, now, time.Hour); err == nil {
		t.Error("a certificate for nobody")
	}
	for _, bad := range []string{"", "x", a.Certificate(), string(b[:len(b)/3])} {
		if _, err := secret.ParseAuthority([]byte(bad)); err == nil {
			t.Errorf("an authority of %d bytes", len(bad))
		}
	}
}
