// Package guestagent runs in each guest: it does what the taskmanager asks, keeps the database running by itself, and
// says how it is.
//
// It needs the control plane for nothing but orders: with the broker gone databases run on, crashed ones are restarted,
// and memory stays flat.
package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/secret"
)

// Config is what an Agent works with. All fields but the last three are needed.
type Config struct {
	Bootstrap guest.Bootstrap
	Host      *host.Host
	Datastore datastore.Datastore
	Transport rpc.Transport
	Version   string // of the agent
	Clock     clock.Clock
	Logger    *slog.Logger
}

// Agent is the agent of one guest.
type Agent struct {
	Config
	driver   datastore.Guest
	key      *secret.PrivateKey
	journal  *journal
	reporter *guest.Reporter
	watch    *watch

	deed  sync.Mutex // one command or repair at a time
	state state      // guarded by deed
}

var _ guest.API = (*Agent)(nil)

// New opens the agent's own files and makes an Agent. It starts nothing.
func New(c Config) (*Agent, error) {
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{Config: c, driver: c.Datastore.Guest(c.Host)}
	var err error
	if a.key, err = openKey(c.Host.Dir); err != nil {
		return nil, err
	}
	if a.state, err = openState(c.Host.Dir); err != nil {
		return nil, err
	}
	if a.journal, err = openJournal(c.Host.Dir); err != nil {
		return nil, err
	}
	a.watch = newWatch()
	a.state.Boots++
	if err := a.saveState(); err != nil { // a full disk is no reason to leave the database alone
		a.Logger.Error("boot not counted", "error", err)
	}
	a.reporter = guest.NewReporter(c.Transport, c.Bootstrap.GuestID, c.Bootstrap.RPCKey, a.state.Boots)
	return a, nil
}

// Run brings the database back into its journalled state and works until ctx ends. The database goes on running.
func (a *Agent) Run(ctx context.Context) error {
	a.resume(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return guest.Serve(ctx, a.Transport, a.Bootstrap.Queue, a.Bootstrap.RPCKey, a)
	})
	g.Go(func() error { a.supervise(ctx); return nil })
	g.Go(func() error { a.observe(ctx); return nil })
	g.Go(func() error { a.report(ctx); return nil })
	g.Go(func() error { a.beat(ctx); return nil })
	return g.Wait()
}

// Close lets go of the transport and of the database's processes, which go on.
func (a *Agent) Close() error {
	letGo(a.Host)
	var err error
	if driver, ok := a.driver.(io.Closer); ok {
		err = driver.Close()
	}
	return errors.Join(err, a.Transport.Close())
}

// letGo ends the watching of a machine's processes, which go on.
func letGo(h *host.Host) {
	if units, ok := h.Units.(interface{ Close() }); ok {
		units.Close()
	}
}

// resume starts the database after the agent's own start, unless it runs already or is to stay stopped. What fails is
// tried again by supervision.
func (a *Agent) resume(ctx context.Context) {
	a.deed.Lock()
	defer a.deed.Unlock()
	if !a.state.Prepared {
		return
	}
	if err := a.bringBack(ctx); err != nil {
		a.Logger.ErrorContext(ctx, "database not started", "error", err)
	}
}

// bringBack mounts the volume, and starts the database unless it was stopped. The caller holds deed.
func (a *Agent) bringBack(ctx context.Context) error {
	if a.state.Running {
		return a.start(ctx)
	}
	return a.Host.Volume.EnsureMounted(ctx)
}

// start mounts the volume and starts the database. The caller holds deed.
func (a *Agent) start(ctx context.Context) error {
	err := a.Host.Volume.EnsureMounted(ctx)
	if err != nil {
		err = dbaas.WrapError(err, dbaas.Unavailable, "The data volume cannot be mounted.")
	} else {
		err = a.driver.Start(ctx)
	}
	a.watch.started(err)
	return err
}

// Prepare implements [guest.API].
func (a *Agent) Prepare(ctx context.Context, r guest.PrepareRequest) error {
	secrets, err := a.open(r.Sealed)
	if err != nil {
		return err
	}
	return a.command(ctx, r.Fence, nil, func(ctx context.Context) (any, error) {
		if err := a.Host.Volume.EnsureMounted(ctx); err != nil {
			return nil, fmt.Errorf("mount the data volume: %w", err)
		}
		desired := r.Desired
		desired.Secrets = secrets
		if err := a.driver.Prepare(ctx, desired); err != nil {
			return nil, err
		}
		a.state.Prepared, a.state.Running = true, true
		if err := a.saveState(); err != nil {
			return nil, err
		}
		return nil, a.start(ctx)
	})
}

