package guest

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// serveConcurrency leaves room for looking while something slow is done.
const serveConcurrency = 8

// Serve answers the messages of a guest's queue with api until ctx ends. A message that key does not vouch for, without
// a deadline, or too late is refused with dbaas.Unauthorized; one that was seen before is passed over in silence, for
// its caller has its answer or waits for it. That a repeated command acts once is api's own business, by CommandID.
//
// An accident of api, an error that is no dbaas.Error, is logged here and answered as dbaas.Internal.
func Serve(ctx context.Context, t rpc.Transport, queue string, key []byte, api API) error {
	s := &server{key: key, api: api, clock: clock.Real{}}
	return t.Serve(ctx, rpc.GuestTopic(queue), serveConcurrency, s.handle)
}

type server struct {
	key   []byte
	api   API
	clock clock.Clock
	seen  seen
}

func (s *server) handle(ctx context.Context, m *rpc.Envelope) (any, error) {
	if err := s.admit(m); err != nil {
		slog.DebugContext(ctx, "message refused", "method", m.Method, "sender", m.Sender, "error", err)
		return nil, err
	}
	result, err := s.dispatch(ctx, m)
	if dbaas.ErrorCode(err) == dbaas.Internal {
		slog.ErrorContext(ctx, "command failed", "method", m.Method, "request_id", m.RequestID, "error", err)
	}
	return newAnswer(s.key, m, result, err)
}

// admit refuses what the control plane did not say, or said long ago.
func (s *server) admit(m *rpc.Envelope) error {
	if err := rpc.Verify(s.key, m); err != nil {
		return err
	}
	now := s.clock.Now()
	if m.Deadline.IsZero() || m.Late(now) {
		return dbaas.Errorf(dbaas.Unauthorized, "The message %s is too late.", m.Method)
	}
	if s.seen.before(m, now) {
		return rpc.ErrNoReply
	}
	return nil
}

func (s *server) dispatch(ctx context.Context, m *rpc.Envelope) (any, error) {
	if m.Version < rpc.OldestArgsVersion || m.Version > rpc.ArgsVersion {
		return nil, dbaas.Errorf(dbaas.NotImplemented, "This agent does not know version %d of %s.", m.Version, m.Method)
	}
	switch m.Method {
	case MethodPrepare:
		return nil, withArgs(m, func(r PrepareRequest) error { return s.api.Prepare(ctx, r) })
	case MethodRestart:
		return nil, withArgs(m, func(f Fence) error { return s.api.Restart(ctx, f) })
	case MethodStop:
		return nil, withArgs(m, func(r StopRequest) error { return s.api.Stop(ctx, r) })
	case MethodConfigure:
		return resultOf(m, func(r ConfigureRequest) (*datastore.Applied, error) { return s.api.Configure(ctx, r) })
	case MethodStatus:
		return s.api.Status(ctx)
	case MethodJob:
		return resultOf(m, func(r jobRequest) (*JobStatus, error) { return s.api.Job(ctx, r.ID) })
	case MethodAction:
		return resultOf(m, func(r ActionRequest) (json.RawMessage, error) { return s.api.Action(ctx, r) })
	case MethodBegin:
		return nil, withArgs(m, func(r ActionRequest) error { return s.api.BeginAction(ctx, r) })
	case MethodUpgrade:
		return nil, withArgs(m, func(r ConfigureRequest) error { return s.api.Upgrade(ctx, r) })
	case MethodAgent:
		return resultOf(m, func(r AgentRequest) (*AgentUpgrade, error) { return s.api.UpgradeAgent(ctx, r) })
	case MethodTrust:
		return nil, withArgs(m, func(r BrokerTrust) error { return s.api.TrustBroker(ctx, r) })
	}
	return s.dispatchTrove(ctx, m)
}

func withArgs[A any](m *rpc.Envelope, do func(A) error) error {
	_, err := resultOf(m, func(a A) (any, error) { return nil, do(a) })
	return err
}

func resultOf[A, R any](m *rpc.Envelope, do func(A) (R, error)) (R, error) {
	var args A
	if err := json.Unmarshal(m.Args, &args); err != nil {
		var none R
		return none, dbaas.WrapError(err, dbaas.BadRequest, "The arguments of %s are not understood.", m.Method)
	}
	return do(args)
}

// seen remembers messages until they are too late to be repeated, so that it forgets nothing that matters and grows
// no larger than what the control plane sends in that time.
type seen struct {
	mu      sync.Mutex
	until   map[order]time.Time
	sweepAt int
}

// order is a message's place: Sequence counts within the sending process.
type order struct {
	bootID   string
	sequence int64
}

// before tells whether a message of the same place was here before, and remembers this one.
func (s *seen) before(m *rpc.Envelope, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil {
		s.until = map[order]time.Time{}
	}
	at := order{m.BootID, m.Sequence}
	if _, ok := s.until[at]; ok {
		return true
	}
	s.until[at] = m.Deadline.Time().Add(rpc.ClockSkew)
	s.sweep(now)
	return false
}

// sweep forgets what is too late, each time that the memory has doubled.
func (s *seen) sweep(now time.Time) {
	if len(s.until) < max(s.sweepAt, 128) {
		return
	}
	for at, until := range s.until {
		if now.After(until) {
			delete(s.until, at)
		}
	}
	s.sweepAt = 2 * len(s.until)
}
