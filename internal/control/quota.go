package control

import (
	"context"
	"maps"
	"slices"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// Usage tells a project's limits and what of them is in use, counted from its rows.
func (s *Service) Usage(ctx context.Context, c Caller, projectID string) ([]dbaas.Usage, error) {
	if !c.sees(projectID) {
		return nil, dbaas.Errorf(dbaas.Forbidden, "Only an administrator may see another project's quotas.")
	}
	return s.Store.Usage(ctx, projectID, s.Quotas)
}

// SetQuotas changes limits of a project; nil skips one, -1 is unlimited. It gives back those that it changed.
func (s *Service) SetQuotas(ctx context.Context, c Caller, projectID string, limits map[string]*int) (map[string]int, error) {
	if !c.Admin {
		return nil, dbaas.Errorf(dbaas.Forbidden, "Only an administrator may change quotas.")
	}
	for _, resource := range slices.Sorted(maps.Keys(limits)) {
		if !slices.Contains(dbaas.QuotaResources(), resource) {
			return nil, dbaas.Errorf(dbaas.NotFound, "There is no quota for %q; there are: instances, volumes, backups, ram.", resource)
		}
		if l := limits[resource]; l != nil && *l < -1 {
			return nil, dbaas.Errorf(dbaas.BadRequest, "The quota for %s must be -1 (unlimited), 0 or more.", resource)
		}
	}
	set := map[string]int{}
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		for resource, limit := range limits {
			if limit == nil {
				continue
			}
			if err := tx.SetQuota(dbaas.Quota{ProjectID: projectID, Resource: resource, Limit: *limit}); err != nil {
				return err
			}
			set[resource] = *limit
		}
		return nil
	})
	return set, err
}

// QuotaDefaults are the limits of a project without its own.
func (s *Service) QuotaDefaults() map[string]int { return maps.Clone(s.Quotas) }
