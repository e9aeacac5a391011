package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	gredis "github.com/grove-dbaas/grove/datastore/redis"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/inproc"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// bench is an agent at work, and the control plane on the other side.
type bench struct {
	t      *testing.T
	bus    *inproc.Bus
	host   *host.Host
	boot   guest.Bootstrap
	row    *dbaas.Guest
	client guest.API
	clock  clock.Clock // of the agent; nil is the machine's
	end    func()      // of the agent
	// datastore is what the agent drives; nil: Redis.
	datastore datastore.Datastore
	patience  time.Duration // of a dead master; 0: as it comes

	mu      sync.Mutex
	reports []guest.StatusReport
	boots   []string // of the reports, each once
	beats   int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, bus: inproc.New(inproc.Options{RedeliveryDelay: time.Millisecond}), host: datastoretest.Machine(t)}
	b.boot = guest.Bootstrap{
		GuestID: "guest-1", Datastore: "redis", Version: "7.0", Address: b.host.Address, Queue: "0123456789abcdef",
		RPCKey: []byte("a key of thirty-two bytes, or so"), Heartbeat: 50 * time.Millisecond,
	}
	b.row = &dbaas.Guest{ID: b.boot.GuestID, Queue: b.boot.Queue}
	keys := func(context.Context, string, []byte) ([]byte, error) { return b.boot.RPCKey, nil }
	b.client = guest.NewClient(b.bus.Control(), "test", keys).Guest(b.row)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go b.receive(ctx, rpc.TopicReports)
	go b.receive(ctx, rpc.TopicHeartbeats)
	return b
}

func (b *bench) receive(ctx context.Context, topic string) {
	err := b.bus.Control().Serve(ctx, topic, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if topic == rpc.TopicHeartbeats {
			b.beats++
			_, err := guest.VerifyHeartbeat(b.boot.RPCKey, m)
			return nil, err
		}
		r, err := guest.VerifyReport(b.boot.RPCKey, m)
		if err == nil {
			b.reports = append(b.reports, *r)
			if !slices.Contains(b.boots, m.BootID) {
				b.boots = append(b.boots, m.BootID)
			}
		}
		return nil, err
	})
	if err != nil {
		b.t.Error(err)
	}
}

// start runs an agent, until it takes commands; calling it again is the next agent.
func (b *bench) start() *Agent {
	b.t.Helper()
	d := b.datastore
	if d == nil {
		d = gredis.Datastore{}
	}
	agent, err := New(Config{
		Bootstrap: b.boot, Host: b.host, Datastore: d, Version: "test",
		Transport: b.bus.Guest(b.boot.GuestID, b.boot.Queue), Clock: b.clock,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	if b.patience > 0 {
		agent.patience = b.patience
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := agent.Run(ctx); err != nil {
			b.t.Errorf("the agent ended: %v", err)
		}
	}()
	b.end = sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(b.end)
	testbed.Eventually(b.t, 30*time.Second, func() error {
		if _, err := b.client.Status(b.ctx()); err != nil && strings.Contains(err.Error(), "nobody serves") {
			return err
		}
		return nil
	})
	return agent
}

func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	b.t.Cleanup(cancel)
	return ctx
}

// await waits for a report that is as wanted, the newest one.
func (b *bench) await(what string, wanted func(r guest.StatusReport) bool) guest.StatusReport {
	b.t.Helper()
	var last guest.StatusReport
	testbed.Eventually(b.t, 30*time.Second, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.reports) > 0 {
			last = b.reports[len(b.reports)-1]
		}
		if len(b.reports) == 0 || !wanted(last) {
			return fmt.Errorf("no report of %s; the last is %+v", what, last)
		}
		return nil
	})
	return last
}

func (b *bench) awaitStatus(s dbaas.GuestStatus) guest.StatusReport {
	b.t.Helper()
	return b.await(string(s), func(r guest.StatusReport) bool { return r.Status.Status == s })
}

// starts gives the boots that have reported, in the order in which they did.
func (b *bench) starts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.boots)
}

// events gives the kinds of all events so far.
func (b *bench) events() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var kinds []string
	seen := map[string]bool{}
	for _, r := range b.reports {
		for _, e := range r.Events {
			if !seen[e.ID] {
				seen[e.ID] = true
				kinds = append(kinds, e.Kind)
			}
		}
	}
	return kinds
}

