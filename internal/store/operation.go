package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// BusyError tells that a resource is locked by another operation. Users see a dbaas.Unprocessable.
type BusyError struct {
	Resource  string
	Operation dbaas.Operation // the one that holds the lock
}

// Error names the operation that runs.
func (e *BusyError) Error() string { return e.Unwrap().Error() }

// Unwrap is the error as users see it.
func (e *BusyError) Unwrap() error {
	return dbaas.Errorf(dbaas.Unprocessable, "%s is busy: operation %s (%s) is running; try again when it has ended.",
		e.Resource, e.Operation.ID, e.Operation.Kind)
}

// Enqueue stores a new operation, due now, and takes the locks that it needs. When one is taken the error is a
// [BusyError].
func (tx *Tx) Enqueue(op *dbaas.Operation, lock ...string) error {
	if err := tx.insertOperation(op); err != nil {
		return err
	}
	return tx.takeLocks(op, lock)
}

func (tx *Tx) insertOperation(op *dbaas.Operation) error {
	if err := setID(&op.ID); err != nil {
		return err
	}
	now := tx.Now()
	op.Status, op.CreatedAt, op.UpdatedAt, op.WakeAt = dbaas.OperationRunning, now, now, now
	return tx.failed("insert operation", tx.db.Create(op).Error)
}

// takeLocks inserts the lock rows, in an order that keeps two operations from waiting for each other. A row that another
// transaction is about to insert or delete is waited for.
func (tx *Tx) takeLocks(op *dbaas.Operation, resources []string) error {
	if len(resources) == 0 {
		return nil
	}
	resources = slices.Compact(slices.Sorted(slices.Values(resources)))
	for attempt := 0; attempt < maxAttempts; attempt++ {
		var rows []dbaas.OperationLock
		for _, r := range resources {
			rows = append(rows, dbaas.OperationLock{ResourceID: r, OperationID: op.ID})
		}
		r := tx.db.Clauses(doNothing()).Create(&rows)
		if r.Error != nil {
			return tx.failed("lock resources", r.Error)
		}
		if int(r.RowsAffected) == len(resources) {
			return nil
		}
		if resources, r.Error = tx.missingLocks(op.ID, resources); r.Error != nil {
			return r.Error
		}
		if len(resources) == 0 {
			return nil
		}
	}
	return fmt.Errorf("lock resources for operation %s: they changed hands %d times", op.ID, maxAttempts)
}

// missingLocks gives the resources that nobody holds any more and op does not hold yet; a BusyError when another holds
// one.
func (tx *Tx) missingLocks(operationID string, resources []string) ([]string, error) {
	var held []dbaas.OperationLock
	if err := tx.db.Where(tx.s.dialect.in("resource_id", resources)).Find(&held).Error; err != nil {
		return nil, tx.failed("read locks", err)
	}
	for _, l := range held {
		if l.OperationID != operationID {
			holder, err := tx.Operation(l.OperationID)
			if err != nil {
				return nil, err
			}
			return nil, &BusyError{Resource: l.ResourceID, Operation: *holder}
		}
		resources = slices.DeleteFunc(slices.Clone(resources), func(r string) bool { return r == l.ResourceID })
	}
	return resources, nil
}

// Preempt stores a failover and takes the locks that it needs, also from an operation that holds them: that one is
// parked with all that it began, and goes on when the failover has ended. Another failover is not pre-empted, nor an
// operation that began one: the error is a [BusyError].
func (tx *Tx) Preempt(failover *dbaas.Operation, lock ...string) error {
	if err := tx.insertOperation(failover); err != nil {
		return err
	}
	holders, err := tx.lockHolders(lock)
	if err != nil {
		return err
	}
	for _, h := range holders {
		if h.Kind == failover.Kind || h.ParkedID != "" {
			return &BusyError{Resource: h.ResourceLocked, Operation: h.Operation}
		}
		begun, err := tx.descendants(h.ID)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(begun, func(op dbaas.Operation) bool { return op.Kind == failover.Kind }); i >= 0 {
			return &BusyError{Resource: h.ResourceLocked, Operation: begun[i]}
		}
		if err := tx.takeOver(failover.ID, h); err != nil {
			return err
		}
		for _, op := range begun {
			if err := tx.park(failover.ID, op.ID); err != nil {
				return err
			}
		}
		lock = slices.DeleteFunc(slices.Clone(lock), func(r string) bool { return r == h.ResourceLocked })
	}
	return tx.takeLocks(failover, lock)
}

