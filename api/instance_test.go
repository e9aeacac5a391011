package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

func TestLifeOfAnInstance(t *testing.T) {
	h := newHouse(t, withManualClock())
	created := h.post("/instances", `{"instance": {"name": "cache1", "flavorRef": 1, "volume": {"size": "2", "type": null},
		"datastore": {"type": "redis", "version": "7.0"}, "availability_zone": "nova", "access": {"is_public": false}, "locality": "affinity"}}`).want(200)
	created.has("instance.name", "cache1", "instance.status", "BUILD", "instance.operating_status", "",
		"instance.datastore.type", "redis", "instance.datastore.version", "7.0", "instance.datastore.version_number", "7.0",
		"instance.flavor.id", "1", "instance.volume.size", 2, "instance.volume.used", absent, "instance.region", "RegionOne",
		"instance.access.is_public", false, "instance.ip", absent, "instance.addresses", absent, "instance.replicas", absent,
		"instance.replica_of", absent, "instance.configuration", absent, "instance.fault", absent, "instance.hostname", absent,
		"instance.created", "2026-11-22T10:11:12", "instance.updated", "2026-11-22T10:11:12", "instance.service_status_updated", nil,
		"instance.tenant_id", absent, "instance.server_id", absent, "instance.deletion_protection", false, "instance.uri", absent,
		"instance.locality", "affinity",
		"instance.operation.kind", "create_instance", "instance.operation.status", "running", "instance.operation.id", created.operation())
	id, password := created.text("instance.id"), created.text("instance.password")
	if len(password) < 32 {
		t.Errorf("the password has %d characters", len(password))
	}
	self := "https://dbaas.example:8779/v1.0/demo/instances/" + id
	created.has("instance.links.0.href", self, "instance.links.1.href", "https://dbaas.example:8779/instances/"+id)

	h.settle()
	h.beat(id, 161_061_273, 1<<31)
	shown := h.get("/instances/"+id).want(200).has("instance.status", "ACTIVE", "instance.operating_status", "HEALTHY",
		"instance.ip.0", "127.77.0.5", "instance.addresses.0.type", "private", "instance.volume.used", 0.15, "instance.volume.used_percent", 7.5,
		"instance.service_status_updated", "2026-11-22T10:11:12", "instance.password", absent, "instance.operation", absent,
		"instance.uri", "redis://default@127.77.0.5:6379")
	if strings.Contains(string(shown.body), password) {
		t.Error("show tells the password")
	}
	h.get("/instances/detail").want(200).has("instances.0.id", id, "instances.0.created", "2026-11-22T10:11:12", "instances.0.volume.used", absent)
	h.get("/instances").want(200).has("instances.0.id", id, "instances.0.created", absent, "instances.0.datastore.version_number", absent)
	h.get("/instances/"+id+"/credentials").want(200).has("credentials.username", "default", "credentials.password", password,
		"credentials.uri", "redis://default:"+password+"@127.77.0.5:6379")
	h.get("/instances/"+id+"/configuration").want(200).has("instance.configuration.hz", 10, "instance.configuration.appendonly", true)

	h.put("/instances/"+id, `{"instance": {"name": "cache2"}}`).want(202)
	h.get("/instances/"+id).want(200).has("instance.name", "cache2", "instance.status", "ACTIVE")

	op := h.post("/instances/"+id+"/action", `{"resize": {"volume": {"size": "8"}}}`).want(202).operation()
	h.get("/instances/"+id).want(200).has("instance.status", "RESIZE", "instance.operating_status", "", "instance.operation.id", op)
	h.post("/instances/"+id+"/action", `{"restart": {}}`).fault(422, "unprocessableEntity", "resize_volume", op)
	h.settle()
	h.post("/instances/"+id+"/action", `{"resize": {"flavorRef": "https://dbaas.example/flavors/2"}}`).want(202)
	h.settle()
	h.get("/instances/"+id).want(200).has("instance.flavor.id", "2", "instance.volume.size", 8)
	h.post("/instances/"+id+"/action", `{"restart": {}}`).want(202)
	h.get("/instances/"+id).want(200).has("instance.status", "REBOOT")
	h.settle()

	h.delete("/instances/" + id).want(202).operation()
	h.get("/instances/"+id).want(200).has("instance.status", "SHUTDOWN", "instance.operating_status", "")
	h.delete("/instances/" + id).want(202)
	h.settle()
	h.get("/instances/"+id).fault(404, "itemNotFound")
	h.delete("/instances/" + id).fault(404)
	h.get("/instances").want(200).has("instances.0", absent)
}

