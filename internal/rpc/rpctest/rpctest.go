// Package rpctest holds every implementation of rpc.Transport to its contract.
package rpctest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// Fixture is two parts of a control plane and one guest, connected, with empty queues.
type Fixture struct {
	Control rpc.Transport
	Other   rpc.Transport // of the control plane too
	Guest   rpc.Transport
	GuestID string
	Queue   string // of Guest
	Stray   string // a queue that does not exist, or that nobody serves

	MaxDeliveries int                                   // of a cast whose handler fails
	Inject        func(topic string, body []byte) error // puts bytes on a topic of the control plane as they are
	Dead          func() (int, error)                   // counts the messages that were set aside
}

// patience is how long anything may take that should happen soon, on a machine that is busy with other tests.
const patience = 30 * time.Second

// Run tests the transports of fixtures that start makes, one for each part.
func Run(t *testing.T, start func(t *testing.T) Fixture) {
	for _, part := range []struct {
		name string
		test func(*testing.T, Fixture)
	}{
		{"a call is answered", callAnswered},
		{"a call needs a deadline", callNeedsDeadline},
		{"errors cross with code and message", errorsCross},
		{"a call that nobody serves is unavailable", callUnserved},
		{"a call ends at its deadline", callEndsAtDeadline},
		{"parts of the control plane call each other", callControl},
		{"calls run side by side", callsConcurrent},
		{"a cast reaches one server", castReachesOne},
		{"a cast waits for a server", castWaits},
		{"a cast is delivered again after an accident", castRedelivered},
		{"a cast is set aside at last", castSetAside},
		{"poison is set aside at once", poison},
		{"a cast whose time is over is unavailable", castAfterEnd},
		{"a repeated message is delivered again", repeated},
		{"late messages are dropped", lateDropped},
		{"no more than so many at a time", concurrencyBounded},
		{"serve waits for its handlers", serveWaits},
		{"close ends what is under way", closeEnds},
		{"unknown fields are ignored", unknownFields},
		{"messages may be big", bigMessages},
		{"unknown topics are refused", unknownTopics},
		{"a guest reports under its own name", guestReports},
		{"a guest may do nothing else", guestConfined},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, start(t)) })
	}
}

func callAnswered(t *testing.T, f Fixture) {
	var got *rpc.Envelope
	f.serve(t, f.Guest, rpc.GuestTopic(f.Queue), 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		got = m
		return map[string]string{"hello": "world"}, nil
	})
	sent := envelope(t, rpc.GuestTopic(f.Queue), "greet", map[string]any{"text": "a <b> & \u00fc \u2028", "n": 1 << 53})
	sent.RequestID, sent.TraceParent, sent.Sender = "req-1", "00-ab-cd-01", "node-1"
	sent.Deadline, sent.BootID, sent.Epoch, sent.Sequence = dbaas.At(time.Now().Add(time.Minute)), "boot", 7, 9
	key := []byte(strings.Repeat("k", rpc.MinKey))
	must(t, rpc.Sign(key, sent))

	var result map[string]string
	must(t, f.Control.Call(within(t, patience), sent, &result))
	if result["hello"] != "world" {
		t.Errorf("the result is %v", result)
	}
	if a, b := jsonOf(t, got), jsonOf(t, sent); a != b {
		t.Errorf("sent %s\n got %s", b, a)
	}
	must(t, rpc.Verify(key, got))
	must(t, f.Control.Call(within(t, patience), sent, nil)) // the result may be of no interest
}

func callNeedsDeadline(t *testing.T, f Fixture) {
	var calls atomic.Int32
	f.serve(t, f.Guest, rpc.GuestTopic(f.Queue), 1, func(context.Context, *rpc.Envelope) (any, error) {
		calls.Add(1)
		return nil, nil
	})
	wantCode(t, f.Control.Call(context.Background(), envelope(t, rpc.GuestTopic(f.Queue), "m", nil), nil), dbaas.BadRequest)
	must(t, f.Control.Call(within(t, patience), envelope(t, rpc.GuestTopic(f.Queue), "m", nil), nil))
	if n := calls.Load(); n != 1 {
		t.Errorf("the handler ran %d times", n)
	}
}

