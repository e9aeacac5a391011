// Package amqp carries messages over RabbitMQ.
//
// The control plane declares the queues and publishes straight to them. A guest has an account that may read its own
// queue and write the exchange grove.reports under routing keys that begin with its own id, so it declares nothing and
// all that it says, answers included, goes through that exchange, where the broker vouches for the sender:
//
//	control plane ── default exchange ──> grove.taskmanager, guest.<queue>
//	guest ── grove.reports ── <guest>.report ──────────> grove.reports
//	                       ── <guest>.heartbeat ───────> grove.heartbeats
//	                       ── <guest>.reply.<caller> ──> grove.reply.<caller>
package amqp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// Role is whose transport it is.
type Role string

// The roles.
const (
	RoleControl Role = "control"
	RoleGuest   Role = "guest"
)

// Config says where the broker is and who we are there.
type Config struct {
	URL     string // amqp:// or amqps://, with user, password and vhost
	Role    Role
	GuestID string       // RoleGuest: whose account it is
	Queue   string       // RoleGuest: the queue that it serves
	Trust   Trust        // with amqps://: who signs the broker's certificate
	Logger  *slog.Logger // nothing is logged when nil
	Clock   clock.Clock

	// RedeliveryDelay is how long a cast waits for its second delivery when its handler failed; it doubles each time.
	// 250 ms unless set.
	RedeliveryDelay time.Duration
}

// Transport implements [rpc.Transport] over RabbitMQ. Create it with [Dial].
type Transport struct {
	cfg      Config
	uri      amqp091.URI
	ctx      context.Context // of its life
	cancel   context.CancelFunc
	parts    sync.WaitGroup
	incoming *session // consumers; apart from outgoing, so that a broker that stops publishers still gets acks
	outgoing *publisher
	calls    *calls // RoleControl
}

// Dial makes a transport that connects in the background and reconnects for as long as ctx and Close let it. It fails
// only for a configuration that can never work.
func Dial(ctx context.Context, cfg Config) (*Transport, error) {
	uri, err := amqp091.ParseURI(cfg.URL)
	if err != nil {
		return nil, errors.New("the broker's URL is not understood") // not err: it may quote the password
	}
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	t := &Transport{cfg: cfg, uri: uri}
	t.ctx, t.cancel = context.WithCancel(ctx)
	t.incoming = t.connect("incoming")
	switch cfg.Role {
	case RoleGuest: // one connection is enough; there are thousands of guests
		t.outgoing = &publisher{session: t.incoming}
	case RoleControl:
		t.outgoing = &publisher{session: t.connect("outgoing")}
		t.calls = newCalls()
		t.parts.Go(t.receiveReplies)
	}
	return t, nil
}

func (c *Config) fill() error {
	switch {
	case c.Role != RoleControl && c.Role != RoleGuest:
		return errors.New("a broker transport needs the role control or guest")
	case c.Role == RoleGuest && (c.GuestID == "" || c.Queue == ""):
		return errors.New("a guest's transport needs its id and queue")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	if c.RedeliveryDelay == 0 {
		c.RedeliveryDelay = 250 * time.Millisecond
	}
	return nil
}

// connect starts a session that lives as long as t.
func (t *Transport) connect(purpose string) *session {
	s := newSession(t, purpose)
	t.parts.Go(func() { s.run(t.ctx) })
	return s
}

// Close implements [rpc.Transport].
func (t *Transport) Close() error {
	t.cancel()
	t.parts.Wait()
	return nil
}

// Cast implements [rpc.Transport].
func (t *Transport) Cast(ctx context.Context, m *rpc.Envelope) error {
	sent, body, err := t.encode(m)
	if err != nil {
		return err
	}
	to := t.address(sent.Topic)
	return t.publish(ctx, to, amqp091.Publishing{Body: body, DeliveryMode: to.deliveryMode()})
}

// encode completes a copy of m as this side may send it.
func (t *Transport) encode(m *rpc.Envelope) (*rpc.Envelope, []byte, error) {
	sent := *m
	if t.cfg.Role == RoleGuest {
		if err := rpc.CheckGuestTopic(m.Topic); err != nil {
			return nil, nil, err
		}
		sent.Sender = t.cfg.GuestID
	}
	if sent.ID == "" {
		sent.ID = newToken()
	}
	body, err := rpc.Encode(&sent)
	return &sent, body, err
}

// publishAtMost bounds a publishing whose context has no deadline of its own.
const publishAtMost = 30 * time.Second

// publish hands msg to the broker and waits until it has taken charge.
func (t *Transport) publish(ctx context.Context, to address, msg amqp091.Publishing) error {
	ctx, cancel := context.WithTimeout(ctx, publishAtMost)
	defer cancel()
	msg.ContentType, msg.MessageId = "application/json", newToken()
	if t.cfg.Role == RoleGuest {
		msg.UserId = t.uri.Username // the broker refuses any other
	}
	done := make(chan error, 1)
	go func() { done <- t.outgoing.publish(ctx, to, msg) }() // a write to a stuck connection does not heed ctx
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return dbaas.WrapError(ctx.Err(), dbaas.Unavailable, "The message broker did not take the message in time.")
	case <-t.ctx.Done():
		return errClosed()
	}
}

func errClosed() error { return dbaas.Errorf(dbaas.Unavailable, "The transport is closed.") }
