package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
)

// belongings are what the tables of bad input and of isolation send requests about: what the project demo has, what
// another project has, what was deleted.
type belongings struct {
	instance, configuration, operation, cluster, member, version, datastore string
}

// street is a house with two neighbours and something that both have deleted.
type street struct {
	*house
	own, foreign, deleted belongings
}

func newStreet(t testing.TB, options ...option) *street {
	enough := withQuotas(map[string]int{"instances": 1000, "volumes": 1000, "backups": 50, "ram": -1})
	s := &street{house: newHouse(t, append([]option{enough}, options...)...)}
	s.own = s.furnished(s.client)
	s.foreign = s.furnished(s.as("other"))
	s.deleted = s.furnished(s.client)
	s.delete("/instances/" + s.deleted.instance).want(202)
	s.delete("/configurations/" + s.deleted.configuration).want(202)
	s.delete("/clusters/" + s.deleted.cluster).want(202)
	s.settle()
	return s
}

func (s *street) furnished(c *client) belongings {
	created := c.post("/instances", createBody("mine")).want(200)
	b := belongings{instance: created.text("instance.id"), operation: created.operation()}
	s.settle()
	b.configuration = c.newConfiguration("mine", `{"hz": 15}`)
	cluster := c.post("/clusters", clusterBody("mine", 3, 0)).want(200)
	b.datastore, b.version = "redis", c.get("/datastores/redis").text("datastore.default_version")
	b.cluster, b.member = cluster.text("cluster.id"), cluster.text("cluster.instances.0.id")
	_, err := s.control.CreateUsers(s.t.Context(), control.Caller{Admin: true}, b.instance,
		[]control.NewUser{{Name: "writer", Password: "wonderland1", Grants: []string{"app:*", "1"}}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.settle()
	return b
}

// fillFor puts into a route's path the id of what a belonging has of the route's kind. A route with a variable of a
// kind that nobody thought of fails the test.
func fillFor(t testing.TB, path string, b belongings) string {
	t.Helper()
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if !strings.HasPrefix(part, "{") {
			continue
		}
		switch kind := strings.Join(parts[1:i], "/") + part; {
		case kind == "instances{id}", kind == "mgmt/instances{id}":
			parts[i] = b.instance
		case kind == "configurations{id}":
			parts[i] = b.configuration
		case kind == "operations{id}":
			parts[i] = b.operation
		case kind == "clusters{id}", kind == "mgmt/clusters{id}":
			parts[i] = b.cluster
		case part == "{instance}":
			parts[i] = b.member
		case part == "{user}":
			parts[i] = "writer"
		case kind == "mgmt/quotas{id}":
			parts[i] = "other"
		case kind == "mgmt/datastore-versions{version}":
			parts[i] = b.version
		case kind == "datastores{datastore}":
			parts[i] = b.datastore
		case strings.HasSuffix(kind, "versions{version}"), kind == "flavors{id}", kind == "volume-types{id}", part == "{name}":
			parts[i] = "1"
		default:
			t.Fatalf("%s: what kind of thing is %s of %s? Add a row.", path, part, kind)
		}
	}
	return strings.Join(parts, "/")
}

// validBodies are requests that would be accepted; the table breaks each of their values.
func (s *street) validBodies() map[string][]string {
	return map[string][]string{
		"POST /instances": {`{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 1, "type": "local"}, "datastore": {"type": "redis", "version": "7.0", "version_number": "7.0"},
			"nics": [{"net-id": "11111111-1111-4111-8111-111111111111"}], "availability_zone": "nova", "configuration": "` + s.own.configuration + `", "locality": "affinity",
			"region_name": "RegionOne", "access": {"is_public": false, "allowed_cidrs": ["10.0.0.0/8"]}, "deletion_protection": true, "replica_count": 1, "persistence": "rdb", "profile": "cache"}}`,
			`{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 1}, "high_availability": {"durability": "bounded", "when_degraded": "accept"}}}`,
			`{"instance": {"name": "i", "replica_of": "` + s.own.instance + `", "replica_count": 2}}`},
		"PUT /instances/{id}": {`{"instance": {"name": "n", "deletion_protection": true, "access": {"is_public": true, "allowed_cidrs": ["10.0.0.0/8"]}}}`,
			`{"instance": {"configuration": "` + s.own.configuration + `"}}`, `{"instance": {"persistence": "rdb"}}`, `{"instance": {"profile": "cache"}}`,
			`{"instance": {"datastore_version": "7.0"}}`, `{"instance": {"high_availability": {"durability": "bounded", "when_degraded": "accept"}}}`},
		"PATCH /instances/{id}": {`{"instance": {"name": "n", "deletion_protection": true, "configuration": "` + s.own.configuration + `"}}`,
			`{"instance": {"high_availability": {"durability": "async"}}}`},
		"POST /instances/{id}/action":                {`{"restart": {}}`, `{"stop": {}}`, `{"rebuild": {}}`, `{"resize": {"volume": {"size": 2}}}`, `{"resize": {"flavorRef": "2"}}`, `{"reset_status": {"force_delete": true}}`},
		"POST /instances/{id}/root":                  {`{"password": "wonderland1"}`},
		"POST /instances/{id}/users":                 {`{"users": [{"name": "reader", "password": "wonderland1", "host": "%", "databases": [{"name": "app:*"}]}]}`},
		"PUT /instances/{id}/users":                  {`{"users": [{"name": "writer", "password": "wonderland2", "host": "%"}]}`},
		"PUT /instances/{id}/users/{user}":           {`{"user": {"name": "w2", "password": "wonderland2", "host": "%"}}`},
		"PUT /instances/{id}/users/{user}/databases": {`{"databases": [{"name": "jobs:*"}]}`},
		"POST /configurations":                       {`{"configuration": {"name": "g", "description": "d", "values": {"hz": 1, "notify-keyspace-events": "Kx"}, "datastore": {"type": "redis", "version": "7.0", "version_number": "7.0"}}}`},
		"PUT /configurations/{id}":                   {`{"configuration": {"name": "g", "description": "d", "values": {"hz": 1, "notify-keyspace-events": "Kx"}}}`},
		"PATCH /configurations/{id}":                 {`{"configuration": {"values": {"hz": 1, "notify-keyspace-events": "Kx"}}}`},
		"POST /clusters": {`{"cluster": {"name": "c", "datastore": {"type": "redis", "version": "7.0", "version_number": "7.0"}, "instances": [` + members(3) + `],
			"locality": "affinity", "configuration": "` + s.own.configuration + `", "extended_properties": {"replicas_per_shard": "1"}}}`},
		"POST /clusters/{id}": {`{"grow": [{"flavorRef": "1", "volume": {"size": 1}, "type": "replica", "related_to": "mine-member-1"}]}`,
			`{"resize": {"volume": {"size": 2}}}`, `{"resize": {"flavorRef": "2"}}`, `{"restart": {}}`,
			`{"configuration_attach": {"configuration_id": "` + s.own.configuration + `"}}`, `{"reset-status": {"force_delete": true}}`},
		"POST /clusters/{id}/root":                 {`{"password": "wonderland1"}`},
		"POST /mgmt/instances/{id}/action":         {`{"stop": {}}`, `{"rebuild": {}}`, `{"reset-task-status": {}}`},
		"POST /mgmt/instances/{id}/upgrade":        {`{"upgrade": {"location": "https://mirror/grove-agent", "metadata": {"sha256": "` + strings.Repeat("ab", 32) + `"}}}`},
		"POST /mgmt/clusters/{id}/action":          {`{"reset-task": {}}`},
		"POST /mgmt/findings/action":               {`{"delete": {"all": true}}`},
		"PUT /mgmt/quotas/{id}":                    {`{"quotas": {"instances": 5}}`},
		"POST /mgmt/datastore-versions":            {`{"version": {"name": "valkey-8.0", "version": "8.0.99", "datastore_name": "redis", "datastore_manager": "redis", "image": "i", "image_tags": ["grove"], "packages": ["p"], "active": true, "default": false}}`},
		"PATCH /mgmt/datastore-versions/{version}": {`{"name": "7.0", "datastore_manager": "redis", "image": "i", "image_tags": ["grove"], "packages": ["p"], "active": true, "default": true}`},
		"POST /operations/{id}/action":             {`{"retry": {}}`, `{"cancel": {}}`},
	}
}

// TestBadInput sends to every route what it must refuse: 4xx or 501 in Trove's shape, and nothing written.
func TestBadInput(t *testing.T) {
	s := newStreet(t)
	bodies := s.validBodies()
	sent := 0
	before := s.digest()
	verbs := map[string]bool{}
	for _, rt := range s.server.routes() {
		name := rt.method + " " + rt.path
		refuse := func(what, path, body string, headers ...string) {
			t.Helper()
			sent++
			c := s.client
			if strings.HasPrefix(rt.path, "/mgmt") {
				c = s.as("admin")
			}
			r := c.call(rt.method, path, body, headers...)
			if (r.status < 400 || r.status >= 500) && r.status != 501 {
				t.Errorf("%s with %s → %d\n%s\n%s", name, what, r.status, printable(body), r.body)
			}
		}
		ids := map[string]string{"a non-UUID": "nonsense", "an over-long id": strings.Repeat("x", 5000), "a NUL": "%00", "no UTF-8": "%ff%fe",
			"a slash": "..%2F..%2Fetc", "a random id": "00000000-0000-4000-8000-000000000000", "quotes": "%27%22%3B--"}
		if strings.Contains(rt.path, "{") && !strings.HasPrefix(rt.path, "/mgmt/quotas") {
			for what, id := range ids {
				refuse(what, fill(rt.path, id), first(bodies[name]))
			}
			if rt.handle.built && ownedByProjects(rt.path) {
				refuse("a foreign id", fillFor(t, rt.path, s.foreign), first(bodies[name]))
				if !strings.HasPrefix(rt.path, "/operations") {
					refuse("a deleted id", fillFor(t, rt.path, s.deleted), first(bodies[name]))
				}
			}
		}
		if rt.handle.body {
			path := fillFor(t, rt.path, s.own)
			if len(bodies[name]) == 0 {
				t.Errorf("%s has no valid body to break: add one", name)
			}
			for what, body := range malformed() {
				refuse(what, path, body)
			}
			refuse("XML", path, first(bodies[name]), "Content-Type: application/xml")
			refuse("a form", path, "a=b", "Content-Type: application/x-www-form-urlencoded")
			refuse("a compressed body", path, first(bodies[name]), "Content-Encoding: gzip")
			for _, valid := range bodies[name] {
				for what, broken := range breakages(t, valid) {
					refuse(what, path, broken)
				}
			}
		}
		for _, verb := range []string{"HEAD", "OPTIONS", "TRACE", "BREW", "PUT", "PATCH", "DELETE", "POST"} {
			if known := verbs[verb+rt.path]; !known && !s.routed(verb, rt.path) {
				verbs[verb+rt.path] = true
				s.call(verb, fill(rt.path, s.own.instance), "").fault(404)
				sent++
			}
		}
		if !rt.handle.built {
			continue
		}
		if after := s.digest(); after != before {
			t.Errorf("%s: something that was refused was written all the same", name)
			before = after
		}
	}
	t.Logf("%d bad requests", sent)
}

// TestBodiesThatTheTableBreaks shows that the table tests what it says: unbroken, its bodies are accepted.
func TestBodiesThatTheTableBreaks(t *testing.T) {
	s := newStreet(t, withConfig(func(c *Config) { c.AwaitAtMost = time.Millisecond }))
	for name, list := range s.validBodies() {
		method, path, _ := strings.Cut(name, " ")
		for _, body := range list {
			mine, c := s.furnished(s.client), s.client
			if strings.HasPrefix(path, "/mgmt") {
				c = s.as("admin")
			}
			if strings.HasPrefix(path, "/operations") {
				mine.operation = s.post("/instances/"+mine.instance+"/action", `{"restart": {}}`).want(202).operation()
			}
			if r := c.call(method, fillFor(t, path, mine), body); r.status >= 300 {
				t.Errorf("%s %s, which is in order, → %d %s", name, body, r.status, r.body)
			}
			s.settle()
		}
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func (s *street) routed(verb, path string) bool {
	r := httptest.NewRequest(verb, "/v1.0/demo"+fill(path, s.own.instance), nil)
	return slices.ContainsFunc(s.server.routes(), func(rt route) bool {
		return rt.method == verb && len(strings.Split(rt.path, "/")) == len(strings.Split(path, "/")) && matches(rt.path, r.URL.Path)
	})
}

func matches(template, path string) bool {
	a, b := strings.Split("/v1.0/demo"+template, "/"), strings.Split(path, "/")
	return slices.EqualFunc(a, b, func(x, y string) bool { return x == y || strings.HasPrefix(x, "{") })
}

func malformed() map[string]string {
	deep := strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000)
	return map[string]string{
		"half an object": `{"instance": `, "no JSON": `nonsense`, "a string": `"text"`, "a list": `[]`, "a number": `5`, "null": `null`,
		"something after it": `{} {}`, "a comma too many": `{"a": 1,}`, "a deep object": deep, "a deep list": strings.Repeat("[", 100_000),
		"a NUL": "{\"a\": \"\x00\"}", "an escaped NUL": `{"zzz": "a\u0000b"}`, "an escaped NUL as key": `{"a\u0000b": 1}`,
		"a body over the limit": `{"a": "` + strings.Repeat("x", 1<<20) + `"}`,
	}
}

// breakages breaks each value of a valid body in turn.
func breakages(t testing.TB, valid string) map[string]string {
	t.Helper()
	var tree any
	if err := json.Unmarshal([]byte(valid), &tree); err != nil {
		t.Fatalf("%v in %s", err, valid)
	}
	broken := map[string]string{}
	visit(tree, "", func(path string, value any, set func(any)) {
		for what, wrong := range wrongFor(path, value) {
			set(wrong)
			b, err := json.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			broken[path+" as "+what] = string(b)
		}
		set(value)
	})
	return broken
}

func visit(node any, path string, see func(path string, value any, set func(any))) {
	switch node := node.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(node)) {
			child := node[key]
			see(path+"."+key, child, func(v any) { node[key] = v })
			visit(child, path+"."+key, see)
		}
	case []any:
		for i, child := range node {
			see(fmt.Sprintf("%s[%d]", path, i), child, func(v any) { node[i] = v })
			visit(child, path, see)
		}
	}
}

