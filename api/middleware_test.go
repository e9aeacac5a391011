package api

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func TestRequestIDs(t *testing.T) {
	h := newHouse(t)
	const id = "req-5d0f3c2e-0000-4000-8000-000000000000"
	r := h.call(http.MethodGet, "/instances", "", "X-Openstack-Request-Id: "+id)
	if got := r.header.Get("X-Openstack-Request-Id"); got != id {
		t.Errorf("the id became %s", got)
	}
	if got := r.header.Get("X-Compute-Request-Id"); got != id {
		t.Errorf("X-Compute-Request-Id is %s", got)
	}
	r = h.call(http.MethodGet, "/instances", "", "X-Openstack-Request-Id: anything goes")
	if got := r.header.Get("X-Openstack-Request-Id"); !strings.HasPrefix(got, "req-") {
		t.Errorf("a malformed id was taken over: %s", got)
	}
	if log := h.log.String(); !strings.Contains(log, "msg=request") || !strings.Contains(log, "status=200") || !strings.Contains(log, "project=demo") {
		t.Errorf("the access log lacks something:\n%s", log)
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	h := newHouse(t, withConfig(func(c *Config) {
		c.Authenticate = func(*http.Request, string) (control.Caller, error) { panic("boom") }
	}))
	r := httptest.NewRequest(http.MethodGet, "/v1.0/demo/instances", nil)
	w := httptest.NewRecorder()
	h.server.ServeHTTP(w, r)
	id := w.Header().Get("X-Openstack-Request-Id")
	if want := `{"instanceFault":{"code":500,"message":"Internal error, quote ` + id + ` when reporting."}}`; w.Code != 500 || w.Body.String() != want {
		t.Errorf("%d %s, want %s", w.Code, w.Body, want)
	}
	if !strings.Contains(h.log.String(), "panic: boom") {
		t.Error("the log does not tell the panic")
	}
}

func TestRefusedTokens(t *testing.T) {
	h := newHouse(t, withConfig(func(c *Config) {
		c.Authenticate = func(r *http.Request, project string) (control.Caller, error) {
			switch r.Header.Get("X-Auth-Token") {
			case "":
				return control.Caller{}, dbaas.Errorf(dbaas.Unauthorized, "The request you have made requires authentication.")
			case "other":
				return control.Caller{}, dbaas.Errorf(dbaas.Forbidden, "The token is not for project %s.", project)
			case "down":
				return control.Caller{}, dbaas.Errorf(dbaas.Unavailable, "Keystone cannot be reached.")
			}
			return control.Caller{ProjectID: project, Roles: []string{"member"}}, nil
		}
	}))
	h.get("/instances").want(401).has("error.title", "Unauthorized", "error.code", 401)
	h.get("/nonsense").want(401) // who is not known learns nothing of routes
	h.call(http.MethodGet, "/instances", "", "X-Auth-Token: other").fault(403, "forbidden")
	h.call(http.MethodGet, "/instances", "", "X-Auth-Token: down").fault(503, "serviceUnavailable")
	h.call(http.MethodGet, "/instances", "", "X-Auth-Token: good").want(200)
	h.get("//").want(200)
	h.get("/v1.0/").want(200)
}

func TestRateLimits(t *testing.T) {
	h := newHouse(t, withManualClock(), withConfig(func(c *Config) { c.RateLimits = map[string]int{"GET": 3, "POST": 2} }))
	for range 3 {
		h.get("/flavors").want(200)
	}
	r := h.get("/flavors").fault(413, "Too many requests.").has("overLimit.details", "GET is limited to 3 per minute.", "overLimit.retryAfter", "20")
	if r.header.Get("Retry-After") != "20" {
		t.Errorf("Retry-After is %q", r.header.Get("Retry-After"))
	}
	h.get("/nonsense").want(413)                    // before the router
	h.as("other").get("/flavors").want(200)         // of a project
	h.put("/nonsense", "").want(404)                // and verb
	h.get("//").want(200)                           // not of what belongs to none
	h.post("/instances", createBody("a")).want(200) // each verb has its own
	h.clock.Advance(20 * time.Second)
	h.get("/limits").want(200).has("limits.0.verb", "ABSOLUTE", "limits.1.verb", "POST", "limits.1.value", 2, "limits.1.remaining", 1,
		"limits.2.verb", "GET", "limits.2.remaining", 0, "limits.2.unit", "MINUTE", "limits.2.nextAvailable", "2026-11-22T10:11:52Z", "limits.3", absent)
	h.get("/flavors").want(413)
	h.clock.Advance(time.Minute)
	h.get("/flavors").want(200)
}

func TestFullBucketsAreThrownAway(t *testing.T) {
	h := newHouse(t, withManualClock(), withConfig(func(c *Config) { c.RateLimits = map[string]int{"GET": 3} }))
	for i := range manyBuckets {
		_ = h.server.limits.take(strings.Repeat("p", 1+i%7)+time.Duration(i).String(), http.MethodGet)
	}
	h.clock.Advance(time.Minute)
	h.get("/flavors").want(200)
	if n := len(h.server.limits.buckets); n != 1 {
		t.Errorf("%d buckets are kept", n)
	}
}

func TestCORS(t *testing.T) {
	origin := "Origin: https://dashboard.example"
	h := newHouse(t)
	h.call(http.MethodOptions, "/instances", "", origin, "Access-Control-Request-Method: GET").fault(404)
	if got := h.call(http.MethodGet, "/instances", "", origin).header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("without configuration an origin is allowed: %s", got)
	}
	h = newHouse(t, withConfig(func(c *Config) { c.CORSOrigins = []string{"https://dashboard.example"} }))
	r := httptest.NewRequest(http.MethodOptions, "/v1.0/demo/instances", nil)
	r.Header.Set("Origin", "https://dashboard.example")
	r.Header.Set("Access-Control-Request-Method", "POST")
	r.Header.Set("Access-Control-Request-Headers", "content-type,idempotency-key,x-auth-token")
	w := httptest.NewRecorder()
	h.server.ServeHTTP(w, r)
	if w.Header().Get("Access-Control-Allow-Origin") != "https://dashboard.example" {
		t.Errorf("the preflight is refused: %d %v", w.Code, w.Header())
	}
	allowed := h.call(http.MethodGet, "/instances", "", origin).want(200)
	if !strings.Contains(allowed.header.Get("Access-Control-Expose-Headers"), "Grove-Operation") {
		t.Errorf("the operation is not shown to scripts: %v", allowed.header)
	}
	if got := h.call(http.MethodGet, "/instances", "", "Origin: https://evil.example").header.Get("Access-Control-Allow-Origin"); got != "" {
		t.Errorf("another origin is allowed: %s", got)
	}
}

