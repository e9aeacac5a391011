package amqp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// Serve implements [rpc.Transport].
func (t *Transport) Serve(ctx context.Context, topic string, concurrency int, h rpc.Handler) error {
	if err := rpc.CheckTopic(topic); err != nil {
		return err
	}
	if t.cfg.Role == RoleGuest && topic != rpc.GuestTopic(t.cfg.Queue) {
		return dbaas.Errorf(dbaas.Forbidden, "A guest may not serve %s.", topic)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	c := &consumer{t: t, topic: topic, handler: h, slots: make(chan struct{}, max(1, concurrency)), failures: map[string]int{}}
	c.run(ctx)
	return nil
}

// consumer handles the messages of one topic.
type consumer struct {
	t       *Transport
	topic   string
	handler rpc.Handler
	slots   chan struct{} // one for each handler that may run
	running sync.WaitGroup

	silences int // attempts in a row that the broker did not answer; only run's goroutine counts them

	mu       sync.Mutex
	failures map[string]int // deliveries of a message from a queue that does not count them
}

func (c *consumer) run(ctx context.Context) {
	defer c.running.Wait()
	retry := c.t.retries()
	for {
		conn := c.t.incoming.await(ctx)
		if conn == nil {
			return
		}
		err := c.consume(ctx, conn, retry.Reset)
		if ctx.Err() == nil {
			c.t.cfg.Logger.Warn("consumer lost", "topic", c.topic, "error", err)
			pause(ctx, retry.NextBackOff())
		}
	}
}

// waitingRoom is how many messages beyond those being handled may wait here for their next delivery.
const waitingRoom = 32

// consume handles messages until its channel or ctx ends. What was fetched but not begun goes back to the queue when
// the channel closes.
func (c *consumer) consume(ctx context.Context, conn *amqp091.Connection, begun func()) error {
	link, err := c.open(ctx, conn)
	if err != nil {
		return errors.Join(err, c.mend(ctx, conn, err))
	}
	defer link.close()
	deliveries := link.deliveries
	c.silences = 0
	begun()
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errors.New("the consumer was closed")
			}
			c.begin(ctx, d)
		case <-ctx.Done():
			c.running.Wait() // their acks need the channel
			return nil
		}
	}
}

// subscription is a channel that deliveries come on.
type subscription struct {
	ch         *amqp091.Channel
	deliveries <-chan amqp091.Delivery
}

// close does not wait: a broker in trouble may never answer.
func (s *subscription) close() {
	if s.ch != nil {
		go s.ch.Close()
	}
}

const (
	// subscribeAtMost is how long the broker may take to let us consume; it takes milliseconds.
	subscribeAtMost = 5 * time.Second
	// mendAtMost is how long it may take to delete a queue and to declare it anew.
	mendAtMost = 20 * time.Second
)

// errSilent tells that the broker did not answer in time.
var errSilent = errors.New("the broker does not answer for this queue")

// open subscribes, and gives up waiting for the broker's consent when ctx ends.
func (c *consumer) open(ctx context.Context, conn *amqp091.Connection) (*subscription, error) {
	opened, err := within(ctx, subscribeAtMost, func() (*subscription, error) { return c.subscribe(conn) },
		func(late *subscription) { late.close() })
	if err != nil && opened != nil {
		opened.close()
	}
	return opened, err
}

// within waits for f, which cannot be stopped, at most this long; errSilent when that was not enough. What f gives later
// goes to late.
func within[T any](ctx context.Context, atMost time.Duration, f func() (T, error), late func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		v, err := f()
		done <- outcome{v, err}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, atMost, errSilent)
	defer cancel()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		go func() { late((<-done).value) }()
		return *new(T), context.Cause(ctx)
	}
}

// mend makes a shared queue anew that was silent twice in a row. RabbitMQ 3.10 loses the leader of a quorum queue for
// good when its node is killed within moments of the queue's first declaration; nobody can publish or consume then.
// What was in the queue is lost with it, and is no more than bells: operations are found by the scan, and guests say
// again how they are.
func (c *consumer) mend(ctx context.Context, conn *amqp091.Connection, cause error) error {
	shared := c.t.cfg.Role == RoleControl && (c.topic == rpc.TopicTaskmanager || c.topic == rpc.TopicReports)
	if !shared || !errors.Is(cause, errSilent) {
		return nil
	}
	if c.silences++; c.silences < 2 {
		return nil
	}
	c.silences = 0
	c.t.cfg.Logger.Warn("a queue without a leader is made anew", "topic", c.topic)
	_, err := within(ctx, mendAtMost, func() (struct{}, error) { return struct{}{}, remake(conn, queueOf(c.topic)) }, func(struct{}) {})
	return err
}

