package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// busPort is where the members of a cluster speak with each other.
const busPort = port + 10000

// nodesFile is what the server keeps of its cluster, on the volume, so that it is the same node after any restart.
const nodesFile = "nodes.conf"

// clusterDirectives make the server a member of a cluster.
func clusterDirectives(r *record) []directive {
	if !r.Desired.Cluster {
		return []directive{{"cluster-enabled", "no"}}
	}
	return []directive{
		{"cluster-enabled", "yes"},
		{"cluster-config-file", nodesFile},
		// The bus has its port from here, not from the clients' port, which is shut at a start.
		{"cluster-port", strconv.Itoa(busPort)},
		{"cluster-announce-ip", r.Desired.Address},
		{"cluster-announce-port", strconv.Itoa(port)},
		{"cluster-announce-bus-port", strconv.Itoa(busPort)},
		{"cluster-node-timeout", "5000"}, // a dead master is replaced in 8 s; the default needs 20
		// A master that gives away its last slot is to stay what it is, and no replica changes its shard by itself.
		{"cluster-allow-replica-migration", "no"},
		// A lost shard does not stop the others.
		{"cluster-require-full-coverage", "no"},
	}
}

// The actions of a member of a cluster.
const (
	actionView      = "cluster_view"       // viewArgs; clusterView
	actionSizes     = "cluster_slot_sizes" // nothing; slotSizes
	actionEpoch     = "cluster_set_epoch"  // epochArgs; nothing
	actionMeet      = "cluster_meet"       // datastore.Endpoint; nothing
	actionAddSlots  = "cluster_add_slots"  // slotArgs; nothing
	actionCalm      = "cluster_set_stable" // slotArgs; nothing
	actionReplicate = "cluster_replicate"  // nodeArgs; nothing
	actionForget    = "cluster_forget"     // nodeArgs; nothing
	actionReset     = "cluster_reset"      // nodeArgs with the node's own id; nothing
	actionBump      = "cluster_bump_epoch" // nothing; nothing
	actionWelcome   = "cluster_welcome"    // nothing; nothing
	// ActionClusterFailover makes a replica the master of its shard, without losing a write: the old master waits for it.
	ActionClusterFailover = "cluster_failover" // nothing; nothing
	actionMove            = "move_slots"       // moveArgs; moveResult; as a job
	actionStopMoves       = "stop_moves"       // nothing; nothing
)

type viewArgs struct {
	// Strays: look for keys of slots that the member does not own.
	Strays bool `json:"strays,omitempty"`
}

type epochArgs struct {
	Epoch int `json:"epoch"`
}

type slotArgs struct {
	Slots slotSet `json:"slots"`
}

type nodeArgs struct {
	ID string `json:"id"`
}

// clusterView is what a member says of its cluster.
type clusterView struct {
	ID        string         `json:"id"`
	State     string         `json:"state"` // "ok" or "fail"
	Epoch     int64          `json:"epoch"` // the highest that it has heard of
	Nodes     []clusterNode  `json:"nodes"`
	Migrating map[int]string `json:"migrating,omitempty"` // slot: to which node
	Importing map[int]string `json:"importing,omitempty"` // slot: from which node
	Keys      int64          `json:"keys"`
	Memory    int64          `json:"memory"` // in use
	MaxMemory int64          `json:"max_memory"`
	LinkUp    bool           `json:"link_up"`          // of a replica, to its master
	Strays    map[int]int64  `json:"strays,omitempty"` // slot that is another's: keys that are here all the same
	Leaves    bool           `json:"leaves,omitempty"` // it has been told to leave
	Former    []string       `json:"former,omitempty"` // ids of the nodes that it was before
	Mover     moverState     `json:"mover"`
	Now       int64          `json:"now"` // the member's clock, in milliseconds
}

