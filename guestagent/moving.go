package guestagent

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/datastore"
)

// announced is what the agent's neighbours were told of the moving address.
type announced struct {
	taken time.Time // when the machine got it, or the agent found it there
	last  time.Time
}

const (
	// announceSoon and announceLater are how often neighbours are told that the moving address is here: in the first minutes
	// often, for the network may not let it out yet and clients wait, then for those who missed it.
	announceSoon  = time.Second
	announceLater = 15 * time.Second
	announceOften = 3 * time.Minute
)

// due tells whether it is time to tell the neighbours again.
func (t *announced) due(now time.Time) bool {
	if t.taken.IsZero() || now.Before(t.last) { // of another agent's time, or the clock was set back
		t.taken, t.last = now, now
		return true
	}
	every := announceLater
	if now.Sub(t.taken) < announceOften {
		every = announceSoon
	}
	return now.Sub(t.last) >= every
}

// moving is the address that the agent sees to; nil where there is none, or the provider leads it.
func (a *Agent) moving() *datastore.MovingAddress {
	if !a.Host.Announces {
		return nil
	}
	return a.memory.get().Desired.Moving
}

// hasAddress tells whether the moving address is to be on this machine now. It is not while the database is to be stopped,
// nor while it is down and another may be taking over.
func (a *Agent) hasAddress(ctx context.Context) bool {
	known := a.memory.get()
	if !known.Prepared || !known.Running || !known.Desired.Moving.Here {
		return false
	}
	if !expectsFailover(known.Desired) {
		return true
	}
	dead, _ := a.deadUnit(ctx)
	return dead == ""
}

// settleAddress puts the moving address on this machine, or takes it away. The caller holds deed.
func (a *Agent) settleAddress(ctx context.Context) error {
	m := a.moving()
	if m == nil {
		return nil
	}
	if !a.hasAddress(ctx) {
		a.announced = announced{}
		return a.dropAddress(ctx)
	}
	taken, err := a.Host.TakeAddress(ctx, m.Address)
	if err != nil {
		return err
	}
	now := a.Clock.Now()
	if taken {
		a.announced = announced{taken: now, last: now}
		a.Logger.InfoContext(ctx, "moving address taken", "address", m.Address)
	}
	return nil
}

// dropAddress takes the moving address from this machine, whatever the agent is at.
func (a *Agent) dropAddress(ctx context.Context) error {
	m := a.moving()
	if m == nil {
		return nil
	}
	dropped, err := a.Host.DropAddress(ctx, m.Address)
	if dropped {
		a.Logger.InfoContext(ctx, "moving address dropped", "address", m.Address)
	}
	return err
}

// yieldAddress notes that the moving address is not here any more, for the database has handed over: it is gone before another
// machine takes it. The caller holds deed.
func (a *Agent) yieldAddress() error {
	return a.memory.change(func(s *state) error {
		if m := s.Desired.Moving; m != nil {
			s.Desired.Moving = &datastore.MovingAddress{Address: m.Address}
		}
		return nil
	})
}

// keepAddress has the moving address where it belongs, and tells the neighbours where that is.
func (a *Agent) keepAddress(ctx context.Context) {
	m := a.moving()
	if m == nil {
		return
	}
	err := a.alone(ctx, func(ctx context.Context) error {
		if err := a.settleAddress(ctx); err != nil || !a.hasAddress(ctx) {
			return err
		}
		now := a.Clock.Now()
		if !a.announced.due(now) {
			return nil
		}
		a.announced.last = now
		return a.Host.Announce(m.Address)
	})
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	if trouble != "" && trouble != a.addressTrouble {
		a.Logger.ErrorContext(ctx, "moving address not kept", "error", err)
	}
	a.addressTrouble = trouble
}
