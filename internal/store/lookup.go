package store

import (
	"context"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Guest reads a guest that lives.
func (s *Store) Guest(ctx context.Context, id string) (*dbaas.Guest, error) {
	return require[dbaas.Guest](s, s.read.WithContext(ctx).Where("id = ? AND deleted_at = 0", id), "guest", id)
}

// Version reads a datastore version.
func (s *Store) Version(ctx context.Context, id string) (*dbaas.DatastoreVersion, error) {
	return require[dbaas.DatastoreVersion](s, s.read.WithContext(ctx).Where("id = ?", id), "datastore version", id)
}
