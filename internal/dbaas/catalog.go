package dbaas

import "slices"

// Datastore is a kind of database on offer.
type Datastore struct {
	ID               string
	Name             string
	DefaultVersionID string
}

// DatastoreVersion is one version on offer. Manager names the folder under datastore/ that drives it.
type DatastoreVersion struct {
	ID          string
	DatastoreID string
	Name        string // "7.0", "valkey-8.0"
	Number      string // "7.0.15"
	Manager     string
	Active      bool
	Image       string
	ImageTags   []string `gorm:"serializer:json"`
	Packages    []string `gorm:"serializer:json"`
	CreatedAt   Instant  `gorm:"autoCreateTime:false"`
}

// Flavor is a size of server. RAM is in MB, Disk and Ephemeral in GB.
type Flavor struct {
	ID        string `json:"id" yaml:"id"`
	Name      string `json:"name" yaml:"name"`
	RAM       int    `json:"ram" yaml:"ram"`
	VCPUs     int    `json:"vcpus" yaml:"vcpus"`
	Disk      int    `json:"disk" yaml:"disk"`
	Ephemeral int    `json:"ephemeral" yaml:"ephemeral"`
}

// VolumeType is a kind of volume.
type VolumeType struct {
	ID       string `json:"id" yaml:"id"`
	Name     string `json:"name" yaml:"name"`
	IsPublic bool   `json:"is_public" yaml:"is_public"`
}

// Network is a network that instances may be connected to.
type Network struct {
	ID      string   `json:"id" yaml:"id"`
	Name    string   `json:"name" yaml:"name"`
	CIDR    string   `json:"cidr,omitempty" yaml:"cidr,omitempty"`
	Subnets []string `json:"subnets,omitempty" yaml:"-"` // ids
	// Projects are those that it is there for; none: it is there for all.
	Projects []string `json:"projects,omitempty" yaml:"-"`
}

// For tells whether a project's instances may be connected to the network.
func (n *Network) For(projectID string) bool {
	return len(n.Projects) == 0 || slices.Contains(n.Projects, projectID)
}

// Has tells whether a nic names the network, or a subnet of it.
func (n *Network) Has(nic *Nic) bool {
	return n.ID == nic.NetworkID || nic.NetworkID == "" && slices.Contains(n.Subnets, nic.SubnetID)
}

// Catalog is what a region's cloud offers, kept in the database so that reads call nobody.
type Catalog struct {
	Region      string       `gorm:"primaryKey"`
	Flavors     []Flavor     `gorm:"serializer:json"`
	VolumeTypes []VolumeType `gorm:"serializer:json"`
	Networks    []Network    `gorm:"serializer:json"`
	Zones       []string     `gorm:"serializer:json"`
	UpdatedAt   Instant      `gorm:"autoUpdateTime:false"`
}

// Flavor finds a flavor by id.
func (c *Catalog) Flavor(id string) (Flavor, bool) {
	for _, f := range c.Flavors {
		if f.ID == id {
			return f, true
		}
	}
	return Flavor{}, false
}

// Configuration is a configuration group: named parameter values for one datastore version. A value that is secret
// (requirepass) is not in Values; SecretNames lists such names and the secrets table holds them, owned by the group.
type Configuration struct {
	ID                 string
	ProjectID          string
	Name               string
	Description        *string
	DatastoreVersionID string
	Values             map[string]any `gorm:"column:parameters;serializer:json"`
	SecretNames        []string       `gorm:"serializer:json"`
	CreatedAt          Instant        `gorm:"autoCreateTime:false"`
	UpdatedAt          Instant        `gorm:"autoUpdateTime:false"`
	DeletedAt          Instant
}

// Quota is a project's own limit of a resource; without a row the configured default holds. -1 is unlimited.
type Quota struct {
	ProjectID string `gorm:"primaryKey"`
	Resource  string `gorm:"primaryKey"`
	Limit     int    `gorm:"column:hard_limit"`
}

// The resources that have quotas: counts, GB of volumes, MB of memory.
const (
	QuotaInstances = "instances"
	QuotaVolumes   = "volumes"
	QuotaBackups   = "backups"
	QuotaRAM       = "ram"
)

// QuotaResources lists the resources with quotas in the order in which the API shows them.
func QuotaResources() []string { return []string{QuotaInstances, QuotaVolumes, QuotaBackups, QuotaRAM} }

// Usage is how much of a resource a project has in use, beside its limit.
type Usage struct {
	Resource string
	InUse    int
	Limit    int
}

// Secret is a value sealed by the master key, bound to its owner and kind.
type Secret struct {
	ID        string
	OwnerID   string // instance, guest or configuration group
	Kind      string // "password", "rpc-key", "configuration:requirepass", ...
	KeyID     string
	Sealed    []byte
	CreatedAt Instant `gorm:"autoCreateTime:false"`
}

// Idempotency remembers the answer to a request that carried an Idempotency-Key. Secret values in the answer are
// replaced by references to the secrets table.
type Idempotency struct {
	ProjectID string  `gorm:"primaryKey"`
	Key       string  `gorm:"primaryKey"`
	Hash      string  // of method, path and body
	Status    int     // 0 while the first request is still at work
	Header    JSON    `gorm:"serializer:json"`
	Body      JSON    `gorm:"serializer:json"`
	CreatedAt Instant `gorm:"autoCreateTime:false"`
}
