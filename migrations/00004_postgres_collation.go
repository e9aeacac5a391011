package migrations

import (
	"context"
	"database/sql"
)

// collateFormsUp gives the text columns of migration 3 the collation that all others have.
func collateFormsUp(ctx context.Context, tx *sql.Tx) error {
	return execAll(ctx, tx, []string{compareAsBytes})
}
