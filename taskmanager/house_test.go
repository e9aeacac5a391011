package taskmanager_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the suite's own look into the database
	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/all"
	"github.com/grove-dbaas/grove/guestagent/embedded"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/cloud/local"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/inproc"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "6") // these tests wait more than they compute; the command line may say otherwise
	testbed.Main(m)
}

// databases gives the stores that every test of workflows runs on.
func databases(*testing.T) map[string]func(*testing.T) string {
	return map[string]func(*testing.T) string{
		"sqlite":   func(*testing.T) string { return "" },
		"postgres": func(t *testing.T) string { return testbed.Postgres(t) },
	}
}

// house is everything but a taskmanager: the store, the local cloud with real agents and databases, and control. A
// taskmanager joins it with run and leaves it, alive or dead.
type house struct {
	dir      string
	url      string
	store    *store.Store
	bus      *inproc.Bus
	unheard  *unheard // agents that the taskmanager does not reach; nil: it reaches all
	accounts *inproc.Accounts
	local    *local.Cloud
	cloud    cloud.Provider
	control  *control.Service
	effects  *effects
	runs     int
	password string // that a trial has set
}

// openHouse opens a house in dir, on a SQLite file there when url is "". It is closed with the test.
func openHouse(t *testing.T, url, dir string) *house {
	t.Helper()
	ctx := t.Context()
	h := &house{dir: dir, url: url, effects: &effects{seen: map[string]bool{}}, accounts: &inproc.Accounts{}}
	if h.url == "" {
		h.url = "sqlite://" + filepath.Join(dir, "grove.db")
	}
	key := filepath.Join(dir, "master.key")
	if _, err := os.Stat(key); err != nil {
		_, err = secret.CreateKeyring(key)
		must(t, err)
	}
	keyring, err := secret.LoadKeyring(key)
	must(t, err)
	h.store, err = store.Open(ctx, store.Options{URL: h.url, Clock: clock.Real{}, Keyring: keyring, Logger: logger(t)})
	must(t, err)
	must(t, h.store.Migrate(ctx))
	h.bus = inproc.New(inproc.Options{Logger: logger(t)})
	h.openCloud(t)
	h.control = control.New(control.Config{
		Store: h.store, Transport: h.bus.Control(), Datastores: all.Datastores(), Region: "RegionOne", DefaultDatastore: "redis",
		Quotas: map[string]int{"instances": 30, "volumes": 1000, "backups": 10, "ram": -1}, MaxVolumeSize: 1000,
		Node: "api", Clock: clock.Real{}, Logger: logger(t),
	})
	must(t, h.control.SyncDatastores(ctx, func(v datastore.Version) string {
		if v.Binary != "redis-server" {
			return ""
		}
		return v.Number + "15"
	}))
	t.Cleanup(func() { h.close(t, false) })
	return h
}

func (h *house) openCloud(t *testing.T) {
	t.Helper()
	counted := make([]datastore.Datastore, 0, len(all.Datastores()))
	for _, d := range all.Datastores() {
		counted = append(counted, countingDatastore{Datastore: d, effects: h.effects})
	}
	var err error
	h.local, err = local.Open(t.Context(), local.Config{
		Dir: h.dir, Region: "RegionOne", Volumes: local.VolumesDirectory, Logger: logger(t),
		Launcher: embedded.Launcher{
			Datastores: counted, Logger: logger(t),
			Transport: func(_ context.Context, b guest.Bootstrap) (rpc.Transport, error) {
				return h.bus.Guest(b.GuestID, b.Queue), nil
			},
		},
	})
	must(t, err)
	h.cloud = countingCloud{Provider: h.local, effects: h.effects}
}

// close closes the house; with keep databases go on running, as after a crash.
func (h *house) close(t *testing.T, keep bool) {
	t.Helper()
	if h.store == nil {
		return
	}
	must(t, h.local.Close(context.Background(), keep))
	must(t, h.store.Close())
	h.store = nil
}

// logger writes warnings to the test's log; everything with GROVE_TEST_LOG=debug.
func logger(t *testing.T) *slog.Logger {
	level := slog.LevelError
	if os.Getenv("GROVE_TEST_LOG") == "debug" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
}

