package amqp_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestKilledAtTheQueuesBirth kills the broker within moments of the first declaration of the shared queues. RabbitMQ 3.10
// may lose their leaders for good then; messages must flow again all the same.
func TestKilledAtTheQueuesBirth(t *testing.T) {
	h := newHouse(t)
	control := h.dial(amqp.Config{URL: h.url, Role: amqp.RoleControl, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	topics := []string{rpc.TopicTaskmanager, rpc.TopicReports}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	heard := make(chan string, 10)
	for _, topic := range topics {
		go control.Serve(ctx, topic, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
			heard <- m.Topic
			return nil, nil
		})
	}
	testbed.Eventually(t, soon, func() error { return castWithin(t, control, rpc.TopicReports) })
	<-heard
	h.broker.Restart(t)
	for _, topic := range topics {
		testbed.Eventually(t, 2*time.Minute, func() error { return castWithin(t, control, topic) })
		for got := range heard {
			if got == topic {
				break
			}
		}
	}
}

func castWithin(t *testing.T, tr *amqp.Transport, topic string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return tr.Cast(ctx, &rpc.Envelope{Topic: topic, Method: "bell", Version: rpc.ArgsVersion})
}
