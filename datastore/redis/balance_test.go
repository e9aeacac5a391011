package redis

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// skewed is a cluster whose slots hold amounts by Zipf's law.
func skewed(seed uint64, masters int) *balance {
	random := rand.New(rand.NewPCG(seed, 1))
	zipf := rand.NewZipf(random, 1.2, 8, 4096)
	b := &balance{owner: map[int]string{}, keys: map[int]int64{}, bytes: map[int]int64{}, free: map[string]int64{}}
	for i := range masters {
		b.masters = append(b.masters, fmt.Sprint("m", i))
	}
	for slot := range slotCount {
		b.owner[slot] = b.masters[slot*masters/slotCount]
		b.bytes[slot] = int64(zipf.Uint64()+1) * 1000
		b.keys[slot] = 10
	}
	return b
}

// loads gives the bytes that each master has after moves, and how many moved.
func (b *balance) loads(moves map[int]string) (loads map[string]int64, moved int64) {
	loads = map[string]int64{}
	for slot, owner := range b.owner {
		if to := moves[slot]; to != "" {
			owner = to
			moved += b.bytes[slot]
		}
		loads[owner] += b.bytes[slot]
	}
	return loads, moved
}

// TestBalanceByBytes: a plan moves no more bytes than balance takes, and leaves masters that differ by little.
func TestBalanceByBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := skewed(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(3, 8).Draw(t, "masters"))
		b.even = true
		b.masters = append(b.masters, "new")
		moves, err := b.moves()
		if err != nil {
			t.Fatal(err)
		}
		before, _ := b.loads(nil)
		after, moved := b.loads(moves)
		var total, least int64
		for _, n := range before {
			total += n
		}
		mean := total / int64(len(b.masters))
		for _, n := range before {
			least += max(0, n-mean)
		}
		if float64(moved) > 1.02*float64(least) {
			t.Errorf("%d bytes are moved, %d are the least", moved, least)
		}
		for guest, n := range after {
			if math.Abs(float64(n-mean)) > 0.05*float64(mean) {
				t.Errorf("%s has %d bytes, the mean is %d", guest, n, mean)
			}
		}
		// Once it is so, nothing more is to be done.
		for slot, to := range moves {
			b.owner[slot] = to
		}
		if again, err := b.moves(); err != nil || len(again) > 0 {
			t.Errorf("a balanced cluster would move %d slots, %v", len(again), err)
		}
	})
}

// TestBalanceOfNothing: without keys, slots are what is evened out; and a plan without a need is empty.
func TestBalanceOfNothing(t *testing.T) {
	t.Parallel()
	b := skewed(1, 3)
	clear(b.bytes)
	b.masters = append(b.masters, "new")
	moves, err := b.moves()
	if err != nil || len(moves) < slotCount/4-40 || len(moves) > slotCount/4+40 {
		t.Errorf("%d slots go to the new master, %v", len(moves), err)
	}
	b = skewed(1, 3)
	if moves, err := b.moves(); err != nil || len(moves) > 0 {
		t.Errorf("nothing was wished, and %d slots would move, %v", len(moves), err)
	}
}

// TestBalanceOfNextToNothing: a few keys do not decide who has how many slots.
func TestBalanceOfNextToNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := skewed(1, 3)
		clear(b.bytes)
		for range rapid.IntRange(1, 40).Draw(t, "keys") {
			b.bytes[rapid.IntRange(0, slotCount-1).Draw(t, "slot")] = 80
		}
		b.even = true
		b.masters = append(b.masters, "new")
		moves, err := b.moves()
		if err != nil || len(moves) < slotCount/4-40 || len(moves) > slotCount/4+40 {
			t.Errorf("%d slots are moved, %v", len(moves), err)
		}
		for slot, to := range moves {
			if to != "new" {
				t.Fatalf("slot %d goes to %s", slot, to)
			}
		}
	})
}

// TestBalanceDrains: who leaves gives everything, into memory that is there; where it is not, nothing is begun.
func TestBalanceDrains(t *testing.T) {
	t.Parallel()
	b := skewed(2, 4)
	before, _ := b.loads(nil)
	leaving := b.masters[3]
	b.masters = b.masters[:3]
	for _, guest := range b.masters {
		b.free[guest] = before[leaving]
	}
	moves, err := b.moves()
	if err != nil {
		t.Fatal(err)
	}
	after, moved := b.loads(moves)
	if moved != before[leaving] || after[leaving] != 0 {
		t.Errorf("%d bytes of %d were moved, %d are left", moved, before[leaving], after[leaving])
	}
	for _, guest := range b.masters {
		b.free[guest] = before[leaving] / 4
	}
	if _, err := b.moves(); dbaas.ErrorCode(err) != dbaas.OverLimit {
		t.Errorf("what does not fit is refused with %v", err)
	}
}

// TestSlotSets reads and writes ranges.
func TestSlotSets(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "5": "5", "0-3 5": "0-3 5", "5 0-3 4": "0-5", "16383": "16383"} {
		var s slotSet
		if err := s.UnmarshalText([]byte(text)); err != nil || s.String() != want {
			t.Errorf("%q is read as %q, %v", text, s, err)
		}
	}
	for _, text := range []string{"16384", "-1", "3-1", "x", "1-"} {
		if err := new(slotSet).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}
