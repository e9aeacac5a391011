package redis

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestClusterMends breaks a cluster in ways that nobody wished for, and makes sure that it heals without a loss.
func TestClusterMends(t *testing.T) {
	t.Parallel()
	const tags, each = 30, 20
	f := newFleet(t, redis70, 3, 1)
	c := f.tenant()
	f.fill(c, tags, each)
	for _, broken := range []struct {
		name string
		deed func(t *testing.T)
	}{
		{"a replica has lost who it is", func(t *testing.T) {
			n := f.nodes[1]
			before := f.nodeID(t, n)
			if err := errors.Join(n.Stop(t.Context()), os.Remove(filepath.Join(n.data, nodesFile))); err != nil {
				t.Fatal(err)
			}
			n.start(t)
			if f.nodeID(t, n) == before {
				t.Fatal("it still knows")
			}
		}},
		{"slots have no owner", func(t *testing.T) {
			n := f.nodes[0]
			owned := f.view(t, n).self().Slots
			for _, slot := range owned[:50] {
				for _, other := range f.nodes { // as if nobody had ever heard of it
					if err := other.admin(t).Do(t.Context(), "cluster", "delslots", slot).Err(); err != nil && !hasPrefix(err, "ERR Slot") {
						t.Fatal(err)
					}
				}
			}
		}},
		{"a slot is with another owner than its keys", func(t *testing.T) {
			from, to := f.nodes[2], f.nodes[4]
			slot := f.fullSlot(t, from)
			if err := from.admin(t).Do(t.Context(), "cluster", "delslots", slot).Err(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(
				to.admin(t).Do(t.Context(), "cluster", "setslot", slot, "node", f.nodeID(t, to)).Err(),
				to.admin(t).Do(t.Context(), "cluster", "bumpepoch").Err(),
			); err != nil {
				t.Fatal(err)
			}
		}},
		{"a mark is left", func(t *testing.T) {
			from, to := f.nodes[0], f.nodes[2]
			slot := f.view(t, from).self().Slots[0]
			if err := errors.Join(
				to.admin(t).Do(t.Context(), "cluster", "setslot", slot, "importing", f.nodeID(t, from)).Err(),
				from.admin(t).Do(t.Context(), "cluster", "setslot", slot, "migrating", f.nodeID(t, to)).Err(),
			); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(broken.name, func(t *testing.T) {
			broken.deed(t)
			f.t = t
			f.converge()
			f.verify(c, tags, each)
			if h := f.health(); h.State != stateOK {
				t.Errorf("the cluster is %+v", h)
			}
			for _, n := range f.nodes {
				if v := f.view(t, n); len(v.Nodes) != len(f.nodes) {
					t.Errorf("%s knows %d nodes", n.id, len(v.Nodes))
				}
			}
		})
	}
}

// fullSlot gives a slot of a master that has keys.
func (f *fleet) fullSlot(t *testing.T, n *node) int {
	t.Helper()
	sizes := new(slotSizes)
	if err := n.Do(t.Context(), actionSizes, nothing{}, sizes); err != nil {
		t.Fatal(err)
	}
	for slot := range sizes.Keys {
		return slot
	}
	t.Fatalf("%s has no keys", n.id)
	return 0
}

// TestClusterFullReceiver: a receiver that has no memory left stops the moves. Of the slot that could not be moved no key is
// lost, though the owner would delete what it still has once somebody else had the slot; with more memory it goes on.
func TestClusterFullReceiver(t *testing.T) {
	t.Parallel()
	const tags, each = 20, 200
	f := newFleet(t, redis70, 3, 0)
	c := f.tenant()
	f.fill(c, tags, each)
	n := f.add(3, datastore.RoleMaster)
	limit := func(bytes int64) {
		t.Helper()
		if err := n.admin(t).configSet(t.Context(), settings{"maxmemory": fmt.Sprint(bytes), "maxmemory-policy": "noeviction"}); err != nil {
			t.Fatal(err)
		}
	}
	limit(f.view(t, n).Memory * 12 / 10) // there is room when it begins
	f.wish.Rebalance = true
	var refused error
	testbed.Eventually(t, time.Minute, func() error {
		_, err := Datastore{}.Converge(t.Context(), f.wish, f.members())
		if refused = err; err == nil {
			return errors.New("nobody has noticed")
		}
		return nil
	})
	if dbaas.ErrorCode(refused) != dbaas.OverLimit {
		t.Errorf("the moves end with %v", refused)
	}
	limit(200 << 20)
	f.converge()
	f.verify(c, tags, each)
	if f.view(t, n).Keys == 0 {
		t.Error("the new master has no keys")
	}
}

// TestClusterPlans: what a wish takes is worked out without touching anything, and refused where it cannot be.
func TestClusterPlans(t *testing.T) {
	t.Parallel()
	const tags, each = 30, 50
	f := newFleet(t, redis70, 3, 0)
	c := f.tenant()
	f.fill(c, tags, each)
	before := f.view(t, f.nodes[0]).self().Slots
	grown := f.wish
	grown.Rebalance = true
	grown.Members = append(slices.Clone(grown.Members), datastore.MemberWish{
		Endpoint: datastore.Endpoint{GuestID: "new"}, ShardID: "new", Role: datastore.RoleMaster, MaxMemory: 512 << 20,
	})
	p, err := Datastore{}.Plan(t.Context(), grown, f.members())
	if err != nil || len(p.Moves) == 0 || p.Bytes == 0 || p.Duration == 0 || p.FreeMemory["new"] < p.Bytes {
		t.Errorf("the plan of a grow is %+v, %v", p, err)
	}
	f.leave(2)
	if _, err := (Datastore{}).Plan(t.Context(), f.wish, f.members()); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("two masters are planned: %v", err)
	}
	if after := f.view(t, f.nodes[0]).self().Slots; !slices.Equal(before, after) {
		t.Error("planning has moved slots")
	}
}

// TestClusterMasterLostItself: a master without a replica that has lost who it is comes back with its slots and its data.
func TestClusterMasterLostItself(t *testing.T) {
	t.Parallel()
	const tags, each = 60, 50
	f := newFleet(t, redis70, 3, 0)
	c := f.tenant()
	f.fill(c, tags, each)
	n := f.nodes[1]
	before := f.nodeID(t, n)
	if err := errors.Join(n.Stop(t.Context()), os.Remove(filepath.Join(n.data, nodesFile))); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	if f.nodeID(t, n) == before {
		t.Fatal("it still knows")
	}
	f.converge()
	f.verify(c, tags, each)
	if h := f.health(); h.State != stateOK {
		t.Errorf("the cluster is %+v", h)
	}
	for _, n := range f.nodes {
		if v := f.view(t, n); len(v.Nodes) != len(f.nodes) {
			t.Errorf("%s knows %d nodes", n.id, len(v.Nodes))
		}
	}
}