// beat records a sign of life of an instance's guest.
func (h *house) beat(instanceID string, used, total int64) {
	h.t.Helper()
	view, err := h.store.InstanceView(h.t.Context(), instanceID)
	if err != nil {
		h.t.Fatal(err)
	}
	now, err := h.store.Now(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	beat := dbaas.Heartbeat{GuestID: view.Guests[0].ID, BootID: "boot", Sequence: 1, SeenAt: now, VolumeUsed: used, VolumeTotal: total}
	if err := h.store.RecordHeartbeats(h.t.Context(), []dbaas.Heartbeat{beat}); err != nil {
		h.t.Fatal(err)
	}
}

func TestSilentGuestShowsError(t *testing.T) {
	h := newHouse(t, withManualClock())
	id := h.newInstance("quiet")
	h.get("/instances/"+id).want(200).has("instance.operating_status", "HEALTHY") // no sign of life yet is not silence
	h.beat(id, 1<<29, 1<<30)
	h.clock.Advance(dbaas.HeartbeatExpiry + time.Second)
	h.get("/instances/"+id).want(200).has("instance.status", "ACTIVE", "instance.operating_status", "ERROR", "instance.volume.used", absent)
}

func TestCauseOfAnUnhealthyGuestIsShown(t *testing.T) {
	h := newHouse(t)
	id := h.newInstance("full")
	h.tx(func(tx *store.Tx) error {
		guests, err := tx.Guests(id)
		if err != nil {
			return err
		}
		guests[0].Status, guests[0].StatusCause = dbaas.GuestBlocked, "The disk is full."
		return tx.UpdateGuest(&guests[0])
	})
	h.get("/instances/"+id).want(200).has("instance.operating_status", "BLOCKED", "instance.operating_status_cause", "The disk is full.")
}

func TestPagesOfInstances(t *testing.T) {
	h := newHouse(t, withManualClock())
	var ids []string
	for i := range 5 {
		ids = append(ids, h.post("/instances", createBody(fmt.Sprintf("i%d", i))).want(200).text("instance.id"))
		h.clock.Advance(time.Second)
	}
	// cut by ascending id, shown newest first; the page size is 3
	first := h.get("/instances?include_clustered=False").want(200).has("instances.0.id", ids[2], "instances.2.id", ids[0], "instances.3", absent,
		"links.0.rel", "next", "links.0.href", "https://dbaas.example:8779/v1.0/demo/instances?include_clustered=False&marker="+ids[2],
		"instances_links.0.href", "http://dbaas.example:8779/v1.0/demo/instances?include_clustered=False&marker="+ids[2])
	_, query, _ := strings.Cut(first.text("links.0.href"), "?")
	h.get("/instances?"+query).want(200).has("instances.0.id", ids[4], "instances.1.id", ids[3], "instances.2", absent,
		"links", absent, "instances_links", absent)
	h.get("/instances/detail?limit=2").want(200).has("instances.0.id", ids[1], "instances.1.id", ids[0], "instances.2", absent,
		"links.0.href", "https://dbaas.example:8779/v1.0/demo/instances/detail?limit=2&marker="+ids[1])
	h.get("/instances?limit=1000").want(200).has("instances.3", absent)
	h.get("/instances?limit=0").want(200).has("instances.2.id", ids[0])
	h.get("/instances?limit=abc").fault(400, "badRequest", "limit")
	h.get("/instances?limit=-1").fault(400)
	h.get("/instances?marker=nonsense").fault(400, "marker")
	h.get("/instances?limit=99999999999999999999").fault(400)
	h.as("other").get("/instances").want(200).has("instances.0", absent)
	h.as("admin").get("/instances").want(200).has("instances.0", absent) // administrators too see their own project
}

func TestAdministratorSeesMoreOfInstances(t *testing.T) {
	h := newHouse(t)
	id := h.newInstance("cache1")
	h.as("admin").get("/instances/"+id).want(200).has("instance.tenant_id", "demo", "instance.server_id", "server-1",
		"instance.volume_id", "volume-1", "instance.encrypted_rpc_messaging", true,
		"instance.links.0.href", "https://dbaas.example:8779/v1.0/admin/instances/"+id)
}

func TestCreateRefusals(t *testing.T) {
	h := newHouse(t)
	group := h.newConfiguration("tuned", `{"hz": 15}`)
	foreign := h.as("other").newConfiguration("theirs", `{}`)
	const rest = `"name": "i", "flavorRef": "1", "volume": {"size": 1}`
	for _, c := range []struct {
		body   string
		status int
		says   string
	}{
		{`{}`, 400, "instance is required"},
		{`{"instance": null}`, 400, "instance is required"},
		{`{"instance": {}}`, 400, "instance.name"},
		{`{"instance": {"name": "", "flavorRef": "1", "volume": {"size": 1}}}`, 400, "instance.name"},
		{`{"instance": {"name": "---", "flavorRef": "1", "volume": {"size": 1}}}`, 400, "instance.name"},
		{`{"instance": {"name": 5, "flavorRef": "1", "volume": {"size": 1}}}`, 400, "instance.name must be a string, not a number"},
		{`{"instance": {"name": "i", "volume": {"size": 1}}}`, 400, "instance.flavorRef"},
		{`{"instance": {"name": "i", "flavorRef": {}, "volume": {"size": 1}}}`, 400, "instance.flavorRef must be an id, not an object"},
		{`{"instance": {"name": "i", "flavorRef": "99", "volume": {"size": 1}}}`, 400, `Flavor \"99\" does not exist`},
		{`{"instance": {"name": "i", "flavorRef": "1"}}`, 400, "instance.volume is required"},
		{`{"instance": {"name": "i", "flavorRef": "1", "volume": {}}}`, 400, "instance.volume.size"},
		{`{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 0}}}`, 400, "at least 1"},
		{`{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 1.5}}}`, 400, "whole number"},
		{`{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": "ten"}}}`, 400, "whole number"},
		{`{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": true}}}`, 400, "instance.volume.size must be a whole number, not a boolean"},
		{`{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 99999999999999}}}`, 400, "whole number"},
		{`{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 51}}}`, 413, "overLimit"},
		{`{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 1, "type": "tape"}}}`, 400, "tape"},
		{`{"instance": {` + rest + `, "datastore": {"type": "mysql"}}}`, 404, "mysql"},
		{`{"instance": {` + rest + `, "datastore": {"type": "redis", "version": "9.9"}}}`, 400, "9.9"},
		{`{"instance": {` + rest + `, "datastore": {"type": "redis", "version": "6.2"}}}`, 400, "not active"},
		{`{"instance": {` + rest + `, "datastore": []}}`, 400, "instance.datastore must be an object, not an array"},
		{`{"instance": {` + rest + `, "availability_zone": "mars"}}`, 400, "mars"},
		{`{"instance": {` + rest + `, "region_name": "mars"}}`, 400, "mars"},
		{`{"instance": {` + rest + `, "locality": "far"}}`, 400, "anti-affinity"},
		{`{"instance": {` + rest + `, "nics": [{"net-id": "11111111-1111-4111-8111-111111111111"}, {}]}}`, 400, "one nic"},
		{`{"instance": {` + rest + `, "nics": [{"port-id": "x"}]}}`, 400, "port-id"},
		{`{"instance": {` + rest + `, "nics": [{"net-id": "nowhere"}]}}`, 400, "nowhere"},
		{`{"instance": {` + rest + `, "nics": [{}]}}`, 400, "network_id or subnet_id"},
		{`{"instance": {` + rest + `, "nics": [{"network_id": "11111111-1111-4111-8111-111111111111", "ip_address": "10.0.0.5"}]}}`, 400, "needs subnet_id"},
		{`{"instance": {` + rest + `, "nics": [{"subnet_id": "5a"}]}}`, 400, "subnet_id"},
		{`{"instance": {` + rest + `, "nics": [{"subnet_id": "11111111-1111-4111-8111-111111111111", "ip_address": "::1"}]}}`, 400, "IPv4"},
		{`{"instance": {` + rest + `, "access": {"allowed_cidrs": ["10.0.0.0/33"]}}}`, 400, "10.0.0.0/33"},
		{`{"instance": {` + rest + `, "access": {"allowed_cidrs": ["10.0.0.0/8", "10.0.0.0/8"]}}}`, 400, "twice"},
		{`{"instance": {` + rest + `, "configuration": "c0"}}`, 404, "c0"},
		{`{"instance": {` + rest + `, "configuration": "` + foreign + `"}}`, 404, foreign},
		{`{"instance": {` + rest + `, "datastore": {"type": "redis", "version": "valkey-8.0"}, "configuration": "` + group + `"}}`, 400, "another datastore version"},
		{`{"instance": {` + rest + `, "replica_count": 2}}`, 400, "replica_count"},
		{`{"instance": {` + rest + `, "replica_of": "77"}}`, 400, "instance.replica_of"},
		{`{"instance": {` + rest + `, "restorePoint": {"backupRef": "b"}}}`, 501, "instance.restorePoint"},
		{`{"instance": {` + rest + `, "databases": [{"name": "app"}]}}`, 501, "instance.databases"},
		{`{"instance": {` + rest + `, "users": [{"name": "app"}]}}`, 501, "instance.users"},
		{`{"instance": {` + rest + `, "modules": [{"id": "m"}]}}`, 501, "instance.modules"},
	} {
		before := h.digest()
		h.post("/instances", c.body).fault(c.status, c.says)
		if h.digest() != before {
			t.Errorf("%s was refused and still wrote something", c.body)
		}
	}
}

// What clients always send is no reason to refuse them.
func TestCreateAsClientsAsk(t *testing.T) {
	h := newHouse(t)
	for name, body := range map[string]string{
		"openstackclient": `{"instance": {"name": "a", "flavorRef": "1", "volume": {"size": 1, "type": null}, "access": {"is_public": false}}}`,
		"trove":           `{"instance": {"name": "a", "flavorRef": "1", "volume": {"size": "1"}, "replica_count": 1, "databases": [], "users": [], "configuration": null}}`,
		"gophercloud":     `{"instance": {"name": "a", "flavorRef": "1", "volume": {"size": 1}, "datastore": {"version": "", "type": ""}, "nics": [{"net-id": "11111111-1111-4111-8111-111111111111"}]}}`,
		"a link":          `{"instance": {"name": "a", "flavorRef": "https://x/v1.0/demo/flavors/1", "volume": {"size": 1}}}`,
	} {
		if r := h.post("/instances", body); r.status != 200 || r.header.Get("Warning") != "" {
			t.Errorf("%s: %d %s %s", name, r.status, r.header.Get("Warning"), r.body)
		}
	}
}

func TestUnknownKeys(t *testing.T) {
	h := newHouse(t)
	r := h.post("/instances", `{"instance": {"Name": "x", "name": "a", "flavorRef": "1", "volume": {"size": 1, "typ": "ssd"}, "flavor_ref": "9"}, "zzz": 1}`).want(200)
	r.has("instance.name", "a")
	warnings := strings.Join(r.header.Values("Warning"), "\n")
	for _, want := range []string{"instance.Name was ignored; did you mean name?", "instance.volume.typ was ignored; did you mean type?",
		"instance.flavor_ref was ignored; did you mean flavorRef?", "key zzz was ignored.", `299 grove "`} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no warning says %q:\n%s", want, warnings)
		}
	}
	id := r.text("instance.id")
	h.settle()
	h.put("/instances/"+id, `{"instance": {"nam": "b"}}`).fault(400, "instance.nam", "did you mean name?")
	h.put("/instances/"+id, `{"instance": {"slave_of": null}}`).fault(400, "slave_of")
	h.put("/instances/"+id, `{"instance": {"access": {"is_pubic": true}}}`).fault(400, "instance.access.is_pubic", "is_public")
	h.patch("/instances/"+id, `{"instance": {"access": {}}}`).fault(400, "instance.access")
	h.patch("/instances/"+id, `{"instance": {"colour": "red"}}`).fault(400, "instance.colour")
	h.post("/instances/"+id+"/action", `{"restart": {"now": true}}`).want(202)
}

