package control_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func TestCreate(t *testing.T) {
	onBoth(t, func(t *testing.T, h *house) {
		created, err := h.CreateInstance(h.ctx(), tenant, wish())
		must(t, err)
		v := created.View
		if v.Task != dbaas.TaskBuilding || v.ProjectID != "demo" || v.Version.Name != "7.0" || len(v.Guests) != 1 ||
			v.Guests[0].Status != dbaas.GuestNew || v.Operation == nil || v.Operation.ID != created.OperationID {
			t.Errorf("the instance is %+v", v)
		}
		if queue := v.Guests[0].Queue; len(queue) != len(v.Guests[0].ID)+1+32 {
			t.Errorf("the queue %q does not end in 128 random bits", queue)
		}
		op := h.operation(created.OperationID)
		if op.Kind != "create_instance" || op.Actor != "ann" || op.RequestID != "req-1" || op.Status != dbaas.OperationRunning {
			t.Errorf("the operation is %+v", op)
		}
		events, _, err := h.Events(h.ctx(), tenant, store.EventFilter{ProjectID: "demo"})
		must(t, err)
		if len(events) != 1 || events[0].SourceAddress != "192.0.2.1" || events[0].Actor != "ann" || events[0].OperationID != op.ID || len(events[0].After) == 0 {
			t.Errorf("the events are %+v", events)
		}
		credentials, err := h.Credentials(h.ctx(), tenant, v.ID)
		must(t, err)
		if credentials.Password != created.Password || len(created.Password) < 16 || credentials.URI != "" {
			t.Errorf("the credentials are %+v", credentials)
		}
	})
}

// TestRefusedCreateLeavesNothing: whatever a create is refused for, no row is written.
func TestRefusedCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", func(c *control.Config) { c.Quotas["ram"] = 1024 })
	foreign, err := h.CreateConfiguration(h.ctx(), stranger, control.CreateConfiguration{Name: "x", Datastore: "redis", Values: map[string]any{}})
	must(t, err)
	for name, c := range map[string]struct {
		change func(r *control.CreateInstance)
		code   dbaas.Code
		words  string
	}{
		"flavor":            {func(r *control.CreateInstance) { r.FlavorID = "9" }, dbaas.BadRequest, "there are: 1, 2"},
		"volume":            {func(r *control.CreateInstance) { r.VolumeSize = 51 }, dbaas.OverLimit, "50 GB"},
		"volume type":       {func(r *control.CreateInstance) { r.VolumeType = "slow" }, dbaas.BadRequest, "slow"},
		"zone":              {func(r *control.CreateInstance) { r.Zone = "mars" }, dbaas.BadRequest, "nova"},
		"region":            {func(r *control.CreateInstance) { r.Region = "Elsewhere" }, dbaas.BadRequest, "RegionOne"},
		"network":           {func(r *control.CreateInstance) { r.Nic = &dbaas.Nic{NetworkID: "none"} }, dbaas.BadRequest, "none"},
		"foreign network":   {func(r *control.CreateInstance) { r.Nic = &dbaas.Nic{NetworkID: "foreign"} }, dbaas.BadRequest, `"foreign" does not exist`},
		"its subnet":        {func(r *control.CreateInstance) { r.Nic = &dbaas.Nic{SubnetID: "sub-of-foreign"} }, dbaas.BadRequest, `"sub-of-foreign" does not exist`},
		"datastore":         {func(r *control.CreateInstance) { r.Datastore = "oracle" }, dbaas.NotFound, "oracle"},
		"version":           {func(r *control.CreateInstance) { r.Version = "1.0" }, dbaas.BadRequest, "1.0"},
		"number":            {func(r *control.CreateInstance) { r.Version, r.VersionNumber = "7.0", "9.9" }, dbaas.BadRequest, `"7.0 9.9"`},
		"no configuration":  {func(r *control.CreateInstance) { r.ConfigurationID = "nonsense" }, dbaas.NotFound, "nonsense"},
		"foreign one":       {func(r *control.CreateInstance) { r.ConfigurationID = foreign.ID }, dbaas.NotFound, foreign.ID},
		"quota of memory":   {func(r *control.CreateInstance) { r.FlavorID = "2" }, dbaas.OverLimit, "ram to 2048, the limit is 1024"},
		"several at a time": {func(r *control.CreateInstance) { r.FlavorID, r.Zone = "9", "mars" }, dbaas.BadRequest, ""},
	} {
		r := wish()
		c.change(&r)
		_, err := h.CreateInstance(h.ctx(), tenant, r)
		t.Run(name, func(t *testing.T) { refused(t, err, c.code, c.words) })
	}
	for _, table := range []string{"instances", "guests", "instance_groups", "operations", "operation_locks", "events", "secrets WHERE kind IN ('password', 'rpc-key')"} {
		if n := h.count(table); n != 0 {
			t.Errorf("%d rows of %s are left", n, table)
		}
	}
}

