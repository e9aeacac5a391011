package api

import (
	"net/http"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
)

func (s *Server) versionRoutes() []route {
	const rule = "mgmt:datastore_versions"
	return []route{
		{http.MethodGet, "/mgmt/datastore-versions", plain(rule, s.mgmtVersions)},
		{http.MethodPost, "/mgmt/datastore-versions", withBody(s, rule, s.createVersion)},
		{http.MethodGet, "/mgmt/datastore-versions/{version}", plain(rule, s.mgmtVersion)},
		{http.MethodPatch, "/mgmt/datastore-versions/{version}", withBody(s, rule, s.updateVersion)},
		{http.MethodDelete, "/mgmt/datastore-versions/{version}", plain(rule, s.deleteVersion)},
		{http.MethodDelete, "/datastores/{datastore}", plain("datastore:delete", s.deleteDatastore)},
	}
}

func (s *Server) mgmtVersions(r *request) (*answer, error) {
	views, err := s.Control.Versions(r.Context(), r.caller)
	if err != nil {
		return nil, err
	}
	list := wire.MgmtVersionList{Versions: []wire.MgmtVersion{}}
	for _, v := range views {
		list.Versions = append(list.Versions, renderMgmtVersion(v))
	}
	return ok(list)
}

func (s *Server) mgmtVersion(r *request) (*answer, error) {
	v, err := s.Control.Version(r.Context(), r.caller, "", r.param("version"))
	if err != nil {
		return nil, err
	}
	return ok(wire.MgmtVersionEnvelope{Version: renderMgmtVersion(*v)})
}

func renderMgmtVersion(v control.VersionView) wire.MgmtVersion {
	number := v.Number
	if number == "" {
		number = v.Name
	}
	return wire.MgmtVersion{
		ID: v.ID, Name: v.Name, Version: number, DatastoreID: v.DatastoreID, DatastoreName: v.Datastore.Name, DatastoreManager: v.Manager,
		Image: v.Image, ImageTags: orEmpty(v.ImageTags), Packages: orEmpty(v.Packages), Active: v.Active, Default: v.Datastore.DefaultVersionID == v.ID,
	}
}

// createVersion answers without a body: the client reads one as a mistake.
func (s *Server) createVersion(r *request, body *wire.CreateVersionRequest) (*answer, error) {
	w := body.Version
	switch {
	case w == nil:
		return nil, badRequest("version is required: an object with name, datastore_name, datastore_manager and active.")
	case w.Name == nil || w.DatastoreManager == nil || w.Active == nil || w.DatastoreName == "":
		return nil, badRequest("version needs name, datastore_name, datastore_manager and active.")
	}
	if len(w.DatastoreName) > maxName || len(w.Number) > maxName {
		return nil, badRequest("version.datastore_name and version.version have at most %d characters.", maxName)
	}
	wish, err := offerWish("version.", &w.UpdateVersion)
	if err != nil {
		return nil, err
	}
	return done(s.Control.CreateVersion(r.Context(), r.caller, w.DatastoreName, w.Number, wish))
}

func (s *Server) updateVersion(r *request, body *wire.UpdateVersion) (*answer, error) {
	wish, err := offerWish("", body)
	if err != nil {
		return nil, err
	}
	return done(s.Control.UpdateVersion(r.Context(), r.caller, r.param("version"), wish))
}

func (s *Server) deleteVersion(r *request) (*answer, error) {
	return done(s.Control.DeleteVersion(r.Context(), r.caller, r.param("version")))
}

func (s *Server) deleteDatastore(r *request) (*answer, error) {
	return done(s.Control.DeleteDatastore(r.Context(), r.caller, r.param("datastore")))
}

// done is an empty 202: what was asked for has been done.
func done(err error) (*answer, error) {
	if err != nil {
		return nil, err
	}
	return accepted(), nil
}

// The most tags of an image, and the longest of them.
const (
	maxTags = 5
	maxTag  = 20
)

// offerWish checks the shape of what is wished; prefix is what stands before a key.
func offerWish(prefix string, w *wire.UpdateVersion) (wish control.VersionWish, err error) {
	if w.RegistryExt != nil && *w.RegistryExt != "" {
		return wish, notBuilt(prefix + "registry_ext")
	}
	if w.ReplStrategy != nil && *w.ReplStrategy != "" {
		return wish, notBuilt(prefix + "repl_strategy")
	}
	if w.Image != nil && len(*w.Image) > maxName {
		return wish, badRequest("%simage has at most %d characters.", prefix, maxName)
	}
	for _, list := range []struct {
		key   string
		words *[]string
		most  int
	}{{"image_tags", w.ImageTags, maxTag}, {"packages", w.Packages, maxName}} {
		if list.words == nil {
			continue
		}
		if len(*list.words) > maxTags {
			return wish, badRequest("%s%s may hold %d words.", prefix, list.key, maxTags)
		}
		for _, word := range *list.words {
			if word == "" || len(word) > list.most {
				return wish, badRequest("%s%s may hold words of 1 to %d characters.", prefix, list.key, list.most)
			}
		}
	}
	return control.VersionWish{
		Name: w.Name, Manager: w.DatastoreManager, Image: w.Image, ImageTags: w.ImageTags, Packages: w.Packages, Active: w.Active, Default: w.Default,
	}, nil
}
