package simulation

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// plan puts the requests of users, the failovers and the jumps of the clock on the agenda.
func (w *world) plan() {
	for range 5 + w.rng.IntN(10) {
		w.soon(4*time.Minute, w.request)
	}
	if !w.jumps {
		return
	}
	for range 1 + w.rng.IntN(4) {
		w.after(w.upTo(5*time.Minute), func() {
			w.skew += w.upTo(3*time.Minute) - 90*time.Second
			w.trace("the store's clock jumps")
		})
	}
}

// soon has a request come within d; the history does not end before.
func (w *world) soon(d time.Duration, request func()) {
	w.pending++
	w.after(w.upTo(d), func() {
		w.pending--
		request()
	})
}

// request is what one user or watcher does.
func (w *world) request() {
	in := w.anyInstance()
	n := w.rng.IntN(100)
	switch {
	case in == nil || n < 30:
		w.requestCreate()
	case n < 35:
		w.requestCluster()
	case n < 55:
		if in.cluster == "" && in.members == nil {
			w.requestDelete(in, nil)
		}
	case n < 75:
		w.requestResize(in)
		if w.rng.IntN(2) == 0 { // a second caller, or an impatient one
			w.requestResize(in)
		}
		if w.rng.IntN(3) == 0 { // its primary fails while it is at it
			w.soon(time.Second, func() { w.requestFailover(in) })
		}
	case n < 90:
		w.requestFailover(in)
	default:
		w.requestCancel(in)
	}
}

// anyInstance draws one that is not deleted.
func (w *world) anyInstance() *instance {
	var live []*instance
	for _, in := range w.rows {
		if in.status != deleted {
			live = append(live, in)
		}
	}
	if len(live) == 0 {
		return nil
	}
	return live[w.rng.IntN(len(live))]
}

func (w *world) newInstance() *instance {
	return &instance{id: w.newID("i"), project: fmt.Sprint("p", w.rng.IntN(2)), status: building, size: 1 + w.rng.IntN(5)}
}

func (w *world) requestCreate() {
	in := w.newInstance()
	w.insert(in)
	w.enqueue(w.operation(create, in.id), in.id)
	w.audit.counts()
}

func (w *world) requestCluster() {
	in := w.newInstance()
	in.members = []string{in.id + "m1", in.id + "m2"}
	w.insert(in)
	w.enqueue(w.operation(createCluster, in.id), in.id)
}

// requestDelete deletes in every state: it takes over what runs.
func (w *world) requestDelete(in *instance, parent *engine.Operation) {
	if in.status == deleted {
		return
	}
	ctx := context.Background()
	holder, _ := w.memory.Holder(ctx, in.id)
	w.audit.wantDeleted[in.id] = true
	if holder == "" {
		op := w.operation(remove, in.id)
		if parent != nil {
			op.ParentID = parent.ID
		}
		w.enqueue(op, in.id)
		return
	}
	if running, _ := w.memory.Operation(ctx, holder); running.Kind == remove || running.SupersededBy == remove {
		return
	}
	w.trace("delete supersedes", holder)
	if err := w.memory.Supersede(ctx, holder, remove); err != nil {
		w.violated("a delete of %s was refused: %v", in.id, err)
	}
	w.nudge(holder)
}

func (w *world) requestResize(in *instance) {
	if in.status != active || in.members != nil {
		return
	}
	op := w.operation(resize, in.id)
	op.State, _ = json.Marshal(wish{Size: in.size + 1 + w.rng.IntN(3)})
	w.enqueue(op, in.id)
}

func (w *world) requestFailover(in *instance) {
	ctx := context.Background()
	holder, _ := w.memory.Holder(ctx, in.id)
	if in.recorded[server] == 0 || in.status == deleting || in.status == deleted {
		return
	}
	if running, err := w.memory.Operation(ctx, holder); err == nil && (running.Kind == remove || running.SupersededBy == remove) {
		return
	}
	op := w.operation(failover, in.id)
	if err := w.memory.Preempt(ctx, op, in.id); err != nil {
		w.trace("refused", err.Error())
		return
	}
	w.audit.enqueued(op, in.id)
	w.trace(failover, op.ID, "takes", in.id, "from", holder)
	w.nudge(op.ID)
}

func (w *world) requestCancel(in *instance) {
	ctx := context.Background()
	holder, _ := w.memory.Holder(ctx, in.id)
	if op, err := w.memory.Operation(ctx, holder); err == nil && op.Kind == resize && op.SupersededBy == "" {
		w.audit.excuse(holder)
		_ = w.memory.Cancel(ctx, holder)
		w.trace("cancel", holder)
		w.nudge(holder)
	}
}

func (w *world) operation(kind, resource string) *dbaas.Operation {
	return &dbaas.Operation{ID: w.newID("op"), Kind: kind, ResourceType: "instance", ResourceID: resource}
}

// enqueue is the transaction of a request, and the nudge after it.
func (w *world) enqueue(op *dbaas.Operation, lock string) {
	if w.Bug == LockOutsideTransaction {
		w.enqueueCarelessly(op, lock)
		return
	}
	if err := w.memory.Enqueue(context.Background(), op, lock); err != nil {
		w.trace("refused", err.Error())
		return
	}
	w.enqueued(op, lock)
}

func (w *world) enqueued(op *dbaas.Operation, lock string) {
	w.trace("accepted", op.Kind, op.ID, "for", lock)
	w.audit.enqueued(op, lock)
	w.nudge(op.ID)
}

// enqueueCarelessly looks at the lock, and takes it some time later.
func (w *world) enqueueCarelessly(op *dbaas.Operation, lock string) {
	if holder, _ := w.memory.Holder(context.Background(), lock); holder != "" {
		return
	}
	w.soon(time.Second, func() {
		if err := w.memory.Enqueue(context.Background(), op); err != nil {
			return
		}
		w.memory.Edit(func(_ dbaas.Instant, rows *engine.Rows) {
			if l := rows.Lock(lock); l != nil {
				l.OperationID = op.ID
			} else {
				rows.Locks = append(rows.Locks, &dbaas.OperationLock{ResourceID: lock, OperationID: op.ID})
			}
		})
		w.enqueued(op, lock)
	})
}

// enqueueChild is enqueue within a parent's transaction.
func (w *world) enqueueChild(parent *engine.Operation, kind, resource string) {
	op := w.operation(kind, resource)
	op.ParentID = parent.ID
	w.enqueue(op, resource)
}
