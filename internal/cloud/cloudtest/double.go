package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Double is a cloud in memory that fails when told. Every method is made of wire calls ("list_servers",
// "create_server", …), and it is those that faults hit and that are counted. It is safe for concurrent use.
type Double struct {
	// OnServer, when set, is told whenever a server begins or ceases to run. It is called without a lock held.
	OnServer func(spec cloud.ServerSpec, running bool)
	// Offers is the catalog; NewDouble fills it.
	Offers dbaas.Catalog

	mu       sync.Mutex
	made     int // resources, for ids
	servers  map[string]*doubleServer
	groups   map[string]*doubleGroup
	volumes  map[string]*doubleVolume
	ports    map[string]*doublePort
	security map[string]*doubleSecurity
	address  map[string]*doubleAddress

	calls   map[string]int // by name; "" is all
	effects map[string]int
	faults  []*armed
	late    []func()
	scripts map[string][]cloud.ServerStatus
	notes   []note
}

var _ cloud.Provider = (*Double)(nil)

type doubleServer struct {
	cloud.Server
	spec    cloud.ServerSpec
	old     string // flavor before a resize
	running bool
	script  []cloud.ServerStatus // shown next
}

type doubleVolume struct {
	cloud.Volume
	spec cloud.VolumeSpec
}

type doublePort struct {
	cloud.Port
	spec cloud.PortSpec
}

type doubleSecurity struct {
	spec cloud.SecurityGroupSpec
}

type doubleAddress struct {
	cloud.Address
	spec     cloud.AddressSpec
	publicID string
	portID   string
	epoch    int64
}

type doubleGroup struct {
	groupID string
}

type note struct {
	spec    cloud.ServerSpec
	running bool
}

// NewDouble makes an empty cloud with two flavors, a volume type, a network and a zone.
func NewDouble() *Double {
	return &Double{
		Offers: dbaas.Catalog{Region: "double",
			Flavors:     []dbaas.Flavor{{ID: "1", Name: "small", RAM: 512, VCPUs: 1}, {ID: "2", Name: "large", RAM: 1024, VCPUs: 2}},
			VolumeTypes: []dbaas.VolumeType{{ID: "plain", Name: "plain", IsPublic: true}},
			Networks:    []dbaas.Network{{ID: "net", Name: "net", CIDR: "10.99.0.0/16"}},
			Zones:       []string{"nova"}},
		servers: map[string]*doubleServer{}, groups: map[string]*doubleGroup{}, volumes: map[string]*doubleVolume{},
		ports: map[string]*doublePort{}, security: map[string]*doubleSecurity{}, address: map[string]*doubleAddress{},
		calls: map[string]int{}, effects: map[string]int{}, scripts: map[string][]cloud.ServerStatus{},
	}
}

// Mode is how a wire call goes wrong.
type Mode string

// The ways in which a wire call goes wrong.
const (
	// Fail fails the call before it has any effect.
	Fail Mode = "fail"
	// DropReply lets the call have its effect, and loses the reply.
	DropReply Mode = "drop reply"
	// Late times the call out; it has its effect when Arrive is called.
	Late Mode = "late"
	// Hang does nothing until the caller's context ends.
	Hang Mode = "hang"
)

// Fault makes wire calls go wrong.
type Fault struct {
	Call  string // a wire call's name; "" is any
	Nth   int    // which one from now on goes wrong, from 1; 0 is the next
	Times int    // how many from there on; 0 is one, -1 all
	Mode  Mode
	Err   error // what Fail answers; nil: an error worth a retry
}

type armed struct {
	Fault
	seen int
}

// ErrWire is what a call that went wrong answers.
var ErrWire = errors.New("the cloud did not answer")

// Inject arms a fault.
func (d *Double) Inject(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f.Nth, f.Times = max(f.Nth, 1), cmpOr(f.Times, 1)
	d.faults = append(d.faults, &armed{Fault: f})
}

func cmpOr(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// Heal disarms all faults.
func (d *Double) Heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = nil
}

// Arrive lets the requests that were late have their effects, and tells how many there were.
func (d *Double) Arrive() int {
	d.mu.Lock()
	defer d.unlock()
	n := len(d.late)
	for _, effect := range d.late {
		effect()
	}
	d.late = nil
	return n
}

// Show makes the next server that a wire call ("create_server", "resize_server", …) affects show these statuses first,
// one at each look. One that ends in ERROR stays so.
func (d *Double) Show(call string, statuses ...cloud.ServerStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.scripts[call] = statuses
}

// Break puts a server into ERROR, with a fault for operators; hostDown says that its machine is dead.
func (d *Double) Break(serverID, fault string, hostDown bool) {
	d.mu.Lock()
	defer d.unlock()
	if s, ok := d.servers[serverID]; ok {
		s.Status, s.Fault, s.HostDown = cloud.ServerError, fault, hostDown
		d.power(s, false)
	}
}

// Calls tells how many wire calls of a name there were, "" of all.
func (d *Double) Calls(call string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[call]
}

// Effects tells how often each wire call changed something.
func (d *Double) Effects() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.effects)
}