func fence(deed string, epochs ...int64) guest.Fence {
	f := guest.Fence{GroupEpoch: 1, OperationID: "operation", LeaseEpoch: 1, CommandID: deed}
	if len(epochs) == 2 {
		f.GroupEpoch, f.LeaseEpoch = epochs[0], epochs[1]
	}
	return f
}

func (b *bench) desired() datastore.Desired {
	d := datastoretest.Desired("7.0", b.host)
	d.Secrets = nil
	return d
}

func (b *bench) sealed(password string) guest.Sealed {
	b.t.Helper()
	first := b.await("a key", func(r guest.StatusReport) bool { return len(r.PublicKey) > 0 })
	sealed, err := guest.SealSecrets(first.PublicKey, map[string]string{"password": password})
	if err != nil {
		b.t.Fatal(err)
	}
	return sealed
}

// prepared is a bench with a database that serves.
func prepared(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	b.start()
	err := b.client.Prepare(b.ctx(), guest.PrepareRequest{Fence: fence("prepare"), Desired: b.desired(), Sealed: b.sealed(datastoretest.Password)})
	if err != nil {
		t.Fatal(err)
	}
	b.awaitStatus(dbaas.GuestHealthy)
	return b
}

func (b *bench) tenant(password string) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: b.host.Address + ":6379", Password: password, DisableIdentity: true, Protocol: 2, MaxRetries: -1})
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (b *bench) unit() host.UnitState {
	b.t.Helper()
	s, err := b.host.Units.State(b.t.Context(), "redis")
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func TestLife(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start()
	if r := b.awaitStatus(dbaas.GuestBuilding); r.Prepared || r.GuestID != "guest-1" || r.AgentVersion != "test" || len(r.PublicKey) == 0 {
		t.Errorf("the first report is %+v", r)
	}
	if err := b.client.Restart(b.ctx(), fence("early")); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("a restart before there is a database gave %v", err)
	}
	if err := b.client.Prepare(b.ctx(), guest.PrepareRequest{Fence: fence("prepare"), Desired: b.desired(), Sealed: b.sealed(datastoretest.Password)}); err != nil {
		t.Fatal(err)
	}
	if r := b.awaitStatus(dbaas.GuestHealthy); !r.Prepared || r.VolumeTotal != 1<<30 {
		t.Errorf("the report is %+v", r)
	}
	c := b.tenant(datastoretest.Password)
	if err := c.Set(t.Context(), "kept", "yes", 0).Err(); err != nil {
		t.Fatal(err)
	}
	d := b.desired()
	d.Values = map[string]any{"hz": 15, "databases": 24}
	applied, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("configure"), Desired: d, Sealed: b.sealed("another password")})
	if err != nil || !slices.Equal(applied.RestartRequired, []string{"databases"}) {
		t.Errorf("configure gave %+v, %v", applied, err)
	}
	before := b.unit().Started
	if err := b.client.Restart(b.ctx(), fence("restart")); err != nil {
		t.Fatal(err)
	}
	b.awaitStatus(dbaas.GuestHealthy)
	if b.unit().Started == before {
		t.Error("the restart has not restarted it")
	}
	if err := b.tenant("another password").Do(t.Context(), "select", 20).Err(); err != nil {
		t.Error(err)
	}
	if err := b.client.Stop(b.ctx(), guest.StopRequest{Fence: fence("stop")}); err != nil {
		t.Fatal(err)
	}
	b.awaitStatus(dbaas.GuestShutdown)
	if err := b.client.Restart(b.ctx(), fence("start")); err != nil {
		t.Fatal(err)
	}
	b.awaitStatus(dbaas.GuestHealthy)
	if v, err := b.tenant("another password").Get(t.Context(), "kept").Result(); v != "yes" {
		t.Errorf("the data are lost: %q, %v", v, err)
	}
	if _, err := b.client.Action(b.ctx(), guest.ActionRequest{Fence: fence("action"), Name: "nonsense"}); dbaas.ErrorCode(err) != dbaas.NotImplemented {
		t.Errorf("an unknown action gave %v", err)
	}
	if events := b.events(); len(events) > 0 {
		t.Errorf("what was ordered is told as %v", events)
	}
}

