package store

import (
	"context"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Protected reads the live instances that have a standby and are not stopped, with all that is known of their guests.
func (s *Store) Protected(ctx context.Context) ([]dbaas.InstanceView, error) {
	db := s.read.WithContext(ctx)
	return s.views(db, protected(db))
}

func protected(db *gorm.DB) *gorm.DB {
	return db.Model(&dbaas.Instance{}).Where("deleted_at = 0 AND high_availability IS NOT NULL AND NOT stopped").Order("id")
}

// Behind reads the live instances of which a guest missed a change of its group's secrets, with their guests.
func (s *Store) Behind(ctx context.Context) ([]dbaas.InstanceView, error) {
	db := s.read.WithContext(ctx)
	return s.views(db, behind(db))
}

// behind has its pattern in the statement itself: only so is the index found that was made with it.
func behind(db *gorm.DB) *gorm.DB {
	return db.Model(&dbaas.Instance{}).Where(`deleted_at = 0 AND applied LIKE '%"behind":[%'`).Order("id")
}

// Encrypted reads the live instances whose databases speak TLS, with all that is known of their guests.
func (s *Store) Encrypted(ctx context.Context) ([]dbaas.InstanceView, error) {
	db := s.read.WithContext(ctx)
	return s.views(db, db.Model(&dbaas.Instance{}).Where("deleted_at = 0 AND tls NOT IN ('', 'off')").Order("id"))
}

// LastOperation reads a resource's newest operation of a kind, nil when there is none.
func (tx *Tx) LastOperation(resourceID, kind string) (*dbaas.Operation, error) {
	op, err := find[dbaas.Operation](tx.db.Where("resource_id = ? AND kind = ?", resourceID, kind).Order("id DESC").Limit(1))
	return op, tx.failed("read the last operation", err)
}

// LastEvent reads a resource's newest event of one of the kinds, nil when there is none.
func (tx *Tx) LastEvent(resourceID string, kinds ...string) (*dbaas.Event, error) {
	e, err := find[dbaas.Event](tx.db.Where("resource_id = ?", resourceID).Where(tx.s.dialect.in("kind", kinds)).Order("id DESC").Limit(1))
	return e, tx.failed("read the last event", err)
}
