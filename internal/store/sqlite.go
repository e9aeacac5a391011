package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	gosqlite "github.com/glebarez/go-sqlite"
	"github.com/glebarez/sqlite"
	"github.com/pressly/goose/v3"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/migrations"
)

type sqliteDialect struct{}

// open makes one writer, whose transactions begin with the lock that they need, and a pool of readers, which a writer
// does not block (WAL). Every commit is synced: what was accepted survives a killed process and a power cut.
func (sqliteDialect) open(_ context.Context, rawURL string, c *gorm.Config) (write, read *gorm.DB, err error) {
	path, err := sqlitePath(rawURL)
	if err != nil {
		return nil, nil, err
	}
	if err := createPrivate(path); err != nil {
		return nil, nil, err
	}
	if write, err = sqlitePool(path, c, 1, "_txlock", "immediate", "_pragma", "journal_mode(WAL)",
		"_pragma", "synchronous(FULL)", "_pragma", "foreign_keys(1)"); err != nil {
		return nil, nil, err
	}
	if read, err = sqlitePool(path, c, 2*runtime.GOMAXPROCS(0)+2, "_pragma", "query_only(1)"); err != nil {
		return nil, nil, errors.Join(err, closePool(write))
	}
	return write, read, nil
}

func sqlitePath(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("parse the database's URL: %w", err)
	}
	if u.Host != "" || !filepath.IsAbs(u.Path) {
		return "", fmt.Errorf("the database's URL %s does not hold an absolute path; write sqlite:///absolute/path.db", rawURL)
	}
	return u.Path, nil
}

// createPrivate makes the file readable by its owner alone; SQLite gives its companions the same mode.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the database's file: %w", err)
	}
	return f.Close()
}

func sqlitePool(path string, c *gorm.Config, size int, parameters ...string) (*gorm.DB, error) {
	q := url.Values{"_pragma": {"busy_timeout(10000)"}}
	for i := 0; i+1 < len(parameters); i += 2 {
		q.Add(parameters[i], parameters[i+1])
	}
	own := *c
	db, err := gorm.Open(sqlite.Open((&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()), &own)
	if err != nil {
		return nil, err
	}
	pool, err := db.DB()
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	return db, nil
}

func (sqliteDialect) migrations() goose.Dialect { return migrations.SQLite }
func (sqliteDialect) hasClock() bool            { return false }
func (sqliteDialect) skipLocked() string        { return "" }

func (sqliteDialect) lockRow(db *gorm.DB, _ ...string) *gorm.DB { return db }

func (sqliteDialect) in(column string, ids []string) clause.Expression {
	return gorm.Expr(column+" IN ?", ids)
}

func (sqliteDialect) putHeartbeats(db *gorm.DB, batch []dbaas.Heartbeat, now any) error {
	list, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	return db.Exec(putHeartbeatsSQLite, now, string(list)).Error
}

const putHeartbeatsSQLite = `
INSERT INTO heartbeats (guest_id, boot_id, sequence, seen_at, volume_used, volume_total, metrics)
SELECT value->>'GuestID', value->>'BootID', value->>'Sequence', ?, value->>'VolumeUsed', value->>'VolumeTotal',
    value->>'Metrics'
FROM json_each(?) WHERE TRUE
ON CONFLICT (guest_id) DO UPDATE SET
    boot_id = excluded.boot_id, sequence = excluded.sequence, seen_at = excluded.seen_at,
    volume_used = excluded.volume_used, volume_total = excluded.volume_total, metrics = excluded.metrics
WHERE heartbeats.boot_id <> excluded.boot_id OR heartbeats.sequence < excluded.sequence`

// SQLite's primary result codes (https://www.sqlite.org/rescode.html).
const (
	sqliteBusy     = 5
	sqliteLocked   = 6
	sqliteIOError  = 10
	sqliteFull     = 13
	sqliteCantOpen = 14
)

// retriable: another process holds the write lock for longer than busy_timeout.
func (sqliteDialect) retriable(err error) bool {
	switch sqliteCode(err) {
	case sqliteBusy, sqliteLocked:
		return true
	}
	return false
}

func (sqliteDialect) unreachable(err error) bool {
	switch sqliteCode(err) {
	case sqliteIOError, sqliteFull, sqliteCantOpen:
		return true
	}
	return false
}

// sqliteCode is the primary result code of an error, 0 for one that is not SQLite's.
func sqliteCode(err error) int {
	var e *gosqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff
}