func TestChangesOfAnInstance(t *testing.T) {
	h := newHouse(t)
	h.worker(func(string) string { return "" })
	id := h.post("/instances", createBody("a")).want(200).text("instance.id")
	h.until(id, "ACTIVE")
	group := h.newConfiguration("tuned", `{"hz": 15}`)
	other := h.newConfiguration("other", `{}`)

	// attach and detach are done when they are answered
	h.put("/instances/"+id, `{"instance": {"configuration": "`+group+`"}}`).want(202).operation()
	h.get("/instances/"+id).want(200).has("instance.configuration.id", group, "instance.configuration.name", "tuned", "instance.status", "ACTIVE")
	h.put("/instances/"+id, `{"instance": {"configuration": "`+group+`"}}`).fault(400, "already")
	h.get("/configurations/"+group).want(200).has("configuration.instance_count", 1)
	h.get("/configurations/"+group+"/instances").want(200).has("instances.0.id", id, "instances.0.name", "a")
	h.delete("/configurations/"+group).fault(400, id)
	for _, detach := range []string{`{"instance": {}}`, `{"instance": {"configuration": null}}`} {
		for _, verb := range []string{"PUT", "PATCH"} {
			h.call(verb, "/instances/"+id, detach).want(202)
			h.get("/instances/"+id).want(200).has("instance.configuration", absent)
			h.call(verb, "/instances/"+id, detach).want(202) // nothing attached is no error
			h.call(verb, "/instances/"+id, `{"instance": {"configuration": "https://x/configurations/`+other+`"}}`).want(202)
		}
	}
	h.patch("/instances/"+id, `{"instance": {"name": "b", "configuration": null}}`).want(202)
	h.get("/instances/"+id).want(200).has("instance.configuration", absent, "instance.name", "b")
	h.delete("/configurations/" + group).want(202)

	h.put("/instances/"+id, `{"instance": {"access": {"is_public": true, "allowed_cidrs": ["203.0.113.0/24", "198.51.100.7"]}}}`).want(202)
	h.until(id, "ACTIVE")
	h.get("/instances/"+id).want(200).has("instance.access.is_public", true, "instance.access.allowed_cidrs.1", "198.51.100.7")
	h.waitIdle(id)
	h.put("/instances/"+id, `{"instance": {"access": {}}}`).want(202)
	h.get("/instances/"+id).want(200).has("instance.access.is_public", false, "instance.access.allowed_cidrs.0", absent)
	h.waitIdle(id)

	for _, c := range []struct {
		body   string
		status int
		says   string
	}{
		{`{}`, 400, "instance is required"},
		{`{"instance": {"name": ""}}`, 400, "instance.name"},
		{`{"instance": {"name": "c", "configuration": null, "access": {}}}`, 400, "one thing at a time"},
		{`{"instance": {"access": null}}`, 400, "instance.access"},
		{`{"instance": {"access": "public"}}`, 400, "instance.access must be an object"},
		{`{"instance": {"configuration": {}}}`, 400, "instance.configuration must be an id"},
		{`{"instance": {"configuration": "nonsense"}}`, 404, "nonsense"},
		{`{"instance": {"replica_of": ""}}`, 400, "not a replica"},
		{`{"instance": {"replica_of": null}}`, 400, "not a replica"},
		{`{"instance": {"replica_of": null, "configuration": null}}`, 400, "one thing at a time"},
		{`{"instance": {"datastore_version": "7.4"}}`, 400, "7.4"},
	} {
		before := h.digest()
		h.put("/instances/"+id, c.body).fault(c.status, c.says)
		if h.digest() != before {
			t.Errorf("%s was refused and still wrote something", c.body)
		}
	}
	h.patch("/instances/"+id, `{"instance": {"slave_of": null}}`).fault(400, "not a replica")
}

