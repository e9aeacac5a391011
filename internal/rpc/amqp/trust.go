package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Trust gives the certificates of those who sign the broker's, in PEM. It is asked for each new connection, so that what is
// trusted may change while everything runs. A nil Trust trusts whom the system does.
type Trust func() ([]byte, error)

// config is how to speak TLS with the broker. A broker that cannot prove who it is gets nothing, the password least of all.
func (t Trust) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t == nil {
		return c, nil
	}
	text, err := t()
	if err != nil {
		return nil, fmt.Errorf("read whom to trust as the broker: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(text) {
		return nil, errors.New("read whom to trust as the broker: there is no certificate in PEM")
	}
	return c, nil
}

// Client makes a client of the management API that knows the broker by trust.
func Client(trust Trust) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialTLS(ctx, network, addr, trust)
		},
	}}
}

func dialTLS(ctx context.Context, network, addr string, trust Trust) (net.Conn, error) {
	c, err := trust.config()
	if err != nil {
		return nil, err
	}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: handshakeAtMost}, Config: c}
	return d.DialContext(ctx, network, addr)
}

// Expiry tells when the first of the certificates expires by which the broker at an amqps:// URL is known: the one that it
// shows now, and those that sign it.
func Expiry(ctx context.Context, rawURL string, trust Trust) (time.Time, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "amqps" {
		return time.Time{}, errors.New("the broker's URL is no amqps:// URL") // may hold the password
	}
	uri, err := amqp091.ParseURI(rawURL)
	if err != nil {
		return time.Time{}, errors.New("the broker's URL is not understood")
	}
	conn, err := dialTLS(ctx, "tcp", net.JoinHostPort(uri.Host, fmt.Sprint(uri.Port)), trust)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close()
	first := time.Time{}
	for _, chain := range conn.(*tls.Conn).ConnectionState().VerifiedChains {
		for _, c := range chain {
			if first.IsZero() || c.NotAfter.Before(first) {
				first = c.NotAfter
			}
		}
	}
	return first, nil
}

// CheckTrust refuses what are no certificates.
func CheckTrust(text []byte) error {
	n := 0
	for rest := text; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			return errors.New("it has something else than certificates")
		}
	}
	if n == 0 {
		return errors.New("there is no certificate in it")
	}
	return nil
}
