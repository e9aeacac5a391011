package store

import (
	"context"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// PutUser stores a user of a group, or changes the one of that name.
func (tx *Tx) PutUser(u *dbaas.User) error {
	tx.setTime(&u.CreatedAt)
	return tx.failed("store user", tx.db.Clauses(clause.OnConflict{
		Columns: []clause.Column{{Name: "group_id"}, {Name: "name"}}, DoUpdates: clause.AssignmentColumns([]string{"grants"}),
	}).Create(u).Error)
}

// DeleteUser forgets a user; one that is not there is success.
func (tx *Tx) DeleteUser(groupID, name string) error {
	return tx.failed("delete user", tx.db.Where("group_id = ? AND name = ?", groupID, name).Delete(&dbaas.User{}).Error)
}

// Users lists a group's users by name.
func (tx *Tx) Users(groupID string) ([]dbaas.User, error) { return users(tx.s, tx.db, groupID) }

// Users lists a group's users by name.
func (s *Store) Users(ctx context.Context, groupID string) ([]dbaas.User, error) {
	return users(s, s.read.WithContext(ctx), groupID)
}

func users(s *Store, db *gorm.DB, groupID string) (list []dbaas.User, err error) {
	err = db.Where("group_id = ?", groupID).Order("name").Find(&list).Error
	return list, s.failed("list users", err)
}