// TestCommandsActOnce repeats commands, late and out of turn.
func TestCommandsActOnce(t *testing.T) {
	t.Parallel()
	b := prepared(t)
	if err := b.client.Restart(b.ctx(), fence("restart", 1, 5)); err != nil {
		t.Fatal(err)
	}
	before := b.unit().Started
	again := func(f guest.Fence, want dbaas.Code) {
		t.Helper()
		if err := b.client.Restart(b.ctx(), f); dbaas.ErrorCode(err) != want {
			t.Errorf("%+v gave %v", f, err)
		}
	}
	refused := func() {
		t.Helper()
		again(fence("restart", 1, 5), "")                   // answers from the journal
		again(fence("other", 1, 4), dbaas.Conflict)         // the lease has passed on
		again(fence("restart", 1, 4), dbaas.Conflict)       // so it has for what was done already
		again(fence("other", 0, 9), dbaas.Conflict)         // before a failover
		again(fence("../../etc/x", 1, 5), dbaas.BadRequest) // no name of a file
		again(guest.Fence{GroupEpoch: 1}, dbaas.BadRequest) // no name at all
		again(fence("x/y", 1, 5), dbaas.BadRequest)         // nor this
		job, err := b.client.Job(b.ctx(), "restart")        // what was done
		if err != nil || job.State != "succeeded" {
			t.Errorf("the job is %+v, %v", job, err)
		}
		if job, err := b.client.Job(b.ctx(), "never-heard-of"); err != nil || job.State != "unknown" {
			t.Errorf("an unknown job is %+v, %v", job, err)
		}
		if b.unit().Started != before {
			t.Fatal("a repeated or refused command has restarted the database")
		}
	}
	refused()
	b.end()
	b.start() // remembers all that
	testbed.Eventually(t, 10*time.Second, func() error {
		_, err := b.client.Status(b.ctx())
		return err
	})
	refused()
	again(fence("restart-2", 2, 6), "") // a failover, and the next holder
	again(fence("restart-3", 1, 7), dbaas.Conflict)
}

// TestRefusedCommandsAreTriedAgain: only what was done is in the journal.
func TestRefusedCommandsAreTriedAgain(t *testing.T) {
	t.Parallel()
	b := prepared(t)
	d := b.desired()
	for _, c := range []struct {
		values map[string]any
		want   dbaas.Code
	}{{map[string]any{"hz": 600}, dbaas.Unprocessable}, {map[string]any{"activedefrag": true}, dbaas.Unprocessable}, {map[string]any{"hz": 20}, ""}} {
		d.Values = c.values
		if _, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("configure"), Desired: d}); dbaas.ErrorCode(err) != c.want {
			t.Errorf("%v gave %v", c.values, err)
		}
	}
	other := newBench(t)
	other.start()
	if _, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("foreign"), Desired: d, Sealed: other.sealed("x")}); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("a secret that was sealed to another gave %v", err)
	}
}

