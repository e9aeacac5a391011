package control

import (
	"context"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
)

// Root is the answer of enabling root: the account's name as Trove's clients know it, and its new password.
type Root struct {
	Name             string
	Password         string
	PasswordSecretID string
	OperationID      string
}

// PasswordState is the private state of a set_password operation. The value is the instance's pending password.
type PasswordState struct {
	RootEnabled bool   `json:"root_enabled"` // what "root enabled" shall say afterwards
	EnabledBy   string `json:"enabled_by"`
}

// EnableRoot sets a new password of the tenant's account, the given one or with "" a generated one.
func (s *Service) EnableRoot(ctx context.Context, c Caller, id, password string) (*Root, error) {
	m, err := s.rootManifest(ctx, c, id)
	if err != nil {
		return nil, err
	}
	if password == "" {
		password = secret.GeneratePassword()
	}
	root := &Root{Name: m.Root, Password: password}
	root.OperationID, root.PasswordSecretID, err = s.setPassword(ctx, c, id, password, PasswordState{RootEnabled: true, EnabledBy: c.UserID})
	if err != nil {
		return nil, err
	}
	return root, nil
}

// DisableRoot replaces the password by another that only Credentials reveals: the account is never without one. An
// instance whose root was never enabled is dbaas.NotFound.
func (s *Service) DisableRoot(ctx context.Context, c Caller, id string) (string, error) {
	if _, err := s.rootManifest(ctx, c, id); err != nil {
		return "", err
	}
	enabled, err := s.RootEnabled(ctx, c, id)
	if err != nil {
		return "", err
	}
	if !enabled {
		return "", dbaas.Errorf(dbaas.NotFound, "Root is not enabled on instance %s.", id)
	}
	operationID, _, err := s.setPassword(ctx, c, id, secret.GeneratePassword(), PasswordState{})
	return operationID, err
}

// RootEnabled tells whether root was enabled and not disabled since.
func (s *Service) RootEnabled(ctx context.Context, c Caller, id string) (bool, error) {
	v, err := s.Instance(ctx, c, id)
	if err != nil {
		return false, err
	}
	return !v.RootEnabledAt.IsZero(), nil
}

func (s *Service) setPassword(ctx context.Context, c Caller, id, password string, state PasswordState) (operationID, secretID string, err error) {
	operationID, err = s.beginChange(ctx, c, id, dbaas.TaskUpdating, func(tx *store.Tx, in *dbaas.Instance) (ch change, err error) {
		secretID, err = tx.PutSecret(in.GroupID, SecretPendingPassword, []byte(password))
		return change{kind: "set_password", state: state}, err
	})
	return operationID, secretID, err
}

// rootManifest refuses datastores without a root account.
func (s *Service) rootManifest(ctx context.Context, c Caller, id string) (*datastore.Manifest, error) {
	v, err := s.Instance(ctx, c, id)
	if err != nil {
		return nil, err
	}
	m, err := s.manifest(&v.Version)
	if err != nil {
		return nil, err
	}
	if !m.Capabilities.Root {
		return nil, dbaas.Errorf(dbaas.NotImplemented, "Datastore %s has no root account.", m.Name)
	}
	if v.ReplicaOf != "" {
		return nil, dbaas.Errorf(dbaas.BadRequest, "Instance %s is a replica: change the password on its source.", v.ID)
	}
	return m, nil
}

// Behind gives the instances of a set that missed the newest password, for they did not answer; they get it when they do.
func (s *Service) Behind(ctx context.Context, c Caller, id string) ([]string, error) {
	v, err := s.Instance(ctx, c, id)
	if err != nil {
		return nil, err
	}
	set, err := s.Store.GroupViews(ctx, v.GroupID)
	if err != nil {
		return nil, err
	}
	var behind []string
	for i := range set {
		if a := set[i].Applied; a != nil && len(a.Behind) > 0 {
			behind = append(behind, set[i].ID)
		}
	}
	return behind, nil
}
