package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/api"
	"github.com/grove-dbaas/grove/datastore/all"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/config"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/keystone"
	"github.com/grove-dbaas/grove/internal/lifecycle"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
	"github.com/grove-dbaas/grove/internal/rpc/inproc"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/telemetry"
	"github.com/grove-dbaas/grove/internal/telemetry/metric"
	"github.com/grove-dbaas/grove/taskmanager"
)

// house is what the roles of one process share.
type house struct {
	config    config.Config
	logger    *slog.Logger
	metrics   *metric.Registry
	keyring   *secret.Keyring
	store     *store.Store
	bus       *inproc.Bus // nil with a broker
	guests    sync.Map    // guest ids by the topics of their agents in this process
	transport rpc.Transport
	accounts  rpc.Accounts
	node      string
}

// newHouse opens what every role needs: the keys and the database.
func newHouse(ctx context.Context, c config.Config) (*house, error) {
	h := &house{config: c, node: nodeName(), metrics: metric.NewRegistry()}
	var err error
	if h.logger, err = telemetry.NewLogger(os.Stderr, telemetry.LogConfig{Format: c.Log.Format, Level: c.Log.Level}); err != nil {
		return nil, err
	}
	if h.keyring, err = secret.LoadKeyring(masterKeyPath(c)); err != nil {
		return nil, err
	}
	h.store, err = store.Open(ctx, store.Options{URL: databaseURL(c), Clock: clock.Real{}, Keyring: h.keyring, Logger: h.logger})
	return h, err
}

func nodeName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "groved"
	}
	return host + "-" + uuid.NewString()[:8]
}

func masterKeyPath(c config.Config) string {
	if c.MasterKey != "" {
		return c.MasterKey
	}
	return filepath.Join(c.Data, "master.key")
}

func databaseURL(c config.Config) string {
	if c.Database.URL != "" {
		return c.Database.URL
	}
	return "sqlite://" + filepath.Join(c.Data, "grove.db")
}

// connect opens the transport: the broker's when one is configured, else the one inside the process.
func (h *house) connect(ctx context.Context) error {
	observe := metric.NewRPC(h.metrics).Message
	if h.config.RPC.URL == "" {
		h.bus = inproc.New(inproc.Options{Logger: h.logger})
		h.transport, h.accounts = rpc.Measured(h.bus.Control(), clock.Real{}, observe), &inproc.Accounts{}
		return nil
	}
	trust := h.trust()
	if trust != nil {
		if text, err := trust(); err != nil {
			return fmt.Errorf("read rpc.ca_file: %w", err)
		} else if err := amqp.CheckTrust(text); err != nil {
			return fmt.Errorf("rpc.ca_file %s: %w", h.config.RPC.CAFile, err)
		}
	}
	transport, err := amqp.Dial(ctx, amqp.Config{URL: h.config.RPC.URL, Role: amqp.RoleControl, Trust: trust, Logger: h.logger})
	if err != nil {
		return err
	}
	h.transport = rpc.Measured(transport, clock.Real{}, observe)
	h.accounts, err = amqp.NewAccounts(h.config.RPC.ManagementURL, vhost(h.config.RPC.URL), amqp.Client(trust))
	h.measureCertificates(trust)
	return err
}

// trust is whom the broker is known by, read anew for each connection; nil: as the system says.
func (h *house) trust() amqp.Trust {
	path := h.config.RPC.CAFile
	if path == "" {
		return nil
	}
	return func() ([]byte, error) { return os.ReadFile(path) }
}

const (
	// expiryFor is for how long the broker's certificate is taken as it was seen.
	expiryFor = 10 * time.Minute
	// expiryPatience is how long a scrape waits for the broker and for the database.
	expiryPatience = 5 * time.Second
)