// clusterNode is how one member knows another, or itself.
type clusterNode struct {
	ID        string  `json:"id"`
	Address   string  `json:"address"`
	Master    bool    `json:"master,omitempty"`
	Follows   string  `json:"follows,omitempty"` // node id of its master
	Handshake bool    `json:"handshake,omitempty"`
	Suspected bool    `json:"suspected,omitempty"`
	Failed    bool    `json:"failed,omitempty"`
	Connected bool    `json:"connected,omitempty"`
	Answered  int64   `json:"answered,omitempty"` // when, by the other's clock, it answered last; in milliseconds
	Epoch     int64   `json:"epoch"`
	Slots     slotSet `json:"slots,omitempty"`
}

// self gives how a member sees itself.
func (v *clusterView) self() *clusterNode { return v.node(v.ID) }

// node finds a node by id, nil when the member does not know it.
func (v *clusterView) node(id string) *clusterNode {
	for i := range v.Nodes {
		if v.Nodes[i].ID == id {
			return &v.Nodes[i]
		}
	}
	return nil
}

// parseNodes reads the answer of CLUSTER NODES.
func parseNodes(text string) (*clusterView, error) {
	v := &clusterView{Migrating: map[int]string{}, Importing: map[int]string{}}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 8 {
			return nil, fmt.Errorf("a line of CLUSTER NODES has %d words: %q", len(f), line)
		}
		n, err := v.parseNode(f)
		if err != nil {
			return nil, fmt.Errorf("read CLUSTER NODES: %w", err)
		}
		v.Nodes = append(v.Nodes, n)
	}
	if v.self() == nil {
		return nil, errors.New("the server does not find itself among the nodes of its cluster")
	}
	return v, nil
}

// parseNode reads: id address:port@bus flags master ping pong epoch link-state slots...
func (v *clusterView) parseNode(f []string) (clusterNode, error) {
	n := clusterNode{ID: f[0], Connected: f[7] == "connected"}
	host, _, _ := strings.Cut(f[1], "@")
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		n.Address = host[:i]
	}
	for flag := range strings.SplitSeq(f[2], ",") {
		switch flag {
		case "myself":
			v.ID = n.ID
		case "master":
			n.Master = true
		case "handshake":
			n.Handshake = true
		case "fail?":
			n.Suspected = true
		case "fail":
			n.Failed = true
		}
	}
	if f[3] != "-" {
		n.Follows = f[3]
	}
	var err error
	if n.Answered, err = strconv.ParseInt(f[5], 10, 64); err != nil {
		return n, err
	}
	if n.Epoch, err = strconv.ParseInt(f[6], 10, 64); err != nil {
		return n, err
	}
	for _, word := range f[8:] {
		if strings.HasPrefix(word, "[") {
			err = v.parseMark(strings.Trim(word, "[]"))
		} else {
			err = n.Slots.add(word)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// parseMark reads 77->-id of a slot that moves away, and 77-<-id of one that comes.
func (v *clusterView) parseMark(word string) error {
	for arrow, marks := range map[string]map[int]string{"->-": v.Migrating, "-<-": v.Importing} {
		if number, id, ok := strings.Cut(word, arrow); ok {
			slot, err := strconv.Atoi(number)
			if err != nil {
				return err
			}
			marks[slot] = id
		}
	}
	return nil
}

// member is a server that is one of a cluster, as its actions meet it.
type member struct {
	*Guest
	*client
	record *record
}

// Reads implements [datastore.Reader].
func (g *Guest) Reads() []string { return []string{datastore.ActionPosition, actionView, actionSizes} }

// clusterActions are the deeds that [Topology] asks for. Each is small and may be repeated, but for the job actionMove.
func (g *Guest) clusterActions() map[string]datastore.Action {
	return map[string]datastore.Action{
		actionView:            clusterAction(g, member.view),
		actionSizes:           clusterAction(g, member.sizes),
		actionEpoch:           clusterAction(g, member.setEpoch),
		actionMeet:            clusterAction(g, member.meet),
		actionAddSlots:        clusterAction(g, member.addSlots),
		actionCalm:            clusterAction(g, member.calm),
		actionReplicate:       clusterAction(g, member.replicate),
		actionForget:          clusterAction(g, member.forget),
		actionReset:           clusterAction(g, member.reset),
		actionBump:            clusterAction(g, member.bump),
		actionWelcome:         clusterAction(g, member.welcome),
		ActionClusterFailover: clusterAction(g, member.failover),
		actionMove:            clusterAction(g, member.move),
		actionStopMoves:       clusterAction(g, member.stopMoves),
	}
}

// nothing is the arguments, or the result, of an action that has none.
type nothing struct{}

// clusterAction makes an action of a deed. A server that is no member of a cluster refuses.
func clusterAction[A, R any](g *Guest, deed func(member, context.Context, A) (R, error)) datastore.Action {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var args A
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &args); err != nil {
				return nil, dbaas.WrapError(err, dbaas.BadRequest, "The arguments of the action cannot be read.")
			}
		}
		r, err := g.require()
		if err != nil {
			return nil, err
		}
		if !r.Desired.Cluster {
			return nil, dbaas.Errorf(dbaas.Conflict, "The database is not a member of a cluster.")
		}
		c, err := g.connect(ctx, r)
		if err != nil {
			return nil, dbaas.WrapError(err, dbaas.Unavailable, "The database does not answer.")
		}
		return deed(member{g, c, r}, ctx, args)
	}
}

