package store

import (
	"context"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// InsertCluster stores a new cluster, whose group is there already.
func (tx *Tx) InsertCluster(c *dbaas.Cluster) error {
	if err := setID(&c.ID); err != nil {
		return err
	}
	tx.setTime(&c.CreatedAt)
	tx.setTime(&c.UpdatedAt)
	return tx.failed("insert cluster", tx.db.Create(c).Error)
}

// Cluster reads a cluster that lives, and locks it until the transaction ends.
func (tx *Tx) Cluster(id string) (*dbaas.Cluster, error) {
	return require[dbaas.Cluster](tx.s, tx.lock().Where("id = ? AND deleted_at = 0", id), "cluster", id)
}

// UpdateCluster writes all columns of a cluster that lives, and sets UpdatedAt.
func (tx *Tx) UpdateCluster(c *dbaas.Cluster) error {
	c.UpdatedAt = tx.Now()
	return tx.update("cluster", c.ID, tx.db.Model(c).Where("deleted_at = 0"), "ID", "CreatedAt", "DeletedAt")
}

// SetClusterHealth stores what a look at the whole cluster found; nothing else of the row is touched.
func (s *Store) SetClusterHealth(ctx context.Context, id string, health dbaas.JSON) error {
	return s.failed("store the cluster's health", s.write.WithContext(ctx).
		Exec("UPDATE clusters SET health = ? WHERE id = ? AND deleted_at = 0", string(health), id).Error)
}

// DeleteCluster marks a cluster as deleted. Its members are deleted before.
func (tx *Tx) DeleteCluster(id string) error {
	gone := map[string]any{"deleted_at": tx.Now(), "updated_at": tx.Now()}
	return tx.failed("delete cluster", tx.db.Model(&dbaas.Cluster{}).Where("id = ? AND deleted_at = 0", id).UpdateColumns(gone).Error)
}

// ClusterMembers lists a cluster's live members, the oldest first, and locks them.
func (tx *Tx) ClusterMembers(id string) ([]dbaas.Instance, error) {
	var members []dbaas.Instance
	err := tx.lock().Where("cluster_id = ? AND cluster_id <> '' AND deleted_at = 0", id).Order("id").Find(&members).Error
	return members, tx.failed("list members", err)
}

// ClusterFilter says which clusters to list, and from where.
type ClusterFilter struct {
	ProjectID string // "" for all projects
	Presence  Presence
	Limit     int // 0: all
	Marker    string
}

// ListClusters reads a page of clusters in the order of their ids, beginning after the marker.
func (s *Store) ListClusters(ctx context.Context, f ClusterFilter) (list []dbaas.Cluster, more bool, err error) {
	q := f.Presence.among(s.read.WithContext(ctx).Where("id > ?", f.Marker))
	if f.ProjectID != "" {
		q = q.Where("project_id = ?", f.ProjectID)
	}
	err = limited(q.Order("id"), f.Limit).Find(&list).Error
	list, more = page(list, f.Limit)
	return list, more, s.failed("list clusters", err)
}

// Cluster reads one live cluster.
func (s *Store) Cluster(ctx context.Context, id string) (*dbaas.Cluster, error) {
	return require[dbaas.Cluster](s, s.read.WithContext(ctx).Where("id = ? AND deleted_at = 0", id), "cluster", id)
}

// MemberViews reads the members of clusters with all that the API shows beside them, the oldest first.
func (s *Store) MemberViews(ctx context.Context, clusterIDs ...string) ([]dbaas.InstanceView, error) {
	if len(clusterIDs) == 0 {
		return nil, nil
	}
	db := s.read.WithContext(ctx)
	return s.views(db, db.Model(&dbaas.Instance{}).Where(s.dialect.in("cluster_id", clusterIDs)).
		Where("cluster_id <> '' AND deleted_at = 0").Order("id"))
}

// GroupViews reads the instances of a group with all that the API shows beside them, the oldest first.
func (s *Store) GroupViews(ctx context.Context, groupID string) ([]dbaas.InstanceView, error) {
	db := s.read.WithContext(ctx)
	return s.views(db, db.Model(&dbaas.Instance{}).Where("group_id = ? AND deleted_at = 0", groupID).Order("id"))
}

// Children lists the operations that an operation began, the oldest first.
func (s *Store) Children(ctx context.Context, parentID string) ([]dbaas.Operation, error) {
	return children(s, s.read.WithContext(ctx), parentID)
}

// Children lists the operations that an operation began, the oldest first.
func (tx *Tx) Children(parentID string) ([]dbaas.Operation, error) {
	return children(tx.s, tx.db, parentID)
}

func children(s *Store, db *gorm.DB, parentID string) (list []dbaas.Operation, err error) {
	err = db.Where("parent_id = ? AND parent_id <> ''", parentID).Order("id").Find(&list).Error
	return list, s.failed("list the operations begun", err)
}