// run lets a taskmanager work until stop is called. observe may end it sooner.
func (h *house) run(t *testing.T, observe func(engine.Point, *engine.Operation)) (stop func()) {
	t.Helper()
	m := h.manager(t, observe)
	must(t, m.SyncCatalog(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("taskmanager: %v", err)
		}
	})
	t.Cleanup(stop) // where the test ends before it comes to it
	return stop
}

// manager makes a taskmanager that does not run.
func (h *house) manager(t *testing.T, observe func(engine.Point, *engine.Operation)) *taskmanager.Manager {
	t.Helper()
	h.runs++
	transport := h.bus.Control()
	if h.unheard != nil {
		h.unheard.Transport, transport = transport, h.unheard
	}
	m, err := taskmanager.New(taskmanager.Config{
		Store: h.store, Cloud: h.cloud, Transport: transport, Accounts: h.accounts, Datastores: all.Datastores(),
		Region: "RegionOne", Node: fmt.Sprintf("taskmanager-%d-%d", os.Getpid(), h.runs), Heartbeat: time.Second,
		Workers: 4, Lease: time.Minute, Clock: clock.Real{}, Logger: logger(t), Observe: observe,
	})
	must(t, err)
	return m
}

// createActive makes an instance that serves.
func (h *house) createActive(t *testing.T) string {
	t.Helper()
	defer h.run(t, nil)()
	op := h.awaitEnd(t, trials()["create_instance"].begin(t.Context(), t, h, ""))
	if op.Status != dbaas.OperationSucceeded {
		t.Fatalf("create: %s %+v", op.Status, op.Failure)
	}
	return op.ResourceID
}

func (h *house) delete(t *testing.T, in string) {
	t.Helper()
	defer h.run(t, nil)()
	h.awaitEnd(t, mustID(t)(h.control.DeleteInstance(t.Context(), tester, in)))
}

// sql runs one statement on the database itself, past the store.
// addresses lists the addresses that the rows have.
func (h *house) addresses(t *testing.T) []string {
	t.Helper()
	instances, _, err := h.store.ListInstances(t.Context(), store.InstanceFilter{ProjectID: tester.ProjectID, IncludeClustered: true})
	must(t, err)
	var list []string
	for _, in := range instances {
		if in.AddressID != "" {
			list = append(list, "address "+in.AddressID)
		}
	}
	return list
}