// measureCertificates shows when certificates expire: the broker's, as this process sees it, and that of the authority of
// databases. 0 is unknown.
func (h *house) measureCertificates(trust amqp.Trust) {
	gauge := func(name, help string, ask func(context.Context) (time.Time, error)) {
		var mu sync.Mutex
		var value float64
		var asked time.Time
		h.metrics.Gauge(name, help, func() float64 {
			mu.Lock()
			defer mu.Unlock()
			if now := (clock.Real{}).Now(); now.Sub(asked) >= expiryFor {
				ctx, cancel := context.WithTimeout(context.Background(), expiryPatience)
				defer cancel()
				value, asked = 0, now
				at, err := ask(ctx)
				if err != nil {
					h.logger.Warn("a certificate's end is not known", "metric", name, "error", err)
				} else if !at.IsZero() {
					value = float64(at.Unix())
				}
			}
			return value
		})
	}
	if strings.HasPrefix(h.config.RPC.URL, "amqps://") {
		gauge("grove_broker_certificate_expiry_timestamp_seconds", "When the first of the certificates expires by which the broker is known.",
			func(ctx context.Context) (time.Time, error) { return amqp.Expiry(ctx, h.config.RPC.URL, trust) })
	}
	gauge("grove_authority_expiry_timestamp_seconds", "When the authority expires that signs the certificates of databases.",
		func(ctx context.Context) (time.Time, error) {
			return control.AuthorityExpires(ctx, h.store)
		})
}

// vhost is the part of the broker that a URL names; RabbitMQ's default is "/".
func vhost(rawURL string) string {
	if u, err := url.Parse(rawURL); err == nil && len(u.Path) > 1 {
		return u.Path[1:]
	}
	return "/"
}

// guestRPCURL gives the broker's URL with a guest's login in it; nil for the in-process transport.
func (h *house) guestRPCURL() func(guestID, password string) string {
	if h.bus != nil {
		return nil
	}
	base := h.config.RPC.GuestURL
	if base == "" {
		base = h.config.RPC.URL
	}
	return func(guestID, password string) string {
		u, err := url.Parse(base)
		if err != nil {
			return "" // Validate has parsed it
		}
		u.User = url.UserPassword(guestID, password)
		return u.String()
	}
}

func (h *house) control() *control.Service {
	return control.New(control.Config{
		Store: h.store, Transport: h.transport, Datastores: all.Datastores(), Region: h.config.Region,
		DefaultDatastore: all.Datastores()[0].Manifest().Name, Quotas: h.config.Quotas, MaxVolumeSize: h.config.MaxVolumeSize,
		Node: h.node, Workflows: taskmanager.Descriptions(), Clock: clock.Real{}, Logger: h.logger,
	})
}

// taskmanager makes the manager on a provider and brings what it publishes up to date.
func (h *house) taskmanager(provider cloud.Provider) (*taskmanager.Manager, error) {
	c := h.config
	h.metrics.Gauge("grove_operations_overdue_seconds", "How long the operation that is due longest has waited for a taskmanager.", h.overdue)
	return taskmanager.New(taskmanager.Config{
		Store: h.store, Cloud: provider, Transport: h.transport, Accounts: h.accounts, Datastores: all.Datastores(),
		Region: c.Region, Node: h.node, GuestRPCURL: h.guestRPCURL(), BrokerCA: h.trust(), Heartbeat: c.Guests.Heartbeat, AgentTrial: c.Guests.AgentTrial, FirstContact: c.Guests.FirstContact,
		Retention: store.Retention{Operations: c.Retention.Operations, Events: c.Retention.Events, Idempotency: c.Retention.Idempotency, Deleted: c.Retention.Deleted},
		Janitor:   taskmanager.Janitor{Every: c.Janitor.Every, Age: c.Janitor.Age, Delete: c.Janitor.Delete},
		Tidiness:  metric.NewTidiness(h.metrics),
		Workers:   c.Taskmanager.Workers, Lease: c.Taskmanager.Lease, Clock: clock.Real{}, Logger: h.logger,
		Operations: metric.NewOperations(h.metrics), Reports: metric.NewReports(h.metrics),
	})
}

