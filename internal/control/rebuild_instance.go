package control

import (
	"context"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// RebuildInstance gives an instance a new root disk; its volume, and all data on it, stays, and so do its addresses. The
// guests of a hot standby have theirs one after the other.
func (s *Service) RebuildInstance(ctx context.Context, c Caller, id string) (string, error) {
	return s.beginChange(ctx, c, id, dbaas.TaskRebooting, func(tx *store.Tx, in *dbaas.Instance) (change, error) {
		if err := requireStarted(in, "rebuilding it"); err != nil {
			return change{}, err
		}
		if err := requireInStep(tx, in); err != nil {
			return change{}, err
		}
		if in.Persistence == dbaas.PersistenceNone && in.HighAvailability == nil {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "Instance %s keeps nothing on its volume (persistence none): set another persistence before it is rebuilt.", in.ID)
		}
		return change{kind: forPair(in, "rebuild_instance", "rebuild_pair")}, nil
	})
}
