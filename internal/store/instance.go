package store

import (
	"context"
	"slices"
	"strings"

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
		tx.db.Where(in("guest_id", owners)).Delete(&dbaas.Heartbeat{}).Error,
	))
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

// InstanceFilter says which instances to list, and from where.
type InstanceFilter struct {
	ProjectID        string
	IncludeClustered bool // members of clusters too
	Limit            int  // 0: all
	Marker           string
}

// viewRow is an instance with what is read in the same query.
type viewRow struct {
	dbaas.Instance    `gorm:"embedded"`
	Version           dbaas.DatastoreVersion `gorm:"embedded;embeddedPrefix:version_"`
	Datastore         string
	ConfigurationName string
	OperationID       string
	ReplicaIDs        string
}

// InstanceView reads one live instance with all that the API shows beside it.
func (s *Store) InstanceView(ctx context.Context, id string) (*dbaas.InstanceView, error) {
	db := s.read.WithContext(ctx)
	one := db.Model(&dbaas.Instance{}).Where("id = ? AND deleted_at = 0", id)
	views, err := s.views(db, one)
	if err != nil {
		return nil, err
	}
	if len(views) == 0 {
		return nil, dbaas.Errorf(dbaas.NotFound, "The instance %s does not exist.", id)
	}
	return &views[0], nil
}

// ListInstances reads a page of a project's live instances in the order of their ids, beginning after the marker.
func (s *Store) ListInstances(ctx context.Context, f InstanceFilter) (_ []dbaas.InstanceView, more bool, err error) {
	db := s.read.WithContext(ctx)
	views, err := s.views(db, instancePage(db, f))
	if err != nil {
		return nil, false, err
	}
	views, more = page(views, f.Limit)
	return views, more, nil
}

func instancePage(db *gorm.DB, f InstanceFilter) *gorm.DB {
	q := db.Model(&dbaas.Instance{}).Where("deleted_at = 0 AND id > ?", f.Marker)
	if f.IncludeClustered {
		q = q.Where("project_id = ?", f.ProjectID)
	} else {
		q = q.Where("cluster_id || '/' || project_id = ?", "/"+f.ProjectID) // as in the index
	}
	return limited(q.Order("id"), f.Limit)
}

// views reads the instances that a query selects, in a number of queries that does not depend on how many they are: the
// instances, their guests with heartbeats, and the operations that hold them, if any does.
func (s *Store) views(db, selected *gorm.DB) ([]dbaas.InstanceView, error) {
	var rows []viewRow
	if err := viewQuery(db, selected).Scan(&rows).Error; err != nil {
		return nil, s.failed("read instances", err)
	}
	views := make([]dbaas.InstanceView, len(rows))
	byID := make(map[string]*dbaas.InstanceView, len(rows))
	ids := make([]string, len(rows))
	byOperation := map[string][]*dbaas.InstanceView{}
	for i, r := range rows {
		views[i] = dbaas.InstanceView{Instance: r.Instance, Datastore: r.Datastore, Version: r.Version,
			ConfigurationName: r.ConfigurationName}
		if r.ReplicaIDs != "" {
			views[i].Replicas = strings.Split(r.ReplicaIDs, ",")
			slices.Sort(views[i].Replicas)
		}
		if r.OperationID != "" {
			byOperation[r.OperationID] = append(byOperation[r.OperationID], &views[i])
		}
		byID[r.ID], ids[i] = &views[i], r.ID
	}
	if len(rows) == 0 {
		return views, nil
	}
	if err := s.addGuests(db, ids, byID); err != nil {
		return nil, err
	}
	return views, s.addOperations(db, byOperation)
}

// viewQuery joins to the selected instances what has one row for each. The limit is inside the sub-select: outside, a
// planner may walk the joined tables from their beginning to find the first rows.
func viewQuery(db, selected *gorm.DB) *gorm.DB {
	return db.Table("(?) AS i", selected).Select(viewColumns).Order("i.id").Joins(
		"LEFT JOIN datastore_versions v ON v.id = i.datastore_version_id LEFT JOIN datastores d ON d.id = v.datastore_id")
}

const viewColumns = `i.*, d.name AS datastore,
	(SELECT c.name FROM configurations c WHERE c.id = i.configuration_id) AS configuration_name,
	(SELECT l.operation_id FROM operation_locks l WHERE l.resource_id = i.id) AS operation_id,
	(SELECT string_agg(r.id, ',') FROM instances r
		WHERE r.replica_of = i.id AND r.replica_of <> '' AND r.deleted_at = 0) AS replica_ids,
	v.id AS version_id, v.datastore_id AS version_datastore_id, v.name AS version_name, v.number AS version_number,
	v.manager AS version_manager, v.active AS version_active, v.image AS version_image,
	v.image_tags AS version_image_tags, v.packages AS version_packages, v.created_at AS version_created_at`

// guestRow is a guest with its heartbeat, if it has one (no column of a missing one is read: it stays empty).
type guestRow struct {
	dbaas.Guest `gorm:"embedded"`
	Heartbeat   dbaas.Heartbeat `gorm:"embedded;embeddedPrefix:heartbeat_"`
}

func (s *Store) addGuests(db *gorm.DB, ids []string, views map[string]*dbaas.InstanceView) error {
	var rows []guestRow
	if err := s.guestQuery(db, ids).Scan(&rows).Error; err != nil {
		return s.failed("read guests", err)
	}
	for _, r := range rows {
		v := views[r.InstanceID]
		v.Guests = append(v.Guests, r.Guest)
		if r.Heartbeat.GuestID == "" {
			continue
		}
		if v.Heartbeats == nil {
			v.Heartbeats = map[string]dbaas.Heartbeat{}
		}
		v.Heartbeats[r.ID] = r.Heartbeat
	}
	return nil
}

func (s *Store) guestQuery(db *gorm.DB, instanceIDs []string) *gorm.DB {
	return db.Table("guests AS g").Select(columns[dbaas.Guest](db, "g.") + heartbeatColumns).Joins("LEFT JOIN heartbeats h ON h.guest_id = g.id").
		Where(s.dialect.in("g.instance_id", instanceIDs)).Where("g.deleted_at = 0").Order("g.instance_id, g.id")
}

const heartbeatColumns = `, h.guest_id AS heartbeat_guest_id, h.boot_id AS heartbeat_boot_id,
	h.sequence AS heartbeat_sequence, h.seen_at AS heartbeat_seen_at, h.volume_used AS heartbeat_volume_used,
	h.volume_total AS heartbeat_volume_total, h.metrics AS heartbeat_metrics`

func (s *Store) addOperations(db *gorm.DB, views map[string][]*dbaas.InstanceView) error {
	if len(views) == 0 {
		return nil
	}
	ids := make([]string, 0, len(views))
	for id := range views {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var operations []dbaas.Operation
	if err := db.Where(s.dialect.in("id", ids)).Find(&operations).Error; err != nil {
		return s.failed("read operations", err)
	}
	for i := range operations {
		for _, v := range views[operations[i].ID] {
			v.Operation = &operations[i]
		}
	}
	return nil
}

// LiveGuests lists all guests that are not deleted, for audits.
func (s *Store) LiveGuests(ctx context.Context) ([]dbaas.Guest, error) {
	var guests []dbaas.Guest
	err := s.read.WithContext(ctx).Where("deleted_at = 0").Order("id").Find(&guests).Error
	return guests, s.failed("list guests", err)
}
