package guestagent

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
)

// watch is what the agent's loops tell each other.
type watch struct {
	mu      sync.Mutex
	cause   string                // why the database does not run, in a sentence for its tenant
	crashes int                   // in a row
	crashed time.Time             // the last time
	told    string                // identity of the process whose crash was told last; guarded by the agent's deed
	still   int                   // looks in a row at which a process was suspended
	was     json.RawMessage       // what the database observed last
	events  []guest.ReportedEvent // not reported yet
	latest  *guest.StatusReport   // not reported yet; only the newest counts
	again   chan struct{}         // look now
	known   chan struct{}         // tell what is known without a look
	news    chan struct{}         // there is something to report
}

// mostEvents bounds what is kept while the control plane is away; the oldest go first.
const mostEvents = 100

func newWatch() *watch {
	return &watch{again: make(chan struct{}, 1), known: make(chan struct{}, 1), news: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// poke has the database looked at now.
func (w *watch) poke() { signal(w.again) }

// tellNow has what is known besides the last look at the database told at once, however long the next look takes.
func (w *watch) tellNow() { signal(w.known) }

// calm forgets past crashes.
func (w *watch) calm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crashes, w.cause = 0, ""
}

// started notes what came of a start: of an accident the tenant reads nothing, but what the driver sees.
func (w *watch) started(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cause = ""
	if err != nil && dbaas.ErrorCode(err) != dbaas.Internal {
		w.cause = dbaas.ErrorMessage(err)
	}
}

// hold says why a database that died is not started.
func (w *watch) hold(cause string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cause = cause
}

// suspendedAfter is at how many looks in a row a suspended process counts as dead: a debugger's attaching takes less.
const suspendedAfter = 2

// noteSuspended notes whether a process is suspended, and tells whether it counts as dead by that since, or no more.
func (w *watch) noteSuspended(suspended bool) (since, noMore bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.still
	if w.still++; !suspended {
		w.still = 0
	}
	return w.still == suspendedAfter, w.still == 0 && before >= suspendedAfter
}

func (w *watch) isSuspended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.still >= suspendedAfter
}

// remember notes what the database observed, and gives what it did last.
func (w *watch) remember(observed json.RawMessage) json.RawMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(observed) > 0 {
		w.was = observed
	}
	return w.was
}

func (w *watch) trouble() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

// tell keeps an event for the next report.
func (w *watch) tell(kind, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, guest.ReportedEvent{ID: uuid.Must(uuid.NewV7()).String(), Kind: kind, Message: message})
	if len(w.events) > mostEvents {
		w.events = w.events[1:]
	}
	signal(w.again)
}

// untold tells whether there are events that nobody has been told.
func (w *watch) untold() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.events) > 0
}

// offer puts a report in the place of an older one that was not sent yet.
func (w *watch) offer(r *guest.StatusReport) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest = r
	signal(w.news)
}

// take gives the report to send, with the events that go with it; nil when there is none.
func (w *watch) take() *guest.StatusReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.latest == nil {
		return nil
	}
	r := *w.latest
	r.Events = w.events
	return &r
}

// sent forgets what a report carried.
func (w *watch) sent(r *guest.StatusReport) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = slices.DeleteFunc(slices.Clone(w.events), func(e guest.ReportedEvent) bool {
		return slices.ContainsFunc(r.Events, func(told guest.ReportedEvent) bool { return told.ID == e.ID })
	})
	if w.latest != nil && !changed(r, w.latest) {
		w.latest = nil
	}
}

const (
	superviseEvery = 500 * time.Millisecond // units tell by themselves when they end, but not that they are suspended
	stableAfter    = time.Minute
	firstBackOff   = 500 * time.Millisecond
	mostBackOff    = 30 * time.Second
)

// supervise starts the database again when it died unasked, at once the first time and with growing delays after.
func (a *Agent) supervise(ctx context.Context) {
	var ended <-chan string
	if w, ok := a.Host.Units.(host.Watcher); ok {
		ended = w.Watch(ctx)
	}
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-ended:
			if !open {
				ended = nil
			}
			if expectsFailover(a.memory.get().Desired) {
				a.watch.tellNow() // whatever command is at work
			}
		case <-tick.C:
			a.lookForSuspended(ctx)
		}
		a.repair(ctx)
		a.keepAddress(ctx)
	}
}

// lookForSuspended tells when a process of the database was suspended, and when it goes on. It is not for us to let it.
func (a *Agent) lookForSuspended(ctx context.Context) {
	suspended := false
	for _, unit := range a.driver.Units() {
		s, err := a.Host.Units.State(ctx, unit)
		suspended = suspended || err == nil && s.Suspended
	}
	since, noMore := a.watch.noteSuspended(suspended)
	if since {
		a.Logger.WarnContext(ctx, "database suspended")
		a.watch.tell("database.suspended", causeSuspended)
		a.watch.tellNow()
	}
	if noMore {
		a.watch.poke()
	}
}

