package store

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/grove-dbaas/grove/internal/testbed"
)

func TestMigrateUpDownUp(t *testing.T) {
	for name, url := range map[string]func() string{
		"sqlite":   func() string { return "sqlite://" + filepath.Join(t.TempDir(), "grove.db") },
		"postgres": func() string { return testbed.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) { testMigrations(t, open(t, Options{URL: url(), Keyring: newKeyring(t)})) })
	}
}

func testMigrations(t *testing.T, s *Store) {
	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready without a schema")
	}
	applied := func() (n int) {
		t.Helper()
		list, err := s.MigrationStatus(t.Context())
		if err != nil || len(list) < 2 {
			t.Fatal(list, err)
		}
		for _, m := range list {
			if m.Applied {
				n++
			}
		}
		return n
	}
	all, err := s.MigrationStatus(t.Context())
	if err != nil || applied() != 0 {
		t.Fatal(all, err)
	}
	for range 2 {
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if applied() != len(all) {
			t.Errorf("%d of %d applied", applied(), len(all))
		}
		if err := s.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		seedVersion(t, s)
		newInstance(t, s)
		for left := len(all) - 1; left >= 0; left-- {
			if err := s.MigrateDown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if applied() != left {
				t.Errorf("%d applied, want %d", applied(), left)
			}
			if err := s.Ready(t.Context()); err == nil {
				t.Error("ready with an old schema")
			}
		}
		if err := s.MigrateDown(t.Context()); err != nil {
			t.Errorf("down from nothing: %v", err)
		}
	}
}

// Processes that start at the same time migrate once.
func TestMigrateTogether(t *testing.T) {
	url := testbed.Postgres(t)
	k := newKeyring(t)
	stores := []*Store{open(t, Options{URL: url, Keyring: k}), open(t, Options{URL: url, Keyring: k})}
	errs := together(4, func(n int) error { return stores[n%2].Migrate(context.Background()) })
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if err := stores[0].Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPostgresStorage(t *testing.T) {
	s := openPostgres(t)
	if n := count(t, s, "SELECT count(*) FROM pg_class WHERE relname = 'heartbeats' AND relpersistence = 'u' AND reloptions @> '{fillfactor=50}'"); n != 1 {
		t.Error("heartbeats are logged, or packed too tightly for updates in place")
	}
	byLanguage := `SELECT count(*) FROM information_schema.columns WHERE table_schema = current_schema() AND data_type = 'text'
		AND collation_name IS DISTINCT FROM 'C' AND table_name <> 'goose_db_version'`
	if n := count(t, s, byLanguage); n != 0 {
		t.Errorf("%d columns are compared by language", n)
	}
}
