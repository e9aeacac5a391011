package guestagent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func endpoint(id string) datastore.Endpoint {
	return datastore.Endpoint{GuestID: id, Address: "127.0.0.1", Port: 6379}
}

// TestPeersAreReported: what is seen of the others is told when it changes, and not when it does not.
func TestPeersAreReported(t *testing.T) {
	t.Parallel()
	p := &played{}
	p.see(datastore.PeerView{GuestID: "a", Alive: true, Role: datastore.RoleReplica})
	b := play(t, p, func(d *datastore.Desired) { d.Peers = []datastore.Endpoint{endpoint("a"), endpoint("b")} })
	awaitView := func(i int, want datastore.PeerView) datastore.PeerView {
		t.Helper()
		r := b.await(fmt.Sprintf("%+v", want), func(r guest.StatusReport) bool {
			if len(r.Peers) <= i {
				return false
			}
			got := r.Peers[i]
			got.Since, got.UnseenMS, got.SilentMS = 0, 0, 0
			return got == want
		})
		return r.Peers[i]
	}
	replica := datastore.PeerView{GuestID: "a", Alive: true, Role: datastore.RoleReplica}
	first := awaitView(0, replica)
	awaitView(1, datastore.PeerView{GuestID: "b", Cause: causeRefused})

	b.mu.Lock()
	reports := len(b.reports)
	b.mu.Unlock()
	p.mu.Lock()
	probes := p.probes
	p.mu.Unlock()
	testbed.Eventually(t, 30*time.Second, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.probes < probes+8 {
			return fmt.Errorf("%d probes", p.probes-probes)
		}
		return nil
	})
	b.mu.Lock()
	if n := len(b.reports) - reports; n > 0 {
		t.Errorf("unchanged peers were reported %d times", n)
	}
	b.mu.Unlock()
	if again := awaitView(0, replica); again.Since != first.Since || again.Since.IsZero() {
		t.Errorf("the view began at %v, and now at %v", first.Since, again.Since)
	}

	p.see(datastore.PeerView{GuestID: "a", Alive: true, Role: datastore.RoleMaster}, datastore.PeerView{GuestID: "b", Alive: true, Role: datastore.RoleReplica, Cause: "loading"})
	awaitView(0, datastore.PeerView{GuestID: "a", Alive: true, Role: datastore.RoleMaster})
	awaitView(1, datastore.PeerView{GuestID: "b", Alive: true, Role: datastore.RoleReplica, Cause: "loading"})
	p.see(datastore.PeerView{GuestID: "b", Cause: "timeout"})
	awaitView(0, datastore.PeerView{GuestID: "a", Cause: causeRefused})
	awaitView(1, datastore.PeerView{GuestID: "b", Cause: "timeout"})

	b.restart() // knows them still
	awaitView(1, datastore.PeerView{GuestID: "b", Cause: "timeout"})
	d := b.desired()
	if _, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("alone"), Desired: d}); err != nil {
		t.Fatal(err)
	}
	b.await("nobody else", func(r guest.StatusReport) bool { return len(r.Peers) == 0 })
}

// TestPeerIsDead tells which looks make a peer dead.
func TestPeerIsDead(t *testing.T) {
	t.Parallel()
	alive := datastore.PeerView{Alive: true, Role: datastore.RoleMaster}
	refused, timeout := datastore.PeerView{Cause: causeRefused}, datastore.PeerView{Cause: "timeout"}
	type look struct {
		view datastore.PeerView
		took time.Duration
	}
	long := func(v datastore.PeerView) look { return look{v, probeTimeout} }
	for name, c := range map[string]struct {
		looks []look
		after []bool // alive
	}{
		"refused":                  {[]look{{alive, 0}, {refused, 0}, {refused, 0}}, []bool{true, true, false}},
		"refused for a moment":     {[]look{{alive, 0}, {refused, 0}, {alive, 0}, {refused, 0}}, []bool{true, true, true, true}},
		"silent":                   {[]look{{alive, 0}, long(timeout), long(timeout)}, []bool{true, true, false}},
		"silent for a moment":      {[]look{{alive, 0}, long(timeout), {alive, 0}, long(timeout)}, []bool{true, true, true, true}},
		"we were late":             {[]look{{alive, 0}, {timeout, 3 * time.Second}, {timeout, 9 * time.Second}, {timeout, 2 * time.Second}}, []bool{true, true, true, true}},
		"once refused, once not":   {[]look{{alive, 0}, {refused, 0}, long(timeout)}, []bool{true, true, false}},
		"back":                     {[]look{{alive, 0}, {refused, 0}, {refused, 0}, {alive, 0}}, []bool{true, true, false, true}},
		"dead, and we are late":    {[]look{{alive, 0}, {refused, 0}, {refused, 0}, {timeout, time.Minute}}, []bool{true, true, false, false}},
		"the clock jumps backward": {[]look{{alive, 0}, long(timeout), {timeout, -time.Hour}}, []bool{true, true, false}},
	} {
		now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		p := newPeers(now)
		p.name([]datastore.Endpoint{endpoint("a")})
		var after []bool
		for _, l := range c.looks {
			due := p.due()
			if len(due) != 1 || len(p.due()) != 0 {
				t.Fatal("a peer is looked at once at a time")
			}
			started := now.Now()
			now.Advance(l.took)
			p.learn(due[0], l.view, started)
			p.looked(due[0])
			now.Advance(max(0, probeEvery-l.took))
			after = append(after, p.seen()[0].Alive)
		}
		if !slices.Equal(after, c.after) {
			t.Errorf("%s: alive is %v; want %v", name, after, c.after)
		}
	}
}

