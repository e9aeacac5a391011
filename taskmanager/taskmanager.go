// Package taskmanager makes accepted wishes come true: the workflows, one file each, and the receiver of what guests
// report. Any number of taskmanagers work beside each other; an operation's lease says whose turn it is.
package taskmanager

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/telemetry/metric"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// Config is what a Manager works with. All fields are needed, save those that say otherwise.
type Config struct {
	Store      *store.Store
	Cloud      cloud.Provider
	Transport  rpc.Transport
	Accounts   rpc.Accounts
	Datastores []datastore.Datastore
	Region     string
	Node       string // name of this process, unique among taskmanagers
	// GuestRPCURL gives the broker's URL as a guest with this login reaches it; nil for the in-process transport.
	GuestRPCURL func(guestID, password string) string
	// BrokerCA gives the certificates by which guests know the broker; nil: as their systems have it.
	BrokerCA  func() ([]byte, error)
	Heartbeat time.Duration // between two signs of life of a guest
	Retention store.Retention
	// FirstContact is how long the agent of a new server may take until it first reports; 0 is 15 minutes.
	FirstContact time.Duration
	AgentTrial   time.Duration // how long a new agent may take to reach the broker before the one before is put back
	Janitor      Janitor
	Workers      int
	Lease        time.Duration // of an operation; a crash delays its operations by this at most
	Clock        clock.Clock
	Logger       *slog.Logger
	// Operations, Reports and Tidiness count what happens; nil for none.
	Operations *metric.Operations
	Reports    *metric.Reports
	Tidiness   *metric.Tidiness
	// Observe is called around steps, for tests; nil for none.
	Observe func(engine.Point, *engine.Operation)
}

// Manager is a taskmanager.
type Manager struct {
	Config
	engine *engine.Engine
	guests *guest.Client
	keys   *keyCache
	// clusters says which clusters are to be looked at.
	clusters *clusterWatch
	watch    *watch
}

// New makes a Manager. It starts nothing.
func New(c Config) (*Manager, error) {
	m := &Manager{Config: c, clusters: newClusterWatch()}
	m.keys = newKeyCache(c.Store, c.Clock)
	m.watch = newWatch(m)
	m.guests = guest.NewClient(c.Transport, c.Node, m.keys.key)
	var err error
	m.engine, err = engine.New(engine.Config{
		Store: c.Store, Workflows: m.Workflows(), Worker: c.Node, Workers: c.Workers, Lease: c.Lease,
		Clock: c.Clock, Logger: c.Logger, Observe: c.Observe, OnTransition: m.count,
	})
	return m, err
}

// Workflows lists everything that a taskmanager can do.
func (m *Manager) Workflows() []engine.Workflow {
	return []engine.Workflow{
		m.createInstance(),
		m.deleteInstance(),
		m.restartInstance(),
		m.restartPair(),
		m.resizePair(),
		m.rebuildPair(),
		m.stopInstance(),
		m.startInstance(),
		m.resizeVolume(),
		m.resizeFlavor(),
		m.configureInstance(),
		m.setPassword(),
		m.setUsers(),
		m.setPersistence(),
		m.setProfile(),
		m.setTLS(),
		m.renewCertificates(),
		m.upgradeInstance(),
		m.upgradePair(),
		m.rebuildInstance(),
		m.updateAccess(),
		m.createReplicas(),
		m.promoteReplica(),
		m.ejectSource(),
		m.detachReplica(),
		m.createCluster(),
		m.deleteCluster(),
		m.growCluster(),
		m.shrinkCluster(),
		m.restartCluster(),
		m.resizeClusterVolume(),
		m.resizeClusterFlavor(),
		m.upgradeCluster(),
		m.configureCluster(),
		m.healCluster(),
		m.addGuest(),
		m.removeGuest(),
		m.changeAvailability(),
		m.failover(),
		m.repairStandby(),
		m.upgradeAgent(),
	}
}

// Workflows lists the workflows without anything to run them on, for documentation.
func Workflows() []engine.Workflow { return (&Manager{}).Workflows() }

