package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
)

// load is a tenant that writes and reads what it has written, all the time.
type load struct {
	t       *testing.T
	client  *redis.ClusterClient
	strict  bool // no error at all may reach the tenant
	end     context.CancelFunc
	workers sync.WaitGroup
	parts   []*part
	writes  atomic.Int64
	errors  atomic.Int64
}

// part is what one worker alone writes.
type part struct {
	name   string
	values map[string]int // last acknowledged
	counts map[string]int
}

const (
	loadParts = 3
	loadKeys  = 400
	loadTTL   = time.Hour
)

// startLoad fills the cluster and goes on writing.
func startLoad(t *testing.T, c *redis.ClusterClient, strict bool) *load {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	l := &load{t: t, client: c, strict: strict, end: end}
	for i := range loadParts {
		p := &part{name: fmt.Sprint("part", i), values: map[string]int{}, counts: map[string]int{}}
		l.parts = append(l.parts, p)
		for n := range loadKeys {
			if err := l.put(ctx, p, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, p := range l.parts {
		l.workers.Go(func() { l.work(ctx, p) })
	}
	t.Cleanup(end)
	return l
}

func key(p *part, n int) string { return fmt.Sprintf("%s:%d", p.name, n) }

// put writes the next version of a key: every 100th is large, every third will expire.
func (l *load) put(ctx context.Context, p *part, n int) error {
	k := key(p, n)
	ttl := time.Duration(0)
	if n%3 == 0 {
		ttl = loadTTL
	}
	next := p.values[k] + 1
	err := l.client.Set(ctx, k, content(k, n, next), ttl).Err()
	if err == nil {
		p.values[k] = next
	}
	return err
}

// content is a value that tells its version.
func content(k string, n, version int) []byte {
	text := []byte(fmt.Sprintf("%s=%d;", k, version))
	if n%100 == 0 {
		return bytes.Repeat(text, 2<<20/len(text))
	}
	return text
}

func (l *load) work(ctx context.Context, p *part) {
	for ctx.Err() == nil {
		n := rand.IntN(loadKeys)
		if n%100 == 0 && rand.IntN(20) > 0 {
			continue // the large ones now and then
		}
		err := errors.Join(l.put(ctx, p, n), l.check(ctx, p, rand.IntN(loadKeys)))
		counter := fmt.Sprintf("%s:count:%d", p.name, n%50)
		got, incrErr := l.client.Incr(ctx, counter).Result()
		if incrErr == nil {
			p.counts[counter]++
			if l.strict && int(got) != p.counts[counter] {
				l.t.Errorf("%s was counted %d times and is %d", counter, p.counts[counter], got)
			}
		}
		if err = errors.Join(err, incrErr); err != nil && ctx.Err() == nil {
			l.errors.Add(1)
			if l.strict {
				l.t.Errorf("the tenant sees: %v", err)
				return
			}
		}
		l.writes.Add(1)
	}
}

// check reads a key: it is of the last acknowledged version, where no write of it failed.
func (l *load) check(ctx context.Context, p *part, n int) error {
	k := key(p, n)
	got, err := l.client.Get(ctx, k).Bytes()
	if errors.Is(err, redis.Nil) {
		if !l.strict {
			return nil // a slot that is half moved and whose owner was replaced
		}
		return fmt.Errorf("the key %s is lost", k)
	}
	if err == nil && l.strict && !bytes.Equal(got, content(k, n, p.values[k])) {
		return fmt.Errorf("the key %s is %.40q, not of version %d", k, got, p.values[k])
	}
	return err
}

// stop ends the writes and looks at every key, and at every server for keys that are there twice.
func (l *load) stop(f *fleet) {
	l.t.Helper()
	l.end()
	l.workers.Wait()
	ctx := l.t.Context()
	want := int64(0)
	for _, p := range l.parts {
		for n := range loadKeys {
			k := key(p, n)
			got, err := l.client.Get(ctx, k).Bytes()
			version := p.values[k]
			// A write that was cut off has happened or not.
			if err != nil || !bytes.Equal(got, content(k, n, version)) && !(!l.strict && newer(string(got), k, version)) {
				l.t.Errorf("the key %s is %.40q, %v; want version %d", k, got, err, version)
			}
			ttl, err := l.client.TTL(ctx, k).Result()
			if expires := n%3 == 0; err != nil || expires != (ttl > 0) || ttl > loadTTL {
				l.t.Errorf("the key %s expires in %v, %v", k, ttl, err)
			}
		}
		want += loadKeys + int64(len(p.counts))
		for counter, n := range p.counts {
			if got, err := l.client.Get(ctx, counter).Int(); err != nil || got < n || l.strict && got > n {
				l.t.Errorf("the counter %s is %d, %v; want %d", counter, got, err, n)
			}
		}
	}
	if got := f.keys(l.t); got != want && l.strict {
		l.t.Errorf("the masters have %d keys in all, want %d", got, want)
	}
	l.t.Logf("%d rounds of writes, %d with an error", l.writes.Load(), l.errors.Load())
	if l.writes.Load() == 0 {
		l.t.Error("nothing was written meanwhile")
	}
}

// newer tells whether a value is of a later version than the acknowledged.
func newer(got, k string, version int) bool {
	var v int
	_, err := fmt.Sscanf(strings.TrimPrefix(got, k+"="), "%d;", &v)
	return err == nil && v >= version
}

// keys counts what the masters have.
func (f *fleet) keys(t testing.TB) (sum int64) {
	t.Helper()
	for _, n := range f.nodes {
		v := new(clusterView)
		if err := n.Do(t.Context(), actionView, viewArgs{Strays: true}, v); err != nil {
			t.Fatal(err)
		}
		if v.self().Master {
			sum += v.Keys
		}
		if len(v.Strays)+len(v.Importing)+len(v.Migrating) > 0 {
			t.Errorf("the member %s has %v, %v, %v", n.id, v.Strays, v.Importing, v.Migrating)
		}
	}
	return sum
}

// unassigned fails where a member does not know all owners.
func (f *fleet) unassigned() {
	f.t.Helper()
	for _, n := range f.nodes {
		v := new(clusterView)
		if err := n.Do(f.t.Context(), actionView, viewArgs{}, v); err != nil {
			f.t.Fatal(err)
		}
		count := 0
		for _, node := range v.Nodes {
			count += len(node.Slots)
		}
		if count != slotCount {
			f.t.Errorf("the member %s sees the owners of %d slots: %+v", n.id, count, v.Nodes)
		}
	}
}

// leave wishes a shard away.
func (f *fleet) leave(shard int) {
	id := fmt.Sprint("shard-", shard)
	var stay []datastore.MemberWish
	for _, w := range f.wish.Members {
		if w.ShardID == id {
			f.wish.Leaving = append(f.wish.Leaving, w.GuestID)
		} else {
			stay = append(stay, w)
		}
	}
	f.wish.Members = stay
}

// TestClusterGrowAndShrink adds a shard and takes one away, while a tenant writes and reads.
func TestClusterGrowAndShrink(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureMoves)
		f := newFleet(t, version, 3, 1)
		l := startLoad(t, f.tenant(), true)
		f.addShard(3, 1)
		f.wish.Rebalance = true
		f.converge()
		h := f.health()
		if h.State != stateOK {
			t.Errorf("after growing the cluster is %+v", h)
		}
		if m := h.Members[6]; m.Units < slotCount/10 {
			t.Errorf("the new master is %+v", m)
		}
		f.wish.Rebalance = false
		f.leave(0)
		f.converge()
		if h = f.health(); h.State != stateOK || len(h.Members) != 6 {
			t.Errorf("after shrinking the cluster is %+v", h)
		}
		for _, n := range f.nodes[:2] {
			v := new(clusterView)
			if err := n.Do(t.Context(), actionView, viewArgs{}, v); err != nil || len(v.Nodes) != 1 || v.Keys != 0 || len(v.self().Slots) != 0 {
				t.Errorf("who has left is %+v, %v", v, err)
			}
		}
		for _, n := range f.nodes[2:] {
			v := new(clusterView)
			if err := n.Do(t.Context(), actionView, viewArgs{}, v); err != nil || len(v.Nodes) != 6 {
				t.Errorf("who has stayed knows %d nodes, %v", len(v.Nodes), err)
			}
		}
		f.nodes = f.nodes[2:]
		f.unassigned()
		l.stop(f)
	})
}
