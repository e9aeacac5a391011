package e2e

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/rbacpolicies"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
)

// TestTenantNetworkOnOpenStack: an instance is on a network of its tenant's, or one that is shared with that, where only that
// network reaches it; on a stranger's it is not. Its agent has an interface on the management network, which nobody reaches.
func TestTenantNetworkOnOpenStack(t *testing.T) {
	cloud := loginDevcloud(t)
	_, alice := cloud.token(t, "dev-alice")
	own, ownSubnet := cloud.makeNetwork(t, alice, "10.61.0.0/24")
	lent, lentSubnet := cloud.makeNetwork(t, cloud.project, "10.62.0.0/24")
	cloud.lend(t, lent, alice)
	foreign, foreignSubnet := cloud.makeNetwork(t, cloud.project, "10.63.0.0/24")
	management, _ := cloud.makeNetwork(t, cloud.project, "10.64.0.0/24")
	cloud.openStack = ", management_network: " + management
	h, admin := cloud.open(t, "127.0.0.1:0")
	offerRedis(admin)

	for _, nic := range []object{{"net-id": foreign}, {"net-id": management}, {"subnet_id": foreignSubnet}} {
		wish := object{"name": "strange", "flavorRef": "1", "volume": object{"size": 1}, "nics": []object{nic}}
		refusal := h.do(http.StatusBadRequest, "POST", "/instances", object{"instance": wish})
		if said := refusal.body.text("badRequest", "message"); !strings.Contains(said, "does not exist") {
			t.Errorf("a network that is not the tenant's, %v: %q", nic, said)
		}
	}
	cloud.requireNothing(t)

	for _, c := range []struct {
		nic           object
		network, cidr string
	}{
		{object{"net-id": own}, own, "10.61.0.0/24"},
		{object{"subnet_id": ownSubnet, "ip_address": "10.61.0.77"}, own, "10.61.0.0/24"},
		{object{"net-id": lent, "subnet_id": lentSubnet}, lent, "10.62.0.0/24"},
	} {
		in := h.create("at home", object{"nics": []object{c.nic}})
		in.awaitWithin(5*time.Minute, "ACTIVE", "HEALTHY")
		if address, wanted := in.show().text("instance", "addresses", 0, "address"), strings.TrimSuffix(c.cidr, "0/24"); !strings.HasPrefix(address, wanted) {
			t.Errorf("its address is %s", address)
		}
		if from := cloud.sources(t); !slices.Equal(from, []string{c.cidr}) {
			t.Errorf("connections are let in from %q, not from %s alone", from, c.cidr)
		}
		for _, p := range cloud.ports(t) {
			if p.NetworkID != c.network {
				t.Errorf("port %s is on network %s", p.Description, p.NetworkID)
			}
		}
		cloud.requireManaged(t, management)
		h.do(http.StatusAccepted, "DELETE", "/instances/"+in.id, nil)
		in.awaitGone()
	}
	if left := cloud.portsOn(t, management); len(left) > 0 {
		t.Errorf("the management network still has %+v", left)
	}
	for _, g := range cloud.securityGroups(t) { // the one of all interfaces there stays; nothing else does
		if err := groups.Delete(t.Context(), cloud.net, g.ID).ExtractErr(); err != nil || g.Description != "grove management" {
			t.Errorf("security group %q: %v", g.Description, err)
		}
	}
	cloud.requireNothing(t)
}

// requireManaged fails unless each server has one port on the management network, which lets nobody in.
func (d *devcloud) requireManaged(t *testing.T, network string) {
	t.Helper()
	found := d.portsOn(t, network)
	if servers := d.servers(t); len(found) != len(servers) || len(found) == 0 {
		t.Errorf("%d servers have %d ports on the management network", len(servers), len(found))
	}
	for _, p := range found {
		for _, id := range p.SecurityGroups {
			g, err := groups.Get(t.Context(), d.net, id).Extract()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range g.Rules {
				if r.Direction == "ingress" {
					t.Errorf("group %s of a management port lets in %+v", g.Name, r)
				}
			}
		}
		if len(p.SecurityGroups) == 0 {
			t.Errorf("management port %s is in no security group", p.ID)
		}
	}
}

// portsOn lists the ports of servers on a network.
func (d *devcloud) portsOn(t *testing.T, network string) []ports.Port {
	t.Helper()
	all := listed(t, ports.List(d.net, ports.ListOpts{NetworkID: network}), ports.ExtractPorts)
	return slices.DeleteFunc(all, func(p ports.Port) bool { return !strings.HasPrefix(p.DeviceOwner, "compute:") })
}

// makeNetwork makes a network of a project that nobody else sees, with one subnet.
func (d *devcloud) makeNetwork(t *testing.T, project, cidr string) (network, subnet string) {
	t.Helper()
	n, err := networks.Create(t.Context(), d.net, networks.CreateOpts{Name: "of-" + t.Name(), ProjectID: project}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		eventually(t, time.Minute, func() error { return networks.Delete(context.Background(), d.net, n.ID).ExtractErr() })
	})
	s, err := subnets.Create(t.Context(), d.net, subnets.CreateOpts{NetworkID: n.ID, CIDR: cidr, IPVersion: 4, ProjectID: project}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	return n.ID, s.ID
}

// lend shares a network with a project.
func (d *devcloud) lend(t *testing.T, network, project string) {
	t.Helper()
	_, err := rbacpolicies.Create(t.Context(), d.net, rbacpolicies.CreateOpts{
		Action: rbacpolicies.ActionAccessShared, ObjectType: "network", ObjectID: network, TargetTenant: project,
	}).Extract()
	if err != nil {
		t.Fatal(err)
	}
}
