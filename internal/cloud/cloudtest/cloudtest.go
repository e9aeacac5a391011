// Package cloudtest is what every cloud.Provider must pass, and a double of one that fails when told.
package cloudtest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Fixture is a cloud to be tested. It is the test's own: what is in it at the end is a leak.
type Fixture struct {
	Cloud cloud.Provider
	// TCPPorts are what the guests' database listens on.
	TCPPorts []int
	// Surplus makes a second resource of that kind with the name and tag of the one given, younger than it, as a request
	// does that arrives late, and gives its id. nil skips the tests that need one.
	Surplus func(t *testing.T, kind, id string) string
	// Public: it has addresses that the world reaches.
	Public bool
	// Patience is how long the cloud may take for anything, 20 s when zero.
	Patience time.Duration
}

// Run runs the suite. New makes a fresh cloud for each test, and cleans up by t.Cleanup.
func Run(t *testing.T, fresh func(t *testing.T) Fixture) {
	for name, test := range map[string]func(t *testing.T, f Fixture){
		"Catalog":           testCatalog,
		"SecurityGroup":     testSecurityGroup,
		"ServerGroup":       testServerGroup,
		"Port":              testPort,
		"PortWishes":        testPortWishes,
		"Volume":            testVolume,
		"VolumeAttachment":  testVolumeAttachment,
		"Server":            testServer,
		"ServerWishes":      testServerWishes,
		"ServerPower":       testServerPower,
		"ServerResize":      testServerResize,
		"ServerPowerOff":    testServerPowerOff,
		"Address":           testAddress,
		"AddressWishes":     testAddressWishes,
		"AddressPoints":     testAddressPoints,
		"AddressPublic":     testAddressPublic,
		"GoneIsGone":        testGoneIsGone,
		"EnsureAtOnce":      testEnsureAtOnce,
		"TwoFound":          testTwoFound,
		"Owned":             testOwned,
		"DeleteWhileAtWork": testDeleteWhileAtWork,
	} {
		t.Run(name, func(t *testing.T) {
			f := fresh(t)
			test(t, f)
			f.requireOwned(t, "")
		})
	}
}

// guest is one guest's resources.
type guest struct {
	f      Fixture
	id     string
	group  string
	port   *cloud.Port
	volume *cloud.Volume
	server *cloud.Server
}

func newGuest(f Fixture) *guest { return &guest{f: f, id: uuid.NewString()} }

// build makes all that a guest needs, in the order of the workflows.
func (g *guest) build(t *testing.T) *guest {
	t.Helper()
	g.ensureNetwork(t)
	var err error
	if g.volume, err = g.f.Cloud.EnsureVolume(t.Context(), g.volumeSpec()); err != nil {
		t.Fatalf("ensure volume: %v", err)
	}
	g.awaitVolume(t, g.volume.ID, cloud.VolumeAvailable)
	if g.server, err = g.f.Cloud.EnsureServer(t.Context(), g.serverSpec(t)); err != nil {
		t.Fatalf("ensure server: %v", err)
	}
	g.await(t, cloud.ServerActive)
	return g
}

func (g *guest) ensureNetwork(t *testing.T) {
	t.Helper()
	var err error
	if g.group, err = g.f.Cloud.EnsureSecurityGroup(t.Context(), g.groupSpec()); err != nil {
		t.Fatalf("ensure security group: %v", err)
	}
	if g.port, err = g.f.Cloud.EnsurePort(t.Context(), g.portSpec()); err != nil {
		t.Fatalf("ensure port: %v", err)
	}
}

func (g *guest) groupSpec() cloud.SecurityGroupSpec {
	return cloud.SecurityGroupSpec{GuestID: g.id, Name: "grove-" + g.id, TCPPorts: g.f.TCPPorts, AllowedCIDRs: []string{"10.0.0.0/8"}}
}