// TestNetworks: whoever a network is there for may name it, or a subnet of it.
func TestNetworks(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	for _, nic := range []dbaas.Nic{{NetworkID: "net"}, {SubnetID: "sub"}, {NetworkID: "own"}, {SubnetID: "sub-of-own", IPAddress: "10.0.0.7"}} {
		r := wish()
		r.Nic = &nic
		if _, err := h.CreateInstance(h.ctx(), tenant, r); err != nil {
			t.Errorf("%+v: %v", nic, err)
		}
		_, err := h.CreateInstance(h.ctx(), stranger, r)
		if nic.NetworkID == "own" || nic.SubnetID == "sub-of-own" {
			refused(t, err, dbaas.BadRequest, "does not exist")
		} else if err != nil {
			t.Errorf("%+v for another project: %v", nic, err)
		}
	}
}

// TestQuotaUnderCompetition: of many creates at once exactly as many pass as the quota has room for.
func TestQuotaUnderCompetition(t *testing.T) {
	onBoth(t, func(t *testing.T, h *house) {
		_, err := h.SetQuotas(h.ctx(), admin, "demo", map[string]*int{"instances": new(3)})
		must(t, err)
		errs := together(12, func(int) error {
			_, err := h.CreateInstance(h.ctx(), tenant, wish())
			return err
		})
		accepted := 0
		for _, err := range errs {
			if err == nil {
				accepted++
				continue
			}
			refused(t, err, dbaas.OverLimit, "instances", "the limit is 3")
		}
		if usage, err := h.Usage(h.ctx(), tenant, "demo"); err != nil || accepted != 3 || usage[0].InUse != 3 {
			t.Errorf("%d creates passed, usage says %+v, %v", accepted, usage, err)
		}
	})
}

// together does something n times at once.
func together(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	return errs
}

// TestQuotaOfWhatGrows: a project over a limit, which an administrator has lowered, may still take less or something else.
func TestQuotaOfWhatGrows(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	id := h.active()
	resize := func(err error, operation string) error {
		if err == nil {
			h.finish(operation)
		}
		return err
	}
	flavor := func(to string) error { op, err := h.ResizeFlavor(h.ctx(), tenant, id, to); return resize(err, op) }
	volume := func(to int) error { op, err := h.ResizeVolume(h.ctx(), tenant, id, to); return resize(err, op) }
	must(t, flavor("2"))
	_, err := h.SetQuotas(h.ctx(), admin, "demo", map[string]*int{"ram": new(100), "instances": new(0), "volumes": nil})
	must(t, err)
	must(t, volume(2))
	must(t, flavor("1"))
	refused(t, flavor("2"), dbaas.OverLimit, "ram")
	_, err = h.SetQuotas(h.ctx(), admin, "demo", map[string]*int{"ram": new(-1), "volumes": new(2)})
	must(t, err)
	must(t, flavor("2"))
	refused(t, volume(3), dbaas.OverLimit, "volumes to 3, the limit is 2")
	if v := h.view(id); v.VolumeSize != 2 || v.FlavorID != "2" || v.Task != dbaas.TaskNone {
		t.Errorf("the instance is %+v", v.Instance)
	}
}

