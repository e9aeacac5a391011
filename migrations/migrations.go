// Package migrations holds the database's schema as numbered migrations: plain SQL that PostgreSQL and SQLite both
// understand, and Go for what only PostgreSQL has.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// The databases that the migrations are written for.
const (
	PostgreSQL = goose.DialectPostgres
	SQLite     = goose.DialectSQLite3
)

// New gives the migrations of a database. On PostgreSQL processes that migrate at the same time wait for each other.
func New(db *sql.DB, dialect goose.Dialect) (*goose.Provider, error) {
	options := []goose.ProviderOption{
		goose.WithDisableGlobalRegistry(true),
		goose.WithGoMigrations(inGo(dialect)...),
	}
	if dialect == PostgreSQL {
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
		if err != nil {
			return nil, fmt.Errorf("make the lock for migrations: %w", err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	p, err := goose.NewProvider(dialect, db, files, options...)
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	return p, nil
}

// inGo lists the migrations written in Go. Each has its number on every database, and nothing to do where it is not
// meant.
func inGo(dialect goose.Dialect) []*goose.Migration {
	onlyPostgres := func(deed func(context.Context, *sql.Tx) error) *goose.GoFunc {
		if dialect != PostgreSQL {
			deed = nothing
		}
		return &goose.GoFunc{RunTx: deed}
	}
	return []*goose.Migration{
		goose.NewGoMigration(2, onlyPostgres(postgresStorageUp), onlyPostgres(postgresStorageDown)),
		goose.NewGoMigration(4, onlyPostgres(collateUp), onlyPostgres(nothing)),
		goose.NewGoMigration(7, onlyPostgres(collateUp), onlyPostgres(nothing)),
		goose.NewGoMigration(9, onlyPostgres(collateUp), onlyPostgres(nothing)),
	}
}

func nothing(context.Context, *sql.Tx) error { return nil }

func execAll(ctx context.Context, tx *sql.Tx, statements []string) error {
	for _, s := range statements {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}
