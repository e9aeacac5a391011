package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/telemetry"
)

// ErrNoReply is what a [Handler] returns for a message that deserves no answer, such as one seen before: it is
// acknowledged, and a caller, should there be one, is left to its deadline.
var ErrNoReply = errors.New("no reply")

// Reply is the answer to a call as it travels.
type Reply struct {
	ID     string          `json:"id"` // of the message that it answers
	Result json.RawMessage `json:"result,omitempty"`
	Error  *dbaas.Error    `json:"error,omitempty"`
}

// Respond runs h on m and gives the answer to send, nil when there is none. The error is for the log; when it is
// [Retryable] a cast wants to be delivered again. A handler that panics has failed. The handler's context carries the
// message's request id and trace parent.
func Respond(ctx context.Context, h Handler, m *Envelope) (*Reply, error) {
	result, err := runHandler(ctx, h, m)
	if errors.Is(err, ErrNoReply) {
		return nil, nil
	}
	if err != nil {
		return &Reply{ID: m.ID, Error: dbaas.Errorf(dbaas.ErrorCode(err), "%s", dbaas.ErrorMessage(err))}, err
	}
	if result == nil {
		return &Reply{ID: m.ID}, nil
	}
	raw, err := json.Marshal(result)
	if err != nil {
		err = dbaas.WrapError(err, dbaas.Internal, "The result of %s cannot be sent.", m.Method)
		return &Reply{ID: m.ID, Error: dbaas.Errorf(dbaas.Internal, "%s", dbaas.ErrorMessage(err))}, err
	}
	return &Reply{ID: m.ID, Result: raw}, nil
}

func runHandler(ctx context.Context, h Handler, m *Envelope) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("handler of %s panicked: %v\n%s", m.Method, p, debug.Stack())
		}
	}()
	if m.RequestID != "" {
		ctx = telemetry.WithRequestID(ctx, m.RequestID)
	}
	return h(telemetry.WithTraceParent(ctx, m.TraceParent), m)
}

// Retryable tells whether a cast whose handler returned err should be delivered again: a [dbaas.Error] is an answer,
// anything else is an accident.
func Retryable(err error) bool {
	var answer *dbaas.Error
	return err != nil && !errors.As(err, &answer)
}

// Decode gives the caller its result, which may be nil, or the error that crossed.
func (r *Reply) Decode(result any) error {
	if r.Error != nil {
		return r.Error
	}
	if result == nil || len(r.Result) == 0 {
		return nil
	}
	if err := json.Unmarshal(r.Result, result); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}
