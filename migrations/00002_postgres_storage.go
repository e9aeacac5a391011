package migrations

import (
	"context"
	"database/sql"
)

// postgresStorageUp tunes what only PostgreSQL has. Heartbeats may be lost in a crash (a missing one means unknown), so
// they write no WAL, and half-empty pages let every update stay on its page. Text compares as bytes: faster than by the
// database's language, and in the same order as on SQLite, by which lists are paged.
func postgresStorageUp(ctx context.Context, tx *sql.Tx) error {
	return execAll(ctx, tx, []string{
		`ALTER TABLE heartbeats SET UNLOGGED`,
		`ALTER TABLE heartbeats SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)`,
		`ALTER TABLE operations SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)`,
		`ALTER TABLE guests SET (fillfactor = 80)`,
		compareAsBytes,
	})
}

func postgresStorageDown(ctx context.Context, tx *sql.Tx) error {
	return execAll(ctx, tx, []string{
		`ALTER TABLE guests RESET (fillfactor)`,
		`ALTER TABLE operations RESET (fillfactor, autovacuum_vacuum_scale_factor)`,
		`ALTER TABLE heartbeats RESET (fillfactor, autovacuum_vacuum_scale_factor)`,
		`ALTER TABLE heartbeats SET LOGGED`,
	})
}

// compareAsBytes gives every text column the collation "C". Two columns of different collations are compared without an
// index, hence all of them. A column that a later migration adds needs it too.
const compareAsBytes = `
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN
        SELECT table_name, string_agg(format('ALTER COLUMN %I TYPE text COLLATE "C"', column_name), ', ') AS changes
        FROM information_schema.columns
        WHERE table_schema = current_schema() AND data_type = 'text' AND table_name <> 'goose_db_version'
            AND collation_name IS DISTINCT FROM 'C'
        GROUP BY table_name
    LOOP
        EXECUTE format('ALTER TABLE %I %s', c.table_name, c.changes);
    END LOOP;
END
$$`
