package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// pair starts a master and one replica that is in step.
func pair(t *testing.T, version string) (master, replica *trial) {
	t.Helper()
	list := group(t, version, 1)
	return list[0], list[1]
}

func group(t *testing.T, version string, replicas int) (list []*trial) {
	t.Helper()
	for _, n := range datastoretest.Group(t, Datastore{}, version, replicas) {
		g := n.Guest.(*Guest)
		t.Cleanup(func() { _ = g.Close() })
		list = append(list, &trial{Guest: g, desired: n.Desired})
	}
	return list
}

func (g *trial) endpoint() *datastore.Endpoint {
	return &datastore.Endpoint{GuestID: "guest-at-" + g.host.Address, Address: g.host.Address, Port: port}
}

func (g *trial) configure(t *testing.T) {
	t.Helper()
	if _, err := g.Configure(t.Context(), g.desired); err != nil {
		t.Fatal(err)
	}
}

// as logs in by name.
func (g *trial) as(t *testing.T, name, password string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{
		Addr: net.JoinHostPort(g.host.Address, strconv.Itoa(port)), Username: name, Password: password,
		MaxRetries: -1, DisableIdentity: true, Protocol: 2, ReadTimeout: 20 * time.Second,
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (g *trial) awaitKeys(t *testing.T, want int64) {
	t.Helper()
	testbed.Eventually(t, time.Minute, func() error {
		if n, err := g.tenant(t).DBSize(t.Context()).Result(); err != nil || n != want {
			return fmt.Errorf("%d keys, %v; want %d", n, err, want)
		}
		return nil
	})
}

// TestFirstCopy: a new replica lets nobody in before it has its master's data, and does not become a master without.
func TestFirstCopy(t *testing.T) {
	t.Parallel()
	master := up(t, redis70)
	h := datastoretest.Machine(t)
	g := &trial{Guest: newGuest(h), desired: datastoretest.Desired(redis70, h)}
	t.Cleanup(func() { _ = g.Close() })
	g.desired.Master = master.endpoint()
	if err := g.Prepare(t.Context(), g.desired); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Fatalf("a replica without the group's secret: %v", err)
	}
	g.desired.Secrets[datastore.SecretReplication] = "a-secret-that-the-master-does-not-know-yet"
	if err := errors.Join(g.Prepare(t.Context(), g.desired), g.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	if s := datastoretest.Await(t, g, dbaas.GuestBlocked); s.Cause != causeCopying {
		t.Errorf("it waits for %q", s.Cause)
	}
	if err := g.tenant(t).Ping(t.Context()).Err(); err == nil || hasPrefix(err, "LOADING", "MASTERDOWN") {
		t.Errorf("the port of an empty replica is open: %v", err)
	}
	if s := datastoretest.ReplicationOf(t, g); s.Role != datastore.RoleReplica || s.LinkUp || s.Master != master.host.Address {
		t.Errorf("it sees itself as %+v", s)
	}
	promoted := g.desired
	promoted.Master = nil
	if _, err := g.Configure(t.Context(), promoted); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("an empty replica becomes a master: %v", err)
	}
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Configure(t.Context(), promoted); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("an empty replica becomes a master while it is stopped: %v", err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := master.tenant(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	master.desired.Secrets[datastore.SecretReplication] = g.desired.Secrets[datastore.SecretReplication]
	master.configure(t)
	datastoretest.AwaitInStep(t, g)
	g.awaitKeys(t, 1)
	g.desired.Master = nil
	g.configure(t)
	if err := g.tenant(t).Set(t.Context(), "l", "v", 0).Err(); err != nil {
		t.Error(err)
	}
}

// TestPositionInMetrics: each sign of life tells how far the database is, and in which history.
func TestPositionInMetrics(t *testing.T) {
	t.Parallel()
	master, replica := pair(t, redis70)
	if err := master.tenant(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*trial{master, replica} {
		testbed.Eventually(t, time.Minute, func() error {
			at, err := g.Position(t.Context())
			if err != nil {
				return err
			}
			m := g.Status(t.Context()).Metrics
			if m[datastore.MetricHistory] != datastore.HistoryNumber(at.History) || at.Offset == 0 || m[datastore.MetricOffset] < float64(at.Offset) {
				return fmt.Errorf("it is at %+v, and tells %v of %v", at, m[datastore.MetricOffset], m[datastore.MetricHistory])
			}
			return nil
		})
	}
}

// TestReplicationSecret: a rotation drops no link, and each is shown to come back by the new secret.
func TestReplicationSecret(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureReplicas)
		master, replica := pair(t, version)
		other := replica.endpoint()
		const next = "another-replication-secret-0123456789"
		before, err := master.admin(t).info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rotated := map[string]string{datastore.SecretReplication: next}
		replica.desired.Secrets = rotated // the wrong one first: the master would not let it back in
		if _, err := replica.Configure(t.Context(), replica.desired); dbaas.ErrorCode(err) != dbaas.Unavailable {
			t.Fatalf("a rotation that the master knows nothing of: %v", err)
		}
		datastoretest.AwaitInStep(t, replica) // by the old one
		master.desired.Secrets = rotated
		master.configure(t)
		if v := replica.Probe(t.Context(), *master.endpoint()); !v.Alive || v.Role != datastore.RoleMaster {
			t.Errorf("the old secret no longer lets in while it is rotated: %+v", v)
		}
		replica.configure(t)
		datastoretest.AwaitInStep(t, replica)
		master.configure(t) // everybody has it
		if v := master.Probe(t.Context(), *other); !v.Alive || v.Role != datastore.RoleReplica {
			t.Errorf("the new secret does not let in: %+v", v)
		}
		if err := master.as(t, replicationUser, next).Ping(t.Context()).Err(); err != nil {
			t.Error(err)
		}
		r, err := master.require()
		if err != nil || r.FormerReplication != "" {
			t.Errorf("the old secret is valid still: %v, %v", r.FormerReplication, err)
		}
		after, err := master.admin(t).info(t.Context())
		if err != nil || after["sync_full"] != before["sync_full"] {
			t.Errorf("everything was copied again: %s full syncs, and before %s; %v", after["sync_full"], before["sync_full"], err)
		}
		if v := master.Probe(t.Context(), datastore.Endpoint{Address: "127.0.0.2", Port: 1}); v.Alive || v.Cause != "refused" {
			t.Errorf("nobody looks like %+v", v)
		}
	})
}

// TestReplicationAccount: it can follow and look, and nothing else.
func TestReplicationAccount(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		master, _ := pair(t, version)
		r, err := master.require()
		if err != nil {
			t.Fatal(err)
		}
		c := master.as(t, replicationUser, r.ReplicationSecret)
		for _, command := range []string{"set k v", "get k", "config get port", "replicaof no one", "acl list", "keys *", "flushall", "client list", "shutdown"} {
			var args []any
			for word := range strings.FieldsSeq(command) {
				args = append(args, word)
			}
			if err := c.Do(t.Context(), args...).Err(); !hasPrefix(err, "NOPERM") {
				t.Errorf("the replication account may %s: %v", command, err)
			}
		}
		state, err := master.host.Units.State(t.Context(), unit)
		if err != nil || strings.Contains(strings.Join(argv(t, state.PID), " "), r.ReplicationSecret) {
			t.Errorf("the replication secret is in the arguments, or %v", err)
		}
	})
}

