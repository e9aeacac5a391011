package store

import (
	"context"
	"slices"
	"time"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Possessions is all that rows say is in the cloud, and whom not to judge now.
type Possessions struct {
	Guests    []GuestPossession
	Instances []InstancePossession
	Groups    map[string]bool
	// Busy has the instances and groups that an operation is at work on.
	Busy map[string]bool
}

// GuestPossession is what a live guest has.
type GuestPossession struct {
	ID, InstanceID, GroupID, ProjectID string
	ServerID, VolumeID, PortID         string
}

// InstancePossession is what a live instance has beside its guests.
type InstancePossession struct {
	ID, GroupID, ProjectID, AddressID string
}

// Possessions reads a few columns of everything that lives, or of one owner: a guest, an instance or a group. The statements are no
// snapshot: whatever ends meanwhile counts as busy still.
func (s *Store) Possessions(ctx context.Context, owner string) (*Possessions, error) {
	db := s.read.WithContext(ctx)
	p := &Possessions{Groups: map[string]bool{}, Busy: map[string]bool{}}
	err := ids(db, p.Busy, `SELECT resource_id FROM operation_locks
		UNION SELECT resource_id FROM operations WHERE ended_at = 0
		UNION SELECT group_id FROM operations WHERE ended_at = 0 AND group_id <> ''`)
	live := func(model any) *gorm.DB {
		q := db.Model(model).Where("deleted_at = 0")
		if owner != "" {
			q = q.Where("id = ?", owner)
		}
		return q
	}
	if err == nil {
		err = live(&dbaas.Guest{}).Scan(&p.Guests).Error
	}
	if err == nil {
		err = live(&dbaas.Instance{}).Scan(&p.Instances).Error
	}
	var groups []string
	if err == nil {
		err = live(&dbaas.Group{}).Pluck("id", &groups).Error
	}
	for _, id := range groups {
		p.Groups[id] = true
	}
	return p, s.failed("read what there should be", err)
}

func ids(db *gorm.DB, into map[string]bool, query string, args ...any) error {
	var found []string
	err := db.Raw(query, args...).Scan(&found).Error
	for _, id := range found {
		into[id] = true
	}
	return err
}

// Departed tells which of these guests, instances and groups there were, whose rows were deleted before a time.
func (s *Store) Departed(ctx context.Context, owners []string, before dbaas.Instant) (map[string]bool, error) {
	departed := map[string]bool{}
	for _, table := range []string{"guests", "instances", "instance_groups"} {
		for batch := range slices.Chunk(owners, findingBatch) {
			err := ids(s.read.WithContext(ctx), departed, "SELECT id FROM "+table+" WHERE deleted_at > 0 AND deleted_at < ? AND id IN ?", before, batch)
			if err != nil {
				return nil, s.failed("read whose rows were deleted", err)
			}
		}
	}
	return departed, nil
}

// EndedSince tells whether an operation has ended since a time.
func (s *Store) EndedSince(ctx context.Context, since dbaas.Instant) (bool, error) {
	var ended []string
	err := s.read.WithContext(ctx).Raw("SELECT id FROM operations WHERE ended_at > 0 AND ended_at > ? LIMIT 1", since).Scan(&ended).Error
	return len(ended) > 0, s.failed("look for operations that have ended", err)
}

// QueueOf gives the queue of a guest that may be deleted, "" when nothing is known of it any more.
func (s *Store) QueueOf(ctx context.Context, guestID string) (string, error) {
	g, err := find[dbaas.Guest](s.read.WithContext(ctx).Where("id = ?", guestID))
	if err != nil || g == nil {
		return "", s.failed("read guest", err)
	}
	return g.Queue, nil
}

// findingBatch is how many findings one statement writes.
const findingBatch = 500

// RecordFindings makes the findings those that were seen now. One that was seen before and is not any more is forgotten, with all
// that was wished of it; one that lasts for age is reported. It gives all findings that are reported, and those of them that
// are new. What has not changed is not written.
func (s *Store) RecordFindings(ctx context.Context, seen []dbaas.Finding, age time.Duration) (reported, news []dbaas.Finding, err error) {
	err = s.Tx(ctx, func(tx *Tx) error {
		reported, news, err = tx.recordFindings(seen, age)
		return err
	})
	return reported, news, err
}

type findingKey struct {
	problem        dbaas.Problem
	kind, resource string
}

func keyOf(f *dbaas.Finding) findingKey { return findingKey{f.Problem, f.Kind, f.ResourceID} }

func (tx *Tx) recordFindings(seen []dbaas.Finding, age time.Duration) (reported, news []dbaas.Finding, err error) {
	var known []dbaas.Finding
	if err := tx.db.Find(&known).Error; err != nil {
		return nil, nil, tx.failed("read findings", err)
	}
	unknown := map[findingKey]*dbaas.Finding{}
	for i := range seen {
		unknown[keyOf(&seen[i])] = &seen[i]
	}
	var over, ripe []string
	for _, f := range known {
		if unknown[keyOf(&f)] == nil {
			over = append(over, f.ID)
			continue
		}
		delete(unknown, keyOf(&f))
		if f.ReportedAt.IsZero() && f.FirstSeen <= tx.Now().Add(-age) {
			f.ReportedAt = tx.Now()
			ripe, news = append(ripe, f.ID), append(news, f)
		}
		if !f.ReportedAt.IsZero() {
			reported = append(reported, f)
		}
	}
	err = firstError(
		inBatches(over, func(batch []string) error { return tx.db.Where("id IN ?", batch).Delete(&dbaas.Finding{}).Error }),
		inBatches(ripe, func(batch []string) error {
			return tx.db.Model(&dbaas.Finding{}).Where("id IN ?", batch).UpdateColumn("reported_at", tx.Now()).Error
		}),
		tx.insertFindings(unknown),
	)
	return reported, news, tx.failed("store findings", err)
}

func (tx *Tx) insertFindings(unknown map[findingKey]*dbaas.Finding) error {
	var rows []dbaas.Finding
	for _, f := range unknown {
		row := *f
		if err := setID(&row.ID); err != nil {
			return err
		}
		row.FirstSeen = tx.Now()
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil
	}
	return tx.db.CreateInBatches(rows, findingBatch).Error
}

func inBatches(all []string, deed func([]string) error) error {
	for len(all) > 0 {
		n := min(len(all), findingBatch)
		if err := deed(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// ListFindings reads a page of what is reported, in the order of ids.
func (s *Store) ListFindings(ctx context.Context, limit int, marker string) (list []dbaas.Finding, more bool, err error) {
	err = findingPage(s.read.WithContext(ctx), limit, marker).Find(&list).Error
	list, more = page(list, limit)
	return list, more, s.failed("list findings", err)
}

func findingPage(db *gorm.DB, limit int, marker string) *gorm.DB {
	return limited(db.Model(&dbaas.Finding{}).Where("reported_at > 0 AND id > ?", marker).Order("id"), limit)
}

// Finding reads one that is reported.
func (tx *Tx) Finding(id string) (*dbaas.Finding, error) {
	return require[dbaas.Finding](tx.s, tx.db.Where("id = ? AND reported_at > 0", id), "finding", id)
}

// WishOrphansDeleted notes who wants orphans deleted that are reported: these, or all with no ids. It tells how many.
func (tx *Tx) WishOrphansDeleted(by string, ids ...string) (int, error) {
	q := tx.db.Model(&dbaas.Finding{}).Where("reported_at > 0 AND problem = ?", dbaas.ProblemOrphan)
	if len(ids) > 0 {
		q = q.Where(tx.s.dialect.in("id", ids))
	}
	r := q.UpdateColumns(map[string]any{"delete_at": tx.Now(), "delete_by": by})
	return int(r.RowsAffected), tx.failed("wish findings deleted", r.Error)
}

// SetFindingFailure notes why a finding could not be deleted.
func (s *Store) SetFindingFailure(ctx context.Context, id, why string) error {
	return s.failed("note why a deletion failed", s.write.WithContext(ctx).Model(&dbaas.Finding{}).Where("id = ?", id).UpdateColumn("failure", why).Error)
}

// FindingsToDelete tells whether somebody wants a finding deleted.
func (s *Store) FindingsToDelete(ctx context.Context) (bool, error) {
	f, err := find[dbaas.Finding](s.read.WithContext(ctx).Where("delete_at > 0"))
	return f != nil, s.failed("look for findings to delete", err)
}

// Lease is a piece of recurring work that one process does at a time.
type Lease struct {
	Name   string `gorm:"primaryKey"`
	Holder string
	Until  dbaas.Instant
	DoneAt dbaas.Instant // when the work was last done; 0: never
}

// TakeLease makes holder the one who does a piece of work, for d, unless another one is.
func (s *Store) TakeLease(ctx context.Context, name, holder string, d time.Duration) (taken bool, err error) {
	err = s.Tx(ctx, func(tx *Tx) error {
		r := tx.db.Exec(`INSERT INTO leases (name, holder, until) VALUES (@name, @holder, @until)
			ON CONFLICT (name) DO UPDATE SET holder = @holder, until = @until WHERE leases.until <= @now OR leases.holder = @holder`,
			map[string]any{"name": name, "holder": holder, "until": tx.Now().Add(d), "now": tx.Now()})
		taken = r.RowsAffected == 1
		return tx.failed("take the lease of "+name, r.Error)
	})
	return taken, err
}

// EndLease gives a lease back; done tells that the work came to its end. Nobody takes it again for rest. Of one that
// another has it changes nothing.
func (s *Store) EndLease(ctx context.Context, name, holder string, done bool, rest time.Duration) error {
	return s.Tx(ctx, func(tx *Tx) error {
		change := map[string]any{"holder": "", "until": tx.Now().Add(rest)}
		if done {
			change["done_at"] = tx.Now()
		}
		return tx.failed("end the lease of "+name, tx.db.Model(&Lease{}).Where("name = ? AND holder = ?", name, holder).UpdateColumns(change).Error)
	})
}

// LastDone tells when a piece of recurring work was last done, 0 for never.
func (s *Store) LastDone(ctx context.Context, name string) (dbaas.Instant, error) {
	l, err := find[Lease](s.read.WithContext(ctx).Where("name = ?", name))
	if err != nil || l == nil {
		return 0, s.failed("read the lease of "+name, err)
	}
	return l.DoneAt, nil
}
