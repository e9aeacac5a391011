// Package telemetry carries what ties the log lines of one request together, through every room: the request id and
// the W3C trace parent in the context, and loggers that write both. Metrics are in its sub-package metric, so that the
// guest agent does not link them.
package telemetry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"strings"

	"github.com/google/uuid"
)

type contextKey int

const (
	requestIDKey contextKey = iota
	traceParentKey
)

// NewRequestID makes a request id in OpenStack's form: "req-" and a random UUID.
func NewRequestID() string { return "req-" + uuid.NewString() }

// ValidRequestID tells whether id has OpenStack's form; others are not taken over from callers.
func ValidRequestID(id string) bool {
	rest, ok := strings.CutPrefix(id, "req-")
	return ok && len(rest) == 36 && uuid.Validate(rest) == nil
}

// WithRequestID puts a request id into the context.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey, id)
}

// RequestID gives the context's request id, "" when it has none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey).(string)
	return id
}

// WithTraceParent puts a W3C trace parent into the context; one that is malformed is dropped.
func WithTraceParent(ctx context.Context, traceParent string) context.Context {
	if !ValidTraceParent(traceParent) {
		return ctx
	}
	return context.WithValue(ctx, traceParentKey, traceParent)
}

// TraceParent gives the context's W3C trace parent, "" when it has none.
func TraceParent(ctx context.Context) string {
	tp, _ := ctx.Value(traceParentKey).(string)
	return tp
}

// traceParentForm is version-traceid-spanid-flags; version ff is forbidden by the standard.
var traceParentForm = regexp.MustCompile(`^([0-9a-e][0-9a-f]|f[0-9a-e])-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// ValidTraceParent tells whether s is a W3C trace parent.
func ValidTraceParent(s string) bool {
	return len(s) == 55 && traceParentForm.MatchString(s) && !strings.Contains(s, noTrace) && !strings.Contains(s, noSpan)
}

const (
	noTrace = "-00000000000000000000000000000000-"
	noSpan  = "-0000000000000000-"
)

// ContinueTrace gives the trace parent for work done on behalf of one that was received: the same trace with a new
// span. A missing or malformed parent begins a new, unsampled trace.
func ContinueTrace(received string) string {
	if !ValidTraceParent(received) {
		return "00-" + randomHex(16) + "-" + randomHex(8) + "-00"
	}
	return received[:36] + randomHex(8) + received[52:]
}

// TraceID is the trace's part of a trace parent, "" when it is malformed.
func TraceID(traceParent string) string {
	if !ValidTraceParent(traceParent) {
		return ""
	}
	return traceParent[3:35]
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // documented never to fail
	return hex.EncodeToString(b)
}
