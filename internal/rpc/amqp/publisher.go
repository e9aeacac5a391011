package amqp

import (
	"context"
	"errors"
	"fmt"
	"sync"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// publisher publishes on one channel of a session, in confirm mode. The broker closes the channel when it refuses
// something; the next publishing opens another.
type publisher struct {
	session *session
	mu      sync.Mutex
	current *confirmed
}

// publish returns nil once the broker took charge of msg.
func (p *publisher) publish(ctx context.Context, to address, msg amqp091.Publishing) error {
	c, err := p.channel()
	if err != nil {
		return err
	}
	confirm, err := c.ch.PublishWithDeferredConfirmWithContext(ctx, to.exchange, to.key, to.mandatory, false, msg)
	if err != nil {
		return dbaas.WrapError(err, dbaas.Unavailable, "The message broker did not take the message.")
	}
	select {
	case <-confirm.Done():
	case <-ctx.Done():
		return dbaas.WrapError(ctx.Err(), dbaas.Unavailable, "The message broker did not take the message in time.")
	}
	if to.mandatory && c.wasReturned(msg.MessageId) {
		return dbaas.WrapError(fmt.Errorf("no queue takes messages for %s", to.key), dbaas.Unavailable, "Nobody answers at the other end.")
	}
	if !confirm.Acked() {
		return dbaas.Errorf(dbaas.Unavailable, "The message broker refused the message.")
	}
	return nil
}

// channel gives the open channel, opening one where needed.
func (p *publisher) channel() (*confirmed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn := p.session.forPublishing()
	if conn == nil {
		return nil, dbaas.Errorf(dbaas.Unavailable, "The message broker is away.")
	}
	if p.current != nil && !p.current.ch.IsClosed() {
		return p.current, nil
	}
	c, err := openConfirmed(conn, func(err *amqp091.Error) {
		p.session.t.cfg.Logger.Warn("broker closed the publishing channel", "error", err)
	})
	if err != nil {
		return nil, dbaas.WrapError(err, dbaas.Unavailable, "The message broker is away.")
	}
	p.current = c
	return c, nil
}

// confirmed is a channel in confirm mode that remembers what came back as unroutable.
type confirmed struct {
	ch       *amqp091.Channel
	returned chan query
	done     chan struct{} // closed with the channel
}

type query struct {
	messageID string
	answer    chan bool
}

func openConfirmed(conn *amqp091.Connection, refused func(*amqp091.Error)) (*confirmed, error) {
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.Confirm(false); err != nil {
		return nil, errors.Join(err, ch.Close())
	}
	c := &confirmed{ch: ch, returned: make(chan query), done: make(chan struct{})}
	closed := ch.NotifyClose(make(chan *amqp091.Error, 1))
	go func() {
		c.collect(ch.NotifyReturn(make(chan amqp091.Return))) // unbuffered, see wasReturned
		if err := <-closed; err != nil && !conn.IsClosed() {
			refused(err)
		}
	}()
	return c, nil
}

// collect answers queries until the channel closes.
func (c *confirmed) collect(returns <-chan amqp091.Return) {
	defer close(c.done)
	back := map[string]bool{}
	for {
		select {
		case r, ok := <-returns:
			if !ok {
				return
			}
			back[r.MessageId] = true
		case q := <-c.returned:
			q.answer <- back[q.messageID]
			delete(back, q.messageID)
		}
	}
}

// wasReturned tells whether a confirmed message reached no queue. The broker sends a return before the confirmation,
// and the library has handed it to collect before it sees the confirmation; so collect knows.
func (c *confirmed) wasReturned(messageID string) bool {
	q := query{messageID, make(chan bool, 1)}
	select {
	case c.returned <- q:
		return <-q.answer
	case <-c.done:
		return false // and nothing was confirmed
	}
}
