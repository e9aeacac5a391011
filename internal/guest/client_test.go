package guest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/inproc"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/telemetry"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const soon = 20 * time.Second

// agent is an API that notes what it was asked and answers as told.
type agent struct {
	mu    sync.Mutex
	asked []any
	err   error

	context chan context.Context // of a Stop, where somebody asks for it
}

func (a *agent) note(request any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, request)
	return a.err
}

func (a *agent) calls() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.asked)
}

func (a *agent) last() any {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[len(a.asked)-1]
}

func (a *agent) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func (a *agent) Prepare(_ context.Context, r PrepareRequest) error { return a.note(r) }
func (a *agent) Restart(_ context.Context, f Fence) error          { return a.note(f) }
func (a *agent) Stop(ctx context.Context, r StopRequest) error {
	if a.context != nil {
		a.context <- ctx
	}
	return a.note(r)
}
func (a *agent) BeginAction(_ context.Context, r ActionRequest) error { return a.note(r) }
func (a *agent) Upgrade(_ context.Context, r ConfigureRequest) error  { return a.note(r) }
func (a *agent) TrustBroker(_ context.Context, r BrokerTrust) error   { return a.note(r) }
func (a *agent) UpgradeAgent(_ context.Context, r AgentRequest) (*AgentUpgrade, error) {
	return &AgentUpgrade{Progress: "fetching"}, a.note(r)
}
func (a *agent) Configure(_ context.Context, r ConfigureRequest) (*datastore.Applied, error) {
	return &datastore.Applied{RestartRequired: []string{"databases"}}, a.note(r)
}
func (a *agent) Status(context.Context) (*StatusReport, error) {
	return &StatusReport{GuestID: "g1", AgentVersion: "1"}, a.note("status")
}
func (a *agent) Job(_ context.Context, id string) (*JobStatus, error) {
	return &JobStatus{ID: id, JobState: datastore.JobState{State: "running"}}, a.note("job " + id)
}
func (a *agent) Action(_ context.Context, r ActionRequest) (json.RawMessage, error) {
	return json.RawMessage(`{"done":"<yes>"}`), a.note(r)
}

// house is one guest with its agent, and a client that knows its key.
type house struct {
	t      *testing.T
	bus    *inproc.Bus
	key    []byte
	agent  *agent
	client *Client
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, bus: inproc.New(inproc.Options{RedeliveryDelay: time.Millisecond}), key: newKey(), agent: &agent{}}
	h.client = h.newClient(h.key)
	h.serve(h.key, h.agent)
	return h
}

func newKey() []byte {
	key := make([]byte, rpc.MinKey)
	_, _ = rand.Read(key)
	return key
}

func (h *house) newClient(key []byte) *Client {
	return NewClient(h.bus.Control(), "node-1", func(_ context.Context, guestID string, _ []byte) ([]byte, error) {
		if guestID != "g1" {
			return nil, errors.New("unknown guest")
		}
		return key, nil
	})
}

// serve runs the guest's side until the test ends, and returns when it answers.
func (h *house) serve(key []byte, api API) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, h.bus.Guest("g1", "q1"), "q1", key, api) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Errorf("serve ended with %v", err)
		}
	})
	testbed.Eventually(h.t, soon, func() error {
		_, err := h.guest().Status(h.within(time.Second))
		return err
	})
}

func (h *house) guest() API { return h.client.Guest(&dbaas.Guest{ID: "g1", Queue: "q1"}) }

func (h *house) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	h.t.Cleanup(cancel)
	return ctx
}

