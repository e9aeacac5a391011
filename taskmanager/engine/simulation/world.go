// Package simulation runs the engine through random histories: requests, crashes, stalls, clock jumps, lost and late
// messages, errors, all drawn from one seed, in virtual time and on one thread, so that a seed gives the same history
// each time. The engine is the real one; around it are a store in memory, a cloud, a bus, guests and workflows shaped
// like the real ones. An auditor watches what must hold at every moment, and at the end.
package simulation

import (
	"container/heap"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// Options change a run.
type Options struct {
	Bug   Bug       // a mistake to plant
	Trace io.Writer // gets each line of the history; nil for none
}

// Result is what a run found.
type Result struct {
	Seed       uint64
	Hash       uint64 // of the whole history
	Events     int
	Operations int
	Refused    int            // saves and row writes of holders that had lost their lease
	Crashes    int            // of workers
	Moves      map[string]int // transitions, by workflow and outcome
	Violation  string         // the first broken invariant, "" for none
}

// Run plays the history of a seed.
func Run(seed uint64, o Options) Result {
	w := newWorld(seed, o)
	w.play()
	return w.result
}

const (
	lease      = 15 * time.Second
	scanEvery  = 5 * time.Second
	lateByMost = 20 * time.Second // after which no effect of a call that timed out arrives any more
	endless    = 6 * time.Hour    // what has not ended by then never will
)

// epoch is when each history begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is one history at work.
type world struct {
	Options
	faults
	rng     *rand.Rand
	now     time.Duration // true time
	skew    time.Duration // of the store's clock
	agenda  agenda
	seq     int
	current *thread
	line    []byte
	result  Result

	memory  *engine.Memory
	workers []*worker
	cloud   cloud
	audit   audit
	rows    []*instance
	used    map[string]int // quota, by project
	pending int            // requests that are still to come
	ids     int
}

// faults is how unkind a history is; each a probability per occasion.
type faults struct {
	until     time.Duration // from then on nothing goes wrong any more
	crash     float64
	stall     float64 // of a worker, for longer than its lease
	storeDown float64
	transient float64
	permanent float64
	late      float64
	drop      float64
	duplicate float64
	jumps     bool
}

func newWorld(seed uint64, o Options) *world {
	w := &world{Options: o, rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), used: map[string]int{}}
	w.result = Result{Seed: seed, Hash: 14695981039346656037, Moves: map[string]int{}}
	w.faults = faults{
		until:     time.Duration(3+w.rng.IntN(6)) * time.Minute,
		crash:     w.oneOf(0, 0.002, 0.01, 0.03),
		stall:     w.oneOf(0, 0.002, 0.01),
		storeDown: w.oneOf(0, 0, 0.01, 0.03),
		transient: w.oneOf(0, 0.02, 0.1),
		permanent: w.oneOf(0, 0, 0.02, 0.05),
		late:      w.oneOf(0, 0.02, 0.1),
		drop:      w.oneOf(0, 0.1, 0.5, 1),
		duplicate: w.oneOf(0, 0.1, 0.3),
		jumps:     w.rng.IntN(3) == 0,
	}
	w.memory = engine.NewMemory(storeClock{w})
	w.audit = newAudit(w)
	w.cloud.world = w
	return w
}

func (w *world) oneOf(p ...float64) float64 { return p[w.rng.IntN(len(p))] }

// chance draws whether something goes wrong.
func (w *world) chance(p float64) bool { return p > 0 && w.now < w.until && w.rng.Float64() < p }

// upTo draws a duration.
func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d) + 1)) }

func (w *world) newID(kind string) string {
	w.ids++
	return kind + strconv.Itoa(w.ids)
}

// storeClock is the store's clock, which jumps.
type storeClock struct{ w *world }

func (c storeClock) Now() time.Time { return epoch.Add(c.w.now + c.w.skew) }

func (w *world) storeNow() dbaas.Instant { return dbaas.At(storeClock{w}.Now()) }

