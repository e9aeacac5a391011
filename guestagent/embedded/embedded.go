// Package embedded runs the agents of the local cloud inside the control plane's process.
package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/guestagent"
	"github.com/grove-dbaas/grove/internal/cloud/local"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// Launcher launches the local cloud's agents inside this process. The databases are processes of their own either way,
// and go on when this one dies.
type Launcher struct {
	// Transport connects an agent as the guest that it is.
	Transport  func(ctx context.Context, b guest.Bootstrap) (rpc.Transport, error)
	Datastores []datastore.Datastore
	Version    string
	Logger     *slog.Logger
}

var _ local.Launcher = Launcher{}

// Launch implements [local.Launcher].
func (l Launcher) Launch(ctx context.Context, m local.Machine) (local.Agent, error) {
	var b guest.Bootstrap
	if err := json.Unmarshal(m.Bootstrap, &b); err != nil {
		return nil, fmt.Errorf("read the bootstrap of guest %s: %w", m.GuestID, err)
	}
	logger := l.Logger.With("guest", b.GuestID)
	machine, err := m.Host.Open(logger)
	if err != nil {
		return nil, err
	}
	transport, err := l.Transport(ctx, b)
	if err != nil {
		machine.Close()
		return nil, err
	}
	agent, err := newAgent(l, b, machine, transport, logger)
	if err != nil {
		machine.Close()
		return nil, errors.Join(err, transport.Close())
	}
	return begin(agent), nil
}

func newAgent(l Launcher, b guest.Bootstrap, machine *host.Host, transport rpc.Transport, logger *slog.Logger) (*guestagent.Agent, error) {
	d, err := datastoreNamed(l.Datastores, b.Datastore)
	if err != nil {
		return nil, err
	}
	return guestagent.New(guestagent.Config{Bootstrap: b, Host: machine, Datastore: d, Transport: transport, Version: l.Version, Logger: logger})
}

func datastoreNamed(list []datastore.Datastore, name string) (datastore.Datastore, error) {
	for _, d := range list {
		if d.Manifest().Name == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("this agent does not drive the datastore %q", name)
}

// running is an agent at work in a goroutine.
type running struct {
	agent  *guestagent.Agent
	cancel context.CancelFunc
	done   chan struct{}
}

func begin(a *guestagent.Agent) *running {
	ctx, cancel := context.WithCancel(context.Background())
	e := &running{agent: a, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		if err := a.Run(ctx); err != nil {
			a.Logger.Error("agent ended", "error", err)
		}
		if err := a.Close(); err != nil {
			a.Logger.Debug("agent not closed", "error", err)
		}
	}()
	return e
}

// Stop ends the agent and returns when it is gone; its database goes on.
func (e *running) Stop(ctx context.Context) error {
	e.cancel()
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill ends the agent without waiting.
func (e *running) Kill() error {
	e.cancel()
	return nil
}

// Done is closed when the agent has ended.
func (e *running) Done() <-chan struct{} { return e.done }