// TestFlavorTooSmallForTheData: data that would not fit are not moved to where they would be evicted.
func TestFlavorTooSmallForTheData(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	id := h.active()
	op, err := h.ResizeFlavor(h.ctx(), tenant, id, "2")
	must(t, err)
	h.finish(op)
	tell := func(sequence int64, used int64) {
		t.Helper()
		must(t, h.store.RecordHeartbeats(t.Context(), []dbaas.Heartbeat{{
			GuestID: h.view(id).Guests[0].ID, BootID: "b", Sequence: sequence, SeenAt: dbaas.At(time.Now()), Metrics: fmt.Sprintf(`{"used_memory": %d}`, used),
		}}))
	}
	tell(1, 400<<20)
	_, err = h.ResizeFlavor(h.ctx(), tenant, id, "1")
	refused(t, err, dbaas.Unprocessable, "The data take 401 MB", "choose a larger flavor")
	if v := h.view(id); v.FlavorID != "2" || v.Task != dbaas.TaskNone {
		t.Errorf("the instance is %+v", v.Instance)
	}
	h.edit(id, func(in *dbaas.Instance) { in.Profile = "cache" }) // whose keys may be evicted
	op, err = h.ResizeFlavor(h.ctx(), tenant, id, "1")
	must(t, err)
	h.finish(op)
	h.edit(id, func(in *dbaas.Instance) { in.Profile = "" })
	op, err = h.ResizeFlavor(h.ctx(), tenant, id, "2")
	must(t, err)
	h.finish(op)
	tell(2, 100<<20)
	_, err = h.ResizeFlavor(h.ctx(), tenant, id, "1")
	must(t, err)
}

// TestOneOfManyChanges: of conflicting changes at once exactly one is accepted; the others name it (R8).
func TestOneOfManyChanges(t *testing.T) {
	onBoth(t, func(t *testing.T, h *house) {
		id := h.active()
		ids := make([]string, 12)
		errs := together(len(ids), func(i int) (err error) {
			switch i % 3 {
			case 0:
				ids[i], err = h.RestartInstance(h.ctx(), tenant, id)
			case 1:
				ids[i], err = h.ResizeVolume(h.ctx(), tenant, id, 5)
			default:
				ids[i], err = h.UpdateInstance(h.ctx(), tenant, id, control.UpdateInstance{Access: &dbaas.Access{AllowedCIDRs: []string{"10.0.0.0/8"}}})
			}
			return err
		})
		winner := slices.IndexFunc(errs, func(err error) bool { return err == nil })
		if winner < 0 {
			t.Fatalf("all were refused: %v", errs)
		}
		for i, err := range errs {
			var busy *store.BusyError
			if i != winner && (!errors.As(err, &busy) || busy.Operation.ID != ids[winner]) {
				t.Errorf("request %d got %v", i, err)
			}
			if i != winner {
				refused(t, err, dbaas.Unprocessable, ids[winner])
			}
		}
		if n := h.count("operations WHERE ended_at = 0"); n != 1 {
			t.Errorf("%d operations run", n)
		}
	})
}

// TestWhoMayChange: a broken, a clustered and another project's instance are refused, each with its own code.
func TestWhoMayChange(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	id := h.active()
	for name, change := range map[string]func(control.Caller) error{
		"restart": func(c control.Caller) error { _, err := h.RestartInstance(h.ctx(), c, id); return err },
		"volume":  func(c control.Caller) error { _, err := h.ResizeVolume(h.ctx(), c, id, 2); return err },
		"flavor":  func(c control.Caller) error { _, err := h.ResizeFlavor(h.ctx(), c, id, "2"); return err },
		"root":    func(c control.Caller) error { _, err := h.EnableRoot(h.ctx(), c, id, ""); return err },
		"access": func(c control.Caller) error {
			_, err := h.UpdateInstance(h.ctx(), c, id, control.UpdateInstance{Access: &dbaas.Access{IsPublic: true}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, change(stranger), dbaas.NotFound, id)
			h.edit(id, func(in *dbaas.Instance) { in.ClusterID = "c1" })
			refused(t, change(tenant), dbaas.NotImplemented, "c1")
			h.edit(id, func(in *dbaas.Instance) { in.ClusterID, in.Task = "", dbaas.TaskUpdating })
			refused(t, change(tenant), dbaas.Unprocessable, "not available")
			h.edit(id, func(in *dbaas.Instance) { in.Task = dbaas.TaskError })
			refused(t, change(tenant), dbaas.Unprocessable, "ERROR")
			h.edit(id, func(in *dbaas.Instance) { in.Task = dbaas.TaskNone })
		})
	}
	if n := h.count("operations WHERE ended_at = 0"); n != 0 {
		t.Errorf("%d operations were made", n)
	}
	both := control.UpdateInstance{Configuration: new(string), Access: &dbaas.Access{IsPublic: true}}
	_, err := h.UpdateInstance(h.ctx(), tenant, id, both)
	refused(t, err, dbaas.BadRequest)
}

