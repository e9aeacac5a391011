package inproc_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/grove-dbaas/grove/internal/rpc/inproc"
	"github.com/grove-dbaas/grove/internal/rpc/rpctest"
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
