package cloudtest

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// owner has an address.
type owner struct {
	f       Fixture
	id      string
	address *cloud.Address
}

func newAddress(t *testing.T, f Fixture) *owner {
	t.Helper()
	o := &owner{f: f, id: uuid.NewString()}
	var err error
	if o.address, err = f.Cloud.EnsureAddress(t.Context(), o.spec()); err != nil {
		t.Fatalf("ensure address: %v", err)
	}
	return o
}

func (o *owner) spec() cloud.AddressSpec {
	return cloud.AddressSpec{OwnerID: o.id, Name: "grove-" + o.id, TCPPorts: o.f.TCPPorts}
}

func (o *owner) destroy(t *testing.T) {
	t.Helper()
	for range 2 {
		o.f.retry(t, "delete address", func() error { return o.f.Cloud.DeleteAddress(context.Background(), o.address.ID) })
	}
	o.f.requireOwned(t, o.id)
}

func (o *owner) point(t *testing.T, portID string, epoch int64) {
	t.Helper()
	o.f.retry(t, "point address", func() error { return o.f.Cloud.PointAddress(t.Context(), o.address.ID, portID, epoch) })
}

func testAddress(t *testing.T, f Fixture) {
	g, a, b := newGuest(f), newAddress(t, f), newAddress(t, f)
	defer g.destroy(t)
	defer a.destroy(t)
	g.ensureNetwork(t)
	if a.address.Address == "" || a.address.Network == "" || a.address.Address == b.address.Address ||
		a.address.ID == b.address.ID || a.address.Address == g.port.Address {
		t.Fatalf("%+v %+v %+v", a.address, b.address, g.port)
	}
	for _, recorded := range []string{"", a.address.ID} {
		spec := a.spec()
		spec.RecordedID = recorded
		if again, err := f.Cloud.EnsureAddress(t.Context(), spec); err != nil || *again != *a.address {
			t.Fatalf("again: %+v, not %+v: %v", again, a.address, err)
		}
	}
	if got, want := owned(t, f, a.id), []string{cloud.KindAddress + " " + a.address.ID}; !slices.Equal(got, want) {
		t.Fatalf("owned %v, want %v", got, want)
	}
	b.destroy(t)
}

// testAddressPublic: a public address comes with its address or later, stays the same, goes when it is not wished for any more, and
// with its address.
func testAddressPublic(t *testing.T, f Fixture) {
	if !f.Public {
		t.Skip("no address of this cloud is public")
	}
	o := owner{f: f, id: uuid.NewString()}
	spec := o.spec()
	ensure := func(public bool) *cloud.Address {
		t.Helper()
		spec.Public = public
		a, err := f.Cloud.EnsureAddress(t.Context(), spec)
		if err != nil || (a.Public != "") != public || a.Public == a.Address {
			t.Fatalf("public %v: %+v, %v", public, a, err)
		}
		o.address, spec.RecordedID = a, a.ID
		return a
	}
	public := func() (n int) {
		for _, r := range owned(t, f, o.id) {
			if strings.HasPrefix(r, cloud.KindPublicAddress+" ") {
				n++
			}
		}
		return n
	}
	first := ensure(true)
	if again := ensure(true); *again != *first || public() != 1 {
		t.Errorf("again: %+v, not %+v; there are %d", again, first, public())
	}
	if private := ensure(false); private.ID != first.ID || private.Address != first.Address || public() != 0 {
		t.Errorf("not public: %+v, before %+v; there are %d", private, first, public())
	}
	if ensure(true); public() != 1 {
		t.Errorf("there are %d", public())
	}
	o.destroy(t)
}

func testAddressWishes(t *testing.T, f Fixture) {
	a, g := newAddress(t, f), newGuest(f)
	defer a.destroy(t)
	defer g.destroy(t)
	g.ensureNetwork(t)
	o := owner{f: f, id: uuid.NewString()}
	for what, nic := range map[string]dbaas.Nic{
		"an address that another has":    {IPAddress: a.address.Address},
		"an address that a guest has":    {IPAddress: g.port.Address},
		"an address of nobody's network": {IPAddress: "203.0.113.9"},
		"a network that is not there":    {NetworkID: uuid.NewString()},
	} {
		spec := o.spec()
		spec.Nic = nic
		_, err := f.Cloud.EnsureAddress(t.Context(), spec)
		refused(t, what, err)
	}
	wish := newGuest(f).portSpec()
	wish.Nic = dbaas.Nic{IPAddress: a.address.Address}
	_, err := f.Cloud.EnsurePort(t.Context(), wish)
	refused(t, "a port with an address that is one already", err)
	if left := owned(t, f, o.id); len(left) > 0 {
		t.Fatalf("refused wishes left %v", left)
	}
}

func testAddressPoints(t *testing.T, f Fixture) {
	g, h, a := newGuest(f), newGuest(f), newAddress(t, f)
	defer a.destroy(t)
	defer h.destroy(t)
	defer g.destroy(t)
	g.ensureNetwork(t)
	h.ensureNetwork(t)
	c, ctx := f.Cloud, t.Context()
	for range 2 {
		a.point(t, g.port.ID, 3)
	}
	refused(t, "a late decision", c.PointAddress(ctx, a.address.ID, h.port.ID, 2), dbaas.Conflict)
	refused(t, "a late decision for the same", c.PointAddress(ctx, a.address.ID, g.port.ID, 2), dbaas.Conflict)
	refused(t, "a port that is not there", c.PointAddress(ctx, a.address.ID, uuid.NewString(), 9), dbaas.NotFound)
	a.point(t, h.port.ID, 3) // the refused ones left no epoch
	a.point(t, h.port.ID, 5) // which is noted though the target is the same
	refused(t, "a late decision", c.PointAddress(ctx, a.address.ID, g.port.ID, 4), dbaas.Conflict)
	a.point(t, "", 5)
	a.point(t, g.port.ID, 6)
	f.retry(t, "delete port", func() error { return c.DeletePort(ctx, g.port.ID) }) // to which it leads
	if again, err := c.EnsureAddress(ctx, a.spec()); err != nil || *again != *a.address {
		t.Fatalf("after all that: %+v, not %+v: %v", again, a.address, err)
	}
}

func testServerPowerOff(t *testing.T, f Fixture) {
	g := newGuest(f).build(t)
	defer g.destroy(t)
	ctx, c, id := t.Context(), f.Cloud, g.server.ID
	for range 2 {
		f.retry(t, "power off", func() error { return c.PowerOffServer(ctx, id) })
		g.await(t, cloud.ServerShutoff)
	}
	if v := g.awaitVolume(t, g.volume.ID, cloud.VolumeInUse); v.ServerID != id {
		t.Fatalf("after power off: %+v", v)
	}
	f.retry(t, "start", func() error { return c.StartServer(ctx, id) })
	g.await(t, cloud.ServerActive)
	if err := c.StopServer(ctx, id); err != nil { // a clean stop is at work
		t.Fatal(err)
	}
	f.retry(t, "power off while it stops", func() error { return c.PowerOffServer(ctx, id) })
	g.await(t, cloud.ServerShutoff)
	f.retry(t, "start", func() error { return c.StartServer(ctx, id) })
	g.await(t, cloud.ServerActive)
}
