package control

import (
	"context"

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
		return s.resized(tx, in, "resize_volume", before, dbaas.QuotaVolumes)
	})
}

// ResizeFlavor moves an instance to another flavor.
func (s *Service) ResizeFlavor(ctx context.Context, c Caller, id, flavorID string) (string, error) {
	catalog, err := s.Catalog(ctx)
	if err != nil {
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
		return s.resized(tx, in, "resize_flavor", before, more...)
	})
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
