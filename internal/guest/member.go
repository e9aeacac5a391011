package guest

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// Member is a guest as a datastore's Topology reaches it. Its jobs are named by whoever begins them: the same name is the
// same job, whichever operation asks.
type Member struct {
	guest *dbaas.Guest
	api   API
	fence Fence
}

// Member gives a guest of a cluster. The fence says on whose behalf; its CommandID is not needed, for actions of a
// Topology may be repeated.
func (c *Client) Member(g *dbaas.Guest, f Fence) *Member {
	return &Member{guest: g, api: c.Guest(g), fence: f}
}

// GuestID implements [datastore.Member].
func (m *Member) GuestID() string { return m.guest.ID }

// Observed implements [datastore.Member].
func (m *Member) Observed() json.RawMessage { return json.RawMessage(m.guest.Observed) }

// Do implements [datastore.Member].
func (m *Member) Do(ctx context.Context, action string, args any, result any) error {
	request, err := m.request("action-"+uuid.NewString(), action, args) // each a deed of its own: the world has moved on
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rpc.DefaultCallTimeout)
	defer cancel()
	answer, err := m.api.Action(ctx, request)
	if err != nil || result == nil {
		return err
	}
	if err := json.Unmarshal(answer, result); err != nil {
		return dbaas.WrapError(err, dbaas.Internal, "The guest %s answered %s with something else.", m.guest.ID, action)
	}
	return nil
}

// BeginJob implements [datastore.Member].
func (m *Member) BeginJob(ctx context.Context, name, action string, args any) error {
	request, err := m.request(name, action, args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rpc.DefaultCallTimeout)
	defer cancel()
	return m.api.BeginAction(ctx, request)
}

// Job implements [datastore.Member].
func (m *Member) Job(ctx context.Context, name string) (*datastore.JobState, error) {
	ctx, cancel := context.WithTimeout(ctx, rpc.DefaultCallTimeout)
	defer cancel()
	job, err := m.api.Job(ctx, name)
	if err != nil {
		return nil, err
	}
	return &job.JobState, nil
}

func (m *Member) request(name, action string, args any) (ActionRequest, error) {
	r := ActionRequest{Fence: m.fence, Name: action}
	r.CommandID = name
	var err error
	r.Args, err = json.Marshal(args)
	return r, err
}
