// Package metric names what Grove counts. Every role makes one [Registry] and the groups of metrics that it needs;
// nothing is registered globally. The methods of a nil group do nothing, so that a caller without metrics needs no
// special case.
package metric

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Registry holds a process's metrics.
type Registry struct{ *prometheus.Registry }

// NewRegistry makes a registry with the metrics of the Go runtime and of the process.
func NewRegistry() *Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Registry{r}
}

// Handler serves the registry in Prometheus' format.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.Registry, promhttp.HandlerOpts{Registry: r.Registry})
}

// Gauge registers a gauge whose value is asked for at each scrape: the depth of a queue, the age of the oldest row.
func (r *Registry) Gauge(name, help string, value func() float64) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

func (r *Registry) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	r.MustRegister(c)
	return c
}

func (r *Registry) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	r.MustRegister(h)
	return h
}

// requestBuckets suit what users wait for: from half a millisecond to the 10 s that the API waits for an operation.
func requestBuckets() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

// workBuckets suit steps and operations: from 10 ms to hours.
func workBuckets() []float64 {
	return []float64{.01, .05, .1, .5, 1, 2, 5, 10, 30, 60, 300, 900, 1800, 3600, 14400}
}

// HTTP counts requests.
type HTTP struct {
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

// NewHTTP registers the metrics of an HTTP server.
func NewHTTP(r *Registry) *HTTP {
	m := &HTTP{
		duration: r.histogram("grove_http_request_duration_seconds", "Requests by route template, method and status.",
			requestBuckets(), "route", "method", "status"),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "grove_http_requests_in_flight", Help: "Requests being answered."}),
	}
	r.MustRegister(m.inFlight)
	return m
}

// Begin counts a request that is being answered; the function it gives ends that. Route is the template, never the
// path: "" stands for a path that has no route.
func (m *HTTP) Begin() (end func(route, method string, status int, took time.Duration)) {
	if m == nil {
		return func(string, string, int, time.Duration) {}
	}
	m.inFlight.Inc()
	return func(route, method string, status int, took time.Duration) {
		m.inFlight.Dec()
		m.duration.WithLabelValues(route, knownMethod(method), strconv.Itoa(status)).Observe(took.Seconds())
	}
}

// knownMethod keeps invented methods from becoming labels.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions:
		return method
	default:
		return "other"
	}
}

// Operations counts what becomes of durable operations.
type Operations struct {
	transitions *prometheus.CounterVec
	steps       *prometheus.HistogramVec
	total       *prometheus.HistogramVec
	lost        prometheus.Counter
	failovers   *prometheus.HistogramVec
	protection  *prometheus.CounterVec
	exhausted   *prometheus.CounterVec
}

// NewOperations registers the metrics of the engine.
func NewOperations(r *Registry) *Operations {
	m := &Operations{
		transitions: r.counter("grove_operation_transitions_total", "Operations by kind and the status that they came to.", "kind", "status"),
		steps: r.histogram("grove_operation_step_duration_seconds", "Runs of steps by kind, step and outcome (done, wait, retry, failed).",
			workBuckets(), "kind", "step", "outcome"),
		total: r.histogram("grove_operation_duration_seconds", "From acceptance to the end, by kind and final status.",
			workBuckets(), "kind", "status"),
		lost: prometheus.NewCounter(prometheus.CounterOpts{Name: "grove_engine_leases_lost_total",
			Help: "Runs whose result was refused because another process had taken the operation over."}),
	}
	r.MustRegister(m.lost)
	m.failovers = r.histogram("grove_failover_duration_seconds",
		"From the detection of a failure until the instance's address leads to who takes writes, by manner (automatic, planned, drill, revived).",
		workBuckets(), "manner")
	m.exhausted = r.counter("grove_cloud_exhausted_total", "Steps that failed because the cloud has no room left: a quota, a network, its machines.", "step")
	m.protection = r.counter("grove_instance_protection_changes_total", "Hot standbys that became protected or degraded.", "state")
	return m
}

// Exhausted counts a step that the cloud had no room for.
func (m *Operations) Exhausted(step string) {
	if m != nil {
		m.exhausted.WithLabelValues(step).Inc()
	}
}

// Failover counts a failover, took after its reason was seen.
func (m *Operations) Failover(manner string, took time.Duration) {
	if m != nil {
		m.failovers.WithLabelValues(manner).Observe(took.Seconds())
	}
}

// Protection counts a hot standby that became protected or degraded.
func (m *Operations) Protection(state string) {
	if m != nil {
		m.protection.WithLabelValues(state).Inc()
	}
}

