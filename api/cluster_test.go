package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

func members(n int) string {
	return strings.TrimSuffix(strings.Repeat(`{"flavorRef": "1", "volume": {"size": "1"}},`, n), ",")
}

func clusterBody(name string, masters, replicas int) string {
	return fmt.Sprintf(`{"cluster": {"name": %q, "datastore": {"type": "redis", "version": "7.0"}, "instances": [%s], "extended_properties": {"replicas_per_shard": "%d"}}}`,
		name, members(masters), replicas)
}

// clusterEffect ends a cluster's operation as the taskmanager does.
func clusterEffect(tx *store.Tx, op *dbaas.Operation, failure string) error {
	cl, err := tx.Cluster(op.ResourceID)
	if err != nil {
		return err
	}
	list, err := tx.ClusterMembers(cl.ID)
	if err != nil {
		return err
	}
	var shrink control.ShrinkState
	var upgrade control.UpgradeState
	if err := errors.Join(decodeState(op, &shrink), decodeState(op, &upgrade)); err != nil {
		return err
	}
	for i := range list {
		if op.Kind == "delete_cluster" || slices.Contains(shrink.Leaving, list[i].ID) {
			if err := tx.DeleteInstance(list[i].ID); err != nil {
				return err
			}
			continue
		}
		list[i].Task, list[i].Applied = dbaas.TaskNone, list[i].Shape()
		if upgrade.VersionID != "" && (failure == "" || i == 0) { // one that fails has got as far as the first
			list[i].DatastoreVersionID = upgrade.VersionID
		}
		if err := errors.Join(tx.UpdateInstance(&list[i]), healthy(tx, list[i].ID)); err != nil {
			return err
		}
	}
	if op.Kind == "delete_cluster" {
		return tx.DeleteCluster(cl.ID)
	}
	cl.Task, cl.Fault = dbaas.ClusterNone, nil
	if failure != "" {
		cl.Fault = &dbaas.Fault{Message: failure}
	} else if upgrade.VersionID != "" {
		cl.DatastoreVersionID = upgrade.VersionID
	}
	return tx.UpdateCluster(cl)
}

func (h *house) cluster(masters, replicas int) *result {
	h.t.Helper()
	created := h.post("/clusters", clusterBody("shop", masters, replicas)).want(200)
	h.settle()
	return h.get("/clusters/" + created.text("cluster.id")).want(200)
}

func TestClusterLooksAsTrovesClientsExpect(t *testing.T) {
	h := newHouse(t)
	created := h.post("/clusters", clusterBody("shop", 3, 1)).want(200).
		has("cluster.name", "shop", "cluster.task.id", 2.0, "cluster.task.name", "BUILDING", "cluster.datastore.type", "redis",
			"cluster.instances.0.type", "member", "cluster.instances.5.name", "shop-member-6", "cluster.instances.6", absent,
			"cluster.instances.0.status", absent, "cluster.ip", absent, "cluster.locality", absent, "cluster.configuration", absent)
	id := created.text("cluster.id")
	if created.text("cluster.password") == "" {
		t.Error("the answer to create has no password")
	}
	h.get("/clusters/"+id).want(200).has("cluster.instances.0.status", "BUILD", "cluster.operation.kind", "create_cluster", "cluster.password", absent)
	h.settle()
	h.get("/clusters/"+id).want(200).has("cluster.task.id", 1.0, "cluster.task.name", "NONE", "cluster.instances.0.status", "ACTIVE",
		"cluster.instances.0.flavor.id", "1", "cluster.instances.0.volume.size", 1.0, "cluster.operation", absent)
	member := created.text("cluster.instances.3.id")
	h.get("/instances").want(200).has("instances.0", absent)
	h.get("/instances?include_clustered=True").want(200).has("instances.0.id", created.text("cluster.instances.2.id"))
	h.get("/clusters/"+id+"/instances/"+member).want(200).has("instance.cluster_id", id)
	h.get("/clusters/"+id+"/credentials").want(200).has("credentials.password", created.text("cluster.password"), "credentials.username", "default")
	h.get("/clusters/"+id+"/root").want(200).has("rootEnabled", false)
	h.get("/clusters").want(200).has("clusters.0.id", id, "clusters.1", absent, "clusters.0.instances.0.status", absent)
	other := h.cluster(3, 0)
	h.get("/clusters/"+other.text("cluster.id")+"/instances/"+member).fault(404, member)
	h.delete("/clusters/" + id).want(202)
	h.get("/clusters/"+id).want(200).has("cluster.task.name", "DELETING")
	h.delete("/clusters/" + id).want(202)
	h.settle()
	h.get("/clusters/"+id).fault(404, id)
}

