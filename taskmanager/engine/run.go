package engine

import (
	"context"
	"sync"
	"time"
)

const (
	// shortestPause keeps the scan from spinning on an operation that others are about to take.
	shortestPause = 10 * time.Millisecond
	// mostQueued bounds the nudges that are remembered; what is beyond is found by the scan.
	mostQueued = 10_000
)

// Run works on operations until ctx ends. Then it claims nothing more, lets the steps at work end (or cancels them
// after the grace) and releases their leases.
func (e *Engine) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	for range e.Workers {
		workers.Go(func() { e.serve(ctx) })
	}
	e.scan(ctx)
	workers.Wait()
	return nil
}

// Nudge has an operation looked at now. It never blocks, and many nudges of one operation are as good as one.
func (e *Engine) Nudge(id string) {
	if id != "" {
		e.queue.push(id)
	}
}

// scan finds due operations whose nudge was lost, whose wait is over, or whose holder died.
func (e *Engine) scan(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-e.rescan:
		}
		due, err := e.Store.NextDue(ctx, e.ScanEvery)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				e.Logger.WarnContext(ctx, "operations not scanned", "error", err)
			}
			due = e.ScanEvery
		case due <= 0:
			e.queue.push("")
			due = e.ScanEvery // whoever takes it up asks for the next scan
		}
		timer.Reset(max(due, shortestPause))
	}
}

// serve is one worker.
func (e *Engine) serve(ctx context.Context) {
	for {
		id, ok := e.queue.pop(ctx)
		if !ok {
			return
		}
		if id == "" || e.queue.begin(id) {
			e.serveOne(ctx, id)
		}
	}
}

func (e *Engine) serveOne(ctx context.Context, id string) {
	if id != "" {
		defer e.queue.end(id)
	}
	h, err := e.claim(ctx, id)
	if err != nil && ctx.Err() == nil {
		e.Logger.WarnContext(ctx, "operation not claimed", "operation", id, "error", err)
	}
	if h == nil {
		return
	}
	if id == "" {
		e.queue.push("") // there may be more, for other workers
		if e.queue.begin(h.ID) {
			defer e.queue.end(h.ID)
		}
	}
	_ = e.work(ctx, h) // logged there; the row says what comes next
	e.askForScan()
}

func (e *Engine) askForScan() {
	select {
	case e.rescan <- struct{}{}:
	default:
	}
}

// queue holds the ids of operations to look at, each once; "" stands for "whatever is due".
type queue struct {
	mu      sync.Mutex
	ids     []string
	waiting map[string]bool
	atWork  map[string]bool // true: nudged meanwhile, look again afterwards
	ready   chan struct{}
}

func newQueue() *queue {
	return &queue{waiting: make(map[string]bool), atWork: make(map[string]bool), ready: make(chan struct{}, 1)}
}

func (q *queue) push(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, busy := q.atWork[id]; busy {
		q.atWork[id] = true
		return
	}
	if q.waiting[id] || len(q.ids) >= mostQueued {
		return
	}
	q.waiting[id] = true
	q.ids = append(q.ids, id)
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// pop waits for an id; false when ctx has ended.
func (q *queue) pop(ctx context.Context) (string, bool) {
	for {
		if ctx.Err() != nil {
			return "", false
		}
		if id, ok := q.take(); ok {
			return id, true
		}
		select {
		case <-ctx.Done():
		case <-q.ready:
		}
	}
}

func (q *queue) take() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ids) == 0 {
		return "", false
	}
	id := q.ids[0]
	q.ids = q.ids[1:]
	delete(q.waiting, id)
	if len(q.ids) > 0 {
		q.signal()
	}
	return id, true
}

// begin marks an operation as at work here; false when it is already.
func (q *queue) begin(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, busy := q.atWork[id]; busy {
		q.atWork[id] = true
		return false
	}
	q.atWork[id] = false
	return true
}

// end takes the mark away and queues the operation again when it was nudged meanwhile.
func (q *queue) end(id string) {
	q.mu.Lock()
	again := q.atWork[id]
	delete(q.atWork, id)
	q.mu.Unlock()
	if again {
		q.push(id)
	}
}
