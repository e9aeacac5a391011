package store

import (
	"context"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// instanceRow is an instance as it is stored: with what quota counts beside it.
type instanceRow struct {
	dbaas.Instance `gorm:"embedded"`
	VolumeCharged  int
}

// TableName implements gorm's Tabler.
func (instanceRow) TableName() string { return "instances" }

func rowOf(i *dbaas.Instance) *instanceRow {
	row := &instanceRow{Instance: *i, VolumeCharged: i.VolumeSize}
	if i.Applied != nil {
		row.VolumeCharged = max(row.VolumeCharged, i.Applied.VolumeSize)
	}
	return row
}

// InsertGroup stores a new group. It fills in the id and the time when they are unset, as all Inserts do.
func (tx *Tx) InsertGroup(g *dbaas.Group) error {
	if err := setID(&g.ID); err != nil {
		return err
	}
	tx.setTime(&g.CreatedAt)
	return tx.failed("insert group", tx.db.Create(g).Error)
}

// Group reads a group that lives, and locks it.
func (tx *Tx) Group(id string) (*dbaas.Group, error) {
	return require[dbaas.Group](tx.s, tx.lock().Where("id = ? AND deleted_at = 0", id), "group", id)
}

// GroupOf reads and locks the group of an instance that lives. The instance is not locked: its group comes first.
func (tx *Tx) GroupOf(instanceID string) (*dbaas.Group, error) {
	in, err := require[dbaas.Instance](tx.s, tx.db.Where("id = ? AND deleted_at = 0", instanceID), "instance", instanceID)
	if err != nil {
		return nil, err
	}
	return tx.Group(in.GroupID)
}

// UpdateGroup writes a group that was read in this transaction.
func (tx *Tx) UpdateGroup(g *dbaas.Group) error {
	return tx.update("group", g.ID, tx.db.Model(g).Where("deleted_at = 0"), "ID", "CreatedAt", "DeletedAt")
}

// InsertInstance stores a new instance. Its group and datastore version exist already.
func (tx *Tx) InsertInstance(i *dbaas.Instance) error {
	if err := setID(&i.ID); err != nil {
		return err
	}
	tx.setTime(&i.CreatedAt)
	tx.setTime(&i.UpdatedAt)
	return tx.failed("insert instance", tx.db.Create(rowOf(i)).Error)
}

// Instance reads an instance that lives, and locks it until the transaction ends.
func (tx *Tx) Instance(id string) (*dbaas.Instance, error) {
	return require[dbaas.Instance](tx.s, tx.lock().Where("id = ? AND deleted_at = 0", id), "instance", id)
}

// UpdateInstance writes all columns of an instance that lives, and sets UpdatedAt. It refuses a change of its task that
// [dbaas.Task.CanBecome] forbids with dbaas.Conflict.
func (tx *Tx) UpdateInstance(i *dbaas.Instance) error {
	i.UpdatedAt = tx.Now()
	var from []dbaas.Task
	for _, t := range dbaas.Tasks() {
		if t.CanBecome(i.Task) {
			from = append(from, t)
		}
	}
	r := tx.db.Model(rowOf(i)).Where("deleted_at = 0 AND task IN ?", from).
		Select("*").Omit("ID", "CreatedAt", "DeletedAt").UpdateColumns(rowOf(i))
	if r.Error != nil || r.RowsAffected == 1 {
		return tx.failed("update instance", r.Error)
	}
	stored, err := tx.Instance(i.ID)
	if err != nil {
		return err
	}
	return dbaas.Errorf(dbaas.Conflict, "The instance %s cannot go from %s to %s.", i.ID, stored.Task, i.Task)
}

// Replicas lists the ids of an instance's live replicas, ascending.
func (tx *Tx) Replicas(instanceID string) ([]string, error) {
	var ids []string
	err := tx.db.Model(&dbaas.Instance{}).Where("replica_of = ? AND replica_of <> '' AND deleted_at = 0", instanceID).
		Order("id").Pluck("id", &ids).Error
	return ids, tx.failed("list replicas", err)
}

// InsertGuest stores a new guest of an instance.
func (tx *Tx) InsertGuest(g *dbaas.Guest) error {
	if err := setID(&g.ID); err != nil {
		return err
	}
	tx.setTime(&g.CreatedAt)
	tx.setTime(&g.UpdatedAt)
	return tx.failed("insert guest", tx.db.Create(g).Error)
}

// Guest reads a guest that lives, and locks it until the transaction ends.
func (tx *Tx) Guest(id string) (*dbaas.Guest, error) {
	return require[dbaas.Guest](tx.s, tx.lock().Where("id = ? AND deleted_at = 0", id), "guest", id)
}

// UpdateGuest writes all columns of a guest that was read in this transaction (else a report that came in between would
// be lost), and sets UpdatedAt.
func (tx *Tx) UpdateGuest(g *dbaas.Guest) error {
	g.UpdatedAt = tx.Now()
	return tx.update("guest", g.ID, tx.db.Model(g).Where("deleted_at = 0"), "ID", "CreatedAt", "DeletedAt")
}

// Guests lists an instance's live guests, the oldest first, and locks them.
func (tx *Tx) Guests(instanceID string) ([]dbaas.Guest, error) {
	var guests []dbaas.Guest
	err := tx.lock().Where("instance_id = ? AND deleted_at = 0", instanceID).Order("id").Find(&guests).Error
	return guests, tx.failed("list guests", err)
}

// GroupMembers lists the live instances of a group, the oldest first, and locks them.
func (tx *Tx) GroupMembers(groupID string) ([]dbaas.Instance, error) {
	var members []dbaas.Instance
	err := tx.lock().Where("group_id = ? AND deleted_at = 0", groupID).Order("id").Find(&members).Error
	return members, tx.failed("list the group", err)
}

// GroupGuests lists the live guests of a group, the oldest first, and locks them.
func (tx *Tx) GroupGuests(groupID string) ([]dbaas.Guest, error) {
	var guests []dbaas.Guest
	err := tx.lock().Where("group_id = ? AND deleted_at = 0", groupID).Order("id").Find(&guests).Error
	return guests, tx.failed("list the group's guests", err)
}

// DeleteGuest marks a guest as deleted and removes what must not outlive it: its secrets, its heartbeat.
func (tx *Tx) DeleteGuest(id string) error {
	return tx.failed("delete guest", firstError(
		tx.db.Model(&dbaas.Guest{}).Where("id = ? AND deleted_at = 0", id).
			UpdateColumns(map[string]any{"deleted_at": tx.Now(), "updated_at": tx.Now()}).Error,
		tx.db.Where("owner_id = ?", id).Delete(&dbaas.Secret{}).Error,
		tx.db.Where("guest_id = ?", id).Delete(&dbaas.Heartbeat{}).Error,
	))
}

// DeleteInstance marks an instance and its guests as deleted, and its group when it was the last one in it. What must
// not outlive them is removed: secrets, heartbeats.
func (tx *Tx) DeleteInstance(id string) error {
	i, err := tx.Instance(id)
	if err != nil {
		return err
	}
	guests, err := tx.Guests(id)
	if err != nil {
		return err
	}
	owners := []string{id}
	last, err := tx.lastOfGroup(i)
	if err != nil {
		return err
	}
	if last {
		owners = append(owners, i.GroupID)
	}
	for _, g := range guests {
		owners = append(owners, g.ID)
	}
	gone := map[string]any{"deleted_at": tx.Now(), "updated_at": tx.Now()}
	in := tx.s.dialect.in
	return tx.failed("delete instance", firstError(
		tx.db.Model(&dbaas.Guest{}).Where("instance_id = ? AND deleted_at = 0", id).UpdateColumns(gone).Error,
		tx.db.Model(&dbaas.Instance{}).Where("id = ?", id).UpdateColumns(gone).Error,
		tx.db.Exec(deleteEmptyGroup, tx.Now(), i.GroupID, i.GroupID).Error,
		tx.db.Where(in("owner_id", owners)).Delete(&dbaas.Secret{}).Error,
		tx.db.Where(in("group_id", owners)).Delete(&dbaas.User{}).Error,
		tx.db.Where(in("guest_id", owners)).Delete(&dbaas.Heartbeat{}).Error,
	))
}

// lastOfGroup tells whether nobody else is left in an instance's group.
func (tx *Tx) lastOfGroup(i *dbaas.Instance) (bool, error) {
	var others int64
	err := tx.db.Model(&dbaas.Instance{}).Where("group_id = ? AND id <> ? AND deleted_at = 0", i.GroupID, i.ID).Count(&others).Error
	return others == 0, tx.failed("count the group", err)
}

const deleteEmptyGroup = `
UPDATE instance_groups SET deleted_at = ? WHERE id = ? AND deleted_at = 0
AND NOT EXISTS (SELECT 1 FROM instances WHERE group_id = ? AND deleted_at = 0)`

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// lock makes the next query lock what it reads.
func (tx *Tx) lock() *gorm.DB { return tx.s.dialect.lockRow(tx.db) }

func (tx *Tx) setTime(at *dbaas.Instant) {
	if *at == 0 {
		*at = tx.Now()
	}
}

// update writes all columns of db's model but some, and requires that the row is there.
func (tx *Tx) update(noun, id string, db *gorm.DB, omit ...string) error {
	r := db.Select("*").Omit(omit...).UpdateColumns(db.Statement.Model)
	if r.Error == nil && r.RowsAffected == 0 {
		return dbaas.Errorf(dbaas.NotFound, "The %s %s does not exist.", noun, id)
	}
	return tx.failed("update "+noun, r.Error)
}

// LiveGuests lists all guests that are not deleted, for audits.
func (s *Store) LiveGuests(ctx context.Context) ([]dbaas.Guest, error) {
	var guests []dbaas.Guest
	err := s.read.WithContext(ctx).Where("deleted_at = 0").Order("id").Find(&guests).Error
	return guests, s.failed("list guests", err)
}
