package redis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

const (
	causeCopying = "The database is copying its data from its master."
	causeRival   = "Another member of the group takes the writes; this one waits to be told its role."
)

// roleDirectives say whom the server follows, and how others reach it: its port is shut when it introduces itself.
func (r *record) roleDirectives() []directive {
	list := []directive{
		{"replica-read-only", "yes"},
		{"replica-announce-ip", r.Desired.Address},
		{"replica-priority", "100"},
	}
	if r.ReplicationSecret != "" {
		list = append(list, directive{"masteruser", replicationUser}, directive{"masterauth", r.ReplicationSecret})
	}
	if m := r.master(); m != nil {
		list = append(list, directive{"replicaof", fmt.Sprintf("%s %d", m.Address, m.Port)})
	}
	return list
}

// master is whom the server follows by our order. Members of a cluster decide that themselves.
func (r *record) master() *datastore.Endpoint {
	if r.Desired.Cluster || r.Desired.Master == nil {
		return nil
	}
	at := r.reach(*r.Desired.Master)
	return &at
}

// login is how the server logs in with its master.
func (r *record) login() settings {
	if r.ReplicationSecret == "" {
		return settings{"masteruser": "", "masterauth": ""}
	}
	return settings{"masteruser": replicationUser, "masterauth": r.ReplicationSecret}
}

// loadPatience is how long a change of role waits for a server that loads its data, which it does before it takes one.
const loadPatience = 5 * time.Second

// takeRole makes the server follow whom it should. It does not wait until that has its data.
func (c *client) takeRole(ctx context.Context, r *record) error {
	if r.Desired.Cluster {
		return nil
	}
	i, err := c.info(ctx)
	if err != nil {
		return err
	}
	m := r.master()
	if i["master_failover_state"] != "no-failover" { // one whose end nobody waited for; now it is decided
		if err := c.Do(ctx, "failover", "abort").Err(); err != nil && !hasPrefix(err, "ERR No failover in progress") {
			return fmt.Errorf("end the handover: %w", err)
		}
	} else if m == nil && i["role"] == "master" || m != nil && follows(i, m) {
		return nil
	}
	args := []any{"replicaof", "no", "one"}
	if m != nil {
		args = []any{"replicaof", m.Address, m.Port}
	}
	waiting, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	_ = poll(waiting, func() (bool, error) {
		err = c.Do(ctx, args...).Err()
		return !hasPrefix(err, "LOADING"), nil
	})
	if hasPrefix(err, "LOADING") {
		return dbaas.WrapError(err, dbaas.Unavailable, "The database is loading its data and cannot change its role yet.")
	}
	if err != nil {
		return fmt.Errorf("change the role: %w", err)
	}
	return nil
}

func follows(i info, m *datastore.Endpoint) bool {
	return i["role"] == "slave" && i["master_host"] == m.Address && i["master_port"] == strconv.Itoa(m.Port)
}

// inStep tells whether a replica has its master's data and gets what follows.
func inStep(i info) bool {
	return i["role"] == "slave" && i["master_link_status"] == "up" && i["master_sync_in_progress"] == "0"
}

// requireCopy keeps a replica that has never had its master's data from becoming a master: the others would copy its
// emptiness. i is what the server says, nil when it does not run.
func (g *Guest) requireCopy(old, next *record, i info) error {
	if old.master() == nil || next.master() != nil || inStep(i) || i["role"] == "master" {
		return nil
	}
	m, err := readMark(g.data)
	if err != nil || m != nil && m.Opened {
		return err
	}
	return dbaas.Errorf(dbaas.Conflict, "The replica has not yet copied the data of its master; it cannot take its place.")
}

// linkTimeout is how long a replica may take to come back to its master.
const linkTimeout = 15 * time.Second

// renewLink has a replica log in with its master anew, now rather than when it first must: a login that fails is found
// out while it can be mended. What it missed follows by itself.
func (c *client) renewLink(ctx context.Context) error {
	i, err := c.info(ctx)
	if err != nil || !inStep(i) {
		return err
	}
	if err := c.Do(ctx, "client", "kill", "type", "master").Err(); err != nil {
		return fmt.Errorf("renew the link to the master: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	err = poll(ctx, func() (bool, error) {
		i, err := c.info(ctx)
		return inStep(i), err
	})
	if err != nil {
		return dbaas.WrapError(err, dbaas.Unavailable, "The replica cannot log in with its master by the new replication secret.")
	}
	return nil
}

