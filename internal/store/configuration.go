package store

import (
	"context"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// InsertConfiguration stores a new configuration group.
func (tx *Tx) InsertConfiguration(c *dbaas.Configuration) error {
	if err := setID(&c.ID); err != nil {
		return err
	}
	tx.setTime(&c.CreatedAt)
	tx.setTime(&c.UpdatedAt)
	return tx.failed("insert configuration", tx.db.Create(c).Error)
}

// Configuration reads a configuration group that lives, and locks it until the transaction ends.
func (tx *Tx) Configuration(id string) (*dbaas.Configuration, error) {
	return require[dbaas.Configuration](tx.s, tx.lock().Where("id = ? AND deleted_at = 0", id), "configuration group", id)
}

// UpdateConfiguration writes all columns of a configuration group, and sets UpdatedAt.
func (tx *Tx) UpdateConfiguration(c *dbaas.Configuration) error {
	c.UpdatedAt = tx.Now()
	return tx.update("configuration group", c.ID, tx.db.Model(c).Where("deleted_at = 0"), "ID", "CreatedAt", "DeletedAt")
}

// DeleteConfiguration marks a configuration group as deleted, and removes its secrets. That no instance uses it is for
// the caller to see, after Configuration has locked it.
func (tx *Tx) DeleteConfiguration(id string) error {
	r := tx.db.Model(&dbaas.Configuration{}).Where("id = ? AND deleted_at = 0", id).
		UpdateColumns(map[string]any{"deleted_at": tx.Now(), "updated_at": tx.Now()})
	if r.Error == nil && r.RowsAffected == 0 {
		return dbaas.Errorf(dbaas.NotFound, "The configuration group %s does not exist.", id)
	}
	return tx.failed("delete configuration", firstError(r.Error,
		tx.db.Where("owner_id = ?", id).Delete(&dbaas.Secret{}).Error))
}

// ConfigurationInstances lists the live instances that have the group attached, by id.
func (tx *Tx) ConfigurationInstances(id string) ([]dbaas.Instance, error) {
	var list []dbaas.Instance
	err := attachedTo(tx.db, id).Order("id").Find(&list).Error
	return list, tx.failed("list the instances of a configuration", err)
}

func attachedTo(db *gorm.DB, id string) *gorm.DB {
	return db.Model(&dbaas.Instance{}).Where("configuration_id = ? AND configuration_id <> '' AND deleted_at = 0", id)
}

// ConfigurationFilter says which configuration groups to list, and from where.
type ConfigurationFilter struct {
	ProjectID string // "": of all projects
	Limit     int    // 0: all
	Marker    string
}

// ListConfigurations reads a page of configuration groups in the order of their ids.
func (s *Store) ListConfigurations(ctx context.Context, f ConfigurationFilter) (list []dbaas.Configuration, more bool, err error) {
	err = configurationPage(s.read.WithContext(ctx), f).Find(&list).Error
	list, more = page(list, f.Limit)
	return list, more, s.failed("list configurations", err)
}

func configurationPage(db *gorm.DB, f ConfigurationFilter) *gorm.DB {
	q := db.Model(&dbaas.Configuration{}).Where("deleted_at = 0 AND id > ?", f.Marker)
	if f.ProjectID != "" {
		q = q.Where("project_id = ?", f.ProjectID)
	}
	return limited(q.Order("id"), f.Limit)
}

// Configuration reads a configuration group that lives.
func (s *Store) Configuration(ctx context.Context, id string) (*dbaas.Configuration, error) {
	live := s.read.WithContext(ctx).Where("id = ? AND deleted_at = 0", id)
	return require[dbaas.Configuration](s, live, "configuration group", id)
}

// ConfigurationInstances reads a page of the live instances that have a group attached, in the order of their ids.
func (s *Store) ConfigurationInstances(ctx context.Context, id string, limit int, marker string) (list []dbaas.Instance, more bool, err error) {
	err = configurationInstancePage(s.read.WithContext(ctx), id, limit, marker).Find(&list).Error
	list, more = page(list, limit)
	return list, more, s.failed("list the instances of a configuration", err)
}

func configurationInstancePage(db *gorm.DB, id string, limit int, marker string) *gorm.DB {
	return limited(attachedTo(db, id).Where("id > ?", marker).Order("id"), limit)
}

// CountConfigurationInstances counts the live instances that have a group attached.
func (s *Store) CountConfigurationInstances(ctx context.Context, id string) (int, error) {
	var n int64
	err := attachedTo(s.read.WithContext(ctx), id).Count(&n).Error
	return int(n), s.failed("count the instances of a configuration", err)
}