// play runs the history to its end.
func (w *world) play() {
	for i := range 2 + w.rng.IntN(2) {
		w.workers = append(w.workers, w.newWorker(i))
	}
	w.plan()
	w.every(time.Minute, w.janitor)
	for w.agenda.Len() > 0 && w.result.Violation == "" {
		e := heap.Pop(&w.agenda).(*entry)
		w.now = max(w.now+time.Microsecond, e.at)
		w.result.Events++
		e.do()
		if w.now > endless && !w.done() {
			w.audit.neverEnds()
			break
		}
	}
	if w.result.Violation == "" {
		w.now += 3*lateByMost + 2*lease // what is under way arrives, and is old enough for the janitor
		w.janitor()
		w.audit.theEnd()
	}
	for _, k := range w.workers {
		k.kill()
	}
}

// done tells whether all that was asked for has come to its end.
func (w *world) done() bool { return w.pending == 0 && w.audit.live == 0 }

// entry is something that will happen.
type entry struct {
	at  time.Duration
	seq int
	do  func()
}

type agenda []*entry

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || (a[i].at == a[j].at && a[i].seq < a[j].seq)
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(*entry)) }
func (a *agenda) Pop() any {
	old := *a
	e := old[len(old)-1]
	*a = old[:len(old)-1]
	return e
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.agenda, &entry{at: w.now + d, seq: w.seq, do: do})
}

// every repeats something for as long as there is work.
func (w *world) every(d time.Duration, do func()) {
	w.after(d, func() {
		if !w.done() {
			do()
			w.every(d, do)
		}
	})
}

// send puts a message on the bus: it comes late, twice, out of order, or not at all.
func (w *world) send(what string, deliver func()) {
	if w.chance(w.drop) {
		w.trace("dropped", what)
		return
	}
	w.after(w.upTo(50*time.Millisecond), deliver)
	for w.chance(w.duplicate) {
		w.after(w.upTo(30*time.Second), deliver)
	}
}

// trace adds a line to the history.
func (w *world) trace(parts ...string) {
	w.line = strconv.AppendInt(w.line[:0], w.now.Microseconds(), 10)
	for _, p := range parts {
		w.line = append(w.line, ' ')
		w.line = append(w.line, p...)
	}
	w.line = append(w.line, '\n')
	h := w.result.Hash
	for _, b := range w.line {
		h = (h ^ uint64(b)) * 1099511628211
	}
	w.result.Hash = h
	if w.Trace != nil {
		_, _ = w.Trace.Write(w.line)
	}
}

// violated ends the history: something is not as it must be.
func (w *world) violated(format string, args ...any) {
	if w.result.Violation == "" {
		w.result.Violation = fmt.Sprintf(format, args...)
		w.trace("VIOLATION", w.result.Violation)
	}
}

// thread is a worker's goroutine, run as a coroutine: it goes on only when the agenda says so.
type thread struct {
	world  *world
	worker *worker
	next   func() (time.Duration, bool)
	stop   func()
	yield  func(time.Duration) bool
	dead   bool
}

// crashed unwinds a thread whose process is dead.
type crashed struct{}

func (k *worker) spawn(f func()) {
	t := &thread{world: k.world, worker: k}
	t.next, t.stop = iter.Pull(func(yield func(time.Duration) bool) {
		t.yield = yield
		defer func() {
			if p := recover(); p != nil && p != any(crashed{}) {
				panic(p)
			}
		}()
		f()
	})
	k.threads = append(k.threads, t)
	t.resume()
}

func (t *thread) resume() {
	if t.dead {
		return
	}
	t.world.current = t
	d, more := t.next()
	t.world.current = nil
	if more {
		t.world.after(d, t.resume)
	} else {
		t.worker.finished(t)
	}
}

// pause is a moment at which other things happen, and at which this worker may stall or die.
func (w *world) pause(atMost time.Duration) {
	t := w.current
	d := w.upTo(atMost)
	switch {
	case w.chance(w.crash):
		w.after(0, t.worker.crash)
		d = endless
	case w.chance(w.stall):
		d += lease + w.upTo(lease)
		w.trace(t.worker.name, "stalls")
	}
	if t.dead || !t.yield(d) {
		panic(crashed{})
	}
}

// leaseContext ends in virtual time. The process's clock does not jump.
type leaseContext struct {
	context.Context
	w     *world
	until time.Duration
}

// Err implements context.Context.
func (c leaseContext) Err() error {
	if c.w.now >= c.until {
		return context.DeadlineExceeded
	}
	return nil
}
