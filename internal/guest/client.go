package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/telemetry"
)

// Keys finds the key that a guest's messages are signed with. It changes when the guest is rebuilt: who finds that one is not
// the guest's names it as refused, and may get another; nil is none.
type Keys func(ctx context.Context, guestID string, refused []byte) ([]byte, error)

// Authentic calls try with the guest's key, and again with the one that has taken its place where that was dbaas.Unauthorized.
func (k Keys) Authentic(ctx context.Context, guestID string, try func(key []byte) error) error {
	key, err := k(ctx, guestID, nil)
	if err != nil {
		return fmt.Errorf("find the key of guest %s: %w", guestID, err)
	}
	refusal := try(key)
	if dbaas.ErrorCode(refusal) != dbaas.Unauthorized {
		return refusal
	}
	if next, err := k(ctx, guestID, key); err == nil && !bytes.Equal(next, key) {
		return try(next)
	}
	return refusal
}

// Client calls guests. Every message is signed with the guest's own key, and so is every answer that it believes.
type Client struct {
	transport rpc.Transport
	node      string
	keys      Keys
	bootID    string
	sequence  atomic.Int64
}

// NewClient makes the client of one control-plane process; node names it in messages.
func NewClient(t rpc.Transport, node string, keys Keys) *Client {
	return &Client{transport: t, node: node, keys: keys, bootID: uuid.NewString()}
}

// Guest gives the API of the agent of g. Each call needs a context with a deadline (rpc.DefaultCallTimeout is a good
// one) and ends with dbaas.Unavailable when the agent did not answer; it may have acted all the same.
func (c *Client) Guest(g *dbaas.Guest) API {
	return &remote{client: c, guestID: g.ID, topic: rpc.GuestTopic(g.Queue)}
}

// remote is one agent, far away.
type remote struct {
	client  *Client
	guestID string
	topic   string
}

// Prepare implements [API].
func (r *remote) Prepare(ctx context.Context, req PrepareRequest) error {
	return r.call(ctx, MethodPrepare, req.GroupEpoch, req, nil)
}

// Restart implements [API].
func (r *remote) Restart(ctx context.Context, f Fence) error {
	return r.call(ctx, MethodRestart, f.GroupEpoch, f, nil)
}

// Stop implements [API].
func (r *remote) Stop(ctx context.Context, req StopRequest) error {
	return r.call(ctx, MethodStop, req.GroupEpoch, req, nil)
}

// Configure implements [API].
func (r *remote) Configure(ctx context.Context, req ConfigureRequest) (*datastore.Applied, error) {
	applied := new(datastore.Applied)
	return applied, r.call(ctx, MethodConfigure, req.GroupEpoch, req, applied)
}

// Status implements [API].
func (r *remote) Status(ctx context.Context) (*StatusReport, error) {
	status := new(StatusReport)
	if err := r.call(ctx, MethodStatus, 0, nil, status); err != nil {
		return nil, err
	}
	if status.GuestID != r.guestID { // a guest is believed about itself alone
		return nil, dbaas.Errorf(dbaas.Unauthorized, "The guest %s answered for another.", r.guestID)
	}
	return status, nil
}

// Job implements [API].
func (r *remote) Job(ctx context.Context, id string) (*JobStatus, error) {
	job := new(JobStatus)
	return job, r.call(ctx, MethodJob, 0, jobRequest{ID: id}, job)
}

// Action implements [API].
func (r *remote) Action(ctx context.Context, req ActionRequest) (json.RawMessage, error) {
	var result json.RawMessage
	return result, r.call(ctx, MethodAction, req.GroupEpoch, req, &result)
}

// BeginAction implements [API].
func (r *remote) BeginAction(ctx context.Context, req ActionRequest) error {
	return r.call(ctx, MethodBegin, req.GroupEpoch, req, nil)
}

// Upgrade implements [API].
func (r *remote) Upgrade(ctx context.Context, req ConfigureRequest) error {
	return r.call(ctx, MethodUpgrade, req.GroupEpoch, req, nil)
}

// UpgradeAgent implements [API].
func (r *remote) UpgradeAgent(ctx context.Context, req AgentRequest) (*AgentUpgrade, error) {
	upgrade := new(AgentUpgrade)
	return upgrade, r.call(ctx, MethodAgent, req.GroupEpoch, req, upgrade)
}

// TrustBroker implements [API].
func (r *remote) TrustBroker(ctx context.Context, req BrokerTrust) error {
	return r.call(ctx, MethodTrust, 0, req, nil)
}

func (r *remote) call(ctx context.Context, method string, epoch int64, args, result any) error {
	return r.client.keys.Authentic(ctx, r.guestID, func(key []byte) error {
		m, err := r.client.envelope(ctx, r.topic, method, epoch, args)
		if err != nil {
			return err
		}
		if err := rpc.Sign(key, m); err != nil {
			return err
		}
		var a answer
		if err := r.client.transport.Call(ctx, m, &a); err != nil {
			return unansweredError(method, err)
		}
		return a.open(key, m, result)
	})
}

func (c *Client) envelope(ctx context.Context, topic, method string, epoch int64, args any) (*rpc.Envelope, error) {
	m, err := rpc.NewEnvelope(topic, method, args)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		m.Deadline = dbaas.At(deadline)
	}
	m.RequestID, m.TraceParent = telemetry.RequestID(ctx), telemetry.TraceParent(ctx)
	m.Sender, m.BootID, m.Sequence, m.Epoch = c.node, c.bootID, c.sequence.Add(1), epoch
	return m, nil
}

// unansweredError keeps refusals, which our own transport or a stranger to the key may have spoken, and makes anything
// else, for which no key vouches, one code.
func unansweredError(method string, err error) error {
	switch dbaas.ErrorCode(err) {
	case dbaas.Unavailable, dbaas.BadRequest, dbaas.Forbidden, dbaas.Unauthorized:
		return err
	}
	return dbaas.WrapError(err, dbaas.Unavailable, "The guest gave no answer to %s that can be trusted.", method)
}

type jobRequest struct {
	ID string `json:"id"`
}
