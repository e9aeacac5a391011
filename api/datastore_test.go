package api

import "testing"

func TestDatastores(t *testing.T) {
	h := newHouse(t)
	list := h.get("/datastores").want(200).has("datastores.0.name", "redis", "datastores.0.versions.0.name", "7.0",
		"datastores.0.versions.0.datastore", absent, "datastores.0.versions.1.name", "valkey-8.0", "datastores.0.versions.2", absent)
	datastore, version := list.text("datastores.0.id"), list.text("datastores.0.default_version")
	list.has("datastores.0.versions.0.id", version)

	for _, ds := range []string{"redis", datastore} {
		h.get("/datastores/"+ds).want(200).has("datastore.id", datastore, "datastore.versions.0.version", "7.0")
		h.get("/datastores/"+ds+"/versions").want(200).has("versions.0.id", version, "versions.0.datastore", datastore)
		for _, v := range []string{"7.0", version} {
			h.get("/datastores/"+ds+"/versions/"+v).want(200).has("version.id", version, "version.active", absent,
				"version.links.0.href", "https://dbaas.example:8779/v1.0/demo/datastores/versions/"+version,
				"version.links.1.href", "https://dbaas.example:8779/datastores/versions/"+version)
			h.get("/datastores/"+ds+"/versions/"+v+"/flavors").want(200).has("flavors.0.str_id", "1")
			h.get("/datastores/"+ds+"/versions/"+v+"/volume-types").want(200).has("volume_types.0.description", nil)
			h.get("/datastores/"+ds+"/versions/"+v+"/parameters").want(200).has("configuration-parameters.0.datastore_version_id", version)
		}
	}
	h.get("/datastores/versions/"+version).want(200).has("version.name", "7.0")
	h.get("/datastores/versions/"+version+"/parameters").want(200).has("configuration-parameters.0.name", "hz",
		"configuration-parameters.0.min", 1, "configuration-parameters.0.max", 500, "configuration-parameters.0.restart_required", false,
		"configuration-parameters.1.max", absent, "configuration-parameters.1.restart_required", true,
		"configuration-parameters.5.name", "requirepass", "configuration-parameters.6", absent)
	// a single parameter has no wrapper, and names are told without regard to case
	h.get("/datastores/versions/"+version+"/parameters/HZ").want(200).has("name", "hz", "type", "integer")
	h.get("/datastores/redis/versions/7.0/parameters/maxmemory-policy").want(200).has("values.1", "allkeys-lru")

	h.get("/datastores/mysql").fault(404, "itemNotFound", "mysql")
	h.get("/datastores/mysql/versions").fault(404)
	h.get("/datastores/redis/versions/9.9").fault(404)
	h.get("/datastores/versions/7.0").fault(404)
	h.get("/datastores/redis/versions/7.0/parameters/dir").fault(404)
	h.get("/datastores/redis/versions/7.0/parameters/nonsense").fault(404)
}

func TestAdministratorSeesMoreOfDatastores(t *testing.T) {
	admin := newHouse(t).as("admin")
	admin.get("/datastores").want(200).has("datastores.0.versions.0.name", "6.2", "datastores.0.versions.0.active", false,
		"datastores.0.versions.0.packages", nil, "datastores.0.versions.0.image", nil)
	// ... but shown by itself a datastore has its active versions only
	admin.get("/datastores/redis").want(200).has("datastore.versions.0.name", "7.0", "datastore.versions.2", absent)
}

func TestFlavorsAndVolumeTypes(t *testing.T) {
	h := newHouse(t)
	h.get("/flavors").want(200).has("flavors.0.id", 1, "flavors.0.str_id", "1", "flavors.0.ram", 512,
		"flavors.2.id", nil, "flavors.2.str_id", "007", "flavors.3", absent)
	h.get("/flavors/007").want(200).has("flavor.id", nil, "flavor.name", "db.bond",
		"flavor.links.0.href", "https://dbaas.example:8779/v1.0/demo/flavors/007")
	h.get("/flavors/99").fault(404)
	h.get("/volume-types").want(200).has("volume_types.0.id", "local", "volume_types.0.is_public", true)
	h.get("/volume-types/local").want(200).has("volume_type.name", "local")
	h.get("/volume-types/ssd").fault(404)
}

func TestEmptyCatalogIsUnavailable(t *testing.T) {
	h := newHouse(t)
	h.control.Region = "elsewhere"
	h.get("/flavors").fault(503, "serviceUnavailable")
}
