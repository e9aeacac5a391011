package taskmanager

import (
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// TestPatienceWithClusters: a cluster gets time to help itself, and one that cannot be healed is left alone for longer each
// time.
func TestPatienceWithClusters(t *testing.T) {
	w, now := newClusterWatch(), time.Unix(0, 0)
	var healed []int // seconds
	for i := range 8 * 15 {
		if w.saw("g", false, false, now.Add(time.Duration(i)*time.Second)) {
			healed = append(healed, i)
		}
	}
	if len(healed) != 3 || healed[0] != 15 || healed[1] != 45 || healed[2] != 105 {
		t.Errorf("a cluster that stays ill is healed at %v seconds", healed)
	}
	later := now.Add(time.Hour)
	if w.saw("g", false, true, later) {
		t.Error("a cluster is healed while something else is done to it")
	}
	if !w.saw("g", false, false, later) {
		t.Error("a cluster that is ill is not healed")
	}
	w.saw("g", true, false, later)
	w.saw("g", false, false, later)
	if w.saw("g", false, false, later.Add(clusterPatience-1)) || !w.saw("g", false, false, later.Add(clusterPatience)) {
		t.Error("one that was well in between is not given the time of the first illness")
	}
}

// TestHalfUpgradedClusterIsNotHealed: nothing but the rest of the upgrade helps a member that cannot follow a newer master.
func TestHalfUpgradedClusterIsNotHealed(t *testing.T) {
	newer, older := &dbaas.Instance{DatastoreVersionID: "8"}, &dbaas.Instance{DatastoreVersionID: "7"}
	c := &clusterSubject{members: []member{
		{instance: newer, guest: &dbaas.Guest{ID: "master"}}, {instance: older, guest: &dbaas.Guest{ID: "behind"}},
		{instance: newer, guest: &dbaas.Guest{ID: "alike"}},
	}}
	look := func(behind, alike, state string, causes ...string) *datastore.Health {
		return &datastore.Health{State: state, Causes: causes, Members: []datastore.MemberHealth{
			{GuestID: "master", Role: datastore.RoleMaster, State: "ok"},
			{GuestID: "behind", Role: datastore.RoleReplica, Master: "master", State: behind},
			{GuestID: "alike", Role: datastore.RoleReplica, Master: "master", State: alike},
		}}
	}
	for name, one := range map[string]struct {
		health *datastore.Health
		want   bool
	}{
		"behind":           {look("degraded", "ok", "degraded", "The member behind is not in step."), true},
		"well":             {look("ok", "ok", "ok"), false},
		"half moved slots": {look("ok", "ok", "degraded", "3 hash slots are half moved."), false},
		"both":             {look("degraded", "ok", "degraded", "not in step", "half moved"), false},
		"another":          {look("degraded", "degraded", "degraded", "not in step", "not in step"), false},
		"silent":           {look("unknown", "ok", "degraded", "silent"), false},
		"slots unserved":   {look("degraded", "ok", "fail", "not in step", "slots"), false},
	} {
		if got := c.halfUpgraded(one.health); got != one.want {
			t.Errorf("%s: half upgraded is %v", name, got)
		}
	}
}
