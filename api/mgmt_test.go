package api

import (
	"strings"
	"testing"
)

// The administrator sees what all projects have and had, and what it is made of; nobody else does.
func TestManagementOfInstances(t *testing.T) {
	h := newHouse(t)
	admin, id := h.as("admin"), h.newInstance("mine")
	theirs, gone := h.as("other").newInstance("theirs"), h.newInstance("gone")
	h.delete("/instances/" + gone).want(202)
	h.settle()
	cluster := h.cluster(3, 0)
	h.get("/mgmt/instances").fault(403, "administrator")
	h.get("/mgmt/instances/"+id).fault(403, "administrator")
	list := admin.get("/mgmt/instances").want(200).has("instances.0.id", id, "instances.0.tenant_id", "demo", "instances.0.deleted", false,
		"instances.0.deleted_at", nil, "instances.0.server.id", "server-1", "instances.0.volume.id", "volume-1", "instances.0.service_status", "HEALTHY",
		"instances.1.id", theirs, "instances.2.id", gone, "instances.2.deleted", true, "instances.2.status", "SHUTDOWN", "instances.3", absent)
	if list.text("instances.2.deleted_at") == "" {
		t.Error("what was deleted does not say when")
	}
	admin.get("/mgmt/instances?deleted=true").want(200).has("instances.0.id", gone, "instances.1", absent)
	admin.get("/mgmt/instances?deleted=False").want(200).has("instances.1.id", theirs, "instances.2", absent)
	admin.get("/mgmt/instances?project_id=other").want(200).has("instances.0.id", theirs, "instances.1", absent)
	admin.get("/mgmt/instances?deleted=false&include_clustered=True").want(200).has("instances.2.cluster_id", cluster.text("cluster.id"))
	admin.get("/mgmt/instances?deleted=perhaps").fault(400, "deleted")
	page := admin.get("/mgmt/instances?limit=1").want(200).has("instances.0.id", id, "instances.1", absent)
	if !strings.Contains(page.text("links.0.href"), "marker="+id) {
		t.Errorf("the next page is %s", page.body)
	}
	admin.get("/mgmt/instances/"+theirs).want(200).has("instance.guest_status.state_description", "healthy", "instance.server.addresses.private.0.addr", "127.77.0.5",
		"instance.root_enabled", absent)
	admin.get("/mgmt/instances/"+gone).fault(404, gone)
	admin.get("/mgmt/instances/"+gone+"?deleted=true").want(200).has("instance.deleted", true)
	admin.get("/mgmt/instances/"+id+"/root").want(200).has("root_history.enabled", "Never", "root_history.user", "Nobody")
	h.post("/instances/"+id+"/root", "").want(200)
	h.settle()
	if enabled := admin.get("/mgmt/instances/" + id + "/root").want(200).text("root_history.enabled"); !strings.HasPrefix(enabled, "20") {
		t.Errorf("root is enabled since %q", enabled)
	}
}

// The administrator names another program for the agents of an instance; a member of a cluster has them too.
func TestUpgradeOfAgents(t *testing.T) {
	h := newHouse(t)
	admin, id := h.as("admin"), h.newInstance("mine")
	path, sum := "/mgmt/instances/"+id+"/upgrade", strings.Repeat("ab", 32)
	body := func(location, sum string) string {
		return `{"upgrade": {"location": "` + location + `", "metadata": {"sha256": "` + sum + `"}}}`
	}
	before := h.digest()
	h.post(path, body("https://mirror/agent", sum)).fault(403, "administrator")
	admin.post(path, `{}`).fault(400, "upgrade.location")
	for _, location := range []string{"", "mirror/agent", "file:///agent", "https://user:word@mirror/agent", "https://"} {
		admin.post(path, body(location, sum)).fault(400, "location")
	}
	admin.post(path, body("https://mirror/agent", "abc")).fault(400, "sha256")
	admin.post("/mgmt/instances/"+randomID+"/upgrade", body("https://mirror/agent", sum)).fault(404, randomID)
	if h.digest() != before {
		t.Error("something that was refused was written")
	}
	admin.get("/mgmt/instances/"+id).want(200).has("instance.agents.0.primary", true)
	admin.post(path, body("https://mirror/agent", strings.ToUpper(sum))).want(202)
	h.get("/instances/"+id).has("instance.status", "ACTIVE", "instance.operation.kind", "upgrade_agent")
	admin.post(path, body("https://mirror/agent", sum)).fault(422, "upgrade_agent")
	h.settle()
	member := h.cluster(3, 0).text("cluster.instances.0.id")
	admin.post("/mgmt/instances/"+member+"/upgrade", body("http://mirror/agent", sum)).want(202)
}

func TestManagementActions(t *testing.T) {
	h := newHouse(t)
	admin, id := h.as("admin"), h.newInstance("mine")
	action := "/mgmt/instances/" + id + "/action"
	before := h.digest()
	h.post(action, `{"stop": {}}`).fault(403, "administrator")
	admin.post(action, `{"reboot": {}}`).fault(501, "not built")
	admin.post(action, `{"migrate": {"host": "cmp2"}}`).fault(501, "not built")
	admin.post(action, `{"update": {}}`).fault(400, "exactly one action")
	admin.post(action, `{}`).fault(400, "exactly one action")
	admin.post(action, `{"stop": {}, "reset-task-status": {}}`).fault(400, "exactly one action")
	admin.post(action, `{"rebuild": {"image_id": "`+randomID+`"}}`).fault(400, "image")
	admin.post("/mgmt/instances/"+randomID+"/action", `{"reboot": {}}`).fault(404, randomID)
	if h.digest() != before {
		t.Error("something that was refused was written")
	}
	admin.post(action, `{"rebuild": {}}`).want(202)
	h.get("/instances/"+id).has("instance.operation.kind", "rebuild_instance")
	h.settle()
	admin.post(action, `{"stop": {}}`).want(202)
	h.settle()
	admin.post(action, `{"reset-task-status": {}}`).want(202)
}

func TestManagementOfClusters(t *testing.T) {
	h := newHouse(t)
	admin, cluster := h.as("admin"), h.cluster(3, 0).text("cluster.id")
	gone := h.as("other").post("/clusters", clusterBody("theirs", 3, 0)).want(200).text("cluster.id")
	h.settle()
	h.as("other").delete("/clusters/" + gone).want(202)
	h.settle()
	h.get("/mgmt/clusters").fault(403, "administrator")
	admin.get("/mgmt/clusters").want(200).has("clusters.0.id", cluster, "clusters.0.tenant_id", "demo", "clusters.0.deleted", false,
		"clusters.1.id", gone, "clusters.1.deleted", true, "clusters.2", absent)
	admin.get("/mgmt/clusters?deleted=false").want(200).has("clusters.1", absent)
	admin.get("/mgmt/clusters/"+cluster).want(200).has("cluster.instances.2.status", "ACTIVE", "cluster.deleted_at", absent)
	admin.post("/mgmt/clusters/"+cluster+"/action", `{"reset-task": {}}`).want(202)
	admin.post("/mgmt/clusters/"+cluster+"/action", `{"stop": {}}`).fault(400, "reset-task")
	h.post("/mgmt/clusters/"+cluster+"/action", `{"reset-task": {}}`).fault(403, "administrator")
}