// TestSecretsStayOut looks for the password in all that the agent writes.
func TestSecretsStayOut(t *testing.T) {
	t.Parallel()
	b := prepared(t)
	if _, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("password"), Desired: b.desired(), Sealed: b.sealed("a new password of the tenant")}); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(b.host.Dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v: others may read it", path, info.Mode())
		}
		text, err := os.ReadFile(path)
		for _, password := range []string{datastoretest.Password, "a new password of the tenant"} {
			if strings.Contains(string(text), password) {
				t.Errorf("a password stands in %s", path)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestCrash kills the database: it is brought back, with its data, and the crash is told once. A stopped one is left.
func TestCrash(t *testing.T) {
	t.Parallel()
	b := prepared(t)
	if err := b.tenant(datastoretest.Password).Set(t.Context(), "kept", "yes", 0).Err(); err != nil {
		t.Fatal(err)
	}
	before := b.unit().Started
	if err := b.host.Units.Kill(t.Context(), "redis"); err != nil {
		t.Fatal(err)
	}
	testbed.Eventually(t, 10*time.Second, func() error {
		if s := b.unit(); !s.Running || s.Started == before {
			return errors.New("it was not started again")
		}
		return b.tenant(datastoretest.Password).Get(t.Context(), "kept").Err()
	})
	testbed.Eventually(t, 10*time.Second, func() error {
		if events := b.events(); !slices.Equal(events, []string{"database.crashed"}) {
			return fmt.Errorf("the events are %v", events)
		}
		return nil
	})
	b.awaitStatus(dbaas.GuestHealthy)
	if err := b.client.Stop(b.ctx(), guest.StopRequest{Fence: fence("stop")}); err != nil {
		t.Fatal(err)
	}
	b.end()
	b.start()
	b.awaitStatus(dbaas.GuestShutdown)
	b.await("the new agent", func(r guest.StatusReport) bool { return r.Status.Status == dbaas.GuestShutdown })
	if b.unit().Running {
		t.Error("a stopped database was started by the next agent")
	}
}

// TestNextAgent takes over what runs, and starts what does not.
func TestNextAgent(t *testing.T) {
	t.Parallel()
	b := prepared(t)
	before := b.unit().Started
	b.end()
	if !b.unit().Running {
		t.Fatal("the database has ended with its agent")
	}
	b.start()
	b.awaitStatus(dbaas.GuestHealthy)
	if b.unit().Started != before {
		t.Error("the next agent has restarted the database")
	}
	b.end()
	if err := b.host.Units.Kill(t.Context(), "redis"); err != nil {
		t.Fatal(err)
	}
	b.start()
	testbed.Eventually(t, 10*time.Second, func() error { return b.tenant(datastoretest.Password).Ping(t.Context()).Err() })
}

// TestBackOff asks for restarts as time goes on: at once, then less and less often, until it was stable for a while.
func TestBackOff(t *testing.T) {
	t.Parallel()
	now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	a := &Agent{Config: Config{Clock: now}, watch: newWatch()}
	var waits []time.Duration
	for range 9 {
		var wait time.Duration
		for !a.mayRestart() {
			now.Advance(100 * time.Millisecond)
			wait += 100 * time.Millisecond
		}
		waits = append(waits, wait)
	}
	want := []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second}
	if !slices.Equal(waits, want) {
		t.Errorf("it waits for %v; want %v", waits, want)
	}
	now.Advance(stableAfter + time.Second)
	if !a.mayRestart() || a.mayRestart() {
		t.Error("after a stable while it begins anew")
	}
	now.Advance(-10 * 365 * 24 * time.Hour)
	if !a.mayRestart() {
		t.Error("a clock that is set back keeps it from restarting")
	}
}

// TestSilentControlPlane takes the broker away: supervision goes on, and afterwards the newest status and every event
// arrive.
func TestSilentControlPlane(t *testing.T) {
	t.Parallel()
	b := prepared(t)
	b.bus.SetFaults(func(*rpc.Envelope) inproc.Faults { return inproc.Faults{Refuse: true} })
	for range 3 {
		before := b.unit().Started
		if err := b.host.Units.Kill(t.Context(), "redis"); err != nil {
			t.Fatal(err)
		}
		testbed.Eventually(t, 20*time.Second, func() error {
			if s := b.unit(); !s.Running || s.Started == before {
				return errors.New("it was not started again")
			}
			return b.tenant(datastoretest.Password).Ping(t.Context()).Err()
		})
	}
	b.bus.SetFaults(nil)
	testbed.Eventually(t, 10*time.Second, func() error {
		if events := b.events(); len(events) != 3 {
			return fmt.Errorf("the events are %v", events)
		}
		return nil
	})
	b.awaitStatus(dbaas.GuestHealthy)
}

// TestReportsAreRepeated: what does not change is told again after a while, for the control plane may have lost it.
func TestReportsAreRepeated(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	b.clock = now
	b.start()
	told := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.reports)
	}
	b.awaitStatus(dbaas.GuestBuilding)
	for _, step := range []time.Duration{repeatAfter, -time.Hour} { // a clock that is set back is no reason for silence
		before := told()
		now.Advance(step)
		testbed.Eventually(t, 10*time.Second, func() error {
			if told() == before {
				return errors.New("nothing is told again")
			}
			return nil
		})
	}
}

// TestStartsAreCounted: each agent's reports are known to be newer than those of the one before it.
func TestStartsAreCounted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for range 3 {
		n := len(b.starts())
		b.start()
		testbed.Eventually(t, 10*time.Second, func() error {
			if len(b.starts()) == n {
				return errors.New("the agent has not reported")
			}
			return nil
		})
		b.end()
	}
	starts := b.starts()
	for i := 1; i < len(starts); i++ {
		if !dbaas.BootedBefore(starts[i-1], starts[i]) {
			t.Errorf("start %q does not come before %q", starts[i-1], starts[i])
		}
	}
}

