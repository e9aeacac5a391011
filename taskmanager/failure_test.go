package taskmanager_test

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// TestFailedAtEveryStep lets every workflow fail for good after each of its steps, by an operator's cancel, and abandons
// the taskmanager once in the middle of the cleanup. Afterwards the instance is as design rule 6 says: ACTIVE with the
// fault, the old values and a database that serves; ERROR only where there was none, and delete cleans that up (R11).
func TestFailedAtEveryStep(t *testing.T) {
	t.Parallel()
	for name, url := range databases(t) {
		eachForm(t, name, func(t *testing.T, mine func(kind string) bool) {
			h := openHouse(t, url(t), t.TempDir())
			var at standing
			for _, w := range sorted(t, tried()) {
				tr := trials()[w.Kind]
				if !mine(w.Kind) || !chosen(w.Kind) || tr.heavy && (name != "sqlite" || tr.soaks) && !fullCrash() {
					continue
				}
				steps := w.Steps[:len(w.Steps)-1] // after the last step there is nothing left to fail
				if tr.varies && fullCrash() {     // each step once in each way
					steps = slices.Concat(steps, steps[:1-len(steps)%2], steps)
				}
				for i, s := range steps {
					if tr.heavy && !tr.sampled(i) && !fullCrash() {
						continue
					}
					at = h.failAfter(t, w.Kind, s.Name, at)
					if t.Failed() {
						t.Fatalf("at %s/%s", w.Kind, s.Name)
					}
				}
			}
		})
	}
}

// failAfter runs a trial, cancels it while a step runs, and checks how the instance ends. It gives the instance that the
// next trial may use.
func (h *house) failAfter(t *testing.T, kind, step string, at standing) standing {
	t.Helper()
	tr := trials()[kind]
	at = h.ready(t, tr, at)
	var before *dbaas.InstanceView
	if !tr.creates {
		before = h.view(t, at.id)
	}
	abandoned := make(chan struct{}, 1)
	stop := h.run(t, cancelDuring(h, kind, step, func() {
		abandoned <- struct{}{}
		runtime.Goexit()
	}))
	id := tr.begin(t.Context(), t, h, at.id)
	select {
	case <-abandoned:
	case <-time.After(time.Minute):
		t.Errorf("the cleanup of %s/%s was not reached within a minute", kind, step)
	}
	stop()
	h.expireLeases(t)
	stop = h.run(t, nil)
	op := h.awaitEnd(t, id)
	if op.Status != dbaas.OperationCancelled || op.Failure == nil {
		t.Errorf("the operation ended %s with failure %v, want it cancelled with a reason", op.Status, op.Failure)
	}
	stop()
	if op.ResourceType == "cluster" {
		return h.leaveFailedCluster(t, tr, op)
	}
	v := h.view(t, op.ResourceID)
	if !tr.unasked && (v.Fault == nil || v.Fault.Message == "") {
		t.Error("the instance has no fault")
	}
	if tr.creates || tr.deletes {
		if v.Task != dbaas.TaskError {
			t.Errorf("the task is %s, want ERROR", v.Task)
		}
		h.delete(t, v.ID)
		return h.leave(t, tr, id)
	}
	if tr.failed != nil {
		tr.failed(t, h, v)
	} else {
		h.requireUnchanged(t, before, v)
	}
	return h.leave(t, tr, id)
}

// TestDeletedAtEveryStep has a tenant delete an instance while each step of a change of it runs: the change becomes the
// deletion, and nothing is left of either. make test takes hot standbys, at one step in four. A source is left out: while
// it has replicas nobody may delete it.
func TestDeletedAtEveryStep(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	var at standing
	n := 0
	for _, w := range sorted(t, tried()) {
		tr := trials()[w.Kind]
		if !chosen(w.Kind) || tr.deletes || w.Kind == "create_replicas" || tr.form != "" && tr.form != "standby" || strings.HasSuffix(w.Kind, "_cluster") || !tr.heavy && !fullCrash() {
			continue
		}
		for _, s := range w.Steps {
			if n++; n%4 != 0 && !fullCrash() {
				continue
			}
			at = h.deleteDuring(t, w.Kind, s.Name, at)
			if t.Failed() {
				t.Fatalf("at %s/%s", w.Kind, s.Name)
			}
		}
	}
}

// deleteDuring runs a trial, and deletes its instance while a step runs.
func (h *house) deleteDuring(t *testing.T, kind, step string, at standing) standing {
	t.Helper()
	tr := trials()[kind]
	at = h.ready(t, tr, at)
	var once sync.Once
	var refused error
	defer h.run(t, func(at engine.Point, op *engine.Operation) {
		if at == engine.BeforeStep && op.Kind == kindOf(kind) && op.Step == step {
			once.Do(func() { _, refused = h.control.DeleteInstance(context.Background(), tester, op.ResourceID) })
		}
	})()
	op := h.awaitEnd(t, tr.begin(t.Context(), t, h, at.id))
	if refused != nil || op.Kind != "delete_instance" || op.Status != dbaas.OperationSucceeded {
		t.Errorf("the operation ended as %s %s: %+v; the deletion: %v", op.Kind, op.Status, op.Failure, refused)
	}
	return standing{form: tr.form, id: h.audit(t, op.ID)}
}

// cancelDuring makes an observer that cancels an operation of a kind while a step of it runs, and dies at the end of the
// first try to clean up.
func cancelDuring(h *house, kind, step string, die func()) func(engine.Point, *engine.Operation) {
	var mu sync.Mutex
	died := false
	return func(at engine.Point, op *engine.Operation) {
		if op.Kind != kindOf(kind) {
			return
		}
		if at == engine.BeforeStep && op.Step == step && op.Status == dbaas.OperationRunning {
			_ = h.store.Tx(context.Background(), func(tx *store.Tx) error { return tx.CancelOperation(op.ID) })
		}
		mu.Lock()
		first := at == engine.AfterEffect && op.Status == dbaas.OperationFailing && !died
		died = died || first
		mu.Unlock()
		if first {
			die()
		}
	}
}

func (h *house) view(t *testing.T, id string) *dbaas.InstanceView {
	t.Helper()
	v, err := h.control.Instance(t.Context(), control.Caller{ProjectID: tester.ProjectID}, id)
	must(t, err)
	return v
}

// requireUnchanged compares what a tenant has before and after a change that failed: all is as before, save a volume
// that did grow, and the database serves with the old password.
func (h *house) requireUnchanged(t *testing.T, before, after *dbaas.InstanceView) {
	t.Helper()
	if after.Task != dbaas.TaskNone {
		t.Errorf("the task is %s, want NONE", after.Task)
	}
	if after.FlavorID != before.FlavorID || after.ConfigurationID != before.ConfigurationID || after.VolumeSize < before.VolumeSize ||
		after.VolumeSize > before.VolumeSize+1 || len(after.Access.AllowedCIDRs) != len(before.Access.AllowedCIDRs) {
		t.Errorf("the instance changed:\n before %+v\n after  %+v", before.Instance, after.Instance)
	}
	volume, err := h.local.Volume(t.Context(), after.Guests[0].VolumeID)
	must(t, err)
	if volume.SizeGB != after.VolumeSize {
		t.Errorf("the volume has %d GB, the row says %d", volume.SizeGB, after.VolumeSize)
	}
	if timeout := h.parameters(t, after, "timeout"); before.ConfigurationID == "" && timeout != "0" {
		t.Errorf("timeout is %s without a configuration group", timeout)
	}
	h.requireServing(t, after)
}
