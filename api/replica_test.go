package api

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// setEffect gives what a change of a replication set does to the rows; nil for other kinds.
func setEffect(kind string) func(tx *store.Tx, in *dbaas.Instance, op *dbaas.Operation) error {
	return map[string]func(*store.Tx, *dbaas.Instance, *dbaas.Operation) error{
		"create_replicas": replicasCreated, "promote_replica": replicaPromoted,
		"eject_source": sourceEjected, "detach_replica": replicaDetached,
	}[kind]
}

func replicasCreated(tx *store.Tx, _ *dbaas.Instance, op *dbaas.Operation) error {
	var state control.ReplicasState
	if err := json.Unmarshal(op.State, &state); err != nil {
		return err
	}
	for _, id := range state.ReplicaIDs {
		in, err := tx.Instance(id)
		if err != nil {
			return err
		}
		in.Task, in.Applied = dbaas.TaskNone, in.Shape()
		if err := healthy(tx, id); err != nil {
			return err
		}
		if err := tx.UpdateInstance(in); err != nil {
			return err
		}
	}
	return nil
}

func replicaPromoted(tx *store.Tx, promoted *dbaas.Instance, _ *dbaas.Operation) error {
	return eachOfSet(tx, promoted, func(in *dbaas.Instance) {
		if in.ReplicaOf = promoted.ID; in.ID == promoted.ID {
			in.ReplicaOf = ""
		}
	})
}

func eachOfSet(tx *store.Tx, of *dbaas.Instance, edit func(in *dbaas.Instance)) error {
	set, err := tx.GroupMembers(of.GroupID)
	if err != nil {
		return err
	}
	for i := range set {
		set[i].Task = dbaas.TaskNone
		edit(&set[i])
		if err := tx.UpdateInstance(&set[i]); err != nil {
			return err
		}
	}
	return nil
}

func sourceEjected(tx *store.Tx, source *dbaas.Instance, _ *dbaas.Operation) error {
	replicas, err := tx.Replicas(source.ID)
	if err != nil {
		return err
	}
	group := &dbaas.Group{ProjectID: source.ProjectID, Kind: dbaas.GroupSingle}
	if err := tx.InsertGroup(group); err != nil {
		return err
	}
	return eachOfSet(tx, source, func(in *dbaas.Instance) {
		switch in.ID {
		case source.ID:
			in.GroupID = group.ID
		case replicas[0]:
			in.ReplicaOf = ""
		default:
			in.ReplicaOf = replicas[0]
		}
	})
}

func replicaDetached(tx *store.Tx, in *dbaas.Instance, _ *dbaas.Operation) error {
	group := &dbaas.Group{ProjectID: in.ProjectID, Kind: dbaas.GroupSingle}
	if err := tx.InsertGroup(group); err != nil {
		return err
	}
	in.GroupID, in.ReplicaOf, in.Task = group.ID, "", dbaas.TaskNone
	return tx.UpdateInstance(in)
}

func TestLifeOfAReplicationSet(t *testing.T) {
	h := newHouse(t)
	source := h.newInstance("main")
	h.settle()
	created := h.post("/instances", fmt.Sprintf(`{"instance": {"name": "copy", "flavorRef": "ignored", "replica_of": %q, "replica_count": "2",
		"access": {"is_public": false}}}`, source)).want(200).has("instance.name", "copy-2", "instance.status", "BUILD",
		"instance.replica_of.id", source, "instance.flavor.id", "1", "instance.volume.size", 1, "instance.password", absent, "instance.replicas", absent)
	if created.operation() == "" {
		t.Error("there is no operation")
	}
	last := created.text("instance.id")
	shown := h.get("/instances/"+source).want(200).has("instance.status", "ACTIVE", "instance.replicas.2", absent, "instance.operation.kind", "create_replicas")
	first := shown.text("instance.replicas.0.id")
	h.post("/instances/"+source+"/action", `{"restart": {}}`).fault(422, "create_replicas")
	h.delete("/instances/"+source).fault(403, "replicas")
	h.settle()
	h.get("/instances/"+first).want(200).has("instance.name", "copy-1", "instance.status", "ACTIVE", "instance.replica_of.id", source)

	h.post("/instances/"+first+"/action", `{"promote_to_replica_source": {}}`).want(202)
	for _, id := range []string{source, first, last} {
		h.get("/instances/"+id).want(200).has("instance.status", "PROMOTE", "instance.operating_status", "")
	}
	h.delete("/instances/"+last).fault(422, "promote_replica")
	h.settle()
	h.get("/instances/"+first).want(200).has("instance.status", "ACTIVE", "instance.replica_of", absent, "instance.replicas.1.id", last)
	h.get("/instances/"+source).want(200).has("instance.replica_of.id", first, "instance.replicas", absent)

	h.post("/instances/"+first+"/action", `{"eject_replica_source": {}}`).fault(400, "alive")
	h.fallSilent(first)
	h.post("/instances/"+first+"/action", `{"eject_replica_source": {}}`).want(202)
	h.get("/instances/"+last).want(200).has("instance.status", "EJECT")
	h.settle()
	h.get("/instances/"+first).want(200).has("instance.status", "ACTIVE", "instance.replica_of", absent, "instance.replicas", absent)
	h.get("/instances/"+last).want(200).has("instance.replica_of.id", source)

	h.put("/instances/"+last, `{"instance": {"replica_of": null}}`).want(202)
	h.get("/instances/"+last).want(200).has("instance.status", "DETACH")
	h.settle()
	h.get("/instances/"+last).want(200).has("instance.status", "ACTIVE", "instance.replica_of", absent)
	h.patch("/instances/"+last, `{"instance": {"slave_of": ""}}`).fault(400, "not a replica")
}

