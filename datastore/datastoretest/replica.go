package datastoretest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// replicationSecret is by what the members of a group of the suite reach each other.
const replicationSecret = "replication-secret-of-the-group-0123"

// Node is a member of a group under test.
type Node struct {
	datastore.Guest
	Host    *host.Host
	Desired datastore.Desired
}

// Endpoint is where the node listens.
func (n *Node) Endpoint(port int) datastore.Endpoint {
	return datastore.Endpoint{GuestID: "guest-at-" + n.Host.Address, Address: n.Host.Address, Port: port}
}

// Group starts a master and its replicas, and waits until they are in step.
func Group(t testing.TB, d datastore.Datastore, version string, replicas int) []*Node {
	t.Helper()
	nodes := make([]*Node, replicas+1)
	for i := range nodes {
		h := Machine(t)
		nodes[i] = &Node{Guest: d.Guest(h), Host: h, Desired: Desired(version, h)}
		nodes[i].Desired.Secrets[datastore.SecretReplication] = replicationSecret
	}
	port := d.Manifest().URIPort
	for i, n := range nodes {
		for j, other := range nodes {
			if i != j {
				n.Desired.Peers = append(n.Desired.Peers, other.Endpoint(port))
			}
		}
		if i > 0 {
			master := nodes[0].Endpoint(port)
			n.Desired.Master = &master
		}
		Up(t, n, n.Desired)
		n.Desired.Secrets = nil
	}
	for _, n := range nodes[1:] {
		AwaitInStep(t, n)
	}
	return nodes
}

// ReplicationOf is what a database says of its place in its group.
func ReplicationOf(t testing.TB, g datastore.Guest) datastore.Replication {
	t.Helper()
	var observed struct {
		Replication datastore.Replication `json:"replication"`
	}
	s := g.Status(t.Context())
	if len(s.Observed) > 0 {
		if err := json.Unmarshal(s.Observed, &observed); err != nil {
			t.Fatal(err)
		}
	}
	return observed.Replication
}

// AwaitInStep waits until a replica has its master's data.
func AwaitInStep(t testing.TB, g datastore.Guest) {
	t.Helper()
	testbed.Eventually(t, time.Minute, func() error {
		if r := ReplicationOf(t, g); r.Role != datastore.RoleReplica || !r.LinkUp || r.Syncing {
			return fmt.Errorf("it is no replica in step: %+v", r)
		}
		return nil
	})
	Await(t, g, dbaas.GuestHealthy)
}

// Follow makes a node follow another, nil for nobody.
func (n *Node) Follow(t testing.TB, master *datastore.Endpoint) {
	t.Helper()
	n.Desired.Master = master
	if _, err := n.Configure(t.Context(), n.Desired); err != nil {
		t.Fatalf("make %s follow %+v: %v", n.Host.Address, master, err)
	}
}

// awaitValue waits until a tenant reads a value.
func (s suite) awaitValue(t *testing.T, n *Node, key, want string) {
	t.Helper()
	testbed.Eventually(t, time.Minute, func() error {
		c, err := s.Connect(t.Context(), n.Host.Address, Password)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if got, err := c.Find(t.Context(), key); err != nil || got != want {
			return fmt.Errorf("%s holds %q, %v; want %q", key, got, err, want)
		}
		return nil
	})
}

