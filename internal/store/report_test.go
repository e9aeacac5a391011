package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func TestReports(t *testing.T) { onBoth(t, testReports) }

func testReports(t *testing.T, s *Store) {
	seedVersion(t, s)
	i := newInstance(t, s)
	op := operationOn(i, "create_instance")
	do(t, s, func(tx *Tx) error { return tx.Enqueue(op, i.ID, i.GroupID) })
	mustSave(t, s, claim(t, s, op.ID, time.Minute), engine.Save{WakeAfter: time.Hour})
	guest := func() dbaas.Guest { t.Helper(); return guestOf(t, s, i.ID) }
	id := guest().ID
	report := func(boot string, sequence int64, status dbaas.GuestStatus, wantChanged bool) {
		t.Helper()
		changed, err := s.RecordReport(t.Context(), ReportRow{GuestID: id, BootID: boot, Sequence: sequence, Status: status,
			StatusCause: "why", PublicKey: []byte("pub"), AgentVersion: "1", Observed: dbaas.JSON(`{"role":"master"}`),
			Events: []dbaas.Event{{ID: fmt.Sprint("e", sequence), ProjectID: testProject, ResourceID: i.ID, Kind: "guest.status", Message: string(status)}}})
		if err != nil || changed != wantChanged {
			t.Errorf("report %s/%d %s: changed %t, want %t, %v", boot, sequence, status, changed, wantChanged, err)
		}
	}
	report("b1", 1, dbaas.GuestBuilding, true)
	g := guest()
	if g.Status != dbaas.GuestBuilding || g.StatusCause != "why" || string(g.PublicKey) != "pub" || g.AgentVersion != "1" ||
		string(g.Observed) != `{"role":"master"}` || g.BootID != "b1" || g.Sequence != 1 || g.StatusAt == 0 {
		t.Errorf("guest %+v", g)
	}
	if claim(t, s, "", time.Minute) == nil {
		t.Error("the report did not wake the operation")
	}
	report("b1", 3, dbaas.GuestHealthy, true)
	at := guest().StatusAt
	report("b1", 2, dbaas.GuestCrashed, false)
	report("b1", 3, dbaas.GuestCrashed, false)
	report("b1", 4, dbaas.GuestHealthy, false)
	if g := guest(); g.StatusAt != at || g.Sequence != 4 {
		t.Errorf("an unchanged status moved: %+v", g)
	}
	report("b2", 1, dbaas.GuestShutdown, true)
	report("b1", 9, dbaas.GuestHealthy, false) // late, of the boot before
	if g := guest(); g.Status != dbaas.GuestShutdown || g.BootID != "b2" {
		t.Errorf("a late report won: %+v", g)
	}
	events, _, err := s.ListEvents(t.Context(), EventFilter{ResourceID: i.ID})
	var told []string
	for _, e := range events {
		told = append(told, e.Message)
	}
	if want := []string{"healthy", "healthy", "crashed", "healthy", "building"}; err != nil || !slices.Equal(told, want) {
		t.Errorf("events %v (%v), want %v: each id once, also those of reports that came late", told, err, want)
	}
	if changed, err := s.RecordReport(t.Context(), ReportRow{GuestID: "nobody", BootID: "b", Sequence: 1}); changed || err != nil {
		t.Errorf("an unknown guest: %t %v", changed, err)
	}
	if err := s.Tx(t.Context(), func(tx *Tx) error { return tx.DeleteInstance(i.ID) }); err != nil {
		t.Fatal(err)
	}
	report("b2", 5, dbaas.GuestHealthy, false)
}

func TestHeartbeats(t *testing.T) { onBoth(t, testHeartbeats) }