func errorsCross(t *testing.T, f Fixture) {
	deliveries := counter{}
	f.serve(t, f.Guest, rpc.GuestTopic(f.Queue), 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		deliveries.add(m.ID)
		switch m.Method {
		case "refuse":
			return nil, dbaas.WrapError(errors.New("the cause"), dbaas.Conflict, "It is %d%% taken.", 100)
		case "wrapped":
			return nil, fmt.Errorf("outer: %w", dbaas.Errorf(dbaas.NotFound, "Gone."))
		case "accident":
			return nil, errors.New("disk on fire")
		}
		panic("on purpose")
	})
	for method, want := range map[string]dbaas.Error{
		"refuse":   {Code: dbaas.Conflict, Message: "It is 100% taken."},
		"wrapped":  {Code: dbaas.NotFound, Message: "Gone."},
		"accident": {Code: dbaas.Internal, Message: dbaas.ErrorMessage(errors.New(""))},
		"panic":    {Code: dbaas.Internal, Message: dbaas.ErrorMessage(errors.New(""))},
	} {
		m := envelope(t, rpc.GuestTopic(f.Queue), method, nil)
		err := f.Control.Call(within(t, patience), m, nil)
		var got *dbaas.Error
		if !errors.As(err, &got) || got.Code != want.Code || got.Message != want.Message || got.Error() != want.Message {
			t.Errorf("%s gave %#v", method, err)
		}
		if n := deliveries.of(m.ID); n != 1 {
			t.Errorf("%s was delivered %d times", method, n)
		}
	}
}

func callUnserved(t *testing.T, f Fixture) {
	for _, topic := range []string{rpc.GuestTopic(f.Stray), rpc.GuestTopic(f.Queue)} {
		began := time.Now()
		err := f.Control.Call(within(t, 500*time.Millisecond), envelope(t, topic, "m", nil), nil)
		wantCode(t, err, dbaas.Unavailable)
		if took := time.Since(began); took > patience {
			t.Errorf("it took %v", took)
		}
		if said := dbaas.ErrorMessage(err); strings.Contains(said, f.Stray) || strings.Contains(said, f.Queue) {
			t.Errorf("a tenant may read this, and it names a guest's queue, which is to be guessed by nobody: %q", said)
		}
	}
}

func callEndsAtDeadline(t *testing.T, f Fixture) {
	release := make(chan struct{})
	f.serve(t, f.Guest, rpc.GuestTopic(f.Queue), 2, func(_ context.Context, m *rpc.Envelope) (any, error) {
		if m.Method == "slow" {
			<-release
		}
		return m.Method, nil
	})
	began := time.Now()
	wantCode(t, f.Control.Call(within(t, 300*time.Millisecond), envelope(t, rpc.GuestTopic(f.Queue), "slow", nil), nil), dbaas.Unavailable)
	if took := time.Since(began); took < 250*time.Millisecond || took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	close(release) // the late answer must not be taken for that of the next call
	for range 10 {
		var result string
		must(t, f.Control.Call(within(t, patience), envelope(t, rpc.GuestTopic(f.Queue), "quick", nil), &result))
		if result != "quick" {
			t.Fatalf("got the answer of %s", result)
		}
	}
}

func callControl(t *testing.T, f Fixture) {
	f.serve(t, f.Other, rpc.TopicTaskmanager, 1, func(_ context.Context, m *rpc.Envelope) (any, error) { return m.Sender, nil })
	m := envelope(t, rpc.TopicTaskmanager, "m", nil)
	m.Sender = "node-1"
	var result string
	must(t, f.Control.Call(within(t, patience), m, &result))
	if result != "node-1" {
		t.Errorf("got %q", result)
	}
}

