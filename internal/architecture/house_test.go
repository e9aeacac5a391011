// Package architecture has only tests: they hold the house to the rules of docs/architecture.md and say, when one is
// broken, which.
package architecture

// floors are the rooms from the ground up. A room imports rooms of lower floors only, not its neighbours; what lies
// below a room's directory (its implementations, its conformance suite) belongs to the same floor and may import it.
var floors = [][]string{
	{"internal/dbaas"},
	{"internal/telemetry", "internal/config", "internal/lifecycle", "internal/clock", "internal/secret", "internal/host", "migrations", "api/wire"},
	{"internal/keystone"},
	{"internal/keystone"},
	{"internal/rpc", "internal/cloud", "backup", "datastore", "taskmanager/engine"},
	{"internal/guest", "datastore/redis", "datastore/mongodb", "internal/store"},
	{"datastore/all"},
	{"internal/control"},
	{"api", "taskmanager", "guestagent", "scheduler"},
	{"cmd", "internal/e2e"},
}

// testRooms are imported by tests and by one another only; they may import everything below the top floor.
var testRooms = []string{
	"internal/testbed", "internal/architecture", "internal/rpc/rpctest", "internal/cloud/cloudtest", "backup/backuptest",
	"datastore/datastoretest", "internal/keystone/keystonetest", "taskmanager/engine/enginetest",
}

// owners names for each third-party module the rooms whose code may import it; "*" is every room. A module that is
// not here is imported by tests only. Adding one is a decision: it goes here with its owner.
var owners = map[string][]string{
	"gorm.io":                              {"internal/store"},
	"github.com/glebarez":                  {"internal/store"},
	"modernc.org/sqlite":                   {"internal/store"},
	"github.com/jackc/pgx":                 {"internal/store"},
	"github.com/pressly/goose":             {"internal/store", "migrations"},
	"github.com/rabbitmq/amqp091-go":       {"internal/rpc/amqp"},
	"github.com/cenkalti/backoff":          {"internal/rpc/amqp"},
	"github.com/gophercloud/gophercloud":   {"internal/keystone", "internal/cloud/openstack", "backup/swift", "cmd/grove"},
	"github.com/hashicorp/golang-lru":      {"internal/keystone"},
	"github.com/minio/minio-go":            {"backup/s3"},
	"github.com/klauspost/compress":        {"backup"},
	"filippo.io/age":                       {"backup"},
	"github.com/robfig/cron":               {"scheduler"},
	"github.com/redis/go-redis":            {"datastore/redis"},
	"go.mongodb.org/mongo-driver":          {"datastore/mongodb"},
	"github.com/spf13/cobra":               {"cmd"},
	"github.com/spf13/pflag":               {"cmd"},
	"golang.org/x/term":                    {"cmd"},
	"github.com/mattn/go-isatty":           {"cmd"},
	"github.com/gorilla/mux":               {"api"},
	"github.com/rs/cors":                   {"api"},
	"golang.org/x/time":                    {"api"},
	"github.com/prometheus/client_golang":  {"internal/telemetry"},
	"go.yaml.in/yaml":                      {"internal/config", "cmd"},
	"golang.org/x/sys":                     {"internal/host", "internal/cloud/local"},
	"golang.org/x/sync":                    {"*"},
	"github.com/google/uuid":               {"*"},
	"github.com/coreos/go-systemd":         {"internal/host", "cmd/grove-agent"},
	"go.opentelemetry.io/otel":             {"internal/telemetry"},
	"github.com/schollz/progressbar":       {"cmd/grove"},
	"github.com/lmittmann/tint":            {"internal/telemetry"},
	"go.opentelemetry.io/contrib/otelhttp": {"internal/telemetry"},
}

// unreachable lists what a program must not link, however indirectly.
var unreachable = map[string][]string{
	"cmd/grove-agent": {"internal/store", "internal/control", "internal/cloud", "taskmanager", "gorm.io", "github.com/gophercloud/gophercloud"},
	"cmd/grove":       {"internal/store", "internal/control", "internal/rpc", "internal/cloud", "taskmanager", "guestagent", "gorm.io"},
}

// clockRooms may ask the machine for the time and sleep; all others are given a clock.Clock.
var clockRooms = []string{"internal/clock", "taskmanager/engine", "internal/host"}

// vagueNames say nothing about what a package provides.
var vagueNames = []string{"util", "utils", "common", "models", "types", "manager", "helper", "helpers", "base", "misc"}
