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
	"path/filepath"
	"slices"
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

// Config is what an Agent works with. All fields but the last five are needed.
type Config struct {
	Bootstrap guest.Bootstrap
	Host      *host.Host
	Datastore datastore.Datastore
	Transport rpc.Transport
	Version   string       // of the agent
	Programs  *Programs    // nil: it cannot be replaced by itself
	Trust     *BrokerTrust // nil: the broker is known as the system does
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
	memory   *memory
	jobs     *jobs
	peers    *peers
	deed     turn // one command or repair at a time
	doing    doing

	replaced   chan struct{} // closed when another program is to take over
	quarantine quarantine    // guarded by deed
	announced  announced     // guarded by deed
	// addressTrouble is why the moving address was not where it belongs, as it was logged last; supervision's alone.
	addressTrouble string
	patience       time.Duration
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
	a := &Agent{Config: c, driver: c.Datastore.Guest(c.Host), watch: newWatch(), peers: newPeers(c.Clock), deed: newTurn(), patience: defaultPatience, replaced: make(chan struct{})}
	var err error
	if a.key, err = openKey(c.Host.Dir); err != nil {
		return nil, err
	}
	if a.memory, err = openMemory(c.Host.Dir); err != nil {
		return nil, err
	}
	if a.journal, err = openJournal(filepath.Join(c.Host.Dir, journalDir)); err != nil {
		return nil, err
	}
	if a.jobs, err = openJobs(filepath.Join(c.Host.Dir, jobsDir), c.Logger); err != nil {
		return nil, err
	}
	boots := a.memory.get().Boots + 1
	if err := a.memory.change(func(s *state) error { s.Boots = boots; return nil }); err != nil { // a full disk is no reason to leave the database alone
		a.Logger.Error("boot not counted", "error", err)
	}
	a.reporter = guest.NewReporter(c.Transport, c.Bootstrap.GuestID, c.Bootstrap.RPCKey, boots)
	return a, nil
}

// Run brings the database back into its journalled state and works until ctx ends, or another program is to take over
// (ErrReplaced). The database goes on running.
func (a *Agent) Run(ctx context.Context) error {
	defer a.jobs.close()
	if a.Host.Announces {
		if err := a.Host.AllowListening(); err != nil { // the database says so too when it cannot start
			a.Logger.ErrorContext(ctx, "moving addresses", "error", err)
		}
	}
	a.resume(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return guest.Serve(ctx, a.Transport, a.Bootstrap.Queue, a.Bootstrap.RPCKey, a)
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-a.replaced:
			return ErrReplaced
		}
	})
	g.Go(func() error { a.supervise(ctx); return nil })
	g.Go(func() error { a.observe(ctx); return nil })
	g.Go(func() error { a.lookAtPeers(ctx); return nil })
	g.Go(func() error { a.report(ctx); return nil })
	g.Go(func() error { a.beat(ctx); return nil })
	return g.Wait()
}

// Close lets go of the transport and of the database's processes, which go on.
func (a *Agent) Close() error {
	a.Host.Close()
	var err error
	if driver, ok := a.driver.(io.Closer); ok {
		err = driver.Close()
	}
	return errors.Join(err, a.Transport.Close())
}

// resume starts the database after the agent's own start, unless it runs already or is to stay stopped. What fails is
// tried again by supervision.
func (a *Agent) resume(ctx context.Context) {
	if !a.memory.get().Prepared {
		return
	}
	if err := a.alone(ctx, a.bringBack); err != nil {
		a.Logger.ErrorContext(ctx, "database not started", "error", err)
	}
}

// alone does a deed of the agent's own, unless a command is at work, which decides.
func (a *Agent) alone(ctx context.Context, deed func(context.Context) error) error {
	if !a.deed.tryLock() {
		return nil
	}
	defer a.deed.unlock()
	ctx, end, err := a.doing.begin(ctx, a.memory.get().GroupEpoch, false)
	if err != nil {
		return nil // something more urgent comes
	}
	defer end()
	return deed(ctx)
}

