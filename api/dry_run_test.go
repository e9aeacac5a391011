package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Every request that changes something may be asked what it would do: it says so, and nothing is written.
func TestDryRunOfEveryRoute(t *testing.T) {
	s := newStreet(t)
	bodies := s.validBodies()
	for _, rt := range s.server.routes() {
		if !rt.handle.built || rt.method == http.MethodGet {
			continue
		}
		name, tries := rt.method+" "+rt.path, bodies[rt.method+" "+rt.path]
		if !rt.handle.body {
			tries = []string{""}
		}
		for _, body := range tries {
			mine, c := s.furnished(s.client), s.client
			switch {
			case name == "DELETE /mgmt/datastore-versions/{version}", name == "DELETE /datastores/{datastore}": // one that nothing uses
				c = s.as("admin")
				mine.datastore = fmt.Sprint("unused", len(rt.path))
				c.post("/mgmt/datastore-versions", `{"version": {"name": "7.0", "datastore_name": "`+mine.datastore+`", "datastore_manager": "redis", "image": "i", "active": true, "default": true}}`).want(202)
				mine.version = c.get("/datastores/" + mine.datastore).text("datastore.default_version")
				if name == "DELETE /datastores/{datastore}" {
					c.delete("/mgmt/datastore-versions/" + mine.version).want(202)
				}
			case strings.HasPrefix(rt.path, "/mgmt"):
				c = s.as("admin")
			case strings.HasPrefix(rt.path, "/operations"):
				mine.operation = s.post("/instances/"+mine.instance+"/action", `{"restart": {}}`).want(202).operation()
			case name == "DELETE /instances/{id}/root":
				s.post("/instances/"+mine.instance+"/root", "").want(200)
				s.settle()
			}
			before := s.digest()
			r := c.call(rt.method, fillFor(t, rt.path, mine)+"?dry_run=true", body).want(200)
			if effects, _ := r.at("dry_run.effects").([]any); len(effects) == 0 {
				t.Errorf("%s %s does not say what it would do: %s", name, body, r.body)
			}
			if r.header.Get("Grove-Operation") != "" || strings.Contains(string(r.body), "wonderland1") {
				t.Errorf("%s %s answers a dry run with %v %s", name, body, r.header, r.body)
			}
			if s.digest() != before {
				t.Errorf("%s %s was done, not only planned", name, body)
			}
			s.settle()
		}
	}
}

// A dry run refuses what the request would be refused for: locks, quota, shape.
func TestDryRunChecksEverything(t *testing.T) {
	h := newHouse(t, withQuotas(map[string]int{"instances": 1, "volumes": 3, "backups": 1, "ram": -1}))
	id := h.newInstance("one")
	path := "/instances/" + id
	h.post(path+"/action?dry_run=true", `{"resize": {"volume": {"size": 4}}}`).fault(413, "volumes")
	h.post("/instances?dry_run=true", createBody("two")).fault(413, "instances")
	h.put(path+"?dry_run=true", `{"instance": {"configuration": "`+randomID+`"}}`).fault(404, randomID)
	h.post(path+"/action?dry_run=perhaps", `{"restart": {}}`).fault(400, "dry_run must be true or false")
	h.post(path+"/action?dry_run=", `{"restart": {}}`).fault(400, "dry_run")
	h.put(path+"?dry_run=True", `{"instance": {"name": "renamed"}}`).want(200).has("dry_run.operation", absent)
	h.get(path).has("instance.name", "one", "instance.status", "ACTIVE")
	h.post(path+"/action?dry_run=false", `{"restart": {}}`).want(202)
	h.post(path+"/action?dry_run=true", `{"restart": {}}`).fault(422, "restart_instance")
	h.delete(path+"?dry_run=true").want(200).has("dry_run.operation", "delete_instance", "dry_run.resources.0", id)
}
