package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// forms is a house with an instance of each form, as the table of what cannot be asked of them needs.
type forms struct {
	*house
	single, stopped, memory, source, replica, standby, cluster, member, foreign, foreignCluster, foreignMember string
}

func newForms(t *testing.T) *forms {
	h := newHouse(t, withQuotas(map[string]int{"instances": 100, "volumes": 1000, "backups": 0, "ram": -1}))
	f := &forms{house: h}
	f.single, f.stopped, f.source, f.foreign = h.newInstance("single"), h.newInstance("stopped"), h.newInstance("source"), h.as("other").newInstance("theirs")
	f.memory = f.made(`"name": "memory", "flavorRef": "1", "volume": {"size": 1}, "persistence": "none"`)
	f.replica = f.made(fmt.Sprintf(`"name": "replica", "replica_of": %q`, f.source))
	f.standby = f.made(`"name": "pair", "flavorRef": "1", "volume": {"size": 1}, "high_availability": {"durability": "async"}`)
	h.post("/instances/"+f.stopped+"/action", `{"stop": {}}`).want(202)
	h.settle()
	shown := h.cluster(3, 0)
	f.cluster, f.member = shown.text("cluster.id"), shown.text("cluster.instances.0.id")
	theirs := h.as("other").post("/clusters", clusterBody("theirs", 3, 0)).want(200)
	f.foreignCluster, f.foreignMember = theirs.text("cluster.id"), theirs.text("cluster.instances.0.id")
	h.settle()
	return f
}

func (f *forms) made(instance string) string {
	f.t.Helper()
	id := f.post("/instances", `{"instance": {`+instance+`}}`).want(200).text("instance.id")
	f.settle()
	return id
}