// Transition counts an operation that came to a status.
func (m *Operations) Transition(kind, status string) {
	if m != nil {
		m.transitions.WithLabelValues(kind, status).Inc()
	}
}

// Step counts one run of a step.
func (m *Operations) Step(kind, step, outcome string, took time.Duration) {
	if m != nil {
		m.steps.WithLabelValues(kind, step, outcome).Observe(took.Seconds())
	}
}

// Ended counts an operation that ended, took after it was accepted.
func (m *Operations) Ended(kind, status string, took time.Duration) {
	if m != nil {
		m.total.WithLabelValues(kind, status).Observe(took.Seconds())
	}
}

// LeaseLost counts a run whose lease another process had taken.
func (m *Operations) LeaseLost() {
	if m != nil {
		m.lost.Inc()
	}
}

// RPC counts messages.
type RPC struct {
	messages *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

// NewRPC registers the metrics of a transport.
func NewRPC(r *Registry) *RPC {
	return &RPC{
		messages: r.counter("grove_rpc_messages_total", "Messages by direction (call, cast, serve), method and error code.", "direction", "method", "code"),
		duration: r.histogram("grove_rpc_duration_seconds", "Time of calls, casts and handlers.", requestBuckets(), "direction", "method"),
	}
}

// Message counts a message; code is "" for success.
func (m *RPC) Message(direction, method, code string, took time.Duration) {
	if m == nil {
		return
	}
	if code == "" {
		code = "ok"
	}
	m.messages.WithLabelValues(direction, method, code).Inc()
	m.duration.WithLabelValues(direction, method).Observe(took.Seconds())
}

// Reports counts what guests say.
type Reports struct {
	heartbeats *prometheus.CounterVec
	reports    *prometheus.CounterVec
	batch      prometheus.Histogram
}

// NewReports registers the metrics of the receiver of guest reports.
func NewReports(r *Registry) *Reports {
	m := &Reports{
		heartbeats: r.counter("grove_heartbeats_total", "Heartbeats by outcome (stored, stale, refused).", "outcome"),
		reports:    r.counter("grove_guest_reports_total", "Reports of a guest's status by outcome (changed, unchanged, refused).", "outcome"),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "grove_heartbeat_batch_size",
			Help: "Heartbeats per write.", Buckets: []float64{1, 2, 5, 10, 50, 100, 500, 1000}}),
	}
	r.MustRegister(m.batch)
	return m
}

// Heartbeats counts n heartbeats that were stored in one write, or that came to another outcome.
func (m *Reports) Heartbeats(outcome string, n int) {
	if m == nil {
		return
	}
	m.heartbeats.WithLabelValues(outcome).Add(float64(n))
	if outcome == "stored" {
		m.batch.Observe(float64(n))
	}
}

// Report counts a report of a guest's status.
func (m *Reports) Report(outcome string) {
	if m != nil {
		m.reports.WithLabelValues(outcome).Inc()
	}
}

// Tidiness counts where the cloud and the rows disagree.
type Tidiness struct {
	findings  *prometheus.GaugeVec
	passes    *prometheus.HistogramVec
	deletions *prometheus.CounterVec
}

// NewTidiness registers the metrics of the janitor.
func NewTidiness(r *Registry) *Tidiness {
	m := &Tidiness{
		findings: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "grove_janitor_findings",
			Help: "What the cloud has and no row accounts for (orphan), and what a row says and the cloud does not have (missing), as this process saw it last."},
			[]string{"problem", "kind"}),
		passes: r.histogram("grove_janitor_pass_duration_seconds", "Comparisons of the cloud with the rows by outcome (done, failed).",
			workBuckets(), "outcome"),
		deletions: r.counter("grove_janitor_deletions_total", "Orphans that were to be deleted, by kind and outcome (done, failed).", "kind", "outcome"),
	}
	r.MustRegister(m.findings)
	return m
}

func outcome(done bool) string {
	if done {
		return "done"
	}
	return "failed"
}

// Pass counts one comparison.
func (m *Tidiness) Pass(done bool, took time.Duration) {
	if m != nil {
		m.passes.WithLabelValues(outcome(done)).Observe(took.Seconds())
	}
}

// Findings sets how many there are by problem and kind.
func (m *Tidiness) Findings(counts map[[2]string]int) {
	if m == nil {
		return
	}
	m.findings.Reset()
	for by, n := range counts {
		m.findings.WithLabelValues(by[0], by[1]).Set(float64(n))
	}
}

// Deletion counts an orphan that was to be deleted.
func (m *Tidiness) Deletion(kind string, done bool) {
	if m != nil {
		m.deletions.WithLabelValues(kind, outcome(done)).Inc()
	}
}
