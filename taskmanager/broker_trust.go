package taskmanager

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
)

const (
	// trustEvery is how often agents are looked for that know the broker by others than rpc.ca_file has now: one that was away
	// learns it soon after its return.
	trustEvery = 5 * time.Second
	// trustAtOnce is how many agents are told side by side, each for trustPatience: most of those that are left are away.
	trustAtOnce   = 32
	trustPatience = 3 * time.Second
)

// SpreadTrust tells agents that know the broker by others than this process does. Each tries the broker by them, and keeps what
// it has where that fails; what it took it reports, and is told no more. Several processes may do so at once.
func (m *Manager) SpreadTrust(ctx context.Context) error {
	if m.BrokerCA == nil {
		return nil
	}
	text, err := m.BrokerCA()
	if err != nil {
		return fmt.Errorf("read rpc.ca_file: %w", err)
	}
	wanted, err := guest.ParseAuthorities(text)
	if err != nil {
		return err
	}
	guests, err := m.Store.GuestsTrustingOthers(ctx, strings.Join(wanted.Names, " "))
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(trustAtOnce)
	for _, one := range guests {
		if one.BrokerTrust == "" { // it has not reported yet; or it is of an earlier release, or goes by its system
			continue
		}
		g.Go(func() error { m.tellTrust(ctx, one, string(text)); return nil })
	}
	return g.Wait()
}

// tellTrust tells one agent. One that is away is told later; one that refuses says why, and who rotates authorities is told of it.
func (m *Manager) tellTrust(ctx context.Context, one store.TrustingGuest, text string) {
	ctx, cancel := context.WithTimeout(ctx, trustPatience)
	defer cancel()
	err := m.guests.Guest(&dbaas.Guest{ID: one.ID, Queue: one.Queue}).TrustBroker(ctx, guest.BrokerTrust{CA: text})
	switch {
	case err == nil:
		m.Logger.InfoContext(ctx, "an agent knows the broker by other authorities", "guest", one.ID)
	case dbaas.ErrorCode(err) != dbaas.Unavailable:
		m.Logger.WarnContext(ctx, "an agent does not take other authorities of the broker", "guest", one.ID, "error", err)
	}
}