// bringBack mounts the volume, and starts the database unless it was stopped. The caller holds deed.
func (a *Agent) bringBack(ctx context.Context) error {
	if a.memory.get().Running {
		if dead, s := a.deadUnit(ctx); dead != "" {
			if wait, err := a.waitsForRole(ctx, s, true); wait || err != nil {
				return errors.Join(err, a.Host.Volume.EnsureMounted(ctx))
			}
		}
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
		if err := a.become(r.Desired, r.GroupEpoch); err != nil {
			return nil, err
		}
		if err := a.memory.change(func(s *state) error { s.Prepared, s.Running = true, true; return nil }); err != nil {
			return nil, err
		}
		return nil, a.start(ctx)
	})
}

// Restart implements [guest.API].
func (a *Agent) Restart(ctx context.Context, f guest.Fence) error {
	return a.prepared(ctx, f, nil, func(ctx context.Context) (any, error) {
		if err := a.order(true); err != nil {
			return nil, err
		}
		if err := a.driver.Stop(ctx); err != nil {
			return nil, err
		}
		return nil, a.start(ctx)
	})
}

// order notes whether the database is to run.
func (a *Agent) order(running bool) error {
	return a.memory.change(func(s *state) error { s.Running = running; return nil })
}

// Stop implements [guest.API].
func (a *Agent) Stop(ctx context.Context, r guest.StopRequest) error {
	if r.Now {
		return a.stopNow(ctx, r.Fence)
	}
	return a.prepared(ctx, r.Fence, nil, func(ctx context.Context) (any, error) {
		if err := a.order(false); err != nil {
			return nil, err
		}
		return nil, a.driver.Stop(ctx)
	})
}

// stopNow ends the database whatever is at work, which ends too. It returns when nothing of it runs any more.
func (a *Agent) stopNow(ctx context.Context, f guest.Fence) error {
	if err := a.admit(f); err != nil {
		return err
	}
	if _, done, err := a.journal.find(f.CommandID); err != nil || done {
		return err
	}
	defer a.doing.hurry()()
	if err := a.dropAddress(ctx); err != nil {
		a.Logger.ErrorContext(ctx, "moving address not dropped", "error", err)
	}
	if err := a.kill(ctx); err != nil { // before its turn comes: what is at work may be stuck
		return err
	}
	return a.inTurn(ctx, f, true, nil, a.havingDatabase(func(ctx context.Context) (any, error) {
		err := errors.Join(a.order(false), a.kill(ctx)) // also where the disk is full
		for _, unit := range a.driver.Units() {
			err = errors.Join(err, a.Host.Units.Stop(ctx, unit)) // nothing is left of it; this was asked for
		}
		return nil, err
	}))
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
		if err := driver.Upgrade(ctx, desired); err != nil {
			return nil, err
		}
		return nil, a.become(r.Desired, r.GroupEpoch)
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
		applied, err := a.driver.Configure(ctx, desired)
		if err != nil {
			return nil, err
		}
		return applied, a.become(r.Desired, r.GroupEpoch)
	})
	return applied, err
}

// become notes what the database is from now on, and since which epoch.
func (a *Agent) become(d datastore.Desired, epoch int64) error {
	d.Secrets = nil
	return a.memory.change(func(s *state) error { s.Desired, s.RoleEpoch = d, epoch; return nil })
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
	if !a.memory.get().Running {
		return nil
	}
	return a.start(ctx)
}

// Status implements [guest.API].
func (a *Agent) Status(ctx context.Context) (*guest.StatusReport, error) {
	return a.look(ctx, statusTimeout), nil
}

