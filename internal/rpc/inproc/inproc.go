// Package inproc carries messages between parts of one process. It encodes JSON as the broker does, so that nothing
// works in the small mode that could not work in the large one.
//
// A cast lives in memory until it was handled: it outlives its sender and its server, not the process.
package inproc

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// Options has a use for none of its fields being set.
type Options struct {
	Logger          *slog.Logger
	Clock           clock.Clock
	Capacity        int           // messages kept per topic, 10,000 unless set; heartbeats drop the oldest, others refuse
	MaxDeliveries   int           // of a cast whose handler fails, 10 unless set; then it goes to Dead
	RedeliveryDelay time.Duration // before the second delivery, doubling; 250 ms unless set
}

// Bus connects the transports of one process.
type Bus struct {
	o      Options
	mu     sync.Mutex
	faults FaultFunc
	queues map[string]*queue
	dead   [][]byte
}

// New makes a bus that nobody is on yet.
func New(o Options) *Bus {
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Capacity == 0 {
		o.Capacity = 10_000
	}
	if o.MaxDeliveries == 0 {
		o.MaxDeliveries = 10
	}
	if o.RedeliveryDelay == 0 {
		o.RedeliveryDelay = 250 * time.Millisecond
	}
	return &Bus{o: o, queues: map[string]*queue{}}
}

// Control makes a transport for a part of the control plane.
func (b *Bus) Control() rpc.Transport { return b.endpoint("", "") }

// Guest makes the transport of one guest. As at a broker it may serve its own queue, send reports, and nothing else;
// what it sends carries its id as the sender.
func (b *Bus) Guest(guestID, queue string) rpc.Transport {
	return b.endpoint(guestID, rpc.GuestTopic(queue))
}

// Dead gives the messages that were set aside: not understood, or failed too often.
func (b *Bus) Dead() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([][]byte(nil), b.dead...)
}

// Inject puts bytes on a topic as they are, for tests of what comes of nonsense.
func (b *Bus) Inject(topic string, body []byte) error {
	return b.queue(topic).put(&delivery{body: body}, b.o.Capacity, false)
}

func (b *Bus) setAside(body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead = append(b.dead, body)
	if len(b.dead) > b.o.Capacity {
		b.dead = b.dead[1:]
	}
}

func (b *Bus) queue(topic string) *queue {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[topic]
	if q == nil {
		q = newQueue(topic)
		b.queues[topic] = q
	}
	return q
}

func (b *Bus) endpoint(guestID, ownTopic string) *endpoint {
	ctx, cancel := context.WithCancel(context.Background())
	return &endpoint{bus: b, guestID: guestID, ownTopic: ownTopic, ctx: ctx, cancel: cancel}
}

// endpoint is one party's transport.
type endpoint struct {
	bus      *Bus
	guestID  string // "" for the control plane
	ownTopic string // the one that a guest serves
	ctx      context.Context
	cancel   context.CancelFunc
}

// Call implements [rpc.Transport].
func (e *endpoint) Call(ctx context.Context, m *rpc.Envelope, result any) error {
	if err := rpc.RequireDeadline(ctx); err != nil {
		return err
	}
	if e.guestID != "" {
		return dbaas.Errorf(dbaas.Forbidden, "A guest may not call others.")
	}
	body, f, err := e.encode(ctx, m)
	if err != nil {
		return err
	}
	q := e.bus.queue(m.Topic)
	if !q.served() {
		return dbaas.WrapError(fmt.Errorf("nobody serves %s", m.Topic), dbaas.Unavailable, "Nobody answers at the other end.")
	}
	d := &delivery{body: body, reply: make(chan *rpc.Reply, 1), dropReply: f.DropReply}
	if err := e.send(q, d, m, f); err != nil {
		return err
	}
	select {
	case r := <-d.reply:
		return r.Decode(result)
	case <-ctx.Done():
		return dbaas.WrapError(ctx.Err(), dbaas.Unavailable, "No answer to %s came in time.", m.Method)
	case <-e.ctx.Done():
		return errClosed()
	}
}

// Cast implements [rpc.Transport].
func (e *endpoint) Cast(ctx context.Context, m *rpc.Envelope) error {
	body, f, err := e.encode(ctx, m)
	if err != nil {
		return err
	}
	return e.send(e.bus.queue(m.Topic), &delivery{body: body}, m, f)
}