func callsConcurrent(t *testing.T, f Fixture) {
	f.serve(t, f.Guest, rpc.GuestTopic(f.Queue), 8, func(_ context.Context, m *rpc.Envelope) (any, error) { return m.Args, nil })
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			var result int
			from := []rpc.Transport{f.Control, f.Other}[i%2]
			if err := from.Call(within(t, patience), envelope(t, rpc.GuestTopic(f.Queue), "echo", i), &result); err != nil || result != i {
				t.Errorf("call %d gave %d, %v", i, result, err)
			}
		})
	}
	group.Wait()
}

func castReachesOne(t *testing.T, f Fixture) {
	const casts = 100
	deliveries, servers := counter{}, counter{}
	for name, transport := range map[string]rpc.Transport{"control": f.Control, "other": f.Other} {
		f.serve(t, transport, rpc.TopicTaskmanager, 2, func(_ context.Context, m *rpc.Envelope) (any, error) {
			deliveries.add(m.ID)
			servers.add(name)
			return "dropped", nil
		})
	}
	for range casts {
		must(t, f.Control.Cast(within(t, patience), envelope(t, rpc.TopicTaskmanager, "m", nil)))
	}
	testbed.Eventually(t, patience, func() error { return deliveries.want(casts, 1) })
	if servers.of("control")+servers.of("other") != casts {
		t.Errorf("deliveries: %v", servers.counts)
	}
}

func castWaits(t *testing.T, f Fixture) {
	const casts = 20
	topics := []string{rpc.TopicTaskmanager, rpc.TopicReports, rpc.TopicHeartbeats}
	for _, topic := range topics {
		for range casts {
			must(t, f.Control.Cast(within(t, patience), envelope(t, topic, "m", nil)))
		}
	}
	for _, topic := range topics {
		deliveries := counter{}
		f.serve(t, f.Other, topic, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
			deliveries.add(m.ID)
			return nil, nil
		})
		testbed.Eventually(t, patience, func() error { return deliveries.want(casts, 1) })
	}
}

func castRedelivered(t *testing.T, f Fixture) {
	wanted := map[string]int{"fine": 1, "refused": 1, "no reply": 1, "accident": 3, "panic": 3, "wrapped": 1}
	deliveries := counter{}
	f.serve(t, f.Control, rpc.TopicReports, 2, func(_ context.Context, m *rpc.Envelope) (any, error) {
		n := deliveries.add(m.Method)
		switch m.Method {
		case "refused":
			return nil, dbaas.Errorf(dbaas.NotFound, "An answer, if an unkind one.")
		case "wrapped":
			return nil, fmt.Errorf("outer: %w", dbaas.Errorf(dbaas.NotFound, "An answer."))
		case "no reply":
			return nil, rpc.ErrNoReply
		case "accident":
			if n < 3 {
				return nil, errors.New("the database is away")
			}
		case "panic":
			if n < 3 {
				panic("on purpose")
			}
		}
		return nil, nil
	})
	for method := range wanted {
		must(t, f.Guest.Cast(within(t, patience), envelope(t, rpc.TopicReports, method, nil)))
	}
	testbed.Eventually(t, patience, func() error {
		for method, n := range wanted {
			if got := deliveries.of(method); got != n {
				return fmt.Errorf("%s was delivered %d times, not %d", method, got, n)
			}
		}
		return nil
	})
	if n, err := f.Dead(); err != nil || n != 0 {
		t.Errorf("%d messages were set aside, %v", n, err)
	}
}

