// Package rpc is the seam between the control plane and its guests: small JSON messages on named topics.
//
// The row in the database is the truth and a message is a doorbell: nothing may depend on a cast that arrives, only
// come sooner because of it.
package rpc

import (
	"context"
	"encoding/json"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// The topics. A guest's own topic is [GuestTopic] of its queue name.
const (
	TopicTaskmanager = "taskmanager" // one of many consumers gets each message; survives a broker restart
	TopicReports     = "reports"     // changes of status from guests; as durable as TopicTaskmanager
	TopicHeartbeats  = "heartbeats"  // signs of life; capped, the oldest are dropped
)

// GuestTopic is the topic that the guest with this queue name serves. The name ends in 128 random bits.
func GuestTopic(queue string) string { return "guest." + queue }

// Envelope is one message. Unknown fields are ignored, so that neighbours may be a release apart.
type Envelope struct {
	ID          string          `json:"id"` // a repeated id is the same message delivered again
	Topic       string          `json:"topic"`
	Method      string          `json:"method"`
	Version     int             `json:"version"` // of the method's arguments
	Args        json.RawMessage `json:"args,omitempty"`
	RequestID   string          `json:"request_id,omitempty"`
	TraceParent string          `json:"trace_parent,omitempty"`
	Deadline    dbaas.Instant   `json:"deadline,omitempty"` // after it the message is not worth handling
	Sender      string          `json:"sender,omitempty"`   // guest id, or the control plane's node name
	BootID      string          `json:"boot_id,omitempty"`  // of the sending process; Sequence counts within it
	Epoch       int64           `json:"epoch,omitempty"`    // of the group; a guest refuses lower than the highest seen
	Sequence    int64           `json:"sequence,omitempty"`
	MAC         []byte          `json:"mac,omitempty"` // HMAC-SHA256 by the guest's key; see Sign
}

// Handler answers one message. Its result is encoded as JSON; an error crosses as a [dbaas.Error]'s code and message.
// A handler may be called again with the same message and must bear it. For a cast the result is dropped; the message
// is acknowledged when the handler returns nil or a [dbaas.Error], and delivered again later for any other error
// (at most a bounded number of times, then it is set aside for operators).
type Handler func(ctx context.Context, m *Envelope) (any, error)

// Transport carries envelopes. All methods are safe for concurrent use.
type Transport interface {
	// Call sends m and waits for its answer, at most until ctx ends; a ctx without a deadline is refused. With nobody
	// serving the topic, or the broker away, it ends with dbaas.Unavailable, at the latest at the deadline. result may
	// be nil.
	Call(ctx context.Context, m *Envelope, result any) error
	// Cast hands m over, to be delivered at least once to one server of its topic. It returns nil once the transport
	// has taken charge (the broker confirmed); dbaas.Unavailable when that did not happen before ctx ended, and at once
	// while the broker is known to be away.
	Cast(ctx context.Context, m *Envelope) error
	// Serve handles the messages of a topic, at most concurrency at a time, until ctx ends; it outlives interruptions
	// of the broker. It returns nil when ctx ended, or the transport was closed, and all handlers have returned. It
	// fails at once only for a topic that this side may never serve.
	Serve(ctx context.Context, topic string, concurrency int, h Handler) error
	// Close ends all links. Calls under way fail with dbaas.Unavailable.
	Close() error
}

// Account is a guest's login at the broker: it may read its own queue, publish reports under its own id and nothing
// else.
type Account struct {
	GuestID  string
	Queue    string
	Password string
}

// Accounts manages the guests' logins. The in-process transport has none: its Accounts only remembers.
type Accounts interface {
	// Ensure makes the account and its queue, or sets its password and permissions anew.
	Ensure(ctx context.Context, a Account) error
	// Delete removes the account, its connections and its queue; one that is gone is success.
	Delete(ctx context.Context, guestID, queue string) error
	// List gives the guest ids that have an account and its queue.
	List(ctx context.Context) ([]string, error)
}

// DefaultCallTimeout is the deadline of calls to a guest that a user waits for (design: 5 s, then 503).
const DefaultCallTimeout = 5 * time.Second
