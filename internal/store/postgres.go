package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/migrations"
)

// postgresNow is the time in microseconds. The sub-select is evaluated once per statement, which lets it be compared
// through an index; clock_timestamp by itself would be evaluated for each row.
const postgresNow = `(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)`

// poolSize is that of each of the two pools of a process; three processes fit PostgreSQL's default of 100 connections.
const poolSize = 12

type postgresDialect struct{}

// open makes two pools. Statements are prepared: pgx keeps them per connection.
func (postgresDialect) open(ctx context.Context, url string, c *gorm.Config) (write, read *gorm.DB, err error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, nil, errors.New("the PostgreSQL URL cannot be parsed") // its text may hold a password
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	setDefault(config.RuntimeParams, "application_name", "grove")
	setDefault(config.RuntimeParams, "idle_in_transaction_session_timeout", "60s")
	if write, err = postgresPool(ctx, config, c); err != nil {
		return nil, nil, err
	}
	for name, value := range readerSettings() {
		setDefault(config.RuntimeParams, name, value)
	}
	if read, err = postgresPool(ctx, config, c); err != nil {
		return nil, nil, errors.Join(err, closePool(write))
	}
	return write, read, nil
}

// readerSettings tell the planner to count rows and nothing else. Every list has an index that gives its rows in their
// order; by the standard costs the planner rather walks the primary key, hoping that the rows it looks for are spread
// evenly, and reads thousands where they are not. A plan that does not depend on the values is made once, not each time.
func readerSettings() map[string]string {
	return map[string]string{"seq_page_cost": "0", "random_page_cost": "0", "cpu_operator_cost": "0",
		"plan_cache_mode": "force_generic_plan"}
}

func setDefault(m map[string]string, key, value string) {
	if _, ok := m[key]; !ok {
		m[key] = value
	}
}

func postgresPool(ctx context.Context, config *pgx.ConnConfig, c *gorm.Config) (*gorm.DB, error) {
	pool := stdlib.OpenDB(*config)
	pool.SetMaxOpenConns(poolSize)
	pool.SetMaxIdleConns(poolSize)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s:%d: %w", config.Host, config.Port, err), pool.Close())
	}
	own := *c
	db, err := gorm.Open(postgres.New(postgres.Config{Conn: pool}), &own)
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return db, nil
}

func (postgresDialect) migrations() goose.Dialect { return migrations.PostgreSQL }
func (postgresDialect) hasClock() bool            { return true }
func (postgresDialect) skipLocked() string        { return "FOR UPDATE SKIP LOCKED" }

func (postgresDialect) lockRow(db *gorm.DB, table ...string) *gorm.DB {
	l := clause.Locking{Strength: clause.LockingStrengthUpdate}
	if len(table) > 0 {
		l.Table = clause.Table{Name: table[0]}
	}
	return db.Clauses(l)
}

// in passes all ids as one parameter, so that the statement is the same (and stays prepared) however many there are.
func (postgresDialect) in(column string, ids []string) clause.Expression {
	return gorm.Expr(column+" = ANY(?)", textArray(ids))
}

// textArray is a list of strings that gorm passes on as one parameter.
type textArray []string

// Value implements driver.Valuer by PostgreSQL's array literal.
func (a textArray) Value() (driver.Value, error) {
	var b strings.Builder
	b.Grow(len(a) * 40)
	b.WriteByte('{')
	for i, s := range a {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		for _, c := range []byte(s) {
			if c == '\\' || c == '"' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String(), nil
}

func (postgresDialect) putHeartbeats(db *gorm.DB, batch []dbaas.Heartbeat, now any) error {
	n := len(batch)
	ids, boots, metrics := make([]string, n), make([]string, n), make([]string, n)
	sequences, used, total := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, h := range batch {
		ids[i], boots[i], metrics[i] = h.GuestID, h.BootID, h.Metrics
		sequences[i], used[i], total[i] = h.Sequence, h.VolumeUsed, h.VolumeTotal
	}
	_, err := db.Statement.ConnPool.ExecContext(db.Statement.Context, putHeartbeatsPostgres,
		ids, boots, sequences, used, total, metrics)
	return err
}

const putHeartbeatsPostgres = `
INSERT INTO heartbeats AS h (guest_id, boot_id, sequence, seen_at, volume_used, volume_total, metrics)
SELECT n.guest_id, n.boot_id, n.sequence, ` + postgresNow + `, n.volume_used, n.volume_total, n.metrics
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[])
    AS n (guest_id, boot_id, sequence, volume_used, volume_total, metrics)
ON CONFLICT (guest_id) DO UPDATE SET
    boot_id = excluded.boot_id, sequence = excluded.sequence, seen_at = excluded.seen_at,
    volume_used = excluded.volume_used, volume_total = excluded.volume_total, metrics = excluded.metrics
WHERE h.boot_id <> excluded.boot_id OR h.sequence < excluded.sequence`

// retriable: a serialization failure, a deadlock.
func (postgresDialect) retriable(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01")
}

// unreachable: no connection, or the server is going down, starting, or has no connection to give.
func (postgresDialect) unreachable(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "57P") || e.Code == "53300"
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, sql.ErrConnDone) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrUnexpectedEOF) || // the server ended in the middle of an answer
		pgconn.SafeToRetry(err) && !errors.Is(err, context.Canceled) // the connection was closed before anything was sent
}