// testReplica goes through the life of a group.
func (s suite) testReplica(t *testing.T) {
	if _, ok := s.Datastore.Guest(Machine(t)).(datastore.Replica); !ok {
		t.Skip("the datastore does not replicate")
	}
	nodes := Group(t, s.Datastore, s.Version, 2)
	master, standby, other := nodes[0], nodes[1], nodes[2]
	port := s.Datastore.Manifest().URIPort
	if err := s.tenant(t, master.Host, Password).Put(t.Context(), "a", "1"); err != nil {
		t.Fatal(err)
	}
	s.awaitValue(t, standby, "a", "1")
	s.awaitValue(t, other, "a", "1")
	if err := s.tenant(t, standby.Host, Password).Put(t.Context(), "a", "2"); err == nil {
		t.Error("a replica takes a write")
	}
	if r := ReplicationOf(t, master); r.Role != datastore.RoleMaster || r.Replicas != 2 || r.History == "" {
		t.Errorf("the master sees itself as %+v", r)
	}
	for range 2 { // the same again changes nothing
		standby.Follow(t, standby.Desired.Master)
	}
	if err := errors.Join(standby.Stop(t.Context()), standby.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	AwaitInStep(t, standby) // a restart keeps the role
	s.testPositions(t, nodes)
	s.testHandover(t, nodes, port)
}

func (s suite) testPositions(t *testing.T, nodes []*Node) {
	testbed.Eventually(t, time.Minute, func() error {
		var first datastore.Position
		for i, n := range nodes {
			p, err := n.Guest.(datastore.Replica).Position(t.Context())
			if err != nil {
				return err
			}
			if i == 0 {
				first = p
			}
			if p.History != first.History || p.Offset != first.Offset || p.Offset == 0 {
				return fmt.Errorf("the positions are %+v and %+v", first, p)
			}
		}
		return nil
	})
}

// testHandover changes masters while a tenant writes: what was acknowledged is there after.
func (s suite) testHandover(t *testing.T, nodes []*Node, port int) {
	master, standby, other := nodes[0], nodes[1], nodes[2]
	to := standby.Endpoint(port)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	acknowledged := make(chan int)
	writer := s.tenant(t, master.Host, Password)
	go func() { // until the old master refuses
		n := 0
		for writer.Put(ctx, "n", strconv.Itoa(n+1)) == nil {
			n++
		}
		acknowledged <- n
	}()
	if err := master.Guest.(datastore.Replica).Handover(ctx, to); err != nil {
		t.Fatalf("hand over: %v", err)
	}
	n := <-acknowledged
	standby.Follow(t, nil)
	other.Follow(t, &to)
	master.Follow(t, &to)
	AwaitInStep(t, master)
	AwaitInStep(t, other)
	if r := ReplicationOf(t, standby); r.Role != datastore.RoleMaster {
		t.Errorf("after the handover the standby is %+v", r)
	}
	if n > 0 {
		s.awaitValue(t, standby, "n", strconv.Itoa(n))
		s.awaitValue(t, master, "n", strconv.Itoa(n))
	}
	if err := s.tenant(t, standby.Host, Password).Put(t.Context(), "b", "2"); err != nil {
		t.Errorf("the new master takes no writes: %v", err)
	}
	s.awaitValue(t, master, "b", "2")
	if err := master.Guest.(datastore.Replica).Handover(ctx, to); err != nil {
		t.Errorf("the same handover again: %v", err)
	}
	if err := other.Guest.(datastore.Replica).Handover(ctx, master.Endpoint(port)); dbaas.ErrorCode(err) != dbaas.Conflict {
		t.Errorf("a replica hands over what it does not have: %v", err)
	}
	if err := errors.Join(master.Stop(t.Context()), master.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	AwaitInStep(t, master) // the new role lasts
	s.testProbe(t, nodes, port)
}

// testProbe has members look at each other, and at one that is dead.
func (s suite) testProbe(t *testing.T, nodes []*Node, port int) {
	from, master, other := nodes[0].Guest.(datastore.Replica), nodes[1], nodes[2]
	if v := from.Probe(t.Context(), master.Endpoint(port)); !v.Alive || v.Role != datastore.RoleMaster || v.GuestID != master.Endpoint(port).GuestID {
		t.Errorf("the master looks like %+v", v)
	}
	if v := from.Probe(t.Context(), other.Endpoint(port)); !v.Alive || v.Role != datastore.RoleReplica {
		t.Errorf("a replica looks like %+v", v)
	}
	for _, unit := range master.Units() {
		if err := master.Host.Units.Kill(t.Context(), unit); err != nil {
			t.Fatal(err)
		}
	}
	if v := from.Probe(t.Context(), master.Endpoint(port)); v.Alive || v.Cause != "refused" {
		t.Errorf("a dead master looks like %+v", v)
	}
	other.Follow(t, nil) // an unplanned change
	if err := s.tenant(t, other.Host, Password).Put(t.Context(), "c", "3"); err != nil {
		t.Fatal(err)
	}
	to := other.Endpoint(port)
	nodes[0].Follow(t, &to)
	s.awaitValue(t, nodes[0], "c", "3")
	if err := master.Start(t.Context()); err != nil { // which knows nothing of it
		t.Fatal(err)
	}
	if st := master.Status(t.Context()); st.Status == dbaas.GuestHealthy {
		t.Errorf("two masters serve: %+v", st)
	}
	master.Follow(t, &to)
	AwaitInStep(t, master)
	s.awaitValue(t, master, "c", "3")
}