// remake deletes a queue and declares what is missing.
func remake(conn *amqp091.Connection, queue string) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
		return fmt.Errorf("delete queue %s: %w", queue, err)
	}
	return errors.Join(ch.Close(), declareTopology(conn))
}

func (c *consumer) subscribe(conn *amqp091.Connection) (*subscription, error) {
	link := &subscription{}
	var err error
	if link.ch, err = conn.Channel(); err != nil {
		return link, err
	}
	if err := link.ch.Qos(cap(c.slots)+waitingRoom, 0, false); err != nil {
		return link, err
	}
	link.deliveries, err = link.ch.Consume(queueOf(c.topic), "", false, false, false, false, nil)
	return link, err
}

// begin handles d as soon as a slot is free.
func (c *consumer) begin(ctx context.Context, d amqp091.Delivery) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	c.running.Go(func() {
		err := c.handle(ctx, d)
		<-c.slots
		c.settle(ctx, d, err)
	})
}

// errPoison is a message that no delivery will make better.
var errPoison = errors.New("message not understood")

func (c *consumer) handle(ctx context.Context, d amqp091.Delivery) error {
	m, err := c.decode(d)
	if err != nil {
		return err
	}
	if m.Late(c.t.cfg.Clock.Now()) {
		c.t.cfg.Logger.Debug("message dropped as late", "method", m.Method, "id", m.ID)
		return nil
	}
	reply, err := rpc.Respond(ctx, c.handler, m)
	if rpc.Retryable(err) {
		c.t.cfg.Logger.Warn("message handler failed", "topic", c.topic, "method", m.Method, "id", m.ID, "error", err)
	}
	if d.ReplyTo == "" {
		return err
	}
	c.reply(ctx, d, reply)
	return nil
}

// decode reads d and puts the sender that the broker vouches for in place of the one that the message claims.
func (c *consumer) decode(d amqp091.Delivery) (*rpc.Envelope, error) {
	m, err := rpc.Decode(c.topic, d.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPoison, err)
	}
	if d.Exchange == exchangeReports {
		m.Sender, _, _ = strings.Cut(d.RoutingKey, ".")
	}
	return m, nil
}

// reply answers through the one exchange that everybody may write to. An answer that does not arrive is the caller's
// Unavailable.
func (c *consumer) reply(ctx context.Context, d amqp091.Delivery, r *rpc.Reply) {
	if r == nil || !strings.HasPrefix(d.ReplyTo, "reply.") {
		return
	}
	body, err := json.Marshal(r)
	if err != nil {
		c.t.cfg.Logger.Error("answer not encoded", "topic", c.topic, "error", err)
		return
	}
	self := controlSender
	if c.t.cfg.Role == RoleGuest {
		self = c.t.cfg.GuestID
	}
	to := address{exchange: exchangeReports, key: self + "." + d.ReplyTo}
	msg := amqp091.Publishing{Body: body, CorrelationId: d.CorrelationId}
	if err := c.t.publish(context.WithoutCancel(ctx), to, msg); err != nil {
		c.t.cfg.Logger.Debug("answer not sent", "topic", c.topic, "error", err)
	}
}

// settle tells the broker what became of d. An error of its own means that the link is gone: the broker will deliver d
// again by itself.
func (c *consumer) settle(ctx context.Context, d amqp091.Delivery, err error) {
	switch {
	case errors.Is(err, errPoison):
		c.t.cfg.Logger.Error("message set aside", "topic", c.topic, "routing_key", d.RoutingKey, "bytes", len(d.Body), "error", err)
		err = d.Reject(false)
	case rpc.Retryable(err):
		err = c.retry(ctx, d)
	default:
		c.forget(d)
		err = d.Ack(false)
	}
	if err != nil {
		c.t.cfg.Logger.Debug("message not settled", "topic", c.topic, "error", err)
	}
}

// retry keeps d here for a while and gives it back, or sets it aside when it was delivered often enough.
func (c *consumer) retry(ctx context.Context, d amqp091.Delivery) error {
	n := c.deliveries(d)
	if n >= MaxDeliveries {
		c.forget(d)
		c.t.cfg.Logger.Error("message failed too often, set aside", "topic", c.topic, "routing_key", d.RoutingKey, "deliveries", n)
		return d.Reject(false)
	}
	pause(ctx, c.t.cfg.RedeliveryDelay<<min(n-1, 7))
	return d.Nack(false, true)
}

// deliveries tells how often d was delivered. Quorum queues count; for others we do, as long as we live.
func (c *consumer) deliveries(d amqp091.Delivery) int {
	if before, ok := d.Headers["x-delivery-count"].(int64); ok {
		return int(before) + 1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failures) > keptPerGuest {
		clear(c.failures)
	}
	c.failures[d.MessageId]++
	return c.failures[d.MessageId]
}

func (c *consumer) forget(d amqp091.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failures, d.MessageId)
}