func (h *house) sql(t *testing.T, query string, into ...any) {
	t.Helper()
	driver, source := "pgx", h.url
	if path, ok := strings.CutPrefix(h.url, "sqlite://"); ok {
		driver, source = "sqlite", path+"?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, source)
	must(t, err)
	defer db.Close()
	if into == nil {
		_, err = db.ExecContext(t.Context(), query)
	} else {
		err = db.QueryRowContext(t.Context(), query).Scan(into...)
	}
	must(t, err)
}

// expireLeases lets the time pass that a dead taskmanager's leases still have.
func (h *house) expireLeases(t *testing.T) {
	t.Helper()
	h.sql(t, "UPDATE operations SET lease_until = 0")
}

// newestOperation finds the operation that a dead child began.
func (h *house) newestOperation(t *testing.T, kind string) string {
	t.Helper()
	var id string
	h.sql(t, "SELECT id FROM operations WHERE kind = '"+kind+"' ORDER BY created_at DESC LIMIT 1", &id)
	return id
}

// audit requires that nothing is locked, that the cloud holds exactly what the rows say, that the quota is right and
// that no secret is left over. It gives the operation's instance, "" when that is gone.
func (h *house) audit(t *testing.T, operationID string) string {
	t.Helper()
	ctx := t.Context()
	var locks, pending, live, running int
	h.sql(t, "SELECT COUNT(*) FROM operation_locks", &locks)
	h.sql(t, "SELECT COUNT(*) FROM operations WHERE ended_at = 0", &running)
	h.sql(t, "SELECT COUNT(*) FROM secrets WHERE kind LIKE 'pending-%'", &pending)
	h.sql(t, "SELECT COUNT(*) FROM instances WHERE deleted_at = 0", &live)
	if locks != 0 || pending != 0 || running != 0 {
		t.Errorf("%d locks, %d pending secrets and %d operations are left", locks, pending, running)
	}
	guests, err := h.store.LiveGuests(ctx)
	must(t, err)
	var want []string
	served := map[string]bool{}
	for _, g := range guests {
		served[g.InstanceID] = true
		want = append(want, "server "+g.ServerID, "volume "+g.VolumeID, "port "+g.PortID, "security_group of "+g.ID)
	}
	want = append(want, h.addresses(t)...)
	owned, err := h.local.Owned(ctx, "")
	must(t, err)
	var got []string
	for _, r := range owned {
		switch r.Kind {
		case cloud.KindSecurityGroup:
			got = append(got, "security_group of "+r.GuestID)
			continue
		case cloud.KindServerGroup: // kept as long as there is anybody in the group
			var groups int
			h.sql(t, "SELECT COUNT(*) FROM instance_groups WHERE deleted_at = 0 AND id = '"+r.GuestID+"'", &groups)
			if groups == 1 {
				continue
			}
		}
		got = append(got, r.Kind+" "+r.ID)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the cloud holds\n  %v\nthe rows say\n  %v", got, want)
	}
	usage, err := h.control.Usage(ctx, tester, tester.ProjectID)
	must(t, err)
	if usage[0].InUse != live || len(served) != live {
		t.Errorf("quota says %d instances, there are %d, guests serve %d", usage[0].InUse, live, len(served))
	}
	op, err := h.store.Operation(ctx, operationID)
	must(t, err)
	if cl, err := h.control.Cluster(ctx, tester, op.ResourceID); err == nil && len(cl.Members) > 0 {
		return cl.Members[0].ID
	}
	if _, err := h.control.Instance(ctx, tester, op.ResourceID); err != nil {
		return ""
	}
	return op.ResourceID
}

// parameters looks at the configuration file that the database was given; the last occurrence holds.
func (h *house) parameters(t *testing.T, v *dbaas.InstanceView, name string) string {
	t.Helper()
	value := ""
	err := filepath.WalkDir(filepath.Join(h.dir, "servers", v.Guests[0].ID), func(path string, d os.DirEntry, err error) error {
		if err != nil || filepath.Base(path) != "redis.conf" {
			return err
		}
		text, err := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) == 2 && fields[0] == name {
				value = fields[1]
			}
		}
		return err
	})
	must(t, err)
	return value
}

// requireServing connects as the tenant does and writes.
func (h *house) requireServing(t *testing.T, v *dbaas.InstanceView) {
	t.Helper()
	credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
	must(t, err)
	client := redis.NewClient(&redis.Options{Addr: v.Addresses[0].Address + ":6379", Password: credentials.Password, DisableIdentity: true})
	defer client.Close()
	testbed.Eventually(t, 20*time.Second, func() error { return client.Set(t.Context(), "k", "v", 0).Err() })
}

// effects notes what happened in the world outside the database.
type effects struct {
	mu   sync.Mutex
	all  []string
	seen map[string]bool
}

func (e *effects) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = nil
}

func (e *effects) add(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, what)
}

// once notes an effect the first time that its object is seen: ensuring what exists is no effect.
func (e *effects) once(what, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.seen[what+id] {
		e.seen[what+id] = true
		e.all = append(e.all, what)
	}
}

// list gives the effects in alphabetical order, for some may happen side by side.
func (e *effects) list() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(slices.Values(e.all))
}

// countingCloud notes what a provider was really made to do.
type countingCloud struct {
	cloud.Provider
	effects *effects
}

func (c countingCloud) EnsureServer(ctx context.Context, s cloud.ServerSpec) (*cloud.Server, error) {
	server, err := c.Provider.EnsureServer(ctx, s)
	if err == nil {
		c.effects.once("server created", server.ID)
	}
	return server, err
}

func (c countingCloud) EnsureVolume(ctx context.Context, s cloud.VolumeSpec) (*cloud.Volume, error) {
	volume, err := c.Provider.EnsureVolume(ctx, s)
	if err == nil {
		c.effects.once("volume created", volume.ID)
	}
	return volume, err
}

