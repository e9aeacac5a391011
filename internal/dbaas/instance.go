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
	RootEnabledAt      Instant // 0 when never enabled, or disabled since
	RootEnabledBy      string
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
	CreatedAt    Instant `gorm:"autoCreateTime:false"`
	UpdatedAt    Instant `gorm:"autoUpdateTime:false"`
	DeletedAt    Instant
}

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
