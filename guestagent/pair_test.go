package guestagent

import (
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
	"github.com/grove-dbaas/grove/internal/testbed"
)

// standby is a real hot standby: two agents, each with a Redis, and no control plane but the test.
type standby struct {
	t               *testing.T
	master, replica *bench
	persistence     dbaas.Persistence
}

func (b *bench) member(name string) datastore.Endpoint {
	return datastore.Endpoint{GuestID: name, Address: b.host.Address, Port: 6379}
}

// desire makes what is desired of the pair's members: first follows nobody, second follows first.
func (s *standby) desire(first, second *bench) (ofFirst, ofSecond datastore.Desired) {
	one := func(b, other *bench) datastore.Desired {
		d := b.desired()
		pair(dbaas.DurabilityAsync)(&d)
		d.Peers, d.Persistence = []datastore.Endpoint{other.member("other")}, s.persistence
		return d
	}
	ofFirst, ofSecond = one(first, second), one(second, first)
	ofSecond.Master = &ofSecond.Peers[0]
	return ofFirst, ofSecond
}

// newStandby starts a pair and waits until it is in step. A dead master waits for as long as patience.
func newStandby(t *testing.T, patience time.Duration) *standby {
	t.Helper()
	return newStandbyThatKeeps(t, patience, dbaas.PersistenceAOF)
}