// until waits until an instance shows a status.
func (h *house) until(id, status string) {
	h.t.Helper()
	h.poll(func() bool { return h.get("/instances/"+id).want(200).text("instance.status") == status })
}

// waitIdle waits until nothing works on an instance.
func (h *house) waitIdle(id string) {
	h.t.Helper()
	h.poll(func() bool { return h.get("/instances/"+id).want(200).at("instance.operation") == absent })
}

func (h *house) poll(done func() bool) {
	h.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			h.t.Fatal("what was waited for did not come")
		case <-tick.C:
		}
	}
}

// A change whose operation fails is refused after the fact, in the guest's words, and names its operation.
func TestFailureOfAnAwaitedChangeIsTheAnswer(t *testing.T) {
	h := newHouse(t)
	id := h.newInstance("a")
	group := h.newConfiguration("tuned", `{"hz": 15}`)
	h.worker(func(string) string { return "The database refused hz." })
	r := h.put("/instances/"+id, `{"instance": {"configuration": "`+group+`"}}`).fault(400, "The database refused hz.")
	h.get("/operations/"+r.operation()).want(200).has("operation.status", "failed", "operation.failure.message", "The database refused hz.",
		"operation.failure.details", nil)
	h.get("/instances/"+id).want(200).has("instance.status", "ACTIVE", "instance.fault.message", "The database refused hz.", "instance.fault.details", nil)
	h.as("admin").get("/instances/"+id).want(200).has("instance.fault.details", "what only operators see")
	h.post("/instances/"+id+"/root", "").fault(400, "The database refused hz.")
}

