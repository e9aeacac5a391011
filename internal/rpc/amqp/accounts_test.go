package amqp_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func TestAccounts(t *testing.T) {
	h := newHouse(t)
	list := func() []string {
		t.Helper()
		ids, err := h.accounts.List(t.Context())
		must(t, err)
		return ids
	}
	if ids := list(); len(ids) != 0 {
		t.Fatalf("there are accounts already: %v", ids)
	}
	a, b := h.newAccount(), h.newAccount()
	want := []string{a.GuestID, b.GuestID}
	slices.Sort(want)
	if ids := list(); !slices.Equal(ids, want) {
		t.Errorf("accounts: %v, want %v", ids, want)
	}

	// a new password takes the place of the old one
	old := h.guestURL(a)
	a.Password = rand.Text()
	must(t, h.accounts.Ensure(t.Context(), a))
	if conn, err := amqp091.Dial(old); err == nil {
		conn.Close()
		t.Error("the old password still works")
	}

	// what is deleted is cut off, and gone
	h.control() // declares the exchange
	conn, err := amqp091.Dial(h.guestURL(a))
	must(t, err)
	closed := conn.NotifyClose(make(chan *amqp091.Error, 1))
	must(t, h.accounts.Delete(t.Context(), a.GuestID, a.Queue))
	select {
	case <-closed:
	case <-time.After(soon):
		t.Error("the deleted guest is still connected")
	}
	if conn, err := amqp091.Dial(h.guestURL(a)); err == nil {
		conn.Close()
		t.Error("the deleted guest logs in")
	}
	if _, err := h.messages(h.raw(h.url), rpc.GuestTopic(a.Queue)); err == nil {
		t.Error("the deleted guest's queue is left")
	}
	if ids := list(); !slices.Equal(ids, []string{b.GuestID}) {
		t.Errorf("accounts after the delete: %v", ids)
	}
	must(t, h.accounts.Delete(t.Context(), a.GuestID, a.Queue)) // again is success
	wantCode(t, h.accounts.Ensure(t.Context(), rpc.Account{GuestID: "g", Queue: "q"}), dbaas.BadRequest)
}

// A guest's account is good for its own business alone. Each try has a channel of its own, for the broker closes it.
func TestGuestAccountIsConfined(t *testing.T) {
	h := newHouse(t)
	control := h.control()
	h.awaitConnected(control)
	a, b := h.newAccount(), h.newAccount()
	var mu sync.Mutex
	var heard []string
	h.serve(control, rpc.TopicReports, func(_ context.Context, m *rpc.Envelope) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, m.Sender)
		return nil, nil
	})
	guestB := h.guest(b)
	h.serve(guestB, rpc.GuestTopic(b.Queue), func(context.Context, *rpc.Envelope) (any, error) { return "b", nil })

	conn, err := amqp091.Dial(h.guestURL(a))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	publish := func(exchange, key string, p amqp091.Publishing) func(*amqp091.Channel) error {
		return func(ch *amqp091.Channel) error {
			if err := ch.Confirm(false); err != nil {
				return err
			}
			p.Body = []byte(`{"id":"1","topic":"reports","method":"report"}`)
			c, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), exchange, key, true, false, p)
			if err != nil {
				return err
			}
			if ok, err := c.WaitContext(t.Context()); err != nil || !ok {
				return fmt.Errorf("not taken, %w", err)
			}
			return nil
		}
	}
	queueB := rpc.GuestTopic(b.Queue)
	forbidden := map[string]func(*amqp091.Channel) error{
		"report for another":           publish("grove.reports", b.GuestID+".report", amqp091.Publishing{}),
		"report as the control plane":  publish("grove.reports", "control.report", amqp091.Publishing{}),
		"answer for another":           publish("grove.reports", b.GuestID+".reply.x", amqp091.Publishing{}),
		"a key that only begins alike": publish("grove.reports", a.GuestID+"x.report", amqp091.Publishing{}),
		"forge the user id":            publish("grove.reports", a.GuestID+".report", amqp091.Publishing{UserId: "grove"}),
		"message another guest":        publish("", queueB, amqp091.Publishing{}),
		"message itself":               publish("", rpc.GuestTopic(a.Queue), amqp091.Publishing{}),
		"message the taskmanager":      publish("", "grove.taskmanager", amqp091.Publishing{}),
		"publish to amq.topic":         publish("amq.topic", a.GuestID+".report", amqp091.Publishing{}),
		"publish to amq.direct":        publish("amq.direct", queueB, amqp091.Publishing{}),
		"publish to amq.fanout":        publish("amq.fanout", "", amqp091.Publishing{}),
		"consume another's queue": func(ch *amqp091.Channel) error {
			_, err := ch.Consume(queueB, "", false, false, false, false, nil)
			return err
		},
		"get from another's queue": func(ch *amqp091.Channel) error { _, _, err := ch.Get(queueB, true); return err },
		"purge another's queue":    func(ch *amqp091.Channel) error { _, err := ch.QueuePurge(queueB, false); return err },
		"delete another's queue": func(ch *amqp091.Channel) error {
			_, err := ch.QueueDelete(queueB, false, false, false)
			return err
		},
		"delete its own queue": func(ch *amqp091.Channel) error {
			_, err := ch.QueueDelete(rpc.GuestTopic(a.Queue), false, false, false)
			return err
		},
		"declare a queue": func(ch *amqp091.Channel) error {
			_, err := ch.QueueDeclare("mine", false, true, false, false, nil)
			return err
		},
		"declare a queue with a name of the broker's": func(ch *amqp091.Channel) error {
			_, err := ch.QueueDeclare("", false, true, true, false, nil)
			return err
		},
		"declare an exchange": func(ch *amqp091.Channel) error {
			return ch.ExchangeDeclare("mine", "topic", false, true, false, false, nil)
		},
		"delete the exchange": func(ch *amqp091.Channel) error { return ch.ExchangeDelete("grove.reports", false, false) },
		"bind its queue to all reports": func(ch *amqp091.Channel) error {
			return ch.QueueBind(rpc.GuestTopic(a.Queue), "#", "grove.reports", false, nil)
		},
	}
	for _, queue := range []string{"grove.taskmanager", "grove.reports", "grove.heartbeats", "grove.dead"} {
		forbidden["consume "+queue] = func(ch *amqp091.Channel) error {
			_, err := ch.Consume(queue, "", false, false, false, false, nil)
			return err
		}
		forbidden["get from "+queue] = func(ch *amqp091.Channel) error { _, _, err := ch.Get(queue, true); return err }
		forbidden["purge "+queue] = func(ch *amqp091.Channel) error { _, err := ch.QueuePurge(queue, false); return err }
	}
	for name, try := range forbidden {
		ch, err := conn.Channel()
		must(t, err)
		closed := ch.NotifyClose(make(chan *amqp091.Error, 1))
		if err := try(ch); err == nil {
			t.Errorf("%s: it was allowed", name)
			ch.Close()
			continue
		}
		if reason := <-closed; reason == nil || reason.Code != amqp091.AccessRefused && reason.Code != amqp091.PreconditionFailed {
			t.Errorf("%s: refused for another reason: %v", name, reason)
		}
	}

	// its own business works, and the other guest never noticed
	ch, err := conn.Channel()
	must(t, err)
	must(t, publish("grove.reports", a.GuestID+".report", amqp091.Publishing{UserId: a.GuestID})(ch))
	_, _, err = ch.Get(rpc.GuestTopic(a.Queue), true)
	must(t, err)
	testbed.Eventually(t, soon, func() error {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(heard, []string{a.GuestID}) {
			return fmt.Errorf("heard reports of %v", heard)
		}
		return nil
	})
	var answer string
	must(t, control.Call(within(t, soon), envelope(t, queueB, "ping"), &answer))
	t.Logf("%d forbidden operations refused", len(forbidden))
}