func (c countingCloud) EnsurePort(ctx context.Context, s cloud.PortSpec) (*cloud.Port, error) {
	port, err := c.Provider.EnsurePort(ctx, s)
	if err == nil {
		c.effects.once("port created", port.ID)
	}
	return port, err
}

func (c countingCloud) EnsureAddress(ctx context.Context, s cloud.AddressSpec) (*cloud.Address, error) {
	a, err := c.Provider.EnsureAddress(ctx, s)
	if err == nil {
		c.effects.once("address created", a.ID)
	}
	return a, err
}

func (c countingCloud) PointAddress(ctx context.Context, addressID, portID string, epoch int64) error {
	err := c.Provider.PointAddress(ctx, addressID, portID, epoch)
	if err == nil {
		c.effects.once("address pointed", fmt.Sprint(addressID, portID))
	}
	return err
}

func (c countingCloud) DeleteAddress(ctx context.Context, id string) error {
	c.effects.once("address deleted", id)
	return c.Provider.DeleteAddress(ctx, id)
}

func (c countingCloud) EnsureSecurityGroup(ctx context.Context, s cloud.SecurityGroupSpec) (string, error) {
	id, err := c.Provider.EnsureSecurityGroup(ctx, s)
	if err == nil {
		c.effects.once("security group created", id)
	}
	return id, err
}

func (c countingCloud) ExtendVolume(ctx context.Context, id string, sizeGB int) error {
	before, err := c.Volume(ctx, id)
	if err == nil && before.SizeGB < sizeGB {
		c.effects.add("volume extended")
	}
	return c.Provider.ExtendVolume(ctx, id, sizeGB)
}

func (c countingCloud) ResizeServer(ctx context.Context, id, flavorID string) error {
	before, err := c.Server(ctx, id)
	if err == nil && before.FlavorID != flavorID && before.Status == cloud.ServerActive {
		c.effects.add("server resized")
	}
	return c.Provider.ResizeServer(ctx, id, flavorID)
}

func (c countingCloud) ConfirmResize(ctx context.Context, id string) error {
	before, err := c.Server(ctx, id)
	if err == nil && before.Status == cloud.ServerVerifyResize {
		c.effects.add("resize confirmed")
	}
	return c.Provider.ConfirmResize(ctx, id)
}

func (c countingCloud) DeleteServer(ctx context.Context, id string) error {
	c.effects.once("server deleted", id)
	return c.Provider.DeleteServer(ctx, id)
}

func (c countingCloud) DeleteVolume(ctx context.Context, id string) error {
	c.effects.once("volume deleted", id)
	return c.Provider.DeleteVolume(ctx, id)
}

func (c countingCloud) DeletePort(ctx context.Context, id string) error {
	c.effects.once("port deleted", id)
	return c.Provider.DeletePort(ctx, id)
}

// countingDatastore notes what a database was really made to do.
type countingDatastore struct {
	datastore.Datastore
	effects *effects
}

func (d countingDatastore) Guest(h *host.Host) datastore.Guest {
	g := countingGuest{Guest: d.Datastore.Guest(h), effects: d.effects}
	if replica, ok := g.Guest.(datastore.Replica); ok {
		return countingReplica{countingGuest: g, Replica: replica}
	}
	return g
}

// countingReplica is a countingGuest whose database can follow another.
type countingReplica struct {
	countingGuest
	datastore.Replica
}

type countingGuest struct {
	datastore.Guest
	effects *effects
}

func (g countingGuest) Prepare(ctx context.Context, d datastore.Desired) error {
	g.effects.add("database prepared")
	return g.Guest.Prepare(ctx, d)
}

func (g countingGuest) Start(ctx context.Context) error {
	g.effects.add("database started")
	return g.Guest.Start(ctx)
}

func (g countingGuest) Stop(ctx context.Context) error {
	g.effects.add("database stopped")
	return g.Guest.Stop(ctx)
}

func (g countingGuest) Configure(ctx context.Context, d datastore.Desired) (datastore.Applied, error) {
	g.effects.add("database configured")
	return g.Guest.Configure(ctx, d)
}

func (g countingGuest) Upgrade(ctx context.Context, d datastore.Desired) error {
	g.effects.add("database upgraded")
	return g.Guest.(datastore.Upgrader).Upgrade(ctx, d)
}
