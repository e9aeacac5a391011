package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/keystone"
)

// Authenticator tells who sends a request for a project. It refuses with dbaas.Unauthorized who it does not know, with
// dbaas.Forbidden who belongs to another project, and with dbaas.Unavailable when it cannot find out. Whether it is an
// administrator, request id, trace and source address are filled in by the chain.
type Authenticator func(r *http.Request, projectID string) (control.Caller, error)

// AuthNone believes everyone: the project is what the path says, and one project is the administrator's.
func AuthNone(adminProject string) Authenticator {
	return func(_ *http.Request, projectID string) (control.Caller, error) {
		if !validProject(projectID) {
			return control.Caller{}, dbaas.Errorf(dbaas.NotFound, "%q cannot be a project's id.", printable(projectID))
		}
		c := control.Caller{ProjectID: projectID, UserID: projectID, Roles: []string{"member", "reader"}}
		if projectID == adminProject {
			c.Roles = append(c.Roles, "admin")
		}
		return c, nil
	}
}

// AuthKeystone takes the project and roles from the request's Keystone token. The project in the path must be the token's, for
// administrators too.
func AuthKeystone(tokens *keystone.Tokens) Authenticator {
	return func(r *http.Request, projectID string) (control.Caller, error) {
		i, err := tokens.Identify(r.Context(), r.Header.Get("X-Auth-Token"))
		if err != nil {
			return control.Caller{}, err
		}
		if i.ProjectID == "" || i.ProjectID != projectID {
			return control.Caller{}, dbaas.Errorf(dbaas.Forbidden, "The token is for the project %q, not for %q.", i.ProjectID, printable(projectID))
		}
		return control.Caller{ProjectID: i.ProjectID, UserID: i.UserID, Roles: i.Roles}, nil
	}
}

// maxProject is the length that Keystone allows.
const maxProject = 64

func validProject(id string) bool {
	return id != "" && len(id) <= maxProject && !strings.ContainsFunc(id, func(c rune) bool {
		return !unicode.IsPrint(c) || c == unicode.ReplacementChar || c == '/'
	})
}

// refuse answers a request that was not authenticated. A 401 has the shape of Keystone's middleware.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if dbaas.ErrorCode(err) != dbaas.Unauthorized {
		s.fail(w, r, err)
		return
	}
	if s.AuthURL != "" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Keystone uri=%q", s.AuthURL))
	}
	body, _ := json.Marshal(map[string]wire.Fault{"error": {
		Code: http.StatusUnauthorized, Title: "Unauthorized", Message: dbaas.ErrorMessage(err),
	}})
	s.write(w, r, reply{status: http.StatusUnauthorized, body: body})
}
