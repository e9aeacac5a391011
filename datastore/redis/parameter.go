package redis

import (
	"math"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/datastore"
)

// slowlogNames says why Valkey's newer names are not taken: two names of one value would contradict each other.
const slowlogNames = "set slowlog-log-slower-than and slowlog-max-len"

const (
	mib  = 1 << 20
	gib  = 1 << 30
	huge = datastore.MaxExact // where the server takes all that 63 or 64 bits hold
)

// row is a parameter with the value that it has where its tenant set nothing; nil is the server's own default, or a
// value by size (see sizing).
type row struct {
	datastore.Parameter
	template any
}

// rows lists every parameter of the versions that we drive. Ranges are the server's own, narrowed where it accepts what
// destroys an instance.
func rows() []row {
	return append([]row{
		enum("acl-pubsub-default", words("allchannels resetchannels"), operator),
		text("aclfile", own, restart),
		integer("acllog-max-len", 0, huge, tenant(128)),
		integer("active-defrag-cycle-max", 1, 99, tenant(25)),
		integer("active-defrag-cycle-min", 1, 99, tenant(1)),
		integer("active-defrag-cycle-us", 0, 100000, operator, only(valkey81)),
		size("active-defrag-ignore-bytes", 1, huge, tenant(100*mib)),
		integer("active-defrag-max-scan-fields", 1, huge, tenant(1000)),
		integer("active-defrag-threshold-lower", 0, 1000, tenant(10)),
		integer("active-defrag-threshold-upper", 0, 1000, tenant(100)),
		integer("active-expire-effort", 1, 10, tenant(1)),
		boolean("activedefrag", tenant(false)), // refused by a server without the bundled jemalloc
		boolean("activerehashing", tenant(true)),
		boolean("aof-load-truncated", operator, template(true)),
		boolean("aof-rewrite-incremental-fsync", operator),
		boolean("aof-timestamp-enabled", operator),
		boolean("aof-use-rdb-preamble", operator, template(true)),
		text("appenddirname", own, restart),
		text("appendfilename", own, restart),
		enum("appendfsync", words("everysec always no"), tenant("everysec"), check(checkAppendFsync)),
		boolean("appendonly", operator, template(true), why("the persistence mode is part of the plan")),
		size("auto-aof-rewrite-min-size", 0, huge, operator),
		integer("auto-aof-rewrite-percentage", 0, math.MaxInt32, operator),
		text("availability-zone", operator, valkeyOnly),
		text("bind", own),
		text("bind-source-addr", own),
		integer("busy-reply-threshold", 0, huge, tenant(5000), alias("lua-time-limit")),
		text("client-output-buffer-limit", tenant(nil), check(checkOutputLimits)), // template by size
		size("client-query-buffer-limit", mib, huge, tenant(gib)),
		boolean("cluster-allow-pubsubshard-when-down", tenant(true)),
		boolean("cluster-allow-reads-when-down", tenant(false)),
		boolean("cluster-allow-replica-migration", operator),
		integer("cluster-announce-bus-port", 0, 65535, own),
		text("cluster-announce-client-ipv4", own, valkeyOnly),
		text("cluster-announce-client-ipv6", own, valkeyOnly),
		text("cluster-announce-hostname", own),
		text("cluster-announce-human-nodename", own, since72),
		text("cluster-announce-ip", own),
		integer("cluster-announce-port", 0, 65535, own),
		integer("cluster-announce-tls-port", 0, 65535, own),
		integer("cluster-blacklist-ttl", 0, huge, operator, valkeyOnly),
		integer("cluster-compatibility-sample-ratio", 0, 100, operator, only(redis80)),
		text("cluster-config-file", own, restart),
		boolean("cluster-enabled", own, restart),
		size("cluster-link-sendbuf-limit", 0, huge, operator),
		integer("cluster-manual-failover-timeout", 1, math.MaxInt32, operator, only(valkey81)),
		integer("cluster-migration-barrier", 0, math.MaxInt32, operator),
		integer("cluster-node-timeout", 2000, 60000, operator),
		integer("cluster-port", 0, 65535, own, restart),
		enum("cluster-preferred-endpoint-type", words("ip hostname unknown-endpoint"), operator),
		boolean("cluster-replica-no-failover", own, alias("cluster-slave-no-failover")),
		integer("cluster-replica-validity-factor", 0, math.MaxInt32, operator, alias("cluster-slave-validity-factor")),
		boolean("cluster-require-full-coverage", tenant(true)),
		boolean("cluster-slot-stats-enabled", tenant(false), valkeyOnly),
		integer("commandlog-execution-slower-than", -1, huge, operator, why(slowlogNames), only(valkey81)),
		integer("commandlog-large-reply-max-len", 0, huge, operator, only(valkey81)),
		integer("commandlog-large-request-max-len", 0, huge, operator, only(valkey81)),
		integer("commandlog-reply-larger-than", -1, huge, operator, only(valkey81)),
		integer("commandlog-request-larger-than", -1, huge, operator, only(valkey81)),
		integer("commandlog-slow-execution-max-len", 0, huge, operator, why(slowlogNames), only(valkey81)),
		integer("databases", 1, 256, tenant(16), restart), // more cost memory even when empty
		text("dbfilename", own),
		text("dir", own),
		boolean("disable-thp", operator, restart, template(true)),
		boolean("dual-channel-replication-enabled", operator, valkeyOnly),
		boolean("dynamic-hz", tenant(true), only(redis70, redis72, redis74, redis80, valkey80)),
		enum("enable-debug-command", words("no yes local"), own, restart),
		enum("enable-module-command", words("no yes local"), own, restart),
		enum("enable-protected-configs", words("no yes local"), own, restart),
		integer("events-per-io-thread", 0, math.MaxInt32, operator, only(valkey80)),
		boolean("extended-redis-compatibility", tenant(false), valkeyOnly),
		integer("hash-max-listpack-entries", 0, huge, tenant(512), alias("hash-max-ziplist-entries")),
		size("hash-max-listpack-value", 0, huge, tenant(64), alias("hash-max-ziplist-value")),
		boolean("hide-user-data-from-log", tenant(true), since74),
		size("hll-sparse-max-bytes", 0, huge, tenant(3000)),
		integer("hz", 1, 100, tenant(10)), // the server clamps silently at 500
		boolean("import-mode", own, only(valkey81)),
		integer("io-threads", 1, 128, operator, restart),
		boolean("io-threads-do-reads", operator, restart, only(redis70, redis72, redis74, valkey80)),
		boolean("jemalloc-bg-thread", operator),
		integer("latency-monitor-threshold", 0, huge, tenant(0)),
		boolean("latency-tracking", tenant(true)),
		text("latency-tracking-info-percentiles", tenant("50 99 99.9"), check(checkPercentiles)),
		boolean("lazyfree-lazy-eviction", tenant(true)),
		boolean("lazyfree-lazy-expire", tenant(true)),
		boolean("lazyfree-lazy-server-del", tenant(true)),
		boolean("lazyfree-lazy-user-del", tenant(true)),
		boolean("lazyfree-lazy-user-flush", tenant(true)),
		integer("lfu-decay-time", 0, math.MaxInt32, tenant(1)),
		integer("lfu-log-factor", 0, math.MaxInt32, tenant(10)),
		integer("list-compress-depth", 0, math.MaxInt32, tenant(0)),
		integer("list-max-listpack-size", math.MinInt32, math.MaxInt32, tenant(-2), alias("list-max-ziplist-size")),
		text("locale-collate", operator, since72),
		enum("log-format", words("legacy logfmt"), own, only(valkey81)),
		enum("log-timestamp-format", words("legacy iso8601 milliseconds"), own, only(valkey81)),
		text("logfile", own, restart),
		enum("loglevel", words("debug verbose notice warning"), tenant("notice"), redisOnly),
		enum("loglevel", words("debug verbose notice warning nothing"), tenant("notice"), valkeyOnly),
		text("masterauth", own, redisOnly),
		text("masteruser", own, redisOnly),
		integer("max-new-connections-per-cycle", 1, 1000, operator, since74),
		integer("max-new-tls-connections-per-cycle", 1, 1000, operator, since74),
		integer("maxclients", 50, maxClients, tenant(10000), check(checkMaxClients)),
		size("maxmemory", mib, huge, tenant(nil), check(checkMaxMemory)),   // template by size: the ceiling
		amount("maxmemory-clients", tenant(nil), check(checkClientMemory)), // template by size
		integer("maxmemory-eviction-tenacity", 0, 100, tenant(10)),
		enum("maxmemory-policy", words("volatile-lru volatile-lfu volatile-random volatile-ttl allkeys-lru allkeys-lfu allkeys-random noeviction"), tenant("noeviction")),
		integer("maxmemory-samples", 1, 64, tenant(5)),
		integer("min-replicas-max-lag", 0, math.MaxInt32, operator, alias("min-slaves-max-lag")),
		integer("min-replicas-to-write", 0, math.MaxInt32, operator, alias("min-slaves-to-write")),
		boolean("no-appendfsync-on-rewrite", operator),
		text("notify-keyspace-events", tenant(""), check(checkKeyspaceEvents)),
		enum("oom-score-adj", words("no yes relative absolute"), operator, template("yes")), // relative: a forked child dies first
		text("oom-score-adj-values", operator, template("0 200 800")),
		integer("port", 0, 65535, own),
		integer("prefetch-batch-max-size", 0, 128, operator, valkeyOnly),
		text("primaryauth", own, alias("masterauth"), valkeyOnly),
		text("primaryuser", own, alias("masteruser"), valkeyOnly),
		enum("propagation-error-behavior", words("ignore panic panic-on-replicas"), operator),
		boolean("protected-mode", own),
		size("proto-max-bulk-len", mib, gib, tenant(512*mib)),
		boolean("rdb-del-sync-files", operator),
		boolean("rdb-save-incremental-fsync", operator),
		text("rdb-version-check", own, only(valkey81)),
		boolean("rdbchecksum", operator, restart),
		boolean("rdbcompression", operator),
		text("rdma-bind", own, only(valkey81)),
		integer("rdma-completion-vector", -1, math.MaxInt32, own, only(valkey81)),
		integer("rdma-port", 0, 65535, own, only(valkey81)),
		size("rdma-rx-size", 0, huge, own, only(valkey81)),
		size("repl-backlog-size", mib, huge, operator), // template by size
		integer("repl-backlog-ttl", 0, huge, operator),
		boolean("repl-disable-tcp-nodelay", tenant(false)),
		enum("repl-diskless-load", words("disabled on-empty-db swapdb"), operator),
		boolean("repl-diskless-sync", operator, template(true)),
		integer("repl-diskless-sync-delay", 0, math.MaxInt32, operator, template(0)), // the standby waits, not for others
		integer("repl-diskless-sync-max-replicas", 0, math.MaxInt32, operator),
		integer("repl-ping-replica-period", 1, math.MaxInt32, operator, alias("repl-ping-slave-period")),
		integer("repl-timeout", 1, math.MaxInt32, operator),
		text("replica-announce-ip", own, alias("slave-announce-ip")),
		integer("replica-announce-port", 0, 65535, own, alias("slave-announce-port")),
		boolean("replica-announced", own),
		size("replica-full-sync-buffer-limit", 0, huge, operator, only(redis80)),
		boolean("replica-ignore-disk-write-errors", operator),
		boolean("replica-ignore-maxmemory", operator, alias("slave-ignore-maxmemory")),
		boolean("replica-lazy-flush", tenant(true), alias("slave-lazy-flush")),
		integer("replica-priority", 0, math.MaxInt32, own, alias("slave-priority")),
		boolean("replica-read-only", own, alias("slave-read-only")),
		boolean("replica-serve-stale-data", tenant(true), alias("slave-serve-stale-data")),
		text("replicaof", own, alias("slaveof"), restart),
		text("requirepass", tenant(nil), sealed, check(checkPassword)),                        // becomes a hash in the ACL file
		enum("sanitize-dump-payload", words("no yes clients"), operator, template("clients")), // tenants may RESTORE
		text("save", operator, template(""), why("the persistence mode is part of the plan")),
		integer("set-max-intset-entries", 0, huge, tenant(512)),
		integer("set-max-listpack-entries", 0, huge, tenant(128), since72),
		integer("set-max-listpack-value", 0, huge, tenant(64), since72),
		text("shutdown-on-sigint", operator),
		text("shutdown-on-sigterm", operator),
		integer("shutdown-timeout", 0, math.MaxInt32, operator, template(10)),
		integer("slowlog-log-slower-than", -1, huge, tenant(10000), check(checkSlowlog)),
		integer("slowlog-max-len", 0, 20000, tenant(128)), // it is memory
		boolean("stop-writes-on-bgsave-error", operator, template(true)),
		size("stream-node-max-bytes", 0, huge, tenant(4096)),
		integer("stream-node-max-entries", 0, huge, tenant(100)),
		integer("tcp-backlog", 0, math.MaxInt32, operator, restart),
		integer("tcp-keepalive", 30, 600, tenant(300)),
		integer("timeout", 0, math.MaxInt32, tenant(0), check(checkTimeout)),
		enum("tls-auth-clients", words("no yes optional"), operator),
		text("tls-ca-cert-dir", own),
		text("tls-ca-cert-file", own),
		text("tls-cert-file", own),
		text("tls-ciphers", operator),
		text("tls-ciphersuites", operator),
		text("tls-client-cert-file", own),
		text("tls-client-key-file", own),
		text("tls-client-key-file-pass", own),
		boolean("tls-cluster", own),
		text("tls-dh-params-file", own),
		text("tls-key-file", own),
		text("tls-key-file-pass", own),
		integer("tls-port", 0, 65535, own),
		boolean("tls-prefer-server-ciphers", operator),
		text("tls-protocols", operator),
		boolean("tls-replication", own),
		integer("tls-session-cache-size", 0, math.MaxInt32, operator),
		integer("tls-session-cache-timeout", 0, math.MaxInt32, operator),
		boolean("tls-session-caching", operator),
		integer("tracking-table-max-keys", 0, huge, tenant(1000000)),
		text("unixsocket", own, restart),
		text("unixsocketgroup", own, restart, valkeyOnly),
		text("unixsocketperm", own, restart),
		integer("zset-max-listpack-entries", 0, huge, tenant(128), alias("zset-max-ziplist-entries")),
		size("zset-max-listpack-value", 0, huge, tenant(64), alias("zset-max-ziplist-value")),
	}, fileOnly()...)
}

