package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (s *Server) datastoreRoutes() []route {
	return []route{
		{http.MethodGet, "/datastores", plain("datastore:index", s.listDatastores)},
		{http.MethodGet, "/datastores/versions/{version}", plain("datastore:version_show_by_uuid", s.showVersionOfDatastore)},
		{http.MethodGet, "/datastores/versions/{version}/parameters", plain("configuration-parameter:index_by_version", s.listParameters)},
		{http.MethodGet, "/datastores/versions/{version}/parameters/{name}", plain("configuration-parameter:show_by_version", s.showParameter)},
		{http.MethodGet, "/datastores/{datastore}", plain("datastore:show", s.showDatastore)},
		{http.MethodGet, "/datastores/{datastore}/versions", plain("datastore:version_index", s.listVersions)},
		{http.MethodGet, "/datastores/{datastore}/versions/{version}", plain("datastore:version_show", s.showVersionOfDatastore)},
		{http.MethodGet, "/datastores/{datastore}/versions/{version}/flavors", plain("datastore:list_associated_flavors", s.listVersionFlavors)},
		{http.MethodGet, "/datastores/{datastore}/versions/{version}/volume-types", plain("datastore:list_associated_volume_types", s.listVersionVolumeTypes)},
		{http.MethodGet, "/datastores/{datastore}/versions/{version}/parameters", plain("configuration-parameter:index", s.listParameters)},
		{http.MethodGet, "/datastores/{datastore}/versions/{version}/parameters/{name}", plain("configuration-parameter:show", s.showParameter)},
	}
}

func (s *Server) listDatastores(r *request) (*answer, error) {
	views, err := s.Control.Datastores(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	list := wire.DatastoreList{Datastores: []wire.Datastore{}}
	for i := range views {
		list.Datastores = append(list.Datastores, renderDatastore(r, &views[i]))
	}
	return ok(list)
}

func (s *Server) showDatastore(r *request) (*answer, error) {
	view, err := s.Control.Datastore(r.Context(), r.caller, r.param("datastore"))
	if err != nil {
		return nil, err
	}
	return ok(wire.DatastoreEnvelope{Datastore: renderDatastore(r, view)})
}

func (s *Server) listVersions(r *request) (*answer, error) {
	view, err := s.Control.Datastore(r.Context(), r.caller, r.param("datastore"))
	if err != nil {
		return nil, err
	}
	list := wire.VersionList{Versions: []wire.Version{}}
	for _, v := range view.Versions {
		list.Versions = append(list.Versions, renderVersion(r, v, view.ID))
	}
	return ok(list)
}

func (s *Server) showVersionOfDatastore(r *request) (*answer, error) {
	view, err := s.findVersion(r)
	if err != nil {
		return nil, err
	}
	return ok(wire.VersionEnvelope{Version: renderVersion(r, view.DatastoreVersion, view.DatastoreVersion.DatastoreID)})
}

// findVersion finds the version that the path names: within a datastore, or alone by its id.
func (s *Server) findVersion(r *request) (*control.VersionView, error) {
	return s.Control.Version(r.Context(), r.caller, r.param("datastore"), r.param("version"))
}

// renderDatastore leaves a default version out that is not among the versions: the CLI looks it up there.
func renderDatastore(r *request, v *control.DatastoreView) wire.Datastore {
	d := wire.Datastore{ID: v.ID, Name: v.Name, Versions: []wire.Version{}, Links: links(r, "datastores", v.ID)}
	for _, version := range v.Versions {
		d.Versions = append(d.Versions, renderVersion(r, version, ""))
		if version.ID == v.DefaultVersionID {
			d.DefaultVersion = version.ID
		}
	}
	return d
}

func renderVersion(r *request, v dbaas.DatastoreVersion, datastoreID string) wire.Version {
	version := wire.Version{ID: v.ID, Name: v.Name, Version: v.Number, Datastore: datastoreID, Links: links(r, "datastores/versions", v.ID)}
	if version.Version == "" {
		version.Version = v.Name
	}
	if r.caller.Admin {
		version.VersionAdmin = &wire.VersionAdmin{
			Active: v.Active, Packages: orNull(strings.Join(v.Packages, ",")), Image: orNull(v.Image), ImageTags: orEmpty(v.ImageTags),
		}
	}
	return version
}

func (s *Server) listParameters(r *request) (*answer, error) {
	version, parameters, err := s.parameters(r)
	if err != nil {
		return nil, err
	}
	list := wire.ParameterList{Parameters: []wire.Parameter{}}
	for _, p := range parameters {
		list.Parameters = append(list.Parameters, renderParameter(p, version.DatastoreVersion.ID))
	}
	return ok(list)
}

// showParameter answers the parameter bare, as Trove does.
func (s *Server) showParameter(r *request) (*answer, error) {
	version, parameters, err := s.parameters(r)
	if err != nil {
		return nil, err
	}
	name := r.param("name")
	i := slices.IndexFunc(parameters, func(p datastore.Parameter) bool { return strings.EqualFold(p.Name, name) })
	if i < 0 {
		return nil, dbaas.Errorf(dbaas.NotFound, "Version %s has no configuration parameter %q that you may set.", version.Name, printable(name))
	}
	return ok(renderParameter(parameters[i], version.DatastoreVersion.ID))
}

func (s *Server) parameters(r *request) (*control.VersionView, []datastore.Parameter, error) {
	return s.Control.Parameters(r.Context(), r.caller, r.param("datastore"), r.param("version"))
}

func renderParameter(p datastore.Parameter, versionID string) wire.Parameter {
	return wire.Parameter{
		Name: p.Name, Type: string(p.Type), Min: p.Min, Max: p.Max, RestartRequired: p.Restart,
		DatastoreVersionID: versionID, Values: p.Values,
	}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