func TestRoutesNeedKnownRules(t *testing.T) {
	h := newHouse(t)
	policy, err := NewPolicy(nil)
	if err != nil {
		t.Fatal(err)
	}
	delete(policy.rules, "instance:create")
	if _, err := New(Config{Control: h.control, Policy: policy}); err == nil || !strings.Contains(err.Error(), "instance:create") {
		t.Errorf("a policy without a rule that a route needs is accepted: %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a server without use cases is accepted")
	}
}

func TestPolicyDecides(t *testing.T) {
	policy, err := NewPolicy(map[string]string{"instance:create": "rule:admin"})
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, withConfig(func(c *Config) { c.Policy = policy }))
	h.post("/instances", createBody("a")).fault(403, "instance:create")
	h.post("/instances", `{`).fault(400) // what cannot be understood comes first
	h.as("admin").post("/instances", createBody("a")).want(200)
}

// Clients that send slowly or too much are cut, and others are served meanwhile.
func TestHostileClients(t *testing.T) {
	h := newHouse(t)
	server := NewHTTPServer("", h.server)
	server.ReadHeaderTimeout = 200 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })

	var slow []net.Conn
	for range 200 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, _ = c.Write([]byte("GET /v1.0/demo/instances HTTP/1.1\r\nHost: x\r\nX-Slow: "))
		slow = append(slow, c)
	}
	answer, err := http.Get("http://" + l.Addr().String() + "/v1.0/demo/instances")
	if err != nil || answer.StatusCode != 200 {
		t.Fatalf("beside slow clients: %v %v", answer, err)
	}
	_ = answer.Body.Close()
	for _, c := range slow {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatal("a client that never ends its headers is not cut")
		}
	}
	big, err := http.NewRequest(http.MethodGet, "http://"+l.Addr().String()+"/v1.0/demo/instances", nil)
	if err != nil {
		t.Fatal(err)
	}
	big.Header.Set("X-Big", strings.Repeat("x", 1<<20))
	if answer, err = http.DefaultClient.Do(big); err == nil {
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a header of 1 MiB → %d", answer.StatusCode)
		}
	}
}
