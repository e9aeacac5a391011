package store

import (
	"context"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// GuestQueues gives the queue of every guest that is not deleted, by the guest's id.
func (s *Store) GuestQueues(ctx context.Context) (map[string]string, error) {
	var rows []struct{ ID, Queue string }
	if err := guestQueues(s.read.WithContext(ctx)).Find(&rows).Error; err != nil {
		return nil, s.failed("list the guests' queues", err)
	}
	queues := make(map[string]string, len(rows))
	for _, r := range rows {
		queues[r.ID] = r.Queue
	}
	return queues, nil
}

func guestQueues(db *gorm.DB) *gorm.DB {
	return db.Model(&dbaas.Guest{}).Select("id, queue").Where("deleted_at = 0")
}

// DeletedGuest reads a guest that was deleted and not yet forgotten.
func (s *Store) DeletedGuest(ctx context.Context, id string) (*dbaas.Guest, error) {
	return require[dbaas.Guest](s, s.read.WithContext(ctx).Where("id = ? AND deleted_at <> 0", id), "deleted guest", id)
}

// TrustingGuest is a guest and whom it knows the broker by.
type TrustingGuest struct {
	ID, InstanceID, Queue string
	BrokerTrust           string // names of authorities, between spaces, as it reported them last; "": it never did
}

// GuestsTrustingOthers lists the guests with a server that know the broker by others than those of that list.
func (s *Store) GuestsTrustingOthers(ctx context.Context, trust string) (rows []TrustingGuest, err error) {
	err = guestsTrustingOthers(s.read.WithContext(ctx), trust).Find(&rows).Error
	return rows, s.failed("list the guests that know the broker otherwise", err)
}

func guestsTrustingOthers(db *gorm.DB, trust string) *gorm.DB {
	return db.Table("guests").Select("id, instance_id, queue, broker_trust").Where("deleted_at = 0 AND server_id <> '' AND broker_trust <> ?", trust).Order("id")
}
