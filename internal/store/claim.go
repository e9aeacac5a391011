package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// claimable is an operation that may be leased, whenever it is due: not ended, not parked, not leased, and not a
// failover whose victim is still at work on its last step.
const claimable = `ended_at = 0 AND parked_by = '' AND lease_until <= @now
	AND NOT EXISTS (SELECT 1 FROM operations p WHERE p.parked_by = o.id AND p.parked_by <> '' AND p.lease_until > @now)`

// free is when nobody held the operation any more and it was due.
const free = `(CASE WHEN wake_at > lease_until THEN wake_at ELSE lease_until END)`

// The time in which nobody came, beyond the length of a lease, does not count against the step.
const lease = `UPDATE operations AS o SET
	step_since = step_since + CASE WHEN step_since > 0 AND @now - ` + free + ` > @lease THEN @now - ` + free + ` - @lease ELSE 0 END,
	lease_owner = @worker, lease_until = @now + @lease, lease_epoch = lease_epoch + 1, updated_at = @now`

// Claim implements engine.Store. The lease condition stands in the sub-select, which finds a row, and again outside,
// where PostgreSQL looks at the row as it is after its lock was waited for: without that, two workers get one row.
func (s *Store) Claim(ctx context.Context, worker, id string, d time.Duration) (*dbaas.Operation, error) {
	which := `o.id = @id`
	if id == "" {
		which = `o.wake_at <= @now AND o.id = (SELECT o.id FROM operations o WHERE o.wake_at <= @now AND ` + claimable +
			` ORDER BY o.wake_at LIMIT 1 ` + s.dialect.skipLocked() + `)`
	}
	ops, err := s.returning(s.write.WithContext(ctx), lease+` WHERE `+which+` AND `+claimable, map[string]any{
		"now": s.nowExpr(), "lease": d.Microseconds(), "worker": worker, "id": id})
	if err != nil || len(ops) == 0 {
		return nil, s.failed("claim operation", err)
	}
	return &ops[0], nil
}

// returning runs a statement that changes operations and gives them as they are afterwards.
func (s *Store) returning(db *gorm.DB, statement string, values map[string]any) (ops []dbaas.Operation, err error) {
	err = db.Raw(statement+" RETURNING "+columns[dbaas.Operation](db, ""), values).Scan(&ops).Error
	return ops, err
}

// NextDue implements engine.Store. Free operations are found in the order in which they are due; leased ones are few.
func (s *Store) NextDue(ctx context.Context, limit time.Duration) (time.Duration, error) {
	db := s.read.WithContext(ctx)
	now, err := s.now(db)
	if err != nil {
		return 0, err
	}
	next := now.Add(limit)
	var found []dbaas.Instant
	if err := db.Raw(nextDue, map[string]any{"now": now}).Scan(&found).Error; err != nil {
		return 0, s.failed("look for the next operation", err)
	}
	for _, at := range found {
		next = min(next, at)
	}
	return max(next.Sub(now), 0), nil
}

// Overdue tells for how long the operation has waited for a taskmanager that is due longest; 0 when none waits.
func (s *Store) Overdue(ctx context.Context) (time.Duration, error) {
	db := s.read.WithContext(ctx)
	now, err := s.now(db)
	if err != nil {
		return 0, err
	}
	var due []dbaas.Instant
	err = db.Raw(`SELECT CASE WHEN wake_at > lease_until THEN wake_at ELSE lease_until END FROM operations o WHERE wake_at <= @now AND `+
		claimable+` ORDER BY wake_at LIMIT 1`, map[string]any{"now": now}).Scan(&due).Error
	if err != nil || len(due) == 0 {
		return 0, s.failed("look for waiting operations", err)
	}
	return max(now.Sub(due[0]), 0), nil
}

// A parked operation that is leased counts with the end of its lease: the failover that parked it waits for that.
const nextDue = `
SELECT at FROM (SELECT wake_at AS at FROM operations o WHERE ` + claimable + ` ORDER BY wake_at LIMIT 1) AS free
UNION ALL
SELECT at FROM (
	SELECT CASE WHEN wake_at > lease_until AND parked_by = '' THEN wake_at ELSE lease_until END AS at
	FROM operations WHERE ended_at = 0 AND lease_owner <> '' AND lease_until > @now ORDER BY 1 LIMIT 1) AS leased`

// wakeNow makes an operation due (its two parameters are "now"). The time always changes, by which a holder that saves
// notices it (engine.Save.WakeAfter).
const wakeNow = `wake_at = CASE WHEN wake_at > ? THEN ? ELSE wake_at - 1 END`

const save = `UPDATE operations SET
	kind = @kind, status = @status, step = @step, step_number = @step_number, step_total = @step_total, state = @state,
	attempt = @attempt, step_since = @step_since, progress = @progress, failure = @failure,
	wake_at = CASE WHEN wake_at <> @seen_wake_at AND wake_at < @wake_at THEN wake_at ELSE @wake_at END,
	lease_until = @lease_until, lease_owner = @lease_owner, updated_at = @now, ended_at = @ended_at,
	superseded_by = CASE WHEN @superseded AND superseded_by = @kind THEN '' ELSE superseded_by END,
	cancel = CASE WHEN @superseded THEN FALSE ELSE cancel END,
	child_failure = CASE WHEN @superseded THEN '' ELSE child_failure END
WHERE id = @id AND lease_epoch = @lease_epoch AND ended_at = 0 AND NOT (@ended AND superseded_by <> '')`