func (g *guest) portSpec() cloud.PortSpec {
	return cloud.PortSpec{GuestID: g.id, Name: "grove-" + g.id, SecurityGroupID: g.group, TCPPorts: g.f.TCPPorts}
}

func (g *guest) volumeSpec() cloud.VolumeSpec {
	return cloud.VolumeSpec{GuestID: g.id, Name: "grove-" + g.id, SizeGB: 1}
}

func (g *guest) serverSpec(t *testing.T) cloud.ServerSpec {
	t.Helper()
	s := cloud.ServerSpec{GuestID: g.id, Name: "grove-" + g.id, FlavorID: flavors(t, g.f)[0], UserData: []byte(`{"guest_id": "` + g.id + `"}`)}
	if g.port != nil {
		s.PortID = g.port.ID
	}
	if g.volume != nil {
		s.VolumeID = g.volume.ID
	}
	return s
}

// destroy deletes the guest in the order of the workflows, each twice.
func (g *guest) destroy(t *testing.T) {
	t.Helper()
	c, ctx := g.f.Cloud, context.Background()
	for range 2 {
		if g.server != nil {
			g.f.retry(t, "delete server", func() error { return c.DeleteServer(ctx, g.server.ID) })
			g.f.eventually(t, "server gone", func() bool {
				_, err := c.Server(ctx, g.server.ID)
				return dbaas.ErrorCode(err) == dbaas.NotFound
			})
		}
		if g.volume != nil {
			g.f.retry(t, "delete volume", func() error { return c.DeleteVolume(ctx, g.volume.ID) })
			g.f.eventually(t, "volume gone", func() bool {
				_, err := c.Volume(ctx, g.volume.ID)
				return dbaas.ErrorCode(err) == dbaas.NotFound
			})
		}
		if g.port != nil {
			g.f.retry(t, "delete port", func() error { return c.DeletePort(ctx, g.port.ID) })
		}
		if g.group != "" {
			g.f.retry(t, "delete security group", func() error { return c.DeleteSecurityGroup(ctx, g.group) })
		}
	}
	g.f.requireOwned(t, g.id)
}

func flavors(t *testing.T, f Fixture) []string {
	t.Helper()
	cat, err := f.Cloud.Catalog(t.Context())
	if err != nil || len(cat.Flavors) < 2 {
		t.Fatalf("catalog with two flavors: %+v %v", cat, err)
	}
	return []string{cat.Flavors[0].ID, cat.Flavors[1].ID}
}

func (g *guest) await(t *testing.T, status cloud.ServerStatus) {
	t.Helper()
	var last *cloud.Server
	defer func() {
		if t.Failed() {
			t.Logf("last seen: %+v", last)
		}
	}()
	g.f.eventually(t, "server "+string(status), func() bool {
		s, err := g.f.Cloud.Server(context.Background(), g.server.ID)
		if err != nil {
			t.Fatalf("look at server: %v", err)
		}
		last = s
		return s.Status == status
	})
	g.server = last
}

func (g *guest) awaitVolume(t *testing.T, id string, status cloud.VolumeStatus) *cloud.Volume {
	t.Helper()
	var v *cloud.Volume
	g.f.eventually(t, "volume "+string(status), func() bool {
		var err error
		if v, err = g.f.Cloud.Volume(context.Background(), id); err != nil {
			t.Fatalf("look at volume: %v", err)
		}
		return v.Status == status
	})
	return v
}

func owned(t *testing.T, f Fixture, guestID string) []string {
	t.Helper()
	all, err := f.Cloud.Owned(context.Background(), guestID)
	if err != nil {
		t.Fatalf("owned: %v", err)
	}
	var out []string
	for _, r := range all {
		if guestID != "" && r.GuestID != guestID {
			t.Errorf("owned by %s: %+v", guestID, r)
		}
		out = append(out, r.Kind+" "+r.ID)
	}
	slices.Sort(out)
	return out
}

