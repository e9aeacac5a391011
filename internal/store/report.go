package store

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// RecordHeartbeats writes signs of life, in one statement. SeenAt is the store's own time, whatever it holds; one that
// is older than the stored one of the same boot is ignored.
func (s *Store) RecordHeartbeats(ctx context.Context, batch []dbaas.Heartbeat) error {
	if len(batch) == 0 {
		return nil
	}
	err := s.dialect.putHeartbeats(s.write.WithContext(ctx), newestOfEach(batch), s.nowExpr())
	return s.failed("write heartbeats", err)
}

// newestOfEach keeps a guest's last heartbeat: the one that came last of another boot, else the highest sequence. The
// order by id keeps two batches from locking rows crosswise.
func newestOfEach(batch []dbaas.Heartbeat) []dbaas.Heartbeat {
	byGuest := make(map[string]dbaas.Heartbeat, len(batch))
	for _, h := range batch {
		if old, ok := byGuest[h.GuestID]; ok && old.BootID == h.BootID && old.Sequence >= h.Sequence {
			continue
		}
		byGuest[h.GuestID] = h
	}
	list := make([]dbaas.Heartbeat, 0, len(byGuest))
	for _, h := range byGuest {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b dbaas.Heartbeat) int { return strings.Compare(a.GuestID, b.GuestID) })
	return list
}

// ReportRow is what a guest said of itself, as far as it is stored.
type ReportRow struct {
	GuestID      string
	BootID       string
	Sequence     int64
	Status       dbaas.GuestStatus
	StatusCause  string
	PublicKey    []byte // nil: not said
	AgentVersion string
	Observed     dbaas.JSON
	Peers        dbaas.JSON
	BrokerTrust  string        // names of the authorities by which it knows the broker, between spaces
	Events       []dbaas.Event // an ID is the guest's own and names the event only beside the guest's id
}

// RecordReport stores a guest's report and its events, and wakes the operation that holds the guest's instance. It
// tells whether the guest now says something else than before. A report that is not newer than the stored one of the
// same boot, or that is of a boot before, brings its events and nothing else; one of a guest that is deleted or unknown,
// nothing.
func (s *Store) RecordReport(ctx context.Context, r ReportRow) (changed bool, err error) {
	err = s.Tx(ctx, func(tx *Tx) error {
		changed = false
		g, err := find[reportedGuest](tx.lock().Where("id = ? AND deleted_at = 0", r.GuestID))
		if err != nil || g == nil {
			return tx.failed("read guest", err)
		}
		if g.knows(r) { // overtaken by a newer one, that does not tell again what happened
			return tx.insertReported(g.ID, named(r.Events))
		}
		if changed = g.apply(r, tx.Now()); changed {
			g.UpdatedAt = tx.Now()
		}
		if err := tx.db.Model(g).Select(reportedColumns()).UpdateColumns(g).Error; err != nil {
			return tx.failed("write report", err)
		}
		if err := tx.insertReported(g.ID, r.Events); err != nil {
			return err
		}
		_, err = tx.wake(g.InstanceID)
		return err
	})
	return changed, err
}

// reportedGuest is a guest with what only reports need to know.
type reportedGuest struct {
	dbaas.Guest    `gorm:"embedded"`
	PreviousBootID string // the boots before, the newest first: a late report of one must not pass for a new boot
	BrokerTrust    string
}

// mostBoots is how many boots a late report is recognised by.
const mostBoots = 8

// TableName implements gorm's Tabler.
func (reportedGuest) TableName() string { return "guests" }

func reportedColumns() []string {
	return []string{"Status", "StatusCause", "StatusAt", "BootID", "PreviousBootID", "Sequence", "PublicKey",
		"AgentVersion", "Observed", "Peers", "BrokerTrust", "UpdatedAt"}
}

// knows tells that the report is not newer than what is stored.
func (g *reportedGuest) knows(r ReportRow) bool {
	if r.BootID == g.BootID {
		return r.Sequence <= g.Sequence
	}
	if bytes.Equal(r.PublicKey, g.PublicKey) && dbaas.BootedBefore(r.BootID, g.BootID) { // also one that was never heard of
		return true
	}
	return slices.Contains(strings.Fields(g.PreviousBootID), r.BootID)
}

