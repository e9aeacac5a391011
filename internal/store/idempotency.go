package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// BeginIdempotent claims an idempotency key for a request whose method, path and body have this hash. fresh tells that
// the caller is the first, and must finish or forget the key; else the row holds the first one's answer, or Status 0
// while it is at work. A claim that is older than givenUp and took no effect died with its process, and passes to the
// caller. The key with another request is refused with dbaas.Unprocessable.
func (s *Store) BeginIdempotent(ctx context.Context, projectID, key, hash string, givenUp time.Duration) (row *dbaas.Idempotency, fresh bool, err error) {
	err = s.Tx(ctx, func(tx *Tx) error {
		row = &dbaas.Idempotency{ProjectID: projectID, Key: key, Hash: hash, CreatedAt: tx.Now()}
		r := tx.db.Clauses(doNothing()).Create(row)
		if fresh = r.RowsAffected == 1; r.Error != nil || fresh {
			return tx.failed("claim idempotency key", r.Error)
		}
		row, err = require[dbaas.Idempotency](tx.s, idempotencyKey(tx.lock(), projectID, key), "idempotency key", key)
		if err != nil || row.Hash != hash || row.Status != 0 || tx.Now().Sub(row.CreatedAt) <= givenUp || EffectOf(row) != nil {
			return err
		}
		fresh, row.CreatedAt = true, tx.Now()
		return tx.failed("take over idempotency key", idempotencyKey(tx.db.Model(row), projectID, key).UpdateColumn("created_at", row.CreatedAt).Error)
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

// Effect is what a request with an idempotency key did, as it is known from the moment of its commit on.
type Effect struct {
	ResourceType string `json:"resource_type,omitempty"`
	ResourceID   string `json:"resource_id,omitempty"`
	OperationID  string `json:"operation_id,omitempty"`
}

// effectHeader is how an effect stands in the place of the answer's header until there is an answer.
type effectHeader struct {
	Effect *Effect `json:"effect"`
}

// EffectOf gives what the request of a row did that has no answer yet; nil when it did nothing so far.
func EffectOf(row *dbaas.Idempotency) *Effect {
	var h effectHeader
	if len(row.Header) == 0 || json.Unmarshal(row.Header, &h) != nil {
		return nil
	}
	return h.Effect
}

// errClaimLost is how a transaction ends whose request was given up: another one has its key.
var errClaimLost = errors.New("the request was taken for dead, and its idempotency key passed on")

// NoteIdempotent writes, in the transaction that makes it so, what the request did that claimed the key.
func (tx *Tx) NoteIdempotent(row *dbaas.Idempotency, e Effect) error {
	header, err := json.Marshal(effectHeader{&e})
	if err != nil {
		return err
	}
	r := claimed(tx.db.Model(row), row).Select("Header").UpdateColumns(&dbaas.Idempotency{Header: header})
	if r.Error == nil && r.RowsAffected == 0 {
		return errClaimLost
	}
	return tx.failed("note what a request did", r.Error)
}

// FinishIdempotent stores the answer of the request that claimed the key.
func (tx *Tx) FinishIdempotent(row *dbaas.Idempotency) error {
	db := claimed(tx.db.Model(row), row).Select("Status", "Header", "Body")
	return tx.failed("finish idempotency key", db.UpdateColumns(row).Error)
}

// FinishIdempotent stores the answer of the request that claimed the key.
func (s *Store) FinishIdempotent(ctx context.Context, row *dbaas.Idempotency) error {
	return s.Tx(ctx, func(tx *Tx) error { return tx.FinishIdempotent(row) })
}

// ForgetIdempotent frees a key whose request came to nothing. One that took effect keeps it.
func (s *Store) ForgetIdempotent(ctx context.Context, row *dbaas.Idempotency) error {
	return s.Tx(ctx, func(tx *Tx) error {
		now, err := find[dbaas.Idempotency](claimed(tx.lock(), row))
		if err != nil || now == nil || EffectOf(now) != nil {
			return tx.failed("read idempotency key", err)
		}
		return tx.failed("forget idempotency key", claimed(tx.db, row).Delete(&dbaas.Idempotency{}).Error)
	})
}

func idempotencyKey(db *gorm.DB, projectID, key string) *gorm.DB {
	return db.Where(&dbaas.Idempotency{ProjectID: projectID, Key: key}, "ProjectID", "Key")
}

// claimed is the row as long as it is this request's.
func claimed(db *gorm.DB, row *dbaas.Idempotency) *gorm.DB {
	return idempotencyKey(db, row.ProjectID, row.Key).Where("created_at = ?", row.CreatedAt)
}