// holderRow is an operation with a lock that it holds.
type holderRow struct {
	dbaas.Operation `gorm:"embedded"`
	ResourceLocked  string
	ParkedID        string
}

// lockHolders reads who holds resources, and locks those operations. While it waited for one, the resource may have
// gone to another: then it looks again.
func (tx *Tx) lockHolders(resources []string) (rows []holderRow, err error) {
	in := tx.s.dialect.in
	q := tx.db.Table("operations AS o").Select(columns[dbaas.Operation](tx.db, "o.") + ", l.resource_id AS resource_locked, l.parked_id").
		Joins("JOIN operation_locks l ON l.operation_id = o.id").
		Where(in("l.resource_id", resources)).Where("o.ended_at = 0").Order("o.id, l.resource_id")
	for attempt := 0; attempt < maxAttempts; attempt++ {
		rows = nil
		var held []dbaas.OperationLock
		err := firstError(tx.s.dialect.lockRow(q.Session(&gorm.Session{}), "o").Scan(&rows).Error,
			tx.db.Where(in("resource_id", resources)).Find(&held).Error)
		if err != nil {
			return nil, tx.failed("read the locks' holders", err)
		}
		if agree(rows, held) {
			return rows, nil
		}
	}
	return nil, dbaas.Errorf(dbaas.Unprocessable, "%s is busy with changes; try again.", strings.Join(resources, ", "))
}

// agree tells that the locks are held by those who were locked.
func agree(rows []holderRow, held []dbaas.OperationLock) bool {
	return len(rows) == len(held) && !slices.ContainsFunc(held, func(l dbaas.OperationLock) bool {
		return !slices.ContainsFunc(rows, func(r holderRow) bool {
			return r.ResourceLocked == l.ResourceID && r.ID == l.OperationID
		})
	})
}

// takeOver parks a lock's holder: at once when nobody is at work on it, else at the next step boundary, for which the
// failover waits.
func (tx *Tx) takeOver(failoverID string, h holderRow) error {
	taken := tx.db.Exec(`UPDATE operation_locks SET operation_id = ?, parked_id = ? WHERE resource_id = ? AND operation_id = ?`,
		failoverID, h.ID, h.ResourceLocked, h.ID)
	if taken.Error == nil && taken.RowsAffected == 0 {
		return dbaas.Errorf(dbaas.Conflict, "The lock of %s changed hands.", h.ResourceLocked)
	}
	if taken.Error != nil {
		return tx.failed("take a lock over", taken.Error)
	}
	return tx.park(failoverID, h.ID)
}

// park stops an operation for a failover.
func (tx *Tx) park(failoverID, id string) error {
	now := tx.Now()
	parked := tx.db.Exec(`UPDATE operations SET parked_by = ?, updated_at = ?, `+wakeNow+`,
		status = CASE WHEN lease_owner <> '' AND lease_until > ? THEN status ELSE 'parked' END WHERE id = ? AND ended_at = 0`,
		failoverID, now, now, now, now, id)
	return tx.failed("park an operation", parked.Error)
}

// descendants lists what an operation began and what that began, as far as it has not ended.
func (tx *Tx) descendants(id string) (all []dbaas.Operation, err error) {
	list, err := tx.Children(id)
	if err != nil {
		return nil, err
	}
	for _, op := range list {
		if op.Status.Ended() {
			continue
		}
		more, err := tx.descendants(op.ID)
		if err != nil {
			return nil, err
		}
		all = append(append(all, op), more...)
	}
	return all, nil
}

// Supersede makes a running operation one of another kind before its next step: a delete takes over what runs. actor,
// when given, is who asked for it.
func (tx *Tx) Supersede(opID, kind string, actor ...string) error {
	set := map[string]any{"superseded_by": kind}
	if len(actor) > 0 {
		set["actor"] = actor[0]
	}
	return tx.tell(opID, "superseded", set)
}

// RetryOperation lets an operation that has not ended try its step again now, its time counted anew.
func (tx *Tx) RetryOperation(id string) error {
	return tx.tell(id, "tried again", map[string]any{"attempt": 0, "step_since": tx.Now()})
}

// CancelOperation lets an operation fail at its next step boundary.
func (tx *Tx) CancelOperation(id string) error {
	return tx.tell(id, "cancelled", map[string]any{"cancel": true})
}

