package api

import (
	"fmt"
	"strings"
	"testing"
)

func TestOperations(t *testing.T) {
	h := newHouse(t)
	created := h.post("/instances", createBody("a")).want(200)
	id, op := created.text("instance.id"), created.operation()
	h.get("/operations/"+op).want(200).has("operation.kind", "create_instance", "operation.status", "running",
		"operation.resource_type", "instance", "operation.resource_id", id, "operation.ended", nil, "operation.failure", absent,
		"operation.request_id", created.header.Get("X-Openstack-Request-Id"), "operation.actor", "demo", "operation.tenant_id", absent)
	h.settle()
	h.get("/operations/"+op).want(200).has("operation.status", "succeeded", "operation.steps.0.step", "finish",
		"operation.steps.0.outcome", "done", "operation.steps.0.message", absent)
	h.as("admin").get("/operations/"+op).want(200).has("operation.tenant_id", "demo", "operation.steps.0.message", "what only operators see")

	restart := h.post("/instances/"+id+"/action", `{"restart": {}}`).want(202).operation()
	h.get("/operations").want(200).has("operations.0.id", restart, "operations.1.id", op, "operations.0.steps", absent)
	h.get("/operations?status=running").want(200).has("operations.0.id", restart, "operations.1", absent)
	h.get("/operations?resource_id="+id+"&limit=1").want(200).has("operations.0.id", restart, "operations.1", absent, "links.0.rel", "next")
	h.get("/operations?marker="+restart).want(200).has("operations.0.id", op, "operations.1", absent)
	h.get("/operations?status=odd").fault(400, "odd")
	h.get("/operations?resource_id=odd").fault(400, "resource_id")
	h.get("/operations?all_projects=true").fault(403)
	h.as("admin").get("/operations?all_projects=True").want(200).has("operations.0.id", restart, "operations.0.tenant_id", "demo")
	h.as("admin").get("/operations").want(200).has("operations.0", absent)

	action := "/operations/" + restart + "/action"
	h.post(action, `{"retry": {}}`).want(202)
	h.post(action, `{"cancel": {}}`).want(202)
	h.post(action, `{}`).fault(400, "retry or cancel")
	h.post(action, `{"retry": {}, "cancel": {}}`).fault(400, "retry or cancel")
	h.post("/operations/"+op+"/action", `{"cancel": {}}`).fault(422, "ended")
}

func TestEvents(t *testing.T) {
	h := newHouse(t)
	created := h.post("/instances", createBody("a")).want(200)
	id := created.text("instance.id")
	h.settle()
	h.post("/instances/"+id+"/action", `{"resize": {"volume": {"size": 3}}}`).want(202)
	h.get("/events").want(200).has("events.0.kind", "instance.resize_volume.accepted", "events.0.before.volume_size", 1,
		"events.0.after.volume_size", 3, "events.0.actor", "demo", "events.0.source_address", "192.0.2.1", "events.0.tenant_id", absent)
	h.get("/events?resource_id="+id+"&limit=1").want(200).has("events.1", absent, "links.0.rel", "next")
	h.as("other").get("/events").want(200).has("events.0", absent)
	h.get("/events?all_projects=true").fault(403)
	h.as("admin").get("/events?all_projects=true").want(200).has("events.0.tenant_id", "demo")
}

func TestPagesOfEventsMeetEveryOneOnce(t *testing.T) {
	h := newHouse(t)
	for i := range 7 {
		h.post("/instances", createBody(fmt.Sprintf("i%d", i))).want(200)
	}
	seen := map[string]int{}
	path := "/events"
	for path != "" {
		page := h.get(path).want(200)
		for i := range 3 {
			if id, ok := page.at(fmt.Sprintf("events.%d.id", i)).(string); ok {
				seen[id]++
			}
		}
		path = ""
		if href, ok := page.at("events_links.0.href").(string); ok {
			path = strings.TrimPrefix(href, "http://dbaas.example:8779")
		}
	}
	if len(seen) != 7 {
		t.Errorf("%d events were met, want 7", len(seen))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("event %s was met %d times", id, n)
		}
	}
}