// TestEventsWhileSending: an event that comes while a report is on its way is not lost, even when the oldest had to go.
func TestEventsWhileSending(t *testing.T) {
	t.Parallel()
	w := newWatch()
	for i := range mostEvents {
		w.tell("kind", fmt.Sprint(i))
	}
	w.offer(&guest.StatusReport{})
	r := w.take()
	w.tell("kind", "meanwhile")
	w.sent(r)
	w.offer(&guest.StatusReport{})
	if next := w.take(); len(next.Events) != 1 || next.Events[0].Message != "meanwhile" {
		t.Errorf("the next report carries %+v", next.Events)
	}
	if len(r.Events) != mostEvents || r.Events[mostEvents-1].Message != fmt.Sprint(mostEvents-1) {
		t.Error("a report changes while it is sent")
	}
}

// TestHeartbeats come by themselves, with the numbers of the database.
func TestHeartbeats(t *testing.T) {
	t.Parallel()
	b := prepared(t)
	testbed.Eventually(t, 10*time.Second, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.beats < 5 {
			return fmt.Errorf("%d heartbeats", b.beats)
		}
		return nil
	})
	h := heartbeatOf(&guest.StatusReport{VolumeUsed: 1, VolumeTotal: 2, Status: datastore.Status{Metrics: map[string]float64{"keys": 3}}})
	if h.VolumeUsed != 1 || h.VolumeTotal != 2 || h.Metrics["keys"] != 3 {
		t.Errorf("a heartbeat carries %+v", h)
	}
}

// fakeVolume has the use that a test says.
type fakeVolume struct {
	host.Volume
	mu      sync.Mutex
	percent int64
}

func (v *fakeVolume) set(percent int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.percent = percent
}

func (v *fakeVolume) Usage(context.Context) (used, total int64, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.percent << 20, 100 << 20, nil
}

// TestDisk fills the volume and empties it again.
func TestDisk(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	volume := &fakeVolume{Volume: b.host.Volume, percent: 10}
	b.host.Volume = volume
	b.start()
	if err := b.client.Prepare(b.ctx(), guest.PrepareRequest{Fence: fence("prepare"), Desired: b.desired(), Sealed: b.sealed(datastoretest.Password)}); err != nil {
		t.Fatal(err)
	}
	b.awaitStatus(dbaas.GuestHealthy)
	for _, step := range []struct {
		percent int64
		events  []string
		status  dbaas.GuestStatus
	}{
		{74, nil, dbaas.GuestHealthy},
		{75, []string{"disk.usage"}, dbaas.GuestHealthy},
		{74, []string{"disk.usage"}, dbaas.GuestHealthy}, // wavers
		{76, []string{"disk.usage"}, dbaas.GuestHealthy},
		{90, []string{"disk.usage", "disk.usage"}, dbaas.GuestHealthy},
		{100, []string{"disk.usage", "disk.usage", "disk.usage"}, dbaas.GuestBlocked},
		{60, []string{"disk.usage", "disk.usage", "disk.usage", "disk.recovered"}, dbaas.GuestHealthy},
	} {
		volume.set(step.percent)
		testbed.Eventually(t, 30*time.Second, func() error {
			if r, err := b.client.Status(b.ctx()); err != nil || r.Status.Status != step.status || (r.Status.Cause == "") != (step.status == dbaas.GuestHealthy) {
				return fmt.Errorf("at %d %% it is %+v, %v", step.percent, r, err)
			}
			return nil
		})
		testbed.Eventually(t, 10*time.Second, func() error {
			if events := b.events(); !slices.Equal(events, step.events) {
				return fmt.Errorf("at %d %% the events are %v, want %v", step.percent, events, step.events)
			}
			return nil
		})
	}
	volume.set(100)
	b.await("a full disk", func(r guest.StatusReport) bool {
		return r.Status.Status == dbaas.GuestBlocked && strings.Contains(r.Status.Cause, "full")
	})
	if _, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("grow"), Desired: b.desired()}); err != nil {
		t.Errorf("a full volume cannot be grown: %v", err)
	}
	if err := b.client.Stop(b.ctx(), guest.StopRequest{Fence: fence("stop")}); err != nil {
		t.Errorf("a database with a full volume cannot be stopped: %v", err)
	}
}

