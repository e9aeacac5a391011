package amqp_test

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
	"github.com/grove-dbaas/grove/internal/rpc/rpctest"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func TestMain(m *testing.M) { testbed.Main(m) }

const soon = 30 * time.Second

// house is a vhost with what the tests need in it.
type house struct {
	t        testing.TB
	broker   *testbed.Broker
	vhost    string
	url      string
	accounts *amqp.Accounts
}

func newHouse(t testing.TB) *house {
	h := &house{t: t, broker: testbed.RabbitMQ(t)}
	h.vhost, h.url = h.broker.Vhost(t)
	accounts, err := amqp.NewAccounts(h.broker.ManagementURL, h.vhost, nil)
	must(t, err)
	h.accounts = accounts
	return h
}

func (h *house) control() *amqp.Transport {
	return h.dial(amqp.Config{URL: h.url, Role: amqp.RoleControl})
}

func (h *house) dial(cfg amqp.Config) *amqp.Transport {
	h.t.Helper()
	cfg.RedeliveryDelay = 10 * time.Millisecond
	tr, err := amqp.Dial(context.Background(), cfg)
	must(h.t, err)
	h.t.Cleanup(func() { tr.Close() })
	return tr
}

// newAccount makes the account of a new guest, which goes with the test.
func (h *house) newAccount() rpc.Account {
	h.t.Helper()
	id := uuid.NewString()
	a := rpc.Account{GuestID: id, Queue: id + "-" + rand.Text(), Password: rand.Text()}
	must(h.t, h.accounts.Ensure(h.t.Context(), a))
	h.t.Cleanup(func() {
		if err := h.accounts.Delete(context.Background(), a.GuestID, a.Queue); err != nil {
			h.t.Error(err)
		}
	})
	return a
}

func (h *house) guestURL(a rpc.Account) string {
	h.t.Helper()
	uri, err := amqp091.ParseURI(h.url)
	must(h.t, err)
	return fmt.Sprintf("amqp://%s:%s@%s/%s", a.GuestID, a.Password, net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)), h.vhost)
}

func (h *house) guest(a rpc.Account) *amqp.Transport {
	return h.dial(amqp.Config{URL: h.guestURL(a), Role: amqp.RoleGuest, GuestID: a.GuestID, Queue: a.Queue})
}

// raw gives a channel without any of our manners.
func (h *house) raw(url string) *amqp091.Channel {
	h.t.Helper()
	conn, err := amqp091.Dial(url)
	must(h.t, err)
	h.t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	must(h.t, err)
	return ch
}

func (h *house) messages(ch *amqp091.Channel, queue string) (int, error) {
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	return q.Messages, err
}

func TestConformance(t *testing.T) {
	rpctest.Run(t, func(t *testing.T) rpctest.Fixture {
		h := newHouse(t)
		account := h.newAccount()
		f := rpctest.Fixture{
			Control: h.control(), Other: h.control(), Guest: h.guest(account),
			GuestID: account.GuestID, Queue: account.Queue, Stray: "stray",
			MaxDeliveries: amqp.MaxDeliveries,
		}
		h.awaitConnected(f.Control, f.Other)
		testbed.Eventually(t, soon, func() error { return f.Guest.Cast(within(t, soon), heartbeat(t)) })
		ch := h.raw(h.url)
		_, err := ch.QueuePurge("grove.heartbeats", false)
		must(t, err)
		f.Inject = func(topic string, body []byte) error {
			return ch.PublishWithContext(t.Context(), "", "grove."+topic, true, false, amqp091.Publishing{Body: body})
		}
		f.Dead = func() (int, error) { return h.messages(ch, amqp.QueueDead) }
		return f
	})
}

// awaitConnected returns when calls of each transport can be answered: they are refused for what they are, not for a
// missing link.
func (h *house) awaitConnected(transports ...rpc.Transport) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	server := h.control()
	account := h.newAccount()
	go func() {
		ended <- server.Serve(ctx, rpc.GuestTopic(account.Queue), 4, func(context.Context, *rpc.Envelope) (any, error) { return nil, nil })
	}()
	for _, tr := range transports {
		testbed.Eventually(h.t, soon, func() error {
			return tr.Call(within(h.t, 5*time.Second), envelope(h.t, rpc.GuestTopic(account.Queue), "ping"), nil)
		})
	}
	cancel()
	must(h.t, <-ended)
	must(h.t, server.Close())
}

