package redis

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
)

// benchSlots slots of benchKeys keys of 100 bytes each are moved to and fro; in every benchLarge-th is one of 1 MiB.
const (
	benchSlots  = 500
	benchKeys   = 61
	benchLarge  = 25
	benchRounds = 6
)

// BenchmarkSlotMove moves the same slots with redis-cli and with the mover, in turn, while a client reads them.
func BenchmarkSlotMove(b *testing.B) {
	f := newFleet(b, redis70, 3, 1)
	c := f.tenant()
	keys := fillSlots(b, c)
	for _, n := range f.nodes { // the tool knows one account for all
		if err := n.admin(b).Do(b.Context(), "acl", "setuser", "bench", "reset", "on", ">"+testReplicationSecret, "~*", "&*", "+@all").Err(); err != nil {
			b.Fatal(err)
		}
	}
	sides := [2]*node{f.nodes[0], f.nodes[2]}
	ctx := b.Context()
	for b.Loop() {
		var took [2]time.Duration
		var ratios []float64
		latency := map[string][]time.Duration{}
		for round := range benchRounds {
			for turn := range 2 {
				i := (turn + round) % 2 // each has each direction
				name := []string{"cli", "grove"}[i]
				latency["idle"] = append(latency["idle"], readDuring(b, c, keys, func() { <-time.After(time.Second) })...)
				from, to := f.ownerOf(b, 0), sides[0]
				if from == to {
					to = sides[1]
				}
				held := f.measured(b, from)
				start := time.Now()
				latency[name] = append(latency[name], readDuring(b, c, keys, func() {
					if name == "cli" {
						f.reshard(b, from, to)
						return
					}
					moved, err := from.run(ctx, actionMove, moveArgs{Moves: []slotMove{{
						To: datastore.Endpoint{Address: to.host.Address, Port: port}, ID: f.nodeID(b, to), Slots: firstSlots(), Bytes: held,
					}}})
					if err != nil || moved.(*moveResult).Slots != benchSlots {
						b.Fatalf("move: %+v, %v", moved, err)
					}
				})...)
				took[i] = time.Since(start)
				f.converge() // until all agree
			}
			b.Logf("redis-cli %v, grove %v", took[0], took[1])
			ratios = append(ratios, took[0].Seconds()/took[1].Seconds())
			b.ReportMetric(benchSlots/took[0].Seconds(), "cli-slots/s")
			b.ReportMetric(benchSlots/took[1].Seconds(), "grove-slots/s")
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], "ratio")
		for name, list := range latency {
			slices.Sort(list)
			b.ReportMetric(float64(list[len(list)*99/100].Microseconds()), name+"-p99-us")
		}
	}
	if n := f.keys(b); n != int64(len(keys)) {
		b.Errorf("there are %d keys, want %d", n, len(keys))
	}
}

// growKeys keys, of sizes by Zipf's law, are in the cluster that grows.
const growKeys = 20_000

// BenchmarkGrow adds a shard to a cluster while a client reads it, and tells how the client's latency changes, how many bytes
// are moved beside the least that balance takes, and how far the masters are from the mean then.
func BenchmarkGrow(b *testing.B) {
	f := newFleet(b, redis70, 3, 1)
	c := f.tenant()
	random := rand.New(rand.NewPCG(1, 2))
	sizes := rand.NewZipf(random, 1.3, 8, 64<<10)
	keys := make([]string, growKeys)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
		if err := c.Set(b.Context(), keys[i], strings.Repeat("x", int(sizes.Uint64())+1), 0).Err(); err != nil {
			b.Fatal(err)
		}
	}
	shard := 3
	for b.Loop() {
		latency := map[string][]time.Duration{}
		latency["idle"] = readDuring(b, c, keys, func() { <-time.After(3 * time.Second) })
		before, err := f.look().balance(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		f.addShard(shard, 1)
		shard++
		f.wish.Rebalance = true
		latency["grow"] = readDuring(b, c, keys, func() { f.convergeCalmly(b) })
		for name, list := range latency {
			slices.Sort(list)
			b.ReportMetric(float64(list[len(list)/2].Microseconds()), name+"-p50-us")
			b.ReportMetric(float64(list[len(list)*99/100].Microseconds()), name+"-p99-us")
			b.ReportMetric(float64(list[len(list)-1].Microseconds()), name+"-worst-us")
		}
		moved, imbalance := before.compare(f.look(), shard)
		b.ReportMetric(moved, "moved/least")
		b.ReportMetric(imbalance*100, "imbalance-%")
	}
	if n := f.keys(b); n != growKeys {
		b.Errorf("there are %d keys, want %d", n, growKeys)
	}
}