// Descriptions tells what operations of each kind do, for dry runs.
func Descriptions() map[string]control.Workflow {
	described := map[string]control.Workflow{}
	for _, w := range Workflows() {
		d := control.Workflow{Doc: w.Doc, Ended: w.Ended}
		for _, step := range w.Steps {
			d.Steps = append(d.Steps, step.Doc)
		}
		described[w.Kind] = d
	}
	return described
}

// Page describes the workflows in Markdown: docs/workflows.md.
func Page() string {
	return "# Workflows\n\nWhat `groved workflows` prints: every operation, its steps, how long each may take, and how it ends when one\n" +
		"fails for good.\n\n" + engine.Diagram(Workflows())
}

// Engine is what runs the operations; tests step it by hand.
func (m *Manager) Engine() *engine.Engine { return m.engine }

// Run works until ctx ends. It returns nil once everything that it began has come to a safe point.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.engine.Run(ctx) })
	g.Go(func() error { return m.serveNudges(ctx) })
	g.Go(func() error { return m.receiveReports(ctx) })
	g.Go(func() error { return m.receiveHeartbeats(ctx) })
	g.Go(func() error { return m.watch.run(ctx) })
	g.Go(func() error { return m.every(ctx, catalogInterval, "sync the catalog", m.SyncCatalog) })
	g.Go(func() error { return m.watchClusters(ctx) })
	g.Go(func() error { return m.every(ctx, catchUpEvery, "catch up", m.catchUp) })
	g.Go(func() error { return m.every(ctx, renewInterval, "renew certificates", m.RenewDue) })
	g.Go(func() error { return m.every(ctx, accountsEvery, "restore logins at the broker", m.RestoreAccounts) })
	g.Go(func() error { return m.every(ctx, trustEvery, "tell agents whom to know the broker by", m.SpreadTrust) })
	g.Go(func() error { return m.every(ctx, purgeInterval, "purge", m.purge) })
	g.Go(func() error { return m.every(ctx, janitorPoll, "compare the cloud with the rows", m.TidyWhenDue) })
	return g.Wait()
}

const (
	catalogInterval = time.Minute
	purgeInterval   = 10 * time.Minute
	purgeBatch      = 1000
)

// count keeps the metrics of the engine.
func (m *Manager) count(t engine.Transition) {
	m.Operations.Transition(t.Kind, string(t.Outcome))
	if t.Step != "" {
		m.Operations.Step(t.Kind, t.Step, string(t.Outcome), t.Ran)
	}
	if t.Operation.Status.Ended() && (t.Kind == kindFailover || t.Kind == kindUpgradePair) {
		m.watch.suspect(t.Operation.ResourceID) // the old primary is to be the standby; one of another version is to be replaced
	}
	if t.Operation.Status.Ended() {
		m.Operations.Ended(t.Kind, string(t.Operation.Status), t.Operation.EndedAt.Sub(t.Operation.CreatedAt))
	}
}

// every does a recurring deed until ctx ends; a failure is logged and tried again the next time.
func (m *Manager) every(ctx context.Context, interval time.Duration, what string, deed func(context.Context) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := deed(ctx); err != nil && ctx.Err() == nil {
			m.Logger.ErrorContext(ctx, "recurring work failed", "work", what, "error", err)
		}
	}
}

// SyncCatalog stores what the cloud offers, so that reads call nobody.
func (m *Manager) SyncCatalog(ctx context.Context) error {
	catalog, err := m.Cloud.Catalog(ctx)
	if err != nil {
		return err
	}
	catalog.Region = m.Region
	return m.Store.Tx(ctx, func(tx *store.Tx) error { return tx.SaveCatalog(catalog) })
}

// purge removes what is older than its configured age, a batch at a time.
func (m *Manager) purge(ctx context.Context) error {
	for {
		n, err := m.Store.Purge(ctx, m.Retention, purgeBatch)
		if err != nil || n < purgeBatch {
			return err
		}
	}
}

// manifest finds the manifest that drives a version.
func (m *Manager) manifest(v dbaas.DatastoreVersion) (*datastore.Manifest, error) {
	for _, d := range m.Datastores {
		if d.Manifest().Name == v.Manager {
			return d.Manifest(), nil
		}
	}
	return nil, engine.Permanent(dbaas.Errorf(dbaas.NotImplemented, "Nothing here drives the datastore %q.", v.Manager))
}
