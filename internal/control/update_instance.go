package control

import (
	"context"
	"slices"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// UpdateInstance is a set of changes to an instance; nil fields stay as they are.
type UpdateInstance struct {
	Name               *string
	Configuration      *string // the group to attach; "" detaches
	DeletionProtection *bool
	Access             *dbaas.Access
	Persistence        *dbaas.Persistence // "" is the datastore's default
	Profile            *string            // of tuning; "" is none
	Version            *string            // to upgrade to, by id or name
	Detach             bool               // the replica leaves its source
	Availability       *ChangeAvailability
	TLS                *dbaas.TLSMode
}

// UpdateInstance applies a change. Name and protection are changed at once, in any state; a configuration group or
// access rules become an operation, whose id it gives ("" when there was nothing left to do).
func (s *Service) UpdateInstance(ctx context.Context, c Caller, id string, u UpdateInstance) (string, error) {
	var operationID string
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		in, err := ownInstance(tx, c, id)
		if err != nil {
			return err
		}
		if u.Name != nil {
			in.Name = *u.Name
		}
		if u.DeletionProtection != nil {
			in.DeletionProtection = *u.DeletionProtection
		}
		operationID = ""
		switch {
		case u.Configuration != nil && u.Access != nil:
			err = dbaas.Errorf(dbaas.BadRequest, "Change the configuration group and the access one after the other.")
		case u.Detach:
			operationID, err = s.detach(tx, c, in)
		case u.Configuration != nil:
			operationID, err = s.setConfiguration(ctx, tx, c, in, *u.Configuration)
		case u.Access != nil:
			operationID, err = s.setAccess(tx, c, in, *u.Access)
		case u.Persistence != nil:
			operationID, err = s.setPersistence(ctx, tx, c, in, *u.Persistence)
		case u.Profile != nil:
			operationID, err = s.setProfile(ctx, tx, c, in, *u.Profile)
		case u.Version != nil:
			operationID, err = s.upgrade(ctx, tx, c, in, *u.Version)
		case u.TLS != nil:
			operationID, err = s.setTLS(ctx, tx, c, in, *u.TLS)
		case u.Availability != nil:
			operationID, err = s.setAvailability(ctx, tx, c, in, u.Availability.Wish)
		}
		if err != nil {
			return err
		}
		return tx.UpdateInstance(in)
	})
	if err != nil {
		return "", err
	}
	if operationID != "" {
		s.nudge(ctx, operationID)
	}
	return operationID, nil
}

// AccessState is the private state of an update_access operation.
type AccessState struct {
	Previous dbaas.Access `json:"previous"`
}

func (s *Service) setAccess(tx *store.Tx, c Caller, in *dbaas.Instance, access dbaas.Access) (string, error) {
	if err := requireIdle(tx, in); err != nil {
		return "", err
	}
	if access.IsPublic == in.Access.IsPublic && slices.Equal(access.AllowedCIDRs, in.Access.AllowedCIDRs) {
		return "", nil
	}
	ch := change{kind: "update_access", instance: in, state: AccessState{Previous: in.Access}, before: in.Access, after: access}
	in.Access, in.Task, in.Fault = access, dbaas.TaskUpdating, nil
	return s.enqueue(tx, c, ch)
}

// ConfigureState is the private state of a configure_instance operation: what a refusal goes back to.
type ConfigureState struct {
	PreviousConfigurationID string         `json:"previous_configuration_id"`
	PreviousValues          map[string]any `json:"previous_values"`
	// SetsPassword: the instance's pending password is to become its password.
	SetsPassword bool `json:"sets_password"`
}

// setConfiguration attaches a group to an instance, or detaches the one it has with "".
func (s *Service) setConfiguration(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance, configurationID string) (string, error) {
	if err := requireIdle(tx, in); err != nil {
		return "", err
	}
	switch {
	case configurationID == "" && in.ConfigurationID == "":
		return "", nil
	case configurationID != "" && configurationID == in.ConfigurationID:
		return "", dbaas.Errorf(dbaas.BadRequest, "Configuration group %s is attached to instance %s already.", configurationID, in.ID)
	}
	state := ConfigureState{PreviousConfigurationID: in.ConfigurationID}
	if in.ConfigurationID != "" {
		previous, err := tx.Configuration(in.ConfigurationID)
		if err != nil {
			return "", err
		}
		state.PreviousValues = previous.Values
	}
	in.ConfigurationID = configurationID
	return s.configure(ctx, tx, c, in, state, true)
}

// configure enqueues that an instance is made as its configuration group says. With password, a password in the group
// is set as well.
func (s *Service) configure(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance, state ConfigureState, password bool) (string, error) {
	version, err := s.versionByID(ctx, in.DatastoreVersionID)
	if err != nil {
		return "", err
	}
	group, err := s.configurationFor(ctx, tx, c, in, version)
	if err != nil {
		return "", err
	}
	if group != nil && password {
		value, err := groupPassword(tx, group)
		if err != nil {
			return "", err
		}
		if value != nil {
			state.SetsPassword = true
			if _, err := tx.PutSecret(in.GroupID, SecretPendingPassword, value); err != nil {
				return "", err
			}
		}
	}
	ch := change{kind: "configure_instance", instance: in, state: state,
		before: map[string]any{"configuration": state.PreviousConfigurationID}, after: map[string]any{"configuration": in.ConfigurationID}}
	in.Task, in.Fault = dbaas.TaskUpdating, nil
	if err := tx.UpdateInstance(in); err != nil {
		return "", err
	}
	return s.enqueue(tx, c, ch)
}
