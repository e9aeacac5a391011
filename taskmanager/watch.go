package taskmanager

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
)

const (
	// suspectEvery is how often an instance under suspicion is looked at, scanEvery how often all of them are.
	suspectEvery = 500 * time.Millisecond
	scanEvery    = 5 * time.Second
	// vanishedAfter is how long a server may be out of everybody's reach that the cloud says runs; stalledAfter how long a
	// database may run and not answer. The standby counts from when that began; the watch, which heard of it later, must have
	// seen for vanishedSeen or stalledSeen that it lasts. A standby that looks too seldom to count leaves it all to the watch.
	vanishedAfter = 6 * time.Second
	vanishedSeen  = 3 * time.Second
	stalledAfter  = 10 * time.Second
	stalledSeen   = 6 * time.Second
	// unseenAfter is how long a standby need not have seen a primary that is dead by its own agent's word.
	unseenAfter = 1500 * time.Millisecond
	// staleAfter is how long before a failure a standby may have been out of step and still take over.
	staleAfter = 15 * time.Second
	// calmFor is how soon after a failover another may come, unless the primary is dead by its own agent's word.
	calmFor = time.Minute
	// repairAfter is how long a standby may be out of order before it is repaired, repairAgain how soon after a repair another
	// begins.
	repairAfter = 20 * time.Second
	repairAgain = time.Minute
	// mostChecks bounds how many instances are looked at side by side.
	mostChecks = 32
)

// watch finds failures of hot standbys. Every taskmanager watches them all by itself: what it remembers is only how long it
// has seen something, so that one that was away begins anew. The lock of a failover lets one of them act.
type watch struct {
	m        *Manager
	poke     chan struct{}
	mu       sync.Mutex
	suspects map[string]*suspect // by instance id
}

// suspect is an instance that something is wrong with, or may be.
type suspect struct {
	checking bool
	again    bool      // it was told of while it was being looked at
	silent   time.Time // since when nobody reaches the primary; zero: somebody does
	stalled  time.Time // since when the primary runs and does not answer
	broken   time.Time // since when the standby is out of order
	degraded time.Time // since when nobody could take over
	orphaned time.Time // since when the primary is dead and nobody could take over
	told     string    // the event of its protection that was told last
	tried    time.Time // when a repair was last thought of
}

func newWatch(m *Manager) *watch {
	return &watch{m: m, poke: make(chan struct{}, 1), suspects: map[string]*suspect{}}
}