// cluster sends a CLUSTER command whose answer says nothing more.
func (m member) cluster(ctx context.Context, words ...any) error {
	if err := m.client.Do(ctx, append([]any{"cluster"}, words...)...).Err(); err != nil {
		return fmt.Errorf("cluster %v: %w", words[0], err)
	}
	return nil
}

// view looks at the cluster from here.
func (m member) view(ctx context.Context, args viewArgs) (*clusterView, error) {
	mover := m.mover.look() // before the marks: those of a job that runs are not left over
	i, err := m.info(ctx)
	if err != nil {
		return nil, dbaas.WrapError(err, dbaas.Unavailable, "The database does not answer in time.")
	}
	v, err := m.nodes(ctx)
	if err != nil {
		return nil, err
	}
	text, err := m.ClusterInfo(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("cluster info: %w", err)
	}
	state := parseInfo(text)
	v.State, v.Epoch = state["cluster_state"], state.integer("cluster_current_epoch")
	v.Keys, v.Memory, v.MaxMemory = int64(countKeys(i)), i.integer("used_memory"), i.integer("maxmemory")
	v.LinkUp, v.Leaves = i["master_link_status"] == "up", m.record.leaves()
	v.Mover, v.Now = mover, clock.Real{}.Now().UnixMilli()
	if v.Former, err = m.noteNode(v.ID); err != nil {
		return nil, err
	}
	if args.Strays && v.self().Master && v.Keys > 0 {
		v.Strays, err = m.strays(ctx, v)
	}
	return v, err
}

// integer reads a number; one that is not there is 0.
func (i info) integer(name string) int64 {
	n, _ := strconv.ParseInt(i[name], 10, 64)
	return n
}

func (c *client) nodes(ctx context.Context) (*clusterView, error) {
	text, err := c.ClusterNodes(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("cluster nodes: %w", err)
	}
	return parseNodes(text)
}

// strays counts the keys of slots that the member does not own.
func (m member) strays(ctx context.Context, v *clusterView) (map[int]int64, error) {
	own := map[int]bool{}
	for _, slot := range v.self().Slots {
		own[slot] = true
	}
	var others []int
	for slot := range slotCount {
		if !own[slot] {
			others = append(others, slot)
		}
	}
	counts, err := countKeysInSlots(ctx, m.client.Client, others)
	for slot, n := range counts {
		if n == 0 {
			delete(counts, slot)
		}
	}
	return counts, err
}

// pipelineSize is how many small commands go together: others wait for that long.
const pipelineSize = 256

