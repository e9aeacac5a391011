package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	gredis "github.com/grove-dbaas/grove/datastore/redis"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// played is Redis with actions and peers of the test's choice.
type played struct {
	gredis.Datastore
	actions  map[string]datastore.Action
	patience time.Duration // of the agent

	mu    sync.Mutex
	views map[string]datastore.PeerView // by guest id
	// configured is what the database was made last.
	configured datastore.Desired
	configure  func(ctx context.Context) error // what Configure does besides; nil: nothing
	probes     int
	silent     bool // the database answers nothing
}

// Guest implements [datastore.Datastore].
func (p *played) Guest(h *host.Host) datastore.Guest {
	return &playedGuest{Guest: p.Datastore.Guest(h), play: p}
}

// see says how the others look from now on.
func (p *played) see(views ...datastore.PeerView) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.views = map[string]datastore.PeerView{}
	for _, v := range views {
		p.views[v.GuestID] = v
	}
}

func (p *played) silence(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = on
}

func (p *played) role() datastore.Desired {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.configured
}

// playedGuest implements [datastore.Replica] by the book of the test; the database itself knows nothing of roles.
type playedGuest struct {
	datastore.Guest
	play *played
}

func (g *playedGuest) Actions() map[string]datastore.Action { return g.play.actions }

func (g *playedGuest) Reads() []string { return []string{"look"} }

func (g *playedGuest) Configure(ctx context.Context, d datastore.Desired) (datastore.Applied, error) {
	g.play.mu.Lock()
	g.play.configured = d
	configure := g.play.configure
	g.play.mu.Unlock()
	if configure != nil {
		if err := configure(ctx); err != nil {
			return datastore.Applied{}, err
		}
	}
	d.Master, d.Peers, d.Failover, d.Durability = nil, nil, false, nil
	return g.Guest.Configure(ctx, d)
}

func (g *playedGuest) Prepare(ctx context.Context, d datastore.Desired) error {
	d.Master, d.Peers, d.Failover, d.Durability = nil, nil, false, nil
	return g.Guest.Prepare(ctx, d)
}

func (g *playedGuest) Status(ctx context.Context) datastore.Status {
	g.play.mu.Lock()
	silent := g.play.silent
	g.play.mu.Unlock()
	if silent {
		<-ctx.Done()
		return datastore.Status{Status: dbaas.GuestBlocked, Cause: "silent", Silent: true}
	}
	return g.Guest.Status(ctx)
}

func (g *playedGuest) Position(context.Context) (datastore.Position, error) {
	return datastore.Position{}, nil
}

func (g *playedGuest) Handover(context.Context, datastore.Endpoint) error { return nil }

func (g *playedGuest) Probe(ctx context.Context, peer datastore.Endpoint) datastore.PeerView {
	g.play.mu.Lock()
	v, ok := g.play.views[peer.GuestID]
	g.play.probes++
	g.play.mu.Unlock()
	if !ok {
		v = datastore.PeerView{Cause: causeRefused}
	}
	if v.Cause == "timeout" {
		<-ctx.Done()
	}
	return v
}

// play is a bench whose datastore is played, with a database that serves.
func play(t *testing.T, p *played, change func(*datastore.Desired)) *bench {
	t.Helper()
	b := newBench(t)
	b.datastore, b.patience = p, p.patience
	b.start()
	d := b.desired()
	if change != nil {
		change(&d)
	}
	if err := b.client.Prepare(b.ctx(), guest.PrepareRequest{Fence: fence("prepare"), Desired: d, Sealed: b.sealed(datastoretest.Password)}); err != nil {
		t.Fatal(err)
	}
	b.awaitStatus(dbaas.GuestHealthy)
	return b
}

func action(deed, name string, epochs ...int64) guest.ActionRequest {
	return guest.ActionRequest{Fence: fence(deed, epochs...), Name: name, Args: json.RawMessage(`{"n":1}`)}
}

// restart is the next agent, which answers.
func (b *bench) restart() {
	b.t.Helper()
	b.end()
	b.start()
	testbed.Eventually(b.t, 30*time.Second, func() error {
		_, err := b.client.Status(b.ctx())
		return err
	})
}

// awaitJob waits until a job stands as wanted.
func (b *bench) awaitJob(id, state string) *guest.JobStatus {
	b.t.Helper()
	var job *guest.JobStatus
	testbed.Eventually(b.t, 30*time.Second, func() (err error) {
		if job, err = b.client.Job(b.ctx(), id); err == nil && job.State != state {
			err = fmt.Errorf("job %s is %+v", id, job)
		}
		return err
	})
	return job
}

// moves is an action that tells how far it is and waits to be let go on.
type moves struct {
	mu    sync.Mutex
	runs  int
	ended []error
	leave chan struct{}
}