// Duplicate makes a second resource like the one given but younger, as a late request does, and gives its id.
func (d *Double) Duplicate(kind, id string) string {
	d.mu.Lock()
	defer d.unlock()
	second := d.nextID()
	switch kind {
	case cloud.KindServer:
		s := *d.servers[id]
		s.ID, s.running = second, false
		s.spec.VolumeID = ""
		d.servers[second] = &s
		d.power(&s, true)
	case cloud.KindVolume:
		v := *d.volumes[id]
		v.ID, v.ServerID, v.Status = second, "", cloud.VolumeAvailable
		d.volumes[second] = &v
	case cloud.KindPort:
		p := *d.ports[id]
		p.ID = second
		d.ports[second] = &p
	case cloud.KindSecurityGroup:
		g := *d.security[id]
		d.security[second] = &g
	case cloud.KindAddress:
		a := *d.address[id]
		a.ID = second
		d.address[second] = &a
	}
	return second
}

// wire makes a wire call. Effect does what the far side does, and tells whether it changed anything. It is called with
// d.mu held.
func (d *Double) wire(ctx context.Context, call string, effect func() (changed bool, err error)) error {
	d.calls[call]++
	d.calls[""]++
	do := func() error {
		changed, err := effect()
		if changed && err == nil {
			d.effects[call]++
		}
		return err
	}
	f := d.hit(call)
	if f == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		return do()
	}
	switch f.Mode {
	case DropReply:
		_ = do()
	case Late:
		d.late = append(d.late, func() { _ = do() })
	case Hang:
		d.mu.Unlock()
		<-ctx.Done()
		d.mu.Lock()
		return ctx.Err()
	default:
		if f.Err != nil {
			return f.Err
		}
	}
	return fmt.Errorf("%s: %w", call, ErrWire)
}

// hit finds the fault that a call meets.
func (d *Double) hit(call string) *armed {
	var hit *armed
	for _, f := range d.faults {
		if f.Call != "" && f.Call != call {
			continue
		}
		f.seen++
		if hit == nil && f.seen >= f.Nth && (f.Times < 0 || f.seen < f.Nth+f.Times) {
			hit = f
		}
	}
	return hit
}

// unlock releases the lock and tells OnServer what happened under it.
func (d *Double) unlock() {
	notes, tell := d.notes, d.OnServer
	d.notes = nil
	d.mu.Unlock()
	if tell == nil {
		return
	}
	for _, n := range notes {
		tell(n.spec, n.running)
	}
}

// power notes that a server runs or not.
func (d *Double) power(s *doubleServer, on bool) {
	if s.running != on {
		s.running = on
		d.notes = append(d.notes, note{spec: s.spec, running: on})
	}
}

// nextID makes ids that sort by age.
func (d *Double) nextID() string {
	d.made++
	return fmt.Sprintf("%08x-0000-7000-8000-000000000000", d.made)
}

// Catalog tells what is on offer.
func (d *Double) Catalog(ctx context.Context) (*dbaas.Catalog, error) {
	d.mu.Lock()
	defer d.unlock()
	cat := d.Offers
	return &cat, d.wire(ctx, "catalog", func() (bool, error) { return false, nil })
}

// Console says which server it is of.
func (d *Double) Console(ctx context.Context, id string, _ int) (text string, err error) {
	d.mu.Lock()
	defer d.unlock()
	err = d.wire(ctx, "console", func() (bool, error) {
		if d.servers[id] == nil {
			return false, dbaas.Errorf(dbaas.NotFound, "There is no server %s.", id)
		}
		text = "the console of " + id
		return false, nil
	})
	return text, err
}

