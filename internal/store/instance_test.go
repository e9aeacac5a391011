package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func TestRoundTrips(t *testing.T) { onBoth(t, testRoundTrips) }

// testRoundTrips writes every struct with all fields set, and with none, and reads it back.
func testRoundTrips(t *testing.T, s *Store) {
	seedVersion(t, s)
	description := "for tests"
	group := dbaas.Group{ID: "g", ProjectID: "p", Kind: dbaas.GroupCluster, Epoch: 1 << 40, CreatedAt: 5}
	full := dbaas.Instance{ID: "i", ProjectID: "p", GroupID: "g", ClusterID: "c", ReplicaOf: "r", Name: "näme \"'\\",
		DatastoreVersionID: testVersion, FlavorID: "2", VolumeSize: 5, VolumeType: "ssd", ConfigurationID: "conf", Region: "local",
		Zone: "z", Locality: "affinity", Nic: &dbaas.Nic{NetworkID: "n", IPAddress: "10.0.0.9"},
		Access:    dbaas.Access{IsPublic: true, AllowedCIDRs: []string{"10.0.0.0/8", "::/0"}},
		Addresses: []dbaas.Address{{Address: "127.77.0.2", Type: "private"}}, Task: dbaas.TaskResizing,
		Fault: &dbaas.Fault{Message: "m", Details: "d", At: 1 << 50}, DeletionProtection: true, RootEnabledAt: 9, RootEnabledBy: "u",
		Applied: &dbaas.Shape{FlavorID: "1", VolumeSize: 7}, CreatedAt: 1_700_000_000_123_456, UpdatedAt: 8}
	bare := dbaas.Instance{ID: "j", GroupID: "g", DatastoreVersionID: testVersion, CreatedAt: 1, UpdatedAt: 1}
	guest := dbaas.Guest{ID: "gu", InstanceID: "i", GroupID: "g", ProjectID: "p", Queue: "q", ServerID: "s", VolumeID: "v",
		PortID: "po", Address: "a", Status: dbaas.GuestHealthy, StatusCause: "c", StatusAt: 3, BootID: "b", Sequence: 1 << 60,
		PublicKey: []byte{0, 1, 255}, AgentVersion: "1.2", Observed: dbaas.JSON(`{"role":"master"}`), CreatedAt: 1, UpdatedAt: 2}
	bareGuest := dbaas.Guest{ID: "gv", InstanceID: "i", CreatedAt: 1, UpdatedAt: 1}
	conf := dbaas.Configuration{ID: "conf", ProjectID: "p", Name: "n", Description: &description, DatastoreVersionID: testVersion,
		Values: map[string]any{"maxmemory": float64(1 << 40), "appendonly": true, "save": ""}, SecretNames: []string{"requirepass"},
		CreatedAt: 1, UpdatedAt: 1}
	op := dbaas.Operation{ID: "o", Kind: "k", ProjectID: "p", ResourceType: "instance", ResourceID: "i", GroupID: "g",
		ParentID: "pa", Step: "s", StepNumber: 2, StepTotal: 3, State: dbaas.JSON(`{"a":[1,2]}`), Attempt: 4, Progress: "p",
		LeaseOwner: "w", LeaseUntil: 5, LeaseEpoch: 6, SupersededBy: "x", ParkedBy: "y", Cancel: true, ChildFailure: "cf",
		Failure: &dbaas.Fault{Message: "m"}, RequestID: "rq", TraceParent: "tp", Actor: "ac"}
	event := dbaas.Event{ID: "e", ProjectID: "p", ResourceType: "instance", ResourceID: "i", OperationID: "o", Kind: "k", Message: "m",
		Actor: "a", RequestID: "r", SourceAddress: "s", Before: dbaas.JSON(`{"v":1}`), After: dbaas.JSON(`{"v":2}`), CreatedAt: 7}
	do(t, s, func(tx *Tx) error {
		return firstError(tx.InsertGroup(&group), tx.InsertInstance(&full), tx.InsertInstance(&bare), tx.InsertGuest(&guest),
			tx.InsertGuest(&bareGuest), tx.InsertConfiguration(&conf), tx.Enqueue(&op), tx.InsertEvent(&event))
	})
	do(t, s, func(tx *Tx) error {
		same(t, tx.Group, "g", group)
		same(t, tx.Instance, "i", full)
		same(t, tx.Instance, "j", bare)
		same(t, tx.Guest, "gu", guest)
		same(t, tx.Guest, "gv", bareGuest)
		same(t, tx.Configuration, "conf", conf)
		same(t, tx.Operation, "o", op)
		return nil
	})
	events, _, err := s.ListEvents(t.Context(), EventFilter{ProjectID: "p"})
	if diff := cmp.Diff([]dbaas.Event{event}, events); diff != "" || err != nil {
		t.Errorf("events: %v %s", err, diff)
	}
	stores, versions, err := s.Datastores(t.Context())
	if err != nil || len(stores) != 1 || len(versions) != 1 {
		t.Fatal(stores, versions, err)
	}
	want := dbaas.DatastoreVersion{ID: testVersion, DatastoreID: "redis", Name: "7.0", Number: "7.0.15", Manager: "redis",
		Active: true, Image: "image", ImageTags: []string{"a"}, Packages: []string{"redis-server"}, CreatedAt: versions[0].CreatedAt}
	if diff := cmp.Diff(want, versions[0]); diff != "" || versions[0].CreatedAt == 0 {
		t.Error(diff)
	}
}