func newMoves() *moves { return &moves{leave: make(chan struct{})} }

func (m *moves) act(ctx context.Context, args json.RawMessage) (any, error) {
	m.mu.Lock()
	m.runs++
	m.mu.Unlock()
	datastore.ReportProgress(ctx, "moved "+string(args))
	select {
	case <-m.leave:
		return map[string]int{"moved": 7}, nil
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		m.ended = append(m.ended, context.Cause(ctx))
		return nil, context.Cause(ctx)
	}
}

func (m *moves) counts() (runs, cut int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runs, len(m.ended)
}

func TestJob(t *testing.T) {
	t.Parallel()
	m := newMoves()
	fails := func(_ context.Context, _ json.RawMessage) (any, error) {
		return nil, dbaas.Errorf(dbaas.Unprocessable, "There is no room.")
	}
	accident := func(_ context.Context, _ json.RawMessage) (any, error) { return nil, errors.New("secret detail") }
	b := play(t, &played{actions: map[string]datastore.Action{"move": m.act, "fail": fails, "accident": accident}}, nil)

	for _, id := range []string{"one", "two"} { // side by side
		if err := b.client.BeginAction(b.ctx(), action(id, "move")); err != nil {
			t.Fatal(err)
		}
	}
	testbed.Eventually(t, 30*time.Second, func() error {
		job, err := b.client.Job(b.ctx(), "two")
		if err == nil && (job.State != "running" || job.Progress != `moved {"n":1}`) {
			err = fmt.Errorf("the job is %+v", job)
		}
		return err
	})
	if err := b.client.BeginAction(b.ctx(), action("one", "move", 1, 2)); err != nil { // the next holder of the operation
		t.Error(err)
	}
	if err := b.client.BeginAction(b.ctx(), action("one", "move", 1, 1)); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("the holder before it gets %v", err)
	}
	if err := b.client.Restart(b.ctx(), fence("restart", 1, 2)); err != nil { // jobs hold up no command
		t.Error(err)
	}
	close(m.leave)
	for _, id := range []string{"one", "two"} {
		if job := b.awaitJob(id, "succeeded"); string(job.Result) != `{"moved":7}` || job.Error != nil {
			t.Errorf("the job is %+v", job)
		}
	}
	if err := b.client.BeginAction(b.ctx(), action("one", "move", 1, 2)); err != nil {
		t.Error(err)
	}
	if runs, _ := m.counts(); runs != 2 {
		t.Errorf("two jobs ran %d times", runs)
	}
	for id, want := range map[string]dbaas.Error{
		"fail":     {Code: dbaas.Unprocessable, Message: "There is no room."},
		"accident": {Code: dbaas.Internal},
	} {
		if err := b.client.BeginAction(b.ctx(), action(id, id, 1, 2)); err != nil {
			t.Fatal(err)
		}
		job := b.awaitJob(id, "failed")
		if job.Error == nil || job.Error.Code != want.Code || want.Message != "" && job.Error.Message != want.Message || job.Error.Message == "secret detail" {
			t.Errorf("the job is %+v, %+v", job, job.Error)
		}
	}
	if err := b.client.BeginAction(b.ctx(), action("x", "nonsense", 1, 2)); dbaas.ErrorCode(err) != dbaas.NotImplemented {
		t.Errorf("an unknown action gave %v", err)
	}
	if err := b.client.BeginAction(b.ctx(), action("../x", "move", 1, 2)); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("an id that is no file's name gave %v", err)
	}
	b.restart()
	b.awaitJob("one", "succeeded")
	b.awaitJob("fail", "failed")
}

// TestLostJob: of a job that its agent did not see ending nobody knows how far it came; it may be begun again.
func TestLostJob(t *testing.T) {
	t.Parallel()
	m := newMoves()
	b := play(t, &played{actions: map[string]datastore.Action{"move": m.act}}, nil)
	if err := b.client.BeginAction(b.ctx(), action("move", "move")); err != nil {
		t.Fatal(err)
	}
	b.awaitJob("move", "running")
	b.end()
	if _, cut := m.counts(); cut != 1 {
		t.Errorf("%d jobs were ended with the agent", cut)
	}
	b.restart()
	b.awaitJob("move", "unknown")
	if err := b.client.BeginAction(b.ctx(), action("move", "move")); err != nil {
		t.Fatal(err)
	}
	close(m.leave)
	b.awaitJob("move", "succeeded")
}