// fallSilent makes an instance's database one that is known to be down.
func (h *house) fallSilent(id string) {
	h.t.Helper()
	h.tx(func(tx *store.Tx) error {
		guests, err := tx.Guests(id)
		if err != nil {
			return err
		}
		guests[0].Status = dbaas.GuestCrashed
		return tx.UpdateGuest(&guests[0])
	})
}

func TestRefusedReplicas(t *testing.T) {
	h := newHouse(t)
	source, busy := h.newInstance("main"), h.newInstance("busy")
	h.settle()
	foreign := h.as("other").newInstance("theirs")
	h.settle()
	replica := h.post("/instances", fmt.Sprintf(`{"instance": {"name": "copy", "replica_of": %q}}`, source)).want(200).text("instance.id")
	h.settle()
	h.post("/instances/"+busy+"/action", `{"restart": {}}`).want(202)
	of := fmt.Sprintf(`"name": "copy", "replica_of": %q`, source)
	for _, c := range []struct {
		body   string
		status int
		says   string
	}{
		{`"name": "copy", "replica_of": 7`, 400, "replica_of"},
		{`"name": "copy", "replica_of": "main"`, 400, "replica_of"},
		{of + fmt.Sprintf(`, "slave_of": %q`, source), 400, "slave_of"},
		{`"name": "copy", "replica_of": "77777777-7777-4777-8777-777777777777"`, 404, "77777777"},
		{fmt.Sprintf(`"name": "copy", "replica_of": %q`, foreign), 404, foreign},
		{fmt.Sprintf(`"name": "copy", "replica_of": %q`, replica), 403, "itself a replica"},
		{fmt.Sprintf(`"name": "copy", "replica_of": %q`, busy), 422, "restart_instance"},
		{of + `, "replica_count": 0`, 400, "replica_count"},
		{of + `, "replica_count": 4`, 400, "replica_count"},
		{of + `, "volume": {"size": 1}`, 400, "instance.volume"},
		{of + `, "datastore": {"type": "redis"}`, 400, "instance.datastore"},
		{of + `, "locality": "affinity"`, 400, "instance.locality"},
		{of + `, "databases": [{"name": "app"}]`, 400, "instance.databases"},
		{of + `, "users": [{"name": "app", "password": "p"}]`, 400, "instance.users"},
		{of + `, "nics": [{"subnet_id": "11111111-1111-4111-8111-111111111111", "ip_address": "10.0.0.5"}]`, 400, "ip_address"},
		{of + `, "availability_zone": "elsewhere"`, 400, "elsewhere"},
		{of + `, "configuration": "77777777-7777-4777-8777-777777777777"`, 404, "77777777"},
		{of + `, "replica_count": 3, "configuration": ""`, 413, "instances"},
	} {
		if c.status == 413 {
			h.tx(func(tx *store.Tx) error {
				return tx.SetQuota(dbaas.Quota{ProjectID: "demo", Resource: dbaas.QuotaInstances, Limit: 5})
			})
		}
		before := h.digest()
		h.post("/instances", `{"instance": {`+c.body+`}}`).fault(c.status, c.says)
		if h.digest() != before {
			t.Errorf("%s changed something", c.body)
		}
	}
	for _, c := range []struct {
		id, action string
		status     int
		says       string
	}{
		{source, "promote_to_replica_source", 400, "not a replica"},
		{replica, "eject_replica_source", 400, "no replicas"},
		{source, "eject_replica_source", 400, "alive"},
		{busy, "promote_to_replica_source", 400, "not a replica"},
		{foreign, "promote_to_replica_source", 404, foreign},
	} {
		before := h.digest()
		h.post("/instances/"+c.id+"/action", `{"`+c.action+`": {}}`).fault(c.status, c.says)
		if h.digest() != before {
			t.Errorf("%s changed something", c.action)
		}
	}
}

// Who did not answer when root got a new password is told.
func TestReplicasThatAreBehind(t *testing.T) {
	h := newHouse(t)
	source := h.newInstance("main")
	replica := h.post("/instances", fmt.Sprintf(`{"instance": {"name": "copy", "replica_of": %q}}`, source)).want(200).text("instance.id")
	h.settle()
	h.tx(func(tx *store.Tx) error {
		in, err := tx.Instance(replica)
		if err != nil {
			return err
		}
		in.Applied.Behind = []string{in.PrimaryGuestID}
		return tx.UpdateInstance(in)
	})
	h.worker(func(string) string { return "" })
	h.post("/instances/"+source+"/root", "").want(200).has("failed_slaves.0", replica, "failed_slaves.1", absent)
}