func testHeartbeats(t *testing.T, s *Store) {
	beat := func(batch ...dbaas.Heartbeat) {
		t.Helper()
		if err := s.RecordHeartbeats(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	read := func(id string) (h dbaas.Heartbeat) {
		t.Helper()
		if err := s.read.Where("guest_id = ?", id).First(&h).Error; err != nil {
			t.Fatal(err)
		}
		return h
	}
	beat()
	beat(dbaas.Heartbeat{GuestID: "a", BootID: "b1", Sequence: 5, VolumeUsed: 5, VolumeTotal: 10, Metrics: `{"x":1.5,"y":"{\"\\"}`},
		dbaas.Heartbeat{GuestID: "b", BootID: "b1", Sequence: 1 << 62, SeenAt: 1})
	if h := read("a"); h.VolumeUsed != 5 || h.VolumeTotal != 10 || h.Metrics != `{"x":1.5,"y":"{\"\\"}` || h.BootID != "b1" {
		t.Errorf("heartbeat %+v", h)
	}
	now, err := s.Now(t.Context())
	if h := read("b"); err != nil || h.Sequence != 1<<62 || now.Sub(h.SeenAt) > time.Minute || now.Sub(h.SeenAt) < 0 {
		t.Errorf("heartbeat %+v, now %d %v", h, now, err)
	}
	beat(dbaas.Heartbeat{GuestID: "a", BootID: "b1", Sequence: 4, VolumeUsed: 4})
	beat(dbaas.Heartbeat{GuestID: "a", BootID: "b1", Sequence: 5, VolumeUsed: 4})
	if h := read("a"); h.Sequence != 5 || h.VolumeUsed != 5 {
		t.Errorf("an older heartbeat won: %+v", h)
	}
	beat(dbaas.Heartbeat{GuestID: "a", BootID: "b1", Sequence: 7, VolumeUsed: 7}, dbaas.Heartbeat{GuestID: "a", BootID: "b1", Sequence: 6, VolumeUsed: 6})
	if h := read("a"); h.Sequence != 7 {
		t.Errorf("of one batch %+v won", h)
	}
	beat(dbaas.Heartbeat{GuestID: "a", BootID: "b2", Sequence: 1, VolumeUsed: 1})
	if h := read("a"); h.BootID != "b2" || h.Sequence != 1 {
		t.Errorf("a new boot is not seen: %+v", h)
	}
}

func TestHeartbeatBatchesAtOnce(t *testing.T) { onBoth(t, testHeartbeatBatches) }

func testHeartbeatBatches(t *testing.T, s *Store) {
	const guests, rounds = 200, 4
	errs := together(4, func(k int) error {
		for n := 1; n <= rounds; n++ {
			var batch []dbaas.Heartbeat
			for g := range guests {
				at := (g*7 + k*131) % guests // each in an order of its own
				batch = append(batch, dbaas.Heartbeat{GuestID: fmt.Sprintf("g%03d", at), BootID: "b", Sequence: int64(n*10 + k)})
			}
			if err := s.RecordHeartbeats(context.Background(), batch); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "SELECT count(*) FROM heartbeats WHERE sequence = ?", rounds*10+3); n != guests {
		t.Errorf("%d of %d have the highest sequence", n, guests)
	}
}

func TestIdempotency(t *testing.T) { onBoth(t, testIdempotency) }

func testIdempotency(t *testing.T, s *Store) {
	fresh := make([]bool, 16)
	errs := together(len(fresh), func(k int) (err error) {
		_, fresh[k], err = s.BeginIdempotent(context.Background(), "p", "key", "hash", time.Minute)
		return err
	})
	first := 0
	for _, f := range fresh {
		if f {
			first++
		}
	}
	if err := errors.Join(errs...); err != nil || first != 1 {
		t.Fatalf("%d were first, %v", first, err)
	}
	row, isFresh, err := s.BeginIdempotent(t.Context(), "p", "key", "hash", time.Minute)
	if err != nil || isFresh || row.Status != 0 {
		t.Errorf("while the first is at work: %+v %t %v", row, isFresh, err)
	}
	row.Status, row.Header, row.Body = 200, dbaas.JSON(`{"Grove-Operation":["o"]}`), dbaas.JSON(`{"instance":{"id":"i"}}`)
	if err := s.FinishIdempotent(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	again, isFresh, err := s.BeginIdempotent(t.Context(), "p", "key", "hash", time.Minute)
	if err != nil || isFresh || again.Status != 200 || string(again.Body) != string(row.Body) || string(again.Header) != string(row.Header) {
		t.Errorf("the answer is %+v %t %v", again, isFresh, err)
	}
	if _, _, err := s.BeginIdempotent(t.Context(), "p", "key", "other", time.Minute); dbaas.ErrorCode(err) != dbaas.Unprocessable {
		t.Errorf("another request with the key gives %v", err)
	}
	if _, isFresh, err := s.BeginIdempotent(t.Context(), "q", "key", "other", time.Minute); err != nil || !isFresh {
		t.Errorf("the key of another project: %t %v", isFresh, err)
	}
	if err := s.ForgetIdempotent(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	if _, isFresh, err := s.BeginIdempotent(t.Context(), "p", "key", "other", time.Minute); err != nil || !isFresh {
		t.Errorf("a forgotten key: %t %v", isFresh, err)
	}
}

func TestPurge(t *testing.T) { onBoth(t, testPurge) }

func testPurge(t *testing.T, s *Store) {
	seedVersion(t, s)
	live := newInstance(t, s)
	running := operationOn(live, "k")
	do(t, s, func(tx *Tx) error {
		for n := range 25 {
			i, err := insertInstance(tx)
			if err != nil {
				return err
			}
			conf := &dbaas.Configuration{ProjectID: testProject, Name: "c", DatastoreVersionID: testVersion}
			if err := firstError(tx.InsertConfiguration(conf), tx.DeleteConfiguration(conf.ID), tx.DeleteInstance(i.ID),
				tx.InsertEvent(&dbaas.Event{Kind: "k"}), tx.Enqueue(&dbaas.Operation{ID: fmt.Sprint("op", n), Kind: "k"})); err != nil {
				return err
			}
		}
		return tx.Enqueue(running, live.ID)
	})
	for n := range 25 {
		op := claim(t, s, fmt.Sprint("op", n), time.Minute)
		op.Status = dbaas.OperationSucceeded
		mustSave(t, s, op, engine.Save{Ended: true, Step: &dbaas.OperationStep{Step: "s"}})
	}
	if _, _, err := s.BeginIdempotent(t.Context(), "p", "key", "h", time.Minute); err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	for name, r := range map[string]Retention{"for ever": {}, "for a day": {day, day, day, day}} {
		if n, err := s.Purge(t.Context(), r, 10); n != 0 || err != nil {
			t.Errorf("kept %s: %d purged, %v", name, n, err)
		}
	}
	moment := time.Nanosecond * 1000
	n, err := s.Purge(t.Context(), Retention{moment, moment, moment, moment}, 10)
	if want := 25*6 + 1; err != nil || n != want {
		t.Errorf("%d purged (%v), want %d", n, err, want)
	}
	for table, want := range map[string]int{"operations": 1, "operation_steps": 0, "events": 0, "idempotency_keys": 0, "guests": 1,
		"instances": 1, "instance_groups": 1, "configurations": 0, "operation_locks": 1} {
		if n := count(t, s, "SELECT count(*) FROM "+table); n != want {
			t.Errorf("%d rows are left in %s, want %d", n, table, want)
		}
	}
}

func TestPurgeStrayHeartbeats(t *testing.T) { onBoth(t, testPurgeStray) }

func testPurgeStray(t *testing.T, s *Store) {
	seedVersion(t, s)
	newInstance(t, s)
	guests, err := s.LiveGuests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RecordHeartbeats(t.Context(), []dbaas.Heartbeat{{GuestID: guests[0].ID}, {GuestID: "gone"}}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Purge(t.Context(), Retention{}, 10); n != 0 || err != nil {
		t.Errorf("%d fresh heartbeats purged, %v", n, err)
	}
	do(t, s, func(tx *Tx) error { return tx.db.Exec("UPDATE heartbeats SET seen_at = 1").Error })
	if n, err := s.Purge(t.Context(), Retention{}, 10); n != 1 || err != nil || count(t, s, "SELECT count(*) FROM heartbeats") != 1 {
		t.Errorf("%d heartbeats purged, %v", n, err)
	}
}

func TestConfigurations(t *testing.T) { onBoth(t, testConfigurations) }

func testConfigurations(t *testing.T, s *Store) {
	seedVersion(t, s)
	var ids []string
	do(t, s, func(tx *Tx) error {
		for n := range 5 {
			c := &dbaas.Configuration{ProjectID: testProject, Name: fmt.Sprint(n), DatastoreVersionID: testVersion}
			if err := tx.InsertConfiguration(c); err != nil {
				return err
			}
			ids = append(ids, c.ID)
		}
		return nil
	})
	var attached []string
	for range 3 {
		attached = append(attached, newInstance(t, s, func(i *dbaas.Instance) { i.ConfigurationID = ids[1] }).ID)
	}
	gone := newInstance(t, s, func(i *dbaas.Instance) { i.ConfigurationID = ids[1] })
	do(t, s, func(tx *Tx) error {
		if _, err := tx.PutSecret(ids[0], "value:requirepass", []byte("x")); err != nil {
			return err
		}
		c, err := tx.Configuration(ids[1])
		if err != nil {
			return err
		}
		c.Name, c.Values = "renamed", map[string]any{"a": "b"}
		return firstError(tx.UpdateConfiguration(c), tx.DeleteInstance(gone.ID), tx.DeleteConfiguration(ids[0]))
	})
	if n := count(t, s, "SELECT count(*) FROM secrets WHERE owner_id = ?", ids[0]); n != 0 {
		t.Error("a secret outlives its configuration")
	}
	list, more, err := s.ListConfigurations(t.Context(), ConfigurationFilter{ProjectID: testProject, Limit: 2})
	if err != nil || !more || len(list) != 2 || list[0].ID != ids[1] || list[0].Name != "renamed" || list[0].Values["a"] != "b" {
		t.Errorf("first page %+v %t %v", list, more, err)
	}
	list, more, err = s.ListConfigurations(t.Context(), ConfigurationFilter{ProjectID: testProject, Limit: 2, Marker: ids[2]})
	if err != nil || more || len(list) != 2 || list[1].ID != ids[4] {
		t.Errorf("last page %+v %t %v", list, more, err)
	}
	do(t, s, func(tx *Tx) error {
		return tx.InsertConfiguration(&dbaas.Configuration{ProjectID: "other", Name: "theirs", DatastoreVersionID: testVersion})
	})
	for project, want := range map[string]int{"": 5, testProject: 4, "other": 1, "nobody": 0} {
		if list, _, err := s.ListConfigurations(t.Context(), ConfigurationFilter{ProjectID: project}); len(list) != want || err != nil {
			t.Errorf("project %q has %d groups (%v), want %d", project, len(list), err, want)
		}
	}
	page, more, err := s.ConfigurationInstances(t.Context(), ids[1], 2, "")
	if err != nil || !more || len(page) != 2 || page[0].ID != attached[0] {
		t.Errorf("instances %+v %t %v", page, more, err)
	}
	if n, err := s.CountConfigurationInstances(t.Context(), ids[1]); n != 3 || err != nil {
		t.Errorf("%d instances, %v", n, err)
	}
	if _, err := s.Configuration(t.Context(), ids[0]); dbaas.ErrorCode(err) != dbaas.NotFound {
		t.Errorf("a deleted configuration gives %v", err)
	}
	do(t, s, func(tx *Tx) error {
		list, err := tx.ConfigurationInstances(ids[1])
		if len(list) != 3 {
			t.Errorf("%d instances", len(list))
		}
		if err := tx.DeleteConfiguration(ids[0]); dbaas.ErrorCode(err) != dbaas.NotFound {
			t.Errorf("deleted twice: %v", err)
		}
		return err
	})
}

func TestUsage(t *testing.T) { onBoth(t, testUsage) }

func testUsage(t *testing.T, s *Store) {
	seedVersion(t, s)
	newInstance(t, s)
	newInstance(t, s, func(i *dbaas.Instance) { i.FlavorID, i.ClusterID = "2", "c" })
	shrinking := newInstance(t, s, func(i *dbaas.Instance) { i.VolumeSize, i.Applied = 3, &dbaas.Shape{VolumeSize: 10} })
	newInstance(t, s, func(i *dbaas.Instance) { i.FlavorID = "unknown" })
	newInstance(t, s, func(i *dbaas.Instance) { i.ProjectID = "other" })
	gone := newInstance(t, s)
	do(t, s, func(tx *Tx) error {
		return firstError(tx.DeleteInstance(gone.ID), tx.SetQuota(dbaas.Quota{ProjectID: testProject, Resource: "ram", Limit: 5}),
			tx.SetQuota(dbaas.Quota{ProjectID: testProject, Resource: "ram", Limit: 6}))
	})
	check := func(volumes, ram int) {
		t.Helper()
		got, err := s.Usage(t.Context(), testProject, map[string]int{"instances": 7, "volumes": 8, "ram": 9})
		want := []dbaas.Usage{{Resource: "instances", InUse: 4, Limit: 7}, {Resource: "volumes", InUse: volumes, Limit: 8},
			{Resource: "backups", Limit: -1}, {Resource: "ram", InUse: 512 + 1024 + 512, Limit: ram}}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("usage %+v %v, want %+v", got, err, want)
		}
	}
	check(2+2+10+2, 6)
	do(t, s, func(tx *Tx) error {
		shrinking.Applied = nil
		return firstError(tx.UpdateInstance(shrinking), tx.DeleteQuota(testProject, "ram"))
	})
	check(2+2+3+2, 9)
	do(t, s, func(tx *Tx) error {
		got, err := tx.Usage("nobody", nil)
		if len(got) != 4 || got[0].InUse != 0 || got[0].Limit != -1 {
			t.Errorf("usage of nobody %+v", got)
		}
		_, err2 := tx.Catalog("nowhere")
		if dbaas.ErrorCode(err2) != dbaas.NotFound {
			t.Errorf("a missing catalog gives %v", err2)
		}
		c, err3 := tx.Catalog("local")
		if err3 == nil && (len(c.Flavors) != 2 || c.Zones[0] != "nova" || c.UpdatedAt == 0) {
			t.Errorf("catalog %+v", c)
		}
		return firstError(err, err3)
	})
}

// guestOf reads the one guest of an instance.
func guestOf(t *testing.T, s *Store, instanceID string) dbaas.Guest {
	t.Helper()
	v, err := s.InstanceView(t.Context(), instanceID)
	if err != nil {
		t.Fatal(err)
	}
	return v.Guests[0]
}