func same[T any](t *testing.T, read func(string) (*T, error), id string, want T) {
	t.Helper()
	got, err := read(id)
	if err != nil {
		t.Errorf("%T %s: %v", want, id, err)
	} else if diff := cmp.Diff(want, *got); diff != "" {
		t.Errorf("%T %s differs (-written +read):\n%s", want, id, diff)
	}
}

func TestUpdates(t *testing.T) { onBoth(t, testUpdates) }

func testUpdates(t *testing.T, s *Store) {
	seedVersion(t, s)
	i := newInstance(t, s)
	do(t, s, func(tx *Tx) error {
		i, err := tx.Instance(i.ID)
		if err != nil {
			return err
		}
		i.Task, i.Name, i.Applied = dbaas.TaskNone, "new", &dbaas.Shape{VolumeSize: 2}
		i.DeletionProtection, i.Nic = false, nil
		if err := tx.UpdateInstance(i); err != nil {
			return err
		}
		same(t, tx.Instance, i.ID, *i)
		guests, err := tx.Guests(i.ID)
		if err != nil || len(guests) != 1 {
			return fmt.Errorf("guests %v: %w", guests, err)
		}
		g := guests[0]
		g.Address, g.Status = "127.77.0.9", dbaas.GuestUnknown
		group, err := tx.Group(i.GroupID)
		if err != nil {
			return err
		}
		group.Epoch++
		if err := firstError(tx.UpdateGuest(&g), tx.UpdateGroup(group)); err != nil {
			return err
		}
		same(t, tx.Guest, g.ID, g)
		same(t, tx.Group, group.ID, *group)
		return nil
	})
	err := s.Tx(t.Context(), func(tx *Tx) error {
		i, err := tx.Instance(i.ID)
		if err != nil {
			return err
		}
		i.Task = dbaas.TaskBuilding
		return tx.UpdateInstance(i)
	})
	if dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("a forbidden change of the task gives %v", err)
	}
	err = s.Tx(t.Context(), func(tx *Tx) error { return tx.UpdateInstance(&dbaas.Instance{ID: "none"}) })
	if dbaas.ErrorCode(err) != dbaas.NotFound {
		t.Errorf("an update of nothing gives %v", err)
	}
}

func TestTransactionsRollBack(t *testing.T) { onBoth(t, testRollBack) }

func testRollBack(t *testing.T, s *Store) {
	seedVersion(t, s)
	stop := fmt.Errorf("stop")
	err := s.Tx(t.Context(), func(tx *Tx) error {
		if _, err := insertInstance(tx); err != nil {
			return err
		}
		return stop
	})
	list, _, listErr := s.ListInstances(t.Context(), InstanceFilter{ProjectID: testProject})
	if err != stop || len(list) != 0 || listErr != nil {
		t.Errorf("error %v, instances %v, %v", err, list, listErr)
	}
}

