package control

import (
	"context"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// RebuildInstance gives an instance a new root disk; its volume, and all data on it, stays, and so do its addresses.
func (s *Service) RebuildInstance(ctx context.Context, c Caller, id string) (string, error) {
	return s.beginChange(ctx, c, id, dbaas.TaskRebooting, func(_ *store.Tx, in *dbaas.Instance) (change, error) {
		if err := requireStarted(in, "rebuilding it"); err != nil {
			return change{}, err
		}
		if in.Persistence == dbaas.PersistenceNone {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "Instance %s keeps nothing on its volume (persistence none): set another persistence before it is rebuilt.", in.ID)
		}
		return change{kind: "rebuild_instance"}, nil
	})
}
