package redis

import (
	"context"
	"fmt"
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
