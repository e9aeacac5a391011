package control

import (
	"context"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// Findings reads a page of what the janitor reports: the administrator's.
func (s *Service) Findings(ctx context.Context, c Caller, limit int, marker string) (list []dbaas.Finding, more bool, err error) {
	if !c.Admin {
		return nil, false, dbaas.Errorf(dbaas.Forbidden, "Only an administrator may see what the janitor found.")
	}
	return s.Store.ListFindings(ctx, limit, marker)
}

// DeleteOrphans has a taskmanager delete orphans that are reported: these, or all of them with no ids.
func (s *Service) DeleteOrphans(ctx context.Context, c Caller, ids ...string) error {
	if !c.Admin {
		return dbaas.Errorf(dbaas.Forbidden, "Only an administrator may have orphans deleted.")
	}
	return s.commit(ctx, c, func(tx *store.Tx) error {
		for _, id := range ids {
			f, err := tx.Finding(id)
			if err != nil {
				return err
			}
			if f.Problem != dbaas.ProblemOrphan {
				return dbaas.Errorf(dbaas.BadRequest, "The finding %s tells of what is missing in the cloud: there is nothing to delete. Rebuild or delete the instance %s.", id, f.InstanceID)
			}
		}
		by := c.UserID
		if by == "" {
			by = c.ProjectID
		}
		_, err := tx.WishOrphansDeleted(by, ids...)
		return err
	})
}