// requireOwned waits until there is exactly this: what is deleted may take its time.
func (f Fixture) requireOwned(t *testing.T, ownerID string, want ...string) {
	t.Helper()
	var got []string
	defer func() {
		if t.Failed() {
			t.Logf("there are %v, want %v", got, want)
		}
	}()
	f.eventually(t, "nothing but what is wanted", func() bool {
		got = owned(t, f, ownerID)
		return slices.Equal(got, want)
	})
}

// eventually waits for a condition.
func (f Fixture) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	patience := cmp.Or(f.Patience, 20*time.Second)
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(patience / 4000) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// retry repeats what fails without a code, as the engine does.
func (f Fixture) retry(t *testing.T, what string, do func() error) {
	t.Helper()
	f.eventually(t, what, func() bool {
		err := do()
		if code := dbaas.ErrorCode(err); err != nil && code != dbaas.Internal {
			t.Fatalf("%s: %v", what, err)
		}
		return err == nil
	})
}

// refused checks that a wish is refused for good, with a code and a sentence.
func refused(t *testing.T, what string, err error, codes ...dbaas.Code) {
	t.Helper()
	if len(codes) == 0 {
		codes = []dbaas.Code{dbaas.BadRequest, dbaas.NotFound}
	}
	if err == nil || !slices.Contains(codes, dbaas.ErrorCode(err)) || !strings.HasSuffix(dbaas.ErrorMessage(err), ".") && !strings.HasSuffix(dbaas.ErrorMessage(err), "?") {
		t.Errorf("%s: got %v (%s), want one of %v and a sentence", what, err, dbaas.ErrorCode(err), codes)
	}
}

func testCatalog(t *testing.T, f Fixture) {
	cat, err := f.Cloud.Catalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(cat.Flavors) < 2 || len(cat.VolumeTypes) == 0 || len(cat.Networks) == 0 || len(cat.Zones) == 0 || cat.Region == "" {
		t.Fatalf("%+v", cat)
	}
}