// Owned lists all that carries a tag.
func (d *Double) Owned(ctx context.Context, guestID string) ([]cloud.Resource, error) {
	d.mu.Lock()
	defer d.unlock()
	var all []cloud.Resource
	add := func(kind, id, guest string) {
		if guestID == "" || guest == guestID {
			all = append(all, cloud.Resource{Kind: kind, ID: id, GuestID: guest})
		}
	}
	err := d.wire(ctx, "list_owned", func() (bool, error) {
		for _, id := range sorted(d.servers) {
			add(cloud.KindServer, id, d.servers[id].spec.GuestID)
		}
		for _, id := range sorted(d.volumes) {
			add(cloud.KindVolume, id, d.volumes[id].spec.GuestID)
		}
		for _, id := range sorted(d.ports) {
			add(cloud.KindPort, id, d.ports[id].spec.GuestID)
		}
		for _, id := range sorted(d.security) {
			add(cloud.KindSecurityGroup, id, d.security[id].spec.GuestID)
			if n := len(all); n > 0 && all[n-1].ID == id {
				all[n-1].Surplus = d.surplus(id)
			}
		}
		for _, id := range sorted(d.address) {
			add(cloud.KindAddress, id, d.address[id].spec.OwnerID)
			if public := d.address[id].publicID; public != "" {
				add(cloud.KindPublicAddress, public, d.address[id].spec.OwnerID)
			}
		}
		for _, id := range sorted(d.groups) {
			add(cloud.KindServerGroup, id, d.groups[id].groupID)
		}
		return false, nil
	})
	return all, err
}

// surplus tells that a guest's port is in another of its security groups.
func (d *Double) surplus(group string) bool {
	for _, p := range d.ports {
		if used := p.spec.SecurityGroupID; p.spec.GuestID == d.security[group].spec.GuestID && used != "" && used != group {
			return true
		}
	}
	return false
}

// sorted lists ids from the oldest on, for they count up.
func sorted[T any](rows map[string]T) []string { return slices.Sorted(maps.Keys(rows)) }

// ensure is what every Ensure does: it lists, keeps the one recorded, else the oldest, deletes the others, and creates
// when there is none.
func (d *Double) ensure(ctx context.Context, noun, recordedID string, find func() []string, remove func(ctx context.Context, id string) error, create func() error) (string, error) {
	var ids []string
	list := func() (bool, error) { ids = find(); return false, nil }
	if err := d.wire(ctx, "list_"+plural(noun), list); err != nil {
		return "", err
	}
	if len(ids) == 0 {
		if err := d.wire(ctx, "create_"+noun, func() (bool, error) { return true, create() }); err != nil {
			return "", err
		}
		ids = find()
		return ids[len(ids)-1], nil // the reply names the one just made
	}
	keep := ids[0]
	if slices.Contains(ids, recordedID) {
		keep = recordedID
	}
	for _, id := range ids {
		if id == keep {
			continue
		}
		if err := remove(ctx, id); err != nil {
			return "", err
		}
	}
	return keep, nil
}

func plural(noun string) string {
	if noun == "address" {
		return "addresses"
	}
	return noun + "s"
}

// EnsureSecurityGroup makes a security group, or sets its rules.
func (d *Double) EnsureSecurityGroup(ctx context.Context, s cloud.SecurityGroupSpec) (string, error) {
	for _, cidr := range s.AllowedCIDRs {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			return "", dbaas.Errorf(dbaas.BadRequest, "%q is not a network in CIDR notation.", cidr)
		}
	}
	d.mu.Lock()
	defer d.unlock()
	find := func() []string {
		return matching(d.security, func(g *doubleSecurity) bool { return g.spec.GuestID == s.GuestID && g.spec.Name == s.Name })
	}
	id, err := d.ensure(ctx, "security_group", "", find, d.deleteSecurityGroup, func() error {
		id := d.nextID()
		d.security[id] = &doubleSecurity{spec: s}
		return nil
	})
	if err != nil || sameRules(d.security[id].spec, s) {
		return id, err
	}
	return id, d.wire(ctx, "update_security_group", func() (bool, error) { d.security[id].spec = s; return true, nil })
}

func sameRules(a, b cloud.SecurityGroupSpec) bool {
	return slices.Equal(a.TCPPorts, b.TCPPorts) && slices.Equal(a.AllowedCIDRs, b.AllowedCIDRs)
}

// matching lists the ids of the rows that match, the oldest first.
func matching[T any](rows map[string]T, match func(T) bool) []string {
	return slices.DeleteFunc(sorted(rows), func(id string) bool { return !match(rows[id]) })
}

