package amqp

import (
	"crypto/rand"
	"fmt"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/grove-dbaas/grove/internal/rpc"
)

// The names at the broker. Queues of guests have the name of their topic.
const (
	exchangeReports  = "grove.reports"
	queueTaskmanager = "grove.taskmanager"
	queueReports     = "grove.reports"
	queueHeartbeats  = "grove.heartbeats"
	// QueueDead has what was set aside for operators: not understood, or failed too often.
	QueueDead = "grove.dead"
)

// MaxDeliveries is how often a cast is delivered whose handler fails; then it goes to [QueueDead]. With the default
// delays that is about a minute and a half.
const MaxDeliveries = 10

const (
	keptHeartbeats = 100_000 // the newest
	keptDead       = 100_000
	keptPerGuest   = 1_000
)

// controlSender is the routing key prefix of the control plane's own answers. Guests' are their ids.
const controlSender = "control"

// declareTopology makes the control plane's exchange and queues, all of which may be there already.
func declareTopology(conn *amqp091.Connection) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	if err := ch.ExchangeDeclare(exchangeReports, amqp091.ExchangeTopic, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declare exchange %s: %w", exchangeReports, err)
	}
	for _, q := range queues() {
		if _, err := ch.QueueDeclare(q.name, true, false, false, false, q.args); err != nil {
			return fmt.Errorf("declare queue %s: %w", q.name, err)
		}
		if q.binding == "" {
			continue
		}
		if err := ch.QueueBind(q.name, q.binding, exchangeReports, false, nil); err != nil {
			return fmt.Errorf("bind queue %s: %w", q.name, err)
		}
	}
	return nil
}

type queue struct {
	name    string
	binding string // to exchangeReports
	args    amqp091.Table
}

func queues() []queue {
	return []queue{
		{name: QueueDead, args: capped(keptDead)},
		{name: queueTaskmanager, args: durable()},
		{name: queueReports, binding: "*.report", args: durable()},
		// no dead-letter queue here: what the cap drops would go there
		{name: queueHeartbeats, binding: "*.heartbeat", args: capped(keptHeartbeats)},
	}
}

func durable() amqp091.Table {
	return amqp091.Table{
		"x-queue-type":              "quorum",
		"x-delivery-limit":          MaxDeliveries - 1, // redeliveries
		"x-dead-letter-exchange":    "",
		"x-dead-letter-routing-key": QueueDead,
	}
}

func capped(n int) amqp091.Table {
	return amqp091.Table{"x-queue-type": "classic", "x-max-length": n, "x-overflow": "drop-head"}
}

// address is where a message is published.
type address struct {
	exchange, key string
	mandatory     bool // a message that reaches no queue is an error
	transient     bool
}

func (a address) deliveryMode() uint8 {
	if a.transient {
		return amqp091.Transient
	}
	return amqp091.Persistent
}

// address gives where this side publishes messages of a topic.
func (t *Transport) address(topic string) address {
	transient := topic == rpc.TopicHeartbeats
	if t.cfg.Role == RoleGuest {
		key := t.cfg.GuestID + ".report"
		if topic == rpc.TopicHeartbeats {
			key = t.cfg.GuestID + ".heartbeat"
		}
		return address{exchange: exchangeReports, key: key, mandatory: true, transient: transient}
	}
	return address{key: queueOf(topic), mandatory: true, transient: transient}
}

// queueOf gives the queue that holds the messages of a topic.
func queueOf(topic string) string {
	switch topic {
	case rpc.TopicTaskmanager:
		return queueTaskmanager
	case rpc.TopicReports:
		return queueReports
	case rpc.TopicHeartbeats:
		return queueHeartbeats
	}
	return topic
}

// newToken gives 130 random bits in letters and digits.
func newToken() string { return rand.Text() }

// name tells operators whose connection it is.
func (t *Transport) name() string {
	if t.cfg.Role == RoleGuest {
		return "grove guest " + t.cfg.GuestID
	}
	return "grove control"
}
