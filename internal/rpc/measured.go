package rpc

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Observer hears of each message: its direction ("call", "cast", "serve"), method, error code ("" for success) and how
// long it took.
type Observer func(direction, method, code string, took time.Duration)

// Measured is t with an observer.
func Measured(t Transport, c clock.Clock, observe Observer) Transport {
	return &measured{Transport: t, clock: c, observe: observe}
}

type measured struct {
	Transport
	clock   clock.Clock
	observe Observer
}

func (m *measured) Call(ctx context.Context, e *Envelope, result any) error {
	begin := m.clock.Now()
	err := m.Transport.Call(ctx, e, result)
	m.observe("call", e.Method, string(dbaas.ErrorCode(err)), m.clock.Now().Sub(begin))
	return err
}

func (m *measured) Cast(ctx context.Context, e *Envelope) error {
	begin := m.clock.Now()
	err := m.Transport.Cast(ctx, e)
	m.observe("cast", e.Method, string(dbaas.ErrorCode(err)), m.clock.Now().Sub(begin))
	return err
}

func (m *measured) Serve(ctx context.Context, topic string, concurrency int, h Handler) error {
	return m.Transport.Serve(ctx, topic, concurrency, func(ctx context.Context, e *Envelope) (any, error) {
		begin := m.clock.Now()
		result, err := h(ctx, e)
		m.observe("serve", e.Method, string(dbaas.ErrorCode(err)), m.clock.Now().Sub(begin))
		return result, err
	})
}
