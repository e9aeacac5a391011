package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/internal/telemetry"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestRequestIDForm(t *testing.T) {
	if id := telemetry.NewRequestID(); !telemetry.ValidRequestID(id) {
		t.Errorf("a new request id %q is not of the form", id)
	}
	for _, id := range []string{"", "req-", "abc", "req-1", "req-" + strings.Repeat("x", 36), "req-{5d0f3c2e-0000-4000-8000-000000000000}"} {
		if telemetry.ValidRequestID(id) {
			t.Errorf("%q passes for a request id", id)
		}
	}
}

func TestTraceIsContinued(t *testing.T) {
	child := telemetry.ContinueTrace(parent)
	if !telemetry.ValidTraceParent(child) || telemetry.TraceID(child) != telemetry.TraceID(parent) || child == parent {
		t.Errorf("%s does not continue %s", child, parent)
	}
	if !strings.HasSuffix(child, "-01") {
		t.Errorf("%s lost the sampled flag", child)
	}
	for _, bad := range []string{"", "00", strings.ToUpper(parent), "ff" + parent[2:], parent + "-x",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"} {
		if telemetry.ValidTraceParent(bad) {
			t.Errorf("%q passes for a trace parent", bad)
		}
		if fresh := telemetry.ContinueTrace(bad); !telemetry.ValidTraceParent(fresh) {
			t.Errorf("after %q the new trace parent is %q", bad, fresh)
		}
	}
}

func TestLinesCarryRequestAndTrace(t *testing.T) {
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, telemetry.LogConfig{Level: "info"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := telemetry.WithTraceParent(telemetry.WithRequestID(context.Background(), "req-1"), parent)
	log.With("role", "api").DebugContext(ctx, "hidden")
	log.With("role", "api").InfoContext(ctx, "shown")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	for key, want := range map[string]string{"msg": "shown", "role": "api", "request_id": "req-1", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"} {
		if line[key] != want {
			t.Errorf("%s is %v, want %s", key, line[key], want)
		}
	}
}

func TestLoggerRefusesNonsense(t *testing.T) {
	for _, c := range []telemetry.LogConfig{{Level: "loud"}, {Format: "xml"}} {
		if _, err := telemetry.NewLogger(&bytes.Buffer{}, c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}