func TestClusterListIsPaged(t *testing.T) {
	h := newHouse(t)
	for range 4 {
		h.cluster(3, 0)
	}
	page := h.get("/clusters?limit=3").want(200)
	if !strings.Contains(page.text("links.0.href"), "marker=") || page.text("clusters.2.id") == "" {
		t.Errorf("%s", page.body)
	}
	h.get("/clusters?marker="+page.text("clusters.2.id")).want(200).has("clusters.1", absent, "links", absent)
}

func TestBadClustersAreRefused(t *testing.T) {
	h := newHouse(t)
	for body, words := range map[string]string{
		`{"cluster": {"name": "c", "instances": [` + members(2) + `]}}`:                                                                       "at least 3 masters",
		`{"cluster": {"name": "c", "instances": []}}`:                                                                                         "at least 3 masters",
		`{"cluster": {"name": "c"}}`:                                                                                                          "at least 3 masters",
		`{"cluster": {"name": " ", "instances": [` + members(3) + `]}}`:                                                                       "cluster.name",
		`{"cluster": {"name": "c", "instances": [` + members(2) + `, {"flavorRef": "2", "volume": {"size": 1}}]}}`:                            "instances[2] has flavor 2",
		`{"cluster": {"name": "c", "instances": [` + members(2) + `, {"flavorRef": "1", "volume": {"size": 2}}]}}`:                            "instances[2] has a volume of 2 GB",
		`{"cluster": {"name": "c", "instances": [` + members(2) + `, {"flavorRef": "1"}]}}`:                                                   "needs flavorRef",
		`{"cluster": {"name": "c", "instances": [` + members(3) + `], "extended_properties": {"replicas_per_shard": "1.5"}}}`:                 "replicas_per_shard",
		`{"cluster": {"name": "c", "instances": [` + members(3) + `], "extended_properties": {"replicas_per_shard": -1}}}`:                    "replicas_per_shard",
		`{"cluster": {"name": "c", "instances": [` + members(3) + `], "extended_properties": {"replicas_per_shard": 99}}}`:                    "at most 15 members",
		`{"cluster": {"name": "c", "instances": [` + members(2) + `, {"flavorRef": "1", "volume": {"size": 1}, "type": "replica"}]}}`:         "type and related_to are for grow",
		`{"cluster": {"name": "c", "instances": [` + members(3) + `], "datastore": {"type": "redis", "version": "9"}}}`:                       "has no version",
		`{"cluster": {"name": "c", "instances": [` + strings.ReplaceAll(members(3), `"1",`, `"77",`) + `]}}`:                                  "77",
		`{"cluster": {"name": "c", "instances": [` + strings.ReplaceAll(members(3), `{"flavor`, `{"name": "n", "flavor`) + `]}}`:              "twice",
		`{"cluster": {"name": "c", "instances": [` + strings.ReplaceAll(members(3), `{"flavor`, `{"availability_zone": "z", "flavor`) + `]}}`: "zone",
	} {
		h.post("/clusters", body).fault(400, words)
	}
	h.get("/clusters").want(200).has("clusters.0", absent)
	h.get("/operations").want(200).has("operations.0", absent)
}

