package api

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"strings"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/telemetry"
)

// withRequestID gives each request an id, or keeps the one it came with, and continues its trace.
func (s *Server) withRequestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(wire.HeaderRequestID)
		if !telemetry.ValidRequestID(id) {
			id = telemetry.NewRequestID()
		}
		w.Header().Set(wire.HeaderRequestID, id)
		w.Header().Set("X-Compute-Request-Id", id) // where python-troveclient looks for it
		ctx := telemetry.WithRequestID(r.Context(), id)
		ctx = telemetry.WithTraceParent(ctx, telemetry.ContinueTrace(r.Header.Get("Traceparent")))
		next.ServeHTTP(w, r.WithContext(withExchange(ctx, &exchange{})))
	})
}

// withRecovery answers for a handler that panics. An answer that has begun cannot be taken back: its connection is cut.
func (s *Server) withRecovery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorded := &recorder{ResponseWriter: w}
		defer func() {
			switch cause := recover(); {
			case cause == nil:
			case cause == http.ErrAbortHandler || recorded.status != 0:
				panic(http.ErrAbortHandler)
			default:
				s.fail(w, r, fmt.Errorf("panic: %v\n%s", cause, debug.Stack()))
			}
		}()
		next.ServeHTTP(recorded, r)
	})
}

// withAccessLog writes a line per request and counts it.
func (s *Server) withAccessLog(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin, end := s.Clock.Now(), s.requests.Begin()
		recorded := &recorder{ResponseWriter: w}
		defer func() {
			took := s.Clock.Now().Sub(begin)
			x := exchangeOf(r)
			status := recorded.status
			if status == 0 {
				status = http.StatusInternalServerError // a panic, which is being answered above
			}
			end(x.route, r.Method, status, took)
			level := slog.LevelInfo
			if x.caller.ProjectID == "" && status < http.StatusBadRequest {
				level = slog.LevelDebug // probes and scrapes
			}
			s.Logger.Log(r.Context(), level, "request", "method", r.Method, "path", printable(r.URL.Path), "status", status,
				"bytes", recorded.bytes, "took", took.String(), "remote", r.RemoteAddr, "project", x.caller.ProjectID, "user", x.caller.UserID)
		}()
		next.ServeHTTP(recorded, r)
	})
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int
}

// WriteHeader remembers the status.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController through.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// withBodyLimit refuses a body that announces itself as too large, and cuts one that turns out so.
func (s *Server) withBodyLimit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > s.MaxBody {
			s.fail(w, r, bodyTooLarge(s.MaxBody))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, s.MaxBody)
		next.ServeHTTP(w, r)
	})
}

var (
	versionedPath   = regexp.MustCompile(`^/v\d+(\.\d+)?(/|$)`)
	acceptedVersion = regexp.MustCompile(`application/vnd\.openstack\.trove(?:\+json)?\s*;\s*version=([0-9.]+)`)
)

// withVersion serves a path without a version to who names one in the Accept header.
func (s *Server) withVersion(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		match := acceptedVersion.FindStringSubmatch(r.Header.Get("Accept"))
		switch {
		case match == nil || versionedPath.MatchString(r.URL.Path):
		case match[1] != "1.0":
			s.fail(w, r, dbaas.Errorf(dbaas.NotAcceptable, "Version %s of the API is not served; version 1.0 is.", match[1]))
			return
		default:
			r = r.Clone(r.Context())
			r.URL.Path = "/v1.0" + r.URL.Path
			if r.URL.RawPath != "" {
				r.URL.RawPath = "/v1.0" + r.URL.RawPath
			}
		}
		next.ServeHTTP(w, r)
	})
}

// projectOf gives the project that a path names; ok is false for paths that belong to no project.
func projectOf(u *url.URL) (project string, ok bool) {
	rest, ok := strings.CutPrefix(u.EscapedPath(), "/v1.0/")
	if !ok || rest == "" {
		return "", false
	}
	segment, _, _ := strings.Cut(rest, "/")
	project, err := url.PathUnescape(segment)
	return project, err == nil
}

// withCaller finds out who asks, for everything that belongs to a project.
func (s *Server) withCaller(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		project, ok := projectOf(r.URL)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		caller, err := s.Authenticate(r, project)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		caller.Admin = s.Policy.allows(ruleAdminContext, caller)
		caller.RequestID = telemetry.RequestID(r.Context())
		caller.TraceParent = telemetry.TraceParent(r.Context())
		caller.SourceAddress = sourceAddress(r)
		exchangeOf(r).caller = caller
		next.ServeHTTP(w, r)
	})
}

func sourceAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func (s *Server) withRateLimit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if project := exchangeOf(r).caller.ProjectID; project != "" {
			if err := s.limits.take(project, r.Method); err != nil {
				s.fail(w, r, err)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
