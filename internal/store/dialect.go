package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/pressly/goose/v3"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/schema"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// dialect is what differs between the two databases.
type dialect interface {
	open(ctx context.Context, url string, c *gorm.Config) (write, read *gorm.DB, err error)
	migrations() goose.Dialect
	// hasClock tells that "now" is the database's own, not the process's.
	hasClock() bool
	// lockRow makes a query lock the rows that it reads; table names them when the query joins several.
	lockRow(db *gorm.DB, table ...string) *gorm.DB
	// skipLocked makes a sub-select leave out rows that another transaction has locked.
	skipLocked() string
	// in is the condition that column is one of ids.
	in(column string, ids []string) clause.Expression
	// putHeartbeats writes a batch in one statement.
	putHeartbeats(db *gorm.DB, batch []dbaas.Heartbeat, now any) error
	// retriable tells that the database refused a transaction in favour of another one.
	retriable(err error) bool
	// unreachable tells that the database is not there, as opposed to refusing a statement.
	unreachable(err error) bool
}

func dialectOf(rawURL string) (dialect, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("the database's URL cannot be parsed") // it may hold a password, so it is not shown
	}
	switch u.Scheme {
	case "postgres", "postgresql":
		return postgresDialect{}, nil
	case "sqlite":
		return sqliteDialect{}, nil
	}
	return nil, fmt.Errorf("the database's URL begins with %q; use sqlite:///absolute/path.db or postgres://host/database", u.Scheme)
}

// naming gives structs their tables. It is written out, so that renaming a struct or a rule of English cannot move a
// table.
type naming struct{ schema.NamingStrategy }

// TableName implements gorm's Namer.
func (n naming) TableName(name string) string {
	switch name {
	case "Group":
		return "instance_groups"
	case "Quota":
		return "quotas"
	case "Idempotency":
		return "idempotency_keys"
	}
	return n.NamingStrategy.TableName(name)
}

func closePool(db *gorm.DB) error {
	if db == nil {
		return nil
	}
	pool, err := db.DB()
	if err != nil {
		return err
	}
	return pool.Close()
}
