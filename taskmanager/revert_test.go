package taskmanager_test

import (
	"context"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// during runs a change of an instance, and does a deed once while a step of its runs: then the operation is cancelled too, and the
// one that it is part of.
func (h *house) during(t *testing.T, step string, deed func(tx *store.Tx) error, begin func() (string, error)) *dbaas.InstanceView {
	t.Helper()
	done := false
	stop := h.run(t, func(at engine.Point, op *engine.Operation) {
		if done || at != engine.BeforeStep || op.Step != step || op.Status != dbaas.OperationRunning {
			return
		}
		done = true
		err := h.store.Tx(context.Background(), func(tx *store.Tx) error {
			if deed != nil {
				if err := deed(tx); err != nil {
					return err
				}
			}
			if op.ParentID != "" {
				if err := tx.CancelOperation(op.ParentID); err != nil {
					return err
				}
			}
			return tx.CancelOperation(op.ID)
		})
		if err != nil {
			t.Error(err)
		}
	})
	defer stop()
	op := h.awaitEnd(t, mustID(t)(begin()))
	if !done || op.Status == dbaas.OperationSucceeded || op.Failure == nil || strings.Contains(op.Failure.Message, "did not finish") {
		t.Errorf("step %s seen: %t; the operation ended %s: %+v", step, done, op.Status, op.Failure)
	}
	return h.view(t, op.ResourceID)
}

// succeed runs a change to its good end.
func (h *house) succeed(t *testing.T, begin func() (string, error)) *dbaas.InstanceView {
	t.Helper()
	defer h.run(t, nil)()
	op := h.awaitEnd(t, mustID(t)(begin()))
	if op.Status != dbaas.OperationSucceeded {
		t.Fatalf("%s ended %s: %+v", op.Kind, op.Status, op.Failure)
	}
	return h.view(t, op.ResourceID)
}

func (h *house) group(t *testing.T, values map[string]any) string {
	t.Helper()
	g, err := h.control.CreateConfiguration(t.Context(), tester, control.CreateConfiguration{Name: "g", Datastore: "redis", Values: values})
	must(t, err)
	return g.ID
}

// TestRestartRequiredStays: a value that waits for a restart goes on waiting through changes that do not restart, whether
// they succeed or fail, and through a restart that did not come about.
func TestRestartRequiredStays(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	ctx, in := t.Context(), h.createActive(t)
	attach := func(group string) func() (string, error) {
		return func() (string, error) {
			return h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{Configuration: &group})
		}
	}
	access := func(cidr string) func() (string, error) {
		return func() (string, error) {
			return h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{Access: &dbaas.Access{AllowedCIDRs: []string{cidr}}})
		}
	}
	restart := func() (string, error) { return h.control.RestartInstance(ctx, tester, in) }
	expect := func(what string, v *dbaas.InstanceView, want dbaas.Task) {
		t.Helper()
		if v.Task != want {
			t.Errorf("after %s the instance is %s, want %s", what, v.Task, want)
		}
	}
	first := h.group(t, map[string]any{"databases": 32})
	expect("a value for the next start", h.succeed(t, attach(first)), dbaas.TaskRestartRequired)
	expect("a change of access", h.succeed(t, access("127.0.0.0/8")), dbaas.TaskRestartRequired)
	expect("a failed change of access", h.during(t, "applyAccess", nil, access("127.0.0.1/32")), dbaas.TaskRestartRequired)
	expect("a failed change of the password", h.during(t, "applyPassword", nil, func() (string, error) {
		root, err := h.control.EnableRoot(ctx, tester, in, "")
		must(t, err)
		return root.OperationID, nil
	}), dbaas.TaskRestartRequired)
	expect("a growth of the volume", h.succeed(t, func() (string, error) { return h.control.ResizeVolume(ctx, tester, in, 2) }), dbaas.TaskRestartRequired)
	expect("a failed change of values", h.during(t, "applyConfiguration", nil, attach(h.group(t, map[string]any{"databases": 64}))), dbaas.TaskRestartRequired)
	expect("a failed restart", h.during(t, "restartDatabase", nil, restart), dbaas.TaskRestartRequired)
	expect("a restart", h.succeed(t, restart), dbaas.TaskNone)
}

// TestNothingToGoBackTo: a change that fails when its way back is gone too ends all the same, and the instance is not
// left busy with nobody at work on it.
func TestNothingToGoBackTo(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	ctx, in := t.Context(), h.createActive(t)
	before, after := h.group(t, map[string]any{"timeout": 100}), h.group(t, map[string]any{"timeout": 200})
	attach := func(group string) func() (string, error) {
		return func() (string, error) {
			return h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{Configuration: &group})
		}
	}
	h.succeed(t, attach(before))

	v := h.during(t, "applyConfiguration", func(tx *store.Tx) error { return tx.DeleteConfiguration(before) }, attach(after))
	if v.ConfigurationID != "" || v.Task != dbaas.TaskNone || v.Fault == nil {
		t.Errorf("its old group is gone: %s with group %q, fault %v", v.Task, v.ConfigurationID, v.Fault)
	}
	h.succeed(t, attach(after)) // goes on working

	noFlavors := func(tx *store.Tx) error { return tx.SaveCatalog(&dbaas.Catalog{Region: "RegionOne"}) }
	v = h.during(t, "applyConfiguration", noFlavors, attach(""))
	if v.ConfigurationID != after || v.Task != dbaas.TaskNone || v.Fault == nil {
		t.Errorf("its flavor is gone: %s with group %q, fault %v", v.Task, v.ConfigurationID, v.Fault)
	}
	v = h.during(t, "stopDatabase", noFlavors, func() (string, error) { return h.control.ResizeFlavor(ctx, tester, in, "2") })
	if v.Task != dbaas.TaskError || v.Fault == nil {
		t.Errorf("neither flavor is left: %s, fault %v", v.Task, v.Fault)
	}
}
