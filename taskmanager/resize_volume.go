package taskmanager

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) resizeVolume() engine.Workflow {
	return engine.Workflow{
		Kind: "resize_volume",
		Doc:  "Grows the volume and its filesystem while the database serves; those of a source's replicas too.",
		Steps: []engine.Step{
			{Name: "extendVolume", Doc: "growing the volume", Run: m.extendVolumes, Within: 10 * time.Minute},
			{Name: "awaitVolume", Doc: "waiting for the volume", Run: m.awaitVolumes, Within: 30 * time.Minute},
			{Name: "growFilesystem", Doc: "growing the filesystem", Run: m.growFilesystems, Within: 30 * time.Minute},
			{Name: "markResized", Doc: "publishing the instance", Run: m.markResized, Within: 5 * time.Minute},
		},
		Failed: m.keepVolume,
		Ended:  "ACTIVE with the fault and the size that the volume has.",
	}
}

// growing gives the members that grow: all guests of the operation's instance and, when that is a source, of its replicas.
func (s *subject) growing() []member {
	var all []member
	for _, m := range s.members {
		if m.instance.ID == s.instance.ID || m.instance.ReplicaOf == s.instance.ID && m.instance.Task == dbaas.TaskResizing {
			all = append(all, m)
		}
	}
	return all
}

func (m *Manager) extendVolumes(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range s.growing() {
		if err := m.Cloud.ExtendVolume(ctx, one.guest.VolumeID, one.instance.VolumeSize); err != nil {
			return m.refusedByCloud(ctx, op, err)
		}
	}
	return nil
}

func (m *Manager) awaitVolumes(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range s.growing() {
		if err := m.volumeReady(ctx, op, s.on(one)); err != nil {
			return err
		}
	}
	return nil
}

// growFilesystems fits the filesystems to the volumes, a replica's first.
func (m *Manager) growFilesystems(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	state := resizeState{RestartRequired: map[string][]string{}}
	all := s.growing()
	slices.SortStableFunc(all, func(a, b member) int { return cmp.Compare(b.instance.ReplicaOf, a.instance.ReplicaOf) })
	for _, one := range all {
		at := s.on(one)
		desired, err := m.desired(ctx, at)
		if err != nil {
			return err
		}
		applied, err := m.agent(at).Configure(ctx, guest.ConfigureRequest{Fence: fence(op, at, op.Step), Desired: desired})
		if err != nil {
			return refused(err)
		}
		state.RestartRequired[one.instance.ID] = applied.RestartRequired
	}
	return op.Put(state)
}

// resizeState remembers, by instance, what a Configure left for the next start.
type resizeState struct {
	RestartRequired map[string][]string `json:"restart_required"`
}

func (m *Manager) markResized(ctx context.Context, op *engine.Operation) error {
	var state resizeState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.eachGrowing(ctx, op, func(in *dbaas.Instance) { settle(&subject{instance: in}, state.RestartRequired[in.ID]) })
}

// eachGrowing edits the rows of the instances that grow.
func (m *Manager) eachGrowing(ctx context.Context, op *engine.Operation, edit func(in *dbaas.Instance)) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		s, err := readSubject(tx, op)
		if err != nil {
			return err
		}
		done := map[string]bool{}
		for _, one := range s.growing() {
			if done[one.instance.ID] {
				continue
			}
			done[one.instance.ID] = true
			edit(one.instance)
			if err := tx.UpdateInstance(one.instance); err != nil {
				return err
			}
		}
		return nil
	})
}

// keepVolume ends a failed growth: a volume that did grow cannot shrink, so the rows say what there is. From a cloud that
// does not answer it is not heard; then they say what was there before.
func (m *Manager) keepVolume(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	size := map[string]int{}
	for _, one := range s.growing() {
		volume, err := m.Cloud.Volume(ctx, one.guest.VolumeID)
		if err != nil && dbaas.ErrorCode(err) != dbaas.NotFound && inStep(op) < revertTime {
			return err
		}
		if err == nil {
			size[one.instance.ID] = max(size[one.instance.ID], volume.SizeGB)
		}
	}
	return m.eachGrowing(ctx, op, func(in *dbaas.Instance) {
		grown := max(in.Applied.VolumeSize, size[in.ID])
		in.VolumeSize, in.Applied.VolumeSize = grown, grown
		in.Task, in.Fault = in.IdleTask(), op.Failure
	})
}
