package control

import (
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// ConfigurationView is a configuration group with what the API shows beside it.
type ConfigurationView struct {
	dbaas.Configuration
	Datastore     string // name
	Version       dbaas.DatastoreVersion
	InstanceCount int
}

// CreateConfiguration is the wish for a new group.
type CreateConfiguration struct {
	Name          string
	Description   *string
	Values        map[string]any
	Datastore     string
	Version       string
	VersionNumber string
}

// CreateConfiguration makes a configuration group, its values checked against the version's manifest.
func (s *Service) CreateConfiguration(ctx context.Context, c Caller, r CreateConfiguration) (*ConfigurationView, error) {
	version, err := s.findVersion(ctx, r.Datastore, r.Version, r.VersionNumber)
	if err != nil {
		return nil, err
	}
	values, secrets, err := s.splitValues(version, r.Values)
	if err != nil {
		return nil, err
	}
	group := &dbaas.Configuration{
		ID: newID(), ProjectID: c.ProjectID, Name: r.Name, Description: r.Description,
		DatastoreVersionID: version.ID, Values: values,
	}
	err = s.commit(ctx, c, func(tx *store.Tx) error {
		if err := putGroupSecrets(tx, group, secrets); err != nil {
			return err
		}
		return tx.InsertConfiguration(group)
	})
	if err != nil {
		return nil, err
	}
	return s.Configuration(ctx, c, group.ID)
}

// Configuration shows a group.
func (s *Service) Configuration(ctx context.Context, c Caller, id string) (*ConfigurationView, error) {
	if uuid.Validate(id) != nil {
		return nil, configurationNotFound(id)
	}
	group, err := s.Store.Configuration(ctx, id)
	if dbaas.ErrorCode(err) == dbaas.NotFound || err == nil && !c.sees(group.ProjectID) {
		return nil, configurationNotFound(id)
	}
	if err != nil {
		return nil, err
	}
	count, err := s.Store.CountConfigurationInstances(ctx, id)
	if err != nil {
		return nil, err
	}
	views, err := s.configurationViews(ctx, []dbaas.Configuration{*group})
	if err != nil {
		return nil, err
	}
	views[0].InstanceCount = count
	return &views[0], nil
}

// Configurations lists a page of the caller's groups; the administrator's is of all projects.
func (s *Service) Configurations(ctx context.Context, c Caller, limit int, marker string) ([]ConfigurationView, bool, error) {
	filter := store.ConfigurationFilter{ProjectID: c.ProjectID, Limit: limit, Marker: marker}
	if c.Admin {
		filter.ProjectID = ""
	}
	groups, more, err := s.Store.ListConfigurations(ctx, filter)
	if err != nil {
		return nil, false, err
	}
	views, err := s.configurationViews(ctx, groups)
	return views, more, err
}

func (s *Service) configurationViews(ctx context.Context, groups []dbaas.Configuration) ([]ConfigurationView, error) {
	datastores, versions, err := s.Store.Datastores(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]ConfigurationView, len(groups))
	for i, g := range groups {
		views[i] = ConfigurationView{Configuration: g}
		if v, ok := findByID(versions, g.DatastoreVersionID); ok {
			views[i].Version = v
			views[i].Datastore = datastoreName(datastores, v.DatastoreID)
		}
	}
	return views, nil
}

// ConfigurationInstances lists a page of the instances that a group is attached to.
func (s *Service) ConfigurationInstances(ctx context.Context, c Caller, id string, limit int, marker string) ([]dbaas.Instance, bool, error) {
	if _, err := s.Configuration(ctx, c, id); err != nil {
		return nil, false, err
	}
	return s.Store.ConfigurationInstances(ctx, id, limit, marker)
}

// UpdateConfiguration is a change of a group; nil fields stay as they are.
type UpdateConfiguration struct {
	Name        *string
	Description *string
	Values      map[string]any
}

// ReplaceConfiguration replaces all values of a group, and applies them to every instance it is attached to: all of
// these must be idle, else nothing is changed.
func (s *Service) ReplaceConfiguration(ctx context.Context, c Caller, id string, u UpdateConfiguration) ([]string, error) {
	return s.changeConfiguration(ctx, c, id, u, false)
}

// PatchConfiguration merges values into a group; name and description are ignored (api.md 3.12.5).
func (s *Service) PatchConfiguration(ctx context.Context, c Caller, id string, u UpdateConfiguration) ([]string, error) {
	u.Name, u.Description = nil, nil
	return s.changeConfiguration(ctx, c, id, u, true)
}