// convergeCalmly comes back when it is told to, as the control plane does.
func (f *fleet) convergeCalmly(b *testing.B) {
	for {
		p, err := Datastore{}.Converge(b.Context(), f.wish, f.members())
		if err != nil {
			b.Fatal(err)
		}
		if p.Done {
			return
		}
		<-time.After(time.Duration(p.Again) * time.Millisecond)
	}
}

// compare gives how many bytes have moved as a part of the least, and how far the master that is farthest is from the mean.
func (b *balance) compare(after *survey, masters int) (moved, imbalance float64) {
	owner, _ := after.owners()
	var sum, least float64
	was, is := map[string]float64{}, map[string]float64{}
	for slot, n := range b.bytes {
		bytes := float64(n)
		sum += bytes
		was[b.owner[slot]] += bytes
		is[owner[slot]] += bytes
		if owner[slot] != b.owner[slot] {
			moved += bytes
		}
	}
	mean := sum / float64(masters)
	for _, load := range was {
		least += max(0, load-mean)
	}
	for _, load := range is {
		imbalance = max(imbalance, math.Abs(load-mean)/mean)
	}
	return moved / least, imbalance
}

// measured is what a plan finds the slots to hold.
func (f *fleet) measured(b *testing.B, n *node) map[int]int64 {
	b.Helper()
	sizes := new(slotSizes)
	if err := n.Do(b.Context(), actionSizes, nothing{}, sizes); err != nil {
		b.Fatal(err)
	}
	return sizes.Bytes
}

func firstSlots() (slots slotSet) {
	for slot := range benchSlots {
		slots = append(slots, slot)
	}
	return slots
}

func (f *fleet) nodeID(t testing.TB, n *node) string {
	t.Helper()
	return f.view(t, n).ID
}

func (f *fleet) view(t testing.TB, n *node) *clusterView {
	t.Helper()
	v := new(clusterView)
	if err := n.Do(t.Context(), actionView, viewArgs{}, v); err != nil {
		t.Fatal(err)
	}
	return v
}

// ownerOf gives who has a slot.
func (f *fleet) ownerOf(t testing.TB, slot int) *node {
	t.Helper()
	for _, n := range f.nodes {
		if self := f.view(t, n).self(); self.Master && slices.Contains(self.Slots, slot) {
			return n
		}
	}
	t.Fatalf("nobody has the slot %d", slot)
	return nil
}

// fillSlots fills the first slots, and gives the names of the keys.
func fillSlots(b *testing.B, c *redis.ClusterClient) (keys []string) {
	b.Helper()
	tags := map[int]int{}
	for tag := 0; len(tags) < benchSlots; tag++ {
		if slot := int(crc16(fmt.Sprint(tag))) % slotCount; slot < benchSlots {
			tags[slot] = tag
		}
	}
	for slot, tag := range tags {
		p := c.Pipeline()
		for i := range benchKeys {
			k, size := fmt.Sprintf("{%d}:%d", tag, i), 100
			if i == 0 && slot%benchLarge == 0 {
				size = 1 << 20
			}
			keys = append(keys, k)
			p.Set(b.Context(), k, strings.Repeat("x", size), 0)
		}
		if _, err := p.Exec(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	return keys
}

// crc16 is what hash slots are made with.
func crc16(text string) (crc uint16) {
	for i := range len(text) {
		crc ^= uint16(text[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// readDuring reads keys one after the other while something goes on, and gives how long each took.
func readDuring(b *testing.B, c *redis.ClusterClient, keys []string, goesOn func()) (latency []time.Duration) {
	b.Helper()
	ctx, end := context.WithCancel(b.Context())
	read := make(chan []time.Duration)
	go func() {
		var list []time.Duration
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			start := time.Now()
			if err := c.StrLen(b.Context(), keys[rand.IntN(len(keys))]).Err(); err != nil {
				b.Errorf("the client sees: %v", err)
			}
			list = append(list, time.Since(start))
		}
		read <- list
	}()
	goesOn()
	end()
	return <-read
}

// reshard moves the slots with the tool that comes with the server.
func (f *fleet) reshard(b *testing.B, from, to *node) {
	b.Helper()
	cmd := exec.Command("redis-cli", "--cluster", "reshard", fmt.Sprintf("%s:%d", from.host.Address, port), "--user", "bench", "--no-auth-warning",
		"--cluster-from", f.nodeID(b, from), "--cluster-to", f.nodeID(b, to), "--cluster-slots", fmt.Sprint(benchSlots), "--cluster-yes")
	cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+testReplicationSecret)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("redis-cli: %v: %.2000s", err, out)
	}
}
