package datastore

import (
	"context"
	"encoding/json"
	"hash/crc32"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Role is what a database is within its group.
type Role string

// The roles.
const (
	RoleMaster  Role = "master"
	RoleReplica Role = "replica"
)

// Replication is what a database says of its own place in a group. It is part of Observed, under the key "replication",
// so that the core can pick a successor without knowing the datastore.
type Replication struct {
	Role Role `json:"role"`
	// History names the line of changes that Offset counts; offsets of different histories are not comparable.
	History string `json:"history,omitempty"`
	// Master is the address that a replica follows, and LinkUp whether it is in step with it.
	Master  string `json:"master,omitempty"`
	LinkUp  bool   `json:"link_up,omitempty"`
	Syncing bool   `json:"syncing,omitempty"` // copying everything
	// Replicas counts those in step with a master.
	Replicas int `json:"replicas,omitempty"`
}

// Replica is what a Guest is also whose database can follow another of its kind. Roles are changed by Configure
// (Desired.Master); this is what Configure cannot say.
type Replica interface {
	// Position tells how far the database is, now.
	Position(ctx context.Context) (Position, error)
	// Handover makes the replica at to the master without losing a write: writes wait, to catches up, takes over, and this
	// database follows it. It fails, with this database still the master, when that takes longer than ctx allows.
	Handover(ctx context.Context, to Endpoint) error
	// Probe looks at another member's database, from here. It never fails: what is not seen is not alive.
	Probe(ctx context.Context, peer Endpoint) PeerView
}

// Position is how far a database is in its history.
type Position struct {
	Replication
	Offset int64 `json:"offset"` // bytes of the history that it has
}

// The metrics by which every sign of life of a Replica tells its Position.
const (
	MetricOffset  = "replication_offset"
	MetricHistory = "replication_history" // HistoryNumber
)

// HistoryNumber tells histories apart where only numbers go.
func HistoryNumber(history string) float64 { return float64(crc32.ChecksumIEEE([]byte(history))) }

// PeerView is how one member sees another.
type PeerView struct {
	GuestID string        `json:"guest_id"`
	Alive   bool          `json:"alive"` // its database answers
	Role    Role          `json:"role,omitempty"`
	Cause   string        `json:"cause,omitempty"` // why not alive: "refused", "timeout", ...
	Since   dbaas.Instant `json:"since"`           // by the viewer's clock
	// UnseenMS is how long ago the viewer saw it alive, and SilentMS for how long all looks at one that is not alive have
	// failed, each of which began and ended in time. They are of the moment in which they are told.
	UnseenMS int64 `json:"unseen_ms,omitempty"`
	SilentMS int64 `json:"silent_ms,omitempty"`
}

// The actions that every Replica has, by the names under which [Guest.Actions] lists them.
const (
	ActionPosition = "position" // no arguments; Position
	ActionHandover = "handover" // Endpoint; nothing
	// ActionTakeOver has a replica in a cluster become the master of its shard, without losing a write.
	ActionTakeOver = "cluster_failover" // nothing; nothing
)

// Reader is what a Guest is also of whose actions some change nothing. Their answers are not remembered, so that who looks
// often writes nothing, and pushes no command out of the agent's journal.
type Reader interface {
	// Reads names those actions.
	Reads() []string
}

// Upgrader is what a Guest is also whose database can be made another version with its data kept.
type Upgrader interface {
	// Upgrade stops the database, makes it of the desired version, and starts it. What is impossible is refused before
	// anything is stopped.
	Upgrade(ctx context.Context, d Desired) error
}

// Topology is what a Datastore is also whose databases form clusters. It runs in the taskmanager and touches no database
// itself. Every method may be repeated and re-entered: all that it knows is what the members say now.
type Topology interface {
	// Plan works out what a wish takes: for --dry-run, and to refuse what cannot be (dbaas.BadRequest, OverLimit).
	Plan(ctx context.Context, c ClusterWish, members []Member) (*Plan, error)
	// Converge looks at the members and does the next thing that brings them nearer to the wish.
	Converge(ctx context.Context, c ClusterWish, members []Member) (Progress, error)
	// Health tells how the cluster is, and what is wrong with it.
	Health(ctx context.Context, c ClusterWish, members []Member) (*Health, error)
	// Heard tells whether every member has heard from every other in the time that has passed since something, so that each
	// knows what the others are now. Whom the members take for failed is not waited for.
	Heard(ctx context.Context, c ClusterWish, members []Member, since time.Duration) (bool, error)
}

// ClusterWish is what a cluster should be.
type ClusterWish struct {
	ClusterID string       `json:"cluster_id"`
	Members   []MemberWish `json:"members"`
	// Leaving are the guests that hold nothing and are known to nobody in the end.
	Leaving []string `json:"leaving,omitempty"`
	// Rebalance: data are moved until all masters hold the same, as when the cluster has grown. Without it data leave only
	// members that leave, and go to masters that have none.
	Rebalance bool `json:"rebalance,omitempty"`
}

// MemberWish is what one member should be. Members of one shard hold the same data; which of them is the master is theirs
// to decide, once the cluster stands: Role is for the beginning.
type MemberWish struct {
	Endpoint
	ShardID   string `json:"shard_id"`
	Role      Role   `json:"role"`
	MaxMemory int64  `json:"max_memory"` // bytes; 0: not known
}

// Member is one member, as Topology reaches it.
type Member interface {
	GuestID() string
	// Observed is what its agent reported last: nil before the first report.
	Observed() json.RawMessage
	// Do runs one of the member's actions, which takes seconds.
	Do(ctx context.Context, action string, args any, result any) error
	// BeginJob runs an action as a job of the member's agent, or finds the one of this name that runs; Job tells how it
	// stands ("unknown" once the agent has forgotten it).
	BeginJob(ctx context.Context, name, action string, args any) error
	Job(ctx context.Context, name string) (*JobState, error)
}

// JobState is how a job stands.
type JobState struct {
	State    string          `json:"state"` // "running", "succeeded", "failed", "unknown"
	Progress string          `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *dbaas.Error    `json:"error,omitempty"`
}

// Progress is how far a Converge has come. With neither Done nor an error the caller comes back after Again.
type Progress struct {
	Done    bool
	Again   int    // milliseconds
	Message string // a phrase for users: "moving slots: 1,204 of 4,096"
}

// Plan is what a wish takes.
type Plan struct {
	Moves    []Move `json:"moves"`
	Bytes    int64  `json:"bytes"`            // in all
	Duration int    `json:"duration_seconds"` // expected
	// FreeMemory is what each receiving member needs besides what it has, by guest id.
	FreeMemory map[string]int64 `json:"free_memory,omitempty"`
	Warnings   []string         `json:"warnings,omitempty"`
}

// Move is one part of a plan.
type Move struct {
	From  string `json:"from"` // guest id
	To    string `json:"to"`
	What  string `json:"what"` // "slots 0-99"
	Units int    `json:"units"`
	Bytes int64  `json:"bytes"`
}

// Health is how a cluster is.
type Health struct {
	State   string         `json:"state"` // "ok", "degraded", "fail"
	Causes  []string       `json:"causes,omitempty"`
	Members []MemberHealth `json:"members"`
}

// MemberHealth is how one member is within its cluster.
type MemberHealth struct {
	GuestID string `json:"guest_id"`
	Role    Role   `json:"role"`
	State   string `json:"state"` // "ok", "degraded", "fail", "unknown"
	// Owns says what it serves ("0-5460"), and Units how much of the whole that is.
	Owns  string `json:"owns,omitempty"`
	Units int    `json:"units"`
	Bytes int64  `json:"bytes,omitempty"`
	// Master is the guest that a replica follows.
	Master string `json:"master,omitempty"`
}
