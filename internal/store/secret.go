package store

import (
	"context"
	"errors"
	"strings"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

var errNoKeyring = errors.New("the store was opened without master keys")

// PutSecret stores a value as the owner's secret of a kind, in place of all of that kind. The id is new.
func (tx *Tx) PutSecret(ownerID, kind string, value []byte) (id string, err error) {
	err = tx.db.Where("owner_id = ? AND kind = ?", ownerID, kind).Delete(&dbaas.Secret{}).Error
	if err != nil {
		return "", tx.failed("replace secret", err)
	}
	return tx.AddSecret(ownerID, kind, value)
}

// AddSecret stores a value beside the owner's current secret of that kind, which FindSecret goes on finding until
// SecretMoveTo puts the new one in its place.
func (tx *Tx) AddSecret(ownerID, kind string, value []byte) (id string, err error) {
	row := dbaas.Secret{OwnerID: ownerID, Kind: kind, CreatedAt: tx.Now()}
	if err := setID(&row.ID); err != nil {
		return "", err
	}
	if err := tx.s.seal(&row, value); err != nil {
		return "", err
	}
	return row.ID, tx.failed("insert secret", tx.db.Create(&row).Error)
}

// Secret reads a secret's row, without the sealed value.
func (tx *Tx) Secret(id string) (*dbaas.Secret, error) {
	return require[dbaas.Secret](tx.s, tx.db.Omit("Sealed").Where("id = ?", id), "secret", id)
}

// RevealSecret opens a secret.
func (tx *Tx) RevealSecret(id string) ([]byte, error) {
	row, err := require[dbaas.Secret](tx.s, tx.db.Where("id = ?", id), "secret", id)
	if err != nil {
		return nil, err
	}
	return tx.s.open(row)
}

// FindSecret gives the id of the owner's current secret of a kind: the oldest; "" when there is none.
func (tx *Tx) FindSecret(ownerID, kind string) (id string, err error) {
	row, err := find[dbaas.Secret](secretOf(tx.db.Omit("Sealed"), ownerID, kind))
	if err != nil || row == nil {
		return "", tx.failed("find secret", err)
	}
	return row.ID, nil
}

// CopySecrets gives an owner what another one has of each kind. What is pending is not copied.
func (tx *Tx) CopySecrets(from, to string) error {
	var rows []dbaas.Secret
	if err := tx.db.Where("owner_id = ?", from).Order("id").Find(&rows).Error; err != nil {
		return tx.failed("read secrets", err)
	}
	copied := map[string]bool{}
	for i := range rows {
		kind := rows[i].Kind
		if copied[kind] || strings.HasPrefix(kind, "pending-") {
			continue
		}
		copied[kind] = true
		value, err := tx.s.open(&rows[i])
		if err != nil {
			return err
		}
		if _, err := tx.AddSecret(to, kind, value); err != nil {
			return err
		}
	}
	return nil
}

// DeleteSecret removes a secret; one that is gone is no error.
func (tx *Tx) DeleteSecret(id string) error {
	return tx.failed("delete secret", tx.db.Where("id = ?", id).Delete(&dbaas.Secret{}).Error)
}

// SecretMoveTo makes a secret its owner's only one of a kind: a pending password becomes the password. It keeps its id.
// Moving it there again changes nothing.
func (tx *Tx) SecretMoveTo(id, kind string) error {
	row, err := require[dbaas.Secret](tx.s, tx.lock().Where("id = ?", id), "secret", id)
	if err != nil {
		return err
	}
	value, err := tx.s.open(row)
	if err != nil {
		return err
	}
	row.Kind = kind
	if err := tx.s.seal(row, value); err != nil {
		return err
	}
	return tx.failed("move secret", firstError(
		tx.db.Where("owner_id = ? AND kind = ? AND id <> ?", row.OwnerID, kind, id).Delete(&dbaas.Secret{}).Error,
		tx.db.Model(row).Select("Kind", "KeyID", "Sealed").UpdateColumns(row).Error))
}

// RevealSecret opens the owner's current secret of a kind.
func (s *Store) RevealSecret(ctx context.Context, ownerID, kind string) ([]byte, error) {
	row, err := find[dbaas.Secret](secretOf(s.read.WithContext(ctx), ownerID, kind))
	if err != nil {
		return nil, s.failed("read secret", err)
	}
	if row == nil {
		return nil, dbaas.Errorf(dbaas.NotFound, "There is no %s for %s.", kind, ownerID)
	}
	return s.open(row)
}

func secretOf(db *gorm.DB, ownerID, kind string) *gorm.DB {
	return db.Where("owner_id = ? AND kind = ?", ownerID, kind).Order("id")
}

func (s *Store) seal(row *dbaas.Secret, value []byte) (err error) {
	if s.keys == nil {
		return errNoKeyring
	}
	row.KeyID, row.Sealed, err = s.keys.Seal(row.OwnerID, row.Kind, value)
	return err
}

func (s *Store) open(row *dbaas.Secret) ([]byte, error) {
	if s.keys == nil {
		return nil, errNoKeyring
	}
	return s.keys.Open(row.OwnerID, row.Kind, row.KeyID, row.Sealed)
}

// rotateBatch is how many secrets one transaction seals anew.
const rotateBatch = 200

// RotateKeys seals every secret anew that is not sealed with the active master key, in small transactions, while the
// store is in use. It tells how many there were. A process that still sealed with the old key meanwhile is caught by
// running it again.
func (s *Store) RotateKeys(ctx context.Context) (n int, err error) {
	if s.keys == nil {
		return 0, errNoKeyring
	}
	active, err := s.keys.ActiveKey()
	if err != nil {
		return 0, err
	}
	for {
		var sealed int
		err := s.Tx(ctx, func(tx *Tx) (err error) {
			sealed, err = tx.resealBatch(active)
			return err
		})
		n += sealed
		if err != nil || sealed == 0 {
			return n, err
		}
	}
}

func (tx *Tx) resealBatch(active string) (int, error) {
	var rows []dbaas.Secret
	if err := tx.lock().Where("key_id <> ?", active).Order("id").Limit(rotateBatch).Find(&rows).Error; err != nil {
		return 0, tx.failed("read secrets", err)
	}
	for i := range rows {
		value, err := tx.s.open(&rows[i])
		if err != nil {
			return 0, err
		}
		if err := tx.s.seal(&rows[i], value); err != nil {
			return 0, err
		}
		if err := tx.db.Model(&rows[i]).Select("KeyID", "Sealed").UpdateColumns(&rows[i]).Error; err != nil {
			return 0, tx.failed("reseal secret", err)
		}
	}
	return len(rows), nil
}
