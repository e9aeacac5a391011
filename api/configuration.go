package api

import (
	"maps"
	"net/http"
	"slices"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (s *Server) configurationRoutes() []route {
	return []route{
		{http.MethodGet, "/configurations", plain("configuration:index", s.listConfigurations)},
		{http.MethodPost, "/configurations", withBody(s, "configuration:create", s.createConfiguration)},
		{http.MethodGet, "/configurations/{id}", plain("configuration:show", s.showConfiguration)},
		{http.MethodPut, "/configurations/{id}", withBody(s, "configuration:update", s.putConfiguration)},
		{http.MethodPatch, "/configurations/{id}", withBody(s, "configuration:edit", s.patchConfiguration)},
		{http.MethodDelete, "/configurations/{id}", plain("configuration:delete", s.deleteConfiguration)},
		{http.MethodGet, "/configurations/{id}/instances", plain("configuration:instances", s.listConfigurationInstances)},
	}
}

func (s *Server) listConfigurations(r *request) (*answer, error) {
	p, err := s.page(r)
	if err != nil {
		return nil, err
	}
	views, more, err := s.Control.Configurations(r.Context(), r.caller, p.limit, p.marker)
	if err != nil {
		return nil, err
	}
	list := wire.ConfigurationList{Configurations: []wire.Configuration{}}
	for i := range views {
		list.Configurations = append(list.Configurations, renderConfiguration(&views[i]))
	}
	if more {
		list.Links, list.ConfigurationsLinks = s.nextLinks(r, views[len(views)-1].ID)
	}
	return ok(list)
}

func (s *Server) createConfiguration(r *request, body *wire.CreateConfigurationRequest) (*answer, error) {
	c := body.Configuration
	if c == nil {
		return nil, badRequest("configuration is required.")
	}
	if c.Values == nil {
		return nil, badRequest("configuration.values is required: an object of parameters, which may be empty.")
	}
	if err := requireConfiguration(&c.Name, c.Description, c.Values); err != nil {
		return nil, err
	}
	wish := control.CreateConfiguration{Name: c.Name, Description: c.Description, Values: c.Values}
	if d := c.Datastore; d != nil {
		wish.Datastore, wish.Version, wish.VersionNumber = d.Type, d.Version, d.VersionNumber
	}
	view, err := s.Control.CreateConfiguration(r.Context(), r.caller, wish)
	if err != nil {
		return nil, err
	}
	return ok(wire.ConfigurationEnvelope{Configuration: renderConfigurationDetail(view)})
}

func (s *Server) showConfiguration(r *request) (*answer, error) {
	view, err := s.Control.Configuration(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return ok(wire.ConfigurationEnvelope{Configuration: renderConfigurationDetail(view)})
}

// putConfiguration replaces all values; a body without values takes them all away.
func (s *Server) putConfiguration(r *request, body *wire.UpdateConfigurationRequest) (*answer, error) {
	wish, err := configurationChange(body)
	if err != nil {
		return nil, err
	}
	if wish.Values == nil {
		wish.Values = map[string]any{}
	}
	ids, err := s.Control.ReplaceConfiguration(r.Context(), r.caller, r.param("id"), wish)
	if err != nil {
		return nil, err
	}
	return accepted(ids...), s.await(r, ids...)
}

// patchConfiguration merges values. Without any there is nothing to apply.
func (s *Server) patchConfiguration(r *request, body *wire.UpdateConfigurationRequest) (*answer, error) {
	wish, err := configurationChange(body)
	if err != nil {
		return nil, err
	}
	if len(wish.Values) == 0 {
		_, err := s.Control.Configuration(r.Context(), r.caller, r.param("id"))
		return &answer{status: http.StatusOK}, err
	}
	ids, err := s.Control.PatchConfiguration(r.Context(), r.caller, r.param("id"), wish)
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusOK, operations: ids}, s.await(r, ids...)
}

func configurationChange(body *wire.UpdateConfigurationRequest) (control.UpdateConfiguration, error) {
	c := body.Configuration
	if c == nil {
		return control.UpdateConfiguration{}, badRequest("configuration is required.")
	}
	wish := control.UpdateConfiguration{Name: c.Name, Description: c.Description, Values: c.Values}
	return wish, requireConfiguration(c.Name, c.Description, c.Values)
}

// maxValue is how long a parameter's value may be.
const maxValue = 128

func requireConfiguration(name, description *string, values map[string]any) error {
	if name != nil {
		if err := requireName("configuration.name", *name); err != nil {
			return err
		}
	}
	if description != nil && len([]rune(*description)) > maxName {
		return badRequest("configuration.description may have %d characters.", maxName)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		text, isText := values[key].(string)
		switch {
		case !isText:
		case text == wire.Masked:
			return dbaas.Errorf(dbaas.Unprocessable, "configuration.values.%s: %s is how a secret value is shown, not a value to set.", printable(key), wire.Masked)
		case len(text) > maxValue:
			return dbaas.Errorf(dbaas.Unprocessable, "configuration.values.%s: a value may have %d characters.", printable(key), maxValue)
		}
	}
	return nil
}

func (s *Server) deleteConfiguration(r *request) (*answer, error) {
	if err := s.Control.DeleteConfiguration(r.Context(), r.caller, r.param("id")); err != nil {
		return nil, err
	}
	return accepted(), nil
}

func (s *Server) listConfigurationInstances(r *request) (*answer, error) {
	p, err := s.page(r)
	if err != nil {
		return nil, err
	}
	instances, more, err := s.Control.ConfigurationInstances(r.Context(), r.caller, r.param("id"), p.limit, p.marker)
	if err != nil {
		return nil, err
	}
	list := wire.ConfigurationInstances{Instances: []wire.Resource{}}
	for _, i := range instances {
		list.Instances = append(list.Instances, wire.Resource{ID: i.ID, Name: i.Name})
	}
	if more {
		list.Links, list.InstancesLinks = s.nextLinks(r, instances[len(instances)-1].ID)
	}
	return ok(list)
}

func renderConfiguration(v *control.ConfigurationView) wire.Configuration {
	return wire.Configuration{
		ID: v.ID, Name: v.Name, Description: v.Description, Created: at(v.CreatedAt), Updated: at(v.UpdatedAt),
		DatastoreName: v.Datastore, DatastoreVersionID: v.DatastoreVersionID,
		DatastoreVersionName: v.Version.Name, DatastoreVersionNumber: v.Version.Number,
	}
}

// renderConfigurationDetail adds the values; of secret ones only that they are set.
func renderConfigurationDetail(v *control.ConfigurationView) wire.Configuration {
	c := renderConfiguration(v)
	values := map[string]any{}
	maps.Copy(values, v.Values)
	for _, name := range v.SecretNames {
		values[name] = wire.Masked
	}
	c.ConfigurationDetail = &wire.ConfigurationDetail{Values: values, InstanceCount: v.InstanceCount}
	return c
}