// A change that takes longer than the API waits is accepted all the same.
func TestAwaitedChangeThatTakesLong(t *testing.T) {
	h := newHouse(t, withConfig(func(c *Config) { c.AwaitAtMost = 50 * time.Millisecond }))
	id := h.newInstance("a")
	group := h.newConfiguration("tuned", `{"hz": 15}`)
	op := h.put("/instances/"+id, `{"instance": {"configuration": "`+group+`"}}`).want(202).operation()
	h.get("/operations/"+op).want(200).has("operation.status", "running", "operation.ended", nil)
}

func TestActionRefusals(t *testing.T) {
	h := newHouse(t)
	id := h.newInstance("a")
	for _, c := range []struct {
		body   string
		status int
		says   string
	}{
		{``, 400, "JSON body"},
		{`{}`, 400, "exactly one action"},
		{`{"restart": null}`, 400, "exactly one action"},
		{`{"restart": {}, "resize": {"flavorRef": "2"}}`, 400, "exactly one action"},
		{`{"explode": {}}`, 400, "explode is not a key"},
		{`{"restart": {}, "explode": {}}`, 400, "explode"},
		{`{"reset-status": {}}`, 400, "did you mean reset_status?"},
		{`{"restart": true}`, 400, "restart must be an object, not a boolean"},
		{`{"resize": {}}`, 400, "resize needs"},
		{`{"resize": {"volume": {"size": 1}}}`, 400, "grow"},
		{`{"resize": {"volume": {"size": "0"}}}`, 400, "at least 1"},
		{`{"resize": {"volume": {"size": 51}}}`, 413, "50 GB"},
		{`{"resize": {"flavorRef": "1"}}`, 400, "already"},
		{`{"resize": {"flavorRef": 99}}`, 400, "99"},
		{`{"promote_to_replica_source": {}}`, 400, "not a replica"},
		{`{"eject_replica_source": {}}`, 400, "no replicas"},
		{`{"reset_status": {}}`, 403, "administrator"},
	} {
		before := h.digest()
		h.post("/instances/"+id+"/action", c.body).fault(c.status, c.says)
		if h.digest() != before {
			t.Errorf("%s was refused and still wrote something", c.body)
		}
	}
	h.post("/instances/"+id+"/action", `{"reset_status": {"force_delete": null}}`).fault(403)
	h.post("/instances/"+id+"/action", `{"reset_status": {"force_delete": true}}`).want(202)
	h.as("admin").post("/instances/"+id+"/action", `{"reset_status": {}}`).want(202)
}