// suspect has an instance looked at now.
func (w *watch) suspect(instanceID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.suspects[instanceID] == nil {
		w.suspects[instanceID] = &suspect{}
	}
	w.suspects[instanceID].again = true
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// run watches until ctx ends.
func (w *watch) run(ctx context.Context) error {
	var checks sync.WaitGroup
	defer checks.Wait()
	slots := make(chan struct{}, mostChecks)
	tick := time.NewTicker(suspectEvery)
	defer tick.Stop()
	scan := time.NewTicker(scanEvery)
	defer scan.Stop()
	for {
		var due map[string]*suspect
		select {
		case <-ctx.Done():
			return nil
		case <-w.poke:
			due = w.due(false)
		case <-tick.C:
			due = w.due(true)
		case <-scan.C:
			if err := w.scan(ctx); err != nil && ctx.Err() == nil {
				w.m.Logger.WarnContext(ctx, "hot standbys not looked at", "error", err)
			}
		}
		for id, s := range due {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			checks.Go(func() {
				defer func() { <-slots }()
				w.check(ctx, id, s)
			})
		}
	}
}

// due takes the suspects that are to be looked at now: all of them, or those that were told of.
func (w *watch) due(all bool) map[string]*suspect {
	w.mu.Lock()
	defer w.mu.Unlock()
	due := map[string]*suspect{}
	for id, s := range w.suspects {
		if !s.checking && (all || s.again) {
			s.checking, s.again = true, false
			due[id] = s
		}
	}
	return due
}

// scan looks at what is stored of all hot standbys, for what no report told of.
func (w *watch) scan(ctx context.Context) error {
	views, err := w.m.Store.Protected(ctx)
	if err != nil {
		return err
	}
	for i := range views {
		if !sound(&views[i]) {
			w.suspect(views[i].ID)
		}
	}
	return nil
}

// sound tells whether all that is stored of an instance says that it is well and protected.
func sound(v *dbaas.InstanceView) bool {
	p, s := pair(v)
	if p == nil || s == nil || p.Status != dbaas.GuestHealthy || s.Status != dbaas.GuestHealthy {
		return false
	}
	seen, sees := viewOf(s, p.ID), viewOf(p, s.ID)
	place := control.ReplicationIn(s.Observed)
	return seen != nil && seen.Alive && sees != nil && sees.Alive && place != nil && place.Role == datastore.RoleReplica && place.LinkUp
}

// pair gives an instance's primary and its standby, nil where there is none.
func pair(v *dbaas.InstanceView) (primary, standby *dbaas.Guest) {
	for i := range v.Guests {
		if v.Guests[i].ID == v.PrimaryGuestID {
			primary = &v.Guests[i]
		} else {
			standby = &v.Guests[i]
		}
	}
	return primary, standby
}

// viewOf is how a guest said last that it sees another; nil when it said nothing.
func viewOf(g *dbaas.Guest, of string) *datastore.PeerView {
	var views []datastore.PeerView
	if len(g.Peers) == 0 || json.Unmarshal(g.Peers, &views) != nil {
		return nil
	}
	return viewIn(views, of)
}

func viewIn(views []datastore.PeerView, of string) *datastore.PeerView {
	for i := range views {
		if views[i].GuestID == of {
			return &views[i]
		}
	}
	return nil
}

// check looks at a suspect afresh, and acts.
func (w *watch) check(ctx context.Context, id string, s *suspect) {
	innocent, err := w.judge(ctx, id, s)
	if err != nil && ctx.Err() == nil {
		w.m.Logger.WarnContext(ctx, "hot standby not looked at", "instance", id, "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.checking = false
	if innocent && !s.again {
		delete(w.suspects, id)
	}
}

// judge looks at an instance through its agents, whatever is stored, and does what is to be done. It tells whether the
// instance is beyond suspicion.
func (w *watch) judge(ctx context.Context, id string, s *suspect) (innocent bool, err error) {
	v, err := w.m.Store.InstanceView(ctx, id)
	if err != nil {
		return dbaas.ErrorCode(err) == dbaas.NotFound, err
	}
	if v.HighAvailability == nil || v.Stopped || v.Task == dbaas.TaskDeleting || v.Task == dbaas.TaskBuilding || v.Task == dbaas.TaskError {
		return true, nil
	}
	if v.Operation != nil && slices.Contains([]string{kindFailover, kindAddGuest, kindRemoveGuest}, v.Operation.Kind) {
		return false, nil // somebody acts, or there is no standby yet
	}
	p, standby := pair(v)
	if p == nil || standby == nil {
		return true, nil
	}
	reports := w.m.askAll(ctx, []member{{&v.Instance, p}, {&v.Instance, standby}})
	l := look{view: v, primary: p, standby: standby, ofPrimary: reports[p.ID], ofStandby: reports[standby.ID]}
	if err := w.tellProtection(ctx, s, &l); err != nil {
		return false, err
	}
	if reason := w.reason(ctx, s, &l); reason != nil {
		return false, w.failOver(ctx, v, *reason)
	}
	if !alive(l.ofPrimary) {
		return false, nil
	}
	if l.inStep() && l.introduced() {
		s.broken = time.Time{}
		return true, nil
	}
	return false, w.repair(ctx, s, &l)
}

// look is what is seen of an instance now. A report is nil of an agent that does not answer.
type look struct {
	view                 *dbaas.InstanceView
	primary, standby     *dbaas.Guest
	ofPrimary, ofStandby *guest.StatusReport
}

// inStep tells whether the standby follows closely. A link that nothing comes through looks well for a minute to a database.
func (l *look) inStep() bool {
	return l.ofStandby != nil && inStepNow(l.ofStandby) && !l.missesPrimary()
}

// introduced tells whether the primary was told of its standby: it looks at it.
func (l *look) introduced() bool { return viewIn(l.ofPrimary.Peers, l.standby.ID) != nil }

// missesPrimary tells whether the standby says that it does not see the primary.
func (l *look) missesPrimary() bool {
	if l.ofStandby == nil {
		return false
	}
	if view := viewIn(l.ofStandby.Peers, l.primary.ID); view != nil {
		return !view.Alive
	}
	place := control.ReplicationIn(l.ofStandby.Status.Observed)
	return place != nil && !place.LinkUp
}

// missing tells for how long the standby has not seen the primary, and for how long it has looked in vain, as far as it says.
func (l *look) missing() (unseen, missing time.Duration) {
	if l.ofStandby == nil {
		return 0, 0
	}
	view := viewIn(l.ofStandby.Peers, l.primary.ID)
	if view == nil {
		return 0, 0
	}
	return time.Duration(view.UnseenMS) * time.Millisecond, time.Duration(view.SilentMS) * time.Millisecond
}

// dead tells whether the primary's own agent says that its database has ended.
func (l *look) dead() bool { return l.ofPrimary != nil && hopeless(l.ofPrimary.Status.Status) }

// since notes when something began that is so now, and tells for how long it has been; 0 when it is not so.
func (w *watch) since(at *time.Time, so bool) time.Duration {
	now := w.m.Clock.Now()
	switch {
	case !so:
		*at = time.Time{}
		return 0
	case at.IsZero() || now.Before(*at):
		*at = now
	}
	return now.Sub(*at)
}

// reason tells why the instance must be failed over now; nil when it must not, or not yet. It takes two who say so.
func (w *watch) reason(ctx context.Context, s *suspect, l *look) *control.FailoverState {
	missed := l.missesPrimary()
	unseen, missing := l.missing()
	silent := w.since(&s.silent, l.ofPrimary == nil && missed)
	stalled := w.since(&s.stalled, missed && l.ofPrimary != nil && !alive(l.ofPrimary))
	orphaned := w.since(&s.orphaned, l.dead() && !missed)
	state := &control.FailoverState{From: l.primary.ID}
	state.Before, state.BeforeAt = positionBefore(l)
	switch {
	case l.dead() && (missed || unseen >= unseenAfter):
		state.OwnWord, state.Cause = true, "The primary's database ended: "+l.ofPrimary.Status.Cause
	case orphaned > staleAfter: // nobody is there to confirm it, and nobody to take over
		state.OwnWord, state.Revive, state.Cause = true, true, "The primary's database ended, and the standby is out of reach."
	case silent > 0 && w.isGone(ctx, l.primary):
		state.Silent, state.Cause = true, "The primary's server is gone or off."
	case silent > vanishedAfter, silent > vanishedSeen && missing > vanishedAfter:
		state.Silent, state.Cause = true, "The primary's server is out of reach."
	case stalled > stalledAfter, stalled > stalledSeen && missing > stalledAfter:
		state.Cause = "The primary's database runs and does not answer."
	default:
		return nil
	}
	return state
}

// positionBefore is what is known of the primary's position, and from when it is: what its agent says of it now, else said
// last. What it said as a replica tells nothing: with the writes it took over it began a history of its own.
func positionBefore(l *look) (*datastore.Position, dbaas.Instant) {
	observed := []byte(l.primary.Observed)
	if l.ofPrimary != nil && len(l.ofPrimary.Observed()) > 0 {
		observed = l.ofPrimary.Observed()
	}
	place := control.ReplicationIn(observed)
	if place == nil || place.Role != datastore.RoleMaster {
		return nil, 0
	}
	at := &datastore.Position{Replication: *place}
	beat := l.view.Heartbeats[l.primary.ID]
	var metrics map[string]float64
	_ = json.Unmarshal([]byte(beat.Metrics), &metrics) // else it tells nothing
	if place.History == "" || metrics[datastore.MetricHistory] != datastore.HistoryNumber(place.History) {
		return at, 0
	}
	at.Offset = int64(metrics[datastore.MetricOffset])
	return at, beat.SeenAt
}

// isGone tells whether the cloud says that a guest's server does not run.
func (w *watch) isGone(ctx context.Context, g *dbaas.Guest) bool {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	server, err := w.m.Cloud.Server(ctx, g.ServerID)
	if err != nil {
		return dbaas.ErrorCode(err) == dbaas.NotFound
	}
	return server.HostDown || server.Status == cloud.ServerShutoff || server.Status == cloud.ServerError
}

// failOver begins a failover, unless another taskmanager did, or the last one is too near.
func (w *watch) failOver(ctx context.Context, v *dbaas.InstanceView, state control.FailoverState) error {
	var id string
	err := w.m.Store.Tx(ctx, func(tx *store.Tx) error {
		id = ""
		in, err := w.stillSo(tx, v, state.From)
		if err != nil || in == nil {
			return err
		}
		last, err := tx.LastOperation(in.ID, kindFailover)
		if err != nil || last != nil && !state.OwnWord && !cameToNothing(last) && tx.Now().Sub(last.CreatedAt) < calmFor {
			return err
		}
		stale, err := staleStandby(tx, in)
		if err != nil {
			return err
		}
		state.Revive = state.Revive || stale && state.OwnWord
		state.DetectedAt = tx.Now()
		id, err = w.begin(tx, in, kindFailover, state, true)
		return err
	})
	return w.began(ctx, id, err)
}

// cameToNothing tells of a failover that it was planned and did not succeed.
func cameToNothing(op *dbaas.Operation) bool {
	var state control.FailoverState
	return op.Status != dbaas.OperationSucceeded && json.Unmarshal(op.State, &state) == nil && state.Planned
}

// stillSo reads the instance, nil when it is no longer what was looked at.
func (w *watch) stillSo(tx *store.Tx, v *dbaas.InstanceView, primary string) (*dbaas.Instance, error) {
	in, err := tx.Instance(v.ID)
	if err != nil {
		return nil, err
	}
	if in.PrimaryGuestID != primary || in.HighAvailability == nil || in.Stopped || in.Task == dbaas.TaskDeleting {
		return nil, nil
	}
	return in, nil
}

// staleStandby tells whether the standby was out of step long before now: what it has is old.
func staleStandby(tx *store.Tx, in *dbaas.Instance) (bool, error) {
	last, err := tx.LastEvent(in.ID, eventDegraded, eventProtected)
	return last != nil && last.Kind == eventDegraded && tx.Now().Sub(last.CreatedAt) > staleAfter, err
}

// begin enqueues an operation of the watch. With preempt it takes the locks from what runs.
func (w *watch) begin(tx *store.Tx, in *dbaas.Instance, kind string, state any, preempt bool) (string, error) {
	text, err := json.Marshal(state)
	if err != nil {
		return "", err
	}
	members, err := tx.GroupMembers(in.GroupID)
	if err != nil {
		return "", err
	}
	locks := []string{in.GroupID}
	for _, one := range members {
		locks = append(locks, one.ID)
	}
	op := &dbaas.Operation{
		Kind: kind, ProjectID: in.ProjectID, ResourceType: "instance", ResourceID: in.ID, GroupID: in.GroupID,
		State: text, Actor: "watch",
	}
	if preempt {
		err = tx.Preempt(op, locks...)
	} else {
		err = tx.Enqueue(op, locks...)
	}
	return op.ID, err
}

// began has an operation looked at that was begun. That another one was sooner is no failure.
func (w *watch) began(ctx context.Context, id string, err error) error {
	var busy *store.BusyError
	if errors.As(err, &busy) {
		w.m.Logger.DebugContext(ctx, "another operation comes first", "resource", busy.Resource, "operation", busy.Operation.ID)
		return nil
	}
	if err == nil && id != "" {
		w.m.engine.Nudge(id)
	}
	return err
}

// repair begins the repair of a standby that is out of order, and does not come back by itself.
func (w *watch) repair(ctx context.Context, s *suspect, l *look) error {
	if bringsBack(l.view.Operation, l.primary.ID, l.standby.ID) {
		return nil
	}
	broken := w.since(&s.broken, true)
	now := w.m.Clock.Now()
	if !s.tried.IsZero() && now.Sub(s.tried) < scanEvery {
		return nil
	}
	s.tried = now
	var id string
	err := w.m.Store.Tx(ctx, func(tx *store.Tx) error {
		id = ""
		in, err := w.stillSo(tx, l.view, l.primary.ID)
		if err != nil || in == nil || !in.Task.Idle() && l.view.Operation == nil {
			return err
		}
		failed, err := tx.LastOperation(in.ID, kindFailover)
		if err != nil {
			return err
		}
		last, err := tx.LastOperation(in.ID, kindRepair)
		if err != nil {
			return err
		}
		removed, err := tx.LastOperation(in.ID, kindRemoveGuest)
		if err != nil {
			return err
		}
		after := func(op *dbaas.Operation) bool {
			return op != nil && op.ParentID == "" && (last == nil || last.CreatedAt < op.CreatedAt)
		}
		upgraded, err := tx.LastOperation(in.ID, kindUpgradePair)
		if err != nil {
			return err
		}
		gaveUp := func(op *dbaas.Operation) bool { return after(op) && op.Status != dbaas.OperationSucceeded }
		fresh := after(failed) || gaveUp(removed) || gaveUp(upgraded) // the old primary of a failover; a standby that was not removed, or is of another version
		if !fresh && (broken < repairAfter || last != nil && tx.Now().Sub(last.CreatedAt) < repairAgain) {
			return nil
		}
		id, err = w.begin(tx, in, kindRepair, repairState{StandbyID: l.standby.ID}, fresh)
		return err
	})
	return w.began(ctx, id, err)
}

// tellProtection records when an instance is no longer protected, or is again.
func (w *watch) tellProtection(ctx context.Context, s *suspect, l *look) error {
	degraded := w.since(&s.degraded, !l.inStep() && alive(l.ofPrimary))
	var kind, message string
	switch {
	case l.inStep():
		kind, message = eventProtected, "The standby is in step again."
	case degraded > suspectEvery:
		kind, message = eventDegraded, "The standby is not in step: were the primary to fail now, nobody could take over."
	}
	if kind == s.told || kind == "" {
		return nil
	}
	s.told = kind
	return w.m.Store.Tx(ctx, func(tx *store.Tx) error {
		in, err := tx.Instance(l.view.ID)
		if err != nil {
			return err
		}
		last, err := tx.LastEvent(in.ID, eventDegraded, eventProtected)
		if err != nil || last != nil && last.Kind == kind || last == nil && kind == eventProtected {
			return err
		}
		w.m.Operations.Protection(kind[len("instance."):])
		return note(tx, in, "", kind, message, nil)
	})
}