// While the broker is killed and started again, 20 casts a second keep coming; each must arrive.
func TestBrokerRestarted(t *testing.T) {
	h := newHouse(t)
	sender, receiver := h.control(), h.control()
	account := h.newAccount()
	guest := h.guest(account)
	arrived := newTally()
	h.serve(receiver, rpc.TopicTaskmanager, arrived.count)
	h.serve(receiver, rpc.TopicReports, arrived.count)
	h.serve(guest, rpc.GuestTopic(account.Queue), func(context.Context, *rpc.Envelope) (any, error) { return "pong", nil })
	h.awaitConnected(sender)

	var casts sync.WaitGroup
	sent, refused := 0, atomic.Int32{}
	cast := func(tr rpc.Transport, topic string) {
		sent++
		m := envelope(t, topic, "m")
		casts.Go(func() {
			testbed.Eventually(t, time.Minute, func() error {
				err := tr.Cast(within(t, soon), m)
				if err != nil {
					refused.Add(1)
				}
				return err
			})
		})
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	castUntil := func(done <-chan struct{}, atLeast int) {
		for n := 0; ; n++ {
			if n >= atLeast {
				select {
				case <-done:
					return
				default:
				}
			}
			<-tick.C
			cast(sender, rpc.TopicTaskmanager)
			cast(guest, rpc.TopicReports)
		}
	}
	already := make(chan struct{})
	close(already)
	castUntil(already, 30) // RabbitMQ forgets a quorum queue when it is killed within a second of its first declaration
	killed, started := make(chan struct{}), make(chan struct{})
	go func() { h.broker.Kill(); close(killed) }()
	castUntil(killed, 1)
	castUntil(already, 10)
	go func() { h.broker.Start(t); close(started) }()
	castUntil(started, 1)
	up := time.Now()
	castUntil(already, 10)
	casts.Wait()
	testbed.Eventually(t, soon, func() error { return arrived.want(sent) })
	var pong string
	testbed.Eventually(t, soon, func() error {
		return sender.Call(within(t, time.Second), envelope(t, rpc.GuestTopic(account.Queue), "ping"), &pong)
	})
	t.Logf("%d casts, %d times refused meanwhile, all handled %v after the broker was back", sent, refused.Load(), time.Since(up).Round(time.Millisecond))
	if refused.Load() == 0 {
		t.Error("the broker was never away")
	}
}

// A broker that forgot everything: the control plane declares its queues anew, and a guest whose account is ensured
// again comes back by itself.
func TestBrokerWiped(t *testing.T) {
	h := newHouse(t)
	control := h.control()
	account := h.newAccount()
	guest := h.guest(account)
	arrived := newTally()
	h.serve(control, rpc.TopicReports, arrived.count)
	cast := func(n int) {
		t.Helper()
		testbed.Eventually(t, soon, func() error { return guest.Cast(within(t, soon), envelope(t, rpc.TopicReports, "m")) })
		testbed.Eventually(t, soon, func() error { return arrived.atLeast(n) })
	}
	cast(1)
	h.broker.Wipe(t)
	h.broker.MakeVhost(t, h.vhost)
	must(t, h.accounts.Ensure(t.Context(), account))
	began := time.Now()
	cast(2)
	t.Logf("reported %v after its account was back", time.Since(began).Round(time.Millisecond))
}

// A transport that starts before its broker connects when the broker comes.
func TestBrokerAwayAtStart(t *testing.T) {
	h := newHouse(t)
	h.broker.Kill()
	defer h.broker.Start(t)
	control := h.control()
	began := time.Now()
	for range 100 {
		wantCode(t, control.Cast(within(t, soon), envelope(t, rpc.TopicTaskmanager, "m")), dbaas.Unavailable)
		wantCode(t, control.Call(within(t, soon), envelope(t, rpc.GuestTopic("q"), "m"), nil), dbaas.Unavailable)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("200 refusals took %v", took)
	}
	if _, err := h.accounts.List(t.Context()); dbaas.ErrorCode(err) != dbaas.Unavailable {
		t.Errorf("accounts: %v", err)
	}
	h.broker.Start(t)
	testbed.Eventually(t, soon, func() error { return control.Cast(within(t, soon), envelope(t, rpc.TopicTaskmanager, "m")) })
}

// Every message three times, shuffled among its neighbours: the handler acts once for each.
func TestDuplicatedAndReordered(t *testing.T) {
	const messages, times, window = 200, 3, 10
	h := newHouse(t)
	control := h.control()
	h.awaitConnected(control)
	for i := range messages {
		must(t, control.Cast(within(t, soon), envelope(t, rpc.TopicTaskmanager, strconv.Itoa(i))))
	}
	h.shuffle("grove.taskmanager", messages, times, window)

	arrived := newTally()
	var inOrder, last, deliveries atomic.Int64
	h.serve(control, rpc.TopicTaskmanager, func(ctx context.Context, m *rpc.Envelope) (any, error) {
		n, err := strconv.ParseInt(m.Method, 10, 64)
		if err != nil {
			t.Error(err)
		}
		if last.Swap(n) <= n {
			inOrder.Add(1)
		}
		deliveries.Add(1)
		return arrived.count(ctx, m)
	})
	testbed.Eventually(t, soon, func() error { return arrived.want(messages) })
	testbed.Eventually(t, soon, func() error {
		if n := deliveries.Load(); n != messages*times {
			return fmt.Errorf("%d deliveries", n)
		}
		return nil
	})
	if inOrder.Load() == messages*times {
		t.Error("nothing was out of order")
	}
}

// shuffle takes n messages from a queue and puts each back so many times, in windows of another order.
func (h *house) shuffle(queue string, n, times, window int) {
	h.t.Helper()
	ch := h.raw(h.url)
	var all []amqp091.Delivery
	testbed.Eventually(h.t, soon, func() error {
		for {
			d, ok, err := ch.Get(queue, true)
			must(h.t, err)
			if !ok {
				break
			}
			for range times {
				all = append(all, d)
			}
		}
		if len(all) != n*times {
			return fmt.Errorf("%d messages", len(all))
		}
		return nil
	})
	for begin := 0; begin < len(all); begin += window {
		part := all[begin:min(begin+window, len(all))]
		mathrand.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
		for _, d := range part {
			must(h.t, ch.PublishWithContext(h.t.Context(), "", queue, true, false, amqp091.Publishing{
				Headers: d.Headers, MessageId: d.MessageId, ReplyTo: d.ReplyTo, CorrelationId: d.CorrelationId, Body: d.Body,
			}))
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	h := newHouse(t)
	account := h.newAccount()
	ignore := goleak.IgnoreCurrent()
	control, guest := h.control(), h.guest(account)
	ctx, cancel := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() {
		if err := guest.Serve(ctx, rpc.GuestTopic(account.Queue), 2, func(context.Context, *rpc.Envelope) (any, error) { return nil, nil }); err != nil {
			t.Error(err)
		}
	})
	testbed.Eventually(t, soon, func() error {
		return control.Call(within(t, soon), envelope(t, rpc.GuestTopic(account.Queue), "m"), nil)
	})
	cancel()
	served.Wait()
	must(t, control.Close())
	must(t, guest.Close())
	goleak.VerifyNone(t, ignore)
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]amqp.Config{
		"no role":        {URL: "amqp://u:p@h/"},
		"no guest":       {URL: "amqp://u:p@h/", Role: amqp.RoleGuest},
		"not understood": {URL: "http://u:secret@h/", Role: amqp.RoleControl},
		"no port":        {URL: "amqp://u:secret@h:port/", Role: amqp.RoleControl},
	} {
		_, err := amqp.Dial(t.Context(), cfg)
		if err == nil || containsSecret(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, u := range []string{"", "h:1", "http://h", "http://u:secret@h:port"} {
		if _, err := amqp.NewAccounts(u, "/", nil); err == nil || containsSecret(err) {
			t.Errorf("%q: %v", u, err)
		}
	}
}
