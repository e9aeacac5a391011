package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/pressly/goose/v3"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/migrations"
)

// Migration is one step of the schema.
type Migration struct {
	Version int64
	Name    string
	Applied bool
}

// Migrate brings the schema to the newest version, and binds the database to the master key when it is new.
func (s *Store) Migrate(ctx context.Context) error {
	p, err := s.migrations()
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return s.failed("migrate the database", err)
	}
	if s.keys == nil {
		return nil
	}
	if err := s.plantCanary(ctx); err != nil {
		return err
	}
	return s.checkKey(ctx)
}

// MigrateDown takes back the newest migration that is applied.
func (s *Store) MigrateDown(ctx context.Context) error {
	p, err := s.migrations()
	if err != nil {
		return err
	}
	if _, err := p.Down(ctx); err != nil && !errors.Is(err, goose.ErrNoNextVersion) {
		return s.failed("take back a migration", err)
	}
	return nil
}

// MigrationStatus lists all migrations that this program knows, in their order.
func (s *Store) MigrationStatus(ctx context.Context) ([]Migration, error) {
	p, err := s.migrations()
	if err != nil {
		return nil, err
	}
	statuses, err := p.Status(ctx)
	if err != nil {
		return nil, s.failed("read the migrations' status", err)
	}
	list := make([]Migration, len(statuses))
	for i, st := range statuses {
		list[i] = Migration{Version: st.Source.Version, Name: st.Source.Path, Applied: st.State == goose.StateApplied}
	}
	return list, nil
}

// Ready tells whether the database can be reached, has the schema that this program needs, and belongs to the master
// key.
func (s *Store) Ready(ctx context.Context) error {
	p, err := s.migrations()
	if err != nil {
		return err
	}
	pending, err := p.HasPending(ctx)
	if err != nil {
		return s.failed("read the migrations' status", err)
	}
	if pending {
		return errors.New("the database's schema is older than this program; run: groved migrate up")
	}
	return s.checkKey(ctx)
}

func (s *Store) migrations() (*goose.Provider, error) {
	pool, err := s.write.DB()
	if err != nil {
		return nil, err
	}
	return migrations.New(pool, s.dialect.migrations())
}

// The canary is a secret that nobody needs, sealed like all others (and sealed anew like them when keys are rotated).
// Whether it opens tells whether the keyring belongs to the database.
const (
	canaryID    = "canary"
	canaryOwner = "grove"
	canaryKind  = "canary"
)

func (s *Store) plantCanary(ctx context.Context) error {
	keyID, sealed, err := s.keys.Seal(canaryOwner, canaryKind, []byte(canaryID))
	if err != nil {
		return err
	}
	now, err := s.Now(ctx)
	if err != nil {
		return err
	}
	row := dbaas.Secret{ID: canaryID, OwnerID: canaryOwner, Kind: canaryKind, KeyID: keyID, Sealed: sealed, CreatedAt: now}
	return s.failed("plant the master key's canary", s.write.WithContext(ctx).Clauses(doNothing()).Create(&row).Error)
}

// checkKey refuses a keyring that is not the one under which the database's secrets were sealed. A database without a
// schema has nothing to check.
func (s *Store) checkKey(ctx context.Context) error {
	if s.keys == nil {
		return nil
	}
	exists, err := s.hasTable(ctx, "secrets")
	if err != nil || !exists {
		return err
	}
	row, err := find[dbaas.Secret](s.read.WithContext(ctx).Where("id = ?", canaryID))
	if err != nil {
		return s.failed("read the master key's canary", err)
	}
	if row == nil {
		return nil
	}
	_, err = s.keys.Open(row.OwnerID, row.Kind, row.KeyID, row.Sealed)
	if errors.Is(err, secret.ErrUnknownKey) || errors.Is(err, secret.ErrWrongKey) {
		return fmt.Errorf("this database belongs to another master key (its secrets are sealed with key %q): "+
			"give the key file that was made with it: %w", row.KeyID, err)
	}
	return err
}

func (s *Store) hasTable(ctx context.Context, name string) (bool, error) {
	query := `SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = ?`
	if !s.dialect.hasClock() {
		query = `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?`
	}
	var n int
	err := s.read.WithContext(ctx).Raw(query, name).Scan(&n).Error
	return n > 0, s.failed("look for table "+name, err)
}
