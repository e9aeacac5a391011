package api

import (
	"fmt"
	"strings"
	"testing"
)

func TestLifeOfAConfigurationGroup(t *testing.T) {
	h := newHouse(t)
	created := h.post("/configurations", `{"configuration": {"name": "tuned", "description": "lru",
		"values": {"maxmemory-policy": "allkeys-lru", "HZ": 15, "requirepass": "s3cret-value"},
		"datastore": {"type": "redis", "version": "7.0"}}}`).want(200)
	created.has("configuration.name", "tuned", "configuration.description", "lru", "configuration.instance_count", 0,
		"configuration.values.maxmemory-policy", "allkeys-lru", "configuration.values.hz", 15, "configuration.values.requirepass", "***",
		"configuration.datastore_name", "redis", "configuration.datastore_version_name", "7.0", "configuration.datastore_version_number", "7.0")
	id := created.text("configuration.id")
	h.get("/configurations").want(200).has("configurations.0.id", id, "configurations.0.values", absent)
	h.get("/configurations/"+id).want(200).has("configuration.values.requirepass", "***")

	r := h.patch("/configurations/"+id, `{"configuration": {"name": "ignored", "values": {"databases": 24}}}`).want(200)
	if len(r.body) != 0 {
		t.Errorf("PATCH answers with a body: %s", r.body)
	}
	h.get("/configurations/"+id).want(200).has("configuration.name", "tuned", "configuration.values.databases", 24, "configuration.values.hz", 15)
	h.patch("/configurations/"+id, `{"configuration": {"name": "ignored"}}`).want(200)
	h.put("/configurations/"+id, `{"configuration": {"name": "new", "values": {"appendonly": true}}}`).want(202)
	h.get("/configurations/"+id).want(200).has("configuration.name", "new", "configuration.description", "lru",
		"configuration.values.appendonly", true, "configuration.values.hz", absent, "configuration.values.requirepass", absent)
	h.put("/configurations/"+id, `{"configuration": {}}`).want(202)
	h.get("/configurations/"+id).want(200).has("configuration.values.appendonly", absent)
	h.delete("/configurations/" + id).want(202)
	h.get("/configurations/" + id).fault(404)
	for _, secret := range []string{"s3cret-value"} {
		if strings.Contains(h.log.String(), secret) {
			t.Error("the log tells the secret")
		}
	}
}

func TestConfigurationRefusals(t *testing.T) {
	h := newHouse(t)
	id := h.newConfiguration("tuned", `{"requirepass": "s3cret-value"}`)
	long := strings.Repeat("x", 129)
	for _, c := range []struct {
		values string
		status int
		says   string
	}{
		{`{"hz": 600}`, 422, "hz"},
		{`{"databases": -1}`, 422, "databases"},
		{`{"databases": "text"}`, 422, "databases"},
		{`{"nonsense": 1}`, 422, "nonsense"},
		{`{"dir": "/tmp"}`, 422, "dir"},
		{`{"hz": {}}`, 422, "hz"},
		{`{"hz": [1]}`, 422, "hz"},
		{`{"hz": null}`, 422, "hz"},
		{`{"maxmemory-policy": "never"}`, 422, "maxmemory-policy"},
		{`{"requirepass": "***"}`, 422, "requirepass"},
		{`{"notify-keyspace-events": "` + long + `"}`, 422, "128"},
		{`[]`, 400, "configuration.values must be an object, not an array"},
		{`"{}"`, 400, "configuration.values must be an object"},
	} {
		before := h.digest()
		h.post("/configurations", `{"configuration": {"name": "g", "values": `+c.values+`}}`).fault(c.status, c.says)
		h.put("/configurations/"+id, `{"configuration": {"values": `+c.values+`}}`).fault(c.status, c.says)
		h.patch("/configurations/"+id, `{"configuration": {"values": `+c.values+`}}`).fault(c.status, c.says)
		if h.digest() != before {
			t.Errorf("%s was refused and still wrote something", c.values)
		}
	}
	for _, body := range []string{
		`{}`, `{"configuration": {}}`, `{"configuration": {"name": "g"}}`, `{"configuration": {"name": "g", "values": null}}`,
		`{"configuration": {"name": "", "values": {}}}`, `{"configuration": {"name": "g", "description": 5, "values": {}}}`,
		`{"configuration": {"name": "g", "values": {}, "description": "` + strings.Repeat("x", 256) + `"}}`,
	} {
		h.post("/configurations", body).fault(400)
	}
	h.post("/configurations", `{"configuration": {"name": "g", "values": {}, "datastore": {"type": "mysql"}}}`).fault(404, "mysql")
}