// tell sets columns that the holder of an operation looks at, and makes it due.
func (tx *Tx) tell(id, what string, set map[string]any) error {
	set["updated_at"] = tx.Now()
	r := tx.db.Model(&dbaas.Operation{}).Where("id = ? AND ended_at = 0", id).UpdateColumns(set)
	if r.Error == nil && r.RowsAffected == 0 {
		return tx.ended(id, what)
	}
	return firstError(tx.failed("change operation", r.Error), tx.wakeOne(id))
}

func (tx *Tx) ended(id, what string) error {
	op, err := tx.Operation(id)
	if err != nil {
		return err
	}
	return dbaas.Errorf(dbaas.Unprocessable, "The operation %s has ended (%s) and cannot be %s.", id, op.Status, what)
}

// Operation reads an operation.
func (tx *Tx) Operation(id string) (*dbaas.Operation, error) { return operation(tx.s, tx.db, id) }

// Operation reads an operation. It implements engine.Store.
func (s *Store) Operation(ctx context.Context, id string) (*dbaas.Operation, error) {
	return operation(s, s.read.WithContext(ctx), id)
}

func operation(s *Store, db *gorm.DB, id string) (*dbaas.Operation, error) {
	return require[dbaas.Operation](s, db.Where("id = ?", id), "operation", id)
}

// OperationHolding gives the operation that holds a resource's lock, nil when there is none. It stays as it is until the
// transaction ends.
func (tx *Tx) OperationHolding(resourceID string) (*dbaas.Operation, error) {
	holders, err := tx.lockHolders([]string{resourceID})
	if err != nil || len(holders) == 0 {
		return nil, err
	}
	return &holders[0].Operation, nil
}

// Fenced is a Tx for the holder of an operation: it fails with engine.ErrLeaseLost, and nothing of it is written, when
// another worker has claimed the operation or it has ended. The operation's row is locked last, in the same order as
// by those who change an instance and then its operation.
func (s *Store) Fenced(ctx context.Context, op *dbaas.Operation, fn func(tx *Tx) error) error {
	return s.Tx(ctx, func(tx *Tx) error {
		if err := tx.holds(tx.db, op); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		return tx.holds(tx.lock(), op)
	})
}

func (tx *Tx) holds(db *gorm.DB, op *dbaas.Operation) error {
	row, err := find[dbaas.Operation](db.Select("ID").
		Where("id = ? AND lease_epoch = ? AND ended_at = 0", op.ID, op.LeaseEpoch))
	if err != nil {
		return tx.failed("check the operation's lease", err)
	}
	if row == nil {
		return engine.ErrLeaseLost
	}
	return nil
}

// OperationFilter says which operations to list, and from where. An empty field does not restrict.
type OperationFilter struct {
	ProjectID  string
	ResourceID string
	Status     dbaas.OperationStatus
	Limit      int // 0: all
	Marker     string
}

// ListOperations reads a page of operations, the newest first.
func (s *Store) ListOperations(ctx context.Context, f OperationFilter) (list []dbaas.Operation, more bool, err error) {
	err = operationPage(s.read.WithContext(ctx), f).Find(&list).Error
	list, more = page(ofProject(list, f.ProjectID, func(op dbaas.Operation) string { return op.ProjectID }), f.Limit)
	return list, more, s.failed("list operations", err)
}

func operationPage(db *gorm.DB, f OperationFilter) *gorm.DB {
	q := db.Model(&dbaas.Operation{})
	switch status := string(f.Status); {
	case status == "":
		q = newestFirst(q, f.ProjectID, f.ResourceID, f.Marker)
	case f.ResourceID != "": // these are written as in the indexes
		q = newestFirst(q, "", "", f.Marker).Where("status || '@' || resource_id = ?", status+"@"+f.ResourceID)
	case f.ProjectID != "":
		q = newestFirst(q, "", "", f.Marker).Where("status || '/' || project_id = ?", status+"/"+f.ProjectID)
	default:
		q = newestFirst(q, "", "", f.Marker).Where("status = ?", status)
	}
	return limited(q, f.Limit)
}

// OperationSteps reads an operation's history, in its order.
func (s *Store) OperationSteps(ctx context.Context, id string) (steps []dbaas.OperationStep, err error) {
	err = s.read.WithContext(ctx).Where("operation_id = ?", id).Order("number").Find(&steps).Error
	return steps, s.failed("read the operation's history", err)
}

// Parks tells whether operations wait for one to end that took their locks.
func (s *Store) Parks(ctx context.Context, operationID string) (bool, error) {
	parked, err := find[dbaas.Operation](s.read.WithContext(ctx).Where("parked_by = ? AND parked_by <> '' AND ended_at = 0", operationID))
	return parked != nil, s.failed("look for parked operations", err)
}