func TestDiskLevels(t *testing.T) {
	t.Parallel()
	a := &Agent{watch: newWatch()}
	level := diskLevel(0)
	for _, c := range []struct {
		percent int64
		want    diskLevel
	}{{50, 0}, {75, 75}, {71, 75}, {89, 75}, {90, 90}, {86, 90}, {84, 75}, {100, 100}, {97, 100}, {94, 90}, {69, 0}, {100, 100}, {0, 0}} {
		level = a.watchDisk(level, &guest.StatusReport{VolumeUsed: c.percent, VolumeTotal: 100})
		if level != c.want {
			t.Errorf("at %d %% the level is %d; want %d", c.percent, level, c.want)
		}
	}
}

// lostVolume cannot be mounted for a while.
type lostVolume struct {
	host.Volume
	mu   sync.Mutex
	lost bool
}

func (v *lostVolume) set(lost bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lost = lost
}

func (v *lostVolume) EnsureMounted(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lost {
		return errors.New("no such device")
	}
	return v.Volume.EnsureMounted(ctx)
}

// TestVolumeAway: the database is not started without its volume, says why, tells no crash, and comes back with it.
func TestVolumeAway(t *testing.T) {
	t.Parallel()
	b := prepared(t)
	b.end()
	if err := b.host.Units.Stop(t.Context(), "redis"); err != nil { // as by a machine that goes down
		t.Fatal(err)
	}
	volume := &lostVolume{Volume: b.host.Volume, lost: true}
	b.host.Volume = volume
	b.start()
	b.await("the volume's absence", func(r guest.StatusReport) bool {
		return r.Status.Status != dbaas.GuestHealthy && strings.Contains(r.Status.Cause, "cannot be mounted")
	})
	volume.set(false)
	b.awaitStatus(dbaas.GuestHealthy)
	if events := b.events(); len(events) > 0 {
		t.Errorf("a start that could not be is told as %v", events)
	}
}

// TestBoundedMemory keeps telling while nobody listens.
func TestBoundedMemory(t *testing.T) {
	t.Parallel()
	w := newWatch()
	for i := range 10 * mostEvents {
		w.tell("kind", fmt.Sprint(i))
		w.offer(&guest.StatusReport{})
	}
	r := w.take()
	if len(r.Events) != mostEvents || r.Events[mostEvents-1].Message != fmt.Sprint(10*mostEvents-1) {
		t.Errorf("%d events are kept, the last %+v", len(r.Events), r.Events[len(r.Events)-1])
	}
	w.sent(r)
	if w.untold() || w.take() != nil {
		t.Error("what was sent is kept")
	}
	j, err := openJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * journalSize {
		if _, err := j.record(fmt.Sprintf("command-%04d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(j.dir)
	if err != nil || len(entries) >= 2*journalSize {
		t.Errorf("the journal has %d answers, %v", len(entries), err)
	}
	if _, done, err := j.find(fmt.Sprintf("command-%04d", 3*journalSize-1)); err != nil || !done {
		t.Errorf("the last answer is gone: %v", err)
	}
	var s state
	for i := range 10 * mostFences {
		s.remember(fmt.Sprint(i), 1)
	}
	if len(s.Leases) != mostFences || len(s.Order) != mostFences {
		t.Errorf("%d leases are remembered", len(s.Leases))
	}
}

// TestDamagedFiles: an agent that cannot read what it must know does not guess.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{stateFile, keyFile} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		h := datastoretest.Machine(t)
		h.Dir = dir
		if _, err := New(Config{Host: h, Datastore: gredis.Datastore{}}); err == nil {
			t.Errorf("a damaged %s is taken", name)
		}
	}
}

func FuzzJournalPath(f *testing.F) {
	for _, seed := range []string{"", ".", "..", "a/b", "op.prepare", "a\x00b", strings.Repeat("x", 300)} {
		f.Add(seed)
	}
	j := &journal{dir: "/journal"}
	f.Fuzz(func(t *testing.T, id string) {
		path, err := j.path(id)
		if err == nil && filepath.Dir(path) != "/journal" {
			t.Errorf("%q leads to %s", id, path)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"prepared": true, "leases": {"a": 1}, "order": ["a"]}`))
	f.Add([]byte(`{"order": ["a", "a"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s state
		if json.Unmarshal(text, &s) != nil {
			return
		}
		for i := range 2 * mostFences {
			s.remember(fmt.Sprint("op", i), int64(i))
		}
		if len(s.Order) > mostFences {
			t.Errorf("%d operations are remembered", len(s.Order))
		}
	})
}
