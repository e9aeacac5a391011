package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// InstanceFilter says which instances to list, and from where.
type InstanceFilter struct {
	ProjectID        string // "" for all projects
	IncludeClustered bool   // members of clusters too
	Presence         Presence
	Limit            int // 0: all
	Marker           string
}

// Presence says whether a list has what lives, what was deleted, or both. Of what was deleted no guests are known.
type Presence int

// The presences.
const (
	Living Presence = iota
	Deleted
	LivingOrDeleted
)

func (p Presence) among(q *gorm.DB) *gorm.DB {
	switch p {
	case Living:
		return q.Where("deleted_at = 0")
	case Deleted:
		return q.Where("deleted_at > 0")
	default:
		return q
	}
}

// viewRow is an instance with what is read in the same query.
type viewRow struct {
	dbaas.InstanceView
	OperationID string
}

// InstanceView reads one live instance with all that the API shows beside it.
func (s *Store) InstanceView(ctx context.Context, id string) (*dbaas.InstanceView, error) {
	return s.InstanceViewAmong(ctx, id, Living)
}

// InstanceViewAmong is InstanceView also for deleted instances, as long as they are kept.
func (s *Store) InstanceViewAmong(ctx context.Context, id string, p Presence) (*dbaas.InstanceView, error) {
	db := s.read.WithContext(ctx)
	views, err := s.views(db, p.among(db.Model(&dbaas.Instance{}).Where("id = ?", id)))
	if err != nil {
		return nil, err
	}
	if len(views) == 0 {
		return nil, dbaas.Errorf(dbaas.NotFound, "The instance %s does not exist.", id)
	}
	return &views[0], nil
}

// ListInstances reads a page of a project's instances in the order of their ids, beginning after the marker.
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
	q := f.Presence.among(db.Model(&dbaas.Instance{}).Where("id > ?", f.Marker))
	switch {
	case f.ProjectID == "" && f.IncludeClustered:
	case f.ProjectID == "":
		q = q.Where("cluster_id = ''")
	case f.IncludeClustered:
		q = q.Where("project_id = ?", f.ProjectID)
	default:
		q = q.Where("cluster_id || '/' || project_id = ?", "/"+f.ProjectID) // as in the index
	}
	return limited(q.Order("id"), f.Limit)
}

// views reads the instances that a query selects, in a number of queries that does not depend on how many they are: the
// instances, their guests with heartbeats, and the operations that hold them, if any does.
//
// Every list and show comes by here, so the rows are scanned column by column: gorm's reflection takes several times as
// long as all the rest of a request.
func (s *Store) views(db, selected *gorm.DB) ([]dbaas.InstanceView, error) {
	rows, err := scanRows(viewQuery(db, selected), scanView)
	if err != nil {
		return nil, s.failed("read instances", err)
	}
	views := make([]dbaas.InstanceView, len(rows))
	byID := make(map[string]*dbaas.InstanceView, len(rows))
	ids := make([]string, len(rows))
	byOperation := map[string][]*dbaas.InstanceView{}
	for i := range rows {
		views[i] = rows[i].InstanceView
		if id := rows[i].OperationID; id != "" {
			byOperation[id] = append(byOperation[id], &views[i])
		}
		byID[views[i].ID], ids[i] = &views[i], views[i].ID
	}
	if len(rows) == 0 {
		return views, nil
	}
	if err := s.addGuests(db, ids, byID); err != nil {
		return nil, err
	}
	return views, s.addOperations(db, byOperation)
}

// usualPage holds a page of the usual size and the row that tells whether there is more.
const usualPage = 21

// scanRows runs a query and scans each of its rows.
func scanRows[T any](q *gorm.DB, scan func(*sql.Rows, *T) error) ([]T, error) {
	rows, err := q.Rows()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := make([]T, 0, usualPage)
	for rows.Next() {
		all = append(all, *new(T))
		if err := scan(rows, &all[len(all)-1]); err != nil {
			return nil, err
		}
	}
	return all, rows.Err()
}

// asJSON scans a column that holds JSON or nothing.
type asJSON struct{ into any }

// Scan implements [sql.Scanner].
func (j asJSON) Scan(v any) error {
	switch text := v.(type) {
	case nil:
		return nil
	case string:
		return json.Unmarshal([]byte(text), j.into)
	case []byte:
		return json.Unmarshal(text, j.into)
	default:
		return fmt.Errorf("JSON is expected, not %T", v)
	}
}

// viewQuery joins to the selected instances what has one row for each. The limit is inside the sub-select: outside, a
// planner may walk the joined tables from their beginning to find the first rows.
func viewQuery(db, selected *gorm.DB) *gorm.DB {
	return db.Table("(?) AS i", selected).Select(viewColumns).Order("i.id").Joins(
		"LEFT JOIN datastore_versions v ON v.id = i.datastore_version_id LEFT JOIN datastores d ON d.id = v.datastore_id")
}