// TestWhatAFormCannotDo asks of each form of an instance what it cannot do: a refusal that says why, and nothing changed.
func TestWhatAFormCannotDo(t *testing.T) {
	f := newForms(t)
	create := func(rest string) string {
		return `{"instance": {"name": "i", "flavorRef": "1", "volume": {"size": 1}, ` + rest + `}}`
	}
	update := func(rest string) string { return `{"instance": {` + rest + `}}` }
	replicaOf := func(id, rest string) string {
		return fmt.Sprintf(`{"instance": {"name": "copy", "replica_of": %q%s}}`, id, rest)
	}
	single, stopped, memory, source := "/instances/"+f.single, "/instances/"+f.stopped, "/instances/"+f.memory, "/instances/"+f.source
	replica, standby, cluster, member := "/instances/"+f.replica, "/instances/"+f.standby, "/clusters/"+f.cluster, "/instances/"+f.member
	rows := []struct {
		verb, path, body string
		status           int
		says             string
	}{
		{"POST", "/instances", create(`"high_availability": {}`), 400, "durability must be async or bounded"},
		{"POST", "/instances", create(`"high_availability": {"durability": "strict"}`), 400, "durability must be async or bounded"},
		{"POST", "/instances", create(`"high_availability": {"durability": 5}`), 400, "durability"},
		{"POST", "/instances", create(`"high_availability": "bounded"`), 400, "high_availability"},
		{"POST", "/instances", create(`"high_availability": true`), 400, "high_availability"},
		{"POST", "/instances", create(`"high_availability": {"durability": "bounded", "when_degraded": "wait"}`), 400, "refuse or accept"},
		{"POST", "/instances", create(`"high_availability": {"durability": "async", "when_degraded": "refuse"}`), 400, "for the durability bounded"},
		{"POST", "/instances", create(`"persistence": "always"`), 400, "aof, rdb, none"},
		{"POST", "/instances", create(`"persistence": 1`), 400, "persistence"},
		{"POST", "/instances", create(`"profile": "warehouse"`), 400, "cache"},
		{"POST", "/instances", create(`"replica_count": 2`), 400, "replica_of"},
		{"POST", "/instances", create(`"replica_count": -1`), 400, "replica_count"},
		{"POST", "/instances", strings.Replace(create(`"profile": "cache"`), `"size": 1`, `"size": -1`, 1), 400, "at least 1"},
		{"POST", "/instances", strings.Replace(create(`"profile": "cache"`), `"size": 1`, `"size": 99999999999999999999`, 1), 400, "size"},
		{"POST", "/instances", replicaOf(f.source, `, "high_availability": {"durability": "async"}`), 400, "high_availability"},
		{"POST", "/instances", replicaOf(f.source, `, "persistence": "none"`), 400, "persistence"},
		{"POST", "/instances", replicaOf(f.source, `, "profile": "cache"`), 400, "profile"},
		{"POST", "/instances", replicaOf(f.source, `, "replica_count": -1`), 400, "replica_count"},
		{"POST", "/instances", replicaOf(f.source, `, "replica_count": 1e30`), 400, "replica_count"},
		{"POST", "/instances", replicaOf(f.source, `, "replica_count": 1.5`), 400, "replica_count"},
		{"POST", "/instances", replicaOf(f.replica, ``), 403, "itself a replica"},
		{"POST", "/instances", replicaOf(f.foreign, ``), 404, f.foreign},
		{"POST", "/instances", replicaOf(f.stopped, ``), 422, "start it"},
		{"POST", "/instances", replicaOf(f.member, ``), 501, "member of cluster"},
		{"POST", "/instances", replicaOf(f.foreignMember, ``), 404, f.foreignMember},
		{"POST", "/instances", replicaOf(f.cluster, ``), 404, f.cluster},

		{"PUT", single, update(`"high_availability": {"durability": "strict"}`), 400, "async or bounded"},
		{"PUT", single, update(`"high_availability": {}`), 400, "async or bounded"},
		{"PUT", single, update(`"high_availability": {"durability": "async"}, "profile": "cache"`), 400, "one thing at a time"},
		{"PATCH", single, update(`"high_availability": {"durability": "async", "when_degraded": "accept"}`), 400, "for the durability bounded"},
		{"PATCH", replica, update(`"high_availability": {"durability": "async"}`), 400, "promote it first"},
		{"PATCH", stopped, update(`"high_availability": {"durability": "async"}`), 422, "start it"},
		{"PATCH", member, update(`"high_availability": {"durability": "async"}`), 501, "member of cluster"},
		{"PATCH", member, update(`"persistence": "none"`), 501, "member of cluster"},
		{"PATCH", member, update(`"profile": "cache"`), 501, "member of cluster"},
		{"PATCH", member, update(`"datastore_version": "valkey-8.0"`), 501, "member of cluster"},
		{"PATCH", member, update(`"replica_of": null`), 400, "not a replica"},
		{"PATCH", single, update(`"replica_of": null`), 400, "not a replica"},
		{"PATCH", standby, update(`"replica_of": ""`), 400, "not a replica"},
		{"PATCH", single, update(`"datastore_version": "6.2"`), 400, "not active"},
		{"PATCH", single, update(`"datastore_version": "7.0.1-beta"`), 400, "7.0.1-beta"},
		{"PATCH", single, update(`"datastore_version": ""`), 400, "datastore_version"},
		{"PATCH", replica, update(`"datastore_version": "valkey-8.0"`), 400, "upgrade its source"},
		{"PATCH", stopped, update(`"datastore_version": "valkey-8.0"`), 422, "start it"},
		{"PATCH", stopped, update(`"persistence": "rdb"`), 422, "start it"},
		{"PATCH", single, update(`"persistence": "always"`), 400, "aof, rdb, none"},
		{"PATCH", single, update(`"profile": "warehouse"`), 400, "cache"},

		{"POST", single + "/action", `{"failover": {}}`, 400, "has no standby"},
		{"POST", single + "/action", `{"failover": {"drill": "maybe"}}`, 400, "drill"},
		{"POST", single + "/action", `{"failover": true}`, 400, "failover"},
		{"POST", replica + "/action", `{"failover": {"drill": true}}`, 400, "has no standby"},
		{"POST", standby + "/action", `{"failover": {"drill": true}}`, 422, "not in step"},
		{"POST", standby + "/action", `{"failover": {"drill": 1}}`, 400, "drill"},
		{"POST", standby + "/action", `{"failover": {}, "restart": {}}`, 400, "exactly one action"},
		{"POST", stopped + "/action", `{"failover": {}}`, 400, "has no standby"},
		{"POST", member + "/action", `{"failover": {}}`, 501, "member of cluster"},
		{"POST", single + "/action", `{"start": {}}`, 400, "was not stopped"},
		{"POST", stopped + "/action", `{"stop": {}}`, 400, "stopped already"},
		{"POST", stopped + "/action", `{"rebuild": {}}`, 422, "start it"},
		{"POST", memory + "/action", `{"rebuild": {}}`, 400, "persistence none"},
		{"POST", member + "/action", `{"stop": {}}`, 501, "member of cluster"},
		{"POST", member + "/action", `{"start": {}}`, 501, "member of cluster"},
		{"POST", member + "/action", `{"rebuild": {}}`, 501, "member of cluster"},
		{"POST", member + "/action", `{"promote_to_replica_source": {}}`, 501, "member of cluster"},
		{"POST", member + "/action", `{"eject_replica_source": {}}`, 501, "member of cluster"},
		{"POST", single + "/action", `{"promote_to_replica_source": {}}`, 400, "not a replica"},
		{"POST", single + "/action", `{"eject_replica_source": {}}`, 400, "no replicas"},
		{"POST", replica + "/action", `{"eject_replica_source": {}}`, 400, "no replicas"},
		{"POST", source + "/action", `{"eject_replica_source": {}}`, 400, "alive"},
		{"POST", source + "/action", `{"promote_to_replica_source": {}}`, 400, "not a replica"},
		{"DELETE", source, ``, 403, "replicas"},
		{"DELETE", member, ``, 501, "member of cluster"},
		{"POST", single + "/action", `{"resize": {"volume": {"size": -2}}}`, 400, "at least 1"},
		{"POST", single + "/action", `{"resize": {"volume": {"size": 1e300}}}`, 400, "size"},
		{"POST", single + "/action", `{"resize": {"volume": {"size": 1}}}`, 400, "1 GB"},
		{"POST", single + "/action", `{"resize": {"volume": {"size": 51}}}`, 413, "50 GB"},
		{"POST", single + "/action", `{"resize": {"flavorRef": "1"}}`, 400, "flavor"},
		{"POST", single + "/action", `{"resize": {"flavorRef": "77"}}`, 400, "77"},
		{"POST", single + "/action", `{"resize": {}}`, 400, "flavorRef"},
		{"POST", single + "/action", `{"explode": {}}`, 400, "it knows: eject_replica_source"},

		{"POST", cluster, `{"grow": [{"type": "arbiter"}]}`, 400, "must be"},
		{"POST", cluster, `{"grow": [{"type": "replica", "related_to": "` + f.foreignMember + `"}]}`, 400, "neither a member"},
		{"POST", cluster, `{"grow": [{"type": "replica", "related_to": "` + f.single + `"}]}`, 400, "neither a member"},
		{"POST", cluster, `{"grow": [{"type": "replica", "related_to": ""}]}`, 400, "needs related_to"},
		{"POST", cluster, `{"grow": [{"type": "replica", "related_to": 7}]}`, 400, "related_to"},
		{"POST", cluster, `{"grow": [` + strings.TrimSuffix(strings.Repeat(`{},`, 13), ",") + `]}`, 400, "at most 15"},
		{"POST", cluster, `{"grow": [{"name": "twice"}, {"name": "twice"}]}`, 400, "is taken"},
		{"POST", cluster, `{"grow": [{"volume": {"size": -1}}]}`, 400, "at least 1"},
		{"POST", cluster, `{"grow": [{"volume": {"size": 1e99}}]}`, 400, "size"},
		{"POST", cluster, `{"grow": [{"availability_zone": "moon"}]}`, 400, "moon"},
		{"POST", cluster, `{"grow": [{"region_name": "Elsewhere"}]}`, 400, "Elsewhere"},
		{"POST", cluster, `{"grow": [{"name": "` + strings.Repeat("x", 256) + `"}]}`, 400, "255"},
		{"POST", cluster, `{"grow": [{"nics": [{"net-id": "22222222-2222-4222-8222-222222222222"}]}]}`, 400, "network"},
		{"POST", cluster, `{"grow": {}}`, 400, "grow"},
		{"POST", cluster, `{"shrink": [{"id": "` + f.member + `"}]}`, 400, "at least 3 masters"},
		{"POST", cluster, `{"shrink": [{"id": "` + f.member + `"}, {"id": "` + f.member + `"}]}`, 400, "twice"},
		{"POST", cluster, `{"shrink": [{"id": "` + f.foreignMember + `"}]}`, 400, "not a member"},
		{"POST", cluster, `{"shrink": [{"id": "` + f.single + `"}]}`, 400, "not a member"},
		{"POST", cluster, `{"shrink": [{}]}`, 400, "must be the id"},
		{"POST", cluster, `{"shrink": 3}`, 400, "shrink"},
		{"POST", cluster, `{"resize": {"volume": {"size": -1}}}`, 400, "at least 1"},
		{"POST", cluster, `{"resize": {"volume": {"size": 51}}}`, 413, "50 GB"},
		{"POST", cluster, `{"resize": {"flavorRef": "77"}}`, 400, "77"},
		{"POST", cluster, `{"resize": {}}`, 400, "flavorRef"},
		{"POST", cluster, `{"upgrade": {"datastore_version": "5.0"}}`, 400, "5.0"},
		{"POST", cluster, `{"upgrade": {}}`, 400, "required"},
		{"POST", cluster, `{"failover": {}}`, 400, "it knows: add_shard"},
		{"POST", "/clusters/" + f.foreignCluster, `{"restart": {}}`, 404, f.foreignCluster},
		{"GET", "/clusters/" + f.foreignCluster + "/credentials", ``, 404, f.foreignCluster},
		{"GET", cluster + "/instances/" + f.foreignMember, ``, 404, f.foreignMember},
		{"POST", "/clusters", clusterBody(strings.Repeat("x", 250), 3, 0), 400, "cluster.name"},
		{"POST", "/clusters", strings.Replace(clusterBody("c", 3, 0), `"replicas_per_shard": "0"`, `"replicas_per_shard": 1e30`, 1), 400, "replicas_per_shard"},
		{"POST", "/clusters", strings.ReplaceAll(clusterBody("c", 3, 0), `"size": "1"`, `"size": "51"`), 413, "50 GB"},
		{"POST", "/clusters", strings.ReplaceAll(clusterBody("c", 3, 0), `"size": "1"`, `"size": -3`), 400, "at least 1"},
	}
	before := f.digest()
	for _, row := range rows {
		what := row.verb + " " + strings.NewReplacer(f.single, "single", f.member, "member").Replace(row.path) + " " + row.body
		r := f.call(row.verb, row.path, row.body)
		if r.status != row.status || !strings.Contains(string(r.body), row.says) {
			t.Errorf("%.300s → %d %s, want %d that says %q", what, r.status, r.body, row.status, row.says)
		}
		if after := f.digest(); after != before {
			t.Errorf("%.300s changed something", what)
			before = after
			f.settle()
			before = f.digest()
		}
	}
}

// What does not fit into a quota is refused for every form, and nothing of it stays.
func TestFormsHoldTheQuota(t *testing.T) {
	f := newForms(t)
	f.tx(func(tx *store.Tx) error {
		for _, q := range []dbaas.Quota{{ProjectID: "demo", Resource: dbaas.QuotaInstances, Limit: 10}, {ProjectID: "demo", Resource: dbaas.QuotaVolumes, Limit: 10}} {
			if err := tx.SetQuota(q); err != nil {
				return err
			}
		}
		return nil
	})
	before := f.digest()
	f.post("/instances", fmt.Sprintf(`{"instance": {"name": "copy", "replica_of": %q, "replica_count": 3}}`, f.source)).fault(413)
	f.put("/instances/"+f.single, `{"instance": {"high_availability": {"durability": "async"}}}`).fault(413, "volumes")
	f.post("/clusters", clusterBody("c", 3, 1)).fault(413)
	f.post("/clusters/"+f.cluster, `{"grow": [{}, {}]}`).fault(413)
	f.post("/clusters/"+f.cluster, `{"resize": {"volume": {"size": 9}}}`).fault(413, "volumes")
	if f.digest() != before {
		t.Error("something that was refused was written")
	}
}