// Save implements engine.Store.
func (s *Store) Save(ctx context.Context, op *dbaas.Operation, how engine.Save) error {
	var saved dbaas.Operation
	err := s.Tx(ctx, func(tx *Tx) error {
		values, err := tx.saved(op, how)
		if err != nil {
			return err
		}
		rows, err := s.returning(tx.db, save, values)
		if err != nil {
			return tx.failed("save operation", err)
		}
		if len(rows) == 0 {
			return tx.refused(op)
		}
		saved = rows[0]
		return tx.savedWith(&saved, how)
	})
	if err == nil {
		*op = saved
	}
	return err
}

// refused tells why a save found no row: the lease is another's, or a delete was accepted before the end.
func (tx *Tx) refused(op *dbaas.Operation) error {
	if err := tx.holds(tx.db, op); err != nil {
		return err
	}
	return engine.ErrSuperseded
}

// saved is what a save writes.
func (tx *Tx) saved(op *dbaas.Operation, how engine.Save) (map[string]any, error) {
	if how.Ended != op.Status.Ended() {
		return nil, fmt.Errorf("save operation %s: status %s does not fit Ended %t", op.ID, op.Status, how.Ended)
	}
	state, err := jsonText(op.State)
	if err != nil {
		return nil, fmt.Errorf("encode state of operation %s: %w", op.ID, err)
	}
	failure, err := jsonText(op.Failure)
	if err != nil {
		return nil, fmt.Errorf("encode failure of operation %s: %w", op.ID, err)
	}
	now := tx.Now()
	values := map[string]any{
		"id": op.ID, "lease_epoch": op.LeaseEpoch, "now": now,
		"kind": op.Kind, "status": op.Status, "step": op.Step, "step_number": op.StepNumber, "step_total": op.StepTotal,
		"state": state, "attempt": op.Attempt, "step_since": op.StepSince, "progress": op.Progress, "failure": failure,
		"seen_wake_at": op.WakeAt, "wake_at": now.Add(how.WakeAfter), "superseded": how.Superseded, "ended": how.Ended,
		"lease_until": now.Add(how.Keep), "lease_owner": "", "ended_at": dbaas.Instant(0),
	}
	if how.Keep > 0 {
		values["lease_owner"] = op.LeaseOwner
	}
	if how.NewStep {
		values["step_since"], values["attempt"] = now, 0
	}
	if how.Ended {
		values["ended_at"] = now
	}
	return values, nil
}

// savedWith does what goes with a save.
func (tx *Tx) savedWith(op *dbaas.Operation, how engine.Save) error {
	if how.Step != nil {
		if err := tx.appendStep(op.ID, *how.Step); err != nil {
			return err
		}
	}
	if how.Event != nil {
		if err := tx.InsertEvent(how.Event); err != nil {
			return err
		}
	}
	if op.Status == dbaas.OperationParked {
		if err := tx.wakeOne(op.ParkedBy); err != nil {
			return err
		}
	}
	if how.Ended {
		return tx.end(op)
	}
	return nil
}

func (tx *Tx) appendStep(operationID string, step dbaas.OperationStep) error {
	step.OperationID, step.EndedAt = operationID, tx.Now()
	err := tx.db.Model(&dbaas.OperationStep{}).Where("operation_id = ?", operationID).
		Select("COALESCE(MAX(number), 0) + 1").Scan(&step.Number).Error
	return tx.failed("append to the operation's history", firstError(err, tx.db.Create(&step).Error))
}

// end gives up what an operation held, and tells its parent.
func (tx *Tx) end(op *dbaas.Operation) error {
	if err := tx.release(op.ID); err != nil || op.ParentID == "" {
		return err
	}
	failure := ""
	if op.Status != dbaas.OperationSucceeded {
		failure = fmt.Sprintf("The operation %s (%s) that it needs was not successful.", op.ID, op.Kind)
		if op.Failure != nil && op.Failure.Message != "" {
			failure = op.Failure.Message
		}
	}
	now := tx.Now()
	err := tx.db.Exec(`UPDATE operations SET child_failure = CASE WHEN child_failure = '' THEN ? ELSE child_failure END, `+
		wakeNow+` WHERE id = ? AND ended_at = 0`, failure, now, now, op.ParentID).Error
	return tx.failed("wake the parent operation", err)
}

// release gives locks back to whom they were taken from, who goes on when the failover is over, and frees the others.
func (tx *Tx) release(operationID string) error {
	now := tx.Now()
	return tx.failed("release locks", firstError(
		tx.db.Exec(`UPDATE operation_locks SET parked_id = '' WHERE parked_id = ? AND parked_id <> ''`, operationID).Error,
		tx.db.Exec(`DELETE FROM operation_locks WHERE operation_id = ? AND parked_id = ''`, operationID).Error,
		tx.db.Exec(`UPDATE operation_locks SET operation_id = parked_id, parked_id = '' WHERE operation_id = ?`,
			operationID).Error,
		tx.db.Exec(unpark, now, now, now, now, operationID).Error))
}

// unpark lets go on what a failover had parked. A holder that never came to save is shut out by the epoch.
const unpark = `UPDATE operations SET status = 'parked', parked_by = '', step_since = ?, updated_at = ?, ` + wakeNow + `,
	lease_epoch = lease_epoch + CASE WHEN lease_owner = '' THEN 0 ELSE 1 END, lease_owner = ''
WHERE parked_by = ? AND parked_by <> '' AND ended_at = 0`

func (tx *Tx) wakeOne(operationID string) error {
	now := tx.Now()
	err := tx.db.Exec(`UPDATE operations SET `+wakeNow+` WHERE id = ? AND ended_at = 0`, now, now, operationID).Error
	return tx.failed("wake operation", err)
}

// jsonText encodes a value as gorm's serializer does: nothing is NULL.
func jsonText(v any) (*string, error) {
	if raw, ok := v.(dbaas.JSON); ok && len(raw) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(v)
	if err != nil || string(b) == "null" {
		return nil, err
	}
	text := string(b)
	return &text, nil
}