func castSetAside(t *testing.T, f Fixture) {
	deliveries := counter{}
	f.serve(t, f.Control, rpc.TopicTaskmanager, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		deliveries.add(m.Method)
		if m.Method == "hopeless" {
			return nil, errors.New("never works")
		}
		return nil, nil
	})
	must(t, f.Control.Cast(within(t, patience), envelope(t, rpc.TopicTaskmanager, "hopeless", nil)))
	for range 10 { // go on meanwhile
		must(t, f.Control.Cast(within(t, patience), envelope(t, rpc.TopicTaskmanager, "fine", nil)))
	}
	testbed.Eventually(t, patience, func() error { return wantCount(deliveries.of("fine"), 10) })
	testbed.Eventually(t, patience, func() error { return wantDead(f, 1) })
	if n := deliveries.of("hopeless"); n != f.MaxDeliveries {
		t.Errorf("it was delivered %d times, not %d", n, f.MaxDeliveries)
	}
}

func poison(t *testing.T, f Fixture) {
	const each = 100
	deliveries := counter{}
	f.serve(t, f.Other, rpc.TopicTaskmanager, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		deliveries.add(m.ID)
		return nil, nil
	})
	bodies := []string{"", "{", "null", "[]", `"text"`, "\x00\xff", `{"id":"1"}`, `{"id":"1","method":"m","topic":"reports"}`,
		`{"id":1,"method":"m","topic":"taskmanager"}`, `{"id":"1","method":"","topic":"taskmanager"}`}
	for i := range each {
		must(t, f.Inject(rpc.TopicTaskmanager, []byte(bodies[i%len(bodies)])))
		must(t, f.Control.Cast(within(t, patience), envelope(t, rpc.TopicTaskmanager, "m", nil)))
	}
	testbed.Eventually(t, patience, func() error { return deliveries.want(each, 1) })
	testbed.Eventually(t, patience, func() error { return wantDead(f, each) })
}

func castAfterEnd(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantCode(t, f.Control.Cast(ctx, envelope(t, rpc.TopicTaskmanager, "m", nil)), dbaas.Unavailable)
}

func repeated(t *testing.T, f Fixture) {
	deliveries := counter{}
	f.serve(t, f.Control, rpc.TopicReports, 4, func(_ context.Context, m *rpc.Envelope) (any, error) {
		deliveries.add(m.ID)
		return nil, nil
	})
	m := envelope(t, rpc.TopicReports, "m", nil)
	for range 3 {
		must(t, f.Guest.Cast(within(t, patience), m))
	}
	testbed.Eventually(t, patience, func() error { return deliveries.want(1, 3) })
}

func lateDropped(t *testing.T, f Fixture) {
	methods := counter{}
	late := envelope(t, rpc.TopicTaskmanager, "late", nil)
	late.Deadline = dbaas.At(time.Now().Add(-time.Hour))
	must(t, f.Control.Cast(within(t, patience), late))
	must(t, f.Control.Cast(within(t, patience), envelope(t, rpc.TopicTaskmanager, "in time", nil)))
	f.serve(t, f.Control, rpc.TopicTaskmanager, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		methods.add(m.Method)
		return nil, nil
	})
	testbed.Eventually(t, patience, func() error { return wantCount(methods.of("in time"), 1) })
	if methods.of("late") != 0 {
		t.Error("it was handled")
	}
	must(t, wantDead(f, 0))
}

func concurrencyBounded(t *testing.T, f Fixture) {
	const limit, casts = 3, 30
	var now, most, done atomic.Int32
	all := make(chan struct{}) // closed when as many run as may
	var full sync.Once
	f.serve(t, f.Control, rpc.TopicTaskmanager, limit, func(ctx context.Context, _ *rpc.Envelope) (any, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		if n >= limit {
			full.Do(func() { close(all) })
		}
		select {
		case <-all:
		case <-ctx.Done():
		}
		done.Add(1)
		return nil, nil
	})
	for range casts {
		must(t, f.Other.Cast(within(t, patience), envelope(t, rpc.TopicTaskmanager, "m", nil)))
	}
	testbed.Eventually(t, patience, func() error { return wantCount(int(done.Load()), casts) })
	if most.Load() != limit {
		t.Errorf("%d ran at a time, not %d", most.Load(), limit)
	}
}

