package guestagent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/inproc"
	"github.com/grove-dbaas/grove/internal/testbed"
)

var (
	livingReplica = datastore.PeerView{GuestID: "peer", Alive: true, Role: datastore.RoleReplica}
	livingMaster  = datastore.PeerView{GuestID: "peer", Alive: true, Role: datastore.RoleMaster}
)

// pair makes what is desired that of the master of a hot standby.
func pair(class dbaas.Durability) func(*datastore.Desired) {
	return func(d *datastore.Desired) {
		d.Peers, d.Failover = []datastore.Endpoint{endpoint("peer")}, true
		d.Durability = &dbaas.HighAvailability{Durability: class}
	}
}

// crash kills the database and waits until that is told, with a cause; it gives the process that died.
func (b *bench) crash() string {
	b.t.Helper()
	died := b.unit().Started
	began := time.Now()
	if err := b.host.Units.Kill(b.t.Context(), "redis"); err != nil {
		b.t.Fatal(err)
	}
	r := b.awaitStatus(dbaas.GuestCrashed)
	b.t.Logf("told after %v: %s", time.Since(began).Round(time.Millisecond), r.Status.Cause)
	return died
}

// awaitStarted waits until another process than died serves.
func (b *bench) awaitStarted(died string) {
	b.t.Helper()
	testbed.Eventually(b.t, time.Minute, func() error {
		if s := b.unit(); !s.Running || s.Started == died {
			return errors.New("it was not started again")
		}
		return b.tenant(datastoretest.Password).Ping(b.t.Context()).Err()
	})
}

// requireWaiting looks for a while whether a dead master stays so.
func (b *bench) requireWaiting(died string, p *played) {
	b.t.Helper()
	p.mu.Lock()
	from := p.probes
	p.mu.Unlock()
	testbed.Eventually(b.t, time.Minute, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.probes < from+6 { // three seconds
			return fmt.Errorf("%d probes", p.probes-from)
		}
		return nil
	})
	if s := b.unit(); s.Running || s.Started != died {
		b.t.Error("it was started, though another may be taking over")
	}
}

// TestDeadMasterWaitsForItsRole: it is told at once that it died; it starts when it has its new role.
func TestDeadMasterWaitsForItsRole(t *testing.T) {
	t.Parallel()
	p := &played{patience: time.Hour}
	p.see(livingReplica)
	b := play(t, p, pair(dbaas.DurabilityAsync))
	died := b.crash()
	b.requireWaiting(died, p)
	d := b.desired()
	pair(dbaas.DurabilityAsync)(&d)
	if _, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("of before"), Desired: d}); err != nil {
		t.Fatal(err)
	}
	if b.unit().Running {
		t.Error("it was started by a configuration of before the failover")
	}
	master := endpoint("peer")
	d.Master = &master
	if _, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("role", 2, 1), Desired: d}); err != nil {
		t.Fatal(err)
	}
	b.awaitStarted(died)
	b.awaitStatus(dbaas.GuestHealthy)
	if events := b.events(); !slices.Equal(events, []string{"database.crashed"}) {
		t.Errorf("the events are %v", events)
	}
	died = b.unit().Started // as a replica it is started again at once
	if err := b.host.Units.Kill(t.Context(), "redis"); err != nil {
		t.Fatal(err)
	}
	b.awaitStarted(died)
}

// TestDeadMasterStaysMaster when it is told so, in a new epoch.
func TestDeadMasterStaysMaster(t *testing.T) {
	t.Parallel()
	p := &played{patience: time.Hour}
	p.see(livingReplica)
	b := play(t, p, pair(dbaas.DurabilityBounded))
	died := b.crash()
	d := b.desired()
	pair(dbaas.DurabilityBounded)(&d)
	if _, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("role", 2, 1), Desired: d}); err != nil {
		t.Fatal(err)
	}
	b.awaitStarted(died)
	if p.role().Master != nil {
		t.Error("it follows somebody")
	}
}

