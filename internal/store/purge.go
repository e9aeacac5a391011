package store

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Retention is how long what has ended is kept; 0 keeps it for ever.
type Retention struct {
	Operations  time.Duration // after they ended, with their steps
	Events      time.Duration
	Idempotency time.Duration
	Deleted     time.Duration // instances, guests, groups and configuration groups, after their deletion
}

// purge is one kind of row that becomes old: a statement that removes a batch of those older than an instant.
type purge struct {
	keep      time.Duration
	statement string
}

// purges is in the order in which rows refer to each other.
func (r Retention) purges() []purge {
	return []purge{
		{r.Operations, `DELETE FROM operations WHERE id IN (SELECT id FROM operations o
			WHERE ended_at > 0 AND ended_at < ? AND NOT EXISTS (SELECT 1 FROM operation_locks WHERE operation_id = o.id)
			ORDER BY ended_at LIMIT ?)`},
		{r.Events, `DELETE FROM events WHERE id IN (SELECT id FROM events
			WHERE created_at < ? ORDER BY created_at LIMIT ?)`},
		{r.Idempotency, `DELETE FROM idempotency_keys WHERE (project_id, key) IN (SELECT project_id, key
			FROM idempotency_keys WHERE created_at < ? ORDER BY created_at LIMIT ?)`},
		{r.Deleted, `DELETE FROM guests WHERE id IN (SELECT id FROM guests
			WHERE deleted_at > 0 AND deleted_at < ? ORDER BY deleted_at LIMIT ?)`},
		{r.Deleted, `DELETE FROM instances WHERE id IN (SELECT id FROM instances i
			WHERE deleted_at > 0 AND deleted_at < ? AND NOT EXISTS (SELECT 1 FROM guests WHERE instance_id = i.id)
			ORDER BY deleted_at LIMIT ?)`},
		{r.Deleted, `DELETE FROM instance_groups WHERE id IN (SELECT id FROM instance_groups g
			WHERE deleted_at > 0 AND deleted_at < ? AND NOT EXISTS (SELECT 1 FROM instances WHERE group_id = g.id)
			ORDER BY deleted_at LIMIT ?)`},
		{r.Deleted, `DELETE FROM configurations WHERE id IN (SELECT id FROM configurations
			WHERE deleted_at > 0 AND deleted_at < ? ORDER BY deleted_at LIMIT ?)`},
	}
}

// heartbeats of guests that are gone: one may have been under way while its guest was deleted.
const purgeHeartbeats = `DELETE FROM heartbeats WHERE guest_id IN (SELECT guest_id FROM heartbeats h
	WHERE seen_at < ? AND NOT EXISTS (SELECT 1 FROM guests WHERE id = h.guest_id AND deleted_at = 0) LIMIT ?)`

// Purge removes what is older than its retention, batch rows per transaction, and tells how many rows went.
func (s *Store) Purge(ctx context.Context, r Retention, batch int) (n int, err error) {
	now, err := s.Now(ctx)
	if err != nil {
		return 0, err
	}
	for _, p := range append(r.purges(), purge{dbaas.HeartbeatExpiry, purgeHeartbeats}) {
		if p.keep <= 0 {
			continue
		}
		removed, err := s.purge(ctx, p.statement, now.Add(-p.keep), max(batch, 1))
		n += removed
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (s *Store) purge(ctx context.Context, statement string, before dbaas.Instant, batch int) (n int, err error) {
	for {
		r := s.write.WithContext(ctx).Exec(statement, before, batch)
		n += int(r.RowsAffected)
		if r.Error != nil || int(r.RowsAffected) < batch {
			return n, s.failed("purge", r.Error)
		}
	}
}