func TestClusterActions(t *testing.T) {
	h := newHouse(t)
	shown := h.cluster(3, 1)
	path := "/clusters/" + shown.text("cluster.id")
	// The forms that Trove's own client sends.
	h.post(path, `{"grow": [{"flavorRef": "1", "volume": {"size": "1"}, "type": ["replica"], "related_to": "shop-member-2", "region": "RegionOne"}]}`).want(202).
		has("cluster.task.name", "GROWING_CLUSTER", "cluster.instances.6.shard_id", shown.text("cluster.instances.1.shard_id"))
	h.post(path, `{"restart": {}}`).fault(422, "grow_cluster")
	h.settle()
	h.post(path, `{"grow": [{"name": "m4", "related_to": null}, {"name": "m5"}, {"type": "replica", "related_to": "m5"}, {"type": "replica", "related_to": "m5"}]}`).
		want(202)
	h.settle()
	grown := h.get(path).want(200).has("cluster.instances.7.name", "m4", "cluster.instances.8.name", "m5",
		"cluster.instances.11.shard_id", h.get(path).text("cluster.instances.7.shard_id"), "cluster.instances.12", absent)
	h.post(path, `{"shrink": [{"id": "`+grown.text("cluster.instances.8.id")+`"}]}`).want(202).has("cluster.task.name", "SHRINKING_CLUSTER")
	h.settle()
	h.get(path).want(200).has("cluster.instances.8.name", "shop-member-10", "cluster.instances.9", absent)
	for body, task := range map[string]string{
		`{"restart": {}}`: "RESTARTING_CLUSTER", `{"resize": {"volume": {"size": "3"}}}`: "RESIZING_CLUSTER",
		`{"resize": {"flavorRef": "2"}}`: "RESIZING_CLUSTER",
		`{"configuration_attach": {"configuration_id": "` + h.newConfiguration("g", `{"hz": 15}`) + `"}}`: "UPDATING_CLUSTER",
	} {
		h.post(path, body).want(202).has("cluster.task.name", task)
		h.settle()
		if strings.Contains(body, "attach") {
			h.post(path, `{"configuration_detach": {}}`).want(202)
			h.settle()
		}
	}
	h.post(path, `{"reset-status": {}}`).fault(403, "administrator")
	h.as("admin").post(path, `{"reset-status": {}}`).want(202)
}

