package api

import "testing"

func TestVersionsAreOffered(t *testing.T) {
	h := newHouse(t)
	admin := h.as("admin")
	const base = "/mgmt/datastore-versions"
	before := len(admin.get(base).want(200).at("versions").([]any))
	wish := func(more string) string {
		return `{"version": {"name": "7.0", "datastore_name": "cache", "datastore_manager": "redis", "active": true` + more + `}}`
	}
	h.post(base, wish(`, "image": "i"`)).fault(403, "administrator")
	h.get(base).fault(403, "administrator")
	for body, says := range map[string]string{
		`{}`: "version is required", wish(""): "image", wish(`, "image": "", "image_tags": []`): "image",
		wish(`, "image": "i", "tea": 1`): "tea", wish(`, "image_tags": ["a", "b", "c", "d", "e", "f"]`): "5 words",
		wish(`, "image_tags": [""]`): "1 to 20", wish(`, "image_tags": ["a-tag-of-over-twenty-characters"]`): "1 to 20",
		`{"version": {"name": "6.0", "datastore_name": "cache", "datastore_manager": "redis", "active": true, "image": "i"}}`:                   "drives no version",
		`{"version": {"name": "7.0", "datastore_name": "cache", "datastore_manager": "mysql", "active": true, "image": "i"}}`:                   "no manager",
		`{"version": {"name": "7.0", "datastore_name": "cache", "datastore_manager": "redis", "image": "i"}}`:                                   "active",
		`{"version": {"name": "7.0", "datastore_name": "cache", "datastore_manager": "redis", "active": false, "default": true, "image": "i"}}`: "cannot be the default",
	} {
		admin.post(base, body).fault(400, says)
	}
	admin.post(base, wish(`, "image": "i", "registry_ext": "x"`)).fault(501, "registry_ext")
	if n := len(admin.get(base).at("versions").([]any)); n != before {
		t.Fatalf("%d versions after requests that were refused, want %d", n, before)
	}

	admin.post(base, wish(`, "image": "i", "image_tags": ["grove", "redis"], "packages": [], "default": true`)).want(202)
	admin.post(base, wish(`, "image": "j"`)).fault(400, "already")
	admin.post(base, wish(`, "image": "j", "version": "7.0.99"`)).want(202)
	h.get("/datastores/cache").want(200).has("datastore.versions.0.name", "7.0", "datastore.versions.1.version", "7.0.99")
	id := h.get("/datastores/cache").text("datastore.default_version")
	admin.get(base+"/"+id).want(200).has("version.image", "i", "version.image_tags.1", "redis", "version.default", true, "version.version", "7.0",
		"version.datastore_name", "cache", "version.datastore_manager", "redis")

	admin.patch(base+"/"+id, `{"name": "9.9"}`).fault(400, "drives no version")
	admin.patch(base+"/"+id, `{"version": {"active": false}}`).fault(400, "version")
	admin.patch(base+"/"+id, `{"image": "", "image_tags": []}`).fault(400, "image")
	admin.patch(base+"/"+id, `{"active": false}`).want(202)
	admin.get(base+"/"+id).has("version.active", false, "version.default", false, "version.image", "i")
	h.get("/datastores/cache").has("datastore.default_version", absent)
	admin.patch(base+"/"+id, `{"active": true, "default": true, "image": "k"}`).want(202)
	admin.get(base+"/"+id).has("version.active", true, "version.default", true, "version.image", "k")

	h.post("/instances", `{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 1}, "datastore": {"type": "cache", "version": "`+id+`"}}}`).want(200)
	admin.delete(base+"/"+id).fault(400, "inactive")
	admin.patch(base+"/"+id, `{"name": "7.2"}`).fault(400, "in use")
	h.delete(base + "/" + id).fault(403)
	h.delete("/datastores/cache").fault(403)
	admin.delete("/datastores/cache").fault(400, "2 versions")
	admin.delete(base + "/11111111-1111-4111-8111-111111111111").fault(404)
}

func TestVersionsAreWithdrawn(t *testing.T) {
	h := newHouse(t)
	admin := h.as("admin")
	admin.post("/mgmt/datastore-versions", `{"version": {"name": "7.0", "datastore_name": "cache", "datastore_manager": "redis", "image_tags": ["grove"], "active": true, "default": true}}`).want(202)
	id := h.get("/datastores/cache").text("datastore.default_version")
	admin.call("DELETE", "/mgmt/datastore-versions/"+id+"?dry_run=true", "").want(200)
	admin.delete("/mgmt/datastore-versions/" + id).want(202)
	admin.delete("/mgmt/datastore-versions/" + id).fault(404)
	admin.delete("/datastores/cache").want(202)
	admin.delete("/datastores/cache").fault(404)
}
