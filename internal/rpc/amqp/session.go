package amqp

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

const (
	handshakeAtMost = 10 * time.Second
	goodbyeAtMost   = 2 * time.Second
)

// session keeps one connection to the broker: made in the background, and made again whenever it was lost.
type session struct {
	t       *Transport
	purpose string

	mu      sync.Mutex
	conn    *amqp091.Connection // nil while there is none
	blocked bool                // the broker takes no messages for now: it is short of memory or disk
	changed chan struct{}       // closed and replaced when conn changes
}

func newSession(t *Transport, purpose string) *session {
	return &session{t: t, purpose: purpose, changed: make(chan struct{})}
}

// run connects again and again until ctx ends.
func (s *session) run(ctx context.Context) {
	retry := s.t.retries()
	for ctx.Err() == nil {
		conn, err := s.dial(ctx)
		if err != nil {
			s.t.cfg.Logger.Warn("broker not reached", "purpose", s.purpose, "address", s.address(), "error", err)
			pause(ctx, retry.NextBackOff())
			continue
		}
		s.t.cfg.Logger.Info("broker connected", "purpose", s.purpose, "address", s.address())
		retry.Reset()
		err = s.hold(ctx, conn)
		if ctx.Err() == nil {
			s.t.cfg.Logger.Warn("broker lost", "purpose", s.purpose, "address", s.address(), "error", err)
			pause(ctx, retry.NextBackOff())
		}
	}
}

// hold offers conn until it or ctx ends.
func (s *session) hold(ctx context.Context, conn *amqp091.Connection) error {
	closed := conn.NotifyClose(make(chan *amqp091.Error, 1))
	blocked := conn.NotifyBlocked(make(chan amqp091.Blocking, 8))
	s.offer(conn)
	defer s.offer(nil)
	for {
		select {
		case err := <-closed:
			if err == nil {
				return errors.New("the connection was closed")
			}
			return err
		case b, ok := <-blocked:
			if !ok {
				blocked = nil
				continue
			}
			s.t.cfg.Logger.Warn("broker blocks publishers", "blocked", b.Active, "reason", b.Reason)
			s.setBlocked(b.Active)
		case <-ctx.Done():
			return conn.CloseDeadline(s.t.cfg.Clock.Now().Add(goodbyeAtMost))
		}
	}
}

func (s *session) dial(ctx context.Context) (*amqp091.Connection, error) {
	heartbeat := 10 * time.Second
	if s.t.cfg.Role == RoleGuest {
		heartbeat = 30 * time.Second // thousands of them
	}
	tls, err := s.t.cfg.Trust.config()
	if err != nil {
		return nil, err
	}
	conn, err := amqp091.DialConfig(s.t.cfg.URL, amqp091.Config{
		TLSClientConfig: tls,
		Heartbeat:       heartbeat,
		Properties:      amqp091.Table{"connection_name": s.t.name() + " " + s.purpose},
		Dial: func(network, addr string) (net.Conn, error) {
			d := net.Dialer{Timeout: handshakeAtMost}
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return c, c.SetDeadline(s.t.cfg.Clock.Now().Add(handshakeAtMost)) // lifted after the handshake
		},
	})
	if err != nil || s.t.cfg.Role == RoleGuest {
		return conn, err
	}
	if err := declareTopology(conn); err != nil {
		_ = conn.CloseDeadline(s.t.cfg.Clock.Now().Add(goodbyeAtMost)) // the declaration's error says more
		return nil, err
	}
	return conn, nil
}

func (s *session) address() string {
	return net.JoinHostPort(s.t.uri.Host, strconv.Itoa(s.t.uri.Port))
}

func (s *session) offer(conn *amqp091.Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.blocked = conn, false
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *session) setBlocked(blocked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocked = blocked
}

// forPublishing gives the connection, nil when there is none that takes messages.
func (s *session) forPublishing() *amqp091.Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blocked {
		return nil
	}
	return s.conn
}

// await waits for a connection; nil when ctx ended.
func (s *session) await(ctx context.Context) *amqp091.Connection {
	for ctx.Err() == nil {
		s.mu.Lock()
		conn, changed := s.conn, s.changed
		s.mu.Unlock()
		if conn != nil {
			return conn
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil
}

// retries gives the pauses between attempts: doubling, with full jitter, so that ten thousand guests that lost their
// broker together do not come back together.
func (t *Transport) retries() *backoff.ExponentialBackOff {
	longest := time.Second // on average
	if t.cfg.Role == RoleGuest {
		longest = 15 * time.Second
	}
	b := &backoff.ExponentialBackOff{
		InitialInterval: 250 * time.Millisecond, RandomizationFactor: 1, Multiplier: 2, MaxInterval: longest,
	}
	b.Reset()
	return b
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
