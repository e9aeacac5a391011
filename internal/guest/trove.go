package guest

import (
	"context"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// The names that Trove has for what its guests do, besides restart and stop, which are ours too. Each answers: all that
// changes a database is one Configure, whose arguments they take.
const (
	TroveConfigurationManager = "configuration_manager"
	TroveUpdateOverrides      = "update_overrides"
	TroveEnableAsMaster       = "enable_as_master"
	TroveAttachReplica        = "attach_replica"
	TroveDetachReplica        = "detach_replica"
	TroveEnableRoot           = "enable_root"
	TroveDisableRoot          = "disable_root"
	TroveGetRootPassword      = "get_root_password"
	TroveCreateBackup         = "create_backup"
)

// dispatchTrove answers a method by the name that Trove has for it.
func (s *server) dispatchTrove(ctx context.Context, m *rpc.Envelope) (any, error) {
	switch m.Method {
	case TroveConfigurationManager, TroveUpdateOverrides:
		return s.configure(ctx, m, func(*ConfigureRequest) error { return nil })
	case TroveEnableAsMaster, TroveDetachReplica:
		return s.configure(ctx, m, func(r *ConfigureRequest) error { r.Desired.Master = nil; return nil })
	case TroveAttachReplica:
		return s.configure(ctx, m, func(r *ConfigureRequest) error {
			if r.Desired.Master == nil {
				return dbaas.Errorf(dbaas.BadRequest, "%s needs desired.master: whom the replica is to follow.", m.Method)
			}
			return nil
		})
	case TroveEnableRoot, TroveDisableRoot: // the account is never without a password
		return s.configure(ctx, m, func(r *ConfigureRequest) error {
			if len(r.Sealed[datastore.SecretPassword]) == 0 {
				return dbaas.Errorf(dbaas.BadRequest, "%s needs sealed.%s: the account's new password.", m.Method, datastore.SecretPassword)
			}
			return nil
		})
	case TroveGetRootPassword:
		return nil, dbaas.Errorf(dbaas.Forbidden, "A guest keeps only a hash of the password; ask the API for the instance's credentials.")
	case TroveCreateBackup:
		return nil, dbaas.Errorf(dbaas.NotImplemented, "This agent makes no backups yet.")
	}
	return nil, dbaas.Errorf(dbaas.NotImplemented, "This agent does not know %q.", m.Method)
}

func (s *server) configure(ctx context.Context, m *rpc.Envelope, shape func(*ConfigureRequest) error) (any, error) {
	return resultOf(m, func(r ConfigureRequest) (*datastore.Applied, error) {
		if err := shape(&r); err != nil {
			return nil, err
		}
		return s.api.Configure(ctx, r)
	})
}