func TestDeletionProtection(t *testing.T) {
	h := newHouse(t)
	id := h.post("/instances", `{"instance": {"name": "a", "flavorRef": "1", "volume": {"size": 1}, "deletion_protection": true}}`).want(200).
		has("instance.deletion_protection", true).text("instance.id")
	h.settle()
	h.delete("/instances/"+id).fault(403, "forbidden", "deletion_protection")
	h.patch("/instances/"+id, `{"instance": {"deletion_protection": false, "name": "b"}}`).want(202)
	h.get("/instances/"+id).want(200).has("instance.deletion_protection", false, "instance.name", "b")
	h.delete("/instances/" + id).want(202)
}

func TestQuotaIsTakenAndGivenBack(t *testing.T) {
	h := newHouse(t, withQuotas(map[string]int{"instances": 2, "volumes": 10, "backups": 5, "ram": -1}))
	id := h.newInstance("a")
	h.newInstance("b")
	h.post("/instances", createBody("c")).fault(413, "overLimit", "instances")
	h.as("other").post("/instances", createBody("c")).want(200)
	h.post("/instances/"+id+"/action", `{"resize": {"volume": {"size": 10}}}`).fault(413, "volumes")
	h.get("/mgmt/quotas/demo").want(200).has("quotas.0.resource", "instances", "quotas.0.in_use", 2, "quotas.0.limit", 2, "quotas.0.reserved", 0,
		"quotas.1.resource", "volumes", "quotas.1.in_use", 2, "quotas.3.in_use", 1024, "quotas.3.limit", -1)
	h.delete("/instances/" + id).want(202)
	h.settle()
	h.post("/instances", createBody("c")).want(200)
}