// DeleteSecurityGroup deletes a security group.
func (d *Double) DeleteSecurityGroup(ctx context.Context, id string) error {
	d.mu.Lock()
	defer d.unlock()
	return d.deleteSecurityGroup(ctx, id)
}

func (d *Double) deleteSecurityGroup(ctx context.Context, id string) error {
	return d.wire(ctx, "delete_security_group", func() (bool, error) { return drop(d.security, id), nil })
}

// drop removes a row and tells whether there was one.
func drop[T any](rows map[string]T, id string) bool {
	_, ok := rows[id]
	delete(rows, id)
	return ok
}

// EnsurePort makes a port.
func (d *Double) EnsurePort(ctx context.Context, s cloud.PortSpec) (*cloud.Port, error) {
	d.mu.Lock()
	defer d.unlock()
	find := func() []string {
		return matching(d.ports, func(p *doublePort) bool { return p.spec.GuestID == s.GuestID && p.spec.Name == s.Name })
	}
	id, err := d.ensure(ctx, "port", s.RecordedID, find, d.deletePort, func() error { return d.createPort(s) })
	if err != nil {
		return nil, err
	}
	p := d.ports[id].Port
	return &p, nil
}

func (d *Double) createPort(s cloud.PortSpec) error {
	network, address, err := d.choose(s.Nic)
	if err != nil {
		return err
	}
	id := d.nextID()
	d.ports[id] = &doublePort{Port: cloud.Port{ID: id, Address: address, Network: network}, spec: s}
	return nil
}

// choose chooses an address that nobody has.
func (d *Double) choose(nic dbaas.Nic) (network, address string, err error) {
	at := slices.IndexFunc(d.Offers.Networks, func(n dbaas.Network) bool { return nic.NetworkID == "" || nic.NetworkID == n.ID })
	if at < 0 {
		return "", "", dbaas.Errorf(dbaas.BadRequest, "There is no network %q.", nic.NetworkID)
	}
	n := d.Offers.Networks[at]
	prefix, err := netip.ParsePrefix(n.CIDR)
	if err != nil {
		return "", "", fmt.Errorf("double's network: %w", err)
	}
	taken := map[string]bool{}
	for _, p := range d.ports {
		taken[p.Address] = true
	}
	for _, a := range d.address {
		taken[a.Address.Address] = true
	}
	address = nic.IPAddress
	if address == "" {
		a := prefix.Masked().Addr().Next()
		for ; prefix.Contains(a) && taken[a.String()]; a = a.Next() {
		}
		address = a.String()
	}
	if a, err := netip.ParseAddr(address); err != nil || !prefix.Contains(a) || taken[address] {
		return "", "", dbaas.Errorf(dbaas.BadRequest, "Address %s of network %s is not to be had.", address, n.Name)
	}
	return n.ID, address, nil
}

// DeletePort deletes a port.
func (d *Double) DeletePort(ctx context.Context, id string) error {
	d.mu.Lock()
	defer d.unlock()
	return d.deletePort(ctx, id)
}

func (d *Double) deletePort(ctx context.Context, id string) error {
	return d.wire(ctx, "delete_port", func() (bool, error) {
		for _, a := range d.address {
			if a.portID == id {
				a.portID = ""
			}
		}
		return drop(d.ports, id), nil
	})
}

// EnsureServerGroup makes a server group.
func (d *Double) EnsureServerGroup(ctx context.Context, groupID, policy string) (string, error) {
	if !slices.Contains([]string{"affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"}, policy) {
		return "", dbaas.Errorf(dbaas.BadRequest, "There is no locality %q.", policy)
	}
	d.mu.Lock()
	defer d.unlock()
	remove := func(context.Context, string) error { return nil }
	return d.ensure(ctx, "server_group", "", func() []string { return d.serverGroups(groupID) }, remove, func() error {
		id := d.nextID()
		d.groups[id] = &doubleGroup{groupID: groupID}
		return nil
	})
}

func (d *Double) serverGroups(groupID string) []string {
	return matching(d.groups, func(g *doubleGroup) bool { return g.groupID == groupID })
}

// DeleteServerGroup deletes a server group.
func (d *Double) DeleteServerGroup(ctx context.Context, groupID string) error {
	d.mu.Lock()
	defer d.unlock()
	return d.wire(ctx, "delete_server_group", func() (bool, error) {
		ids := d.serverGroups(groupID)
		for _, id := range ids {
			delete(d.groups, id)
		}
		return len(ids) > 0, nil
	})
}