// TestProbe: what does not answer is told apart from what cannot serve.
func TestProbe(t *testing.T) {
	t.Parallel()
	master, replica := pair(t, redis70)
	peer := *master.endpoint()
	go func() { // ends with the server
		_ = master.as(t, "default", datastoretest.Password).Eval(context.Background(), "while true do end", nil).Err()
	}()
	testbed.Eventually(t, time.Minute, func() error {
		if v := replica.Probe(t.Context(), peer); !v.Alive || v.Cause != "busy" {
			return fmt.Errorf("a busy database looks like %+v", v)
		}
		return nil
	})
	if err := master.admin(t).Do(t.Context(), "script", "kill").Err(); err != nil {
		t.Fatal(err)
	}
	signal(t, master.pid(t), stopSignal)
	if v := replica.Probe(t.Context(), peer); v.Alive || v.Cause != "timeout" {
		t.Errorf("a stalled database looks like %+v", v)
	}
	signal(t, master.pid(t), continueSignal)
	if err := master.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := replica.Probe(t.Context(), peer); v.Alive || v.Cause != "refused" {
		t.Errorf("a stopped database looks like %+v", v)
	}
}

// TestHandoverThatFails leaves the master what it is: a replica that does not catch up, and one that is none.
func TestHandoverThatFails(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featurePromotion)
		master, replica := pair(t, version)
		signal(t, replica.pid(t), stopSignal)
		if err := master.tenant(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		err := master.Handover(ctx, *replica.endpoint())
		cancel()
		signal(t, replica.pid(t), continueSignal)
		if dbaas.ErrorCode(err) != dbaas.Unavailable {
			t.Fatalf("a handover to a stalled replica: %v", err)
		}
		if err := master.tenant(t).Set(t.Context(), "l", "v", 0).Err(); err != nil {
			t.Errorf("the master takes no writes: %v", err)
		}
		if err := master.Handover(t.Context(), datastore.Endpoint{Address: "127.0.0.2", Port: port}); dbaas.ErrorCode(err) != dbaas.Conflict {
			t.Errorf("a handover to nobody: %v", err)
		}
		master.restart(t) // and a restart does not change that
		datastoretest.AwaitInStep(t, replica)
	})
}