// repair looks at the units and starts the database when one died.
func (a *Agent) repair(ctx context.Context) {
	if known := a.memory.get(); !known.Prepared || !known.Running {
		return
	}
	err := a.alone(ctx, func(ctx context.Context) error {
		dead, s := a.deadUnit(ctx)
		if dead == "" {
			a.quarantine = quarantine{}
			return nil
		}
		if !a.memory.get().Running {
			return nil
		}
		wait, err := a.waitsForRole(ctx, s, false)
		if wait || err != nil {
			a.tellCrash(dead, s, "another member of its group is to take over")
			return err
		}
		if !a.mayRestart() {
			return nil
		}
		a.tellCrash(dead, s, "it is being started again")
		defer a.watch.poke()
		return a.start(ctx)
	})
	if err != nil {
		a.Logger.ErrorContext(ctx, "database not restarted", "error", err)
	}
}

// deadUnit finds a unit that should run and does not.
func (a *Agent) deadUnit(ctx context.Context) (string, host.UnitState) {
	for _, unit := range a.driver.Units() {
		s, err := a.Host.Units.State(ctx, unit)
		if err == nil && !s.Running {
			return unit, s
		}
	}
	return "", host.UnitState{}
}

// mayRestart tells whether the back-off since the last try is over, and begins the next.
func (a *Agent) mayRestart() bool {
	w := a.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	now := a.Clock.Now()
	since := now.Sub(w.crashed)
	if since > stableAfter || since < 0 { // or the clock was set back
		w.crashes = 0
	}
	if w.crashes > 0 && since < min(firstBackOff<<min(w.crashes-1, 10), mostBackOff) {
		return false
	}
	w.crashes, w.crashed = w.crashes+1, now
	return true
}

// tellCrash tells of each process that ended by itself, once.
func (a *Agent) tellCrash(unit string, s host.UnitState, next string) {
	if s.ExitErr == "" || s.Started == a.watch.told {
		return
	}
	a.watch.told = s.Started
	a.Logger.Warn("database died", "unit", unit, "how", s.ExitErr)
	a.watch.tell("database.crashed", fmt.Sprintf("The database ended unasked (%s); %s.", s.ExitErr, next))
}

const (
	lookEvery     = 2 * time.Second        // at a healthy database: what is urgent is told by its units
	lookEverySoon = 500 * time.Millisecond // while another of its group is not seen: its role may change
	lookEveryFast = 100 * time.Millisecond // while it is on its way
	fastLooks     = 300                    // after a change; then it is not on its way any more
	repeatAfter   = time.Minute            // an unchanged report, for a control plane that has lost or reset the last one
)

// observe looks at the database, offers for reporting what changed (and now and then what did not), and watches the disk.
// A database that keeps a look waiting does not keep other news waiting.
func (a *Agent) observe(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var looks sync.WaitGroup
	defer looks.Wait()
	looked := make(chan *guest.StatusReport, 1)
	var silence silence
	looking, again := false, false
	look := func() {
		if looking {
			again = true
			return
		}
		looking = true
		began := a.Clock.Now()
		looks.Go(func() { looked <- silence.judge(a.look(ctx, lookTimeout), began, a.Clock.Now()) })
	}
	var last, told *guest.StatusReport // look; report
	var toldAt time.Time
	var disk diskLevel
	fast := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			look()
			continue
		case <-a.watch.again:
			fast = fastLooks
			look()
			continue
		case <-a.watch.known:
			if last == nil {
				continue // the first look brings it
			}
			last = a.amended(last)
		case r := <-looked:
			looking = false
			if r == nil {
				look()
				continue
			}
			last = r
			disk = a.watchDisk(disk, last)
		}
		news := changed(told, last)
		if news {
			fast = fastLooks
		}
		now := a.Clock.Now()
		if news || a.watch.untold() || now.Sub(toldAt) >= repeatAfter || now.Before(toldAt) {
			a.watch.offer(last)
			told, toldAt = last, now
		}
		if looking {
			continue
		}
		next := lookEvery
		switch {
		case again:
			next, again = 0, false
		case last.Prepared && last.Status.Status != dbaas.GuestHealthy && fast > 0:
			next, fast = lookEveryFast, fast-1
		case last.Prepared && missesPeer(last) && fast > 0:
			next, fast = lookEverySoon, fast-1
		}
		timer.Reset(next)
	}
}

func missesPeer(r *guest.StatusReport) bool {
	return slices.ContainsFunc(r.Peers, func(p datastore.PeerView) bool { return !p.Alive })
}

// silence is since when a database has not answered.
type silence struct{ since time.Time }

// lateLook is how much longer than due a look may take and still say something of the database: beyond that it was we who
// did not get the CPU.
const lateLook = 2 * time.Second

