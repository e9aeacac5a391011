package redis

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// node is a member of a cluster under test, with its agent played by the test.
type node struct {
	*trial
	id string

	mu   sync.Mutex
	jobs map[string]*datastore.JobState
	stop context.CancelFunc // of the jobs
	ctx  context.Context
}

var _ datastore.Member = (*node)(nil)

func (n *node) GuestID() string           { return n.id }
func (n *node) Observed() json.RawMessage { return nil }

// Do passes arguments and result as JSON, as the wire does.
func (n *node) Do(ctx context.Context, action string, args, result any) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := n.run(ctx, action, args)
	if err != nil || result == nil {
		return err
	}
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, result)
}

func (n *node) run(ctx context.Context, name string, args any) (any, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	return n.Actions()[name](ctx, raw)
}

func (n *node) BeginJob(_ context.Context, name, action string, args any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.jobs[name] != nil {
		return nil
	}
	job := &datastore.JobState{State: "running"}
	n.jobs[name] = job
	ctx := datastore.WithProgress(n.ctx, func(message string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		job.Progress = message
	})
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	do := n.Actions()[action]
	go func() {
		_, err := do(ctx, raw)
		n.mu.Lock()
		defer n.mu.Unlock()
		if job.State = "succeeded"; err != nil {
			job.State, job.Error = "failed", dbaas.WrapError(err, dbaas.ErrorCode(err), "%s", dbaas.ErrorMessage(err))
		}
	}()
	return nil
}

func (n *node) Job(_ context.Context, name string) (*datastore.JobState, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if job := n.jobs[name]; job != nil {
		state := *job
		return &state, nil
	}
	return &datastore.JobState{State: "unknown"}, nil
}

// lastErrors are for the report of a test that fails.
func (n *node) lastErrors() (list []error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, job := range n.jobs {
		if job.Error != nil {
			list = append(list, job.Error)
		}
	}
	return list
}

