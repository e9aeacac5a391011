// Package store keeps everything that Grove knows in PostgreSQL or SQLite. It is the only room with gorm.
//
// Writes happen in a [Tx]; reads that lists and pages are made of are methods of [Store] and take no locks. A row lock
// is taken in one order everywhere, so that transactions wait for each other but do not deadlock: project, group,
// instance, guest, the operation, its locks, its parent.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// Options says which database to open, and how.
type Options struct {
	URL     string          // "sqlite:///absolute/path.db" or "postgres://..."
	Clock   clock.Clock     // gives "now" on SQLite; nil is the machine's clock. PostgreSQL has its own
	Keyring *secret.Keyring // nil: for migrations only, secrets can be neither sealed nor opened
	Logger  *slog.Logger    // nil is slog.Default()
}

// Store is an open database. It is safe for concurrent use, and on PostgreSQL many processes may have it open.
type Store struct {
	write   *gorm.DB
	read    *gorm.DB // a pool of its own: a read inside a transaction never waits for a connection that a writer holds
	dialect dialect
	clock   clock.Clock
	keys    *secret.Keyring
	log     *slog.Logger
}

var _ engine.Store = (*Store)(nil)

// Open connects to a database. It does not migrate it; where the schema is there already, the master key is checked.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	d, err := dialectOf(o.URL)
	if err != nil {
		return nil, err
	}
	s := &Store{dialect: d, clock: o.Clock, keys: o.Keyring, log: o.Logger}
	if s.write, s.read, err = d.open(ctx, o.URL, gormConfig(o.Logger)); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := s.checkKey(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close ends all connections.
func (s *Store) Close() error {
	return errors.Join(closePool(s.read), closePool(s.write))
}

// Now is the time by which the engine compares: the database's own on PostgreSQL, the injected clock's on SQLite.
func (s *Store) Now(ctx context.Context) (dbaas.Instant, error) {
	return s.now(s.read.WithContext(ctx))
}

func (s *Store) now(db *gorm.DB) (dbaas.Instant, error) {
	if !s.dialect.hasClock() {
		return dbaas.At(s.clock.Now()), nil
	}
	var now dbaas.Instant
	if err := db.Raw("SELECT " + postgresNow).Scan(&now).Error; err != nil {
		return 0, s.failed("read the time", err)
	}
	return now, nil
}

// nowExpr is "now" as part of a statement.
func (s *Store) nowExpr() any {
	if s.dialect.hasClock() {
		return gorm.Expr(postgresNow)
	}
	return dbaas.At(s.clock.Now())
}

// Tx is one write transaction. It ends with the function that it was given to, and is used by one goroutine.
type Tx struct {
	s   *Store
	ctx context.Context
	db  *gorm.DB
	now dbaas.Instant
	err error
}

// maxAttempts is how often a transaction that lost against another one is tried again.
const maxAttempts = 10

// Tx runs fn in one write transaction, which is committed when fn gives nil. A transaction that the database refused
// in favour of another one is run again, fn included: fn must have no effect besides tx. On SQLite fn must not call the
// store's own writing methods, for there is one writer.
func (s *Store) Tx(ctx context.Context, fn func(tx *Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := s.tryTx(ctx, fn)
		if err == nil || attempt == maxAttempts || !s.dialect.retriable(err) {
			return err
		}
		s.log.DebugContext(ctx, "transaction lost against another one", "attempt", attempt, "error", err)
		if err := pause(ctx, attempt); err != nil {
			return err
		}
	}
}

func (s *Store) tryTx(ctx context.Context, fn func(tx *Tx) error) error {
	var inside bool // the error is fn's own, not the database's
	err := s.write.WithContext(ctx).Transaction(func(db *gorm.DB) error {
		tx := &Tx{s: s, ctx: ctx, db: db}
		err := fn(tx)
		if err == nil {
			err = tx.err
		}
		inside = err != nil
		return err
	})
	if err != nil && !inside {
		return s.failed("commit", err)
	}
	return err
}

// pause waits a random moment, longer each time, before a transaction is tried again.
func pause(ctx context.Context, attempt int) error {
	limit := time.Millisecond << min(attempt, 7)
	t := time.NewTimer(rand.N(limit))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Now is the time of the transaction, the same in all of it.
func (tx *Tx) Now() dbaas.Instant {
	if tx.now == 0 {
		now, err := tx.s.now(tx.db)
		if err != nil {
			tx.err = errors.Join(tx.err, err)
		}
		tx.now = now
	}
	return tx.now
}

// failed says what was being done when the database failed, and makes a database that cannot be reached a
// [dbaas.Unavailable].
func (s *Store) failed(doing string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", doing, err)
	if s.dialect.unreachable(err) {
		return dbaas.WrapError(err, dbaas.Unavailable, "The database cannot be reached at the moment; try again soon.")
	}
	return err
}

func (tx *Tx) failed(doing string, err error) error { return tx.s.failed(doing, err) }

func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return id.String(), nil
}

// setID fills an id that its maker left empty.
func setID(id *string) (err error) {
	if *id == "" {
		*id, err = newID()
	}
	return err
}

// find gives the first row, nil when there is none.
func find[T any](db *gorm.DB) (*T, error) {
	var rows []T
	if err := db.Limit(1).Find(&rows).Error; err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, nil
	}
	return &rows[0], nil
}

// require is find, with an error for the user when there is no row.
func require[T any](s *Store, db *gorm.DB, noun, id string) (*T, error) {
	row, err := find[T](db)
	if err != nil {
		return nil, s.failed("read "+noun, err)
	}
	if row == nil {
		return nil, dbaas.Errorf(dbaas.NotFound, "The %s %s does not exist.", noun, id)
	}
	return row, nil
}

// page cuts a result that was asked for with one row more than limit.
func page[T any](rows []T, limit int) (_ []T, more bool) {
	if limit > 0 && len(rows) > limit {
		return rows[:limit], true
	}
	return rows, false
}

// limited asks for one row more than limit, to know whether there is more; 0 is no limit.
func limited(db *gorm.DB, limit int) *gorm.DB {
	if limit <= 0 {
		return db
	}
	return db.Limit(limit + 1)
}

// columns names the columns of a struct for a statement that gorm does not write, each behind the prefix.
func columns[T any](db *gorm.DB, prefix string) string {
	stmt := &gorm.Statement{DB: db}
	if err := stmt.Parse(new(T)); err != nil {
		return err.Error() // no statement with this in it succeeds, and its error shows why
	}
	return prefix + strings.Join(stmt.Schema.DBNames, ", "+prefix)
}
