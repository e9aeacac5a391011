package amqp

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// calls are those of this process that wait for an answer. A call's correlation id is a secret between the caller and
// whoever reads the queue that it was sent to: no other guest can answer in its place.
type calls struct {
	caller string // names our reply queue
	mu     sync.Mutex
	ready  bool // answers can arrive
	open   map[string]chan *rpc.Reply
}

func newCalls() *calls {
	return &calls{caller: newToken(), open: map[string]chan *rpc.Reply{}}
}

func (c *calls) replyTo() string { return "reply." + c.caller }

// begin registers a call, unless its answer could not arrive. Its channel is closed when the answer no longer can.
func (c *calls) begin() (id string, reply <-chan *rpc.Reply, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready {
		return "", nil, dbaas.Errorf(dbaas.Unavailable, "The message broker is away.")
	}
	id = newToken()
	ch := make(chan *rpc.Reply, 1)
	c.open[id] = ch
	return id, ch, nil
}

func (c *calls) end(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, id)
}

func (c *calls) answer(id string, r *rpc.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.open[id]; ok {
		ch <- r
		delete(c.open, id)
	}
}

// setReady tells whether answers can arrive; when they no longer can, those awaited never will.
func (c *calls) setReady(ready bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = ready
	if ready {
		return
	}
	for id, ch := range c.open {
		close(ch)
		delete(c.open, id)
	}
}

// Call implements [rpc.Transport]. Only the control plane calls.
func (t *Transport) Call(ctx context.Context, m *rpc.Envelope, result any) error {
	if err := rpc.RequireDeadline(ctx); err != nil {
		return err
	}
	if t.calls == nil {
		return dbaas.Errorf(dbaas.Forbidden, "A guest may not call others.")
	}
	sent, body, err := t.encode(m)
	if err != nil {
		return err
	}
	if t.ctx.Err() != nil {
		return errClosed()
	}
	id, reply, err := t.calls.begin()
	if err != nil {
		return err
	}
	defer t.calls.end(id)
	msg := amqp091.Publishing{Body: body, ReplyTo: t.calls.replyTo(), CorrelationId: id, Expiration: t.expiration(ctx, sent.Topic)}
	if err := t.publish(ctx, t.address(sent.Topic), msg); err != nil {
		return err
	}
	select {
	case r, ok := <-reply:
		if !ok {
			return dbaas.Errorf(dbaas.Unavailable, "The message broker went away before %s was answered.", m.Method)
		}
		return r.Decode(result)
	case <-ctx.Done():
		return dbaas.WrapError(ctx.Err(), dbaas.Unavailable, "No answer to %s came in time.", m.Method)
	case <-t.ctx.Done():
		return errClosed()
	}
}

// expiration has the broker drop a call that its guest did not fetch in time, by the broker's clock alone. Our own
// queues dead-letter what expires, so there the receiver looks at the deadline.
func (t *Transport) expiration(ctx context.Context, topic string) string {
	deadline, _ := ctx.Deadline()
	if queueOf(topic) != topic {
		return ""
	}
	return strconv.FormatInt(max(1, deadline.Sub(t.cfg.Clock.Now()).Milliseconds()), 10)
}

// receiveReplies keeps a queue of our own for answers, for as long as t lives.
func (t *Transport) receiveReplies() {
	retry := t.retries()
	for {
		conn := t.incoming.await(t.ctx)
		if conn == nil {
			return
		}
		err := t.readReplies(conn, retry.Reset)
		t.calls.setReady(false)
		if t.ctx.Err() == nil {
			t.cfg.Logger.Debug("reply queue lost", "error", err)
			pause(t.ctx, retry.NextBackOff())
		}
	}
}

func (t *Transport) readReplies(conn *amqp091.Connection, ready func()) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	replies, err := t.consumeReplies(ch)
	if err != nil {
		return err
	}
	t.calls.setReady(true)
	ready()
	for {
		select {
		case d, ok := <-replies:
			if !ok {
				return errors.New("the reply queue was closed")
			}
			t.acceptReply(d)
		case <-t.ctx.Done():
			return nil
		}
	}
}

func (t *Transport) consumeReplies(ch *amqp091.Channel) (<-chan amqp091.Delivery, error) {
	name := "grove." + t.calls.replyTo()
	if _, err := ch.QueueDeclare(name, false, true, true, false, nil); err != nil {
		return nil, err
	}
	if err := ch.QueueBind(name, "*."+t.calls.replyTo(), exchangeReports, false, nil); err != nil {
		return nil, err
	}
	return ch.Consume(name, "", true, true, false, false, nil)
}

func (t *Transport) acceptReply(d amqp091.Delivery) {
	r := new(rpc.Reply)
	if err := json.Unmarshal(d.Body, r); err != nil {
		t.cfg.Logger.Warn("answer not understood", "routing_key", d.RoutingKey, "error", err)
		return
	}
	t.calls.answer(d.CorrelationId, r)
}