func TestEveryMethodCrosses(t *testing.T) {
	h := newHouse(t)
	fence := Fence{GroupEpoch: 3, OperationID: "op", LeaseEpoch: 2, CommandID: "c1"}
	desired := datastore.Desired{Version: "7.0", VolumeSize: 5, Values: map[string]any{"maxmemory-policy": "allkeys-lru"}}
	prepare := PrepareRequest{Fence: fence, Desired: desired, Sealed: Sealed{"password": []byte{1, 2}}}
	configure := ConfigureRequest{Fence: fence, Desired: desired}
	stop := StopRequest{Fence: fence, Now: true}
	action := ActionRequest{Fence: fence, Name: "promote", Args: json.RawMessage(`{"a":"<b>"}`)}
	agent := AgentRequest{Fence: fence, Location: "https://mirror/agent", SHA256: "ab", Patience: time.Minute}
	g, ctx := h.guest(), h.within(soon)

	for name, part := range map[string]struct {
		call func() (any, error)
		want any // what the agent is asked
		gets any // what the caller gets
	}{
		"prepare":   {func() (any, error) { return nil, g.Prepare(ctx, prepare) }, prepare, nil},
		"restart":   {func() (any, error) { return nil, g.Restart(ctx, fence) }, fence, nil},
		"stop":      {func() (any, error) { return nil, g.Stop(ctx, stop) }, stop, nil},
		"begin":     {func() (any, error) { return nil, g.BeginAction(ctx, action) }, action, nil},
		"upgrade":   {func() (any, error) { return nil, g.Upgrade(ctx, configure) }, configure, nil},
		"agent":     {func() (any, error) { return g.UpgradeAgent(ctx, agent) }, agent, &AgentUpgrade{Progress: "fetching"}},
		"trust":     {func() (any, error) { return nil, g.TrustBroker(ctx, BrokerTrust{CA: "pem"}) }, BrokerTrust{CA: "pem"}, nil},
		"configure": {func() (any, error) { return g.Configure(ctx, configure) }, configure, &datastore.Applied{RestartRequired: []string{"databases"}}},
		"status":    {func() (any, error) { return g.Status(ctx) }, "status", &StatusReport{GuestID: "g1", AgentVersion: "1"}},
		"job":       {func() (any, error) { return g.Job(ctx, "j1") }, "job j1", &JobStatus{ID: "j1", JobState: datastore.JobState{State: "running"}}},
		"action":    {func() (any, error) { return g.Action(ctx, action) }, action, json.RawMessage(`{"done":"<yes>"}`)},
	} {
		got, err := part.call()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if a, b := jsonOf(t, h.agent.last()), jsonOf(t, part.want); a != b {
			t.Errorf("%s asked %s, not %s", name, a, b)
		}
		if a, b := jsonOf(t, got), jsonOf(t, part.gets); a != b {
			t.Errorf("%s gave %s, not %s", name, a, b)
		}
		h.agent.fail(dbaas.Errorf(dbaas.Conflict, "An older epoch."))
		if _, err := part.call(); dbaas.ErrorCode(err) != dbaas.Conflict || dbaas.ErrorMessage(err) != "An older epoch." {
			t.Errorf("%s: an error crossed as %v", name, err)
		}
		h.agent.fail(errors.New("accident"))
		if _, err := part.call(); dbaas.ErrorCode(err) != dbaas.Internal || dbaas.ErrorMessage(err) == "accident" {
			t.Errorf("%s: an accident crossed as %v", name, err)
		}
		h.agent.fail(nil)
	}
	if n := reflect.TypeFor[API]().NumMethod(); n != 11 {
		t.Errorf("the API has %d methods, this test knows 11", n)
	}
}

// The request that a user made is named in the agent's log too.
func TestRequestIDCrosses(t *testing.T) {
	h := newHouse(t)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	h.agent.context = make(chan context.Context, 1)
	ctx := telemetry.WithTraceParent(telemetry.WithRequestID(h.within(soon), "req-1"), trace)
	if err := h.guest().Stop(ctx, StopRequest{}); err != nil {
		t.Fatal(err)
	}
	there := <-h.agent.context
	if telemetry.RequestID(there) != "req-1" || telemetry.TraceParent(there) != trace {
		t.Errorf("there it is %q in %q", telemetry.RequestID(there), telemetry.TraceParent(there))
	}
}

