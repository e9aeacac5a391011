package amqp_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
)

var guestCount = flag.Int("guests", 1000, "how many guests BenchmarkGuests attaches")

// What a guest costs the broker, and how long all guests take to come back to one that was killed, and to one that lost
// all its data and had their accounts ensured again.
func BenchmarkGuests(b *testing.B) {
	const patient = 5 * time.Minute
	h := newHouse(b)
	control := h.control()
	h.awaitConnected(control)
	for b.Loop() {
		empty := h.broker.ResidentBytes(b)
		accounts, guests := h.manyAccounts(*guestCount), make([]*amqp.Transport, *guestCount)
		for i, a := range accounts {
			guests[i] = h.guest(a)
		}
		h.allReport(guests, patient)
		b.ReportMetric(float64(h.broker.ResidentBytes(b)-empty)/float64(len(guests))/1024, "KiB/guest")

		h.broker.Restart(b)
		began := time.Now()
		h.allReport(guests, patient)
		b.ReportMetric(time.Since(began).Seconds(), "s/restarted")

		h.broker.Wipe(b)
		h.broker.MakeVhost(b, h.vhost)
		began = time.Now()
		for _, a := range accounts {
			must(b, h.accounts.Ensure(b.Context(), a))
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/ensured")
		h.allReport(guests, patient)
		b.ReportMetric(time.Since(began).Seconds(), "s/wiped")
		for _, g := range guests {
			must(b, g.Close())
		}
	}
}

func (h *house) manyAccounts(n int) []rpc.Account {
	accounts := make([]rpc.Account, n)
	for i := range accounts {
		accounts[i] = h.newAccount()
	}
	return accounts
}

// allReport returns when each guest has got a heartbeat through.
func (h *house) allReport(guests []*amqp.Transport, atMost time.Duration) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), atMost)
	defer cancel()
	var all sync.WaitGroup
	failed := make(chan error, len(guests))
	for _, g := range guests {
		all.Go(func() {
			for {
				err := g.Cast(ctx, heartbeat(h.t))
				if err == nil {
					return
				}
				select {
				case <-time.After(200 * time.Millisecond):
				case <-ctx.Done():
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	n := 0
	var last error
	for err := range failed {
		n, last = n+1, err
	}
	if n > 0 {
		h.t.Fatal(errors.Join(fmt.Errorf("%d guests are not back", n), last))
	}
}