// overdue is asked for at each scrape; without a database nobody knows.
func (h *house) overdue() float64 {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	waited, err := h.store.Overdue(ctx)
	if err != nil {
		return math.NaN()
	}
	return waited.Seconds()
}

// publish writes what is on offer into the database: flavors and, where servers run on this machine, the datastore versions
// whose programs it has. Elsewhere administrators offer versions with their images, and a cloud that is away is asked later.
func (h *house) publish(ctx context.Context, m *taskmanager.Manager) error {
	here := h.config.Cloud.Provider == "local"
	switch err := m.SyncCatalog(ctx); {
	case err != nil && here && !h.config.Cloud.Local.Shared:
		return fmt.Errorf("publish flavors: %w", err)
	case err != nil:
		h.logger.WarnContext(ctx, "the cloud does not tell its flavors yet", "error", err)
	}
	if !here {
		return nil
	}
	return h.control().SyncDatastores(ctx, installed)
}

// account is Grove's in the OpenStack cloud.
func (h *house) account() (*keystone.Account, error) {
	k := h.config.Keystone
	return keystone.NewAccount(keystone.Config{
		AuthURL: k.AuthURL, Username: k.Username, Password: k.Password, UserDomain: k.UserDomain,
		Project: k.Project, ProjectDomain: k.ProjectDomain, CAFile: k.CAFile, Timeout: k.Timeout, Clock: clock.Real{},
	})
}

// loadPolicy reads the operator's rules over Trove's. A file that is missing or wrong is an error.
func loadPolicy(c config.Config) (*api.Policy, error) {
	rules, err := config.LoadPolicy(c.API.PolicyFile)
	if err != nil {
		return nil, err
	}
	p, err := api.NewPolicy(rules)
	if err != nil {
		return nil, fmt.Errorf("the policy %s: %w", c.API.PolicyFile, err)
	}
	return p, nil
}

// apiPart serves the REST API on a listener.
func (h *house) apiPart(l net.Listener) (lifecycle.Part, error) {
	c := h.config
	policy, err := loadPolicy(c)
	if err != nil {
		return lifecycle.Part{}, err
	}
	var authenticate api.Authenticator // by default everyone is believed
	if c.API.Auth == "keystone" {
		account, err := h.account()
		if err != nil {
			return lifecycle.Part{}, err
		}
		authenticate = api.AuthKeystone(keystone.NewTokens(account, c.API.TokenCache))
	}
	handler, err := api.New(api.Config{
		Authenticate: authenticate, AuthURL: c.Keystone.AuthURL, Policy: policy,
		Control: h.control(), CORSOrigins: c.API.CORSOrigins, MaxBody: c.API.MaxBody, PageSize: c.API.PageSize,
		RateLimits: c.API.RateLimits, PublicEndpoint: c.PublicEndpoint, Logger: h.logger, Metrics: h.metrics, Clock: clock.Real{},
	})
	if err != nil {
		return lifecycle.Part{}, err
	}
	return h.httpPart("api", l, handler), nil
}

// httpPart serves HTTP until it is stopped, then lets requests under way end.
func (h *house) httpPart(name string, l net.Listener, handler http.Handler) lifecycle.Part {
	server := api.NewHTTPServer(l.Addr().String(), handler)
	return lifecycle.Part{Name: name, Run: func(ctx context.Context) error {
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		select {
		case err := <-served:
			return err // before its time: there is no other way to get here
		case <-ctx.Done():
		}
		drain, cancel := context.WithTimeout(context.Background(), h.config.API.ShutdownWait)
		defer cancel()
		if err := server.Shutdown(drain); err != nil {
			return errors.Join(err, server.Close())
		}
		return nil
	}}
}

// closing makes a part that only closes something.
func closing(name string, c io.Closer) lifecycle.Part {
	return lifecycle.Part{Name: name, Stop: func(context.Context) error { return c.Close() }}
}