// viewColumns are what scanView scans, in its order.
const viewColumns = `i.id, i.project_id, i.group_id, i.cluster_id, i.replica_of, i.name, i.datastore_version_id, i.flavor_id,
	i.volume_size, i.volume_type, i.configuration_id, i.region, i.zone, i.locality, i.nic, i.access, i.addresses, i.task,
	i.fault, i.deletion_protection, i.high_availability, i.persistence, i.profile, i.tls, i.stopped, i.shard_id, i.primary_guest_id,
	i.address_id, i.root_enabled_at, i.root_enabled_by, i.applied, i.created_at, i.updated_at, i.deleted_at,
	COALESCE(d.name, ''), COALESCE(v.id, ''), COALESCE(v.datastore_id, ''), COALESCE(v.name, ''), COALESCE(v.number, ''),
	COALESCE(v.manager, ''), COALESCE(v.active, FALSE), COALESCE(v.image, ''), v.image_tags, v.packages, COALESCE(v.created_at, 0),
	COALESCE((SELECT c.name FROM configurations c WHERE c.id = i.configuration_id), ''),
	COALESCE((SELECT l.operation_id FROM operation_locks l WHERE l.resource_id = i.id), ''),
	COALESCE((SELECT string_agg(r.id, ',') FROM instances r
		WHERE r.replica_of = i.id AND r.replica_of <> '' AND r.deleted_at = 0), '')`

func scanView(rows *sql.Rows, r *viewRow) error {
	i, v := &r.Instance, &r.Version
	var replicas string
	err := rows.Scan(&i.ID, &i.ProjectID, &i.GroupID, &i.ClusterID, &i.ReplicaOf, &i.Name, &i.DatastoreVersionID, &i.FlavorID,
		&i.VolumeSize, &i.VolumeType, &i.ConfigurationID, &i.Region, &i.Zone, &i.Locality, asJSON{&i.Nic}, asJSON{&i.Access},
		asJSON{&i.Addresses}, (*string)(&i.Task), asJSON{&i.Fault}, &i.DeletionProtection, asJSON{&i.HighAvailability}, (*string)(&i.Persistence), &i.Profile,
		(*string)(&i.TLS), &i.Stopped, &i.ShardID, &i.PrimaryGuestID, &i.AddressID, (*int64)(&i.RootEnabledAt),
		&i.RootEnabledBy, asJSON{&i.Applied}, (*int64)(&i.CreatedAt), (*int64)(&i.UpdatedAt), (*int64)(&i.DeletedAt),
		&r.Datastore, &v.ID, &v.DatastoreID, &v.Name, &v.Number, &v.Manager, &v.Active,
		&v.Image, asJSON{&v.ImageTags}, asJSON{&v.Packages}, (*int64)(&v.CreatedAt),
		&r.ConfigurationName, &r.OperationID, &replicas)
	if replicas != "" {
		r.Replicas = strings.Split(replicas, ",")
		slices.Sort(r.Replicas)
	}
	return err
}

// guestRow is a guest with its heartbeat; one without has an empty guest id there.
type guestRow struct {
	dbaas.Guest
	Heartbeat dbaas.Heartbeat
}

func (s *Store) addGuests(db *gorm.DB, ids []string, views map[string]*dbaas.InstanceView) error {
	rows, err := scanRows(s.guestQuery(db, ids), scanGuest)
	if err != nil {
		return s.failed("read guests", err)
	}
	for i := range rows {
		v := views[rows[i].InstanceID]
		if v.Guests = append(v.Guests, rows[i].Guest); rows[i].ID == v.PrimaryGuestID {
			last := len(v.Guests) - 1
			v.Guests[0], v.Guests[last] = v.Guests[last], v.Guests[0]
		}
		if rows[i].Heartbeat.GuestID == "" {
			continue
		}
		if v.Heartbeats == nil {
			v.Heartbeats = map[string]dbaas.Heartbeat{}
		}
		v.Heartbeats[rows[i].ID] = rows[i].Heartbeat
	}
	return nil
}

func (s *Store) guestQuery(db *gorm.DB, instanceIDs []string) *gorm.DB {
	return db.Table("guests AS g").Select(guestColumns).Joins("LEFT JOIN heartbeats h ON h.guest_id = g.id").
		Where(s.dialect.in("g.instance_id", instanceIDs)).Where("g.deleted_at = 0").Order("g.instance_id, g.id")
}

// guestColumns are what scanGuest scans, in its order.
const guestColumns = `g.id, g.instance_id, g.group_id, g.project_id, g.queue, g.server_id, g.volume_id, g.port_id, g.address,
	g.status, g.status_cause, g.status_at, g.boot_id, g.sequence, g.public_key, g.agent_version, g.observed, g.peers,
	g.created_at, g.updated_at, COALESCE(h.guest_id, ''), COALESCE(h.boot_id, ''), COALESCE(h.sequence, 0),
	COALESCE(h.seen_at, 0), COALESCE(h.volume_used, 0), COALESCE(h.volume_total, 0), COALESCE(h.metrics, '')`

func scanGuest(rows *sql.Rows, r *guestRow) error {
	g, h := &r.Guest, &r.Heartbeat
	return rows.Scan(&g.ID, &g.InstanceID, &g.GroupID, &g.ProjectID, &g.Queue, &g.ServerID, &g.VolumeID, &g.PortID, &g.Address,
		(*string)(&g.Status), &g.StatusCause, (*int64)(&g.StatusAt), &g.BootID, &g.Sequence, &g.PublicKey, &g.AgentVersion,
		asJSON{&g.Observed}, asJSON{&g.Peers}, (*int64)(&g.CreatedAt), (*int64)(&g.UpdatedAt),
		&h.GuestID, &h.BootID, &h.Sequence, (*int64)(&h.SeenAt), &h.VolumeUsed, &h.VolumeTotal, &h.Metrics)
}

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
