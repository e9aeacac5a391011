package inproc_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/inproc"
	"github.com/grove-dbaas/grove/internal/rpc/rpctest"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	rpctest.Run(t, func(t *testing.T) rpctest.Fixture {
		bus := inproc.New(inproc.Options{MaxDeliveries: 4, RedeliveryDelay: time.Millisecond})
		f := rpctest.Fixture{
			Control: bus.Control(), Other: bus.Control(), Guest: bus.Guest("guest-1", "queue-1"),
			GuestID: "guest-1", Queue: "queue-1", Stray: "stray",
			MaxDeliveries: 4, Inject: bus.Inject,
			Dead: func() (int, error) { return len(bus.Dead()), nil },
		}
		t.Cleanup(func() {
			f.Control.Close()
			f.Other.Close()
			f.Guest.Close()
		})
		return f
	})
}

// Each fault does what it says, to the message that it is for.
func TestFaults(t *testing.T) {
	for _, part := range []struct {
		name   string
		faults inproc.Faults
		want   []string // the methods as they arrive, of "first" with the faults and "second" without
		err    dbaas.Code
	}{
		{"none", inproc.Faults{}, []string{"first", "second"}, ""},
		{"refuse", inproc.Faults{Refuse: true}, []string{"second"}, dbaas.Unavailable},
		{"drop", inproc.Faults{Drop: true}, []string{"second"}, ""},
		{"duplicate", inproc.Faults{Duplicate: 2}, []string{"first", "first", "first", "second"}, ""},
		{"delay", inproc.Faults{Delay: 50 * time.Millisecond}, []string{"second", "first"}, ""},
		{"reorder", inproc.Faults{Reorder: true}, []string{"second", "first"}, ""},
	} {
		t.Run(part.name, func(t *testing.T) {
			bus := inproc.New(inproc.Options{})
			bus.SetFaults(func(m *rpc.Envelope) inproc.Faults {
				if m.Method == "first" {
					return part.faults
				}
				return inproc.Faults{}
			})
			tr := bus.Control()
			if err := cast(t, tr, rpc.TopicTaskmanager, "first"); dbaas.ErrorCode(err) != part.err {
				t.Errorf("the cast gave %v", err)
			}
			if err := cast(t, tr, rpc.TopicTaskmanager, "second"); err != nil {
				t.Error(err)
			}
			var got []string
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_ = tr.Serve(ctx, rpc.TopicTaskmanager, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
				if got = append(got, m.Method); len(got) == len(part.want) {
					cancel()
				}
				return nil, nil
			})
			if !slices.Equal(got, part.want) {
				t.Errorf("got %v, want %v", got, part.want)
			}
		})
	}
}

// A held message is not held for ever when nothing overtakes it.
func TestReorderedAlone(t *testing.T) {
	bus := inproc.New(inproc.Options{})
	bus.SetFaults(func(*rpc.Envelope) inproc.Faults { return inproc.Faults{Reorder: true} })
	tr := bus.Control()
	if err := cast(t, tr, rpc.TopicTaskmanager, "m"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got atomic.Int32
	_ = tr.Serve(ctx, rpc.TopicTaskmanager, 1, func(context.Context, *rpc.Envelope) (any, error) {
		got.Add(1)
		cancel()
		return nil, nil
	})
	if got.Load() != 1 {
		t.Error("it never came")
	}
}

// What nobody fetches is bounded: heartbeats lose the oldest, others are refused.
func TestCapacity(t *testing.T) {
	bus := inproc.New(inproc.Options{Capacity: 3})
	tr := bus.Control()
	for i := range 5 {
		want := dbaas.Code("")
		if i >= 3 {
			want = dbaas.Unavailable
		}
		if err := cast(t, tr, rpc.TopicTaskmanager, fmt.Sprint(i)); dbaas.ErrorCode(err) != want {
			t.Errorf("cast %d gave %v", i, err)
		}
		if err := cast(t, tr, rpc.TopicHeartbeats, fmt.Sprint(i)); err != nil {
			t.Errorf("heartbeat %d gave %v", i, err)
		}
	}
	var got []string
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_ = tr.Serve(ctx, rpc.TopicHeartbeats, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		if got = append(got, m.Method); len(got) == 3 {
			cancel()
		}
		return nil, nil
	})
	if !slices.Equal(got, []string{"2", "3", "4"}) {
		t.Errorf("kept the heartbeats %v", got)
	}
}

func TestAccountsRemember(t *testing.T) {
	var accounts rpc.Accounts = new(inproc.Accounts)
	for range 2 {
		for _, id := range []string{"b", "a"} {
			if err := accounts.Ensure(t.Context(), rpc.Account{GuestID: id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if ids, err := accounts.List(t.Context()); err != nil || !slices.Equal(ids, []string{"a", "b"}) {
		t.Errorf("accounts: %v, %v", ids, err)
	}
	for range 2 {
		if err := accounts.Delete(t.Context(), "a", "q"); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := accounts.List(t.Context()); err != nil || !slices.Equal(ids, []string{"b"}) {
		t.Errorf("accounts: %v, %v", ids, err)
	}
}

func BenchmarkCall(b *testing.B) {
	bus := inproc.New(inproc.Options{})
	tr := bus.Control()
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	ended := make(chan error, 1)
	go func() {
		ended <- tr.Serve(ctx, rpc.TopicTaskmanager, 4, func(context.Context, *rpc.Envelope) (any, error) { return nil, nil })
	}()
	call := func() error {
		return tr.Call(ctx, &rpc.Envelope{ID: "1", Topic: rpc.TopicTaskmanager, Method: "m"}, nil)
	}
	testbed.Eventually(b, 20*time.Second, call)
	for b.Loop() {
		if err := call(); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}

func cast(t *testing.T, tr rpc.Transport, topic, method string) error {
	t.Helper()
	m, err := rpc.NewEnvelope(topic, method, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr.Cast(t.Context(), m)
}
