package api

import (
	"net/http"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// findingRoutes are of what the janitor reports: the administrator's.
func (s *Server) findingRoutes() []route {
	return []route{
		{http.MethodGet, "/mgmt/findings", plain("mgmt:findings", s.listFindings)},
		{http.MethodPost, "/mgmt/findings/action", withBody(s, "mgmt:findings", s.actOnFindings)},
	}
}

func (s *Server) listFindings(r *request) (*answer, error) {
	p, err := s.page(r)
	if err != nil {
		return nil, err
	}
	found, more, err := s.Control.Findings(r.Context(), r.caller, p.limit, p.marker)
	if err != nil {
		return nil, err
	}
	list := wire.FindingList{Findings: []wire.Finding{}}
	for i := range found {
		list.Findings = append(list.Findings, renderFinding(&found[i]))
	}
	if more {
		list.Links, list.FindingsLinks = s.nextLinks(r, found[len(found)-1].ID)
	}
	return ok(list)
}

func renderFinding(f *dbaas.Finding) wire.Finding {
	return wire.Finding{
		ID: f.ID, Problem: string(f.Problem), Kind: f.Kind, ResourceID: f.ResourceID, OwnerID: f.OwnerID, InstanceID: f.InstanceID,
		ProjectID: f.ProjectID, Since: at(f.FirstSeen), ToBeDeleted: !f.DeleteAt.IsZero(), Failure: f.Failure,
	}
}

func (s *Server) actOnFindings(r *request, body *wire.FindingsAction) (*answer, error) {
	d := body.Delete
	if d == nil || d.All == (len(d.Findings) > 0) {
		return nil, badRequest(`The one action is delete: {"delete": {"findings": [ids]}} or {"delete": {"all": true}}.`)
	}
	for _, id := range d.Findings {
		if uuid.Validate(id) != nil {
			return nil, badRequest("delete.findings has ids of findings, not %q.", printable(id))
		}
	}
	return done(s.Control.DeleteOrphans(r.Context(), r.caller, d.Findings...))
}