// TestCrashWhileHandingOver: a master that died while it handed over does not come back as one before it is known that
// the other has not become it.
func TestCrashWhileHandingOver(t *testing.T) {
	t.Parallel()
	master, replica := pair(t, redis70)
	r, err := master.require()
	if err != nil {
		t.Fatal(err)
	}
	r.Yielding = replica.endpoint()
	if err := errors.Join(master.write(r), replica.Stop(t.Context()), master.host.Units.Kill(t.Context(), unit), master.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	if s := master.Status(t.Context()); s.Status != dbaas.GuestBlocked || s.Cause != causeRival {
		t.Errorf("a master whose handover nobody knows the end of is %+v", s)
	}
	if err := replica.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	datastoretest.Await(t, master, dbaas.GuestHealthy) // the other is no master
	datastoretest.AwaitInStep(t, replica)
}

// TestDivergedMaster: the writes that an old master took after another was made the master are dropped when it follows,
// and never take the place of the other's.
func TestDivergedMaster(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureFailover)
		list := group(t, version, 2)
		old, promoted, other := list[0], list[1], list[2]
		if err := old.tenant(t).Set(t.Context(), "common", "1", 0).Err(); err != nil {
			t.Fatal(err)
		}
		promoted.awaitKeys(t, 1)
		other.awaitKeys(t, 1)
		promoted.desired.Master = nil
		promoted.configure(t)
		other.desired.Master = promoted.endpoint()
		other.configure(t)
		if err := errors.Join(old.tenant(t).Set(t.Context(), "diverged", "1", 0).Err(), promoted.tenant(t).Set(t.Context(), "kept", "1", 0).Err()); err != nil {
			t.Fatal(err)
		}
		// It dies, comes back, and sees the other one, also when that is out of its reach but one that follows it is not.
		if err := errors.Join(old.host.Units.Kill(t.Context(), unit), old.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
		datastoretest.AwaitInStep(t, other)
		if s := old.Status(t.Context()); s.Cause != causeRival {
			t.Errorf("the old master is back as %+v", s)
		}
		r, err := old.require()
		if err != nil {
			t.Fatal(err)
		}
		r.Desired.Peers = []datastore.Endpoint{*other.endpoint()}
		if cause := old.rival(t.Context(), r); cause != causeRival {
			t.Errorf("a replica of another master tells the old one nothing: %q", cause)
		}
		old.desired.Master = promoted.endpoint()
		old.configure(t)
		datastoretest.AwaitInStep(t, old)
		for _, g := range list {
			if n, err := g.tenant(t).Exists(t.Context(), "common", "kept").Result(); n != 2 {
				t.Errorf("%d of 2 keys are on %s, %v", n, g.host.Address, err)
			}
			if n, err := g.tenant(t).Exists(t.Context(), "diverged").Result(); n != 0 {
				t.Errorf("the diverged key is on %s, %v", g.host.Address, err)
			}
		}
	})
}

// TestPartialResync: replicas that are pointed to the promoted one of them do not copy everything again.
func TestPartialResync(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureFailover)
		list := group(t, version, 2)
		promoted, other := list[1], list[2]
		if err := list[0].tenant(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
		promoted.awaitKeys(t, 1)
		other.awaitKeys(t, 1)
		if err := list[0].host.Units.Kill(t.Context(), unit); err != nil {
			t.Fatal(err)
		}
		promoted.desired.Master = nil
		promoted.configure(t)
		other.desired.Master = promoted.endpoint()
		other.configure(t)
		datastoretest.AwaitInStep(t, other)
		if i, err := promoted.admin(t).info(t.Context()); err != nil || i["sync_full"] != "0" || i["sync_partial_ok"] != "1" {
			t.Errorf("%s full and %s partial syncs, %v", i["sync_full"], i["sync_partial_ok"], err)
		}
	})
}

