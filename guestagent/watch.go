package guestagent

import (
	"context"
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
	superviseEvery = time.Second // where units do not tell by themselves
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
		case <-tick.C:
		}
		a.repair(ctx)
	}
}

// repair looks at the units and starts the database when one died.
func (a *Agent) repair(ctx context.Context) {
	if known := a.memory.get(); !known.Prepared || !known.Running {
		return
	}
	err := a.alone(ctx, func(ctx context.Context) error {
		dead, s := a.deadUnit(ctx)
		if dead == "" || !a.memory.get().Running || !a.mayRestart() {
			return nil
		}
		a.tellCrash(dead, s)
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
func (a *Agent) tellCrash(unit string, s host.UnitState) {
	if s.ExitErr == "" || s.Started == a.watch.told {
		return
	}
	a.watch.told = s.Started
	a.Logger.Warn("database died", "unit", unit, "how", s.ExitErr)
	a.watch.tell("database.crashed", fmt.Sprintf("The database ended unasked (%s) and is being started again.", s.ExitErr))
}

const (
	lookEvery     = 2 * time.Second        // at a healthy database: what is urgent is told by its units
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
	looking, again := false, false
	look := func() {
		if looking {
			again = true
			return
		}
		looking = true
		looks.Go(func() { looked <- a.look(ctx) })
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
		case last = <-looked:
			looking = false
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
		}
		timer.Reset(next)
	}
}

// amended is an earlier look with what is known now without asking the database.
func (a *Agent) amended(r *guest.StatusReport) *guest.StatusReport {
	now := *r
	known := a.memory.get()
	now.GroupEpoch, now.Peers = known.GroupEpoch, a.peers.seen()
	return &now
}

// changed tells whether a look is worth a report: numbers travel with heartbeats.
func changed(last, now *guest.StatusReport) bool {
	if last == nil || last.Prepared != now.Prepared || last.GroupEpoch != now.GroupEpoch || !slices.EqualFunc(last.Peers, now.Peers, sameView) {
		return true
	}
	was, is := last.Status, now.Status
	return was.Status != is.Status || was.Cause != is.Cause || string(was.Observed) != string(is.Observed)
}

// sameView leaves out why a peer is dead: that may waver.
func sameView(a, b datastore.PeerView) bool {
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
	reportAgain   = time.Second
)

// report sends what observe offers, and keeps trying: the newest report wins.
func (a *Agent) report(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
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
			retry.Reset(reportAgain)
			continue
		}
		a.watch.sent(r)
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
		r := a.look(ctx)
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
