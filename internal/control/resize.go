package control

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// ResizeVolume grows an instance's volume to gb.
func (s *Service) ResizeVolume(ctx context.Context, c Caller, id string, gb int) (string, error) {
	return s.beginChange(ctx, c, id, dbaas.TaskResizing, func(tx *store.Tx, in *dbaas.Instance) (change, error) {
		if gb <= in.VolumeSize {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "The volume has %d GB and can only grow: ask for more than that.", in.VolumeSize)
		}
		if err := s.requireVolumeSize(gb); err != nil {
			return change{}, err
		}
		before := sizes(in)
		in.VolumeSize = gb
		replicas, err := growReplicas(tx, in)
		if err != nil {
			return change{}, err
		}
		ch, err := s.resized(tx, in, "resize_volume", before, dbaas.QuotaVolumes)
		ch.lock = replicas
		return ch, err
	})
}

// growReplicas gives the replicas of a source volumes that are no smaller than its own. One that is broken is left alone.
func growReplicas(tx *store.Tx, source *dbaas.Instance) (grown []string, err error) {
	ids, err := tx.Replicas(source.ID)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		in, err := tx.Instance(id)
		if err != nil {
			return nil, err
		}
		if !in.Task.Idle() || in.VolumeSize >= source.VolumeSize {
			continue
		}
		in.VolumeSize, in.Task, in.Fault = source.VolumeSize, dbaas.TaskResizing, nil
		if err := tx.UpdateInstance(in); err != nil {
			return nil, err
		}
		grown = append(grown, id)
	}
	return grown, nil
}

// ResizeFlavor moves an instance to another flavor.
func (s *Service) ResizeFlavor(ctx context.Context, c Caller, id, flavorID string) (string, error) {
	catalog, err := s.Catalog(ctx)
	if err != nil {
		return "", err
	}
	view, err := s.Instance(ctx, c, id)
	if err != nil {
		return "", err
	}
	if err := s.requireDataFit(ctx, c, view, flavorID); err != nil {
		return "", err
	}
	return s.beginChange(ctx, c, id, dbaas.TaskResizing, func(tx *store.Tx, in *dbaas.Instance) (change, error) {
		flavor, ok := catalog.Flavor(flavorID)
		if !ok {
			return change{}, unknownFlavor(catalog, flavorID)
		}
		if flavorID == in.FlavorID {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "The instance has flavor %s already.", flavorID)
		}
		before, more := sizes(in), []string{dbaas.QuotaRAM}
		if old, ok := catalog.Flavor(in.FlavorID); ok && flavor.RAM <= old.RAM {
			more = nil
		}
		in.FlavorID = flavorID
		if err := s.requireValuesFit(ctx, tx, c, in); err != nil {
			return change{}, err
		}
		if !in.Stopped {
			if err := requireInStep(tx, in); err != nil {
				return change{}, err
			}
		}
		return s.resized(tx, in, forPair(in, "resize_flavor", "resize_pair"), before, more...)
	})
}

// requireDataFit refuses a flavor with less memory than the data of an instance take.
func (s *Service) requireDataFit(ctx context.Context, c Caller, v *dbaas.InstanceView, flavorID string) error {
	m, err := s.manifest(&v.Version)
	if err != nil || m.RequireFit == nil || len(v.Guests) == 0 {
		return err
	}
	before, err := s.sizing(ctx, &v.Instance)
	if err != nil {
		return err
	}
	small := v.Instance
	small.FlavorID = flavorID
	after, err := s.sizing(ctx, &small)
	if err != nil || after.FlavorRAM == 0 || after.FlavorRAM >= before.FlavorRAM {
		return err
	}
	values := map[string]any{}
	if v.ConfigurationID != "" {
		group, err := s.Configuration(ctx, c, v.ConfigurationID)
		if err != nil {
			return err
		}
		values = group.Values
	}
	metrics := map[string]float64{}
	if told := v.Heartbeats[v.Guests[0].ID].Metrics; told != "" {
		if err := json.Unmarshal([]byte(told), &metrics); err != nil {
			return fmt.Errorf("read what the database told of itself: %w", err)
		}
	}
	return m.RequireFit(v.Version.Name, values, after, metrics)
}

// resized writes the wish and checks the quota of what it takes more of.
func (s *Service) resized(tx *store.Tx, in *dbaas.Instance, kind string, before any, more ...string) (change, error) {
	if err := tx.LockProject(in.ProjectID); err != nil {
		return change{}, err
	}
	if err := tx.UpdateInstance(in); err != nil {
		return change{}, err
	}
	return change{kind: kind, before: before, after: sizes(in)}, s.requireQuota(tx, in.ProjectID, more...)
}
