package simulation

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSimulation plays 2,000 histories; GROVE_SIMULATE_SEEDS sets another number, GROVE_SIMULATE_SEED shows one.
func TestSimulation(t *testing.T) {
	if seed := number(t, "GROVE_SIMULATE_SEED", 0); seed != 0 {
		if r := Run(seed, Options{Trace: os.Stdout}); r.Violation != "" {
			t.Errorf("seed %d: %s", seed, r.Violation)
		}
		return
	}
	seeds := number(t, "GROVE_SIMULATE_SEEDS", 2000)
	began := time.Now()
	total := Result{Moves: map[string]int{}}
	var mu sync.Mutex
	each(seeds, func(seed uint64) bool {
		r := Run(seed, Options{})
		mu.Lock()
		defer mu.Unlock()
		total.Events += r.Events
		total.Operations += r.Operations
		total.Refused += r.Refused
		total.Crashes += r.Crashes
		for move, n := range r.Moves {
			total.Moves[move] += n
		}
		if r.Violation != "" {
			t.Errorf("seed %d: %s (GROVE_SIMULATE_SEED=%d shows it)", seed, r.Violation, seed)
		}
		return !t.Failed()
	})
	if total.Refused == 0 || total.Crashes == 0 {
		t.Errorf("nothing went wrong in %+v: the histories do not bite", total)
	}
	for _, move := range []string{
		"create failing", "create failed", "create superseded", "create parked", "create resumed", "create succeeded",
		"resize superseded", "resize cancelled", "resize parked", "resize failed", "delete succeeded",
		"failover superseded", "failover succeeded", "create_cluster failed", "create_cluster succeeded",
	} {
		if total.Moves[move] == 0 && seeds >= 1000 && !t.Failed() {
			t.Errorf("no %s among %v", move, total.Moves)
		}
	}
	t.Logf("%d seeds, %.0f per second: %d operations, %d events, %d crashes, %d refused writes",
		seeds, float64(seeds)/time.Since(began).Seconds(), total.Operations, total.Events, total.Crashes, total.Refused)
}

// each calls f for the seeds from 1 on all processors, until it gives false.
func each(seeds uint64, f func(seed uint64) bool) {
	var next atomic.Uint64
	var stop atomic.Bool
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for seed := next.Add(1); seed <= seeds && !stop.Load(); seed = next.Add(1) {
				if !f(seed) {
					stop.Store(true)
				}
			}
		})
	}
	all.Wait()
}

func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

func TestASeedReplays(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		var first, second bytes.Buffer
		a, b := Run(seed, Options{Trace: &first}), Run(seed, Options{Trace: &second})
		if !cmp.Equal(a, b) || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("seed %d: %+v, then %+v", seed, a, b)
		}
		if c := Run(seed, Options{}); !cmp.Equal(a, c) {
			t.Errorf("seed %d untraced: %+v, traced %+v", seed, c, a)
		}
	}
	if Run(1, Options{}).Hash == Run(2, Options{}).Hash {
		t.Error("two seeds, one history")
	}
}

// TestPlantedBugsAreFound plants each mistake: the auditor finds it.
func TestPlantedBugsAreFound(t *testing.T) {
	const seeds = 2000
	for _, bug := range Bugs() {
		t.Run(string(bug), func(t *testing.T) {
			for seed := uint64(1); seed <= seeds; seed++ {
				if r := Run(seed, Options{Bug: bug}); r.Violation != "" {
					t.Logf("seed %d: %s", seed, r.Violation)
					if clean := Run(seed, Options{}); clean.Violation != "" {
						t.Errorf("seed %d without the mistake: %s", seed, clean.Violation)
					}
					return
				}
			}
			t.Errorf("not found in %d seeds", seeds)
		})
	}
}