func testSecurityGroup(t *testing.T, f Fixture) {
	g := newGuest(f)
	defer g.destroy(t)
	spec := g.groupSpec()
	first, err := f.Cloud.EnsureSecurityGroup(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	g.group = first
	spec.AllowedCIDRs = []string{"192.0.2.0/24"}
	if again, err := f.Cloud.EnsureSecurityGroup(t.Context(), spec); err != nil || again != first {
		t.Fatalf("with new rules: %s, not %s: %v", again, first, err)
	}
	spec.AllowedCIDRs = []string{"everybody"}
	_, err = f.Cloud.EnsureSecurityGroup(t.Context(), spec)
	refused(t, "a CIDR that is none", err, dbaas.BadRequest)
}

func testServerGroup(t *testing.T, f Fixture) {
	id := uuid.NewString()
	first, err := f.Cloud.EnsureServerGroup(t.Context(), id, "anti-affinity")
	if err != nil || first == "" {
		t.Fatal(first, err)
	}
	if again, err := f.Cloud.EnsureServerGroup(t.Context(), id, "anti-affinity"); err != nil || again != first {
		t.Fatalf("again: %s, not %s: %v", again, first, err)
	}
	f.requireOwned(t, id, cloud.KindServerGroup+" "+first)
	_, err = f.Cloud.EnsureServerGroup(t.Context(), uuid.NewString(), "nearby")
	refused(t, "a policy that is none", err, dbaas.BadRequest)
	for range 2 {
		if err := f.Cloud.DeleteServerGroup(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

func testPort(t *testing.T, f Fixture) {
	g, h := newGuest(f), newGuest(f)
	defer h.destroy(t)
	defer g.destroy(t)
	g.ensureNetwork(t)
	h.ensureNetwork(t)
	if g.port.Address == "" || g.port.Address == h.port.Address || g.port.ID == h.port.ID {
		t.Fatalf("%+v %+v", g.port, h.port)
	}
	for _, recorded := range []string{"", g.port.ID} {
		spec := g.portSpec()
		spec.RecordedID = recorded
		if again, err := f.Cloud.EnsurePort(t.Context(), spec); err != nil || *again != *g.port {
			t.Fatalf("again: %+v, not %+v: %v", again, g.port, err)
		}
	}
}

func testPortWishes(t *testing.T, f Fixture) {
	g, h := newGuest(f), newGuest(f)
	defer h.destroy(t)
	defer g.destroy(t)
	g.ensureNetwork(t)
	wish := h.portSpec()
	wish.Nic = dbaas.Nic{IPAddress: g.port.Address}
	_, err := f.Cloud.EnsurePort(t.Context(), wish)
	refused(t, "an address that another has", err)
	wish.Nic = dbaas.Nic{IPAddress: "203.0.113.9"}
	_, err = f.Cloud.EnsurePort(t.Context(), wish)
	refused(t, "an address of nobody's network", err)
	wish.Nic = dbaas.Nic{NetworkID: uuid.NewString()}
	_, err = f.Cloud.EnsurePort(t.Context(), wish)
	refused(t, "a network that is not there", err)
	if left := owned(t, f, h.id); len(left) > 0 {
		t.Fatalf("refused wishes left %v", left)
	}

	address, network := g.port.Address, g.port.Network
	if err := f.Cloud.DeletePort(t.Context(), g.port.ID); err != nil {
		t.Fatal(err)
	}
	wish.Nic = dbaas.Nic{NetworkID: network, IPAddress: address}
	if h.port, err = f.Cloud.EnsurePort(t.Context(), wish); err != nil || h.port.Address != address || h.port.Network != network {
		t.Fatalf("wanted %s: %+v %v", address, h.port, err)
	}
}

func testVolume(t *testing.T, f Fixture) {
	g := newGuest(f)
	defer g.destroy(t)
	ctx := t.Context()
	spec := g.volumeSpec()
	spec.SizeGB = 0
	_, err := f.Cloud.EnsureVolume(ctx, spec)
	refused(t, "a volume without size", err, dbaas.BadRequest)
	spec = g.volumeSpec()
	spec.Type = "unobtainium"
	_, err = f.Cloud.EnsureVolume(ctx, spec)
	refused(t, "a type that is not there", err)
	if left := owned(t, f, g.id); len(left) > 0 {
		t.Fatalf("refused wishes left %v", left)
	}

	if g.volume, err = f.Cloud.EnsureVolume(ctx, g.volumeSpec()); err != nil {
		t.Fatal(err)
	}
	v := g.awaitVolume(t, g.volume.ID, cloud.VolumeAvailable)
	if v.SizeGB != 1 || v.ServerID != "" {
		t.Fatalf("%+v", v)
	}
	for _, recorded := range []string{"", v.ID} {
		spec = g.volumeSpec()
		spec.RecordedID = recorded
		if again, err := f.Cloud.EnsureVolume(ctx, spec); err != nil || again.ID != v.ID {
			t.Fatalf("again: %+v, not %s: %v", again, v.ID, err)
		}
	}
	for range 2 {
		f.retry(t, "extend", func() error { return f.Cloud.ExtendVolume(ctx, v.ID, 2) })
	}
	if v = g.awaitVolume(t, v.ID, cloud.VolumeAvailable); v.SizeGB != 2 {
		t.Fatalf("extended: %+v", v)
	}
	refused(t, "to shrink", f.Cloud.ExtendVolume(ctx, v.ID, 1), dbaas.BadRequest)
	if again, err := f.Cloud.EnsureVolume(ctx, g.volumeSpec()); err != nil || again.SizeGB != 2 {
		t.Fatalf("ensured with its first size: %+v %v", again, err)
	}
}

func testVolumeAttachment(t *testing.T, f Fixture) {
	g, h := newGuest(f).build(t), newGuest(f).build(t)
	defer h.destroy(t)
	defer g.destroy(t)
	ctx := t.Context()
	v := g.awaitVolume(t, g.volume.ID, cloud.VolumeInUse)
	if v.ServerID != g.server.ID {
		t.Fatalf("attached: %+v", v)
	}
	if err := f.Cloud.AttachVolume(ctx, v.ID, g.server.ID); err != nil {
		t.Fatalf("attach what is attached: %v", err)
	}
	refused(t, "attach to a second server", f.Cloud.AttachVolume(ctx, v.ID, h.server.ID))
	if err := f.Cloud.DeleteVolume(ctx, v.ID); err == nil {
		t.Fatal("an attached volume was deleted")
	}
	f.retry(t, "extend in use", func() error { return f.Cloud.ExtendVolume(ctx, v.ID, 3) })
	if v = g.awaitVolume(t, v.ID, cloud.VolumeInUse); v.SizeGB != 3 {
		t.Fatalf("extended in use: %+v", v)
	}
	f.retry(t, "stop", func() error { return f.Cloud.StopServer(ctx, g.server.ID) })
	g.await(t, cloud.ServerShutoff)
	for range 2 {
		f.retry(t, "detach", func() error { return f.Cloud.DetachVolume(ctx, v.ID, g.server.ID) })
	}
	if v = g.awaitVolume(t, v.ID, cloud.VolumeAvailable); v.ServerID != "" {
		t.Fatalf("detached: %+v", v)
	}
	f.retry(t, "attach", func() error { return f.Cloud.AttachVolume(ctx, v.ID, g.server.ID) })
	g.awaitVolume(t, v.ID, cloud.VolumeInUse)
	f.retry(t, "start", func() error { return f.Cloud.StartServer(ctx, g.server.ID) })
	g.await(t, cloud.ServerActive)

	f.retry(t, "delete server", func() error { return f.Cloud.DeleteServer(ctx, g.server.ID) })
	if v = g.awaitVolume(t, v.ID, cloud.VolumeAvailable); v.ServerID != "" { // it stays when its server goes
		t.Fatalf("its server is gone: %+v", v)
	}
}

func testServer(t *testing.T, f Fixture) {
	g := newGuest(f).build(t)
	defer g.destroy(t)
	s := g.server
	if s.Name != "grove-"+g.id || s.FlavorID != flavors(t, f)[0] || s.HostDown || s.Fault != "" {
		t.Fatalf("%+v", s)
	}
	for _, recorded := range []string{"", s.ID} {
		spec := g.serverSpec(t)
		spec.RecordedID = recorded
		if again, err := f.Cloud.EnsureServer(t.Context(), spec); err != nil || again.ID != s.ID {
			t.Fatalf("again: %+v, not %s: %v", again, s.ID, err)
		}
	}
}

func testServerWishes(t *testing.T, f Fixture) {
	g := newGuest(f)
	defer g.destroy(t)
	g.ensureNetwork(t)
	before := owned(t, f, g.id)
	for what, change := range map[string]func(s *cloud.ServerSpec){
		"a flavor that is not there": func(s *cloud.ServerSpec) { s.FlavorID = "nosuch" },
		"a zone that is not there":   func(s *cloud.ServerSpec) { s.Zone = "nosuch" },
		"a port that is not there":   func(s *cloud.ServerSpec) { s.PortID = uuid.NewString() },
		"a volume that is not there": func(s *cloud.ServerSpec) { s.VolumeID = uuid.NewString() },
	} {
		spec := g.serverSpec(t)
		change(&spec)
		_, err := f.Cloud.EnsureServer(t.Context(), spec)
		refused(t, what, err)
	}
	if after := owned(t, f, g.id); !slices.Equal(before, after) {
		t.Fatalf("refused wishes made %v of %v", after, before)
	}
}

func testServerPower(t *testing.T, f Fixture) {
	g := newGuest(f).build(t)
	defer g.destroy(t)
	ctx, c, id := t.Context(), f.Cloud, g.server.ID
	for range 2 {
		f.retry(t, "stop", func() error { return c.StopServer(ctx, id) })
		g.await(t, cloud.ServerShutoff)
	}
	for range 2 {
		f.retry(t, "start", func() error { return c.StartServer(ctx, id) })
		g.await(t, cloud.ServerActive)
	}
	f.retry(t, "reboot", func() error { return c.RebootServer(ctx, id) })
	g.await(t, cloud.ServerActive)
	spec := g.serverSpec(t)
	spec.UserData = []byte(`{"guest_id": "` + g.id + `", "rebuilt": true}`)
	f.retry(t, "rebuild", func() error { return c.RebuildServer(ctx, id, spec) })
	g.await(t, cloud.ServerActive)
	if v := g.awaitVolume(t, g.volume.ID, cloud.VolumeInUse); v.ServerID != id {
		t.Fatalf("after a rebuild: %+v", v)
	}
	if again, err := c.EnsureServer(ctx, g.serverSpec(t)); err != nil || again.ID != id {
		t.Fatalf("after a rebuild: %+v %v", again, err)
	}
}

func testServerResize(t *testing.T, f Fixture) {
	g := newGuest(f).build(t)
	defer g.destroy(t)
	ctx, c, id := t.Context(), f.Cloud, g.server.ID
	small, large := flavors(t, f)[0], flavors(t, f)[1]
	if err := c.ResizeServer(ctx, id, small); err != nil {
		t.Fatalf("resize to the flavor that it has: %v", err)
	}
	g.await(t, cloud.ServerActive)
	refused(t, "resize to a flavor that is not there", c.ResizeServer(ctx, id, "nosuch"))
	for range 2 { // of what there is nothing to
		f.retry(t, "confirm", func() error { return c.ConfirmResize(ctx, id) })
		f.retry(t, "revert", func() error { return c.RevertResize(ctx, id) })
	}

	resize := func() {
		for range 2 {
			f.retry(t, "resize", func() error { return c.ResizeServer(ctx, id, large) })
		}
		g.await(t, cloud.ServerVerifyResize)
		if g.server.FlavorID != large {
			t.Fatalf("resized: %+v", g.server)
		}
	}
	resize()
	f.retry(t, "revert", func() error { return c.RevertResize(ctx, id) })
	g.await(t, cloud.ServerActive)
	if g.server.FlavorID != small {
		t.Fatalf("reverted: %+v", g.server)
	}
	resize()
	f.retry(t, "confirm", func() error { return c.ConfirmResize(ctx, id) })
	g.await(t, cloud.ServerActive)
	if g.server.FlavorID != large {
		t.Fatalf("confirmed: %+v", g.server)
	}
	f.retry(t, "revert", func() error { return c.RevertResize(ctx, id) })
	g.await(t, cloud.ServerActive)
	if g.server.FlavorID != large {
		t.Fatalf("reverted what was confirmed: %+v", g.server)
	}
}

func testGoneIsGone(t *testing.T, f Fixture) {
	ctx, c := t.Context(), f.Cloud
	id, flavor := uuid.NewString(), flavors(t, f)[0]
	notFound := func(what string, err error) {
		t.Helper()
		refused(t, what, err, dbaas.NotFound)
	}
	_, err := c.Server(ctx, id)
	notFound("server", err)
	_, err = c.Volume(ctx, id)
	notFound("volume", err)
	notFound("resize", c.ResizeServer(ctx, id, flavor))
	notFound("confirm", c.ConfirmResize(ctx, id))
	notFound("revert", c.RevertResize(ctx, id))
	notFound("reboot", c.RebootServer(ctx, id))
	notFound("stop", c.StopServer(ctx, id))
	notFound("power off", c.PowerOffServer(ctx, id))
	notFound("point", c.PointAddress(ctx, id, "", 1))
	notFound("start", c.StartServer(ctx, id))
	notFound("rebuild", c.RebuildServer(ctx, id, cloud.ServerSpec{}))
	notFound("extend", c.ExtendVolume(ctx, id, 2))
	notFound("attach", c.AttachVolume(ctx, id, id))
	_, err = c.Console(ctx, id, 1)
	notFound("console", err)
	for what, err := range map[string]error{
		"detach":                c.DetachVolume(ctx, id, id),
		"delete server":         c.DeleteServer(ctx, id),
		"delete server group":   c.DeleteServerGroup(ctx, id),
		"delete volume":         c.DeleteVolume(ctx, id),
		"delete port":           c.DeletePort(ctx, id),
		"delete security group": c.DeleteSecurityGroup(ctx, id),
		"delete address":        c.DeleteAddress(ctx, id),
	} {
		if err != nil {
			t.Errorf("%s of what is gone: %v", what, err)
		}
	}
}

func testEnsureAtOnce(t *testing.T, f Fixture) {
	g := newGuest(f)
	defer g.destroy(t)
	g.ensureNetwork(t)
	const callers = 8
	var wg sync.WaitGroup
	ids := make([]string, 2*callers)
	errs := make([]error, 2*callers)
	spec := g.serverSpec(t)
	for i := range callers {
		wg.Go(func() {
			v, err := f.Cloud.EnsureVolume(context.Background(), g.volumeSpec())
			if errs[i] = err; err == nil {
				ids[i] = v.ID
			}
		})
		wg.Go(func() {
			s, err := f.Cloud.EnsureServer(context.Background(), spec)
			if errs[callers+i] = err; err == nil {
				ids[callers+i] = s.ID
			}
		})
	}
	wg.Wait()
	// Whoever lost may have seen an error worth a retry, or an id that was swept since; one more call tells the truth.
	for i, err := range errs {
		if code := dbaas.ErrorCode(err); err != nil && code != dbaas.Internal {
			t.Errorf("call %d: %v", i, err)
		}
	}
	f.retry(t, "ensure volume", func() (err error) {
		g.volume, err = f.Cloud.EnsureVolume(t.Context(), g.volumeSpec())
		return err
	})
	f.retry(t, "ensure server", func() (err error) {
		g.server, err = f.Cloud.EnsureServer(t.Context(), spec)
		return err
	})
	g.await(t, cloud.ServerActive)
	t.Logf("the calls gave %v", ids)
	f.requireOwned(t, g.id, cloud.KindPort+" "+g.port.ID, cloud.KindSecurityGroup+" "+g.group,
		cloud.KindServer+" "+g.server.ID, cloud.KindVolume+" "+g.volume.ID)
}

func testTwoFound(t *testing.T, f Fixture) {
	if f.Surplus == nil {
		t.Skip("this cloud cannot be made to have two")
	}
	for _, keepRecorded := range []bool{false, true} {
		t.Run(fmt.Sprintf("Recorded=%v", keepRecorded), func(t *testing.T) {
			g := newGuest(f)
			g.ensureNetwork(t)
			var err error
			if g.volume, err = f.Cloud.EnsureVolume(t.Context(), g.volumeSpec()); err != nil {
				t.Fatal(err)
			}
			defer g.destroy(t)
			keep := func(kind, first string, ensure func(recorded string) (string, error)) string {
				t.Helper()
				second := f.Surplus(t, kind, first)
				want, recorded := first, ""
				if keepRecorded {
					want, recorded = second, second
				}
				for range 2 {
					var got string
					f.retry(t, "ensure "+kind, func() (err error) { got, err = ensure(recorded); return err })
					if got != want {
						t.Fatalf("of %s %s and its younger %s with %q recorded it kept %s", kind, first, second, recorded, got)
					}
				}
				return want
			}
			g.port.ID = keep(cloud.KindPort, g.port.ID, func(recorded string) (string, error) {
				spec := g.portSpec()
				spec.RecordedID = recorded
				p, err := f.Cloud.EnsurePort(t.Context(), spec)
				if err != nil {
					return "", err
				}
				return p.ID, nil
			})
			a := newAddress(t, f)
			a.address.ID = keep(cloud.KindAddress, a.address.ID, func(recorded string) (string, error) {
				spec := a.spec()
				spec.RecordedID = recorded
				found, err := f.Cloud.EnsureAddress(t.Context(), spec)
				if err != nil {
					return "", err
				}
				return found.ID, nil
			})
			a.destroy(t)
			g.volume.ID = keep(cloud.KindVolume, g.volume.ID, func(recorded string) (string, error) {
				spec := g.volumeSpec()
				spec.RecordedID = recorded
				v, err := f.Cloud.EnsureVolume(t.Context(), spec)
				if err != nil {
					return "", err
				}
				return v.ID, nil
			})
			ensureServer := func(recorded string) (string, error) {
				spec := g.serverSpec(t)
				spec.RecordedID = recorded
				s, err := f.Cloud.EnsureServer(t.Context(), spec)
				if err != nil {
					return "", err
				}
				return s.ID, nil
			}
			id, err := ensureServer("")
			if err != nil {
				t.Fatal(err)
			}
			g.server = &cloud.Server{ID: id}
			g.await(t, cloud.ServerActive)
			g.server.ID = keep(cloud.KindServer, id, ensureServer)
			g.await(t, cloud.ServerActive)
			if v := g.awaitVolume(t, g.volume.ID, cloud.VolumeInUse); v.ServerID != g.server.ID {
				t.Fatalf("the volume of the server that was kept: %+v", v)
			}
			f.requireOwned(t, g.id, cloud.KindPort+" "+g.port.ID, cloud.KindSecurityGroup+" "+g.group,
				cloud.KindServer+" "+g.server.ID, cloud.KindVolume+" "+g.volume.ID)
		})
	}
}

func testOwned(t *testing.T, f Fixture) {
	g, h := newGuest(f).build(t), newGuest(f).build(t)
	defer h.destroy(t)
	list := func(g *guest) []string {
		return []string{cloud.KindPort + " " + g.port.ID, cloud.KindSecurityGroup + " " + g.group,
			cloud.KindServer + " " + g.server.ID, cloud.KindVolume + " " + g.volume.ID}
	}
	if got := owned(t, f, g.id); !slices.Equal(got, list(g)) {
		t.Fatalf("owned %v, want %v", got, list(g))
	}
	both := append(list(g), list(h)...)
	slices.Sort(both)
	if got := owned(t, f, ""); !slices.Equal(got, both) {
		t.Fatalf("owned by anyone %v, want %v", got, both)
	}
	if got := owned(t, f, uuid.NewString()); len(got) > 0 {
		t.Fatalf("owned by nobody: %v", got)
	}
	g.destroy(t)
	if got := owned(t, f, ""); !slices.Equal(got, list(h)) {
		t.Fatalf("owned by the one left %v, want %v", got, list(h))
	}
}

func testDeleteWhileAtWork(t *testing.T, f Fixture) {
	ctx, c := t.Context(), f.Cloud
	for what, begin := range map[string]func(g *guest) error{
		"stop":      func(g *guest) error { return c.StopServer(ctx, g.server.ID) },
		"reboot":    func(g *guest) error { return c.RebootServer(ctx, g.server.ID) },
		"resize":    func(g *guest) error { return c.ResizeServer(ctx, g.server.ID, flavors(t, f)[1]) },
		"power off": func(g *guest) error { return c.PowerOffServer(ctx, g.server.ID) },
		"rebuild": func(g *guest) error {
			return c.RebuildServer(ctx, g.server.ID, g.serverSpec(t))
		},
	} {
		t.Run(what, func(t *testing.T) {
			g := newGuest(f).build(t)
			if err := begin(g); err != nil {
				t.Fatal(err)
			}
			g.destroy(t)
		})
	}
}
