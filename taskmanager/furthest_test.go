package taskmanager

import (
	"slices"
	"testing"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Whatever networks a tenant allows, the members of a group reach each other, also on the ports that are theirs alone.
func TestPeersReachEachOther(t *testing.T) {
	one := &subject{instance: &dbaas.Instance{}, guest: &dbaas.Guest{ID: "one"}, group: &dbaas.Group{ID: "group"}}
	spec := accessSpec(one, &datastore.Manifest{TCPPorts: []int{6379}, PeerPorts: []int{16379}}, dbaas.Access{AllowedCIDRs: []string{"203.0.113.0/24"}})
	if spec.PeersID != "group" || !slices.Equal(spec.PeerPorts, []int{16379}) || !slices.Equal(spec.TCPPorts, []int{6379}) ||
		!slices.Equal(spec.AllowedCIDRs, []string{"203.0.113.0/24"}) {
		t.Errorf("the security group is %+v", spec)
	}
}

// The most of the old primary's history goes before more of another one, whose offsets mean nothing here.
func TestWhoIsAhead(t *testing.T) {
	at := func(history string, offset int64) *datastore.Position {
		return &datastore.Position{Replication: datastore.Replication{History: history}, Offset: offset}
	}
	before := at("ours", 100)
	for _, c := range []struct {
		name    string
		a, b    *datastore.Position
		before  *datastore.Position
		isAhead bool
	}{
		{"more of the history", at("ours", 90), at("ours", 80), before, true},
		{"less of the history", at("ours", 80), at("ours", 90), before, false},
		{"the same", at("ours", 90), at("ours", 90), before, false},
		{"less, but of the history", at("ours", 10), at("other", 900), before, true},
		{"more of another history", at("other", 900), at("ours", 10), before, false},
		{"another history, nothing known", at("other", 900), at("ours", 10), nil, false},
		{"more, nothing known", at("ours", 20), at("ours", 10), nil, true},
		{"more of another where nobody has it", at("other", 20), at("other", 10), before, true},
	} {
		if got := ahead(c.a, c.b, c.before); got != c.isAhead {
			t.Errorf("%s: ahead is %t", c.name, got)
		}
	}
	syncing := at("ours", 100)
	syncing.Syncing = true
	if usable(syncing, before, true) || usable(at("", 100), nil, true) || usable(at("other", 100), before, false) || !usable(at("other", 100), before, true) {
		t.Error("usable takes who copies still, has nothing, or has another history, or refuses the last resort")
	}
}
