package simulation

import (
	"strings"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// audit keeps its own books, and compares.
type audit struct {
	world       *world
	live        int               // operations that have not ended
	locks       map[string]string // what each of them was given
	leases      map[string]shadow
	actors      map[actor]string         // worker by operation and epoch
	excused     map[string]bool          // operations that may fail: the cloud refused, an operator cancelled
	began       map[string]time.Duration // deletes
	wantDeleted map[string]bool
}

// shadow is who holds an operation's lease, by the audit's books.
type shadow struct {
	worker string
	epoch  int64
	until  dbaas.Instant
}

type actor struct {
	operation string
	epoch     int64
}

func newAudit(w *world) audit {
	return audit{
		world: w, locks: map[string]string{}, leases: map[string]shadow{}, actors: map[actor]string{},
		excused: map[string]bool{}, began: map[string]time.Duration{}, wantDeleted: map[string]bool{},
	}
}

// excuse notes why an operation may fail.
func (a *audit) excuse(operation string) { a.excused[operation] = true }

func (a *audit) enqueued(op *dbaas.Operation, lock string) {
	a.live++
	a.world.result.Operations++
	a.locks[op.ID] = lock
	a.books()
}

// claimed: nobody else holds a lease, nor works beside a failover that parked it.
func (a *audit) claimed(worker string, op *dbaas.Operation) {
	w, now := a.world, a.world.storeNow()
	if s := a.leases[op.ID]; s.until > now {
		w.violated("%s claimed %s, which %s holds", worker, op.ID, s.worker)
	}
	w.memory.Edit(func(_ dbaas.Instant, rows *engine.Rows) {
		for _, parked := range rows.Operations {
			if parked.ParkedBy == op.ID && parked.LeaseUntil > now {
				w.violated("failover %s goes on beside a step of %s", op.ID, parked.ID)
			}
		}
		if l := rows.Lock(op.ResourceID); l == nil || l.OperationID != op.ID {
			w.violated("%s is at work on %s without its lock", op.ID, op.ResourceID)
		}
	})
	a.leases[op.ID] = shadow{worker, op.LeaseEpoch, op.LeaseUntil}
}

// acts: in one epoch there is one holder.
func (a *audit) acts(worker string, op *engine.Operation) {
	key := actor{op.ID, op.LeaseEpoch}
	if first, known := a.actors[key]; known && first != worker {
		a.world.violated("%s and %s both act on %s in epoch %d", first, worker, op.ID, op.LeaseEpoch)
	}
	a.actors[key] = worker
}

// saved: only the last to claim writes.
func (a *audit) saved(worker string, epoch int64, op *dbaas.Operation, s engine.Save) {
	if held := a.leases[op.ID]; held.epoch != epoch || held.worker != worker {
		a.world.violated("%s saved %s, which %s has claimed since", worker, op.ID, held.worker)
	}
	held := shadow{worker, epoch, 0}
	if s.Keep > 0 {
		held.until = op.LeaseUntil
	}
	a.leases[op.ID] = held
	if s.Ended {
		a.ended(op)
	}
}

// wrote: only the last to claim writes other rows.
func (a *audit) wrote(op *engine.Operation) {
	if held := a.leases[op.ID]; held.epoch != op.LeaseEpoch {
		a.world.violated("%s wrote rows for %s, which %s has claimed since", op.LeaseOwner, op.ID, held.worker)
	}
}

// obeys: a guest does nothing for a holder that was replaced.
func (a *audit) obeys(operation string, epoch, highest int64) {
	if epoch < highest {
		a.world.violated("a guest obeyed epoch %d of %s after epoch %d", epoch, operation, highest)
	}
}

// created: nothing is created whose name was there before the call.
func (a *audit) created(guest string, kind int, began time.Duration) {
	for _, r := range a.world.cloud.owned(guest) {
		if r.kind == kind && r.since <= began {
			a.world.violated("resource %d of %s was created twice", kind, guest)
		}
	}
}

func (a *audit) deletes(guest string) {
	if _, known := a.began[guest]; !known {
		a.began[guest] = a.world.now
	}
}

// ended: an operation fails for a reason, and a delete leaves nothing.
func (a *audit) ended(op *dbaas.Operation) {
	w := a.world
	if _, known := a.locks[op.ID]; !known {
		w.violated("%s has ended twice", op.ID)
	}
	delete(a.locks, op.ID)
	a.live--
	if op.Status != dbaas.OperationSucceeded {
		switch {
		case op.Kind == remove || op.Kind == failover || !a.excused[op.ID]:
			w.violated("%s %s is %s without a reason: %s", op.Kind, op.ID, op.Status, op.Failure.Message)
		case strings.Contains(op.Failure.Message, "did not finish within"):
			w.violated("%s %s ran out of time: %s", op.Kind, op.ID, op.Failure.Message)
		}
		a.excuse(op.ParentID)
	}
	if op.Kind == remove {
		for _, r := range w.cloud.owned(op.ResourceID) {
			if r.since < a.began[op.ResourceID] {
				w.violated("%s left resource %d of %s behind", op.ID, r.kind, op.ResourceID)
			}
		}
	}
	a.books()
}

// books: the locks are those of the operations that have not ended.
func (a *audit) books() {
	w := a.world
	w.memory.Edit(func(_ dbaas.Instant, rows *engine.Rows) {
		held := map[string]bool{}
		for _, op := range rows.Operations {
			resource, known := a.locks[op.ID]
			if op.Status.Ended() || !known {
				continue
			}
			l := rows.Lock(resource)
			if l == nil || (l.OperationID != op.ID && l.ParkedID != op.ID) {
				w.violated("%s has not ended and does not hold the lock of %s", op.ID, resource)
			}
			held[resource] = true
		}
		for _, l := range rows.Locks {
			if !held[l.ResourceID] || rows.Operation(l.OperationID).Status.Ended() {
				w.violated("%s is locked by %s, which has ended", l.ResourceID, l.OperationID)
			}
		}
	})
	a.counts()
}

// counts: quota in use is what the rows say, and what is deleted stays so.
func (a *audit) counts() {
	w := a.world
	used := map[string]int{}
	for _, in := range w.rows {
		if in.members == nil && in.status != deleted {
			used[in.project]++
		}
	}
	for _, project := range []string{"p0", "p1"} {
		if used[project] != w.used[project] {
			w.violated("quota of %s says %d, its rows %d", project, w.used[project], used[project])
		}
	}
}

func (a *audit) neverEnds() {
	a.world.memory.Edit(func(_ dbaas.Instant, rows *engine.Rows) {
		for _, op := range rows.Operations {
			if !op.Status.Ended() {
				a.world.violated("%s %s never ends: %s at %q, parked by %q", op.Kind, op.ID, op.Status, op.Step, op.ParkedBy)
			}
		}
	})
}

// theEnd: every wish came true, or its failure is told; cloud and rows agree.
func (a *audit) theEnd() {
	w := a.world
	a.books()
	if a.live != 0 {
		a.neverEnds()
	}
	for _, in := range w.rows {
		switch {
		case a.wantDeleted[in.id] && in.status != deleted:
			w.violated("the delete of %s was lost: it is %s", in.id, in.status)
		case in.status == deleted && !a.wantDeleted[in.id]:
			w.violated("%s was deleted and nobody asked", in.id)
		case in.status == building || in.status == deleting:
			w.violated("%s is left in %s", in.id, in.status)
		case in.members != nil:
			a.cluster(in)
		default:
			a.instance(in)
		}
	}
}

func (a *audit) cluster(in *instance) {
	for _, id := range in.members {
		member := a.world.instance(id)
		if in.status == active && (member == nil || member.status != active) {
			a.world.violated("cluster %s is active without %s", in.id, id)
		}
		if in.status == broken && member != nil && member.status != deleted {
			a.world.violated("cluster %s failed and left %s", in.id, id)
		}
	}
}

func (a *audit) instance(in *instance) {
	w := a.world
	var have [kinds]int
	for _, r := range w.cloud.owned(in.id) {
		have[r.kind]++
		if recorded := in.recorded[r.kind]; in.status == deleted || (recorded != 0 && recorded != r.id) {
			w.violated("resource %d of %s (%s) is in no row", r.kind, in.id, in.status)
		}
	}
	if in.status != active {
		return
	}
	for kind, n := range have {
		if n != 1 {
			w.violated("%s has %d of resource %d", in.id, n, kind)
		}
	}
	if g := w.cloud.guest(in.id); g.prepared != 1 || g.size != in.size {
		w.violated("guest of %s was prepared %d times and has size %d, its row %d", in.id, g.prepared, g.size, in.size)
	}
}
