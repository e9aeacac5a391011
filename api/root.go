package api

import (
	"net/http"

	"github.com/grove-dbaas/grove/api/wire"
)

func (s *Server) rootRoutes() []route {
	return []route{
		{http.MethodGet, "/instances/{id}/root", plain("instance:extension:root:index", s.showRoot)},
		{http.MethodPost, "/instances/{id}/root", withOptionalBody(s, "instance:extension:root:create", s.enableRoot)},
		{http.MethodDelete, "/instances/{id}/root", plain("instance:extension:root:delete", s.disableRoot)},
	}
}

func (s *Server) showRoot(r *request) (*answer, error) {
	enabled, err := s.Control.RootEnabled(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return ok(wire.RootEnabled{RootEnabled: enabled})
}

func (s *Server) enableRoot(r *request, body *wire.RootRequest) (*answer, error) {
	if body.Password != nil {
		if err := requireName("password", *body.Password); err != nil {
			return nil, err
		}
	}
	root, err := s.Control.EnableRoot(r.Context(), r.caller, r.param("id"), orBlank(body.Password))
	if err != nil {
		return nil, err
	}
	shown := &wire.RootUser{FailedSlaves: []string{}}
	shown.User.Name, shown.User.Password = root.Name, root.Password
	return &answer{
		status: http.StatusOK, body: shown, operations: []string{root.OperationID},
		secrets: []secretField{{&shown.User.Password, root.PasswordSecretID}},
	}, s.awaitAll(r, root.OperationID, shown)
}

// awaitAll waits for the new password, and notes the members of the set that have the old one still.
func (s *Server) awaitAll(r *request, operationID string, shown *wire.RootUser) error {
	err := s.await(r, operationID)
	if err != nil {
		return err
	}
	behind, err := s.Control.Behind(r.Context(), r.caller, r.param("id"))
	shown.FailedSlaves = append(shown.FailedSlaves, behind...)
	return err
}

func (s *Server) disableRoot(r *request) (*answer, error) {
	id, err := s.Control.DisableRoot(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusNoContent, operations: []string{id}}, s.await(r, id)
}
