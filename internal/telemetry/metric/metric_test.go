package metric_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/telemetry/metric"
)

func TestScrape(t *testing.T) {
	r := metric.NewRegistry()
	end := metric.NewHTTP(r).Begin()
	end("/v1.0/{project}/instances", http.MethodGet, 200, 3*time.Millisecond)
	metric.NewHTTP(metric.NewRegistry()).Begin() // a second registry does not collide with the first
	operations := metric.NewOperations(r)
	operations.Transition("create_instance", "succeeded")
	operations.Step("create_instance", "ensureServer", "done", time.Second)
	operations.Ended("create_instance", "succeeded", time.Minute)
	operations.LeaseLost()
	metric.NewRPC(r).Message("call", "status", "", time.Millisecond)
	reports := metric.NewReports(r)
	reports.Heartbeats("stored", 7)
	reports.Report("changed")
	r.Gauge("grove_engine_due_operations", "Operations that wait for a worker.", func() float64 { return 42 })

	answer := httptest.NewRecorder()
	r.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`grove_http_request_duration_seconds_count{method="GET",route="/v1.0/{project}/instances",status="200"} 1`,
		`grove_http_requests_in_flight 0`,
		`grove_operation_transitions_total{kind="create_instance",status="succeeded"} 1`,
		`grove_operation_step_duration_seconds_count{kind="create_instance",outcome="done",step="ensureServer"} 1`,
		`grove_operation_duration_seconds_count{kind="create_instance",status="succeeded"} 1`,
		`grove_engine_leases_lost_total 1`,
		`grove_rpc_messages_total{code="ok",direction="call",method="status"} 1`,
		`grove_heartbeats_total{outcome="stored"} 7`,
		`grove_guest_reports_total{outcome="changed"} 1`,
		`grove_engine_due_operations 42`,
		`go_goroutines`,
	} {
		if !strings.Contains(answer.Body.String(), want) {
			t.Errorf("the scrape lacks %s", want)
		}
	}
}

func TestNilMetricsDoNothing(t *testing.T) {
	var (
		http       *metric.HTTP
		operations *metric.Operations
		rpc        *metric.RPC
		reports    *metric.Reports
	)
	http.Begin()("", "GET", 200, 0)
	operations.Transition("", "")
	operations.Step("", "", "", 0)
	operations.Ended("", "", 0)
	operations.LeaseLost()
	rpc.Message("", "", "", 0)
	reports.Heartbeats("stored", 1)
	reports.Report("")
}

func TestInventedMethodsAreOneLabel(t *testing.T) {
	r := metric.NewRegistry()
	m := metric.NewHTTP(r)
	for _, method := range []string{"BREW", "WHEN"} {
		m.Begin()("", method, 404, 0)
	}
	answer := httptest.NewRecorder()
	r.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(answer.Body.String(), `method="other",route="",status="404"} 2`) {
		t.Error("invented methods are not counted under one label")
	}
}