func (e *endpoint) encode(ctx context.Context, m *rpc.Envelope) ([]byte, Faults, error) {
	if e.ctx.Err() != nil {
		return nil, Faults{}, errClosed()
	}
	if ctx.Err() != nil {
		return nil, Faults{}, dbaas.WrapError(ctx.Err(), dbaas.Unavailable, "There was no time left to send %s.", m.Method)
	}
	sent := *m
	if sent.ID == "" {
		sent.ID = uuid.NewString()
	}
	if e.guestID != "" {
		if err := rpc.CheckGuestTopic(m.Topic); err != nil {
			return nil, Faults{}, err
		}
		sent.Sender = e.guestID
	}
	body, err := rpc.Encode(&sent)
	return body, e.bus.faultsOf(&sent), err
}

// send hands d over, with the faults that f asks for.
func (e *endpoint) send(q *queue, d *delivery, m *rpc.Envelope, f Faults) error {
	if f.Refuse {
		return dbaas.Errorf(dbaas.Unavailable, "The message %s was refused on purpose.", m.Method)
	}
	if f.Drop {
		return nil
	}
	for range 1 + f.Duplicate {
		if f.Delay > 0 {
			time.AfterFunc(f.Delay, func() { e.deliver(q, d, m, f.Reorder) })
			continue
		}
		if err := e.deliver(q, d, m, f.Reorder); err != nil {
			return err
		}
	}
	return nil
}

func (e *endpoint) deliver(q *queue, d *delivery, m *rpc.Envelope, reorder bool) error {
	if reorder {
		q.hold(d)
		return nil
	}
	return q.put(d, e.bus.o.Capacity, m.Topic == rpc.TopicHeartbeats)
}

// Serve implements [rpc.Transport].
func (e *endpoint) Serve(ctx context.Context, topic string, concurrency int, h rpc.Handler) error {
	if err := rpc.CheckTopic(topic); err != nil {
		return err
	}
	if e.guestID != "" && topic != e.ownTopic {
		return dbaas.Errorf(dbaas.Forbidden, "A guest may not serve %s.", topic)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()

	q := e.bus.queue(topic)
	q.join()
	defer q.leave()
	var workers sync.WaitGroup
	for range max(1, concurrency) {
		workers.Go(func() { e.work(ctx, q, h) })
	}
	workers.Wait()
	return nil
}

func (e *endpoint) work(ctx context.Context, q *queue, h rpc.Handler) {
	for {
		d := q.take(ctx)
		if d == nil {
			return
		}
		e.bus.handle(ctx, q, d, h)
	}
}

// Close implements [rpc.Transport].
func (e *endpoint) Close() error {
	e.cancel()
	return nil
}

func errClosed() error { return dbaas.Errorf(dbaas.Unavailable, "The transport is closed.") }

// handle delivers d once, and sees to its reply or its next delivery.
func (b *Bus) handle(ctx context.Context, q *queue, d *delivery, h rpc.Handler) {
	m, err := rpc.Decode(q.topic, d.body)
	if err != nil {
		b.o.Logger.Error("message not understood, set aside", "error", err)
		b.setAside(d.body)
		return
	}
	if m.Late(b.o.Clock.Now()) {
		b.o.Logger.Debug("message dropped as late", "method", m.Method, "id", m.ID)
		return
	}
	reply, err := rpc.Respond(ctx, h, m)
	if rpc.Retryable(err) {
		b.o.Logger.Warn("message handler failed", "topic", m.Topic, "method", m.Method, "id", m.ID, "error", err)
	}
	if d.reply != nil {
		d.answer(reply)
		return
	}
	if rpc.Retryable(err) {
		b.redeliver(q, d)
	}
}

func (b *Bus) redeliver(q *queue, d *delivery) {
	n := d.attempts.Add(1)
	if int(n) >= b.o.MaxDeliveries {
		b.o.Logger.Error("message failed too often, set aside", "deliveries", n)
		b.setAside(d.body)
		return
	}
	time.AfterFunc(b.o.RedeliveryDelay<<min(n-1, 7), func() { q.putBack(d) })
}
