// Package keystonetest is Keystone's side of the wire, for tests that cannot have the real one.
package keystonetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
)

// Token is what a token of a tenant stands for.
type Token struct {
	User, Project string
	Roles         []string
	Ends          time.Time
}

// Server validates the tokens that it is given. It is safe for concurrent use.
type Server struct {
	*httptest.Server
	// Clock says which tokens have ended.
	Clock *clock.Manual

	mu        sync.Mutex
	logins    int
	validated int
	tokens    map[string]Token
	away      bool
}

// New starts a Server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	k := &Server{Clock: clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), tokens: map[string]Token{}}
	k.Server = httptest.NewServer(k)
	t.Cleanup(k.Close)
	return k
}

// AuthURL is where accounts log in.
func (k *Server) AuthURL() string { return k.URL + "/v3" }

// Put makes a token valid.
func (k *Server) Put(token string, stands Token) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tokens[token] = stands
}

// Revoke ends a token.
func (k *Server) Revoke(token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.tokens, token)
}

// RevokeAccounts ends the tokens of those who may ask about others.
func (k *Server) RevokeAccounts() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.logins++
}

// SetAway has the service answer nothing but 503.
func (k *Server) SetAway(away bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.away = away
}

// Validated tells how often it was asked about a token.
func (k *Server) Validated() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.validated
}

// ServeHTTP answers as Keystone does.
func (k *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	token := r.Header.Get("X-Subject-Token")
	switch {
	case k.away:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path != "/v3/auth/tokens":
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPost:
		k.logins++
		w.Header().Set("X-Subject-Token", fmt.Sprint("service-", k.logins))
		w.WriteHeader(http.StatusCreated)
		write(w, Token{User: "grove", Project: "service"})
	case r.Header.Get("X-Auth-Token") != fmt.Sprint("service-", k.logins):
		w.WriteHeader(http.StatusUnauthorized)
	default:
		k.validated++
		stands, ok := k.tokens[token]
		if !ok || !k.Clock.Now().Before(stands.Ends) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprintf(w, `{"error":{"code":404,"message":"Could not find token: %s.","title":"Not Found"}}`, token)
			return
		}
		write(w, stands)
	}
}

func write(w http.ResponseWriter, t Token) {
	domain := map[string]string{"id": "default", "name": "Default"}
	var roles []map[string]string
	for _, role := range t.Roles {
		roles = append(roles, map[string]string{"id": "id-of-" + role, "name": role})
	}
	body := map[string]any{
		"expires_at": t.Ends.UTC().Format("2006-01-02T15:04:05.000000Z"), "methods": []string{"password"},
		"user": map[string]any{"id": t.User, "name": t.User, "domain": domain}, "roles": roles,
	}
	if t.Project != "" {
		body["project"] = map[string]any{"id": t.Project, "name": t.Project, "domain": domain}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"token": body})
}