// countKeysInSlots asks for many counts at once.
func countKeysInSlots(ctx context.Context, c *redis.Client, slots []int) (map[int]int64, error) {
	counts := make(map[int]int64, len(slots))
	for chunk := range slices.Chunk(slots, pipelineSize) {
		p := c.Pipeline()
		answers := make([]*redis.IntCmd, len(chunk))
		for i, slot := range chunk {
			answers[i] = p.ClusterCountKeysInSlot(ctx, slot)
		}
		if _, err := p.Exec(ctx); err != nil {
			return nil, fmt.Errorf("count the keys of slots: %w", err)
		}
		for i, slot := range chunk {
			counts[slot] = answers[i].Val()
		}
	}
	return counts, nil
}

// slotSizes is what the slots of a master hold; empty ones are not in it.
type slotSizes struct {
	Keys  map[int]int64 `json:"keys"`
	Bytes map[int]int64 `json:"bytes"`
}

const (
	// mostMeasured is how many keys are measured in all, which takes a second where nothing else is at work; of more keys each slot's
	// first ones count.
	mostMeasured = 100_000
	// leastMeasured of each slot are, so that a few large keys are not missed.
	leastMeasured = 8
)

// sizes measures the slots of a master.
func (m member) sizes(ctx context.Context, _ nothing) (*slotSizes, error) {
	v, err := m.nodes(ctx)
	if err != nil {
		return nil, err
	}
	c := m.ownConnections(1) // Status is not to wait for this
	defer func() { _ = c.Close() }()
	s := &slotSizes{Bytes: map[int]int64{}}
	if s.Keys, err = countKeysInSlots(ctx, c, v.self().Slots); err != nil {
		return nil, err
	}
	var all int64
	for slot, n := range s.Keys {
		if all += n; n == 0 {
			delete(s.Keys, slot)
		}
	}
	var slots []sample
	for slot, n := range s.Keys {
		one := sample{slot, n}
		if all > mostMeasured {
			one.keys = min(n, max(leastMeasured, n*mostMeasured/all))
		}
		slots = append(slots, one)
	}
	for len(slots) > 0 {
		n := together(slots)
		if err := s.measure(ctx, c, slots[:n]); err != nil {
			return nil, err
		}
		slots = slots[n:]
	}
	return s, nil
}

// sample is how many keys of a slot are measured.
type sample struct {
	slot int
	keys int64
}

// together tells how many of the first slots have no more keys to be measured than go together: one at least.
func together(slots []sample) int {
	keys := int64(0)
	for i, one := range slots {
		if keys += one.keys; keys > pipelineSize && i > 0 {
			return i
		}
	}
	return len(slots)
}

// measure measures samples of some slots, and takes the other keys of each for like them.
func (s *slotSizes) measure(ctx context.Context, c *redis.Client, slots []sample) error {
	p := c.Pipeline()
	lists := make([]*redis.StringSliceCmd, len(slots))
	for i, one := range slots {
		lists[i] = p.ClusterGetKeysInSlot(ctx, one.slot, int(one.keys))
	}
	if _, err := p.Exec(ctx); err != nil {
		return fmt.Errorf("list the keys of slots: %w", err)
	}
	var keys []string
	for _, list := range lists {
		keys = append(keys, list.Val()...)
	}
	sizes, err := keySizes(ctx, c, keys)
	if err != nil {
		return err
	}
	for i, one := range slots {
		n := len(lists[i].Val())
		var sum int64
		for _, size := range sizes[:n] {
			sum += size
		}
		sizes = sizes[n:]
		if n > 0 {
			s.Bytes[one.slot] = sum * s.Keys[one.slot] / int64(n)
		}
	}
	return nil
}

// keySizes measures keys; one that is gone has 0 bytes.
func keySizes(ctx context.Context, c *redis.Client, keys []string) ([]int64, error) {
	sizes := make([]int64, 0, len(keys))
	for chunk := range slices.Chunk(keys, pipelineSize) {
		p := c.Pipeline()
		answers := make([]*redis.IntCmd, len(chunk))
		for i, key := range chunk {
			answers[i] = p.MemoryUsage(ctx, key)
		}
		if _, err := p.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) && !hasPrefix(err, "ASK", "TRYAGAIN") {
			return nil, fmt.Errorf("measure keys: %w", err)
		}
		for _, a := range answers {
			sizes = append(sizes, a.Val())
		}
	}
	return sizes, nil
}