func TestViews(t *testing.T) { onBoth(t, testViews) }

func testViews(t *testing.T, s *Store) {
	seedVersion(t, s)
	conf := &dbaas.Configuration{ProjectID: testProject, Name: "tuned", DatastoreVersionID: testVersion}
	do(t, s, func(tx *Tx) error { return tx.InsertConfiguration(conf) })
	master := newInstance(t, s, func(i *dbaas.Instance) { i.ConfigurationID = conf.ID; i.Task = dbaas.TaskNone })
	var replicas []string
	for range 2 {
		replicas = append(replicas, newInstance(t, s, func(i *dbaas.Instance) { i.ReplicaOf, i.GroupID = master.ID, master.GroupID }).ID)
	}
	op := operationOn(master, "restart_instance")
	do(t, s, func(tx *Tx) error { return tx.Enqueue(op, master.ID, master.GroupID) })
	view, err := s.InstanceView(t.Context(), master.ID)
	if err != nil {
		t.Fatal(err)
	}
	guest := view.Guests[0].ID
	if err := s.RecordHeartbeats(t.Context(), []dbaas.Heartbeat{{GuestID: guest, BootID: "b", Sequence: 1, VolumeUsed: 7,
		VolumeTotal: 9, Metrics: `{"a":1}`}}); err != nil {
		t.Fatal(err)
	}
	if view, err = s.InstanceView(t.Context(), master.ID); err != nil {
		t.Fatal(err)
	}
	h := view.Heartbeats[guest]
	switch {
	case view.Datastore != "redis", view.Version.Name != "7.0", view.Version.ImageTags[0] != "a", view.ConfigurationName != "tuned":
		t.Errorf("view lacks its names: %+v", view)
	case !slices.Equal(view.Replicas, replicas):
		t.Errorf("replicas %v, want %v", view.Replicas, replicas)
	case view.Operation == nil || view.Operation.ID != op.ID:
		t.Errorf("operation %v", view.Operation)
	case h.BootID != "b" || h.VolumeUsed != 7 || h.VolumeTotal != 9 || h.Metrics != `{"a":1}` || h.SeenAt == 0:
		t.Errorf("heartbeat %+v", h)
	case view.Task != dbaas.TaskNone || view.ID != master.ID || view.GroupID != master.GroupID:
		t.Errorf("instance %+v", view.Instance)
	}
	replica, err := s.InstanceView(t.Context(), replicas[0])
	if err != nil || replica.Operation != nil || replica.ConfigurationName != "" || replica.Replicas != nil || replica.Heartbeats != nil {
		t.Errorf("replica %+v %v", replica, err)
	}
	if _, err := s.InstanceView(t.Context(), "none"); dbaas.ErrorCode(err) != dbaas.NotFound {
		t.Errorf("a missing instance gives %v", err)
	}
	do(t, s, func(tx *Tx) error {
		ids, err := tx.Replicas(master.ID)
		if !slices.Equal(ids, replicas) {
			t.Errorf("replicas %v", ids)
		}
		return err
	})
}

func TestListInstances(t *testing.T) { onBoth(t, testListInstances) }

func testListInstances(t *testing.T, s *Store) {
	seedVersion(t, s)
	var all, alone []string
	do(t, s, func(tx *Tx) error {
		for n := range 25 {
			i, err := insertInstance(tx, func(i *dbaas.Instance) {
				if n%5 == 0 {
					i.ClusterID = "cluster"
				}
			})
			if err != nil {
				return err
			}
			all = append(all, i.ID)
			if n%5 != 0 {
				alone = append(alone, i.ID)
			}
		}
		_, err := insertInstance(tx, func(i *dbaas.Instance) { i.ProjectID = "other" })
		return err
	})
	deleted := newInstance(t, s)
	do(t, s, func(tx *Tx) error { return tx.DeleteInstance(deleted.ID) })
	for _, limit := range []int{0, 1, 7, 25, 100} {
		if got := walk(t, s, InstanceFilter{ProjectID: testProject, Limit: limit, IncludeClustered: true}); !slices.Equal(got, all) {
			t.Errorf("limit %d: %v, want %v", limit, got, all)
		}
		if got := walk(t, s, InstanceFilter{ProjectID: testProject, Limit: limit}); !slices.Equal(got, alone) {
			t.Errorf("limit %d without clusters: %v, want %v", limit, got, alone)
		}
	}
}

