package control_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/store"
)

const waitAtMost = 10 * time.Second

// stuck is a transport whose broker takes no message: each cast is held until its context ends.
type stuck struct {
	rpc.Transport
	mu        sync.Mutex
	deadlines map[time.Time]int
}

func (s *stuck) Cast(ctx context.Context, _ *rpc.Envelope) error {
	deadline, _ := ctx.Deadline()
	s.mu.Lock()
	s.deadlines[deadline]++
	s.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// TestBrokerAway: a change is accepted without the broker, which holds up a request once, however many operations it made.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	broker := &stuck{deadlines: map[time.Time]int{}}
	h := newHouse(t, "", func(c *control.Config) { c.Transport = broker })
	group := h.group(nil)
	for range 3 {
		r := wish()
		r.ConfigurationID = group.ID
		created, err := h.CreateInstance(h.ctx(), tenant, r)
		must(t, err)
		h.finish(created.OperationID)
	}
	clear(broker.deadlines)
	operations, err := h.PatchConfiguration(h.ctx(), tenant, group.ID, control.UpdateConfiguration{Values: map[string]any{"hz": 20}})
	if err != nil || len(operations) != 3 || len(broker.deadlines) != 1 {
		t.Errorf("operations %v, %d deadlines, %v", operations, len(broker.deadlines), err)
	}
}

func TestAwait(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	id := h.active()
	op, err := h.RestartInstance(h.ctx(), tenant, id)
	must(t, err)
	if got, err := h.Await(h.ctx(), op, time.Millisecond); err != nil || got == nil || got.Status != dbaas.OperationRunning {
		t.Errorf("too early it is %+v, %v", got, err)
	}
	ended := make(chan *dbaas.Operation, 1)
	go func() {
		got, _ := h.Await(h.ctx(), op, waitAtMost)
		ended <- got
	}()
	h.finish(op)
	if got := <-ended; got == nil || got.Status != dbaas.OperationSucceeded {
		t.Errorf("at its end it is %+v", got)
	}
	if _, err := h.Await(h.ctx(), "00000000-0000-7000-8000-000000000000", waitAtMost); dbaas.ErrorCode(err) != dbaas.NotFound {
		t.Errorf("an unknown operation gave %v", err)
	}
	gone, cancel := context.WithCancel(h.ctx())
	cancel()
	if _, err := h.Await(gone, op, waitAtMost); err == nil {
		t.Error("a caller that has gone gets an answer")
	}
}

// TestOperations are seen and changed by their project and by the administrator alone.
func TestOperations(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	id := h.active()
	op, err := h.RestartInstance(h.ctx(), tenant, id)
	must(t, err)
	_, err = h.Operation(h.ctx(), stranger, op)
	refused(t, err, dbaas.NotFound)
	refused(t, h.CancelOperation(h.ctx(), stranger, op), dbaas.NotFound)
	refused(t, h.RetryOperation(h.ctx(), tenant, "nonsense"), dbaas.NotFound)
	_, _, err = h.Operations(h.ctx(), stranger, store.OperationFilter{ProjectID: "demo"})
	refused(t, err, dbaas.Forbidden)
	_, _, err = h.Events(h.ctx(), stranger, store.EventFilter{ProjectID: "demo"})
	refused(t, err, dbaas.Forbidden)
	_, err = h.Usage(h.ctx(), stranger, "demo")
	refused(t, err, dbaas.Forbidden)
	must(t, h.RetryOperation(h.ctx(), tenant, op))
	must(t, h.CancelOperation(h.ctx(), admin, op))
	if !h.operation(op).Cancel {
		t.Error("the operation is not cancelled")
	}
	h.finish(op)
	refused(t, h.CancelOperation(h.ctx(), tenant, op), dbaas.Unprocessable, "ended")
	refused(t, h.RetryOperation(h.ctx(), tenant, op), dbaas.Unprocessable, "ended")
	list, more, err := h.Operations(h.ctx(), tenant, store.OperationFilter{ProjectID: "demo", Limit: 1})
	if err != nil || !more || len(list) != 1 || list[0].ID != op {
		t.Errorf("the list is %+v, more %t, %v", list, more, err)
	}
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	_, err := h.SetQuotas(h.ctx(), tenant, "demo", map[string]*int{"instances": new(1000)})
	refused(t, err, dbaas.Forbidden)
	_, err = h.SetQuotas(h.ctx(), admin, "demo", map[string]*int{"instances": new(1), "horses": new(1)})
	refused(t, err, dbaas.NotFound, "horses", "volumes")
	_, err = h.SetQuotas(h.ctx(), admin, "demo", map[string]*int{"instances": new(1), "ram": new(-2)})
	refused(t, err, dbaas.BadRequest, "ram")
	set, err := h.SetQuotas(h.ctx(), admin, "demo", map[string]*int{"instances": new(0), "ram": nil})
	if err != nil || len(set) != 1 || set["instances"] != 0 {
		t.Errorf("set %v, %v", set, err)
	}
	usage, err := h.Usage(h.ctx(), tenant, "demo")
	if err != nil || len(usage) != 4 || usage[0].Limit != 0 || usage[1].Limit != 100 || usage[3].Limit != -1 {
		t.Errorf("the usage is %+v, %v", usage, err)
	}
	h.QuotaDefaults()["instances"] = 77
	if h.QuotaDefaults()["instances"] != 10 {
		t.Error("a caller can change the defaults")
	}
}