// judge notes whether a look found the database silent, which it says in a sentence and a time. nil: nobody can tell.
func (s *silence) judge(r *guest.StatusReport, began, now time.Time) *guest.StatusReport {
	if !r.Status.Silent {
		s.since = time.Time{}
		return r
	}
	if now.Sub(began) > lookTimeout+lateLook {
		return nil
	}
	if s.since.IsZero() || s.since.After(began) {
		s.since = began
	}
	r.SilentSince = dbaas.At(s.since)
	r.Status.Cause = "The database runs, and has not answered since " + s.since.UTC().Format("15:04:05 UTC.")
	return r
}

// changed tells whether a look is worth a report: numbers travel with heartbeats.
func changed(last, now *guest.StatusReport) bool {
	if last == nil || last.Prepared != now.Prepared || last.GroupEpoch != now.GroupEpoch || !slices.EqualFunc(last.Peers, now.Peers, sameView) ||
		!slices.Equal(last.BrokerTrust, now.BrokerTrust) {
		return true
	}
	was, is := last.Status, now.Status
	return last.SilentSince != now.SilentSince || was.Status != is.Status || was.Cause != is.Cause || string(was.Observed) != string(is.Observed)
}

// sameView leaves out why a peer is dead, which may waver, and for how long.
func sameView(a, b datastore.PeerView) bool {
	a.UnseenMS, a.SilentMS, b.UnseenMS, b.SilentMS = 0, 0, 0, 0
	if !a.Alive && !b.Alive {
		a.Cause, b.Cause = "", ""
	}
	return a == b
}

// diskLevel is how full the volume is: 0, 75, 90 or 100 percent.
type diskLevel int

// full is when a database can no longer write: filesystems keep a little to themselves.
func full(used, total int64) bool { return total > 0 && used >= total-total/200 }

func levelOf(used, total int64) diskLevel {
	switch {
	case full(used, total):
		return 100
	case used >= total-total/10:
		return 90
	case used >= total-total/4:
		return 75
	}
	return 0
}

// watchDisk tells when the volume's use passes a level, upwards, or comes back below all of them. It takes five percent
// less to fall than to rise, so that a use that wavers is told once.
func (a *Agent) watchDisk(was diskLevel, r *guest.StatusReport) diskLevel {
	if r.VolumeTotal == 0 {
		return was
	}
	is := levelOf(r.VolumeUsed, r.VolumeTotal)
	if is < was {
		is = min(was, levelOf(r.VolumeUsed+r.VolumeTotal/20, r.VolumeTotal))
	}
	switch {
	case is > was:
		a.watch.tell("disk.usage", fmt.Sprintf("The volume is at least %d %% full (%d of %d MiB).", is, r.VolumeUsed>>20, r.VolumeTotal>>20))
	case is == 0 && was > 0:
		a.watch.tell("disk.recovered", "The volume is no longer 75 % full.")
	}
	return is
}

const (
	reportTimeout = 10 * time.Second
	reportSoon    = 50 * time.Millisecond // an agent that begins has no connection for a moment
	reportAgain   = time.Second
)

// report sends what observe offers, and keeps trying: the newest report wins.
func (a *Agent) report(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	again := reportSoon
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.watch.news:
		case <-retry.C:
		}
		r := a.watch.take()
		if r == nil {
			continue
		}
		sendCtx, cancel := context.WithTimeout(ctx, reportTimeout)
		err := a.reporter.Report(sendCtx, *r)
		cancel()
		if err != nil {
			a.Logger.DebugContext(ctx, "report not sent", "error", err)
			retry.Reset(again)
			again = min(2*again, reportAgain)
			continue
		}
		again = reportSoon
		a.watch.sent(r)
		if err := a.Programs.confirm(); err != nil {
			a.Logger.ErrorContext(ctx, "trial not confirmed", "error", err)
		}
	}
}

// beat sends signs of life, spread so that guests that started together do not beat together.
func (a *Agent) beat(ctx context.Context) {
	interval := a.Bootstrap.Heartbeat
	if interval <= 0 {
		interval = 10 * time.Second
	}
	timer := time.NewTimer(rand.N(interval))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		r := a.look(ctx, beatTimeout)
		sendCtx, cancel := context.WithTimeout(ctx, reportTimeout)
		err := a.reporter.Heartbeat(sendCtx, heartbeatOf(r))
		cancel()
		if err != nil {
			a.Logger.DebugContext(ctx, "heartbeat not sent", "error", err)
		}
		timer.Reset(interval - interval/10 + rand.N(interval/5+1))
	}
}

func heartbeatOf(r *guest.StatusReport) guest.Heartbeat {
	return guest.Heartbeat{VolumeUsed: r.VolumeUsed, VolumeTotal: r.VolumeTotal, Metrics: r.Status.Metrics}
}
