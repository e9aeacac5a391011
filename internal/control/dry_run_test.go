package control_test

import (
	"errors"
	"testing"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// A dry run passes every check and leaves no row, whatever the database.
func TestDryRun(t *testing.T) {
	onBoth(t, func(t *testing.T, h *house) {
		id := h.active()
		curious := tenant
		curious.DryRun = &control.Plan{}
		_, err := h.ResizeVolume(h.ctx(), curious, id, 5)
		if !errors.Is(err, control.ErrDryRun) {
			t.Fatalf("a dry run ends with %v", err)
		}
		if p := curious.DryRun; p.Operation != "resize_volume" || len(p.Resources) != 1 || p.Resources[0] != id || len(p.Effects) == 0 {
			t.Errorf("the plan is %+v", p)
		}
		if v := h.view(id); v.VolumeSize != 1 || v.Task != dbaas.TaskNone || v.Operation != nil {
			t.Errorf("the instance was changed: %+v", v)
		}
		operations, _, err := h.Operations(h.ctx(), tenant, store.OperationFilter{ProjectID: "demo"})
		must(t, err)
		if len(operations) != 1 || h.count("operation_locks") != 0 {
			t.Errorf("the dry run left operations %+v", operations)
		}
		_, err = h.EnableRoot(h.ctx(), curious, id, "")
		if !errors.Is(err, control.ErrDryRun) || h.count("secrets WHERE kind = 'pending-password'") != 0 {
			t.Errorf("a dry run of a password ends with %v", err)
		}
		_, err = h.ResizeVolume(h.ctx(), curious, id, 51)
		refused(t, err, dbaas.OverLimit, "50 GB")
		must(t, orNothing(h.RestartInstance(h.ctx(), tenant, id)))
		_, err = h.ResizeVolume(h.ctx(), curious, id, 5)
		refused(t, err, dbaas.Unprocessable, "restart_instance")
	})
}

func orNothing(_ string, err error) error { return err }
