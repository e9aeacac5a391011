package api

import (
	_ "embed"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// OpenAPI is the description of the API, as GET /openapi.yaml serves it.
//
//go:embed openapi.yaml
var OpenAPI []byte

// addDiscovery adds what belongs to no project and needs no authentication.
func (s *Server) addDiscovery(m *mux.Router) {
	add := func(path string, h http.HandlerFunc) {
		m.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			exchangeOf(r).route = path
			h(w, r)
		}).Methods(http.MethodGet)
	}
	add("/", s.showVersions)
	add("/v1.0", s.showVersion)
	add("/v1.0/", s.showVersion)
	add("/healthcheck", s.healthcheck)
	add("/readyz", s.readyz)
	add("/openapi.yaml", s.showOpenAPI)
	if s.Metrics != nil {
		add("/metrics", s.Metrics.Handler().ServeHTTP)
	}
}

func (s *Server) showVersions(w http.ResponseWriter, r *http.Request) {
	s.writeJSON(w, r, wire.Versions{Versions: []wire.APIVersion{s.version(r)}})
}

func (s *Server) showVersion(w http.ResponseWriter, r *http.Request) {
	s.writeJSON(w, r, wire.VersionDocument{Version: s.version(r)})
}

func (s *Server) version(r *http.Request) wire.APIVersion {
	return wire.APIVersion{
		ID: "v1.0", Status: "CURRENT", Updated: "2012-08-01T00:00:00Z",
		Links: []wire.Link{{Rel: "self", Href: s.baseURL(&request{Request: r}) + "/v1.0/"}},
	}
}

func (s *Server) writeJSON(w http.ResponseWriter, r *http.Request, body any) {
	s.write(w, r, s.render(&request{Request: r}, &answer{status: http.StatusOK, body: body}, nil))
}

// healthcheck says that the process answers.
func (s *Server) healthcheck(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	_, _ = w.Write([]byte("OK"))
}

// readyz says that requests can be served: the database is there, with the schema that this program knows.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if err := s.Control.Ready(r.Context()); err != nil {
		s.Logger.WarnContext(r.Context(), "not ready", "error", err)
		s.fail(w, r, dbaas.Errorf(dbaas.Unavailable, "The database is not reachable or not at the current schema."))
		return
	}
	s.healthcheck(w, r)
}

func (s *Server) showOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(OpenAPI)
}
