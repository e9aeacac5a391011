package store

import (
	"context"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// BeginIdempotent claims an idempotency key for a request whose method, path and body have this hash. fresh tells that
// the caller is the first, and must finish or forget the key; else the row holds the first one's answer, or Status 0
// while it is at work. The key with another request is refused with dbaas.Unprocessable.
func (s *Store) BeginIdempotent(ctx context.Context, projectID, key, hash string) (row *dbaas.Idempotency, fresh bool, err error) {
	err = s.Tx(ctx, func(tx *Tx) error {
		row = &dbaas.Idempotency{ProjectID: projectID, Key: key, Hash: hash, CreatedAt: tx.Now()}
		r := tx.db.Clauses(doNothing()).Create(row)
		if fresh = r.RowsAffected == 1; r.Error != nil || fresh {
			return tx.failed("claim idempotency key", r.Error)
		}
		row, err = require[dbaas.Idempotency](tx.s, idempotencyKey(tx.db, projectID, key), "idempotency key", key)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	if row.Hash != hash {
		return nil, false, dbaas.Errorf(dbaas.Unprocessable,
			"The Idempotency-Key %q was used for another request; send this one with a new key.", key)
	}
	return row, fresh, nil
}

// FinishIdempotent stores the answer of the request that claimed the key.
func (tx *Tx) FinishIdempotent(row *dbaas.Idempotency) error {
	db := idempotencyKey(tx.db.Model(row), row.ProjectID, row.Key).Select("Status", "Header", "Body")
	return tx.failed("finish idempotency key", db.UpdateColumns(row).Error)
}

// FinishIdempotent stores the answer of the request that claimed the key.
func (s *Store) FinishIdempotent(ctx context.Context, row *dbaas.Idempotency) error {
	return s.Tx(ctx, func(tx *Tx) error { return tx.FinishIdempotent(row) })
}

// ForgetIdempotent frees a key whose request came to nothing.
func (s *Store) ForgetIdempotent(ctx context.Context, projectID, key string) error {
	err := idempotencyKey(s.write.WithContext(ctx), projectID, key).Delete(&dbaas.Idempotency{}).Error
	return s.failed("forget idempotency key", err)
}

func idempotencyKey(db *gorm.DB, projectID, key string) *gorm.DB {
	return db.Where(&dbaas.Idempotency{ProjectID: projectID, Key: key}, "ProjectID", "Key")
}