// fileOnly lists what is no parameter at run time but would be understood in a configuration file, and the switches of
// those who test servers.
func fileOnly() []row {
	var list []row
	for _, name := range words("include rename-command loadmodule user sentinel daemonize pidfile supervised " +
		"syslog-enabled syslog-ident syslog-facility set-proc-title proc-title-template always-show-logo socket-mark-id " +
		"server_cpulist bio_cpulist aof_rewrite_cpulist bgsave_cpulist crash-log-enabled crash-memcheck-enabled " +
		"ignore-warnings watchdog-period key-load-delay rdb-key-save-delay debug-context enable-debug-assert use-exit-on-panic " +
		"aof-disable-auto-gc cluster-ping-interval client-default-resp gopher-enabled") {
		list = append(list, text(name, own, restart, alias(strings.ReplaceAll(name, "_", "-"))))
	}
	return list
}

// words splits a list.
func words(list string) []string { return strings.Fields(list) }

func integer(name string, least, most int64, options ...option) row {
	return newRow(datastore.Parameter{Name: name, Type: datastore.TypeInteger, Min: &least, Max: &most}, options)
}

func size(name string, least, most int64, options ...option) row {
	return newRow(datastore.Parameter{Name: name, Type: datastore.TypeInteger, Bytes: true, Min: &least, Max: &most}, options)
}