// poll asks again and again until the answer is yes.
func poll(ctx context.Context, ask func() (bool, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if yes, err := ask(); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// awaitRole tells what the server's role keeps its port shut for, "" when nothing does.
func (g *Guest) awaitRole(ctx context.Context, r *record, c *client, i info) (cause string, err error) {
	switch m := r.master(); {
	case r.Desired.Cluster:
		return "", nil
	case m != nil && !follows(i, m), m == nil && i["role"] != "master":
		return causeStarting, c.takeRole(ctx, r)
	case m == nil:
		return g.rival(ctx, r), nil
	case inStep(i):
		return "", nil
	}
	// One that has been open before has data, old ones perhaps; it must be there to be made the master.
	mark, err := readMark(g.data)
	if err == nil && (mark == nil || !mark.Opened) {
		cause = causeCopying
	}
	return cause, err
}

// rival looks whether the group has another master, before this one opens its port as one: it may have died as the master
// and come back after somebody else took over.
func (g *Guest) rival(ctx context.Context, r *record) (cause string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	seen := g.askAll(ctx, r, r.Desired.Peers)
	replica := map[string]bool{r.Desired.Address: true}
	for _, s := range seen {
		replica[s.address] = s.Role == datastore.RoleReplica
	}
	for _, s := range seen {
		if s.Role == datastore.RoleMaster || s.linked && !replica[s.follows] {
			return causeRival
		}
	}
	if y := r.Yielding; y != nil && !replica[y.Address] { // nobody knows whether it has taken over
		return causeRival
	}
	return ""
}

// boundFile is in the agent's directory from when a database whose writes are to be on two machines had the first replica
// in step, or was one. Before that it takes writes alone: a replica that is being made does not stop its master.
const boundFile = "bound"

// boundLag is how many seconds a replica may be silent and still count. It tells of itself every second; three bear with
// one that is late, and an isolated master refuses writes within four.
const boundLag = "3"

// bounded tells whether a database takes writes only while a replica gets them.
func bounded(d datastore.Desired) bool {
	return d.Durability != nil && d.Durability.Durability == dbaas.DurabilityBounded &&
		d.Durability.WhenDegraded != dbaas.DegradedAccept && len(d.Peers) > 0
}

// plan works out the configuration of this very database.
func (g *Guest) plan(d datastore.Desired) (plan, error) {
	p, err := newPlan(d)
	if err != nil {
		return p, err
	}
	_, absent := os.Stat(g.path(boundFile))
	p.base["min-replicas-to-write"], p.base["min-replicas-max-lag"] = "0", "10"
	if bounded(d) && absent == nil {
		p.base["min-replicas-to-write"], p.base["min-replicas-max-lag"] = "1", boundLag
	}
	return p, nil
}

// bind begins, or ends, to take writes only while a replica gets them.
func (g *Guest) bind(ctx context.Context, r *record, c *client, i info) error {
	_, absent := os.Stat(g.path(boundFile))
	switch wanted := bounded(r.Desired); {
	case wanted && errors.Is(absent, os.ErrNotExist) && (inStep(i) || countReplicas(i) > 0):
		if err := host.WriteFile(g.path(boundFile), nil, 0o600, nil); err != nil {
			return err
		}
		g.forgetDrift()
		return c.configSet(ctx, settings{"min-replicas-to-write": "1", "min-replicas-max-lag": boundLag})
	case !wanted && absent == nil:
		return os.Remove(g.path(boundFile))
	}
	return nil
}

// silentLag is after how many seconds without a word a replica no longer counts as one.
const silentLag = 10

// replicas reads "slave0:ip=…,port=…,state=online,offset=…,lag=0" and its like: of those in step, lag and offset.
func replicas(i info) (lags, offsets []int64) {
	for n := 0; ; n++ {
		line, ok := i["slave"+strconv.Itoa(n)]
		if !ok {
			return lags, offsets
		}
		fields := map[string]string{}
		for field := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(field, "=")
			fields[name] = value
		}
		lag, err1 := strconv.ParseInt(fields["lag"], 10, 64)
		offset, err2 := strconv.ParseInt(fields["offset"], 10, 64)
		if fields["state"] == "online" && err1 == nil && err2 == nil {
			lags, offsets = append(lags, lag), append(offsets, offset)
		}
	}
}

func countReplicas(i info) int {
	lags, _ := replicas(i)
	n := 0
	for _, lag := range lags {
		if lag <= silentLag {
			n++
		}
	}
	return n
}

// replication is how the server sees its place in the group.
func replication(i info) datastore.Replication {
	if i["role"] == "master" {
		return datastore.Replication{Role: datastore.RoleMaster, History: i["master_replid"], Replicas: countReplicas(i)}
	}
	return datastore.Replication{
		Role: datastore.RoleReplica, History: i["master_replid"], Master: i["master_host"],
		LinkUp: i["master_link_status"] == "up", Syncing: i["master_sync_in_progress"] == "1", Replicas: countReplicas(i),
	}
}
