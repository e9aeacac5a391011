package redis

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// What a tenant reads while the database is alive and cannot serve.
const (
	causeLoading    = "The database is loading its data."
	causeConverting = "The database is writing its data to an append-only file before it serves."
	causeSilent     = "The database runs but does not answer in time."
	causeBusy       = "A script or function of a client has been running for long and keeps everybody else waiting."
	causeDisk       = "The database refuses writes because it cannot write to its volume, which is probably full: resize the volume."
	causeClients    = "All connections that maxclients allows are in use."
	causeDamaged    = "The append-only file is damaged in the middle. Repairing it would cut off what follows, so that nobody does so unasked: restore a backup, or ask the operator."
	causeDismissed  = "The member has left its cluster and waits to be removed."
	causeStarting   = "The database is starting."
)

// Status implements [datastore.Guest]. It also opens the port of a database that has come so far.
func (g *Guest) Status(ctx context.Context) datastore.Status {
	r, err := g.read()
	switch {
	case err != nil:
		return blocked("What the database should be cannot be read.")
	case r == nil:
		return datastore.Status{Status: dbaas.GuestBuilding, Cause: "The database has not been prepared yet."}
	}
	state, err := g.host.Units.State(ctx, unit)
	switch {
	case err != nil:
		return blocked("The database's process cannot be seen.")
	case state.Running:
		return g.look(ctx, r)
	case state.Stopped:
		return datastore.Status{Status: dbaas.GuestShutdown, Cause: "The database is stopped."}
	case state.Started == "":
		return datastore.Status{Status: dbaas.GuestShutdown, Cause: "The database has not been started yet."}
	}
	if reason := refusedConfiguration(state.Output); reason != "" {
		return datastore.Status{Status: dbaas.GuestFailed, Cause: "The server refuses its configuration: " + reason}
	}
	if strings.Contains(state.Output, badFormat) {
		return datastore.Status{Status: dbaas.GuestCrashed, Cause: causeDamaged}
	}
	return datastore.Status{Status: dbaas.GuestCrashed, Cause: "The database's process has ended unasked."}
}

func blocked(cause string) datastore.Status {
	return datastore.Status{Status: dbaas.GuestBlocked, Cause: cause}
}

// look asks the running server.
func (g *Guest) look(ctx context.Context, r *record) datastore.Status {
	c, err := g.connect(ctx, r)
	if err != nil {
		return blocked(whySilent(err))
	}
	i, err := c.info(ctx)
	if err != nil {
		s := blocked(whySilent(err))
		s.Silent = s.Cause == causeSilent && ctx.Err() != nil
		return s
	}
	s := datastore.Status{Status: dbaas.GuestHealthy, Metrics: metrics(i), Observed: observed(i, g.driftNow(ctx, r, c, i), r.certificate())}
	noteExpiry(s.Metrics, r.certificate())
	if i["tcp_port"] == "0" || i["loading"] == "1" || i["async_loading"] == "1" {
		cause, err := g.open(ctx, r, c)
		if err != nil {
			cause = causeStarting
			if dbaas.ErrorCode(err) != dbaas.Internal {
				cause = dbaas.ErrorMessage(err)
			}
		}
		s.Cause = cause
	}
	if s.Cause == "" && i["role"] == "slave" && i["master_sync_in_progress"] == "1" {
		s.Cause = causeCopying
	}
	if s.Cause == "" {
		_, _ = g.persist(ctx, r, c, i) // likewise
	}
	_ = g.heal(ctx, c, i)    // the next look goes on with it
	_ = g.bind(ctx, r, c, i) // likewise
	if s.Cause == "" && (i["aof_last_write_status"] == "err" || persistenceOf(r.Desired) == dbaas.PersistenceRDB && i["rdb_last_bgsave_status"] == "err") {
		s.Cause = causeDisk
	}
	if s.Cause != "" {
		s.Status = dbaas.GuestBlocked
	}
	return s
}

func whySilent(err error) string {
	switch {
	case hasPrefix(err, "BUSY"):
		return causeBusy
	case hasPrefix(err, "LOADING"):
		return causeLoading
	case hasPrefix(err, "ERR max number of clients"):
		return causeClients
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return causeStarting
	}
	return causeSilent
}

// observation is what the control plane keeps of a database; it changes rarely.
type observation struct {
	Server      string                 `json:"server"` // "redis" or "valkey"
	Version     string                 `json:"version"`
	Role        string                 `json:"role"`
	RunID       string                 `json:"run_id"`
	Replication datastore.Replication  `json:"replication"`
	Drift       []dbaas.Drift          `json:"drift,omitempty"`
	Certificate *datastore.Certificate `json:"certificate,omitempty"`
}

func observed(i info, drift []dbaas.Drift, certificate *datastore.Certificate) json.RawMessage {
	o := observation{Server: "redis", Version: i["redis_version"], Role: i["role"], RunID: i["run_id"], Replication: replication(i), Drift: drift, Certificate: certificate}
	if v := i["valkey_version"]; v != "" {
		o.Server, o.Version = "valkey", v
	}
	b, err := json.Marshal(o)
	if err != nil {
		return nil
	}
	return b
}

// metricNames are the numbers of INFO that go with every sign of life.
func metricNames() []string {
	return strings.Fields("uptime_in_seconds connected_clients maxclients blocked_clients used_memory used_memory_rss " +
		"used_memory_peak maxmemory mem_fragmentation_ratio total_connections_received rejected_connections " +
		"total_commands_processed instantaneous_ops_per_sec total_net_input_bytes total_net_output_bytes " +
		"expired_keys evicted_keys evicted_clients keyspace_hits keyspace_misses total_error_replies latest_fork_usec " +
		"aof_current_size aof_base_size aof_delayed_fsync aof_rewrite_in_progress loading_loaded_perc " +
		"used_cpu_sys used_cpu_user connected_slaves master_repl_offset slave_repl_offset master_last_io_seconds_ago " +
		"master_link_down_since_seconds sync_full sync_partial_ok sync_partial_err repl_backlog_size")
}

func metrics(i info) map[string]float64 {
	m := map[string]float64{}
	for _, name := range metricNames() {
		if f, err := strconv.ParseFloat(i[name], 64); err == nil {
			m[name] = f
		}
	}
	m["keys"] = countKeys(i)
	if offset, ok := m["master_repl_offset"]; ok {
		m[datastore.MetricOffset], m[datastore.MetricHistory] = offset, datastore.HistoryNumber(i["master_replid"])
	}
	if lags, offsets := replicas(i); len(lags) > 0 {
		m["replica_lag_seconds"] = float64(slices.Max(lags))
		m["replica_lag_bytes"] = m["master_repl_offset"] - float64(slices.Min(offsets))
	}
	return m
}

// countKeys sums "db0:keys=3,expires=0,avg_ttl=0" over all databases.
func countKeys(i info) float64 {
	var sum float64
	for name, value := range i {
		if number, ok := strings.CutPrefix(name, "db"); !ok || strings.Trim(number, "0123456789") != "" {
			continue
		}
		keys, _, _ := strings.Cut(strings.TrimPrefix(value, "keys="), ",")
		if n, err := strconv.ParseFloat(keys, 64); err == nil {
			sum += n
		}
	}
	return sum
}
