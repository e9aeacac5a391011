package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// ArgsVersion is the Version of the arguments that this release sends. It rises only when an older neighbour would
// misunderstand; a new optional field is no reason, for unknown fields are ignored.
const ArgsVersion = 1

// OldestArgsVersion is the oldest Version that this release still understands.
const OldestArgsVersion = 1

// MaxMessage is the size of the largest message that a transport takes, in bytes of JSON.
const MaxMessage = 8 << 20

// ClockSkew is by how much the clocks of two machines may differ before a deadline is read wrongly. A message is
// dropped as late only when its deadline passed longer ago than this.
const ClockSkew = 2 * time.Minute

const guestTopicPrefix = "guest."

// NewEnvelope makes a message with an id of its own. args may be nil.
func NewEnvelope(topic, method string, args any) (*Envelope, error) {
	m := &Envelope{ID: uuid.NewString(), Topic: topic, Method: method, Version: ArgsVersion}
	if args == nil {
		return m, nil
	}
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("encode arguments of %s: %w", method, err)
	}
	m.Args = raw
	return m, nil
}

// Encode gives the message as it travels, or refuses one that no receiver would take.
func Encode(m *Envelope) ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode message %s: %w", m.Method, err)
	}
	if len(body) > MaxMessage {
		return nil, dbaas.Errorf(dbaas.BadRequest, "The message %s has %d bytes; at most %d are allowed.", m.Method, len(body), MaxMessage)
	}
	return body, nil
}

// Decode reads a message as it travelled on topic. Any error means that no delivery of these bytes will ever succeed.
func Decode(topic string, body []byte) (*Envelope, error) {
	if len(body) > MaxMessage {
		return nil, fmt.Errorf("message of %d bytes: at most %d are allowed", len(body), MaxMessage)
	}
	m := new(Envelope)
	if err := json.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("decode message: %w", err)
	}
	if m.Topic != topic {
		return nil, fmt.Errorf("message for the topic %q came on %q", m.Topic, topic)
	}
	return m, m.validate()
}

func (m *Envelope) validate() error {
	if m.ID == "" || m.Method == "" {
		return dbaas.Errorf(dbaas.BadRequest, "A message needs an id and a method.")
	}
	return CheckTopic(m.Topic)
}

// Late tells whether nobody can want the message any more.
func (m *Envelope) Late(now time.Time) bool {
	return !m.Deadline.IsZero() && now.After(m.Deadline.Time().Add(ClockSkew))
}

// CheckTopic refuses a topic that no transport carries.
func CheckTopic(topic string) error {
	switch topic {
	case TopicTaskmanager, TopicReports, TopicHeartbeats:
		return nil
	}
	if queue, ok := strings.CutPrefix(topic, guestTopicPrefix); ok && queue != "" {
		return nil
	}
	return dbaas.Errorf(dbaas.BadRequest, "There is no topic %q.", topic)
}

// CheckGuestTopic refuses what a guest may not do: send elsewhere than to the reports and heartbeats.
func CheckGuestTopic(topic string) error {
	if topic == TopicReports || topic == TopicHeartbeats {
		return nil
	}
	return dbaas.Errorf(dbaas.Forbidden, "A guest may not send to the topic %q.", topic)
}

// RequireDeadline refuses a context that could wait for ever.
func RequireDeadline(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		return dbaas.Errorf(dbaas.BadRequest, "A call needs a context with a deadline.")
	}
	return nil
}