// TestPeerIsDeadSince tells for how long a peer was not seen, and for how much of that somebody looked in time.
func TestPeerIsDeadSince(t *testing.T) {
	t.Parallel()
	type look struct {
		alive bool
		took  time.Duration // every look begins as soon as it can
		pause time.Duration // after it
	}
	ok, silent, late, pause := look{alive: true}, look{took: probeTimeout}, look{took: longestLook + 1}, look{took: probeTimeout, pause: time.Minute}
	for name, c := range map[string]struct {
		looks          []look
		unseen, silent time.Duration
	}{
		"alive":               {[]look{ok, ok}, 0, 0},
		"silent":              {[]look{ok, silent, silent, silent}, 3 * time.Second, 3 * time.Second},
		"silent, then late":   {[]look{ok, silent, silent, silent, late}, 4500 * time.Millisecond, 0},
		"late in between":     {[]look{ok, silent, silent, late, silent, silent}, 5500 * time.Millisecond, 2 * time.Second},
		"we slept in between": {[]look{ok, silent, silent, pause, silent, silent}, 65 * time.Second, 2 * time.Second},
		"we sleep":            {[]look{ok, silent, silent, pause}, 63 * time.Second, 3*time.Second + longestLook},
		"doubted":             {[]look{ok, silent}, time.Second, 0},
		"never seen":          {[]look{silent, silent}, 0, 2 * time.Second},
		"seen again":          {[]look{ok, silent, silent, ok}, 0, 0},
	} {
		now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		p := newPeers(now)
		p.name([]datastore.Endpoint{endpoint("a")})
		for _, l := range c.looks {
			started := now.Now()
			now.Advance(l.took)
			view := datastore.PeerView{Alive: l.alive, Cause: "timeout"}
			p.learn(p.list[0], view, started)
			now.Advance(l.pause)
		}
		view := p.seen()[0]
		unseen, silent := time.Duration(view.UnseenMS)*time.Millisecond, time.Duration(view.SilentMS)*time.Millisecond
		if unseen != c.unseen || silent != c.silent {
			t.Errorf("%s: unseen for %v, silent for %v; want %v, %v", name, unseen, silent, c.unseen, c.silent)
		}
	}
}

// TestSilentDatabase: that one's own database keeps everybody waiting does not keep back what is seen of the others.
func TestSilentDatabase(t *testing.T) {
	t.Parallel()
	p := &played{}
	b := play(t, p, func(d *datastore.Desired) { d.Peers = []datastore.Endpoint{endpoint("a")} })
	b.await("a dead peer", func(r guest.StatusReport) bool { return len(r.Peers) == 1 && !r.Peers[0].Alive })
	p.silence(true)
	began := time.Now()
	p.see(datastore.PeerView{GuestID: "a", Alive: true, Role: datastore.RoleMaster})
	if r, err := b.client.Status(b.ctx()); err != nil || r.Status.Status != dbaas.GuestBlocked || time.Since(began) > lookTimeout {
		t.Errorf("who asks gets, after %v, %+v, %v", time.Since(began), r, err)
	}
	r := b.await("a living peer", func(r guest.StatusReport) bool { return len(r.Peers) == 1 && r.Peers[0].Alive })
	t.Logf("told after %v, status %s", time.Since(began).Round(time.Millisecond), r.Status.Status)
	if r.Status.Status != dbaas.GuestHealthy {
		t.Error("it was told only after a look at the database")
	}
}