func TestQuotas(t *testing.T) {
	h := newHouse(t)
	admin := h.as("admin")
	h.get("/mgmt/quotas/other").fault(403)
	admin.get("/mgmt/quotas/other").want(200).has("quotas.0.limit", 100)
	h.put("/mgmt/quotas/demo", `{"quotas": {"instances": 15}}`).fault(403, "administrator")
	admin.put("/mgmt/quotas/demo", `{"quotas": {"instances": 15, "volumes": null, "ram": "-1"}}`).want(200).
		has("quotas.instances", 15, "quotas.volumes", absent, "quotas.ram", -1)
	h.get("/mgmt/quotas/demo").want(200).has("quotas.0.limit", 15, "quotas.1.limit", 1000)
	admin.put("/mgmt/quotas/demo", `{"quotas": {}}`).want(200).has("quotas.instances", absent)
	admin.put("/mgmt/quotas/demo", `{"quotas": {"instances": -2}}`).fault(400)
	admin.put("/mgmt/quotas/demo", `{"quotas": {"instances": 1.5}}`).fault(400)
	admin.put("/mgmt/quotas/demo", `{"quotas": {"instances": []}}`).fault(400)
	admin.put("/mgmt/quotas/demo", `{"quotas": {"tea": 3}}`).fault(404, "tea")
	admin.put("/mgmt/quotas/demo", `{}`).fault(400, "quotas is required")
	h.get("/limits").want(200).has("limits.0.verb", "ABSOLUTE", "limits.0.max_instances", 15, "limits.0.max_volumes", 1000,
		"limits.0.max_backups", 50, "limits.0.max_ram", -1, "limits.1", absent)
}
