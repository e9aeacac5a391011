package api

import (
	"net/http"

	"github.com/grove-dbaas/grove/api/wire"
)

func (s *Server) limitRoutes() []route {
	return []route{{http.MethodGet, "/limits", plain("limits:index", s.listLimits)}}
}

// listLimits begins with the absolute limits, which the CLI takes off the list, and goes on with the rates.
func (s *Server) listLimits(r *request) (*answer, error) {
	usages, err := s.Control.Usage(r.Context(), r.caller, r.caller.ProjectID)
	if err != nil {
		return nil, err
	}
	absolute := map[string]any{"verb": "ABSOLUTE"}
	for _, u := range usages {
		absolute["max_"+u.Resource] = u.Limit
	}
	list := wire.LimitList{Limits: []any{absolute}}
	for _, limit := range s.limits.show(r.caller.ProjectID) {
		list.Limits = append(list.Limits, limit)
	}
	return ok(list)
}