// TestNobodyTellsTheRole: with the control plane away a dead master asks its peers, when a failover would be over.
func TestNobodyTellsTheRole(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		class  dbaas.Durability
		peer   datastore.PeerView
		closed bool
		master bool // it follows one then
	}{
		{"the peer took over", dbaas.DurabilityBounded, livingMaster, false, true},
		{"the peer still follows", dbaas.DurabilityBounded, livingReplica, false, false},
		{"nobody is there, asynchronous", dbaas.DurabilityAsync, datastore.PeerView{GuestID: "peer", Cause: "timeout"}, false, false},
		{"nobody is there, bounded", dbaas.DurabilityBounded, datastore.PeerView{GuestID: "peer", Cause: causeRefused}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := &played{patience: 3 * time.Second}
			p.see(livingReplica)
			b := play(t, p, pair(c.class))
			b.bus.SetFaults(func(*rpc.Envelope) inproc.Faults { return inproc.Faults{Refuse: true} })
			died := b.unit().Started
			began := time.Now()
			if err := b.host.Units.Kill(t.Context(), "redis"); err != nil {
				t.Fatal(err)
			}
			p.see(c.peer)
			if !c.closed {
				b.awaitStarted(died)
				if waited := time.Since(began); waited < p.patience {
					t.Errorf("it was started after %v", waited)
				}
			}
			b.bus.SetFaults(nil)
			if c.closed {
				b.await("a closed database", func(r guest.StatusReport) bool { return r.Status.Cause == causeClosed })
				b.requireWaiting(died, p)
				p.see(livingReplica) // there it is again, and has not taken over
				b.awaitStarted(died)
			}
			if follows := p.role().Master != nil; follows != c.master {
				t.Errorf("it follows the peer: %v", follows)
			}
			testbed.Eventually(t, 30*time.Second, func() error {
				if told := slices.Contains(b.events(), "database.follows"); told != c.master {
					return fmt.Errorf("the events are %v", b.events())
				}
				return nil
			})
			b.awaitStatus(dbaas.GuestHealthy)
		})
	}
}

// TestStaysClosed tells when a dead master that nobody tells its role goes on as the master.
func TestStaysClosed(t *testing.T) {
	t.Parallel()
	refused, silent := datastore.PeerView{Cause: causeRefused}, datastore.PeerView{Cause: "timeout"}
	for _, c := range []struct {
		class dbaas.Durability
		kept  dbaas.Persistence
		boot  bool
		peer  datastore.PeerView
		cause string
	}{
		{dbaas.DurabilityAsync, dbaas.PersistenceAOF, false, livingReplica, ""},
		{dbaas.DurabilityAsync, dbaas.PersistenceAOF, true, livingReplica, ""},
		{dbaas.DurabilityAsync, "", true, silent, ""},
		{dbaas.DurabilityAsync, dbaas.PersistenceRDB, false, livingReplica, causeOutdated},
		{dbaas.DurabilityAsync, dbaas.PersistenceRDB, false, refused, causeOutdated},
		{dbaas.DurabilityAsync, dbaas.PersistenceNone, false, livingReplica, causeOutdated},
		{dbaas.DurabilityAsync, dbaas.PersistenceNone, true, silent, causeOutdated},
		{dbaas.DurabilityAsync, dbaas.PersistenceNone, true, refused, ""},
		{dbaas.DurabilityBounded, dbaas.PersistenceAOF, false, livingReplica, ""},
		{dbaas.DurabilityBounded, dbaas.PersistenceAOF, true, livingReplica, causeOutdated},
		{dbaas.DurabilityBounded, dbaas.PersistenceNone, false, refused, causeClosed},
	} {
		var d datastore.Desired
		pair(c.class)(&d)
		d.Persistence = c.kept
		if cause := staysClosed(d, []datastore.PeerView{c.peer}, c.boot); cause != c.cause {
			t.Errorf("%+v: %q", c, cause)
		}
	}
}

// TestReturningServer: one that was away asks first who the master is.
func TestReturningServer(t *testing.T) {
	t.Parallel()
	for name, peer := range map[string]datastore.PeerView{"another took over": livingMaster, "nobody took over": livingReplica} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &played{patience: 3 * time.Second}
			p.see(peer)
			if peer == livingMaster {
				p.patience = time.Hour
			}
			b := play(t, p, pair(dbaas.DurabilityAsync))
			b.end()
			died := b.unit().Started
			if err := b.host.Units.Kill(t.Context(), "redis"); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			b.start()
			b.awaitStarted(died)
			t.Logf("started after %v", time.Since(began).Round(time.Millisecond))
			if follows := p.role().Master != nil; follows != (peer == livingMaster) {
				t.Errorf("it follows the peer: %v", follows)
			}
			if peer == livingReplica && time.Since(began) < p.patience {
				t.Error("a failover that is at work was not waited for")
			}
			b.awaitStatus(dbaas.GuestHealthy)
			b.end()
			b.start() // knows its role
			b.awaitStatus(dbaas.GuestHealthy)
			died = b.unit().Started
			if peer == livingMaster {
				if err := b.host.Units.Kill(t.Context(), "redis"); err != nil {
					t.Fatal(err)
				}
				b.awaitStarted(died)
			}
		})
	}
}

// TestMasterAlone: with nobody who could take over, it is started again at once, in whatever class.
func TestMasterAlone(t *testing.T) {
	t.Parallel()
	b := play(t, &played{patience: time.Hour}, func(d *datastore.Desired) { pair(dbaas.DurabilityBounded)(d); d.Peers = nil })
	died := b.unit().Started
	if err := b.host.Units.Kill(t.Context(), "redis"); err != nil {
		t.Fatal(err)
	}
	b.awaitStarted(died)
}