func boolean(name string, options ...option) row {
	return newRow(datastore.Parameter{Name: name, Type: datastore.TypeBoolean}, options)
}

func enum(name string, values []string, options ...option) row {
	return newRow(datastore.Parameter{Name: name, Type: datastore.TypeString, Values: values}, options)
}

func text(name string, options ...option) row {
	return newRow(datastore.Parameter{Name: name, Type: datastore.TypeString}, options)
}

// amount is a size or a percentage.
func amount(name string, options ...option) row {
	return newRow(datastore.Parameter{Name: name, Type: datastore.TypeString, Bytes: true}, options)
}

func newRow(p datastore.Parameter, options []option) row {
	r := row{Parameter: p}
	for _, o := range options {
		o(&r)
	}
	return r
}

type option func(*row)

// tenant is for what a configuration group may set, with its value in the template.
func tenant(value any) option {
	return func(r *row) {
		r.Who = datastore.WhoTenant
		template(value)(r)
	}
}

func operator(r *row) {
	r.Who, r.Why = datastore.WhoOperator, "it comes with the instance's plan"
}

func own(r *row) {
	r.Who, r.Why = datastore.WhoNobody, "Grove needs it to run the database"
}

func restart(r *row)    { r.Restart = true }
func sealed(r *row)     { r.Secret = true }
func valkeyOnly(r *row) { r.Versions = []string{valkey80, valkey81} }
func redisOnly(r *row)  { r.Versions = []string{redis70, redis72, redis74, redis80} }

