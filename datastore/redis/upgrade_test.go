package redis

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func (g *trial) fill(t *testing.T, keys int) {
	t.Helper()
	for i := range keys {
		if err := g.tenant(t).Set(t.Context(), fmt.Sprint("key", i), "value", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func (g *trial) requireVersion(t *testing.T, version string, keys int64) {
	t.Helper()
	datastoretest.Await(t, g, dbaas.GuestHealthy)
	g.requireKeys(t, keys)
	r, err := g.require()
	if err != nil || r.Desired.Version != version || r.Before != nil {
		t.Errorf("the record says %s, %v; %v", r.Desired.Version, r.Before, err)
	}
	i, err := g.admin(t).info(t.Context())
	number := i["redis_version"]
	if i["valkey_version"] != "" {
		number = i["valkey_version"]
	}
	if err != nil || number != numbers()[version] {
		t.Errorf("the server is %s %s, %v", i["server_name"], number, err)
	}
	if _, err := os.Stat(filepath.Join(g.data, keptDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old version's files are kept still: %v", err)
	}
}

// TestUpgrade keeps the data, however they are kept, and does nothing the second time.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, from := range versions() {
		for _, to := range upgrades()[from.Name] {
			if (from.Name != redis70 || to != valkey80) && (numbers()[from.Name] == "" || numbers()[to] == "") {
				continue // make test installs no such versions
			}
			for _, p := range []dbaas.Persistence{dbaas.PersistenceAOF, dbaas.PersistenceRDB} {
				t.Run(fmt.Sprint(from.Name, " to ", to, " ", p), func(t *testing.T) {
					requireVersions(t, from.Name, to)
					testUpgrade(t, p, from.Name, to)
					if !t.Failed() {
						note(featureUpgrade, to, from.Name)
					}
				})
			}
		}
	}
}

func testUpgrade(t *testing.T, p dbaas.Persistence, from, to string) {
	g := up(t, from)
	g.desired.Persistence, g.desired.Secrets = p, nil
	g.configure(t)
	g.awaitKept(t)
	g.fill(t, 10)
	g.desired.Version = to
	g.desired.Values = map[string]any{"hz": 15}
	if err := g.Upgrade(t.Context(), g.desired); err != nil {
		t.Fatal(err)
	}
	g.requireVersion(t, to, 10)
	pid := g.pid(t)
	if err := g.Upgrade(t.Context(), g.desired); err != nil || g.pid(t) != pid {
		t.Errorf("the same upgrade again: %v, process %d and before %d", err, g.pid(t), pid)
	}
	g.crash(t)
	g.requireVersion(t, to, 10)
	g.desired.Version = from
	if err := g.Upgrade(t.Context(), g.desired); dbaas.ErrorCode(err) != dbaas.BadRequest || g.pid(t) == 0 {
		t.Errorf("back to the old version: %v", err)
	}
	g.requireVersion(t, to, 10)
}

// TestUpgradeOfPair: the replica first, then a handover, then the old master.
func TestUpgradeOfPair(t *testing.T) {
	t.Parallel()
	requireVersions(t, redis70, valkey80)
	master, replica := pair(t, redis70)
	master.fill(t, 10)
	replica.awaitKeys(t, 10)
	upgrade := func(g *trial) {
		t.Helper()
		g.desired.Version = valkey80
		if err := g.Upgrade(t.Context(), g.desired); err != nil {
			t.Fatal(err)
		}
	}
	upgrade(replica)
	datastoretest.AwaitInStep(t, replica)
	if err := master.Handover(t.Context(), *replica.endpoint()); err != nil {
		t.Fatal(err)
	}
	replica.desired.Master = nil
	replica.configure(t)
	master.desired.Master = replica.endpoint()
	upgrade(master)
	datastoretest.AwaitInStep(t, master)
	master.requireKeys(t, 10)
}

// TestUpgradeOfCluster: the replicas first, then each shard is handed over. An old master that cannot read what the new one
// sends, as after a failover, is shown as its replica all the same, and follows it once it is upgraded.
func TestUpgradeOfCluster(t *testing.T) {
	t.Parallel()
	for _, from := range versions() {
		for _, to := range upgrades()[from.Name] {
			if (from.Name != redis70 || to != valkey80) && (numbers()[from.Name] == "" || numbers()[to] == "") {
				continue // make test installs no such versions
			}
			t.Run(fmt.Sprint(from.Name, " to ", to), func(t *testing.T) {
				requireVersions(t, from.Name, to)
				testUpgradeOfCluster(t, newFleet(t, from.Name, 3, 1), to)
				if !t.Failed() {
					note(featureMixed, to, from.Name)
				}
			})
			t.Run(fmt.Sprint(from.Name, " to ", to, ", TLS alone"), func(t *testing.T) {
				requireVersions(t, from.Name, to)
				takesMinutes(t, to)
				f := &fleet{t: t, version: from.Name, wish: datastore.ClusterWish{ClusterID: "c"}, authority: newAuthority(t)}
				for shard := range 3 {
					f.addShard(shard, 1)
				}
				f.converge()
				testUpgradeOfCluster(t, f, to)
			})
		}
	}
}

func testUpgradeOfCluster(t *testing.T, f *fleet, to string) {
	c := f.tenant()
	for i := range 100 {
		testbed.Eventually(t, time.Minute, func() error { return c.Set(t.Context(), fmt.Sprint("k", i), i, 0).Err() })
	}
	defer f.confess()
	upgrade := func(n *node) {
		t.Helper()
		n.desired.Version = to
		if err := n.Upgrade(t.Context(), n.desired); err != nil {
			t.Fatal(err)
		}
		datastoretest.Await(t, n, dbaas.GuestHealthy)
		f.converge()
	}
	for i := 1; i < len(f.nodes); i += 2 {
		upgrade(f.nodes[i])
		f.nodes[i].crash(t) // it has to know its place again among members of both versions
		f.converge()
	}
	for i := 0; i < len(f.nodes); i += 2 {
		old, heir := f.nodes[i], f.nodes[i+1]
		testbed.Eventually(t, time.Minute, func() error {
			if m := f.health().Members[i]; m.Role == datastore.RoleReplica && m.Master == heir.id {
				return nil
			}
			return errors.Join(heir.Do(t.Context(), datastore.ActionTakeOver, nothing{}, nil), errors.New("the shard is not handed over yet"))
		})
		if i == 0 { // it has to copy everything, in a format that it may not know
			if err := errors.Join(old.Stop(t.Context()), old.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
			if m := f.health().Members[i]; m.Role != datastore.RoleReplica || m.Master != heir.id {
				t.Errorf("the old master is shown as %+v", m)
			}
		}
		upgrade(old)
	}
	for i := range 100 {
		if v, err := c.Get(t.Context(), fmt.Sprint("k", i)).Int(); err != nil || v != i {
			t.Fatalf("the key %d is %d, %v", i, v, err)
		}
	}
	for _, n := range f.nodes { // and again after they have all been down
		n.crash(t)
	}
	f.converge()
	for _, n := range f.nodes {
		r, err := n.require()
		if err != nil || r.Desired.Version != to || r.Before != nil {
			t.Errorf("the record of %s says %s, %v; %v", n.id, r.Desired.Version, r.Before, err)
		}
	}
}

// TestUpgradeThatFails: a version that does not start on the data leaves them to the old one, all of them.
func TestUpgradeThatFails(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"ends":        "exit 3",
		"spoils data": "for f in appendonlydir/*.incr.aof; do echo garbage >>$f; done; rm appendonlydir/*.manifest; exit 3",
		"wrong":       "",
	} {
		t.Run(name, func(t *testing.T) {
			g := up(t, redis70)
			g.fill(t, 10)
			bin := t.TempDir()
			version := "8.0.1"
			if name == "wrong" {
				version = "7.2.5"
			}
			text := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --version ] && { echo 'Valkey server v=%s'; exit 0; }\ncd %s\n%s\n", version, g.data, script)
			if err := os.WriteFile(filepath.Join(bin, "valkey-server"), []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
			installed := g.host.Programs
			g.host.Programs = func(name string) []string {
				if name == "valkey-server" {
					return []string{filepath.Join(bin, name)}
				}
				return installed(name)
			}
			pid := g.pid(t)
			d := g.desired
			d.Version = valkey80
			if err := g.Upgrade(t.Context(), d); dbaas.ErrorCode(err) != dbaas.Conflict {
				t.Fatalf("an upgrade that cannot be: %v", err)
			}
			g.requireVersion(t, redis70, 10)
			if name == "wrong" && g.pid(t) != pid {
				t.Error("the database was stopped for an upgrade that cannot be")
			}
			g.crash(t)
			g.requireVersion(t, redis70, 10)
			d.Values = map[string]any{"nosuch": 1}
			if err := g.Upgrade(t.Context(), d); err == nil {
				t.Error("a value that the new version does not have is taken")
			}
		})
	}
}

// TestUpgradeCutOff goes on where an agent ended in the middle.
func TestUpgradeCutOff(t *testing.T) {
	t.Parallel()
	requireVersions(t, redis70, valkey80)
	g := up(t, redis70)
	g.fill(t, 10)
	r, err := g.require()
	if err != nil {
		t.Fatal(err)
	}
	g.desired.Version = valkey80
	if _, err := g.beginUpgrade(t.Context(), r, g.desired); err != nil {
		t.Fatal(err)
	}
	again := newGuest(g.host)
	t.Cleanup(func() { _ = again.Close() })
	var upgrader datastore.Upgrader = again
	if err := upgrader.Upgrade(t.Context(), g.desired); err != nil {
		t.Fatal(err)
	}
	g.requireVersion(t, valkey80, 10)
}