// wrongFor gives values that cannot stand where value does.
func wrongFor(path string, value any) map[string]any {
	if strings.HasSuffix(path, ".force_delete") {
		return nil // anything is allowed
	}
	switch value.(type) {
	case map[string]any:
		return map[string]any{"a string": "text", "a list": []any{1}, "a number": 5, "a boolean": true}
	case []any:
		return map[string]any{"a string": "text", "an object": map[string]any{"a": 1}, "a number": 5}
	case bool:
		return map[string]any{"a string": "maybe", "a list": []any{}, "a number": 5}
	case float64:
		return map[string]any{"a string": "text", "a list": []any{}, "an object": map[string]any{}, "a huge number": 1e30, "a boolean": true, "a fraction": 0.5}
	default:
		wrong := map[string]any{"a list": []any{}, "an object": map[string]any{}, "a boolean": true,
			"an over-long string": strings.Repeat("x", 10_000), "a string with a NUL": "a\x00b"}
		if !strings.Contains(strings.ToLower(path), "ref") && !strings.HasSuffix(path, ".configuration") {
			wrong["a number"] = 5
		}
		return wrong
	}
}

func TestBodyOverTheLimitIsNotRead(t *testing.T) {
	h := newHouse(t)
	read := 0
	body := readerFunc(func(p []byte) (int, error) { read += len(p); return len(p), nil })
	r := httptest.NewRequest(http.MethodPost, "/v1.0/demo/instances", body)
	r.ContentLength = 1 << 30
	h.send(r).fault(413, "overLimit")
	if read != 0 {
		t.Errorf("%d bytes were read of a body that announced itself as too large", read)
	}
	r = httptest.NewRequest(http.MethodPost, "/v1.0/demo/instances", body)
	r.ContentLength = -1
	h.send(r).fault(413, "overLimit")
	if read > 3<<20 {
		t.Errorf("%d bytes were read of an endless body", read)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestContentTypes(t *testing.T) {
	h := newHouse(t)
	for contentType, status := range map[string]int{
		"application/json": 200, "application/json; charset=utf-8": 200, "Application/JSON": 200, "": 200,
		"text/plain": 415, "application/xml": 415, "application/json-patch+json": 415, "nonsense/": 415,
	} {
		r := httptest.NewRequest(http.MethodPost, "/v1.0/demo/instances", strings.NewReader(createBody("a")))
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		h.send(r).want(status)
	}
	r := httptest.NewRequest(http.MethodPost, "/v1.0/demo/instances", strings.NewReader("  "))
	r.Header.Set("Content-Type", "text/plain")
	h.send(r).fault(400, "needs a JSON body")
}

func TestStrangeProjects(t *testing.T) {
	h := newHouse(t)
	for _, project := range []string{strings.Repeat("x", 65), "%00", "%ff", "a%2Fb", "a%0Ab"} {
		h.get("/v1.0/" + project + "/instances").fault(404)
	}
	h.get("/v1.0/pr%C3%B6jekt/instances").want(200)
	h.get("/v1.0//instances").fault(404)
	h.get("/v1.0/demo//instances").fault(404)
	h.get("/v1.0/demo/instances/").fault(404)
	h.get("/v1.0/demo/../admin/instances").fault(404)
}
