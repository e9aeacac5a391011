package redis

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// fill writes keys that stay: so many in each of so many slots, for a slot to be met half moved.
func (f *fleet) fill(c *redis.ClusterClient, tags, each int) {
	f.t.Helper()
	for tag := range tags {
		p := c.Pipeline()
		for i := range each {
			p.Set(f.t.Context(), fillKey(tag, i), fillValue(tag, i), 0)
		}
		if _, err := p.Exec(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
	}
}

func fillKey(tag, i int) string { return fmt.Sprintf("{tag%d}:%d", tag, i) }

func fillValue(tag, i int) string { return strings.Repeat(fillKey(tag, i), 3) }

// verify compares the digest of all keys with what was written, and looks for keys that are there twice.
func (f *fleet) verify(c *redis.ClusterClient, tags, each int) {
	f.t.Helper()
	c.ReloadState(f.t.Context()) // who has left is not asked
	missing := 0
	want, got := fnv.New64a(), fnv.New64a()
	for tag := range tags {
		keys := make([]string, each)
		for i := range each {
			keys[i] = fillKey(tag, i)
			want.Write([]byte(fillValue(tag, i)))
		}
		values, err := c.MGet(f.t.Context(), keys...).Result()
		if err != nil {
			f.t.Fatalf("read the keys of %d: %v", tag, err)
		}
		for _, v := range values {
			text, ok := v.(string)
			if !ok {
				missing++
			}
			got.Write([]byte(text))
		}
	}
	if want.Sum64() != got.Sum64() {
		f.t.Errorf("the keys are not those that were written: %d are missing", missing)
	}
	if f.t.Failed() || missing > 0 {
		for _, n := range f.nodes {
			state, _ := n.host.Units.State(f.t.Context(), unit)
			for line := range strings.Lines(state.Output) {
				if strings.Contains(line, "dirty") || strings.Contains(line, "no longer") {
					f.t.Log(n.id, line)
				}
			}
		}
	}
	if n := f.keys(f.t); n != int64(tags*each) {
		f.t.Errorf("the masters have %d keys, want %d", n, tags*each)
	}
}

// interrupt begins to converge, and ends all agents when some slots have moved. It gives the masters of half moved slots.
func (f *fleet) interrupt() (from, to *node) {
	f.t.Helper()
	testbed.Eventually(f.t, 2*time.Minute, func() error {
		p, err := Datastore{}.Converge(f.t.Context(), f.wish, f.members())
		if err != nil || p.Done {
			f.t.Fatalf("no slot was met half moved: %v", err)
		}
		for s := f.look(); s.moves(); s = f.look() {
			if s.halfMoved() >= 0 {
				for _, n := range f.nodes {
					n.newLife(f.t)
				}
			}
		}
		s := f.look()
		owner, _ := s.owners()
		if slot := s.halfMoved(); slot >= 0 && !s.moves() {
			f.t.Logf("of %d open slots, %d has keys at %s and %s", len(s.open()), slot, owner[slot], s.holder(slot))
			from, to = f.node(owner[slot]), f.node(s.holder(slot))
			return nil
		}
		return fmt.Errorf("%s", p.Message)
	})
	return from, to
}

func (f *fleet) look() *survey {
	return look(f.t.Context(), f.wish, f.members(), viewArgs{Strays: true})
}

// halfMoved gives a slot that has keys at two members, -1 when there is none.
func (s *survey) halfMoved() int {
	owner, _ := s.owners()
	for _, slot := range s.open() {
		if s.holder(slot) != "" && owner[slot] != "" {
			return slot
		}
	}
	return -1
}

func (f *fleet) node(id string) *node {
	for _, n := range f.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// kill ends a database as a crash does, when its replica has all that it has.
func (n *node) kill(t testing.TB) {
	t.Helper()
	testbed.Eventually(t, time.Minute, func() error {
		i, err := n.admin(t).info(t.Context())
		if err != nil {
			return err
		}
		if _, offsets := replicas(i); len(offsets) == 0 || slices.Min(offsets) < i.integer("master_repl_offset") {
			return fmt.Errorf("the replicas of %s are at %v of %s", n.id, offsets, i["master_repl_offset"])
		}
		return nil
	})
	awaitWritten(t, n.admin(t))
	if err := n.host.Units.Kill(t.Context(), unit); err != nil {
		t.Fatal(err)
	}
}

func (n *node) start(t testing.TB) {
	t.Helper()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	datastoretest.Await(t, n.Guest, dbaas.GuestHealthy)
}

// awaitSuccessor waits until another member of its shard is master.
func (f *fleet) awaitSuccessor(of *node) {
	f.t.Helper()
	shard, _, _ := strings.Cut(of.id, "-")
	testbed.Eventually(f.t, time.Minute, func() error {
		for guest, v := range f.look().views {
			if strings.HasPrefix(guest, shard+"-") && guest != of.id && v.self().Master && len(v.self().Slots) > 0 {
				return nil
			}
		}
		return fmt.Errorf("nobody has replaced %s", of.id)
	})
}

// TestClusterHeals stops moves in the middle in every way, and finds all keys afterwards.
func TestClusterHeals(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureHealing)
		takesMinutes(t, version)
		const tags, each = 40, 4000
		f := newFleet(t, version, 3, 1)
		c := f.tenant()
		f.fill(c, tags, each)
		f.addShard(3, 1)
		grown := f.wish
		grown.Rebalance = true
		f.leave(3)
		small := f.wish
		round := func(name string, wish datastore.ClusterWish, deed func(from, to *node)) {
			t.Helper()
			t.Log("round:", name)
			f.wish = wish
			deed(f.interrupt())
			f.converge()
			f.verify(c, tags, each)
			if t.Failed() {
				t.FailNow()
			}
		}
		failOver := func(n *node) {
			n.kill(t)
			f.awaitSuccessor(n)
			for range 3 { // what can be done without it
				if _, err := (Datastore{}).Converge(context.Background(), f.wish, f.members()); err != nil {
					t.Errorf("without %s: %v", n.id, err)
				}
			}
			n.start(t)
		}
		restart := func(n *node) {
			n.kill(t)
			n.start(t)
		}
		round("the mover dies", grown, func(_, _ *node) {})
		round("the giver is replaced", small, func(from, _ *node) { failOver(from) })
		round("the receiver is replaced", grown, func(_, to *node) { failOver(to) })
		round("the receiver restarts", small, func(_, to *node) { restart(to) })
		round("the giver restarts", grown, func(from, _ *node) { restart(from) })
	})
}
