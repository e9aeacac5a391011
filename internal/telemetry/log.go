package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
)

// LogConfig says how a logger writes.
type LogConfig struct {
	Format string // "json" (also "") or "text"
	Level  string // "debug", "info" (also ""), "warn" or "error"
	// Attrs are written with every line: the role, the node.
	Attrs []slog.Attr
}

// NewLogger makes a logger whose lines carry the request id and the trace id of the context that they are written in.
func NewLogger(w io.Writer, c LogConfig) (*slog.Logger, error) {
	var level slog.Level
	if c.Level != "" {
		if err := level.UnmarshalText([]byte(c.Level)); err != nil {
			return nil, fmt.Errorf("log level %q: it must be debug, info, warn or error", c.Level)
		}
	}
	var handler slog.Handler
	switch c.Format {
	case "", "json":
		handler = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	case "text":
		handler = slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	default:
		return nil, fmt.Errorf("log format %q: it must be json or text", c.Format)
	}
	return slog.New(NewHandler(handler.WithAttrs(c.Attrs))), nil
}

// NewHandler wraps a handler so that each record says which request and trace it belongs to.
func NewHandler(next slog.Handler) slog.Handler { return contextHandler{next} }

type contextHandler struct{ slog.Handler }

// Handle adds the context's ids to the record.
func (h contextHandler) Handle(ctx context.Context, r slog.Record) error {
	if id := RequestID(ctx); id != "" {
		r.AddAttrs(slog.String("request_id", id))
	}
	if id := TraceID(TraceParent(ctx)); id != "" {
		r.AddAttrs(slog.String("trace_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps the wrapping.
func (h contextHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return contextHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup keeps the wrapping.
func (h contextHandler) WithGroup(name string) slog.Handler {
	return contextHandler{h.Handler.WithGroup(name)}
}