// newLife ends the agent, with its jobs, as a crash does, and begins another. The database goes on.
func (n *node) newLife(t testing.TB) {
	t.Helper()
	if n.stop != nil {
		n.stop()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.jobs = map[string]*datastore.JobState{}
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.trial = &trial{Guest: newGuest(n.host), desired: n.desired}
	stop := n.stop
	t.Cleanup(stop)
	g := n.Guest
	t.Cleanup(func() { _ = g.Close() })
}

// fleet is a cluster under test.
type fleet struct {
	t       testing.TB
	version string
	nodes   []*node
	wish    datastore.ClusterWish
	// authority has the members speak TLS alone, by its certificates; nil: they do not.
	authority *secret.Authority
}

// newFleet starts the members of a cluster and forms it.
func newFleet(t testing.TB, version string, masters, replicas int) *fleet {
	t.Helper()
	f := &fleet{t: t, version: version, wish: datastore.ClusterWish{ClusterID: "c"}}
	for shard := range masters {
		f.addShard(shard, replicas)
	}
	f.converge()
	return f
}

// addShard starts the members of one more shard, and wishes for them.
func (f *fleet) addShard(shard, replicas int) {
	f.t.Helper()
	f.add(shard, datastore.RoleMaster)
	for range replicas {
		f.add(shard, datastore.RoleReplica)
	}
}

const testReplicationSecret = "members-among-themselves-0123456789"

func (f *fleet) add(shard int, role datastore.Role) *node {
	f.t.Helper()
	h := datastoretest.Machine(f.t)
	d := datastoretest.Desired(f.version, h)
	d.Cluster = true
	d.Secrets[datastore.SecretReplication] = testReplicationSecret
	if f.authority != nil {
		d.TLS = &datastore.TLS{Mode: dbaas.TLSOn, CA: f.authority.Certificate()}
		d.Secrets[datastore.SecretTLSKey] = issue(f.t, f.authority, h.Address)
	}
	n := &node{trial: &trial{Guest: newGuest(h), desired: d}, id: fmt.Sprintf("s%d-%d", shard, len(f.nodes))}
	n.newLife(f.t)
	datastoretest.Up(f.t, n.Guest, d)
	f.nodes = append(f.nodes, n)
	f.wish.Members = append(f.wish.Members, datastore.MemberWish{
		Endpoint: datastore.Endpoint{GuestID: n.id, Address: h.Address, Port: port}, ShardID: fmt.Sprint("shard-", shard), Role: role,
	})
	return n
}

func (f *fleet) members() (list []datastore.Member) {
	for _, n := range f.nodes {
		list = append(list, n)
	}
	return list
}

// converge brings the cluster to the wish.
func (f *fleet) converge() {
	f.t.Helper()
	defer f.confess()
	var last string
	testbed.Eventually(f.t, 2*time.Minute, func() error {
		p, err := Datastore{}.Converge(f.t.Context(), f.wish, f.members())
		if err != nil {
			f.t.Fatalf("converge: %v", err)
		}
		if kind, _, _ := strings.Cut(p.Message, ":"); kind != last {
			f.t.Log(p.Message)
			last = kind
		}
		if !p.Done {
			var errs []error
			for _, n := range f.nodes {
				errs = append(errs, n.lastErrors()...)
			}
			return fmt.Errorf("%s; %v", p.Message, errs)
		}
		return nil
	})
}

// confess tells, when the test has failed, what the members see and what their servers have said last.
func (f *fleet) confess() {
	if !f.t.Failed() {
		return
	}
	for _, n := range f.nodes {
		v := new(clusterView)
		err := n.Do(context.Background(), actionView, viewArgs{}, v)
		state, _ := n.host.Units.State(context.Background(), unit)
		lines := strings.Split(state.Output, "\n")
		f.t.Logf("%s: %v, link up: %v, nodes %+v\n%s", n.id, err, v.LinkUp, v.Nodes, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
}

// health makes sure that the cluster is well.
func (f *fleet) health() *datastore.Health {
	f.t.Helper()
	h, err := Datastore{}.Health(f.t.Context(), f.wish, f.members())
	if err != nil {
		f.t.Fatal(err)
	}
	return h
}

// tenant is a client of the cluster.
func (f *fleet) tenant() *redis.ClusterClient {
	var addresses []string
	door, trust := port, (*tls.Config)(nil)
	if f.authority != nil {
		door, trust = tlsPort, trusting(f.authority.Certificate())
	}
	for _, w := range f.wish.Members {
		addresses = append(addresses, fmt.Sprintf("%s:%d", w.Address, door))
	}
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addresses, TLSConfig: trust, Password: datastoretest.Password, DisableIdentity: true, Protocol: 2,
		MaxRedirects: 16, ReadTimeout: 20 * time.Second})
	f.t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestClusterCreate forms three masters and three replicas.
func TestClusterCreate(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureCluster)
		f := newFleet(t, version, 3, 1)
		h := f.health()
		if h.State != stateOK || len(h.Causes) > 0 {
			t.Errorf("the cluster is %+v", h)
		}
		for i, m := range h.Members {
			master := i%2 == 0
			if master && (m.Role != datastore.RoleMaster || m.Units < slotCount/3 || m.Units > slotCount/3+1) {
				t.Errorf("a master is %+v", m)
			}
			if !master && (m.Role != datastore.RoleReplica || m.Master != f.nodes[i-1].id) {
				t.Errorf("a replica is %+v", m)
			}
		}
		c := f.tenant()
		for i := range 100 {
			if err := c.Set(t.Context(), fmt.Sprint("k", i), i, 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		for _, n := range f.nodes { // and again after they have all been down
			n.trial.restart(t)
		}
		f.converge()
		for i := range 100 {
			if v, err := c.Get(t.Context(), fmt.Sprint("k", i)).Int(); err != nil || v != i {
				t.Fatalf("the key %d is %d, %v", i, v, err)
			}
		}
	})
}