func TestNameAndProtectionInEveryState(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	id := h.active()
	for _, task := range []dbaas.Task{dbaas.TaskNone, dbaas.TaskUpdating, dbaas.TaskError, dbaas.TaskDeleting} {
		h.edit(id, func(in *dbaas.Instance) { in.Task = task })
		op, err := h.UpdateInstance(h.ctx(), tenant, id, control.UpdateInstance{Name: new("in " + string(task)), DeletionProtection: new(true)})
		if v := h.view(id); err != nil || op != "" || v.Name != "in "+string(task) || !v.DeletionProtection || v.Task != task {
			t.Errorf("in %s: operation %q, %v, %+v", task, op, err, v.Instance)
		}
	}
}

func TestDelete(t *testing.T) {
	onBoth(t, func(t *testing.T, h *house) {
		id := h.active()
		_, err := h.DeleteInstance(h.ctx(), stranger, id)
		refused(t, err, dbaas.NotFound)
		h.edit(id, func(in *dbaas.Instance) { in.DeletionProtection = true })
		_, err = h.DeleteInstance(h.ctx(), tenant, id)
		refused(t, err, dbaas.Forbidden, "deletion_protection")
		h.edit(id, func(in *dbaas.Instance) { in.DeletionProtection = false })
		replica := h.active()
		h.edit(replica, func(in *dbaas.Instance) { in.ReplicaOf = id })
		_, err = h.DeleteInstance(h.ctx(), tenant, id)
		refused(t, err, dbaas.Forbidden, "replicas")
		h.edit(replica, func(in *dbaas.Instance) { in.ReplicaOf = "" })
		h.edit(id, func(in *dbaas.Instance) { in.Task = dbaas.TaskUpdating })
		h.edit(id, func(in *dbaas.Instance) { in.Task = dbaas.TaskError }) // every state

		first, err := h.DeleteInstance(h.ctx(), tenant, id)
		must(t, err)
		again, err := h.DeleteInstance(h.ctx(), tenant, id)
		if err != nil || again != first || h.view(id).Task != dbaas.TaskDeleting {
			t.Errorf("deleted again: operation %s after %s, %v", again, first, err)
		}
	})
}

// TestDeleteTakesOver: what runs becomes the delete, in whose name it goes on.
func TestDeleteTakesOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	created, err := h.CreateInstance(h.ctx(), tenant, wish())
	must(t, err)
	id := created.View.ID
	bob := control.Caller{ProjectID: "demo", UserID: "bob"}
	for range 2 {
		op, err := h.DeleteInstance(h.ctx(), bob, id)
		if v := h.operation(op); err != nil || op != created.OperationID || v.SupersededBy != "delete_instance" || v.Actor != "bob" {
			t.Errorf("the operation is %+v, %v", v, err)
		}
	}
	if n := h.count("events WHERE kind = 'instance.delete_instance.accepted' AND actor = 'bob'"); n != 1 {
		t.Errorf("%d events tell of the delete", n)
	}
}

