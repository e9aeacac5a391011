// Package api serves the REST API: Trove's v1.0 with Grove's additions (docs/api.md), described in openapi.yaml.
//
// A request passes request id, recovery, access log, CORS, body limit, authentication, rate limit and router, in this
// order, and ends in one handler; there is a file per resource. A handler decodes, checks the shape of what was asked,
// calls one use case of package control and renders its result.
package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/gorilla/mux"
	"github.com/rs/cors"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/telemetry/metric"
)

// Config is what a Server works with. Only Control is needed; the zero value of the others is the default that each
// names.
type Config struct {
	Control *control.Service
	// Authenticate tells who sends a request; nil is [AuthNone] with the administrator's project "admin".
	Authenticate Authenticator
	// AuthURL is where who is refused gets a token; "" says nothing of it.
	AuthURL string
	// Policy says who may do what; nil has the [DefaultRules].
	Policy *Policy
	// RateLimits are requests per minute and project by verb; a verb that is absent or 0 is not limited.
	RateLimits map[string]int
	// CORSOrigins are the origins that browsers may call from; none by default.
	CORSOrigins []string
	// MaxBody is the largest request body in bytes; 0 is 1 MiB.
	MaxBody int64
	// PageSize is the default and largest number of rows of a page; 0 is 20.
	PageSize int
	// PublicEndpoint is the base URL that clients see; "" takes each request's own host.
	PublicEndpoint string
	// AwaitAtMost bounds the wait for changes that Trove answers after their effect; 0 is 10 s.
	AwaitAtMost time.Duration
	// Metrics counts requests and is served at /metrics; nil does neither.
	Metrics *metric.Registry
	// Clock is the real one by default, Logger slog's default.
	Clock  clock.Clock
	Logger *slog.Logger
}

func (c *Config) setDefaults() error {
	if c.Control == nil {
		return errors.New("api: Config.Control is missing")
	}
	if c.Authenticate == nil {
		c.Authenticate = AuthNone("admin")
	}
	if c.Policy == nil {
		p, err := NewPolicy(nil)
		if err != nil {
			return err
		}
		c.Policy = p
	}
	if c.MaxBody == 0 {
		c.MaxBody = 1 << 20
	}
	if c.PageSize == 0 {
		c.PageSize = 20
	}
	if c.AwaitAtMost == 0 {
		c.AwaitAtMost = 10 * time.Second
	}
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Server is the API as an http.Handler.
type Server struct {
	Config
	router   *mux.Router
	chain    http.Handler
	limits   *rateLimiter
	requests *metric.HTTP
	underWay *underWay

	duplicateWait time.Duration
}

// New makes a Server.
func New(c Config) (*Server, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{Config: c, limits: newRateLimiter(c.RateLimits, c.Clock), underWay: newUnderWay(), duplicateWait: duplicateWait}
	if c.Metrics != nil {
		s.requests = metric.NewHTTP(c.Metrics)
	}
	router, err := s.newRouter()
	if err != nil {
		return nil, err
	}
	s.router = router
	s.chain = s.withRequestID(s.withRecovery(s.withAccessLog(s.withCORS(
		s.withBodyLimit(s.withVersion(s.withCaller(s.withRateLimit(router))))))))
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.chain.ServeHTTP(w, r) }

// NewHTTPServer makes the server that listens: with limits on the time that a client may take and on the size of its
// headers. The write timeout leaves room for what the API waits for.
func NewHTTPServer(addr string, handler http.Handler) *http.Server {
	return &http.Server{
		Addr: addr, Handler: handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
}

// route is a verb and path template with what answers it.
type route struct {
	method, path string
	handle       endpoint
}

// endpoint is a handler together with what the chain has to know of it.
type endpoint struct {
	rule   string // of the policy; "" where the handler asks itself
	body   bool   // whether the request's body is read
	decode func(body []byte) error
	handle handler
	built  bool
}

// handler answers one request. An error may come with an answer, whose operations are then still named.
type handler func(r *request) (*answer, error)

// routes is the whole API below /v1.0/{project}.
func (s *Server) routes() []route {
	var all []route
	for _, resource := range [][]route{
		s.datastoreRoutes(), s.flavorRoutes(), s.limitRoutes(), s.instanceRoutes(), s.rootRoutes(), s.userRoutes(),
		s.configurationRoutes(), s.clusterRoutes(), s.mgmtRoutes(), s.versionRoutes(), s.findingRoutes(), s.quotaRoutes(), s.operationRoutes(), s.eventRoutes(), s.caRoutes(), s.notBuiltRoutes(),
	} {
		all = append(all, resource...)
	}
	return all
}

func (s *Server) newRouter() (*mux.Router, error) {
	m := mux.NewRouter().UseEncodedPath().SkipClean(true)
	m.NotFoundHandler = http.HandlerFunc(s.noSuchRoute)
	m.MethodNotAllowedHandler = http.HandlerFunc(s.noSuchRoute) // Trove has no 405
	s.addDiscovery(m)
	for _, rt := range s.routes() {
		if _, known := s.Policy.rules[rt.handle.rule]; !known && rt.handle.rule != "" {
			return nil, fmt.Errorf("api: %s %s needs the policy rule %q, which does not exist", rt.method, rt.path, rt.handle.rule)
		}
		template := projectPrefix + rt.path
		m.Handle(template, s.serve(template, rt.handle)).Methods(rt.method)
	}
	return m, nil
}

const projectPrefix = "/v1.0/{project}"

func (s *Server) withCORS(next http.Handler) http.Handler {
	if len(s.CORSOrigins) == 0 {
		return next
	}
	return cors.New(cors.Options{
		AllowedOrigins: s.CORSOrigins,
		AllowedMethods: []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"Accept", "Content-Type", "X-Auth-Token", wire.HeaderIdempotencyKey, wire.HeaderRequestID},
		ExposedHeaders: []string{wire.HeaderOperation, wire.HeaderRequestID, "Retry-After", "Warning"},
	}).Handler(next)
}
