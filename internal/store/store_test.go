package store

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func TestMain(m *testing.M) { testbed.Main(m) }

// onBoth runs a test on an empty database of each kind, migrated.
func onBoth(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Run("sqlite", func(t *testing.T) { test(t, openSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, openPostgres(t)) })
}

func openSQLite(t testing.TB) *Store {
	return openMigrated(t, Options{URL: "sqlite://" + filepath.Join(t.TempDir(), "grove.db")})
}

func openPostgres(t testing.TB) *Store {
	s, _ := openPostgresURL(t)
	return s
}

func openPostgresURL(t testing.TB) (*Store, string) {
	url := testbed.Postgres(t)
	return openMigrated(t, Options{URL: url}), url
}

func openMigrated(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Keyring == nil {
		o.Keyring = newKeyring(t)
	}
	s := open(t, o)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newKeyring(t testing.TB) *secret.Keyring {
	t.Helper()
	k, err := secret.CreateKeyring(filepath.Join(t.TempDir(), "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// do runs a transaction that must succeed.
func do(t testing.TB, s *Store, fn func(tx *Tx) error) {
	t.Helper()
	if err := s.Tx(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

const (
	testVersion = "018f0000-0000-7000-8000-00000000000a"
	testProject = "demo"
)

// seedVersion stores the datastore version and the catalog that instances of tests refer to.
func seedVersion(t testing.TB, s *Store) {
	t.Helper()
	do(t, s, func(tx *Tx) error {
		return firstError(
			tx.UpsertDatastore(&dbaas.Datastore{ID: "redis", Name: "redis", DefaultVersionID: testVersion}),
			tx.UpsertVersion(&dbaas.DatastoreVersion{ID: testVersion, DatastoreID: "redis", Name: "7.0", Number: "7.0.15",
				Manager: "redis", Active: true, Image: "image", ImageTags: []string{"a"}, Packages: []string{"redis-server"}}),
			tx.SaveCatalog(&dbaas.Catalog{Region: "local", Flavors: []dbaas.Flavor{
				{ID: "1", Name: "tiny", RAM: 512, VCPUs: 1}, {ID: "2", Name: "small", RAM: 1024, VCPUs: 1}},
				Zones: []string{"nova"}}))
	})
}

// newInstance stores an instance with its group and guest.
func newInstance(t testing.TB, s *Store, change ...func(*dbaas.Instance)) *dbaas.Instance {
	t.Helper()
	var i *dbaas.Instance
	do(t, s, func(tx *Tx) (err error) {
		i, err = insertInstance(tx, change...)
		return err
	})
	return i
}

func insertInstance(tx *Tx, change ...func(*dbaas.Instance)) (*dbaas.Instance, error) {
	i := &dbaas.Instance{ProjectID: testProject, Name: "db", DatastoreVersionID: testVersion, FlavorID: "1",
		VolumeSize: 2, Region: "local", Task: dbaas.TaskBuilding}
	for _, c := range change {
		c(i)
	}
	g := &dbaas.Group{ProjectID: i.ProjectID, Kind: dbaas.GroupSingle}
	if i.GroupID == "" {
		if err := tx.InsertGroup(g); err != nil {
			return nil, err
		}
		i.GroupID = g.ID
	}
	if err := tx.InsertInstance(i); err != nil {
		return nil, err
	}
	return i, tx.InsertGuest(&dbaas.Guest{InstanceID: i.ID, GroupID: i.GroupID, ProjectID: i.ProjectID,
		Queue: "guest." + i.ID, Status: dbaas.GuestNew})
}

func operationOn(i *dbaas.Instance, kind string) *dbaas.Operation {
	return &dbaas.Operation{Kind: kind, ProjectID: i.ProjectID, ResourceType: "instance", ResourceID: i.ID, GroupID: i.GroupID}
}

func TestNow(t *testing.T) {
	at := time.Date(2031, 2, 3, 4, 5, 6, 7000, time.UTC)
	o := Options{URL: "sqlite://" + filepath.Join(t.TempDir(), "grove.db"), Clock: clock.NewManual(at)}
	if now, err := open(t, o).Now(t.Context()); err != nil || now != dbaas.At(at) {
		t.Errorf("SQLite's now is %v (%v), not the clock's", now.Time(), err)
	}
	now, err := openPostgres(t).Now(t.Context())
	if d := time.Since(now.Time()); err != nil || d < -time.Second || d > time.Second {
		t.Errorf("PostgreSQL's now is %v away from this machine's (%v)", d, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, url := range []string{"", "mysql://x", "sqlite:relative.db", "sqlite://host/x.db", "postgres://grove:hush@127.0.0.1:1/x",
		"postgres://grove:hush@%zz"} {
		_, err := Open(t.Context(), Options{URL: url, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err == nil {
			t.Errorf("%q was opened", url)
		} else if contains(err.Error(), "hush") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}