func serveWaits(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	entered, release := make(chan struct{}), make(chan struct{})
	var handled atomic.Bool
	ended := make(chan error, 1)
	go func() {
		ended <- f.Control.Serve(ctx, rpc.TopicTaskmanager, 1, func(context.Context, *rpc.Envelope) (any, error) {
			close(entered)
			<-release
			handled.Store(true)
			return nil, nil
		})
	}()
	for range 2 { // one to be handled, one to be left
		must(t, f.Control.Cast(within(t, patience), envelope(t, rpc.TopicTaskmanager, "m", nil)))
	}
	receive(t, entered)
	cancel()
	select {
	case <-ended:
		t.Fatal("it did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := receive(t, ended); err != nil || !handled.Load() {
		t.Errorf("it ended with %v, handled %v", err, handled.Load())
	}
	deliveries := counter{}
	f.serve(t, f.Other, rpc.TopicTaskmanager, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		deliveries.add(m.ID)
		return nil, nil
	})
	testbed.Eventually(t, patience, func() error { return deliveries.want(1, 1) })
}

func closeEnds(t *testing.T, f Fixture) {
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	f.serve(t, f.Guest, rpc.GuestTopic(f.Queue), 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		if m.Method == "wait" {
			close(entered)
			<-release
		}
		return nil, nil
	})
	served := make(chan error, 1)
	go func() {
		served <- f.Control.Serve(t.Context(), rpc.TopicTaskmanager, 1, func(context.Context, *rpc.Envelope) (any, error) { return nil, nil })
	}()
	called := make(chan error, 1)
	ctx := within(t, patience)
	m := envelope(t, rpc.GuestTopic(f.Queue), "wait", nil)
	go func() { called <- f.Control.Call(ctx, m, nil) }()
	receive(t, entered)
	must(t, f.Control.Close())
	wantCode(t, receive(t, called), dbaas.Unavailable)
	if err := receive(t, served); err != nil {
		t.Errorf("serve ended with %v", err)
	}
	wantCode(t, f.Control.Cast(within(t, patience), envelope(t, rpc.TopicTaskmanager, "m", nil)), dbaas.Unavailable)
	wantCode(t, f.Control.Call(within(t, patience), envelope(t, rpc.GuestTopic(f.Queue), "m", nil), nil), dbaas.Unavailable)
	must(t, f.Control.Close()) // again is no harm
	must(t, f.Other.Cast(within(t, patience), envelope(t, rpc.TopicTaskmanager, "m", nil)))
}

func unknownFields(t *testing.T, f Fixture) {
	ids := counter{}
	f.serve(t, f.Control, rpc.TopicTaskmanager, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		ids.add(m.ID + string(m.Args))
		return nil, nil
	})
	must(t, f.Inject(rpc.TopicTaskmanager, []byte(`{"id":"1","method":"m","topic":"taskmanager","version":9,"args":{"a":1},"of_the_next_release":{"x":[]}}`)))
	testbed.Eventually(t, patience, func() error { return wantCount(ids.of(`1{"a":1}`), 1) })
}

func bigMessages(t *testing.T, f Fixture) {
	f.serve(t, f.Guest, rpc.GuestTopic(f.Queue), 1, func(_ context.Context, m *rpc.Envelope) (any, error) { return m.Args, nil })
	text := strings.Repeat("x", 2<<20)
	var result string
	must(t, f.Control.Call(within(t, patience), envelope(t, rpc.GuestTopic(f.Queue), "echo", text), &result))
	if result != text {
		t.Errorf("%d bytes came back", len(result))
	}
	huge := envelope(t, rpc.GuestTopic(f.Queue), "echo", strings.Repeat("x", rpc.MaxMessage))
	wantCode(t, f.Control.Call(within(t, patience), huge, nil), dbaas.BadRequest)
	huge.Topic = rpc.TopicTaskmanager
	wantCode(t, f.Control.Cast(within(t, patience), huge), dbaas.BadRequest)
}

