// Package control holds the use cases: what one transaction does when a user asks for something.
//
// Each change follows one pattern. What can be refused without the database is refused first; then a single
// transaction checks, writes the user's wish, takes the locks and enqueues the operation; after the commit the
// taskmanager is nudged. Losing the nudge loses time, never the wish.
package control

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/store"
)

// MethodNudge tells a taskmanager that an operation is waiting; its argument is [Nudge].
const MethodNudge = "nudge"

// Nudge names the operation that is due.
type Nudge struct {
	OperationID string `json:"operation_id"`
}

// Config is what a Service works with. All fields but Transport are needed; without Transport the taskmanager finds
// new work by its own scan.
type Config struct {
	Store            *store.Store
	Transport        rpc.Transport
	Datastores       []datastore.Datastore
	Region           string
	DefaultDatastore string         // name used where a request names none; "" refuses such requests
	Quotas           map[string]int // default limits by resource; -1 is unlimited
	MaxVolumeSize    int            // GB
	Node             string         // this process, as sender of nudges
	// Workflows describes operations by kind, for dry runs; what is not in it is not described.
	Workflows map[string]Workflow
	Clock     clock.Clock
	Logger    *slog.Logger
}

// Service is the control plane's use cases. It is safe for concurrent use and keeps no state of its own.
type Service struct {
	Config
	manifests map[string]*datastore.Manifest
}

// New makes a Service.
func New(c Config) *Service {
	s := &Service{Config: c, manifests: make(map[string]*datastore.Manifest, len(c.Datastores))}
	for _, d := range c.Datastores {
		s.manifests[d.Manifest().Name] = d.Manifest()
	}
	return s
}

// Caller is who asks, as the API's middleware established it.
type Caller struct {
	ProjectID     string
	UserID        string
	Roles         []string // in the project
	RequestID     string
	SourceAddress string
	TraceParent   string
	Admin         bool // as the policy has it
	// DryRun, when set, gets what the request would do; the use case then changes nothing and ends with ErrDryRun.
	DryRun *Plan
	// Claim, when set, is the hold on the request's idempotency key.
	Claim *Claim
}

// sees tells whether the caller may know of something that belongs to a project.
func (c Caller) sees(projectID string) bool { return c.Admin || c.ProjectID == projectID }

// Ready tells whether requests can be served.
func (s *Service) Ready(ctx context.Context) error { return s.Store.Ready(ctx) }

// manifest gives the manifest that drives a version.
func (s *Service) manifest(v *dbaas.DatastoreVersion) (*datastore.Manifest, error) {
	m, ok := s.manifests[v.Manager]
	if !ok {
		return nil, dbaas.Errorf(dbaas.NotImplemented, "Datastore version %s needs the datastore %q, which this server does not drive.", v.Name, v.Manager)
	}
	return m, nil
}

// change is one accepted request under construction: what the operation and its first event say.
type change struct {
	kind     string
	instance *dbaas.Instance
	cluster  *dbaas.Cluster // the change is one of the whole cluster; then there is no instance
	lock     []string       // more than the group and the resource itself
	state    any
	before   any
	after    any
	moves    *datastore.Plan // between the members of a cluster
	shown    string          // what the answer describes, where that is not the resource
	effects  []string        // what users would notice beside what the kind says, for plans
}

// resource is what a change is of.
type resource struct{ kind, id, groupID, projectID string }

func (ch change) resource() resource {
	if cl := ch.cluster; cl != nil {
		return resource{"cluster", cl.ID, cl.GroupID, cl.ProjectID}
	}
	return resource{"instance", ch.instance.ID, ch.instance.GroupID, ch.instance.ProjectID}
}

// enqueue records the operation for a change, takes its locks and writes the event.
func (s *Service) enqueue(tx *store.Tx, c Caller, ch change) (string, error) {
	op, err := newOperation(c, ch)
	if err != nil {
		return "", err
	}
	if err := tx.Enqueue(op, append([]string{op.GroupID, op.ResourceID}, ch.lock...)...); err != nil {
		return "", err
	}
	s.plan(c, ch)
	c.effect(store.Effect{ResourceType: op.ResourceType, ResourceID: cmp.Or(ch.shown, op.ResourceID), OperationID: op.ID})
	return op.ID, tx.InsertEvent(newEvent(c, ch, op.ID))
}

func newOperation(c Caller, ch change) (*dbaas.Operation, error) {
	state, err := encode(ch.state)
	if err != nil {
		return nil, err
	}
	r := ch.resource()
	return &dbaas.Operation{
		ID: newID(), Kind: ch.kind, ProjectID: r.projectID,
		ResourceType: r.kind, ResourceID: r.id, GroupID: r.groupID,
		Status: dbaas.OperationRunning, State: state,
		RequestID: c.RequestID, TraceParent: c.TraceParent, Actor: c.UserID,
	}, nil
}

func newEvent(c Caller, ch change, operationID string) *dbaas.Event {
	before, _ := encode(ch.before)
	after, _ := encode(ch.after)
	r, message := ch.resource(), "Accepted "+ch.kind+"."
	if ch.kind == "set_persistence" {
		message = strings.TrimSpace(message + " " + PersistenceLoss(ch.instance.Persistence))
	}
	return &dbaas.Event{
		ProjectID: r.projectID, ResourceType: r.kind, ResourceID: r.id, OperationID: operationID,
		Kind: r.kind + "." + ch.kind + ".accepted", Message: message,
		Actor: c.UserID, RequestID: c.RequestID, SourceAddress: c.SourceAddress, Before: before, After: after,
	}
}

// nudge rings the taskmanager's bell. The row is the truth: a failure costs a moment, so it is only worth a debug line.
func (s *Service) nudge(ctx context.Context, operationIDs ...string) {
	if s.Transport == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), nudgeTimeout)
	defer cancel()
	for _, id := range operationIDs {
		args, _ := encode(Nudge{OperationID: id})
		err := s.Transport.Cast(ctx, &rpc.Envelope{
			ID: newID(), Topic: rpc.TopicTaskmanager, Method: MethodNudge, Version: rpc.ArgsVersion, Args: args, Sender: s.Node,
		})
		if err != nil {
			s.Logger.DebugContext(ctx, "nudge not delivered", "operation", id, "error", err)
		}
	}
}

// nudgeTimeout bounds what an absent broker adds to a request.
const nudgeTimeout = 100 * time.Millisecond

// Await returns the operation once it has ended, or as it stands when atMost is over. It fails when ctx ends before.
func (s *Service) Await(ctx context.Context, operationID string, atMost time.Duration) (*dbaas.Operation, error) {
	over := time.NewTimer(atMost)
	defer over.Stop()
	tick := time.NewTicker(awaitTick)
	defer tick.Stop()
	for {
		op, err := s.Store.Operation(ctx, operationID)
		if err != nil || op.Status.Ended() {
			return op, err
		}
		select {
		case <-over.C:
			return op, nil
		case <-ctx.Done():
			return op, ctx.Err()
		case <-tick.C:
		}
	}
}

const awaitTick = 20 * time.Millisecond

// newID makes an id whose order is that of creation (UUID version 7).
func newID() string { return uuid.Must(uuid.NewV7()).String() }