// ownConnections are connections apart from the one that everything else goes through.
func (m member) ownConnections(n int) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: m.path(socketFile), Dialer: m.dial, Username: agentUser, Password: m.record.AgentSecret,
		Protocol: 2, DisableIdentity: true, PoolSize: n, MaxRetries: -1,
		DialTimeout: time.Second, DialerRetries: 1, ReadTimeout: time.Minute, ContextTimeoutEnabled: true,
	})
}

// setEpoch gives a node that knows nobody yet an epoch of its own, so that no two collide; one that has one keeps it.
func (m member) setEpoch(ctx context.Context, args epochArgs) (nothing, error) {
	v, err := m.nodes(ctx)
	if err != nil || len(v.Nodes) > 1 || v.self().Epoch > 0 {
		return nothing{}, err
	}
	return nothing{}, m.cluster(ctx, "set-config-epoch", args.Epoch)
}

// meet begins to make the member known to another, and so to all.
func (m member) meet(ctx context.Context, peer datastore.Endpoint) (nothing, error) {
	if net.ParseIP(peer.Address) == nil {
		return nothing{}, dbaas.Errorf(dbaas.BadRequest, "%q is not an IP address.", peer.Address)
	}
	return nothing{}, m.cluster(ctx, "meet", peer.Address, m.record.reach(peer).Port, peer.Port+busPort-port)
}

// addSlots takes slots that nobody claims. Those that the member has are its own already; of another that it takes for the
// owner it is known that it is not.
func (m member) addSlots(ctx context.Context, args slotArgs) (nothing, error) {
	v, err := m.nodes(ctx)
	if err != nil {
		return nothing{}, err
	}
	owner := map[int]string{}
	for _, n := range v.Nodes {
		for _, slot := range n.Slots {
			owner[slot] = n.ID
		}
	}
	var missing slotSet
	claimed := false
	for _, slot := range args.Slots {
		switch owner[slot] {
		case "":
			missing = append(missing, slot)
		case v.ID:
		default:
			if err := m.cluster(ctx, "setslot", slot, "node", v.ID); err != nil {
				return nothing{}, err
			}
			claimed = true
		}
	}
	if claimed {
		if err := m.cluster(ctx, "bumpepoch"); err != nil {
			return nothing{}, err
		}
	}
	if len(missing) == 0 {
		return nothing{}, nil
	}
	words := []any{"addslotsrange"}
	for text := range strings.FieldsSeq(missing.String()) {
		from, to, isRange := strings.Cut(text, "-")
		if !isRange {
			to = from
		}
		words = append(words, from, to)
	}
	return nothing{}, m.cluster(ctx, words...)
}

// calm takes away the marks of slots that move, where no key has moved.
func (m member) calm(ctx context.Context, args slotArgs) (nothing, error) {
	for _, slot := range args.Slots {
		if err := m.cluster(ctx, "setslot", slot, "stable"); err != nil {
			return nothing{}, err
		}
	}
	return nothing{}, nil
}

// replicate makes the member a replica of a node.
func (m member) replicate(ctx context.Context, args nodeArgs) (nothing, error) {
	v, err := m.nodes(ctx)
	if err != nil || v.self().Follows == args.ID {
		return nothing{}, err
	}
	if v.node(args.ID) == nil {
		return nothing{}, dbaas.Errorf(dbaas.Unavailable, "The member does not know its new master yet.")
	}
	return nothing{}, m.cluster(ctx, "replicate", args.ID)
}

// forget strikes a node off. One that is not known is forgotten.
func (m member) forget(ctx context.Context, args nodeArgs) (nothing, error) {
	v, err := m.nodes(ctx)
	if err != nil || v.node(args.ID) == nil {
		return nothing{}, err
	}
	if len(v.node(args.ID).Slots) > 0 {
		return nothing{}, dbaas.Errorf(dbaas.Conflict, "The member is not forgotten while it has hash slots.")
	}
	return nothing{}, m.cluster(ctx, "forget", args.ID)
}