// What the network does to messages does not make a command run twice.
func TestCommandsActOnce(t *testing.T) {
	for name, faults := range map[string]inproc.Faults{
		"duplicated": {Duplicate: 2},
		"reordered":  {Duplicate: 1, Reorder: true},
		"late":       {Duplicate: 1, Delay: 5 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			before := h.agent.calls()
			h.bus.SetFaults(func(*rpc.Envelope) inproc.Faults { return faults })
			const commands = 30
			var group sync.WaitGroup
			for i := range commands {
				group.Go(func() {
					if err := h.guest().Restart(h.within(soon), Fence{CommandID: fmt.Sprint(i)}); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			h.bus.SetFaults(nil)
			if err := h.guest().Stop(h.within(soon), StopRequest{}); err != nil { // behind all duplicates
				t.Error(err)
			}
			if n := h.agent.calls() - before; n != commands+1 {
				t.Errorf("%d calls for %d commands", n, commands+1)
			}
		})
	}
}

// A lost answer is the caller's to ask about again; by then the agent has acted.
func TestLostAnswer(t *testing.T) {
	h := newHouse(t)
	before := h.agent.calls()
	h.bus.SetFaults(func(*rpc.Envelope) inproc.Faults { return inproc.Faults{DropReply: true} })
	if err := h.guest().Stop(h.within(200*time.Millisecond), StopRequest{}); dbaas.ErrorCode(err) != dbaas.Unavailable {
		t.Errorf("got %v", err)
	}
	h.bus.SetFaults(func(*rpc.Envelope) inproc.Faults { return inproc.Faults{Drop: true} })
	if err := h.guest().Stop(h.within(50*time.Millisecond), StopRequest{}); dbaas.ErrorCode(err) != dbaas.Unavailable {
		t.Errorf("got %v", err)
	}
	if n := h.agent.calls() - before; n != 1 {
		t.Errorf("the agent acted %d times", n)
	}
}

// record keeps a message as it would travel.
type record struct {
	rpc.Transport
	sent *rpc.Envelope
}

func (r *record) Call(_ context.Context, m *rpc.Envelope, _ any) error {
	r.sent = m
	return dbaas.Errorf(dbaas.Unavailable, "Only recorded.")
}

// signedMessage gives a message that the guest would accept.
func signedMessage(t *testing.T, key []byte) *rpc.Envelope {
	t.Helper()
	r := &record{}
	c := NewClient(r, "node-1", func(context.Context, string, []byte) ([]byte, error) { return key, nil })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := c.Guest(&dbaas.Guest{ID: "g1", Queue: "q1"}).Restart(ctx, Fence{GroupEpoch: 5, CommandID: "c"})
	if dbaas.ErrorCode(err) != dbaas.Unavailable || r.sent == nil {
		t.Fatalf("not recorded: %v", err)
	}
	return r.sent
}

func TestGuestRefusesStrangers(t *testing.T) {
	key := newKey()
	api := &agent{}
	s := &server{key: key, api: api, clock: clock.Real{}}
	good := signedMessage(t, key)

	resigned := func(change func(*rpc.Envelope)) *rpc.Envelope {
		m := *good
		m.ID += "2"
		m.Sequence += 100
		change(&m)
		if err := rpc.Sign(key, &m); err != nil {
			t.Fatal(err)
		}
		return &m
	}
	refused := map[string]*rpc.Envelope{
		"of another key":      signedMessage(t, newKey()),
		"too late":            resigned(func(m *rpc.Envelope) { m.Deadline = dbaas.At(time.Now().Add(-time.Hour)) }),
		"without a deadline":  resigned(func(m *rpc.Envelope) { m.Deadline = 0 }),
		"without a signature": func() *rpc.Envelope { m := *good; m.MAC = nil; return &m }(),
	}
	for name, m := range refused {
		if _, err := s.handle(t.Context(), m); dbaas.ErrorCode(err) != dbaas.Unauthorized {
			t.Errorf("a message %s gave %v", name, err)
		}
	}
	if n := api.calls(); n != 0 {
		t.Fatalf("the agent acted %d times", n)
	}
	if _, err := s.handle(t.Context(), good); err != nil || api.calls() != 1 {
		t.Fatalf("a good message gave %v", err)
	}
	for range 3 {
		if _, err := s.handle(t.Context(), good); !errors.Is(err, rpc.ErrNoReply) {
			t.Errorf("a replay gave %v", err)
		}
	}
	if n := api.calls(); n != 1 {
		t.Errorf("the agent acted %d times", n)
	}
	// of the next release: a clear answer
	for name, m := range map[string]*rpc.Envelope{
		"version": resigned(func(m *rpc.Envelope) { m.Version, m.Sequence = rpc.ArgsVersion+1, 900 }),
		"method":  resigned(func(m *rpc.Envelope) { m.Method, m.Sequence = "dance", 901 }),
	} {
		result, err := s.handle(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if err := result.(*answer).open(key, m, nil); dbaas.ErrorCode(err) != dbaas.NotImplemented {
			t.Errorf("an unknown %s gave %v", name, err)
		}
	}
}

// Every change of any bit of a message, and every plain one, is refused: R18.
func TestMutatedMessagesAreRefused(t *testing.T) {
	key := newKey()
	api := &agent{}
	s := &server{key: key, api: api, clock: clock.Real{}}
	good := signedMessage(t, key)
	body, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	tried, parsed := 0, 0
	for i := range body {
		for bit := range 8 {
			changed := append([]byte(nil), body...)
			changed[i] ^= 1 << bit
			tried++
			m, err := rpc.Decode(good.Topic, changed)
			if err != nil {
				continue
			}
			if original := *m; sameMessage(&original, good) {
				continue // such as the case of a field's name
			}
			parsed++
			if _, err := s.handle(t.Context(), m); dbaas.ErrorCode(err) != dbaas.Unauthorized {
				t.Errorf("accepted: %s (%v)", changed, err)
			}
		}
	}
	if api.calls() != 0 {
		t.Errorf("the agent acted %d times", api.calls())
	}
	t.Logf("%d mutations, %d of them still messages, all refused", tried, parsed)
}

func sameMessage(a, b *rpc.Envelope) bool { return reflect.DeepEqual(a, b) }

func TestClientRefusesForgedAnswers(t *testing.T) {
	key := newKey()
	m := signedMessage(t, key)
	other := *m
	other.Sequence++
	if err := rpc.Sign(key, &other); err != nil {
		t.Fatal(err)
	}
	good, err := newAnswer(key, m, map[string]int{"n": 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var result map[string]int
	if err := good.open(key, m, &result); err != nil || result["n"] != 1 {
		t.Fatalf("a good answer gave %v, %v", result, err)
	}
	refused := map[string]error{
		"to another message": good.open(key, &other, nil),
		"of another key":     good.open(newKey(), m, nil),
		"changed":            (&answer{Result: json.RawMessage(`{"n":2}`), MAC: good.MAC}).open(key, m, nil),
		"made an error":      (&answer{Error: dbaas.Errorf(dbaas.NotFound, "Gone."), MAC: good.MAC}).open(key, m, nil),
		"unsigned":           (&answer{Result: good.Result}).open(key, m, nil),
	}
	for name, err := range refused {
		if dbaas.ErrorCode(err) != dbaas.Unauthorized {
			t.Errorf("an answer %s gave %v", name, err)
		}
	}
	// a client whose key the guest does not know is refused, and learns so
	h := newHouse(t)
	err = h.newClient(newKey()).Guest(&dbaas.Guest{ID: "g1", Queue: "q1"}).Stop(h.within(soon), StopRequest{})
	if dbaas.ErrorCode(err) != dbaas.Unauthorized {
		t.Errorf("a client with another key got %v", err)
	}
}

// A window of messages that can still be repeated is all that is remembered.
func TestMemoryOfMessagesIsBounded(t *testing.T) {
	var s seen
	now := time.Unix(1e9, 0)
	message := func(i int64) *rpc.Envelope {
		return &rpc.Envelope{BootID: "b", Sequence: i, Deadline: dbaas.At(now.Add(5 * time.Second))}
	}
	for i := range int64(100_000) {
		now = now.Add(10 * time.Millisecond)
		m := message(i)
		if s.before(m, now) || !s.before(m, now) {
			t.Fatalf("message %d was not taken for what it is", i)
		}
	}
	window := int((5*time.Second + rpc.ClockSkew) / (10 * time.Millisecond))
	if n := len(s.until); n > 3*window {
		t.Errorf("%d messages are remembered, %d could be repeated", n, window)
	}
}

func TestReports(t *testing.T) {
	bus := inproc.New(inproc.Options{})
	key := newKey()
	r := NewReporter(bus.Guest("g1", "q1"), "g1", key, 1)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	for i := range 2 {
		if err := r.Report(ctx, StatusReport{GuestID: "someone else", VolumeUsed: int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Heartbeat(ctx, Heartbeat{VolumeUsed: 7, Metrics: map[string]float64{"x": 1.5}}); err != nil {
		t.Fatal(err)
	}
	reports := receive(t, bus, rpc.TopicReports, 2)
	for i, m := range reports {
		s, err := VerifyReport(key, m)
		if err != nil || s.GuestID != "g1" || s.VolumeUsed != int64(i) || m.Sequence != int64(i+1) || m.BootID == "" || m.Sender != "g1" {
			t.Errorf("report %d is %+v in %+v, %v", i, s, m, err)
		}
		for name, forged := range map[string]*rpc.Envelope{
			"of another": {Sender: "g2"}, "as a heartbeat": {Method: MethodHeartbeat}, "of another boot": {BootID: "b"},
		} {
			changed := *m
			changed.Sender, changed.Method, changed.BootID = or(forged.Sender, m.Sender), or(forged.Method, m.Method), or(forged.BootID, m.BootID)
			if _, err := VerifyReport(key, &changed); dbaas.ErrorCode(err) != dbaas.Unauthorized {
				t.Errorf("a report %s gave %v", name, err)
			}
		}
		if _, err := VerifyReport(newKey(), m); dbaas.ErrorCode(err) != dbaas.Unauthorized {
			t.Errorf("a report under another key gave %v", err)
		}
	}
	beat := receive(t, bus, rpc.TopicHeartbeats, 1)[0]
	if h, err := VerifyHeartbeat(key, beat); err != nil || h.VolumeUsed != 7 || h.Metrics["x"] != 1.5 || beat.Sequence != 3 {
		t.Errorf("the heartbeat is %+v, %v", h, err)
	}
	if _, err := VerifyReport(key, beat); err == nil {
		t.Error("a heartbeat passed for a report")
	}
}

// A guest that signs, with its own key, a report about another is not believed.
func TestReportAboutAnother(t *testing.T) {
	key := newKey()
	m, err := rpc.NewEnvelope(rpc.TopicReports, MethodReport, StatusReport{GuestID: "g2"})
	if err != nil {
		t.Fatal(err)
	}
	m.Sender = "g1"
	if err := rpc.Sign(key, m); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyReport(key, m); dbaas.ErrorCode(err) != dbaas.Unauthorized {
		t.Errorf("got %v", err)
	}
}

func TestSealSecrets(t *testing.T) {
	private, err := secret.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := SealSecrets(private.Public(), map[string]string{"password": "s3cret", "root": "r"})
	if err != nil || len(sealed) != 2 {
		t.Fatalf("sealed %v, %v", sealed, err)
	}
	if value, err := private.Open(sealed["password"]); err != nil || string(value) != "s3cret" {
		t.Errorf("opened %q, %v", value, err)
	}
	if _, err := SealSecrets([]byte("no key"), map[string]string{"password": "s3cret"}); err == nil {
		t.Error("sealed to no key")
	}
}

// FuzzServe feeds a guest what anybody might send; nothing may reach the agent, nothing may panic.
func FuzzServe(f *testing.F) {
	key := newKey()
	f.Add([]byte(`{"id":"1","topic":"guest.q1","method":"stop","version":1,"args":{},"deadline":9999999999999999,"mac":"AAAA"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		api := &agent{}
		s := &server{key: key, api: api, clock: clock.Real{}}
		if m, err := rpc.Decode("guest.q1", body); err == nil {
			if _, err := s.handle(t.Context(), m); err == nil {
				t.Error("accepted")
			}
			_, _ = VerifyReport(key, m)
		}
		if api.calls() != 0 {
			t.Error("it reached the agent")
		}
	})
}

func receive(t *testing.T, bus *inproc.Bus, topic string, n int) []*rpc.Envelope {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	var got []*rpc.Envelope
	err := bus.Control().Serve(ctx, topic, 1, func(_ context.Context, m *rpc.Envelope) (any, error) {
		if got = append(got, m); len(got) == n {
			cancel()
		}
		return nil, nil
	})
	if err != nil || len(got) != n {
		t.Fatalf("received %d messages, %v", len(got), err)
	}
	return got
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