// A change of an attached group is applied before it is answered, and names every operation.
func TestAttachedGroupIsApplied(t *testing.T) {
	h := newHouse(t)
	group := h.newConfiguration("tuned", `{"hz": 15}`)
	var ids []string
	for _, name := range []string{"a", "b"} {
		ids = append(ids, h.post("/instances", `{"instance": {"name": "`+name+`", "flavorRef": "1", "volume": {"size": 1}, "configuration": "`+group+`"}}`).
			want(200).has("instance.configuration.id", group).text("instance.id"))
	}
	h.settle()
	h.post("/instances/"+ids[1]+"/action", `{"restart": {}}`).want(202)
	h.patch("/configurations/"+group, `{"configuration": {"values": {"hz": 20}}}`).fault(422, "restart_instance") // one is busy: none is changed
	h.get("/configurations/"+group).want(200).has("configuration.values.hz", 15)
	h.settle()
	h.worker(func(string) string { return "" })
	r := h.patch("/configurations/"+group, `{"configuration": {"values": {"hz": 20}}}`).want(200)
	if operations := strings.Split(r.operation(), ", "); len(operations) != 2 {
		t.Errorf("the answer names the operations %v", operations)
	}
	for _, id := range ids {
		h.get("/instances/"+id).want(200).has("instance.status", "ACTIVE", "instance.operation", absent)
	}
	h.get("/configurations/"+group+"/instances?limit=1").want(200).has("instances.0.id", ids[0], "instances.1", absent, "links.0.rel", "next")
	h.get("/configurations/"+group+"/instances?marker="+ids[0]).want(200).has("instances.0.id", ids[1], "links", absent)
}

func TestPagesOfConfigurations(t *testing.T) {
	h := newHouse(t)
	var ids []string
	for i := range 4 {
		ids = append(ids, h.newConfiguration(fmt.Sprintf("g%d", i), `{}`))
	}
	h.get("/configurations").want(200).has("configurations.2.id", ids[2], "configurations.3", absent,
		"links.0.href", "https://dbaas.example:8779/v1.0/demo/configurations?marker="+ids[2])
	h.get("/configurations?marker="+ids[2]).want(200).has("configurations.0.id", ids[3], "links", absent)
	h.as("other").get("/configurations").want(200).has("configurations.0", absent)
}

func TestRoot(t *testing.T) {
	h := newHouse(t)
	h.worker(func(string) string { return "" })
	id := h.post("/instances", createBody("a")).want(200).text("instance.id")
	h.until(id, "ACTIVE")
	root := "/instances/" + id + "/root"
	h.get(root).want(200).has("rootEnabled", false)
	h.delete(root).fault(404)
	generated := h.post(root, "").want(200).has("user.name", "-", "failed_slaves.0", absent)
	generated.operation()
	h.get(root).want(200).has("rootEnabled", true)
	h.get("/instances/"+id+"/credentials").want(200).has("credentials.password", generated.text("user.password"))
	h.post(root, `{}`).want(200)
	h.post(root, `{"password": "my own secret 1"}`).want(200).has("user.password", "my own secret 1")
	h.get("/instances/"+id+"/credentials").want(200).has("credentials.password", "my own secret 1")
	h.post(root, `{"password": ""}`).fault(400, "password")
	h.post(root, `{"password": 5}`).fault(400, "password must be a string")
	if r := h.delete(root).want(204); len(r.body) != 0 || r.header.Get("Content-Length") != "" {
		t.Errorf("204 has a body or a length: %q %q", r.body, r.header.Get("Content-Length"))
	}
	h.get(root).want(200).has("rootEnabled", false)
	if got := h.get("/instances/" + id + "/credentials").want(200).text("credentials.password"); got == "my own secret 1" {
		t.Error("disabling root left its password")
	}
	if strings.Contains(h.log.String(), "my own secret") {
		t.Error("the log tells the password")
	}
}
