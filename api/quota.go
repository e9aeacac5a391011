package api

import (
	"maps"
	"net/http"
	"slices"

	"github.com/grove-dbaas/grove/api/wire"
)

func (s *Server) quotaRoutes() []route {
	return []route{
		{http.MethodGet, "/mgmt/quotas/{id}", plain("quota:show", s.showQuotas)},
		{http.MethodPut, "/mgmt/quotas/{id}", withBody(s, "quota:update", s.updateQuotas)},
	}
}

func (s *Server) showQuotas(r *request) (*answer, error) {
	usages, err := s.Control.Usage(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	list := wire.QuotaList{Quotas: []wire.Quota{}}
	for _, u := range usages {
		list.Quotas = append(list.Quotas, wire.Quota{Resource: u.Resource, InUse: u.InUse, Limit: u.Limit})
	}
	return ok(list)
}

func (s *Server) updateQuotas(r *request, body *wire.SetQuotasRequest) (*answer, error) {
	project := r.param("id")
	if !validProject(project) {
		return nil, badRequest("%q cannot be a project's id.", printable(project))
	}
	if body.Quotas == nil {
		return nil, badRequest("quotas is required: an object of limits by resource.")
	}
	limits := map[string]*int{}
	for _, resource := range slices.Sorted(maps.Keys(body.Quotas)) {
		var limit *int
		if number := body.Quotas[resource]; number != nil {
			n, ok := number.Int()
			if !ok {
				return nil, badRequest("quotas.%s must be a whole number from -1 to %d.", printable(resource), wire.MaxNumber)
			}
			limit = &n
		}
		limits[resource] = limit
	}
	set, err := s.Control.SetQuotas(r.Context(), r.caller, project, limits)
	if err != nil {
		return nil, err
	}
	return ok(wire.QuotaLimits{Quotas: set})
}
