package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/mux"
)

// Every route of the router is in the document, and every operation of the document is a route.
func TestDocumentHasEveryRoute(t *testing.T) {
	h := newHouse(t)
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	routed := map[string]bool{}
	err = h.server.router.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := route.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := route.GetMethods()
		if err != nil {
			return err
		}
		for _, method := range methods {
			routed[method+" "+path] = true
			if item := doc.Paths.Value(path); item == nil || item.GetOperation(method) == nil {
				t.Errorf("openapi.yaml lacks %s %s", method, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !routed[method+" "+path] {
				t.Errorf("openapi.yaml has %s %s, which is no route", method, path)
			}
		}
	}
}

// What the document calls not built is what answers 501, and nothing else does.
func TestNotBuiltRoutesAnswer501(t *testing.T) {
	h := newHouse(t)
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	admin := h.as("admin")
	for _, rt := range h.server.routes() {
		documented := doc.Paths.Value(projectPrefix + rt.path).GetOperation(rt.method)
		if marked := strings.Join(documented.Tags, "") == "not built"; marked == rt.handle.built {
			t.Errorf("%s %s: built is %t, the document says otherwise", rt.method, rt.path, rt.handle.built)
		}
		if rt.handle.built {
			continue
		}
		admin.call(rt.method, fill(rt.path, "x"), "").fault(501, "is not built yet")
		want := 501
		if h.server.Policy.rules[rt.handle.rule].text == "rule:"+ruleAdmin {
			want = 403
		}
		h.call(rt.method, fill(rt.path, "x"), "").want(want)
	}
}

// fill puts a value into every variable of a path template.
func fill(template, value string) string {
	parts := strings.Split(template, "/")
	for i, part := range parts {
		if strings.HasPrefix(part, "{") {
			parts[i] = value
		}
	}
	return strings.Join(parts, "/")
}

func TestDiscovery(t *testing.T) {
	h := newHouse(t)
	h.get("//").want(200).has("versions.0.id", "v1.0", "versions.0.status", "CURRENT",
		"versions.0.updated", "2012-08-01T00:00:00Z", "versions.0.links.0.href", "http://dbaas.example:8779/v1.0/", "versions.1", absent)
	h.get("/v1.0").want(200).has("version.id", "v1.0")
	h.get("/v1.0/").want(200).has("version.id", "v1.0")
	if got := string(h.get("//healthcheck").want(200).body); got != "OK" {
		t.Errorf("healthcheck says %q", got)
	}
	h.get("//readyz").want(200)
	h.get("//openapi.yaml").want(200)
	h.get("/instances").want(200)
	if metrics := string(h.get("//metrics").want(200).body); !strings.Contains(metrics, `route="/v1.0/{project}/instances"`) {
		t.Error("/metrics does not count requests by route")
	}
	h.get("//nowhere").fault(404, "itemNotFound")
	h.get("//v2.0/demo/instances").fault(404, "itemNotFound")
	h.call(http.MethodGet, "//demo/instances", "", "Accept: application/vnd.openstack.trove+json;version=1.0").want(200)
	h.call(http.MethodGet, "//demo/instances", "", "Accept: application/vnd.openstack.trove;version=2.0").fault(406, "notAcceptable")
}

func TestNotReadyWithoutDatabase(t *testing.T) {
	h := newHouse(t)
	if err := h.store.Close(); err != nil {
		t.Fatal(err)
	}
	h.get("//healthcheck").want(200)
	h.get("//readyz").fault(503, "serviceUnavailable")
}

func TestPublicEndpointIsWhatClientsSee(t *testing.T) {
	h := newHouse(t, withConfig(func(c *Config) { c.PublicEndpoint = "https://db.cloud.example/" }))
	h.get("//").want(200).has("versions.0.links.0.href", "https://db.cloud.example/v1.0/")
}