// TestDatastores: tenants see what is installed; a version that went away is no default any more.
func TestDatastores(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	sync := func(installed ...string) {
		t.Helper()
		must(t, h.SyncDatastores(h.ctx(), func(v datastore.Version) string {
			for _, name := range installed {
				if v.Name == name {
					return v.Number + "1"
				}
			}
			return ""
		}))
	}
	sync("valkey-8.0")
	list, err := h.Datastores(h.ctx(), tenant)
	if err != nil || len(list) != 1 || len(list[0].Versions) != 1 || list[0].Versions[0].Name != "valkey-8.0" || list[0].DefaultVersionID != list[0].Versions[0].ID {
		t.Errorf("tenants see %+v, %v", list, err)
	}
	_, err = h.CreateInstance(h.ctx(), tenant, control.CreateInstance{FlavorID: "1", VolumeSize: 1, Version: "7.0"})
	refused(t, err, dbaas.BadRequest, "not active")
	sync()
	if list, err := h.Datastores(h.ctx(), tenant); err != nil || len(list) != 0 {
		t.Errorf("with nothing installed tenants see %+v, %v", list, err)
	}
	if list, err := h.Datastores(h.ctx(), admin); err != nil || len(list) != 1 || len(list[0].Versions) < 2 {
		t.Errorf("with nothing installed the administrator sees %+v, %v", list, err)
	}
	_, err = h.CreateInstance(h.ctx(), tenant, wish())
	refused(t, err, dbaas.BadRequest, "no version that is active")
	sync("7.0", "valkey-8.0")
	v, err := h.Version(h.ctx(), tenant, "redis", "")
	if err != nil || v.Name != "7.0" || v.Datastore.Name != "redis" {
		t.Errorf("the default is %+v, %v", v, err)
	}
	if byID, err := h.Version(h.ctx(), tenant, "", v.ID); err != nil || byID.ID != v.ID {
		t.Errorf("by its id it is %+v, %v", byID, err)
	}
	_, err = h.Version(h.ctx(), tenant, "", "nonsense")
	refused(t, err, dbaas.NotFound)
	_, err = h.Datastore(h.ctx(), tenant, "oracle")
	refused(t, err, dbaas.NotFound)
}

// TestCatalogUnknown: before the taskmanager has seen the cloud, creates are told to try again.
func TestCatalogUnknown(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", func(c *control.Config) { c.Region = "Elsewhere" })
	_, err := h.CreateInstance(h.ctx(), tenant, wish())
	refused(t, err, dbaas.Unavailable, "try again")
}