// TestClusterUpgrade: an upgrade that failed half way leaves members of both versions; the same again brings the others
// there, and nothing that they cannot do together is begun before.
func TestClusterUpgrade(t *testing.T) {
	h := newHouse(t)
	shown := h.cluster(3, 0)
	path, first := "/clusters/"+shown.text("cluster.id"), shown.text("cluster.instances.0.id")
	upgrade := func(version string) *result {
		t.Helper()
		return h.post(path, `{"upgrade": {"datastore_version": "`+version+`"}}`)
	}
	configuration := h.newConfiguration("old", `{"hz": 15}`)
	h.post(path, `{"configuration_attach": {"configuration_id": "`+configuration+`"}}`).want(202)
	h.settle()
	upgrade("valkey-8.0").fault(400, "detach it before the upgrade")
	upgrade(randomID).fault(404, randomID)
	h.post(path, `{"configuration_detach": {}}`).want(202)
	upgrade("valkey-8.0").fault(422, "configure_cluster")
	h.settle()
	h.fallSilent(first)
	upgrade("valkey-8.0").fault(422, "does not serve")
	h.tx(func(tx *store.Tx) error { return healthy(tx, first) })
	h.setHealth(path, `{"state": "degraded"}`)
	upgrade("valkey-8.0").fault(422, "not well (degraded)")
	h.setHealth(path, `{"state": "ok"}`)
	before := h.digest()
	upgrade("6.2").fault(400, "not active")
	h.post(path+"?dry_run=true", `{"upgrade": {"datastore_version": "valkey-8.0"}}`).want(200).
		has("dry_run.operation", "upgrade_cluster", "dry_run.effects.1", "3 of 3 shards have no replica: each does not answer while its master is upgraded, until that has loaded its data again.")
	if h.digest() != before {
		t.Error("what was refused, or only asked, changed something")
	}

	upgrade("valkey-8.0").want(202).has("cluster.task.id", 7.0, "cluster.task.name", "UPGRADING_CLUSTER")
	h.workOne(t.Context(), func(string) string { return "A member does not come up." })
	h.get(path).has("cluster.task.name", "NONE", "cluster.fault.message", "A member does not come up.", "cluster.datastore.version", "7.0",
		"cluster.instances.0.datastore_version", "valkey-8.0", "cluster.instances.1.datastore_version", "7.0")
	before = h.digest()
	for body, words := range map[string]string{
		`{"grow": [{}]}`: "different versions", `{"shrink": [{"id": "` + first + `"}]}`: "at least 3 masters",
		`{"configuration_attach": {"configuration_id": "` + configuration + `"}}`: "different versions",
		`{"upgrade": {"datastore_version": "7.0"}}`:                               "valkey-8.0 cannot be made version 7.0",
	} {
		if r := h.post(path, body); r.status != 400 && r.status != 422 || !strings.Contains(string(r.body), words) {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	if h.digest() != before {
		t.Error("something that was refused was written")
	}
	upgrade("valkey-8.0").want(202)
	h.settle()
	h.get(path).has("cluster.datastore.version", "valkey-8.0", "cluster.fault", absent, "cluster.instances.2.datastore_version", "valkey-8.0")
	upgrade("valkey-8.0").fault(400, "already")
	upgrade("7.0").fault(400, "possible are: none")
}

// setHealth stores what a look at a cluster found.
func (h *house) setHealth(path, health string) {
	h.t.Helper()
	if err := h.store.SetClusterHealth(h.t.Context(), strings.TrimPrefix(path, "/clusters/"), []byte(health)); err != nil {
		h.t.Fatal(err)
	}
}

func TestBadClusterActionsChangeNothing(t *testing.T) {
	h := newHouse(t)
	shown, other := h.cluster(3, 0), h.cluster(3, 0)
	path, first := "/clusters/"+shown.text("cluster.id"), shown.text("cluster.instances.0.id")
	before := string(h.get(path).body)
	for body, words := range map[string]string{
		`{}`:                              "exactly one action",
		`{"restart": {}, "grow": [{}]}`:   "exactly one action",
		`{"grow": []}`:                    "at least one",
		`{"shrink": []}`:                  "at least one",
		`{"add_shard": {}}`:               "add_shard",
		`{"grow": [{"type": "replica"}]}`: "needs related_to",
		`{"grow": [{"type": ["master", "replica"]}]}`:                                                   "must be",
		`{"grow": [{"type": "replica", "related_to": "nobody"}]}`:                                       "nobody",
		`{"grow": [{"type": "replica", "related_to": "` + other.text("cluster.instances.0.id") + `"}]}`: "neither",
		`{"grow": [{"related_to": "shop-member-1"}]}`:                                                   "this one is a master",
		`{"grow": [{"name": "shop-member-1"}]}`:                                                         "is taken",
		`{"grow": [{"flavorRef": "2"}]}`:                                                                "flavor 2",
		`{"grow": [{"volume": {"size": 3}}]}`:                                                           "3 GB",
		`{"shrink": [{"id": "` + first + `"}]}`:                                                         "at least 3 masters",
		`{"shrink": [{"id": "` + other.text("cluster.instances.0.id") + `"}]}`:                          "not a member",
		`{"shrink": [{"id": "x"}]}`:                                                                     "must be the id",
		`{"resize": {"volume": {"size": 1}}}`:                                                           "already",
		`{"resize": {"flavorRef": "1"}}`:                                                                "already",
		`{"resize": {"flavorRef": "77"}}`:                                                               "77",
		`{"upgrade": {"datastore_version": "6.2"}}`:                                                     "not active",
		`{"upgrade": {"datastore_version": "7.0"}}`:                                                     "already",
		`{"upgrade": {"datastore_version": ""}}`:                                                        "required",
		`{"configuration_detach": {}}`:                                                                  "no configuration group",
	} {
		h.post(path, body).fault(400, words)
	}
	if after := string(h.get(path).body); after != before {
		t.Errorf("a refusal changed the cluster:\n%s\n%s", before, after)
	}
	for _, refusal := range []*result{
		h.post("/instances/"+first+"/action", `{"restart": {}}`), h.post("/instances/"+first+"/action", `{"resize": {"volume": {"size": 2}}}`),
		h.delete("/instances/" + first), h.post("/instances/"+first+"/root", ``),
	} {
		refusal.fault(501, "member of cluster")
	}
}

func TestClusterQuotaCountsAllMembers(t *testing.T) {
	h := newHouse(t, withQuotas(map[string]int{"instances": 5, "volumes": 100, "backups": 0, "ram": -1}))
	h.post("/clusters", clusterBody("shop", 3, 1)).fault(413, "instances to 6")
	path := "/clusters/" + h.cluster(3, 0).text("cluster.id")
	h.post(path, `{"grow": [{}, {}, {}]}`).fault(413, "instances to 6")
	h.get(path).want(200).has("cluster.instances.3", absent, "cluster.task.name", "NONE")
}

func TestClusterRootIsOfAllMembers(t *testing.T) {
	h := newHouse(t)
	path := "/clusters/" + h.cluster(3, 0).text("cluster.id")
	h.post(path+"/root", `{"password": "wonderland1"}`).want(200).has("user.name", "-", "user.password", "wonderland1")
}
