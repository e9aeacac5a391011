package api

import (
	"net/http"
	"strconv"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (s *Server) flavorRoutes() []route {
	return []route{
		{http.MethodGet, "/flavors", plain("flavor:index", s.listFlavors)},
		{http.MethodGet, "/flavors/{id}", plain("flavor:show", s.showFlavor)},
		{http.MethodGet, "/volume-types", plain("volume_type:index", s.listVolumeTypes)},
		{http.MethodGet, "/volume-types/{id}", plain("volume_type:show", s.showVolumeType)},
	}
}

func (s *Server) listFlavors(r *request) (*answer, error) {
	catalog, err := s.Control.Catalog(r.Context())
	if err != nil {
		return nil, err
	}
	list := wire.FlavorList{Flavors: []wire.Flavor{}}
	for _, f := range catalog.Flavors {
		list.Flavors = append(list.Flavors, renderFlavor(r, f))
	}
	return ok(list)
}

func (s *Server) showFlavor(r *request) (*answer, error) {
	catalog, err := s.Control.Catalog(r.Context())
	if err != nil {
		return nil, err
	}
	id := r.param("id")
	flavor, found := catalog.Flavor(id)
	if !found {
		return nil, dbaas.Errorf(dbaas.NotFound, "Flavor %q not found.", printable(id))
	}
	return ok(wire.FlavorEnvelope{Flavor: renderFlavor(r, flavor)})
}

// listVersionFlavors lists all flavors: no version is tied to some of them.
func (s *Server) listVersionFlavors(r *request) (*answer, error) {
	if _, err := s.findVersion(r); err != nil {
		return nil, err
	}
	return s.listFlavors(r)
}

func renderFlavor(r *request, f dbaas.Flavor) wire.Flavor {
	return wire.Flavor{
		ID: numericID(f.ID), StrID: f.ID, Name: f.Name, RAM: f.RAM, VCPUs: f.VCPUs, Disk: f.Disk, Ephemeral: f.Ephemeral,
		Links: links(r, "flavors", f.ID),
	}
}

// numericID is the id as a number where it is written as one, without a leading zero; else null.
func numericID(id string) *int64 {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != id {
		return nil
	}
	return &n
}

func (s *Server) listVolumeTypes(r *request) (*answer, error) {
	catalog, err := s.Control.Catalog(r.Context())
	if err != nil {
		return nil, err
	}
	list := wire.VolumeTypeList{VolumeTypes: []wire.VolumeType{}}
	for _, t := range catalog.VolumeTypes {
		list.VolumeTypes = append(list.VolumeTypes, wire.VolumeType{ID: t.ID, Name: t.Name, IsPublic: t.IsPublic})
	}
	return ok(list)
}

func (s *Server) showVolumeType(r *request) (*answer, error) {
	catalog, err := s.Control.Catalog(r.Context())
	if err != nil {
		return nil, err
	}
	id := r.param("id")
	for _, t := range catalog.VolumeTypes {
		if t.ID == id {
			return ok(wire.VolumeTypeEnvelope{VolumeType: wire.VolumeType{ID: t.ID, Name: t.Name, IsPublic: t.IsPublic}})
		}
	}
	return nil, dbaas.Errorf(dbaas.NotFound, "Volume type %q not found.", printable(id))
}

func (s *Server) listVersionVolumeTypes(r *request) (*answer, error) {
	if _, err := s.findVersion(r); err != nil {
		return nil, err
	}
	return s.listVolumeTypes(r)
}
