package e2e

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
)

// pester casts every unfinished operation's nudge again and again, so that each reaches all taskmanagers many times.
func (f *fleet) pester(ctx context.Context) (casts int) {
	t, err := amqp.Dial(ctx, amqp.Config{URL: f.amqpURL, Role: amqp.RoleControl})
	if err != nil {
		f.t.Error(err)
		return 0
	}
	defer t.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return casts
		case <-tick.C:
		}
		ids, err := f.list(`SELECT id FROM operations WHERE ended_at = 0`)
		if err != nil {
			continue
		}
		for _, id := range ids {
			m, err := rpc.NewEnvelope(rpc.TopicTaskmanager, control.MethodNudge, control.Nudge{OperationID: id})
			if err != nil {
				f.t.Error(err)
				return casts
			}
			for range 3 {
				if t.Cast(ctx, m) == nil {
					casts++
				}
			}
		}
	}
}

// refusedSteps counts the steps whose holder came too late, by the taskmanagers' logs.
func (f *fleet) refusedSteps() (n int) {
	f.t.Helper()
	for _, h := range f.managers {
		text, err := os.ReadFile(h.log.Name())
		if err != nil {
			f.t.Fatal(err)
		}
		n += strings.Count(string(text), `msg="lease lost"`)
	}
	return n
}

// TestPausedTaskmanager stops taskmanagers (SIGSTOP) for longer than their leases last while they work, and lets them go on:
// others have taken over, what the late one does is refused, and nothing was made twice; each message comes many times (R7).
func TestPausedTaskmanager(t *testing.T) {
	f := openFleet(t, fleetLease, localFleet())
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	rounds, pause := 2, fleetLease+time.Second
	if soaking() {
		rounds, pause = 40, fleetLease+10*time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	pestered := make(chan int, 1)
	go func() { pestered <- f.pester(ctx) }()
	var kept []wish
	for round := 0; round < rounds || f.refusedSteps() == 0 && round < 10*rounds; round++ {
		wishes, failures := make([]wish, 8), make([]error, 8)
		var work sync.WaitGroup
		for i := range wishes {
			work.Go(func() { wishes[i], failures[i] = f.create(fmt.Sprintf("paused-%d-%d", round, i), nil, i == 0) })
		}
		victim := f.managers[random.IntN(2)].cmd.Process
		moment := time.NewTimer(time.Duration(random.IntN(1000)) * time.Millisecond)
		<-moment.C
		if err := victim.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		moment.Reset(pause)
		<-moment.C
		if err := victim.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		work.Wait()
		if err := errors.Join(failures...); err != nil {
			t.Fatal(err)
		}
		for _, w := range wishes {
			if w.status != "ACTIVE" {
				t.Errorf("%s ended %s: %s", w.name, w.status, w.fault)
			}
		}
		kept = append(kept, wishes[0])
		f.audit(kept)
	}
	cancel()
	refused := f.refusedSteps()
	t.Logf("%d steps of paused taskmanagers were refused, %d messages came more than once", refused, <-pestered)
	if refused == 0 {
		t.Error("no taskmanager came too late: the test shows nothing")
	}
	for _, w := range kept {
		if err := f.remove(w.id); err != nil {
			t.Error(err)
		}
	}
	f.audit(nil)
}