// reset makes the member a node that knows nobody, and of another id. It is refused while it holds anything that is not
// elsewhere: a master's keys, or slots. First it stays for farewell, in which it sends clients on to the new owners. Then
// its port is shut before it forgets: to a client whose map of the slots is old still, one who cannot be reached is a
// reason to ask another, while "CLUSTERDOWN" of one who knows nobody would be an error.
func (m member) reset(ctx context.Context, args nodeArgs) (nothing, error) {
	v, err := m.view(ctx, viewArgs{})
	if err != nil || v.ID != args.ID { // done already
		return nothing{}, err
	}
	if len(v.self().Slots) > 0 || v.self().Master && v.Keys > 0 {
		return nothing{}, dbaas.Errorf(dbaas.Conflict, "The member still has %d hash slots and %d keys; it is not reset.", len(v.self().Slots), v.Keys)
	}
	if err := m.stay(); err != nil {
		return nothing{}, err
	}
	if err := m.shut(ctx); err != nil {
		return nothing{}, err
	}
	return nothing{}, m.cluster(ctx, "reset", "hard")
}

// farewell is how long a member without slots goes on answering. Clients that never look for a new map when a server is
// gone, but take a new one every 10 s while they work (go-redis 9), have it by then.
const farewell = 15 * time.Second

// stay refuses to leave before farewell has passed since one was asked to for the first time.
func (m member) stay() error {
	now, staying := clock.Real{}.Now(), *m.record
	if staying.LeavesAt.IsZero() {
		staying.LeavesAt = now.Add(farewell)
		if err := m.write(&staying); err != nil {
			return err
		}
	}
	if now.Before(staying.LeavesAt) {
		return dbaas.Errorf(dbaas.Unavailable, "The member still sends clients on to those that have its slots now.")
	}
	return nil
}

// shut closes the port for good and cuts who is connected to it.
func (m member) shut(ctx context.Context) error {
	dismissed := *m.record
	dismissed.Dismissed = true
	if err := m.write(&dismissed); err != nil {
		return err
	}
	running, err := m.configGet(ctx, "port", "tls-port")
	if err != nil {
		return err
	}
	if err := m.configSet(ctx, shutDoors(running)); err != nil {
		return fmt.Errorf("shut the port: %w", err)
	}
	return m.client.Do(ctx, "client", "kill", "type", "normal", "skipme", "yes").Err()
}

// leaves tells whether a member has been told to leave its cluster.
func (r *record) leaves() bool { return r.Dismissed || !r.LeavesAt.IsZero() }

// welcome has a member stay that was told to leave. Its port opens again, and its next farewell is a whole one.
func (m member) welcome(ctx context.Context, _ nothing) (nothing, error) {
	if !m.record.leaves() {
		return nothing{}, nil
	}
	welcomed := *m.record
	welcomed.LeavesAt, welcomed.Dismissed = time.Time{}, false
	if err := m.write(&welcomed); err != nil {
		return nothing{}, err
	}
	_, err := m.open(ctx, &welcomed, m.client)
	return nothing{}, err
}

// bump gives the member's claims the last word.
func (m member) bump(ctx context.Context, _ nothing) (nothing, error) {
	return nothing{}, m.cluster(ctx, "bumpepoch")
}

// failover makes this replica the master. The old master stops its writes until this one has them all; should that take
// over 5 s, nothing has happened. It is never forced.
func (m member) failover(ctx context.Context, _ nothing) (nothing, error) {
	v, err := m.nodes(ctx)
	if err != nil || v.self().Master {
		return nothing{}, err
	}
	if err := m.cluster(ctx, "failover"); err != nil {
		if hasPrefix(err, "ERR Master is down") {
			return nothing{}, dbaas.WrapError(err, dbaas.Unavailable, "The master is down; the cluster replaces it by itself.")
		}
		return nothing{}, err
	}
	return nothing{}, nil
}
