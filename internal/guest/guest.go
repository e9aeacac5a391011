// Package guest is the API of the guest agent: its methods, their arguments, and the client that the taskmanager uses.
//
// Nothing long runs inside a call: what takes longer than seconds is a named job, begun by one call and watched by
// others.
package guest

import (
	"context"
	"encoding/json"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// API is what an agent does when told. The agent implements it, and so does [Client].
type API interface {
	// Prepare mounts the volume, installs the database's files and starts it. It returns when the database's process
	// runs; Status tells when it serves. A guest that is prepared already is only made as desired.
	Prepare(ctx context.Context, r PrepareRequest) error
	// Restart stops the database cleanly and starts it: pending values take effect.
	Restart(ctx context.Context, f Fence) error
	// Stop stops the database and keeps it stopped until Restart. One that is to be Now ends the command at work.
	Stop(ctx context.Context, r StopRequest) error
	// Configure makes the database as desired: grows its filesystem to the volume, applies values, sets secrets.
	Configure(ctx context.Context, r ConfigureRequest) (*datastore.Applied, error)
	// Status looks now, not at the last report.
	Status(ctx context.Context) (*StatusReport, error)
	// Job tells how a named job stands.
	Job(ctx context.Context, id string) (*JobStatus, error)
	// Action runs one of the datastore's own named actions.
	Action(ctx context.Context, r ActionRequest) (json.RawMessage, error)
	// BeginAction runs an action as a job named by its CommandID, or finds the one that runs or ran; Job tells how it
	// stands. A command of a higher epoch ends it. One that was cut off is "unknown", and may be begun again by its name.
	BeginAction(ctx context.Context, r ActionRequest) error
	// Upgrade makes the database of the desired version, its data kept (datastore.Upgrader).
	Upgrade(ctx context.Context, r ConfigureRequest) error
	// UpgradeAgent replaces the agent's own program, while its database runs on. It begins that, or tells how it stands: a
	// program that did not reach the broker in time was rolled back, and is refused (dbaas.Unprocessable) to the same command.
	UpgradeAgent(ctx context.Context, r AgentRequest) (*AgentUpgrade, error)
	// TrustBroker has the agent know the broker by other certificates from its next connection on, in the place of those that
	// came with its server. Ones that do not know the broker that is there now, or that are older than what it has, are
	// refused (dbaas.Conflict), and it keeps what it has. What it has it reports.
	TrustBroker(ctx context.Context, r BrokerTrust) error
}

// The RPC methods, as they stand in an envelope.
const (
	MethodPrepare   = "prepare"
	MethodRestart   = "restart"
	MethodStop      = "stop"
	MethodConfigure = "configure"
	MethodStatus    = "status"
	MethodJob       = "job"
	MethodAction    = "action"
	MethodBegin     = "begin"
	MethodUpgrade   = "upgrade"
	MethodAgent     = "upgrade_agent"
	MethodTrust     = "trust_broker"
	// MethodReport and MethodHeartbeat go the other way, on rpc.TopicReports and rpc.TopicHeartbeats.
	MethodReport    = "report"
	MethodHeartbeat = "heartbeat"
)

// Fence accompanies every command that changes something. The agent journals the highest group epoch, and per
// operation the highest lease epoch, and refuses lower ones with dbaas.Conflict. CommandID names the deed: a repeated
// command with a known id answers from the journal. A command of a higher group epoch ends one of a lower that is at work.
type Fence struct {
	GroupEpoch  int64  `json:"group_epoch"`
	OperationID string `json:"operation_id"`
	LeaseEpoch  int64  `json:"lease_epoch"`
	CommandID   string `json:"command_id"`
}

// PrepareRequest is the wish for a new database.
type PrepareRequest struct {
	Fence
	Desired datastore.Desired `json:"desired"`
	Sealed  Sealed            `json:"sealed,omitempty"`
}

// StopRequest says how to stop.
type StopRequest struct {
	Fence
	// Now: end it as a crash does, whatever state its process is in, without a last save. It is how a failover makes sure.
	Now bool `json:"now,omitempty"`
}

// ConfigureRequest is the wish for a changed one.
type ConfigureRequest struct {
	Fence
	Desired datastore.Desired `json:"desired"`
	Sealed  Sealed            `json:"sealed,omitempty"`
}

// Sealed holds secrets by kind, each sealed to the public key that the agent announced.
type Sealed map[string][]byte

// ActionRequest names one of the datastore's actions.
type ActionRequest struct {
	Fence
	Name string          `json:"name"`
	Args json.RawMessage `json:"args,omitempty"`
}

// AgentRequest names the program that is to take the agent's place. The checksum, which the guest's key vouches for, decides
// which one that is; where it comes from need not be trusted.
type AgentRequest struct {
	Fence
	Location string `json:"location"` // http(s) URL
	SHA256   string `json:"sha256"`   // of the program, in hex
	// Patience is how long the new program may take to reach the broker before the one that ran before is put back.
	Patience time.Duration `json:"patience"`
}

// AgentUpgrade tells how the replacement of an agent stands.
type AgentUpgrade struct {
	Done     bool   `json:"done"` // the program runs, and is there to stay
	Progress string `json:"progress,omitempty"`
}

// StatusReport is what an agent says of itself and its database: in answer to Status, on every change, and at first
// contact. Order is by boot id and the envelope's sequence, never by the guest's clock.
type StatusReport struct {
	GuestID      string           `json:"guest_id"`
	PublicKey    []byte           `json:"public_key"`
	AgentVersion string           `json:"agent_version"`
	Prepared     bool             `json:"prepared"`
	Status       datastore.Status `json:"status"`
	// Was is what the database observed last, while it is dead and observes nothing. An agent that began since knows none.
	Was         json.RawMessage `json:"was,omitempty"`
	VolumeUsed  int64           `json:"volume_used"`  // bytes
	VolumeTotal int64           `json:"volume_total"` // bytes
	Events      []ReportedEvent `json:"events,omitempty"`
	// SilentSince is when the first look began of those, in a row, at which the database ran and did not answer for as long
	// as the agent bears (8 s); by the guest's clock. 0: it answers.
	SilentSince dbaas.Instant `json:"silent_since,omitempty"`
	// GroupEpoch is the highest that the agent has obeyed.
	GroupEpoch int64 `json:"group_epoch"`
	// Peers is how this guest sees the others of its group, when it was told of any.
	Peers []datastore.PeerView `json:"peers,omitempty"`
	// BrokerTrust names the authorities by which the agent knows the broker (Authorities); none: as its system does.
	BrokerTrust []string `json:"broker_trust,omitempty"`
}

// Observed is what the database observed last, be it dead or alive.
func (r *StatusReport) Observed() json.RawMessage {
	if len(r.Status.Observed) > 0 {
		return r.Status.Observed
	}
	return r.Was
}

// ReportedEvent is something that a guest noticed and a tenant should read: a disk filling, a crash and restart.
type ReportedEvent struct {
	ID      string `json:"id"` // chosen by the guest; a repeated one is recorded once
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

// Heartbeat is the regular sign of life.
type Heartbeat struct {
	VolumeUsed  int64              `json:"volume_used"`
	VolumeTotal int64              `json:"volume_total"`
	Metrics     map[string]float64 `json:"metrics,omitempty"`
}

// JobStatus is how a job stands.
type JobStatus struct {
	ID string `json:"id"`
	datastore.JobState
}

// Bootstrap is the configuration file that a new server gets as its user data: all that an agent must know before its
// first contact. It is good for this one guest alone.
type Bootstrap struct {
	GuestID   string        `json:"guest_id"`
	Datastore string        `json:"datastore"`
	Version   string        `json:"version"`
	Address   string        `json:"address"`
	VolumeID  string        `json:"volume_id,omitempty"` // the cloud's, of the data volume
	Queue     string        `json:"queue"`
	RPCURL    string        `json:"rpc_url,omitempty"`   // "" for the in-process transport
	BrokerCA  string        `json:"broker_ca,omitempty"` // who signs the certificate of an amqps:// broker, in PEM; "": as the system has it
	RPCKey    []byte        `json:"rpc_key"`             // signs messages in both directions
	Heartbeat time.Duration `json:"heartbeat"`
}