// only is for what some versions have and no others.
func only(versions ...string) option { return func(r *row) { r.Versions = versions } }

// since72 and since74 are for what Redis has had from that version on, and Valkey.
func since72(r *row) { r.Versions = []string{redis72, redis74, redis80, valkey80, valkey81} }
func since74(r *row) { r.Versions = []string{redis74, redis80, valkey80, valkey81} }

func template(value any) option {
	if n, ok := value.(int); ok {
		value = int64(n)
	}
	return func(r *row) { r.template = value }
}

func alias(name string) option {
	return func(r *row) { r.Aliases = append(r.Aliases, name) }
}

func why(reason string) option {
	return func(r *row) { r.Why = reason }
}

func check(f func(value any, s datastore.Sizing) error) option {
	return func(r *row) { r.Check = f }
}

// parameters gives the rows as the manifest shows them, in order of their names.
func parameters() []datastore.Parameter {
	var list []datastore.Parameter
	for _, r := range rows() {
		list = append(list, r.Parameter)
	}
	slices.SortStableFunc(list, func(a, b datastore.Parameter) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// defaults gives what an instance has where its tenant set nothing, under the parameters' names.
func defaults(version string, s datastore.Sizing) map[string]any {
	values := map[string]any{}
	for _, r := range rows() {
		if r.template != nil && r.KnownTo(version) {
			values[r.Name] = r.template
		}
	}
	if s.FlavorRAM > 0 {
		sizing(s).apply(values)
	}
	applyPersistence(values, s.Persistence)
	_ = applyProfile(values, s.Profile) // one that does not exist was refused before
	return values
}