func (s *Service) changeConfiguration(ctx context.Context, c Caller, id string, u UpdateConfiguration, merge bool) ([]string, error) {
	view, err := s.Configuration(ctx, c, id)
	if err != nil {
		return nil, err
	}
	version := &VersionView{DatastoreVersion: view.Version}
	values, secrets, err := s.splitValues(version, u.Values)
	if err != nil {
		return nil, err
	}
	var operationIDs []string
	err = s.commit(ctx, c, func(tx *store.Tx) error {
		operationIDs = nil
		if _, err := lockAttached(tx, id); err != nil { // instances are locked before their group
			return err
		}
		group, err := tx.Configuration(id)
		if err != nil {
			return err
		}
		previous := group.Values
		if err := updateGroup(tx, group, u, values, secrets, merge); err != nil {
			return err
		}
		operationIDs, err = s.reconfigureInstances(ctx, tx, c, group, previous, len(secrets) > 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.nudge(ctx, operationIDs...)
	return operationIDs, nil
}

func updateGroup(tx *store.Tx, group *dbaas.Configuration, u UpdateConfiguration, values map[string]any, secrets map[string]string, merge bool) error {
	if u.Name != nil {
		group.Name = *u.Name
	}
	if u.Description != nil {
		group.Description = u.Description
	}
	if merge {
		merged := maps.Clone(group.Values)
		if merged == nil {
			merged = map[string]any{}
		}
		maps.Copy(merged, values)
		values = merged
	} else if err := dropGroupSecrets(tx, group, secrets); err != nil {
		return err
	}
	group.Values = values
	if err := putGroupSecrets(tx, group, secrets); err != nil {
		return err
	}
	return tx.UpdateConfiguration(group)
}

// reconfigureInstances enqueues an operation for each instance that the group is attached to.
func (s *Service) reconfigureInstances(ctx context.Context, tx *store.Tx, c Caller, group *dbaas.Configuration, previous map[string]any, password bool) ([]string, error) {
	instances, err := lockAttached(tx, group.ID)
	if err != nil {
		return nil, err
	}
	var operationIDs, clusters []string
	for _, in := range instances {
		if in.ClusterID != "" {
			if slices.Contains(clusters, in.ClusterID) {
				continue
			}
			clusters = append(clusters, in.ClusterID)
			id, err := s.reconfigureCluster(ctx, tx, c, in.ClusterID, ConfigureState{PreviousConfigurationID: group.ID, PreviousValues: previous}, password)
			if err != nil {
				return nil, err
			}
			operationIDs = append(operationIDs, id)
			continue
		}
		if err := requireIdle(tx, in); err != nil {
			return nil, err
		}
		id, err := s.configure(ctx, tx, c, in, ConfigureState{PreviousConfigurationID: group.ID, PreviousValues: previous}, password)
		if err != nil {
			return nil, err
		}
		operationIDs = append(operationIDs, id)
	}
	return operationIDs, nil
}

// lockAttached locks the instances that have the group attached, and gives them as they are then.
func lockAttached(tx *store.Tx, configurationID string) ([]*dbaas.Instance, error) {
	list, err := tx.ConfigurationInstances(configurationID)
	if err != nil {
		return nil, err
	}
	var locked []*dbaas.Instance
	for i := range list {
		in, err := tx.Instance(list[i].ID)
		switch {
		case dbaas.ErrorCode(err) == dbaas.NotFound: // deleted meanwhile
		case err != nil:
			return nil, err
		case in.ConfigurationID == configurationID:
			locked = append(locked, in)
		}
	}
	return locked, nil
}

// DeleteConfiguration deletes a group that is attached nowhere.
func (s *Service) DeleteConfiguration(ctx context.Context, c Caller, id string) error {
	if _, err := s.Configuration(ctx, c, id); err != nil {
		return err
	}
	return s.commit(ctx, c, func(tx *store.Tx) error {
		if _, err := tx.Configuration(id); err != nil {
			return err
		}
		instances, err := tx.ConfigurationInstances(id)
		if err != nil {
			return err
		}
		if len(instances) > 0 {
			return dbaas.Errorf(dbaas.BadRequest, "Configuration group %s is attached to %d instance(s), %s first: detach it there before deleting it.",
				id, len(instances), instances[0].ID)
		}
		return tx.DeleteConfiguration(id)
	})
}

func configurationNotFound(id string) error {
	return dbaas.Errorf(dbaas.NotFound, "Configuration group %s not found.", id)
}

// configurationFor gives the group that an instance names, checked to be its project's, of its version and fit for its
// size; nil when it names none.
func (s *Service) configurationFor(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance, version *VersionView) (*dbaas.Configuration, error) {
	if in.ConfigurationID == "" {
		return nil, nil
	}
	if uuid.Validate(in.ConfigurationID) != nil {
		return nil, configurationNotFound(in.ConfigurationID)
	}
	group, err := tx.Configuration(in.ConfigurationID)
	if dbaas.ErrorCode(err) == dbaas.NotFound || err == nil && group.ProjectID != in.ProjectID {
		return nil, configurationNotFound(in.ConfigurationID)
	}
	if err != nil {
		return nil, err
	}
	if group.DatastoreVersionID != version.ID {
		return nil, dbaas.Errorf(dbaas.BadRequest, "Configuration group %s is for another datastore version than the instance's (%s).", group.ID, version.Name)
	}
	return group, s.requireFit(ctx, in, version, group)
}

// requireFit checks a group's values against the size of an instance.
func (s *Service) requireFit(ctx context.Context, in *dbaas.Instance, version *VersionView, group *dbaas.Configuration) error {
	m, err := s.manifest(&version.DatastoreVersion)
	if err != nil {
		return err
	}
	size, err := s.sizing(ctx, in)
	if err != nil {
		return err
	}
	_, err = m.Validate(version.Name, group.Values, size)
	return err
}

// requireValuesFit checks the attached group, if any, against the instance's new size.
func (s *Service) requireValuesFit(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance) error {
	version, err := s.versionByID(ctx, in.DatastoreVersionID)
	if err != nil {
		return err
	}
	_, err = s.configurationFor(ctx, tx, c, in, version)
	return err
}

// splitValues validates values and parts those that are secret from the others.
func (s *Service) splitValues(version *VersionView, values map[string]any) (plain map[string]any, secrets map[string]string, err error) {
	m, err := s.manifest(&version.DatastoreVersion)
	if err != nil {
		return nil, nil, err
	}
	plain, err = m.Validate(version.Name, values, datastore.Sizing{})
	if err != nil {
		return nil, nil, err
	}
	secrets = map[string]string{}
	for name, value := range plain {
		if p, ok := m.Parameter(version.Name, name); ok && p.Secret {
			secrets[name], _ = value.(string)
			delete(plain, name)
		}
	}
	return plain, secrets, nil
}

func putGroupSecrets(tx *store.Tx, group *dbaas.Configuration, secrets map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		if _, err := tx.PutSecret(group.ID, secretValuePrefix+name, []byte(secrets[name])); err != nil {
			return err
		}
		if !slices.Contains(group.SecretNames, name) {
			group.SecretNames = append(group.SecretNames, name)
		}
	}
	return nil
}

// dropGroupSecrets removes the group's secret values, save those that are set anew.
func dropGroupSecrets(tx *store.Tx, group *dbaas.Configuration, keep map[string]string) error {
	for _, name := range group.SecretNames {
		if _, ok := keep[name]; ok {
			continue
		}
		id, err := tx.FindSecret(group.ID, secretValuePrefix+name)
		if err != nil {
			return err
		}
		if id != "" {
			if err := tx.DeleteSecret(id); err != nil {
				return err
			}
		}
	}
	group.SecretNames = slices.DeleteFunc(group.SecretNames, func(name string) bool { _, ok := keep[name]; return !ok })
	return nil
}

// groupPassword gives the account's password that a group sets, nil when it sets none: the one secret that a group has.
func groupPassword(tx *store.Tx, group *dbaas.Configuration) ([]byte, error) {
	if len(group.SecretNames) == 0 {
		return nil, nil
	}
	id, err := tx.FindSecret(group.ID, secretValuePrefix+group.SecretNames[0])
	if err != nil || id == "" {
		return nil, err
	}
	return tx.RevealSecret(id)
}

// takePassword lets a group's password stand in for the generated one of a new instance.
func (s *Service) takePassword(tx *store.Tx, group *dbaas.Configuration, created *Created) error {
	value, err := groupPassword(tx, group)
	if value != nil {
		created.Password = string(value)
	}
	return err
}
