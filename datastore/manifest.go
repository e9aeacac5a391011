package datastore

import (
	"slices"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Manifest is all that the control plane knows of a datastore, as data.
type Manifest struct {
	Name           string // "redis"
	Versions       []Version
	DefaultVersion string
	// Username is the tenant's account: what goes with the generated password.
	Username string
	// URIScheme and URIPort make the connection URI: scheme://username:password@address:port.
	URIScheme string
	URIPort   int
	// TLSScheme and TLSPort take their place for an instance that speaks TLS (Capabilities.TLS).
	TLSScheme string
	TLSPort   int
	TCPPorts  []int // that must be free on the address and open in the security group
	// PeerPorts must be free too, and open between the members of a group alone.
	PeerPorts []int
	// Root names the account in the answer of "enable root" (api.md 3.10: Redis says "-").
	Root       string
	Parameters []Parameter
	// Defaults gives the template's values for an instance of this size, as the API shows them.
	Defaults func(version string, s Sizing) map[string]any
	// RequireFit refuses a size that the data of a database would not fit into, by the numbers that it told last; nil: any
	// size will do.
	RequireFit func(version string, values map[string]any, s Sizing, metrics map[string]float64) error
	// Capabilities that only some have; what is absent answers 501.
	Capabilities Capabilities
}

// Capabilities says which parts of the API a datastore serves.
type Capabilities struct {
	Root        bool
	Replication bool // replica_of, promote, eject, detach; hot standby
	Cluster     *ClusterShape
	Users       bool
	Persistence []dbaas.Persistence // that a tenant may choose, the default first; none: it is not a choice
	TLS         bool
	Profiles    []Profile
	// Upgrades lists for each version those that its data can be brought to.
	Upgrades map[string][]string
}

// ClusterShape bounds the clusters that a datastore can form.
type ClusterShape struct {
	MinMasters  int
	MostMembers int
}

// Profile is a named kind of use that a database is tuned for.
type Profile struct {
	Name string
	Doc  string // one sentence, for tenants
}

// Version is a version that a datastore can drive.
type Version struct {
	Name   string // "7.0"
	Binary string // the server's program, looked up on the guest: "redis-server"
	Says   string // how its answer to --version begins, up to the number: "Redis server v="
	Number string // prefix of the number that follows: "7.0."
}

// Type is the type of a parameter on the wire (api.md 3.12.7).
type Type string

// The types of parameters.
const (
	TypeString  Type = "string"
	TypeInteger Type = "integer"
	TypeBoolean Type = "boolean"
	TypeFloat   Type = "float"
)

// Who may set a parameter.
type Who string

// Tenants set their own through configuration groups; operator parameters come from the flavor or the plan; what
// nobody may set is owned by the guest.
const (
	WhoTenant   Who = "tenant"
	WhoOperator Who = "operator"
	WhoNobody   Who = "nobody"
)

// Parameter is one configuration parameter: its type, range and class.
type Parameter struct {
	Name    string
	Aliases []string // other accepted names
	Type    Type
	Min     *int64 // nil: no bound
	Max     *int64
	Bytes   bool     // a size in bytes, that may also be written with a unit: "64mb"
	Values  []string // of an enumeration; nil: any
	// Check validates what type, range and values cannot express and says what would be right; nil: nothing more.
	Check func(value any, d Sizing) error
	Who   Who
	// Restart: takes effect only at the next start.
	Restart bool
	// Secret: never shown, stored sealed, applied as the account's password.
	Secret bool
	// Versions lists the manifest versions that know the parameter; nil: all.
	Versions []string
	// Why explains to a tenant why a parameter that exists may not be set.
	Why string
}

// Sizing is what a Check may compare with: what the instance has, or zero when only a group is validated.
type Sizing struct {
	FlavorRAM  int // MB
	VolumeSize int // GB
	Profile    string
	// Persistence and Replicated tell whether the database's process forks, which takes memory.
	Persistence dbaas.Persistence
	Replicated  bool
}

// Parameter finds a parameter by name or alias, case-insensitively, as the version knows it.
func (m *Manifest) Parameter(version, name string) (*Parameter, bool) {
	return findParameter(m.Parameters, version, name)
}

// Validate checks the values of a configuration group for a version and gives them back under their proper names and
// types ("yes" and true become one). The error is a dbaas.Error, Unprocessable, that names the parameter, what was
// wrong and what would be right.
func (m *Manifest) Validate(version string, values map[string]any, s Sizing) (map[string]any, error) {
	return validateValues(m, version, values, s)
}

// KnownTo tells whether a manifest version has the parameter.
func (p *Parameter) KnownTo(version string) bool {
	return p.Versions == nil || slices.Contains(p.Versions, version)
}

// Version finds a version by name.
func (m *Manifest) Version(name string) (Version, bool) {
	for _, v := range m.Versions {
		if v.Name == name {
			return v, true
		}
	}
	return Version{}, false
}
