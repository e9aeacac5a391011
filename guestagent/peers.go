package guestagent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

const (
	probeEvery   = 500 * time.Millisecond
	probeTimeout = time.Second
	// probeAgain after a refusal: a second one soon after makes sure.
	probeAgain = 200 * time.Millisecond
	// causeRefused is the one cause that is an answer: the peer's machine says that nothing listens.
	causeRefused = "refused"
	// deadAfterRefusals in a row, which come at once, or after silence of deadAfter, a peer counts as dead. One failed look
	// does not: who waits for the CPU looks the same.
	deadAfterRefusals = 2
	deadAfter         = 1500 * time.Millisecond
	// lateTimeout is how much later than due a timeout may end and still say something of the peer: beyond that it was we
	// who did not get the CPU.
	lateTimeout = 500 * time.Millisecond
	// longestLook is how long a look takes that says something.
	longestLook = probeTimeout + lateTimeout
)

// peers is how this guest sees the others of its group. It is safe for concurrent use.
type peers struct {
	clock clock.Clock
	mu    sync.Mutex // guards the fields below
	list  []*peer    // in the order in which they were named
}

// peer is one of the others.
type peer struct {
	datastore.Endpoint
	probing  bool                // a look is on its way
	view     *datastore.PeerView // nil: not known yet
	failures int                 // in a row
	refusals int                 // in a row
	failing  time.Time           // when the first of the failures began
	aliveAt  time.Time           // when it was last seen alive
	silent   time.Time           // when the first of those failures began after which no look was late
	lookedAt time.Time           // when the last look ended
}

func newPeers(c clock.Clock) *peers { return &peers{clock: c} }

// name says who the others are; what is known of those that stay is kept.
func (p *peers) name(list []datastore.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.EqualFunc(p.list, list, func(known *peer, e datastore.Endpoint) bool { return known.Endpoint == e }) {
		return
	}
	var next []*peer
	for _, e := range list {
		if i := slices.IndexFunc(p.list, func(known *peer) bool { return known.Endpoint == e }); i >= 0 {
			next = append(next, p.list[i])
		} else {
			next = append(next, &peer{Endpoint: e})
		}
	}
	p.list = next
}

// due gives those that are to be looked at now: all but those that are being looked at still.
func (p *peers) due() []*peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	var due []*peer
	for _, one := range p.list {
		if !one.probing {
			one.probing = true
			due = append(due, one)
		}
	}
	return due
}

// seen gives what is known, nil when nothing is.
func (p *peers) seen() []datastore.PeerView {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	var views []datastore.PeerView
	for _, one := range p.list {
		if one.view != nil {
			views = append(views, one.timed(now))
		}
	}
	return views
}

// timed is the view with how long it has been so.
func (one *peer) timed(now time.Time) datastore.PeerView {
	view := *one.view
	if !one.aliveAt.IsZero() {
		view.UnseenMS = max(now.Sub(one.aliveAt), 0).Milliseconds()
	}
	if !view.Alive && !one.silent.IsZero() {
		now = earlier(now, one.lookedAt.Add(longestLook)) // nobody looked since
		view.SilentMS = max(now.Sub(one.silent), 0).Milliseconds()
	}
	return view
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// looked says that a look at a peer is over.
func (p *peers) looked(one *peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one.probing = false
}

// doubted tells whether a peer has refused for the first time.
func (p *peers) doubted(one *peer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return one.refusals > 0 && one.refusals < deadAfterRefusals
}

// learn notes what a look at a peer showed that began at started, and tells whether that is news.
func (p *peers) learn(one *peer, view datastore.PeerView, started time.Time) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	view.GuestID, view.Since = one.GuestID, dbaas.At(now)
	one.time(view, started, now)
	if !view.Alive && !one.dead(view, started, now) {
		return false
	}
	if view.Alive {
		one.failures, one.refusals = 0, 0
	} else {
		view.Role = ""
		view.Since = dbaas.At(one.failing)
	}
	last := one.view
	one.view = &view
	if last == nil || last.Alive != view.Alive || last.Role != view.Role || view.Alive && last.Cause != view.Cause {
		return true
	}
	one.view.Since = last.Since
	return false
}

// time notes when the peer was seen, and since when it is not: without a pause in which nobody looked, or was late to.
func (one *peer) time(view datastore.PeerView, started, now time.Time) {
	gap := started.Sub(one.lookedAt) > longestLook
	one.lookedAt = now
	switch {
	case view.Alive:
		one.aliveAt, one.silent = now, time.Time{}
	case late(view, started, now):
		one.silent = time.Time{}
	case one.silent.IsZero() || gap:
		one.silent = started
	}
}

// late tells whether a look failed that says nothing of the peer.
func late(view datastore.PeerView, started, now time.Time) bool {
	return view.Cause != causeRefused && now.Sub(started) > longestLook
}

// dead notes a failed look, and tells whether the peer counts as dead.
func (one *peer) dead(view datastore.PeerView, started, now time.Time) bool {
	if late(view, started, now) {
		return one.view != nil && !one.view.Alive // we were late; it says nothing
	}
	if one.failures == 0 {
		one.failing = started
	}
	one.failures++
	if view.Cause == causeRefused {
		one.refusals++
	} else {
		one.refusals = 0
	}
	silence := now.Sub(one.failing)
	return one.refusals >= deadAfterRefusals || one.failures > 1 && (silence >= deadAfter || silence < 0)
}

// lookAtPeers looks at the others of the group until ctx ends. Of a datastore that cannot do that nobody is seen.
func (a *Agent) lookAtPeers(ctx context.Context) {
	driver, ok := a.driver.(datastore.Replica)
	if !ok {
		return
	}
	var looks sync.WaitGroup
	defer looks.Wait()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		a.peers.name(a.memory.get().Desired.Peers)
		for _, one := range a.peers.due() {
			looks.Go(func() {
				defer a.peers.looked(one)
				a.lookAtPeer(ctx, driver, one)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *Agent) lookAtPeer(ctx context.Context, driver datastore.Replica, one *peer) {
	view := a.probe(ctx, driver, one)
	if view.Cause != causeRefused || !a.peers.doubted(one) {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(probeAgain):
		a.probe(ctx, driver, one)
	}
}

// probe looks at a peer once, and has news told.
func (a *Agent) probe(ctx context.Context, driver datastore.Replica, one *peer) datastore.PeerView {
	started := a.Clock.Now()
	probeCtx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	view := driver.Probe(probeCtx, one.Endpoint)
	if ctx.Err() == nil && a.peers.learn(one, view, started) {
		a.watch.tellNow()
	}
	return view
}