// Restart implements [guest.API].
func (a *Agent) Restart(ctx context.Context, f guest.Fence) error {
	return a.prepared(ctx, f, nil, func(ctx context.Context) (any, error) {
		a.state.Running = true
		if err := a.saveState(); err != nil {
			return nil, err
		}
		if err := a.driver.Stop(ctx); err != nil {
			return nil, err
		}
		return nil, a.start(ctx)
	})
}

// Stop implements [guest.API].
func (a *Agent) Stop(ctx context.Context, r guest.StopRequest) error {
	return a.prepared(ctx, r.Fence, nil, func(ctx context.Context) (any, error) {
		a.state.Running = false
		if err := a.saveState(); err != nil {
			return nil, err
		}
		if r.Now {
			return nil, a.kill(ctx)
		}
		return nil, a.driver.Stop(ctx)
	})
}

// kill ends the database as a crash does, whatever state its processes are in.
func (a *Agent) kill(ctx context.Context) error {
	var errs []error
	for _, unit := range a.driver.Units() {
		errs = append(errs, a.Host.Units.Kill(ctx, unit))
	}
	return errors.Join(errs...)
}

// Upgrade implements [guest.API].
func (a *Agent) Upgrade(ctx context.Context, r guest.ConfigureRequest) error {
	driver, ok := a.driver.(datastore.Upgrader)
	if !ok {
		return dbaas.Errorf(dbaas.NotImplemented, "The datastore %s cannot be upgraded in place.", a.Datastore.Manifest().Name)
	}
	secrets, err := a.open(r.Sealed)
	if err != nil {
		return err
	}
	return a.prepared(ctx, r.Fence, nil, func(ctx context.Context) (any, error) {
		desired := r.Desired
		desired.Secrets = secrets
		return nil, driver.Upgrade(ctx, desired)
	})
}

// Configure implements [guest.API].
func (a *Agent) Configure(ctx context.Context, r guest.ConfigureRequest) (*datastore.Applied, error) {
	secrets, err := a.open(r.Sealed)
	if err != nil {
		return nil, err
	}
	applied := &datastore.Applied{}
	err = a.prepared(ctx, r.Fence, applied, func(ctx context.Context) (any, error) {
		if err := a.grow(ctx); err != nil {
			return nil, err
		}
		desired := r.Desired
		desired.Secrets = secrets
		return a.driver.Configure(ctx, desired)
	})
	return applied, err
}

// grow makes the filesystem as large as the volume, which a stopped guest may not have mounted yet. Where the machine
// can do that only while nothing uses the volume, the database is stopped for it.
func (a *Agent) grow(ctx context.Context) error {
	if err := a.Host.Volume.EnsureMounted(ctx); err != nil {
		return fmt.Errorf("mount the data volume: %w", err)
	}
	err := a.Host.Volume.Grow(ctx)
	if !errors.Is(err, host.ErrVolumeBusy) {
		return err
	}
	if err := a.driver.Stop(ctx); err != nil {
		return err
	}
	if err := a.Host.Volume.Grow(ctx); err != nil {
		return err
	}
	if !a.state.Running {
		return nil
	}
	return a.start(ctx)
}

// Status implements [guest.API].
func (a *Agent) Status(ctx context.Context) (*guest.StatusReport, error) {
	return a.look(ctx), nil
}

// Job implements [guest.API]. A job that the journal does not know is "unknown": the agent does not guess.
func (a *Agent) Job(_ context.Context, id string) (*guest.JobStatus, error) {
	result, done, err := a.journal.find(id)
	if err != nil {
		return nil, err
	}
	if !done {
		return &guest.JobStatus{ID: id, JobState: datastore.JobState{State: "unknown"}}, nil
	}
	return &guest.JobStatus{ID: id, JobState: datastore.JobState{State: "succeeded", Result: result}}, nil
}

// Action implements [guest.API].
func (a *Agent) Action(ctx context.Context, r guest.ActionRequest) (json.RawMessage, error) {
	action, ok := a.driver.Actions()[r.Name]
	if !ok {
		return nil, dbaas.Errorf(dbaas.NotImplemented, "The datastore %s has no action %q.", a.Datastore.Manifest().Name, r.Name)
	}
	var result json.RawMessage
	err := a.prepared(ctx, r.Fence, &result, func(ctx context.Context) (any, error) { return action(ctx, r.Args) })
	return result, err
}

