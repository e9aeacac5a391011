package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/grove-dbaas/grove/internal/config"
	"github.com/grove-dbaas/grove/internal/telemetry/metric"
)

// The sample is a configuration that groved takes.
func TestSampleConfiguration(t *testing.T) {
	for _, name := range []string{"GROVE_DB_PASSWORD", "GROVE_RPC_PASSWORD", "GROVE_KEYSTONE_PASSWORD"} {
		t.Setenv(name, "secret")
	}
	c, err := config.Load("../../deploy/grove.yaml", config.ProductionDefaults())
	if err != nil {
		t.Fatal(err)
	}
	if c.Cloud.Provider != "openstack" || c.API.Auth != "keystone" || !strings.Contains(c.Database.URL, "secret") {
		t.Errorf("it is read as %+v", c)
	}
}

// The units are such as systemd takes.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze")
	}
	units, err := filepath.Glob("../../deploy/systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("%v, %v", units, err)
	}
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, units...)...).CombinedOutput()
	for line := range bytes.Lines(out) {
		if !bytes.Contains(line, []byte("is not executable")) { // the programs are not installed here
			t.Errorf("%s", line)
		}
	}
	if _, failed := err.(*exec.ExitError); err != nil && !failed {
		t.Error(err)
	}
}

// Alerts and dashboards ask for metrics that there are, and no metric is left out of both.
func TestMetricsThatAreWatched(t *testing.T) {
	c := config.Defaults()
	c.Data = t.TempDir()
	if err := ensureMasterKey(masterKeyPath(c)); err != nil {
		t.Fatal(err)
	}
	h, err := newHouse(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer h.store.Close()
	if err := h.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.taskmanager(nil); err != nil {
		t.Fatal(err)
	}
	metric.NewHTTP(h.metrics)
	h.config.RPC.URL = "amqps://broker"
	h.measureCertificates(nil)
	there := map[string]bool{}
	descriptions := make(chan *prometheus.Desc)
	go func() { h.metrics.Describe(descriptions); close(descriptions) }()
	for d := range descriptions {
		for _, name := range metricName.FindAllString(d.String(), 1) {
			there[name] = true
		}
	}
	asked := map[string]bool{}
	for _, file := range []string{"../../deploy/prometheus/grove.rules.yml", "../../deploy/grafana/grove.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range metricName.FindAllString(string(text), -1) {
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				if whole := strings.TrimSuffix(name, suffix); there[whole] {
					name = whole
				}
			}
			if asked[name] = true; !there[name] {
				t.Errorf("%s asks for %s, which nobody gives", file, name)
			}
		}
	}
	delete(there, "grove_heartbeat_batch_size") // of use to who tunes the taskmanager
	delete(there, "grove_rpc_duration_seconds")
	for name := range there {
		if !asked[name] {
			t.Errorf("nobody looks at %s", name)
		}
	}
}

var metricName = regexp.MustCompile(`\bgrove_[a-z_]+`)

// Every part is tried, and a failed one is told of.
func TestCheckTellsWhatFails(t *testing.T) {
	c := config.ProductionDefaults()
	c.Data = t.TempDir()
	if err := ensureMasterKey(masterKeyPath(c)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := check(t.Context(), c, &out); err == nil || !strings.Contains(out.String(), "groved migrate up") {
		t.Errorf("a database without a schema: %v\n%s", err, &out)
	}
	h, err := newHouse(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.store.Close(); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if err := check(t.Context(), c, &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	c.API.Auth, c.Keystone = "keystone", config.Keystone{AuthURL: "http://127.0.0.1:1/v3", Username: "grove", Password: "hidden", Project: "service"}
	c.API.PolicyFile = filepath.Join(c.Data, "no-policy.yaml")
	out.Reset()
	err = check(t.Context(), c, &out)
	if err == nil || !strings.Contains(err.Error(), "2 parts") || strings.Contains(out.String(), "hidden") {
		t.Errorf("%v\n%s", err, &out)
	}
	for _, part := range []string{"policy             failed", "identity service   failed", "keys and database  ok"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("there is no %q in\n%s", part, &out)
		}
	}
}
