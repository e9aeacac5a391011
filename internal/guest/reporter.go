package guest

import (
	"context"
	"encoding/json"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// Reporter sends what one agent process has to say. Its boot id and sequence put the messages in order, whatever the
// guest's clock says.
type Reporter struct {
	transport rpc.Transport
	guestID   string
	key       []byte
	bootID    string
	sequence  atomic.Int64
}

// NewReporter makes the reporter of an agent process that starts now, for the boot-th time.
func NewReporter(t rpc.Transport, guestID string, key []byte, boot int64) *Reporter {
	return &Reporter{transport: t, guestID: guestID, key: key, bootID: dbaas.BootID(boot, uuid.NewString())}
}

// Report sends the status. After an error it was perhaps not sent: the agent says it again, as it stands then.
func (r *Reporter) Report(ctx context.Context, s StatusReport) error {
	s.GuestID = r.guestID
	return r.cast(ctx, rpc.TopicReports, MethodReport, s)
}

// Heartbeat sends a sign of life, once: the next one comes soon enough.
func (r *Reporter) Heartbeat(ctx context.Context, h Heartbeat) error {
	return r.cast(ctx, rpc.TopicHeartbeats, MethodHeartbeat, h)
}

func (r *Reporter) cast(ctx context.Context, topic, method string, args any) error {
	m, err := rpc.NewEnvelope(topic, method, args)
	if err != nil {
		return err
	}
	m.Sender, m.BootID, m.Sequence = r.guestID, r.bootID, r.sequence.Add(1)
	if err := rpc.Sign(r.key, m); err != nil {
		return err
	}
	return r.transport.Cast(ctx, m)
}

// VerifyReport reads a status report that key vouches for, of the guest that the transport names as its sender. Its
// order is m.BootID and m.Sequence.
func VerifyReport(key []byte, m *rpc.Envelope) (*StatusReport, error) {
	s := new(StatusReport)
	if err := openMessage(key, m, MethodReport, s); err != nil {
		return nil, err
	}
	if s.GuestID != m.Sender {
		return nil, dbaas.Errorf(dbaas.Unauthorized, "The guest %s reported for another.", m.Sender)
	}
	return s, nil
}

// VerifyHeartbeat reads a heartbeat that key vouches for, of the guest m.Sender.
func VerifyHeartbeat(key []byte, m *rpc.Envelope) (*Heartbeat, error) {
	h := new(Heartbeat)
	return h, openMessage(key, m, MethodHeartbeat, h)
}

func openMessage(key []byte, m *rpc.Envelope, method string, args any) error {
	if err := rpc.Verify(key, m); err != nil {
		return err
	}
	if m.Method != method {
		return dbaas.Errorf(dbaas.BadRequest, "Expected the message %s, not %q.", method, m.Method)
	}
	if err := json.Unmarshal(m.Args, args); err != nil {
		return dbaas.WrapError(err, dbaas.BadRequest, "The arguments of %s are not understood.", method)
	}
	return nil
}
