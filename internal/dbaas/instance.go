package dbaas

// Instance is what a tenant has: a database under one id, name and address, whatever runs behind it.
type Instance struct {
	ID                 string
	ProjectID          string
	GroupID            string
	ClusterID          string // "" unless it is a member of a cluster
	ReplicaOf          string // "" unless it is a replica
	Name               string
	DatastoreVersionID string
	FlavorID           string
	VolumeSize         int // GB
	VolumeType         string
	ConfigurationID    string // "" when no group is attached
	Region             string
	Zone               string
	Locality           string
	Nic                *Nic      `gorm:"serializer:json"` // nil: the provider's default network
	Access             Access    `gorm:"serializer:json"`
	Addresses          []Address `gorm:"serializer:json"`
	Task               Task
	Fault              *Fault `gorm:"serializer:json"`
	DeletionProtection bool
	// HighAvailability is the wish for a standby behind the instance's address; nil: a single guest.
	HighAvailability *HighAvailability `gorm:"serializer:json"`
	Persistence      Persistence
	Profile          string // of tuning, a name from the datastore's manifest; "" is the datastore's own default
	TLS              TLSMode
	// Stopped: the tenant had the database stopped. It stays so, and nothing is failed over, until it is started.
	Stopped bool
	// ShardID groups a master of a cluster with its replicas; "" outside of clusters.
	ShardID string
	// PrimaryGuestID is the guest that takes the instance's writes, as the control plane decided last; "" until there is
	// one. What a guest really is, its Observed tells.
	PrimaryGuestID string
	// AddressID is the cloud's address that the tenant connects to, pointed at the primary's port.
	AddressID     string
	RootEnabledAt Instant // 0 when never enabled, or disabled since
	RootEnabledBy string
	// Applied is what the guest was last configured with. It equals the wish above when nothing is pending, and is what
	// a change that fails for good goes back to.
	Applied   *Shape  `gorm:"serializer:json"`
	CreatedAt Instant `gorm:"autoCreateTime:false"`
	UpdatedAt Instant `gorm:"autoUpdateTime:false"`
	DeletedAt Instant // 0 while it lives
}

// Shape is the changeable part of an instance as its guest has it: what a failed change restores.
type Shape struct {
	FlavorID        string `json:"flavor_id"`
	VolumeSize      int    `json:"volume_size"`
	ConfigurationID string `json:"configuration_id,omitempty"`
	// RestartRequired names the parameters whose values wait for the database's next start.
	RestartRequired []string `json:"restart_required,omitempty"`
	// Behind names the guests that did not answer when passwords or users changed: they are told when they are heard again.
	Behind []string `json:"behind,omitempty"`
}

// Shape is what the instance is wished to be, with nothing waiting for a restart.
func (i *Instance) Shape() *Shape {
	return &Shape{FlavorID: i.FlavorID, VolumeSize: i.VolumeSize, ConfigurationID: i.ConfigurationID}
}

// IdleTask is the instance's task when nothing is being done to it.
func (i *Instance) IdleTask() Task {
	if i.Applied != nil && len(i.Applied.RestartRequired) > 0 {
		return TaskRestartRequired
	}
	return TaskNone
}

// HighAvailability is what a tenant wants of a hot standby.
type HighAvailability struct {
	Durability Durability `json:"durability"`
	// WhenDegraded says whether a bounded instance without a standby in reach takes writes.
	WhenDegraded WhenDegraded `json:"when_degraded,omitempty"`
}

// Durability is what a failover may lose.
type Durability string

// The classes of durability. Async loses what had not reached the standby. Bounded loses no write that WAIT confirmed,
// and of others no more than the bound on the standby's lag; without a fence it does not fail over.
const (
	DurabilityAsync   Durability = "async"
	DurabilityBounded Durability = "bounded"
)

// WhenDegraded is what a bounded instance does with writes while its standby is out of reach.
type WhenDegraded string

// The choices when degraded; "" is refuse.
const (
	DegradedRefuse WhenDegraded = "refuse"
	DegradedAccept WhenDegraded = "accept"
)

// Persistence is what a database keeps on disk.
type Persistence string

// The modes of persistence; "" is the append-only file.
const (
	PersistenceNone Persistence = "none"
	PersistenceRDB  Persistence = "rdb"
	PersistenceAOF  Persistence = "aof"
)

// TLSMode says how tenants' connections are encrypted.
type TLSMode string

// The modes of TLS; "" is off.
const (
	TLSOff  TLSMode = "off"
	TLSOn   TLSMode = "on"   // TLS alone
	TLSBoth TLSMode = "both" // TLS and, on its own port, plain
)

// OrOff spells out what "" means.
func (t TLSMode) OrOff() TLSMode {
	if t == "" {
		return TLSOff
	}
	return t
}

// Encrypted tells whether TLS is spoken at all.
func (t TLSMode) Encrypted() bool { return t.OrOff() != TLSOff }