// TestResetStatus brings an instance back from every state that nobody works on, and cancels what runs.
func TestResetStatus(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	id := h.active()
	for from, to := range map[dbaas.Task]dbaas.Task{
		dbaas.TaskNone: dbaas.TaskNone, dbaas.TaskRestartRequired: dbaas.TaskRestartRequired, dbaas.TaskError: dbaas.TaskNone,
		dbaas.TaskUpdating: dbaas.TaskNone, dbaas.TaskDeleting: dbaas.TaskError,
	} {
		id := h.active()
		h.edit(id, func(in *dbaas.Instance) { in.Task = dbaas.TaskUpdating })
		h.edit(id, func(in *dbaas.Instance) { in.Task = from })
		op, err := h.ResetStatus(h.ctx(), admin, id)
		v := h.view(id)
		if err != nil || op != "" || v.Task != to || v.Guests[0].Status != dbaas.GuestUnknown {
			t.Errorf("%s became %s, the guest is %s, operation %q, %v", from, v.Task, v.Guests[0].Status, op, err)
		}
	}
	h.edit(id, func(in *dbaas.Instance) { in.Task = dbaas.TaskUpdating })
	h.edit(id, func(in *dbaas.Instance) { in.Task, in.Applied = dbaas.TaskError, nil }) // as a failed create leaves it
	if _, err := h.ResetStatus(h.ctx(), admin, id); err != nil || h.view(id).Applied == nil {
		t.Errorf("a change that fails would have nothing to go back to; %v", err)
	}
	running, err := h.RestartInstance(h.ctx(), tenant, id)
	must(t, err)
	op, err := h.ResetStatus(h.ctx(), admin, id)
	if err != nil || op != running || !h.operation(op).Cancel {
		t.Errorf("the running operation is %+v, %v", h.operation(running), err)
	}
}

func TestRoot(t *testing.T) {
	onBoth(t, func(t *testing.T, h *house) {
		id := h.active()
		_, err := h.DisableRoot(h.ctx(), tenant, id)
		refused(t, err, dbaas.NotFound)
		before, err := h.Credentials(h.ctx(), tenant, id)
		must(t, err)
		root, err := h.EnableRoot(h.ctx(), tenant, id, "chosen by the tenant")
		must(t, err)
		if now, err := h.Credentials(h.ctx(), tenant, id); err != nil || now.Password != before.Password {
			t.Errorf("the password changed before the database has it: %v", err)
		}
		if value, err := h.RevealSecret(h.ctx(), tenant, root.PasswordSecretID); err != nil || value != "chosen by the tenant" {
			t.Errorf("revealed %q, %v", value, err)
		}
		_, err = h.RevealSecret(h.ctx(), stranger, root.PasswordSecretID)
		refused(t, err, dbaas.NotFound)
		_, err = h.RevealSecret(h.ctx(), tenant, "00000000-0000-7000-8000-000000000000")
		refused(t, err, dbaas.NotFound)
		for _, column := range []string{"operations WHERE CAST(state AS TEXT)", "events WHERE CAST(after AS TEXT)", "secrets WHERE CAST(sealed AS TEXT)"} {
			if n := h.count(column + " LIKE '%chosen by the tenant%'"); n != 0 {
				t.Errorf("%s holds the password in the clear", column)
			}
		}
	})
}

// TestRenameDuringAConfigurationChange: what others write while a change waits for their lock is not lost.
func TestRenameDuringAConfigurationChange(t *testing.T) {
	t.Parallel()
	h := newHouse(t, testbed.Postgres(t))
	id := h.active()
	group := h.group(map[string]any{"timeout": 100})
	op, err := h.UpdateInstance(h.ctx(), tenant, id, control.UpdateInstance{Configuration: &group.ID})
	must(t, err)
	h.finish(op)
	changed := make(chan error, 1)
	h.tx(func(tx *store.Tx) error {
		in, err := tx.Instance(id)
		if err != nil {
			return err
		}
		go func() {
			_, err := h.PatchConfiguration(h.ctx(), tenant, group.ID, control.UpdateConfiguration{Values: map[string]any{"timeout": 200}})
			changed <- err
		}()
		testbed.Eventually(t, waitAtMost, func() error {
			var waiting int
			if err := h.query("SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.datname = current_database() "+
				"JOIN pg_stat_activity a ON a.pid = l.pid AND a.datid = d.oid WHERE NOT l.granted", &waiting); err != nil || waiting > 0 {
				return err
			}
			return errors.New("nobody waits for the instance")
		})
		in.Name = "renamed meanwhile"
		return tx.UpdateInstance(in)
	})
	must(t, <-changed)
	if v := h.view(id); v.Name != "renamed meanwhile" || v.Task != dbaas.TaskUpdating {
		t.Errorf("the instance is %q in %s", v.Name, v.Task)
	}
}