func unknownTopics(t *testing.T, f Fixture) {
	for _, topic := range []string{"", "nowhere", "guest.", "amq.topic"} {
		m := &rpc.Envelope{ID: "1", Topic: topic, Method: "m"}
		wantCode(t, f.Control.Cast(within(t, patience), m), dbaas.BadRequest)
		wantCode(t, f.Control.Call(within(t, patience), m, nil), dbaas.BadRequest)
		wantCode(t, f.Control.Serve(within(t, patience), topic, 1, nil), dbaas.BadRequest)
	}
}

func guestReports(t *testing.T, f Fixture) {
	for _, topic := range []string{rpc.TopicReports, rpc.TopicHeartbeats} {
		senders := counter{}
		f.serve(t, f.Control, topic, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
			senders.add(m.Sender)
			return nil, nil
		})
		for _, claim := range []string{"", f.GuestID, "another"} {
			m := envelope(t, topic, "m", nil)
			m.Sender = claim
			must(t, f.Guest.Cast(within(t, patience), m))
		}
		testbed.Eventually(t, patience, func() error { return wantCount(senders.of(f.GuestID), 3) })
	}
}

func guestConfined(t *testing.T, f Fixture) {
	for _, topic := range []string{rpc.TopicTaskmanager, rpc.GuestTopic(f.Queue), rpc.GuestTopic(f.Stray)} {
		wantCode(t, f.Guest.Cast(within(t, patience), envelope(t, topic, "m", nil)), dbaas.Forbidden)
		wantCode(t, f.Guest.Call(within(t, patience), envelope(t, topic, "m", nil), nil), dbaas.Forbidden)
	}
	for _, topic := range []string{rpc.TopicTaskmanager, rpc.TopicReports, rpc.TopicHeartbeats, rpc.GuestTopic(f.Stray)} {
		wantCode(t, f.Guest.Serve(within(t, patience), topic, 1, nil), dbaas.Forbidden)
	}
}

// serve runs a server until the test ends, and returns when calls reach it.
func (f Fixture) serve(t *testing.T, transport rpc.Transport, topic string, concurrency int, h rpc.Handler) {
	t.Helper()
	const ping = "rpctest ping"
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- transport.Serve(ctx, topic, concurrency, func(ctx context.Context, m *rpc.Envelope) (any, error) {
			if m.Method == ping {
				return nil, nil
			}
			return h(ctx, m)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := receive(t, ended); err != nil {
			t.Errorf("serve %s ended with %v", topic, err)
		}
	})
	testbed.Eventually(t, patience, func() error {
		return f.Other.Call(within(t, 5*time.Second), envelope(t, topic, ping, nil), nil)
	})
}

func envelope(t *testing.T, topic, method string, args any) *rpc.Envelope {
	t.Helper()
	m, err := rpc.NewEnvelope(topic, method, args)
	must(t, err)
	return m
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("it did not happen")
		panic("unreachable")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code dbaas.Code) {
	t.Helper()
	if dbaas.ErrorCode(err) != code {
		t.Errorf("got %v (%s), want %s", err, dbaas.ErrorCode(err), code)
	}
}

func wantCount(got, want int) error {
	if got != want {
		return fmt.Errorf("%d, not %d", got, want)
	}
	return nil
}

func wantDead(f Fixture, want int) error {
	n, err := f.Dead()
	if err == nil && n != want {
		err = fmt.Errorf("%d messages were set aside, not %d", n, want)
	}
	return err
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	must(t, err)
	return string(raw)
}

// counter counts by name.
type counter struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *counter) add(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	c.counts[name]++
	return c.counts[name]
}

func (c *counter) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[name]
}

// want is nil when there are so many names, each counted so often.
func (c *counter) want(names, each int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.counts) != names {
		return fmt.Errorf("%d messages were handled, not %d", len(c.counts), names)
	}
	for name, n := range c.counts {
		if n != each {
			return fmt.Errorf("%s was handled %d times, not %d", name, n, each)
		}
	}
	return nil
}
