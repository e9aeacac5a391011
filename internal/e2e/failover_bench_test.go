package e2e

import (
	"context"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// failoversVariable says how many failovers of each kind are measured.
const failoversVariable = "GROVE_FAILOVERS"

// inEffect is when a failure is surely in effect: what is sent sooner may have been served before it.
const inEffect = 100 * time.Millisecond

// BenchmarkFailover measures how long the address of a hot standby takes no writes when its primary fails, in each of the
// ways that R22 names: 16 clients write, and each failure is that of a pair of its own. Run it with -run '^$', alone.
func BenchmarkFailover(b *testing.B) {
	times := 30
	if text := os.Getenv(failoversVariable); text != "" {
		var err error
		if times, err = strconv.Atoi(text); err != nil || times < 1 {
			b.Fatalf("%s is %q", failoversVariable, text)
		}
	}
	for _, way := range []struct {
		name string
		root bool // needs it
		fail func(in *instance)
	}{
		{name: "killed", fail: (*instance).killPrimary},
		{name: "suspended", fail: func(in *instance) {
			if err := syscall.Kill(in.primaryProcess(), syscall.SIGSTOP); err != nil {
				in.h.t.Fatal(err)
			}
		}},
		{name: "vanished", root: true, fail: func(in *instance) { in.h.placeOf(in.primaryProcess()).plug(in.h.t, "down") }},
		{name: "stalled", fail: (*instance).stall},
	} {
		b.Run(way.name, func(b *testing.B) {
			var args []string
			if way.root {
				if os.Geteuid() != 0 {
					b.Skip("network namespaces need root")
				}
				args = []string{"--network", "namespaces"}
			}
			h := open(b, args...)
			var took []time.Duration
			for range times {
				took = append(took, h.timeFailover(way.fail))
			}
			slices.Sort(took)
			b.ReportMetric(took[(len(took)-1)/2].Seconds(), "p50-s")
			b.ReportMetric(took[(len(took)*99+99)/100-1].Seconds(), "p99-s")
			b.ReportMetric(took[len(took)-1].Seconds(), "worst-s")
			b.ReportMetric(float64(len(took)), "failovers")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// timeFailover measures from the failure until a write is acknowledged that was sent after it.
func (h *house) timeFailover(fail func(in *instance)) time.Duration {
	h.t.Helper()
	in := h.createProtected("measured", async())
	ctx, stop := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	again := make(chan time.Time, 1)
	var mu sync.Mutex
	var failed time.Time
	for range 16 {
		client := in.client(2 * time.Second)
		writers.Go(func() {
			defer client.Close()
			for n := 0; ctx.Err() == nil; n++ {
				begun := time.Now()
				err := client.Set(ctx, "k"+strconv.Itoa(n%1000), n, 0).Err()
				mu.Lock()
				after := !failed.IsZero() && begun.After(failed.Add(inEffect))
				mu.Unlock()
				if err == nil && after {
					select {
					case again <- time.Now():
					default:
					}
				}
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	fail(in)
	mu.Lock()
	failed = time.Now()
	mu.Unlock()
	var took time.Duration
	select {
	case at := <-again:
		took = at.Sub(failed)
	case <-time.After(2 * time.Minute):
		h.t.Fatal("no write for 2 minutes")
	}
	stop()
	writers.Wait()
	in.awaitFailovers(1)
	in.tellTimeline(failed, took)
	in.awaitProtection("protected")
	h.do(202, "DELETE", "/instances/"+in.id, nil)
	in.awaitGone()
	return took
}

// tellTimeline writes down where the time of a failover went.
func (in *instance) tellTimeline(failed time.Time, took time.Duration) {
	report := in.requireReport()
	at, _ := report.at("after", "detected_at").(float64) // microseconds
	detected := time.UnixMicro(int64(at))
	in.h.t.Logf("detected after %.2f s; then fenced %v, promoted %v, published %v ms; written after %.2f s", detected.Sub(failed).Seconds(),
		report.at("after", "fenced_ms"), report.at("after", "promoted_ms"), report.at("after", "published_ms"), took.Seconds())
}
