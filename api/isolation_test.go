package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

const randomID = "00000000-0000-4000-8000-000000000000"

// TestTenantIsolation is made from the router: whoever adds a route with an id adds a row to fillFor. For each method
// and path another project's id must be answered exactly as one that does not exist.
func TestTenantIsolation(t *testing.T) {
	s := newStreet(t)
	bodies := s.validBodies()
	nobody := belongings{randomID, randomID, randomID, randomID, randomID, "", ""}
	for _, rt := range s.server.routes() {
		if !rt.handle.built || !strings.Contains(rt.path, "{id}") || !ownedByProjects(rt.path) {
			continue
		}
		name := rt.method + " " + rt.path
		tries := bodies[name]
		if !rt.handle.body {
			tries = []string{""}
		}
		before := s.digest()
		for _, body := range tries {
			want := s.call(rt.method, fillFor(t, rt.path, nobody), body).fault(404)
			for _, target := range []belongings{s.foreign, s.deleted} {
				if target == s.deleted && strings.HasPrefix(rt.path, "/operations") {
					continue // an operation outlives its instance
				}
				got := s.call(rt.method, fillFor(t, rt.path, target), body).fault(404)
				if anonymous(string(got.body), target) != anonymous(string(want.body), nobody) {
					t.Errorf("%s tells a foreign id from a random one:\n%s\n%s", name, got.body, want.body)
				}
			}
		}
		if s.digest() != before {
			t.Errorf("%s wrote something", name)
		}
	}
}

func ownedByProjects(path string) bool {
	return strings.HasPrefix(path, "/instances") || strings.HasPrefix(path, "/configurations") ||
		strings.HasPrefix(path, "/clusters") || strings.HasPrefix(path, "/operations")
}

func anonymous(body string, b belongings) string {
	return strings.NewReplacer(b.instance, "ID", b.configuration, "ID", b.operation, "ID", b.cluster, "ID", b.member, "ID").Replace(body)
}

// No list shows what belongs to another project, whatever filters and markers it is asked with.
func TestListsShowOnlyTheirProject(t *testing.T) {
	s := newStreet(t)
	foreign := []string{s.foreign.instance, s.foreign.configuration, s.foreign.operation, s.foreign.cluster, s.foreign.member}
	queries := []string{"", "?limit=1", "?include_clustered=true", "?all_projects=true", "?project_id=other", "?deleted=true",
		"?resource_id=" + s.foreign.instance, "?marker=" + s.foreign.instance, "?marker=" + randomID}
	for _, rt := range s.server.routes() {
		if rt.method != "GET" || !rt.handle.built || strings.HasPrefix(rt.path, "/mgmt") {
			continue
		}
		for _, query := range queries {
			body := string(s.get(fillFor(t, rt.path, s.own) + query).body)
			for _, id := range foreign {
				if strings.Contains(body, id) && !strings.Contains(query, id) {
					t.Errorf("GET %s%s shows another project's %s", rt.path, query, id)
				}
			}
			if strings.Contains(query, "resource_id") && !strings.Contains(rt.path, "{") && strings.Contains(body, `"resource_id"`) {
				t.Errorf("GET %s%s shows another project's history: %s", rt.path, query, body)
			}
		}
	}
}

// Ids in bodies are no way around it either.
func TestForeignIdsInBodies(t *testing.T) {
	s := newStreet(t)
	for _, id := range []string{s.foreign.configuration, s.deleted.configuration, randomID} {
		s.post("/instances", `{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 1}, "configuration": "`+id+`"}}`).fault(404, id)
		s.put("/instances/"+s.own.instance, `{"instance": {"configuration": "`+id+`"}}`).fault(404, id)
		s.patch("/instances/"+s.own.instance, `{"instance": {"configuration": "`+id+`"}}`).fault(404, id)
	}
	s.get("/mgmt/quotas/other").fault(403)
	s.put("/mgmt/quotas/other", `{"quotas": {"instances": 1000}}`).fault(403)
}

// The administrator reaches everything under its own project's path.
func TestAdministratorReachesAllProjects(t *testing.T) {
	s := newStreet(t)
	admin := s.as("admin")
	for _, b := range []belongings{s.own, s.foreign} {
		admin.get("/instances/" + b.instance).want(200)
		admin.get("/configurations/" + b.configuration).want(200)
		admin.get("/operations/" + b.operation).want(200)
		admin.get("/clusters/" + b.cluster).want(200)
		admin.delete("/clusters/" + b.cluster).want(202)
		admin.delete("/instances/" + b.instance).want(202)
	}
}

// A foreign id takes no longer to refuse than a random one: less than a millisecond, or where the race detector slows
// everything down, less than it takes anyway. The two are measured in turn, so that a busy machine is busy for both,
// and a difference must show three times.
func TestForeignIdsTakeNoLonger(t *testing.T) {
	s := newStreet(t)
	var foreign, random time.Duration
	for range 3 {
		foreign, random = s.medians(s.foreign.instance, randomID)
		if foreign-random <= max(time.Millisecond, random) {
			return
		}
	}
	t.Errorf("a foreign id takes %s, a random one %s", foreign, random)
}

func (s *street) medians(a, b string) (medianA, medianB time.Duration) {
	took := [2][]time.Duration{}
	for range 101 {
		for i, id := range []string{a, b} {
			r := httptest.NewRequest(http.MethodGet, "/v1.0/demo/instances/"+id, nil)
			begin := time.Now()
			s.server.ServeHTTP(httptest.NewRecorder(), r)
			took[i] = append(took[i], time.Since(begin))
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	return took[0][50], took[1][50]
}