// Action implements [guest.API].
func (a *Agent) Action(ctx context.Context, r guest.ActionRequest) (json.RawMessage, error) {
	action, err := a.action(r.Name)
	if err != nil {
		return nil, err
	}
	var result json.RawMessage
	err = a.prepared(ctx, r.Fence, &result, func(ctx context.Context) (any, error) {
		answer, err := action(ctx, r.Args)
		if err == nil && r.Name == datastore.ActionHandover {
			err = a.yieldAddress()
		}
		if reader, ok := a.driver.(datastore.Reader); ok && slices.Contains(reader.Reads(), r.Name) {
			return fleeting{answer}, err
		}
		return answer, err
	})
	return result, err
}

func (a *Agent) action(name string) (datastore.Action, error) {
	if action, ok := a.driver.Actions()[name]; ok {
		return action, nil
	}
	return nil, dbaas.Errorf(dbaas.NotImplemented, "The datastore %s has no action %q.", a.Datastore.Manifest().Name, name)
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

const (
	// statusTimeout bounds a look for somebody who waits for it, a second at most. A database that is slower is told as one
	// that does not answer now; what follows from it is for those to say who look again.
	statusTimeout = 700 * time.Millisecond
	// beatTimeout bounds a look for a sign of life.
	beatTimeout = 5 * time.Second
	// lookTimeout bounds a look that nobody waits for. A database that answers later than that is silent: until then it may
	// just be waiting for the CPU, or be about to say that a script keeps it busy.
	lookTimeout = 8 * time.Second
)

// look sees how the database is now.
func (a *Agent) look(ctx context.Context, atMost time.Duration) *guest.StatusReport {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	r := &guest.StatusReport{GuestID: a.Bootstrap.GuestID, PublicKey: a.key.Public(), AgentVersion: a.Version, BrokerTrust: a.Trust.names()}
	r.Prepared = a.memory.get().Prepared
	if !r.Prepared {
		r.Status = datastore.Status{Status: dbaas.GuestBuilding, Cause: "The guest waits for its first order."}
		return a.amended(r)
	}
	if a.watch.isSuspended() {
		a.lookForSuspended(ctx) // it may go on since
	}
	if !a.watch.isSuspended() { // else it keeps us waiting for nothing
		r.Status = a.driver.Status(ctx)
	}
	used, total, err := a.Host.Volume.Usage(ctx)
	if err != nil {
		r.Status.Status, r.Status.Cause = dbaas.GuestBlocked, "The data volume cannot be read."
		return a.amended(r)
	}
	r.VolumeUsed, r.VolumeTotal = used, total
	if full(used, total) && r.Status.Status == dbaas.GuestHealthy {
		r.Status.Status = dbaas.GuestBlocked
		r.Status.Cause = "The volume is full: resize it, or delete data."
	}
	return a.amended(r)
}

const (
	causeDied      = "The database's process has ended unasked."
	causeSuspended = "The database's process was suspended by a signal (SIGSTOP), and nothing lets it go on unasked."
)

// amended is a look with what is known besides, without asking the database.
func (a *Agent) amended(r *guest.StatusReport) *guest.StatusReport {
	now := *r
	known := a.memory.get()
	now.GroupEpoch, now.Peers = known.GroupEpoch, a.peers.seen()
	if !now.Prepared {
		return &now
	}
	was := a.watch.remember(now.Status.Observed)
	if a.watch.isSuspended() {
		now.Status = datastore.Status{Status: dbaas.GuestCrashed, Cause: causeSuspended}
	} else if known.Running && expectsFailover(known.Desired) && now.Status.Status != dbaas.GuestFailed {
		if dead, s := a.deadUnit(context.Background()); dead != "" && s.Started != "" && !s.Stopped {
			now.Status = datastore.Status{Status: dbaas.GuestCrashed, Cause: causeDied}
		}
	}
	if cause := a.watch.trouble(); cause != "" && now.Status.Status != dbaas.GuestHealthy {
		now.Status.Cause = cause
	}
	if len(now.Status.Observed) == 0 {
		now.Was = was
	}
	return &now
}
