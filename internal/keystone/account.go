// Package keystone is Grove's account in an OpenStack cloud: how it logs in, and what it asks Keystone about others.
package keystone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	stack "github.com/gophercloud/gophercloud/v2/openstack"
	"golang.org/x/sync/singleflight"

	"github.com/grove-dbaas/grove/internal/clock"
)

// Config says which cloud, and as whom. AuthURL, Username, Password and Project must be given.
type Config struct {
	// AuthURL is Keystone's, with its version: https://keystone.example/v3.
	AuthURL string
	// The service account. Domains are names, "Default" by default; the project's is the user's by default.
	Username, Password, UserDomain string
	Project, ProjectDomain         string
	// CAFile has the certificates to trust, "" for the system's.
	CAFile string
	// Timeout bounds each request; 0 is a minute.
	Timeout time.Duration
	// Clock is the real one by default.
	Clock clock.Clock
}

func (c Config) withDefaults() (Config, error) {
	if c.AuthURL == "" || c.Username == "" || c.Password == "" || c.Project == "" {
		return c, errors.New("keystone: auth_url, username, password and project are needed")
	}
	if c.UserDomain == "" {
		c.UserDomain = "Default"
	}
	if c.ProjectDomain == "" {
		c.ProjectDomain = c.UserDomain
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	return c, nil
}

// Account is the service account. It is safe for concurrent use.
type Account struct {
	config Config
	http   http.Client

	asking singleflight.Group
	mu     sync.Mutex
	client *gophercloud.ProviderClient
}

// NewAccount makes an Account. It calls nobody: the cloud may be away when the control plane starts.
func NewAccount(c Config) (*Account, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	trusted, err := transport(c.CAFile)
	if err != nil {
		return nil, err
	}
	return &Account{config: c, http: http.Client{Timeout: c.Timeout, Transport: newPatient(traced{trusted}, c.Clock)}}, nil
}

func transport(caFile string) (*http.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("keystone: read the CA file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("keystone: %s has no certificate in PEM", caFile)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return t, nil
}

// AuthURL is where one gets a token.
func (a *Account) AuthURL() string { return a.config.AuthURL }

// Login logs in, once. The client that it gives logs in anew by itself when its token has expired.
func (a *Account) Login(ctx context.Context) (*gophercloud.ProviderClient, error) {
	a.mu.Lock()
	client := a.client
	a.mu.Unlock()
	if client != nil {
		return client, nil
	}
	asked := a.asking.DoChan("", func() (any, error) { // who gives up does not end it for the others
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.config.Timeout)
		defer cancel()
		return a.login(ctx)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-asked:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*gophercloud.ProviderClient), nil
	}
}

func (a *Account) login(ctx context.Context) (*gophercloud.ProviderClient, error) {
	client, err := stack.NewClient(a.config.AuthURL)
	if err != nil {
		return nil, err
	}
	client.HTTPClient = a.http
	client.UserAgent.Prepend("grove")
	if err := stack.Authenticate(ctx, client, gophercloud.AuthOptions{
		IdentityEndpoint: a.config.AuthURL, Username: a.config.Username, Password: a.config.Password, DomainName: a.config.UserDomain,
		Scope:       &gophercloud.AuthScope{ProjectName: a.config.Project, DomainName: a.config.ProjectDomain},
		AllowReauth: true,
	}); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.client = client
	return client, nil
}