// BeginAction implements [guest.API].
func (a *Agent) BeginAction(_ context.Context, r guest.ActionRequest) error {
	return dbaas.Errorf(dbaas.NotImplemented, "This agent runs no jobs, and so not %q.", r.Name)
}

// prepared is command for a guest that has a database.
func (a *Agent) prepared(ctx context.Context, f guest.Fence, result any, deed func(context.Context) (any, error)) error {
	return a.command(ctx, f, result, func(ctx context.Context) (any, error) {
		if !a.state.Prepared {
			return nil, dbaas.Errorf(dbaas.Conflict, "The guest has no database yet.")
		}
		return deed(ctx)
	})
}

// command does a deed once: under the fence, and with the answer of a deed that was done before. result gets it.
func (a *Agent) command(ctx context.Context, f guest.Fence, result any, deed func(context.Context) (any, error)) error {
	a.deed.Lock()
	defer a.deed.Unlock()
	defer a.watch.poke()
	if err := ctx.Err(); err != nil {
		return dbaas.WrapError(err, dbaas.Unavailable, "The guest was busy with another command for too long.")
	}
	if err := a.admit(f); err != nil {
		return err
	}
	answer, done, err := a.journal.find(f.CommandID)
	if err != nil {
		return err
	}
	if !done {
		a.watch.calm() // an order makes a new beginning
		value, err := deed(ctx)
		if err != nil {
			return err
		}
		if answer, err = a.journal.record(f.CommandID, value); err != nil {
			return err
		}
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer, result)
}

// mostFences bounds how many operations' lease epochs are remembered.
const mostFences = 64

// admit refuses a command of a holder that has lost its lease, or of before a failover.
func (a *Agent) admit(f guest.Fence) error {
	if f.GroupEpoch < a.state.GroupEpoch {
		return dbaas.Errorf(dbaas.Conflict, "The command is of epoch %d; the group is at %d.", f.GroupEpoch, a.state.GroupEpoch)
	}
	if f.LeaseEpoch < a.state.Leases[f.OperationID] {
		return dbaas.Errorf(dbaas.Conflict, "Operation %s has another holder now.", f.OperationID)
	}
	if f.GroupEpoch == a.state.GroupEpoch && f.LeaseEpoch == a.state.Leases[f.OperationID] {
		return nil
	}
	before := a.state.clone()
	a.state.GroupEpoch = f.GroupEpoch
	a.state.remember(f.OperationID, f.LeaseEpoch)
	if err := a.saveState(); err != nil {
		a.state = before // what is not on disk was not seen
		return err
	}
	return nil
}

// open decrypts what was sealed to this agent.
func (a *Agent) open(sealed guest.Sealed) (map[string]string, error) {
	if sealed == nil {
		return nil, nil
	}
	secrets := make(map[string]string, len(sealed))
	for kind, box := range sealed {
		value, err := a.key.Open(box)
		if err != nil {
			return nil, dbaas.WrapError(err, dbaas.Conflict, "The secret %q was sealed to another agent.", kind)
		}
		secrets[kind] = string(value)
	}
	return secrets, nil
}

// lookTimeout bounds one look at the database.
const lookTimeout = 5 * time.Second

// look sees how the database is now.
func (a *Agent) look(ctx context.Context) *guest.StatusReport {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	r := &guest.StatusReport{GuestID: a.Bootstrap.GuestID, PublicKey: a.key.Public(), AgentVersion: a.Version}
	r.Prepared = a.watch.isPrepared() || a.notePrepared()
	if !r.Prepared {
		r.Status = datastore.Status{Status: dbaas.GuestBuilding, Cause: "The guest waits for its first order."}
		return r
	}
	r.Status = a.driver.Status(ctx)
	used, total, err := a.Host.Volume.Usage(ctx)
	if err != nil {
		r.Status.Status, r.Status.Cause = dbaas.GuestBlocked, "The data volume cannot be read."
		return r
	}
	r.VolumeUsed, r.VolumeTotal = used, total
	if full(used, total) && r.Status.Status == dbaas.GuestHealthy {
		r.Status.Status = dbaas.GuestBlocked
		r.Status.Cause = "The volume is full: resize it, or delete data."
	}
	if cause := a.watch.trouble(); cause != "" && r.Status.Status != dbaas.GuestHealthy {
		r.Status.Cause = cause
	}
	return r
}

// notePrepared looks whether there is a database, without waiting for a command at work.
func (a *Agent) notePrepared() bool {
	if !a.deed.TryLock() {
		return false
	}
	defer a.deed.Unlock()
	if a.state.Prepared {
		a.watch.setPrepared()
	}
	return a.state.Prepared
}