func newStandbyThatKeeps(t *testing.T, patience time.Duration, p dbaas.Persistence) *standby {
	t.Helper()
	s := &standby{t: t, master: newBench(t), replica: newBench(t), persistence: p}
	ofMaster, ofReplica := s.desire(s.master, s.replica)
	for _, m := range []struct {
		*bench
		desired datastore.Desired
	}{{s.master, ofMaster}, {s.replica, ofReplica}} {
		m.patience = patience
		m.start()
		first := m.await("a key", func(r guest.StatusReport) bool { return len(r.PublicKey) > 0 })
		sealed, err := guest.SealSecrets(first.PublicKey, map[string]string{
			datastore.SecretPassword: datastoretest.Password, datastore.SecretReplication: "a-secret-of-members-0123456789abcdef",
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.client.Prepare(m.ctx(), guest.PrepareRequest{Fence: fence("prepare"), Desired: m.desired, Sealed: sealed}); err != nil {
			t.Fatal(err)
		}
		m.awaitStatus(dbaas.GuestHealthy)
	}
	s.awaitViews(datastore.RoleReplica, datastore.RoleMaster)
	s.awaitInStep(s.master, s.replica)
	return s
}

// awaitViews waits until each sees the other alive: the master such a one, the replica such a one.
func (s *standby) awaitViews(ofMaster, ofReplica datastore.Role) {
	s.t.Helper()
	for _, m := range []struct {
		*bench
		sees datastore.Role
	}{{s.master, ofMaster}, {s.replica, ofReplica}} {
		m.await(string(m.sees), func(r guest.StatusReport) bool {
			return len(r.Peers) == 1 && r.Peers[0].Alive && r.Peers[0].Role == m.sees
		})
	}
}

// awaitInStep writes to one and reads it from the other.
func (s *standby) awaitInStep(master, replica *bench) {
	s.t.Helper()
	value := fmt.Sprint(time.Now().UnixNano())
	testbed.Eventually(s.t, time.Minute, func() error {
		if err := master.tenant(datastoretest.Password).Set(s.t.Context(), "in-step", value, 0).Err(); err != nil {
			return err
		}
		got, err := replica.tenant(datastoretest.Password).Get(s.t.Context(), "in-step").Result()
		if err == nil && got != value {
			err = errors.New("the replica is behind")
		}
		return err
	})
}

// promote makes the replica the master, as a failover does.
func (s *standby) promote() {
	s.t.Helper()
	ofNew, _ := s.desire(s.replica, s.master)
	if _, err := s.replica.client.Configure(s.replica.ctx(), guest.ConfigureRequest{Fence: fence("promote", 2, 1), Desired: ofNew}); err != nil {
		s.t.Fatal(err)
	}
}

// TestPairLosesMaster kills and suspends the master's process: both agents say so, each by itself, and soon.
func TestPairLosesMaster(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]unix.Signal{"killed": unix.SIGKILL, "suspended": unix.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStandby(t, time.Hour)
			if err := unix.Kill(s.master.unit().PID, sig); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if was := s.master.awaitStatus(dbaas.GuestCrashed); !strings.Contains(string(was.Observed()), `"role":"master"`) {
				t.Errorf("the agent does not tell what the database was: %s", was.Observed())
			}
			own := time.Since(began)
			s.replica.await("the master's death", func(r guest.StatusReport) bool { return len(r.Peers) == 1 && !r.Peers[0].Alive })
			t.Logf("the master's agent says so after %v, the replica's after %v", own.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
			if err := s.master.client.Stop(s.master.ctx(), guest.StopRequest{Fence: fence("fence", 2, 1), Now: true}); err != nil {
				t.Fatal(err)
			}
			fenced := time.Since(began)
			s.promote()
			if err := s.replica.tenant(datastoretest.Password).Set(t.Context(), "after", "failover", 0).Err(); err != nil {
				t.Error(err)
			}
			t.Logf("fenced after %v, writes again after %v", fenced.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
			_, ofOld := s.desire(s.replica, s.master)
			if _, err := s.master.client.Configure(s.master.ctx(), guest.ConfigureRequest{Fence: fence("follow", 2, 1), Desired: ofOld}); err != nil {
				t.Fatal(err)
			}
			if s.master.unit().Running {
				t.Error("a fenced master runs, though only its role is known")
			}
			if err := s.master.client.Restart(s.master.ctx(), fence("start", 2, 1)); err != nil {
				t.Fatal(err)
			}
			s.awaitInStep(s.replica, s.master)
			if err := s.master.tenant(datastoretest.Password).Set(t.Context(), "x", "y", 0).Err(); err == nil {
				t.Error("the old master takes writes")
			}
		})
	}
}

// TestPairWithoutControlPlane: a master that died and that nobody tells anything comes back as what its peer is not.
func TestPairWithoutControlPlane(t *testing.T) {
	t.Parallel()
	t.Run("the other took over", func(t *testing.T) {
		t.Parallel()
		s := newStandby(t, 5*time.Second)
		if err := s.master.host.Units.Kill(t.Context(), "redis"); err != nil {
			t.Fatal(err)
		}
		s.promote()
		if err := s.replica.tenant(datastoretest.Password).Set(t.Context(), "after", "failover", 0).Err(); err != nil {
			t.Fatal(err)
		}
		s.awaitInStep(s.replica, s.master)
		if v, err := s.master.tenant(datastoretest.Password).Get(t.Context(), "after").Result(); v != "failover" {
			t.Errorf("the old master has %q, %v", v, err)
		}
		s.awaitViews(datastore.RoleMaster, datastore.RoleReplica)
		if r := s.master.awaitStatus(dbaas.GuestHealthy); r.Status.Cause != "" {
			t.Errorf("it is healthy, and %q", r.Status.Cause)
		}
		s.master.mu.Lock()
		defer s.master.mu.Unlock()
		followed := false
		for _, r := range s.master.reports {
			followed = followed || slices.ContainsFunc(r.Events, func(e guest.ReportedEvent) bool { return e.Kind == "database.follows" })
			if followed && r.Status.Cause == causeAwaitsRole {
				t.Error("it waits for its role when it has it")
			}
		}
	})
	t.Run("nobody took over", func(t *testing.T) {
		t.Parallel()
		s := newStandby(t, 5*time.Second)
		died := s.master.unit().Started
		if err := s.master.host.Units.Kill(t.Context(), "redis"); err != nil {
			t.Fatal(err)
		}
		s.master.awaitStarted(died)
		s.awaitInStep(s.master, s.replica)
		s.awaitViews(datastore.RoleReplica, datastore.RoleMaster)
	})
	t.Run("both were away", func(t *testing.T) { // and only one comes back, then the other
		t.Parallel()
		s := newStandby(t, 5*time.Second)
		died := s.master.unit().Started
		for _, m := range []*bench{s.master, s.replica} {
			m.end()
			if err := m.host.Units.Kill(t.Context(), "redis"); err != nil {
				t.Fatal(err)
			}
		}
		s.master.start() // asynchronous: it opens alone
		s.master.awaitStarted(died)
		s.replica.start()
		s.awaitInStep(s.master, s.replica)
	})
}

// TestOutdatedMaster: a master that died with less on its disk than its standby has stays closed until it is told its role,
// however long that takes; where nobody has anything, it opens.
func TestOutdatedMaster(t *testing.T) {
	t.Parallel()
	for _, kept := range []dbaas.Persistence{dbaas.PersistenceNone, dbaas.PersistenceRDB} {
		t.Run(string(kept), func(t *testing.T) {
			t.Parallel()
			s := newStandbyThatKeeps(t, 5*time.Second, kept)
			s.awaitInStep(s.master, s.replica)
			value, err := s.replica.tenant(datastoretest.Password).Get(t.Context(), "in-step").Result()
			if err != nil {
				t.Fatal(err)
			}
			requireData := func() {
				t.Helper()
				if v, err := s.replica.tenant(datastoretest.Password).Get(t.Context(), "in-step").Result(); v != value {
					t.Fatalf("the standby has %q, %v; want %q", v, err, value)
				}
			}
			if err := s.master.host.Units.Kill(t.Context(), "redis"); err != nil {
				t.Fatal(err)
			}
			outdated := func(r guest.StatusReport) bool { return r.Status.Cause == causeOutdated }
			s.master.await("a closed database", outdated)
			s.master.end() // the next agent knows no more
			s.master.start()
			s.master.await("a closed database", outdated)
			if s.master.unit().Running {
				t.Error("it was started, though the standby has more")
			}
			requireData()

			s.promote()
			_, ofOld := s.desire(s.replica, s.master)
			if _, err := s.master.client.Configure(s.master.ctx(), guest.ConfigureRequest{Fence: fence("follow", 2, 1), Desired: ofOld}); err != nil {
				t.Fatal(err)
			}
			s.awaitInStep(s.replica, s.master)
			s.master, s.replica = s.replica, s.master

			for _, m := range []*bench{s.master, s.replica} { // the machine that both are on
				m.end()
				if err := m.host.Units.Kill(t.Context(), "redis"); err != nil {
					t.Fatal(err)
				}
			}
			s.replica.start()
			s.master.start()
			if kept == dbaas.PersistenceRDB { // the standby's snapshot may be the newer one
				s.master.await("a closed database", outdated)
				ofMaster, _ := s.desire(s.master, s.replica)
				if _, err := s.master.client.Configure(s.master.ctx(), guest.ConfigureRequest{Fence: fence("stay", 3, 1), Desired: ofMaster}); err != nil {
					t.Fatal(err)
				}
			}
			s.awaitInStep(s.master, s.replica)
		})
	}
}
