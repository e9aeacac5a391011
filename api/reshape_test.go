package api

import (
	"strings"
	"testing"
)

// TestPersistenceAndProfile: both are chosen at creation and later; what a mode may lose is said in the answer and in the
// event; what the datastore does not have is refused, with nothing changed.
func TestPersistenceAndProfile(t *testing.T) {
	h := newHouse(t)
	h.worker(func(string) string { return "" })
	body := strings.Replace(createBody("cache"), `"name"`, `"persistence": "none", "profile": "cache", "name"`, 1)
	created := h.post("/instances", body).want(200).has("instance.persistence", "none", "instance.profile", "cache")
	if warning := created.header.Get("Warning"); !strings.Contains(warning, "all data is lost") {
		t.Errorf("the warning is %q", warning)
	}
	path := "/instances/" + created.text("instance.id")
	h.until(created.text("instance.id"), "ACTIVE")
	r := h.put(path, `{"instance": {"persistence": "rdb"}}`).want(202)
	if warning := r.header.Get("Warning"); !strings.Contains(warning, "after the last one is lost") {
		t.Errorf("the warning is %q", warning)
	}
	h.waitIdle(created.text("instance.id"))
	h.get(path).has("instance.persistence", "rdb")
	h.get("/events?resource_id="+created.text("instance.id")).has("events.0.kind", "instance.set_persistence.accepted",
		"events.0.message", "Accepted set_persistence. With snapshots alone, what was written after the last one is lost when the database ends by a crash.")
	if r := h.patch(path, `{"instance": {"persistence": null}}`).want(202); r.header.Get("Warning") != "" {
		t.Errorf("the default warns: %q", r.header.Get("Warning"))
	}
	h.waitIdle(created.text("instance.id"))
	h.get(path).has("instance.persistence", "aof")
	h.put(path, `{"instance": {"profile": null}}`).want(202)
	h.waitIdle(created.text("instance.id"))
	h.get(path).has("instance.profile", absent)
	before := h.digest()
	h.put(path, `{"instance": {"persistence": "always"}}`).fault(400, "aof, rdb, none")
	h.put(path, `{"instance": {"profile": "warehouse"}}`).fault(400, "cache")
	h.put(path, `{"instance": {"profile": "cache", "persistence": "rdb"}}`).fault(400, "one thing at a time")
	h.post("/instances", strings.Replace(body, `"none"`, `"some"`, 1)).fault(400, "aof, rdb, none")
	h.post("/instances", strings.Replace(body, `"profile": "cache"`, `"profile": "x"`, 1)).fault(400, "cache")
	if h.digest() != before {
		t.Error("something that was refused was written")
	}
	h.put(path+"?dry_run=true", `{"instance": {"persistence": "none"}}`).want(200).has("dry_run.operation", "set_persistence",
		"dry_run.effects.0", "Without persistence all data is lost whenever the database ends: by a crash, a restart, another flavor, an upgrade.")
}

// TestUpgrade: python-troveclient asks for it by PATCH with a name or an id; what cannot be is refused before anything
// starts.
func TestUpgrade(t *testing.T) {
	h := newHouse(t)
	id := h.newInstance("cache")
	path := "/instances/" + id
	upgrade := func(version string) *result {
		t.Helper()
		return h.patch(path, `{"instance": {"datastore_version": `+version+`}}`)
	}
	before := h.digest()
	upgrade(`"6.2"`).fault(400, "not active")
	upgrade(`"9.9"`).fault(400, "9.9")
	upgrade(`"`+randomID+`"`).fault(404, randomID)
	upgrade(`5`).fault(400, "datastore_version")
	upgrade(`null`).fault(400, "datastore_version")
	if h.digest() != before {
		t.Error("something that was refused was written")
	}
	upgrade(`"valkey-8.0"`).want(202)
	h.get(path).has("instance.status", "UPGRADE", "instance.datastore.version", "7.0")
	h.settle()
	h.get(path).has("instance.status", "ACTIVE", "instance.datastore.version", "valkey-8.0")
	upgrade(`"valkey-8.0"`).want(202)
	h.settle()
	upgrade(`"7.0"`).fault(400, "cannot be made version 7.0 with its data kept; possible are: none")
	configuration := h.newConfiguration("old", `{"hz": 15}`)
	other := h.newInstance("configured")
	h.put("/instances/"+other, `{"instance": {"configuration": "`+configuration+`"}}`)
	h.settle()
	h.patch("/instances/"+other, `{"instance": {"datastore_version": "valkey-8.0"}}`).fault(400, "detach it before the upgrade")
	h.post("/instances/"+other+"/action", `{"stop": {}}`).want(202)
	h.settle()
	h.patch("/instances/"+other, `{"instance": {"datastore_version": "7.0"}}`).fault(422, "start it before")
}
