package migrations

import (
	"context"
	"database/sql"
)

// collateUp gives the text columns of the migration before it the collation that all others have: those of 3 in 4, of 6 in 7.
func collateUp(ctx context.Context, tx *sql.Tx) error {
	return execAll(ctx, tx, []string{compareAsBytes})
}
