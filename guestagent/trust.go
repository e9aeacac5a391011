package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
)

// BrokerTrust is whom the agent knows the broker by: those who came with its server, until the control plane names others. It
// is safe for concurrent use.
type BrokerTrust struct {
	path string
	// tried tells whether the broker, as it is now, is known by these certificates.
	tried func(ctx context.Context, ca []byte) error

	turn sync.Mutex // held by whoever replaces them
	mu   sync.Mutex // guards the field below
	now  trustRecord
}

// trustRecord is what is on disk of it. Given came with the server; when a server comes with others than CA took the place of,
// it was rebuilt, and what it comes with is newer.
type trustRecord struct {
	Given string `json:"given"`
	CA    string `json:"ca"`
}

const trustFile = "broker-ca.json"

// OpenBrokerTrust reads whom the agent of that directory (a Host's Dir) knows the broker by; given came with its server. tried
// tells whether the broker, as it is now, is known by such certificates.
func OpenBrokerTrust(dir, given string, tried func(ctx context.Context, ca []byte) error) *BrokerTrust {
	t := &BrokerTrust{path: filepath.Join(dir, trustFile), tried: tried, now: trustRecord{Given: given, CA: given}}
	var known trustRecord
	if text, err := os.ReadFile(t.path); err == nil && json.Unmarshal(text, &known) == nil && known.Given == given {
		if _, err := guest.ParseAuthorities([]byte(known.CA)); err == nil {
			t.now = known
		}
	}
	return t
}

// Certificates are those of whom the agent knows the broker by, in PEM.
func (t *BrokerTrust) Certificates() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return []byte(t.now.CA), nil
}

// names of the authorities, for reports.
func (t *BrokerTrust) names() []string {
	if t == nil {
		return nil
	}
	known, _ := t.Certificates()
	a, err := guest.ParseAuthorities(known)
	if err != nil {
		return nil
	}
	return a.Names
}

// replace takes other certificates, or keeps those that it has with an error.
func (t *BrokerTrust) replace(ctx context.Context, text []byte) error {
	t.turn.Lock()
	defer t.turn.Unlock()
	wanted, err := guest.ParseAuthorities(text)
	if err != nil {
		return err
	}
	before, _ := t.Certificates()
	known, err := guest.ParseAuthorities(before)
	switch {
	case err == nil && slices.Equal(known.Names, wanted.Names):
		return nil
	case err == nil && wanted.Newest.Before(known.Newest):
		return dbaas.Errorf(dbaas.Conflict, "These certificates are older than those that the agent knows the broker by.")
	}
	if err := t.tried(ctx, text); err != nil {
		return dbaas.WrapError(err, dbaas.Conflict, "The broker, as it is now, is not known by these certificates, or not reached.")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next := trustRecord{Given: t.now.Given, CA: string(text)}
	b, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode whom to know the broker by: %w", err)
	}
	if err := host.WriteFile(t.path, b, 0o600, nil); err != nil {
		return fmt.Errorf("save whom to know the broker by: %w", err)
	}
	t.now = next
	return nil
}

// errNoTrust is of an agent that knows the broker as its system does, or reaches it without TLS.
var errNoTrust = errors.New("the agent was given nobody to know the broker by")

// TrustBroker implements [guest.API].
func (a *Agent) TrustBroker(ctx context.Context, r guest.BrokerTrust) error {
	if a.Trust == nil {
		return dbaas.WrapError(errNoTrust, dbaas.Conflict, "The agent's server came with no certificate to know the broker by: rebuild it.")
	}
	if err := a.Trust.replace(ctx, []byte(r.CA)); err != nil {
		return err
	}
	a.watch.poke()
	return nil
}