// Nic is the tenant's wish where an instance is connected.
type Nic struct {
	NetworkID string `json:"network_id,omitempty"`
	SubnetID  string `json:"subnet_id,omitempty"`
	IPAddress string `json:"ip_address,omitempty"`
}

// Access is who may connect from outside.
type Access struct {
	IsPublic     bool     `json:"is_public"`
	AllowedCIDRs []string `json:"allowed_cidrs"`
}

// Address is one address of an instance; Type is "private" or "public".
type Address struct {
	Address string `json:"address"`
	Type    string `json:"type"`
	Network string `json:"network,omitempty"`
}

// Fault tells why the last change of a resource failed. Message is for the tenant, Details for operators.
type Fault struct {
	Message string  `json:"message"`
	Details string  `json:"details,omitempty"`
	At      Instant `json:"at"`
}

// GroupKind is the form of a group.
type GroupKind string

// The forms of a group.
const (
	GroupSingle      GroupKind = "single"
	GroupReplication GroupKind = "replication"
	GroupCluster     GroupKind = "cluster"
)

// Group is what must be changed by one operation at a time: a single instance, a master with its replicas, a cluster.
// Its epoch grows with every failover and fences late commands.
type Group struct {
	ID        string
	ProjectID string
	Kind      GroupKind
	Epoch     int64
	CreatedAt Instant `gorm:"autoCreateTime:false"`
	DeletedAt Instant
}

// Guest is what runs for an instance: a server with an agent in it, its volume, port and queue. Cloud objects carry
// the guest's id as their tag.
type Guest struct {
	ID           string
	InstanceID   string
	GroupID      string
	ProjectID    string
	Queue        string // the guest's RPC topic; its name holds 128 random bits
	ServerID     string
	VolumeID     string
	PortID       string
	Address      string
	Status       GuestStatus
	StatusCause  string // a sentence for the tenant when the status is not healthy
	StatusAt     Instant
	BootID       string // of the agent process that reported last
	Sequence     int64  // of that agent's last status report
	PublicKey    []byte // the agent's, for sealing secrets to it
	AgentVersion string
	Observed     JSON    `gorm:"serializer:json"` // the datastore's private view: role, version, ...
	Peers        JSON    `gorm:"serializer:json"` // how this guest sees the others of its group: []datastore.PeerView
	CreatedAt    Instant `gorm:"autoCreateTime:false"`
	UpdatedAt    Instant `gorm:"autoUpdateTime:false"`
	DeletedAt    Instant
}

// Cluster is one database spread over members, which are instances.
type Cluster struct {
	ID                 string
	ProjectID          string
	GroupID            string
	Name               string
	DatastoreVersionID string
	ConfigurationID    string
	Locality           string
	ReplicasPerShard   int
	Task               ClusterTask
	Fault              *Fault `gorm:"serializer:json"`
	// Health is what the last look at the whole cluster found, as the datastore's Topology tells it.
	Health    JSON    `gorm:"serializer:json"`
	CreatedAt Instant `gorm:"autoCreateTime:false"`
	UpdatedAt Instant `gorm:"autoUpdateTime:false"`
	DeletedAt Instant
}

// ClusterTask is what a cluster is busy with (api.md 4.5).
type ClusterTask string

// The tasks of a cluster.
const (
	ClusterNone      ClusterTask = "NONE"
	ClusterBuilding  ClusterTask = "BUILDING"
	ClusterDeleting  ClusterTask = "DELETING"
	ClusterGrowing   ClusterTask = "GROWING_CLUSTER"
	ClusterShrinking ClusterTask = "SHRINKING_CLUSTER"
	ClusterUpgrading ClusterTask = "UPGRADING_CLUSTER"
	ClusterRestart   ClusterTask = "RESTARTING_CLUSTER"
	ClusterUpdating  ClusterTask = "UPDATING_CLUSTER"
	ClusterResizing  ClusterTask = "RESIZING_CLUSTER"
)

// User is a tenant's own account in a database, beside the one that every instance has. All members of the group have it.
type User struct {
	GroupID string `gorm:"primaryKey"`
	Name    string `gorm:"primaryKey"`
	// Grants are what the user may touch: for Redis, patterns of keys.
	Grants    []string `gorm:"serializer:json"`
	CreatedAt Instant  `gorm:"autoCreateTime:false"`
}

// TableName tells gorm that "users" is PostgreSQL's own word.
func (User) TableName() string { return "database_users" }

// Heartbeat is the narrow, often written sign of life of a guest. A missing one means "unknown", never "down".
type Heartbeat struct {
	GuestID     string `gorm:"primaryKey"`
	BootID      string
	Sequence    int64
	SeenAt      Instant // the control plane's clock
	VolumeUsed  int64   // bytes
	VolumeTotal int64   // bytes
	Metrics     string  // JSON object of numbers, as the manifest names them
}
