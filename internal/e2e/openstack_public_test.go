package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"
)

// TestPublicAddressOnOpenStack: access.is_public gives an instance a floating address, at its creation or later, and takes it away;
// only allowed_cidrs say who may connect.
func TestPublicAddressOnOpenStack(t *testing.T) {
	h, admin, cloud := openDevcloud(t)
	offerRedis(admin)
	const office = "198.51.100.0/24"
	in := h.create("public", object{"access": object{"is_public": true, "allowed_cidrs": []string{office}}})
	in.awaitWithin(5*time.Minute, "ACTIVE", "HEALTHY")
	public := func() (list []string) {
		t.Helper()
		shown := in.show()
		for i := 0; shown.at("instance", "addresses", i) != nil; i++ {
			if shown.text("instance", "addresses", i, "type") == "public" {
				list = append(list, shown.text("instance", "addresses", i, "address"))
			}
		}
		return list
	}
	requirePublic := func(many int) {
		t.Helper()
		shown, found := public(), cloud.floating(t)
		if len(shown) != many || len(found) != many {
			t.Fatalf("the API shows %v, Neutron has %v", shown, found)
		}
		if many == 0 {
			return
		}
		if found[0].FloatingIP != shown[0] {
			t.Errorf("the API shows %v, Neutron has %+v", shown, found)
		}
		if private := in.show().text("instance", "addresses", 0, "address"); found[0].FixedIP != private {
			t.Errorf("the floating address leads to %s, the instance's is %s", found[0].FixedIP, private)
		}
	}
	requirePublic(1)
	if from := cloud.sources(t); !slices.Equal(from, []string{office}) {
		t.Errorf("connections are let in from %q", from)
	}
	change := func(access object) {
		t.Helper()
		h.do(http.StatusAccepted, "PUT", "/instances/"+in.id, object{"instance": object{"access": access}})
		in.awaitWithin(2*time.Minute, "ACTIVE", "HEALTHY")
	}
	change(object{"is_public": false})
	requirePublic(0)
	if from := cloud.sources(t); slices.Contains(from, "0.0.0.0/0") || slices.Contains(from, "") || slices.Contains(from, office) {
		t.Errorf("without allowed_cidrs connections are let in from %q", from)
	}
	change(object{"is_public": true})
	requirePublic(1)
	h.do(http.StatusAccepted, "DELETE", "/instances/"+in.id, nil)
	in.awaitGone()
	cloud.requireNothing(t)
}

// sources lists from where Grove's security groups let the database's port be reached.
func (d *devcloud) sources(t *testing.T) (from []string) {
	t.Helper()
	for _, g := range d.securityGroups(t) {
		found := listed(t, rules.List(d.net, rules.ListOpts{SecGroupID: g.ID, Direction: "ingress"}), rules.ExtractRules)
		for _, r := range found {
			if r.PortRangeMin == 6379 && r.RemoteGroupID == "" {
				from = append(from, fmt.Sprint(r.RemoteIPPrefix))
			}
		}
	}
	slices.Sort(from)
	return slices.Compact(from)
}

// floating lists Grove's floating addresses.
func (d *devcloud) floating(t testing.TB) []floatingips.FloatingIP {
	t.Helper()
	return listed(t, floatingips.List(d.net, floatingips.ListOpts{ProjectID: d.project}), floatingips.ExtractFloatingIPs)
}
