package control_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the tests' own look into the database

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/all"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func TestMain(m *testing.M) { testbed.Main(m) }

var (
	tenant   = control.Caller{ProjectID: "demo", UserID: "ann", RequestID: "req-1", SourceAddress: "192.0.2.1"}
	stranger = control.Caller{ProjectID: "other", UserID: "eve"}
	admin    = control.Caller{ProjectID: "admin", UserID: "root", Admin: true}
)

// house is the use cases on a real database, with nobody who works off operations: tests end them as they like.
type house struct {
	*control.Service
	t     *testing.T
	store *store.Store
	url   string
}

// onBoth runs a test on an empty database of each kind.
func onBoth(t *testing.T, test func(t *testing.T, h *house)) {
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); test(t, newHouse(t, "")) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); test(t, newHouse(t, testbed.Postgres(t))) })
}

// newHouse opens a house on a database, "" for a SQLite file of its own.
func newHouse(t *testing.T, url string, configure ...func(*control.Config)) *house {
	t.Helper()
	dir := t.TempDir()
	if url == "" {
		url = "sqlite://" + filepath.Join(dir, "grove.db")
	}
	keyring, err := secret.CreateKeyring(filepath.Join(dir, "master.key"))
	must(t, err)
	logger := slog.New(slog.DiscardHandler)
	s, err := store.Open(t.Context(), store.Options{URL: url, Clock: clock.Real{}, Keyring: keyring, Logger: logger})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	must(t, s.Migrate(t.Context()))
	c := control.Config{
		Store: s, Datastores: all.Datastores(), Region: "RegionOne", DefaultDatastore: "redis", MaxVolumeSize: 50,
		Quotas: map[string]int{"instances": 10, "volumes": 100, "backups": 10, "ram": -1}, Node: "test", Clock: clock.Real{}, Logger: logger,
	}
	for _, f := range configure {
		f(&c)
	}
	h := &house{Service: control.New(c), t: t, store: s, url: url}
	must(t, h.SyncDatastores(t.Context(), func(v datastore.Version) string { return v.Number + "15" }))
	h.tx(func(tx *store.Tx) error {
		return tx.SaveCatalog(&dbaas.Catalog{
			Region:  "RegionOne",
			Flavors: []dbaas.Flavor{{ID: "1", Name: "small", RAM: 512, VCPUs: 1}, {ID: "2", Name: "large", RAM: 2048, VCPUs: 2}},
			Zones:   []string{"nova"}, VolumeTypes: []dbaas.VolumeType{{ID: "fast", Name: "ssd"}},
			Networks: []dbaas.Network{
				{ID: "net", Name: "net", Subnets: []string{"sub"}},
				{ID: "own", Name: "own", Subnets: []string{"sub-of-own"}, Projects: []string{"service", tenant.ProjectID}},
				{ID: "foreign", Name: "foreign", Subnets: []string{"sub-of-foreign"}, Projects: []string{stranger.ProjectID}},
			},
		})
	})
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused requires an error with this code and these words for the user.
func refused(t *testing.T, err error, code dbaas.Code, words ...string) {
	t.Helper()
	if dbaas.ErrorCode(err) != code {
		t.Errorf("the error is %q (%v), want %q", dbaas.ErrorCode(err), err, code)
	}
	for _, w := range words {
		if !strings.Contains(dbaas.ErrorMessage(err), w) {
			t.Errorf("%q does not say %q", dbaas.ErrorMessage(err), w)
		}
	}
}

func (h *house) ctx() context.Context { return h.t.Context() }

func (h *house) tx(f func(tx *store.Tx) error) {
	h.t.Helper()
	must(h.t, h.store.Tx(h.ctx(), f))
}

// wish is an instance that may be had.
func wish() control.CreateInstance {
	return control.CreateInstance{Name: "cache", FlavorID: "1", VolumeSize: 1, Zone: "nova", VolumeType: "ssd"}
}

// active makes an instance of the tenant whose create has ended.
func (h *house) active() string {
	h.t.Helper()
	created, err := h.CreateInstance(h.ctx(), tenant, wish())
	must(h.t, err)
	h.finish(created.OperationID)
	return created.View.ID
}

// finish ends an operation well, as a taskmanager does.
func (h *house) finish(operationID string) {
	h.t.Helper()
	op, err := h.store.Claim(h.ctx(), "worker", operationID, 15e9)
	must(h.t, err)
	if op == nil {
		h.t.Fatalf("operation %s cannot be claimed", operationID)
	}
	h.tx(func(tx *store.Tx) error {
		in, err := tx.Instance(op.ResourceID)
		if err != nil {
			return err
		}
		in.Task, in.Fault, in.Applied = dbaas.TaskNone, nil, in.Shape()
		return tx.UpdateInstance(in)
	})
	h.end(op)
}

// end ends a claimed operation and nothing else.
func (h *house) end(op *dbaas.Operation) {
	h.t.Helper()
	op.Status = dbaas.OperationSucceeded
	must(h.t, h.store.Save(h.ctx(), op, engine.Save{Ended: true}))
}

// edit changes an instance's row past the use cases.
func (h *house) edit(id string, change func(in *dbaas.Instance)) {
	h.t.Helper()
	h.tx(func(tx *store.Tx) error {
		in, err := tx.Instance(id)
		if err != nil {
			return err
		}
		change(in)
		return tx.UpdateInstance(in)
	})
}

func (h *house) view(id string) *dbaas.InstanceView {
	h.t.Helper()
	v, err := h.Instance(h.ctx(), admin, id)
	must(h.t, err)
	return v
}

func (h *house) operation(id string) *control.OperationView {
	h.t.Helper()
	op, err := h.Operation(h.ctx(), admin, id)
	must(h.t, err)
	return op
}

func (h *house) group(values map[string]any) *control.ConfigurationView {
	h.t.Helper()
	g, err := h.CreateConfiguration(h.ctx(), tenant, control.CreateConfiguration{Name: "group", Datastore: "redis", Values: values})
	must(h.t, err)
	return g
}

// query reads one value from the database itself, past the store.
func (h *house) query(statement string, into any) error {
	driver, source := "pgx", h.url
	if path, ok := strings.CutPrefix(h.url, "sqlite://"); ok {
		driver, source = "sqlite", path+"?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		return err
	}
	return errors.Join(db.QueryRowContext(h.ctx(), statement).Scan(into), db.Close())
}

func (h *house) count(table string) int {
	h.t.Helper()
	var n int
	must(h.t, h.query("SELECT count(*) FROM "+table, &n))
	return n
}