func (g *reportedGuest) apply(r ReportRow, now dbaas.Instant) (changed bool) {
	changed = g.Status != r.Status || g.StatusCause != r.StatusCause || g.AgentVersion != r.AgentVersion ||
		!bytes.Equal(g.Observed, r.Observed) || !bytes.Equal(g.Peers, r.Peers) || (r.PublicKey != nil && !bytes.Equal(g.PublicKey, r.PublicKey))
	if g.Status != r.Status {
		g.StatusAt = now
	}
	if g.BootID != r.BootID {
		g.remember(g.BootID)
	}
	if r.PublicKey != nil {
		g.PublicKey = r.PublicKey
	}
	g.Status, g.StatusCause, g.AgentVersion = r.Status, r.StatusCause, r.AgentVersion
	g.Peers, g.BrokerTrust = r.Peers, r.BrokerTrust
	if r.Observed != nil { // what a database that is dead now was last, it takes to choose who follows it
		g.Observed = r.Observed
	}
	g.BootID, g.Sequence = r.BootID, r.Sequence
	return changed
}

// remember notes a boot that is over.
func (g *reportedGuest) remember(boot string) {
	earlier := append([]string{boot}, strings.Fields(g.PreviousBootID)...)
	g.PreviousBootID = strings.TrimSpace(strings.Join(earlier[:min(len(earlier), mostBoots)], " "))
}

// MeetAgent takes the key of the agent that answers for a guest now, for [Tx.UpdateGuest] to write. A new one, on a new root
// disk, counts its starts from the beginning: what is known of the old one's must not make its reports late.
func (tx *Tx) MeetAgent(g *dbaas.Guest, key []byte) error {
	if bytes.Equal(g.PublicKey, key) {
		return nil
	}
	known, err := find[reportedGuest](tx.lock().Where("id = ?", g.ID))
	if err != nil || known == nil {
		return tx.failed("read guest", err)
	}
	known.remember(g.BootID)
	g.PublicKey, g.BootID, g.Sequence = key, "", 0
	err = tx.db.Model(known).Select("PreviousBootID").UpdateColumns(known).Error
	return tx.failed("write guest", err)
}

// eventRow is an event with the name that its reporter gave it.
type eventRow struct {
	dbaas.Event `gorm:"embedded"`
	ReportedAs  string
}

// TableName implements gorm's Tabler.
func (eventRow) TableName() string { return "events" }

// insertReported records a guest's events once, under ids of our own: a guest's could forge their order.
func (tx *Tx) insertReported(guestID string, events []dbaas.Event) error {
	for _, e := range events {
		row := eventRow{Event: e}
		if e.ID != "" {
			row.ReportedAs = guestID + ":" + e.ID
		}
		row.ID = ""
		if err := setID(&row.ID); err != nil {
			return err
		}
		tx.setTime(&row.CreatedAt)
		if err := tx.db.Clauses(doNothing()).Create(&row).Error; err != nil {
			return tx.failed("insert event", err)
		}
	}
	return nil
}

// named leaves out the events that cannot be told from one another when they come twice.
func named(events []dbaas.Event) []dbaas.Event {
	return slices.DeleteFunc(slices.Clone(events), func(e dbaas.Event) bool { return e.ID == "" })
}

// WakeOperations makes the operations that hold a resource due at once, and gives their ids.
func (s *Store) WakeOperations(ctx context.Context, resourceID string) (ids []string, err error) {
	err = s.Tx(ctx, func(tx *Tx) (err error) {
		ids, err = tx.wake(resourceID)
		return err
	})
	return ids, err
}

// wake makes due what holds a resource.
func (tx *Tx) wake(resourceID string) (ids []string, err error) {
	now := tx.Now()
	err = tx.db.Raw(`UPDATE operations SET `+wakeNow+` WHERE ended_at = 0
		AND id IN (SELECT operation_id FROM operation_locks WHERE resource_id = ?) RETURNING id`,
		now, now, resourceID).Scan(&ids).Error
	return ids, tx.failed("wake operations", err)
}