// TestDeathDuringCommand: that a command is at work keeps nobody from hearing of the master's death, and its fence ends it.
func TestDeathDuringCommand(t *testing.T) {
	t.Parallel()
	p := &played{patience: time.Hour}
	p.see(livingReplica)
	b := play(t, p, pair(dbaas.DurabilityAsync))
	m := newMoves()
	p.mu.Lock()
	p.configure = func(ctx context.Context) error { _, err := m.act(ctx, nil); return err }
	p.mu.Unlock()
	ended := make(chan error, 1)
	d := b.desired()
	pair(dbaas.DurabilityAsync)(&d)
	go func() {
		_, err := b.client.Configure(b.ctx(), guest.ConfigureRequest{Fence: fence("configure"), Desired: d})
		ended <- err
	}()
	testbed.Eventually(t, 30*time.Second, func() error {
		if runs, _ := m.counts(); runs == 0 {
			return errors.New("the command has not begun")
		}
		return nil
	})
	b.crash()
	if err := b.client.Stop(b.ctx(), guest.StopRequest{Fence: fence("fence", 2, 1), Now: true}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("the command gave %v", err)
	}
	b.awaitStatus(dbaas.GuestShutdown)
}

// TestSuspended: a process that was suspended counts as dead, and as alive when it goes on; nobody does either to it.
func TestSuspended(t *testing.T) {
	t.Parallel()
	b := prepared(t)
	process := b.unit()
	if err := unix.Kill(process.PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := b.awaitStatus(dbaas.GuestCrashed)
	t.Logf("told after %v", time.Since(began).Round(time.Millisecond))
	if !strings.Contains(r.Status.Cause, "SIGSTOP") {
		t.Errorf("the cause is %q", r.Status.Cause)
	}
	if s := b.unit(); !s.Running || !s.Suspended || s.Started != process.Started {
		t.Errorf("it is %+v", s)
	}
	if err := unix.Kill(process.PID, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	b.awaitStatus(dbaas.GuestHealthy)
	if events := b.events(); !slices.Equal(events, []string{"database.suspended"}) {
		t.Errorf("the events are %v", events)
	}
}

// TestSilenceIsTold: of a process that runs and answers nothing it is told since when; of one that is late, nothing.
func TestSilenceIsTold(t *testing.T) {
	t.Parallel()
	p := &played{}
	b := play(t, p, nil)
	p.silence(true)
	began := time.Now()
	r := b.await("silence", func(r guest.StatusReport) bool { return !r.SilentSince.IsZero() })
	waited := time.Since(began)
	if r.Status.Status != dbaas.GuestBlocked || waited < lookTimeout || !strings.Contains(r.Status.Cause, "has not answered since") {
		t.Errorf("after %v the report is %+v", waited, r)
	}
	p.silence(false)
	r = b.awaitStatus(dbaas.GuestHealthy)
	if !r.SilentSince.IsZero() {
		t.Errorf("it is silent since %v still", r.SilentSince.Time())
	}

	var s silence
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	silent := func() *guest.StatusReport { return &guest.StatusReport{Status: datastore.Status{Silent: true}} }
	if s.judge(silent(), now, now.Add(time.Minute)) != nil {
		t.Error("a look that we were late for ourselves says something")
	}
	first := s.judge(silent(), now, now.Add(lookTimeout))
	if again := s.judge(silent(), now.Add(lookTimeout), now.Add(2*lookTimeout)); again.SilentSince != first.SilentSince || first.SilentSince != dbaas.At(now) {
		t.Errorf("it is silent since %v, then since %v", first.SilentSince, again.SilentSince)
	}
	s.judge(&guest.StatusReport{}, now, now)
	if later := s.judge(silent(), now.Add(time.Hour), now.Add(time.Hour+lookTimeout)); later.SilentSince == first.SilentSince {
		t.Error("an answer in between is forgotten")
	}
}

// TestControlPlaneAway: with nobody to report to for as long as it takes, nothing is restarted and no role changes.
func TestControlPlaneAway(t *testing.T) {
	t.Parallel()
	p := &played{}
	p.see(livingReplica)
	b := play(t, p, pair(dbaas.DurabilityBounded))
	before := b.unit().Started
	b.bus.SetFaults(func(*rpc.Envelope) inproc.Faults { return inproc.Faults{Refuse: true} })
	p.see(datastore.PeerView{GuestID: "peer", Cause: "timeout"}) // and the peer is away as well
	for range 2 {
		p.mu.Lock()
		from := p.probes
		p.mu.Unlock()
		testbed.Eventually(t, time.Minute, func() error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.probes < from+4 {
				return errors.New("too early")
			}
			return nil
		})
		b.end()
		b.start() // the next agent does no more about it
	}
	if err := b.tenant(datastoretest.Password).Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Error(err)
	}
	b.bus.SetFaults(nil)
	b.await("health, and the peer's absence", func(r guest.StatusReport) bool {
		return r.Status.Status == dbaas.GuestHealthy && len(r.Peers) == 1 && !r.Peers[0].Alive
	})
	if b.unit().Started != before || len(b.events()) > 0 {
		t.Errorf("it was restarted, or told %v", b.events())
	}
}