func walk(t *testing.T, s *Store, f InstanceFilter) (ids []string) {
	t.Helper()
	for {
		list, more, err := s.ListInstances(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list {
			ids = append(ids, v.ID)
			if len(v.Guests) != 1 || v.Guests[0].InstanceID != v.ID {
				t.Fatalf("guests of %s: %+v", v.ID, v.Guests)
			}
		}
		if !more {
			return ids
		}
		if len(list) != f.Limit {
			t.Fatalf("a page of %d with more behind it, limit %d", len(list), f.Limit)
		}
		f.Marker = ids[len(ids)-1]
	}
}

func TestDeleteInstance(t *testing.T) { onBoth(t, testDeleteInstance) }

func testDeleteInstance(t *testing.T, s *Store) {
	seedVersion(t, s)
	i := newInstance(t, s)
	second := newInstance(t, s, func(j *dbaas.Instance) { j.GroupID = i.GroupID })
	view, err := s.InstanceView(t.Context(), i.ID)
	if err != nil {
		t.Fatal(err)
	}
	guest := view.Guests[0]
	do(t, s, func(tx *Tx) error {
		_, err := tx.PutSecret(i.ID, "password", []byte("p"))
		_, err2 := tx.PutSecret(guest.ID, "rpc-key", []byte("k"))
		_, err3 := tx.PutSecret(second.ID, "password", []byte("p"))
		return firstError(err, err2, err3)
	})
	if err := s.RecordHeartbeats(t.Context(), []dbaas.Heartbeat{{GuestID: guest.ID, BootID: "b"}}); err != nil {
		t.Fatal(err)
	}
	do(t, s, func(tx *Tx) error { return tx.DeleteInstance(i.ID) })
	if _, err := s.InstanceView(t.Context(), i.ID); dbaas.ErrorCode(err) != dbaas.NotFound {
		t.Errorf("a deleted instance gives %v", err)
	}
	for _, q := range []string{"SELECT count(*) FROM heartbeats", "SELECT count(*) FROM secrets WHERE owner_id <> 'grove'",
		"SELECT count(*) FROM guests WHERE deleted_at = 0", "SELECT count(*) FROM instance_groups WHERE deleted_at = 0"} {
		want := 1
		if q == "SELECT count(*) FROM heartbeats" {
			want = 0
		}
		if n := count(t, s, q); n != want {
			t.Errorf("%s: %d, want %d", q, n, want)
		}
	}
	live, err := s.LiveGuests(t.Context())
	if err != nil || len(live) != 1 || live[0].InstanceID != second.ID {
		t.Errorf("live guests %v %v", live, err)
	}
	do(t, s, func(tx *Tx) error {
		for _, read := range []func() error{
			func() error { _, err := tx.Instance(i.ID); return err },
			func() error { _, err := tx.Guest(guest.ID); return err },
			func() error { return tx.UpdateGuest(&guest) },
			func() error { return tx.DeleteInstance(i.ID) },
		} {
			if err := read(); dbaas.ErrorCode(err) != dbaas.NotFound {
				t.Errorf("what is deleted gives %v", err)
			}
		}
		return tx.DeleteInstance(second.ID)
	})
	if n := count(t, s, "SELECT count(*) FROM instance_groups WHERE deleted_at = 0"); n != 0 {
		t.Error("the group outlives its last instance")
	}
}

func count(t testing.TB, s *Store, query string, args ...any) (n int) {
	t.Helper()
	if err := s.read.Raw(query, args...).Scan(&n).Error; err != nil {
		t.Fatal(err)
	}
	return n
}
