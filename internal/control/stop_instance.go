package control

import (
	"context"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// StopInstance stops the database, the standby's too. It stays stopped, and nothing is failed over, until it is started.
func (s *Service) StopInstance(ctx context.Context, c Caller, id string) (string, error) {
	return s.beginChange(ctx, c, id, dbaas.TaskUpdating, func(_ *store.Tx, in *dbaas.Instance) (change, error) {
		if in.Stopped {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "Instance %s is stopped already.", in.ID)
		}
		in.Stopped = true
		return change{kind: "stop_instance"}, nil
	})
}

// StartInstance starts a stopped database.
func (s *Service) StartInstance(ctx context.Context, c Caller, id string) (string, error) {
	return s.beginChange(ctx, c, id, dbaas.TaskRebooting, func(_ *store.Tx, in *dbaas.Instance) (change, error) {
		if !in.Stopped {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "Instance %s was not stopped; restart is the action for one that runs.", in.ID)
		}
		return change{kind: "start_instance"}, nil
	})
}

// requireStarted refuses what takes a running database.
func requireStarted(in *dbaas.Instance, what string) error {
	if in.Stopped {
		return dbaas.Errorf(dbaas.Unprocessable, "Instance %s is stopped: start it before %s.", in.ID, what)
	}
	return nil
}