// A guest that reads the address of answers from its own calls cannot answer those of others.
func TestGuestCannotAnswerForAnother(t *testing.T) {
	h := newHouse(t)
	control := h.control()
	h.awaitConnected(control)
	a, b := h.newAccount(), h.newAccount()
	entered, release := make(chan struct{}), make(chan struct{})
	h.serve(h.guest(b), rpc.GuestTopic(b.Queue), func(context.Context, *rpc.Envelope) (any, error) {
		close(entered)
		<-release
		return "from b", nil
	})
	// a learns the caller's name from a call of its own
	learned := make(chan amqp091.Delivery, 1)
	ch := h.raw(h.guestURL(a))
	deliveries, err := ch.Consume(rpc.GuestTopic(a.Queue), "", true, false, false, false, nil)
	must(t, err)
	go func() { learned <- <-deliveries }()
	wantCode(t, control.Call(within(t, 500*time.Millisecond), envelope(t, rpc.GuestTopic(a.Queue), "m"), nil), dbaas.Unavailable)
	d := <-learned

	m := envelope(t, rpc.GuestTopic(b.Queue), "m")
	result, failed := "", make(chan error, 1)
	go func() { failed <- control.Call(within(t, soon), m, &result) }()
	<-entered
	for _, correlation := range []string{"", m.ID, d.CorrelationId} {
		must(t, ch.PublishWithContext(t.Context(), "grove.reports", a.GuestID+"."+d.ReplyTo, false, false, amqp091.Publishing{
			CorrelationId: correlation, Body: fmt.Appendf(nil, `{"id":%q,"result":"from a"}`, m.ID),
		}))
	}
	must(t, ch.Confirm(false)) // a round trip: all of it has arrived
	close(release)
	if err := <-failed; err != nil || result != "from b" {
		t.Errorf("got %q, %v", result, err)
	}
}

// serve runs a server until the test ends.
func (h *house) serve(tr rpc.Transport, topic string, handler rpc.Handler) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tr.Serve(ctx, topic, 4, handler) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Errorf("serve %s ended with %v", topic, err)
		}
	})
}

// tally acts once for each message, however often it is delivered.
type tally struct {
	mu    sync.Mutex
	acted map[string]bool
}

func newTally() *tally { return &tally{acted: map[string]bool{}} }

func (y *tally) count(_ context.Context, m *rpc.Envelope) (any, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.acted[m.ID] = true
	return nil, nil
}

func (y *tally) want(n int) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if len(y.acted) != n {
		return fmt.Errorf("%d messages were handled, not %d", len(y.acted), n)
	}
	return nil
}

func (y *tally) atLeast(n int) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if len(y.acted) < n {
		return fmt.Errorf("%d messages were handled, not %d", len(y.acted), n)
	}
	return nil
}

func envelope(t testing.TB, topic, method string) *rpc.Envelope {
	t.Helper()
	return &rpc.Envelope{ID: uuid.NewString(), Topic: topic, Method: method}
}

func heartbeat(t testing.TB) *rpc.Envelope { return envelope(t, rpc.TopicHeartbeats, "heartbeat") }

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code dbaas.Code) {
	t.Helper()
	if dbaas.ErrorCode(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func containsSecret(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if strings.Contains(err.Error(), "secret") {
			return true
		}
	}
	return false
}