// TestBoundedDurability: writes need a replica from when there first was one, also those of a promoted one.
func TestBoundedDurability(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureDurability)
		master, replica := pair(t, version)
		bounded := &dbaas.HighAvailability{Durability: dbaas.DurabilityBounded, WhenDegraded: dbaas.DegradedRefuse}
		for _, g := range []*trial{master, replica} {
			g.desired.Durability = bounded
			g.configure(t)
			datastoretest.Await(t, g, dbaas.GuestHealthy)
		}
		set := func(g *trial) error { return g.tenant(t).Set(t.Context(), "k", "v", 0).Err() }
		testbed.Eventually(t, time.Minute, func() error { return set(master) })
		if s := master.Status(t.Context()); strings.Contains(string(s.Observed), "drift") && strings.Contains(string(s.Observed), "min-replicas") {
			t.Errorf("what is wanted counts as drift: %s", s.Observed)
		}
		signal(t, replica.pid(t), stopSignal)
		testbed.Eventually(t, time.Minute, func() error {
			if err := set(master); !hasPrefix(err, "NOREPLICAS") {
				return fmt.Errorf("a write with the replica stalled gave %v", err)
			}
			return nil
		})
		signal(t, replica.pid(t), continueSignal)
		testbed.Eventually(t, time.Minute, func() error { return set(master) })
		master.restart(t)
		datastoretest.AwaitInStep(t, replica)
		testbed.Eventually(t, time.Minute, func() error { return set(master) })
		if err := master.host.Units.Kill(t.Context(), unit); err != nil {
			t.Fatal(err)
		}
		replica.desired.Master = nil
		replica.configure(t)
		if err := set(replica); !hasPrefix(err, "NOREPLICAS") {
			t.Errorf("a promoted one without a replica takes a write: %v", err)
		}
		replica.desired.Durability = &dbaas.HighAvailability{Durability: dbaas.DurabilityBounded, WhenDegraded: dbaas.DegradedAccept}
		replica.configure(t)
		if err := set(replica); err != nil {
			t.Errorf("one that is to accept writes while degraded: %v", err)
		}
	})
}

// TestUsers: a tenant's accounts touch their keys and no others, live and after a restart.
func TestUsers(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureUsers)
		g := up(t, version)
		const password = "the-password-of-a-further-user-0123"
		tell := func(users ...datastore.UserAccount) error {
			list, err := json.Marshal(users)
			if err != nil {
				return err
			}
			g.desired.Secrets = map[string]string{datastore.SecretUsers: string(list)}
			_, err = g.Configure(t.Context(), g.desired)
			return err
		}
		app := datastore.UserAccount{Name: "app", Hash: hashPassword(password), Grants: []string{"app:*", `odd"'(\*`}}
		if err := tell(app, datastore.UserAccount{Name: "nothing", Hash: hashPassword(password)}); err != nil {
			t.Fatal(err)
		}
		check := func() {
			t.Helper()
			c := g.as(t, "app", password)
			if err := errors.Join(c.Set(t.Context(), "app:1", "v", 0).Err(), c.Publish(t.Context(), "app:news", "v").Err(), c.Ping(t.Context()).Err(),
				c.Set(t.Context(), `odd"'(*`, "v", 0).Err()); err != nil {
				t.Errorf("the user may not do what is its: %v", err)
			}
			for _, command := range []string{"set other v", "get other", "publish other v", "flushall", "flushdb", "keys *", "scan 0", "randomkey", "config get port", "acl list", "function flush"} {
				var args []any
				for word := range strings.FieldsSeq(command) {
					args = append(args, word)
				}
				if err := c.Do(t.Context(), args...).Err(); !hasPrefix(err, "NOPERM") {
					t.Errorf("the user may %s: %v", command, err)
				}
			}
			if err := g.as(t, "nothing", password).Get(t.Context(), "app:1").Err(); !hasPrefix(err, "NOPERM") {
				t.Errorf("a user without grants may read: %v", err)
			}
		}
		check()
		g.restart(t)
		check()
		g.desired.Secrets = nil // as they are
		g.configure(t)
		check()
		for _, name := range []string{"default", "_repl", "", "two words"} {
			if err := tell(app, datastore.UserAccount{Name: name, Hash: app.Hash}); dbaas.ErrorCode(err) != dbaas.BadRequest {
				t.Errorf("the user %q: %v", name, err)
			}
		}
		check()
		open := g.as(t, "app", password).Conn()
		if err := open.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := tell(); err != nil {
			t.Fatal(err)
		}
		if err := open.Ping(t.Context()).Err(); err == nil {
			t.Error("a connection of a deleted user goes on")
		}
		_ = open.Close() // it was cut
		g.restart(t)
		if err := g.as(t, "app", password).Ping(t.Context()).Err(); !hasPrefix(err, "WRONGPASS") {
			t.Errorf("a deleted user comes in: %v", err)
		}
		if err := g.tenant(t).Ping(t.Context()).Err(); err != nil {
			t.Error(err)
		}
	})
}
