package amqp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// commands counts the commands that a guest's agent is given.
type commands struct {
	mu    sync.Mutex
	given map[string]int
}

func (c *commands) note(f guest.Fence) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.given[f.CommandID]++
	return nil
}

func (c *commands) Prepare(_ context.Context, r guest.PrepareRequest) error { return c.note(r.Fence) }
func (c *commands) Restart(_ context.Context, f guest.Fence) error          { return c.note(f) }
func (c *commands) Stop(_ context.Context, r guest.StopRequest) error       { return c.note(r.Fence) }
func (c *commands) BeginAction(_ context.Context, r guest.ActionRequest) error {
	return c.note(r.Fence)
}
func (c *commands) UpgradeAgent(_ context.Context, r guest.AgentRequest) (*guest.AgentUpgrade, error) {
	return nil, c.note(r.Fence)
}
func (c *commands) TrustBroker(context.Context, guest.BrokerTrust) error      { return nil }
func (c *commands) Upgrade(_ context.Context, r guest.ConfigureRequest) error { return c.note(r.Fence) }
func (c *commands) Configure(_ context.Context, r guest.ConfigureRequest) (*datastore.Applied, error) {
	return nil, c.note(r.Fence)
}
func (c *commands) Status(context.Context) (*guest.StatusReport, error)   { return nil, nil }
func (c *commands) Job(context.Context, string) (*guest.JobStatus, error) { return nil, nil }
func (c *commands) Action(context.Context, guest.ActionRequest) (json.RawMessage, error) {
	return nil, nil
}

// Commands to a guest of which the broker delivers each three times, in another order: each acts once, and each caller
// gets its answer.
func TestCommandsActOnceWhateverTheBrokerDoes(t *testing.T) {
	const calls = 40
	h := newHouse(t)
	control, account := h.control(), h.newAccount()
	h.awaitConnected(control)
	key := []byte(strings.Repeat("k", rpc.MinKey))
	client := guest.NewClient(control, "node-1", func(context.Context, string, []byte) ([]byte, error) { return key, nil })
	g := client.Guest(&dbaas.Guest{ID: account.GuestID, Queue: account.Queue})

	var answers sync.WaitGroup
	for i := range calls {
		answers.Go(func() {
			if err := g.Restart(within(t, soon), guest.Fence{CommandID: fmt.Sprint(i)}); err != nil {
				t.Errorf("command %d gave %v", i, err)
			}
		})
	}
	h.shuffle(rpc.GuestTopic(account.Queue), calls, 3, 10)
	agent := &commands{given: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- guest.Serve(ctx, h.guest(account), account.Queue, key, agent) }()
	answers.Wait()
	raw := h.raw(h.url)
	testbed.Eventually(t, soon, func() error { // the duplicates too
		if n, err := h.messages(raw, rpc.GuestTopic(account.Queue)); err != nil || n > 0 {
			return fmt.Errorf("%d messages wait, %w", n, err)
		}
		return nil
	})
	cancel()
	must(t, <-ended)
	if len(agent.given) != calls {
		t.Errorf("%d commands were given, not %d", len(agent.given), calls)
	}
	for id, n := range agent.given {
		if n != 1 {
			t.Errorf("command %s was given %d times", id, n)
		}
	}
}

// How long a command to a guest takes, and a cast until the broker has it on disk.
func BenchmarkTransport(b *testing.B) {
	h := newHouse(b)
	control, account := h.control(), h.newAccount()
	h.awaitConnected(control)
	tr := h.guest(account)
	h.serve(tr, rpc.GuestTopic(account.Queue), func(context.Context, *rpc.Envelope) (any, error) { return nil, nil })
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	call := func() error { return control.Call(ctx, envelope(b, rpc.GuestTopic(account.Queue), "m"), nil) }
	testbed.Eventually(b, soon, call)
	b.Run("call", func(b *testing.B) {
		for b.Loop() {
			must(b, call())
		}
	})
	b.Run("cast", func(b *testing.B) {
		for b.Loop() {
			must(b, control.Cast(ctx, envelope(b, rpc.TopicTaskmanager, "m")))
		}
	})
	b.Run("heartbeats from 16 at once", func(b *testing.B) {
		b.SetParallelism(16)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				must(b, tr.Cast(ctx, envelope(b, rpc.TopicHeartbeats, "m")))
			}
		})
	})
}