// TestJobBeforeFailover: a higher epoch ends the jobs of before, whatever it comes with.
func TestJobBeforeFailover(t *testing.T) {
	t.Parallel()
	m := newMoves()
	quick := func(context.Context, json.RawMessage) (any, error) { return "here", nil }
	b := play(t, &played{actions: map[string]datastore.Action{"move": m.act, "position": quick}}, nil)
	if err := b.client.BeginAction(b.ctx(), action("move", "move", 1, 1)); err != nil {
		t.Fatal(err)
	}
	b.awaitJob("move", "running")
	if _, err := b.client.Action(b.ctx(), action("look", "position", 2, 1)); err != nil {
		t.Fatal(err)
	}
	b.awaitJob("move", "unknown")
	if _, cut := m.counts(); cut != 1 {
		t.Errorf("%d jobs were cut off", cut)
	}
	if err := b.client.BeginAction(b.ctx(), action("late", "move", 1, 9)); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("a job of before the failover gave %v", err)
	}
	testbed.Eventually(t, 30*time.Second, func() error { return b.client.BeginAction(b.ctx(), action("move", "move", 2, 1)) })
	b.awaitJob("move", "running")
	b.await("the epoch", func(r guest.StatusReport) bool { return r.GroupEpoch == 2 })
}

// TestStopNow: a fence waits for nobody. A long command ends, a suspended process dies, and the database stays stopped.
func TestStopNow(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"running", "suspended", "in a long command", "waiting for a suspended one"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &played{}
			b := play(t, p, nil)
			if name != "running" && name != "in a long command" {
				if err := unix.Kill(b.unit().PID, unix.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			begun, ended := make(chan struct{}), make(chan error, 1)
			switch name {
			case "in a long command":
				p.configure = func(ctx context.Context) error { close(begun); <-ctx.Done(); return ctx.Err() }
				go func() {
					_, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("configure"), Desired: b.desired()})
					ended <- err
				}()
				<-begun
			case "waiting for a suspended one":
				go func() { ended <- b.client.Restart(b.ctx(), fence("restart")) }()
				testbed.Eventually(t, 30*time.Second, func() error {
					if r, err := b.client.Status(b.ctx()); err != nil || r.GroupEpoch != 1 {
						return fmt.Errorf("the restart has not come: %v", err)
					}
					return nil
				})
			default:
				ended <- nil
			}
			if err := b.client.Stop(b.ctx(), guest.StopRequest{Fence: fence("stop", 1, 1), Now: true}); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil && dbaas.ErrorCode(err) != dbaas.Conflict {
				t.Errorf("the other command gave %v", err)
			}
			if b.unit().Running {
				t.Error("the database runs")
			}
			b.awaitStatus(dbaas.GuestShutdown)
			b.restart()
			b.awaitStatus(dbaas.GuestShutdown)
			if b.unit().Running {
				t.Error("the next agent has started it")
			}
			if err := b.client.Restart(b.ctx(), fence("again")); err != nil {
				t.Fatal(err)
			}
			b.awaitStatus(dbaas.GuestHealthy)
		})
	}
}

// TestCommandsWaitForSoLong: a command waits for another no longer than its caller does, and one of before a failover
// does not keep one of after it waiting.
func TestCommandsWaitForSoLong(t *testing.T) {
	t.Parallel()
	p := &played{}
	b := play(t, p, nil)
	begun := make(chan struct{})
	var once sync.Once
	p.mu.Lock()
	p.configure = func(ctx context.Context) error {
		first := false
		once.Do(func() { first = true; close(begun) })
		if first {
			<-ctx.Done()
		}
		return ctx.Err()
	}
	p.mu.Unlock()
	ended := make(chan error, 1)
	go func() {
		_, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("long"), Desired: b.desired()})
		ended <- err
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := b.client.Restart(ctx, fence("restart")); dbaas.ErrorCode(err) != dbaas.Unavailable {
		t.Errorf("a command that waited gave %v", err)
	}
	if _, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("failover", 2, 1), Desired: b.desired()}); err != nil {
		t.Error(err)
	}
	if err := <-ended; dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("a command of before the failover gave %v", err)
	}
}

// TestLookingIsNotJournalled: a question that is repeated is asked anew, and takes no place in the journal; a deed is done once.
func TestLookingIsNotJournalled(t *testing.T) {
	t.Parallel()
	counts := map[string]*atomic.Int64{"look": {}, "do": {}}
	p := &played{actions: map[string]datastore.Action{}}
	for name, n := range counts {
		p.actions[name] = func(context.Context, json.RawMessage) (any, error) { return n.Add(1), nil }
	}
	b := play(t, p, nil)
	for range 2 {
		for name := range counts {
			if _, err := b.client.Action(b.ctx(), guest.ActionRequest{Fence: fence(name+"-1", 1, 5), Name: name}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if looks, deeds := counts["look"].Load(), counts["do"].Load(); looks != 2 || deeds != 1 {
		t.Errorf("asked twice it looked %d times and did it %d times", looks, deeds)
	}
}
