package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) resizeVolume() engine.Workflow {
	return engine.Workflow{
		Kind: "resize_volume",
		Doc:  "Grows the volume and its filesystem while the database serves.",
		Steps: []engine.Step{
			{Name: "extendVolume", Doc: "growing the volume", Run: m.extendVolume, Within: 10 * time.Minute},
			{Name: "awaitVolume", Doc: "waiting for the volume", Run: m.awaitVolume, Within: 30 * time.Minute},
			{Name: "growFilesystem", Doc: "growing the filesystem", Run: m.reconfigure, Within: 30 * time.Minute},
			{Name: "markResized", Doc: "publishing the instance", Run: m.markReconfigured, Within: 5 * time.Minute},
		},
		Failed: m.keepVolume,
		Ended:  "ACTIVE with the fault and the size that the volume has.",
	}
}

func (m *Manager) extendVolume(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return refused(m.Cloud.ExtendVolume(ctx, s.guest.VolumeID, s.instance.VolumeSize))
}

// reconfigureState remembers what a Configure left for the next start.
type reconfigureState struct {
	RestartRequired []string `json:"restart_required"`
}

// reconfigure makes the running database as the rows want it, its filesystem included.
func (m *Manager) reconfigure(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	desired, err := m.desired(ctx, s)
	if err != nil {
		return err
	}
	applied, err := m.agent(s).Configure(ctx, guest.ConfigureRequest{Fence: fence(op, s, op.Step), Desired: desired})
	if err != nil {
		return refused(err)
	}
	return op.Put(reconfigureState{RestartRequired: applied.RestartRequired})
}

// markReconfigured is the last step of a change that ran reconfigure.
func (m *Manager) markReconfigured(ctx context.Context, op *engine.Operation) error {
	var state reconfigureState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		settle(s, state.RestartRequired)
		return nil
	})
}

// keepVolume ends a failed growth: a volume that did grow cannot shrink, so the row says what there is. From a cloud that
// does not answer it is not heard; then the row says what was there before.
func (m *Manager) keepVolume(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	volume, err := m.Cloud.Volume(ctx, s.guest.VolumeID)
	if err != nil && dbaas.ErrorCode(err) != dbaas.NotFound && inStep(op) < revertTime {
		return err
	}
	return m.keepServing(ctx, op, func(s *subject) {
		size := s.instance.Applied.VolumeSize
		if err == nil {
			size = max(size, volume.SizeGB)
		}
		s.instance.VolumeSize, s.instance.Applied.VolumeSize = size, size
	})
}
