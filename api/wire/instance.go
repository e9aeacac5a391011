package wire

import "encoding/json"

// DatastoreRef names a datastore and its version.
type DatastoreRef struct {
	Type          string `json:"type"`
	Version       string `json:"version"`
	VersionNumber string `json:"version_number,omitempty"`
	VersionID     string `json:"version_id,omitempty"`
}

// Volume is an instance's volume. The used ones are there when the guest has reported them.
type Volume struct {
	Size        int      `json:"size"` // GB
	Used        *float64 `json:"used,omitempty"`
	UsedPercent *float64 `json:"used_percent,omitempty"`
}

// Access says who may connect from outside.
type Access struct {
	IsPublic     bool     `json:"is_public"`
	AllowedCIDRs []string `json:"allowed_cidrs"`
}

// Address is an address of an instance.
type Address struct {
	Address string `json:"address"`
	Type    string `json:"type"` // "private" or "public"
	Network string `json:"network,omitempty"`
}

// InstanceFault tells why the last change failed.
type InstanceFault struct {
	Message string  `json:"message"`
	Created Time    `json:"created"`
	Details *string `json:"details"` // for administrators, else null
}

// Instance is an instance as lists show it, with the detail where an answer has that.
type Instance struct {
	ID              string       `json:"id"`
	Name            string       `json:"name"`
	Status          string       `json:"status"`
	OperatingStatus string       `json:"operating_status"`
	Datastore       DatastoreRef `json:"datastore"`
	Flavor          Resource     `json:"flavor"`
	Volume          *Volume      `json:"volume,omitempty"`
	Region          *string      `json:"region"`
	Access          Access       `json:"access"`
	TenantID        string       `json:"tenant_id,omitempty"` // for administrators
	IP              []string     `json:"ip,omitempty"`
	Addresses       []Address    `json:"addresses,omitempty"`
	ReplicaOf       *Resource    `json:"replica_of,omitempty"`
	Replicas        []Resource   `json:"replicas,omitempty"`
	Links           []Link       `json:"links"`
	*InstanceDetail
}

// InstanceDetail is what show, create and detailed lists have beside the summary.
type InstanceDetail struct {
	Created              Time              `json:"created"`
	Updated              Time              `json:"updated"`
	ServiceStatusUpdated Time              `json:"service_status_updated"`
	Fault                *InstanceFault    `json:"fault,omitempty"`
	Configuration        *Resource         `json:"configuration,omitempty"`
	Locality             string            `json:"locality,omitempty"`
	Password             string            `json:"password,omitempty"` // in the answer to create only
	ClusterID            string            `json:"cluster_id,omitempty"`
	ServerID             string            `json:"server_id,omitempty"`               // for administrators
	VolumeID             string            `json:"volume_id,omitempty"`               // for administrators
	EncryptedRPC         *bool             `json:"encrypted_rpc_messaging,omitempty"` // for administrators
	DeletionProtection   bool              `json:"deletion_protection"`
	Persistence          string            `json:"persistence,omitempty"`            // "none", "rdb", "aof"
	Profile              string            `json:"profile,omitempty"`                // of tuning
	TLS                  string            `json:"tls,omitempty"`                    // "off", "both", "on", where it was chosen
	TLSCertificate       *Certificate      `json:"tls_certificate,omitempty"`        // the one that expires first
	URI                  string            `json:"uri,omitempty"`                    // without the password
	OperatingStatusCause string            `json:"operating_status_cause,omitempty"` // when it is not healthy
	Drift                []Drift           `json:"drift,omitempty"`                  // what is not as Grove set it
	Operation            *OperationSummary `json:"operation,omitempty"`              // that works on the instance now
	HighAvailability     *Protection       `json:"high_availability,omitempty"`      // of a hot standby
}

// Drift is a setting of the database, for administrators also of its server, that is otherwise than Grove set it.
type Drift struct {
	Setting  string `json:"setting"`
	Value    string `json:"value"`
	Expected string `json:"expected"`
	Advice   string `json:"advice,omitempty"`
}

// HighAvailability is the wish for a standby behind an instance's address.
type HighAvailability struct {
	Durability   string `json:"durability"`              // "async" or "bounded"
	WhenDegraded string `json:"when_degraded,omitempty"` // "refuse" or "accept"; of the bounded class
}

// Protection is a hot standby as it was wished for and as it is.
type Protection struct {
	HighAvailability
	State   string   `json:"state"` // "protected", "degraded", "failing_over"
	Cause   string   `json:"cause,omitempty"`
	Standby *Standby `json:"standby,omitempty"`
}

// Standby is the guest that takes over when the primary fails.
type Standby struct {
	Status  string   `json:"status"` // of its database, in the words of operating_status
	Role    string   `json:"role,omitempty"`
	InStep  bool     `json:"in_step"`
	Lag     *float64 `json:"lag_seconds,omitempty"`
	Updated Time     `json:"updated"`
	ID      string   `json:"id,omitempty"` // for administrators
}

// Failover hands an instance's writes to its standby; as a drill, as if the primary had died.
type Failover struct {
	Drill bool `json:"drill,omitempty"`
}

// InstanceEnvelope is the answer with one instance.
type InstanceEnvelope struct {
	Instance Instance `json:"instance"`
}

// InstanceList is a page of instances.
type InstanceList struct {
	Instances []Instance `json:"instances"`
	Links     []Link     `json:"links,omitempty"`
	// InstancesLinks is the same for clients that follow the address as it stands (gophercloud).
	InstancesLinks []Link `json:"instances_links,omitempty"`
}

// CreateInstanceRequest asks for an instance.
type CreateInstanceRequest struct {
	Instance *CreateInstance `json:"instance"`
}

// CreateInstance is the wish for an instance.
type CreateInstance struct {
	Name               string            `json:"name"`
	FlavorRef          Ref               `json:"flavorRef,omitzero"`
	Volume             *VolumeRequest    `json:"volume,omitempty"`
	Datastore          *DatastoreRef     `json:"datastore,omitempty"`
	Nics               []Nic             `json:"nics,omitempty" wire:"strict"`
	AvailabilityZone   *string           `json:"availability_zone,omitempty"`
	Configuration      *Ref              `json:"configuration,omitempty"`
	Locality           *string           `json:"locality,omitempty"`
	RegionName         *string           `json:"region_name,omitempty"`
	Access             *AccessRequest    `json:"access,omitempty"`
	DeletionProtection bool              `json:"deletion_protection,omitempty"`
	Persistence        *string           `json:"persistence,omitempty"`
	Profile            *string           `json:"profile,omitempty"`
	TLS                *string           `json:"tls,omitempty"`
	ReplicaCount       *Number           `json:"replica_count,omitempty"`
	ReplicaOf          json.RawMessage   `json:"replica_of,omitempty"`
	SlaveOf            json.RawMessage   `json:"slave_of,omitempty"`
	RestorePoint       json.RawMessage   `json:"restorePoint,omitempty"`
	Databases          json.RawMessage   `json:"databases,omitempty"`
	Users              json.RawMessage   `json:"users,omitempty"`
	Modules            json.RawMessage   `json:"modules,omitempty"`
	HighAvailability   *HighAvailability `json:"high_availability,omitempty" wire:"strict"`
}

// VolumeRequest is the wish for a volume. The type may be null.
type VolumeRequest struct {
	Size Number  `json:"size"`
	Type *string `json:"type,omitempty"`
}

// Nic is where an instance is connected. net-id is another name for network_id.
type Nic struct {
	NetID     string `json:"net-id,omitempty"`
	NetworkID string `json:"network_id,omitempty"`
	SubnetID  string `json:"subnet_id,omitempty"`
	IPAddress string `json:"ip_address,omitempty"`
}

// AccessRequest is the wish who may connect; what is missing is false and [].
type AccessRequest struct {
	IsPublic     bool     `json:"is_public"`
	AllowedCIDRs []string `json:"allowed_cidrs,omitempty"`
}

// PutInstanceRequest changes an instance. An empty object detaches its configuration group.
type PutInstanceRequest struct {
	Instance *PutInstance `json:"instance" wire:"strict"`
}

// PutInstance is a change of an instance: at most one key besides name and deletion_protection.
type PutInstance struct {
	Name               *string                    `json:"name,omitempty"`
	Configuration      Optional[Ref]              `json:"configuration,omitzero"`
	Access             Optional[AccessRequest]    `json:"access,omitzero" wire:"strict"`
	DeletionProtection *bool                      `json:"deletion_protection,omitempty"`
	ReplicaOf          Optional[json.RawMessage]  `json:"replica_of,omitzero"`
	DatastoreVersion   Optional[json.RawMessage]  `json:"datastore_version,omitzero"`
	Persistence        Optional[string]           `json:"persistence,omitzero"`
	Profile            Optional[string]           `json:"profile,omitzero"`
	TLS                Optional[string]           `json:"tls,omitzero"`
	HighAvailability   Optional[HighAvailability] `json:"high_availability,omitzero" wire:"strict"`
}

// PatchInstanceRequest is PutInstanceRequest with PATCH's own keys.
type PatchInstanceRequest struct {
	Instance *PatchInstance `json:"instance" wire:"strict"`
}

// PatchInstance is a change of an instance: at most one key besides name and deletion_protection.
type PatchInstance struct {
	Name               *string                    `json:"name,omitempty"`
	Configuration      Optional[Ref]              `json:"configuration,omitzero"`
	DeletionProtection *bool                      `json:"deletion_protection,omitempty"`
	ReplicaOf          Optional[json.RawMessage]  `json:"replica_of,omitzero"`
	SlaveOf            Optional[json.RawMessage]  `json:"slave_of,omitzero"`
	DatastoreVersion   Optional[json.RawMessage]  `json:"datastore_version,omitzero"`
	Persistence        Optional[string]           `json:"persistence,omitzero"`
	Profile            Optional[string]           `json:"profile,omitzero"`
	TLS                Optional[string]           `json:"tls,omitzero"`
	HighAvailability   Optional[HighAvailability] `json:"high_availability,omitzero" wire:"strict"`
}

// InstanceAction is a deed to do with an instance: exactly one of the keys.
type InstanceAction struct {
	_                      struct{}        `wire:"strict"`
	Restart                *struct{}       `json:"restart,omitempty"`
	Stop                   *struct{}       `json:"stop,omitempty"`
	Start                  *struct{}       `json:"start,omitempty"`
	Rebuild                *struct{}       `json:"rebuild,omitempty"`
	Failover               *Failover       `json:"failover,omitempty"`
	RenewCertificates      *struct{}       `json:"renew_certificates,omitempty"`
	Resize                 *Resize         `json:"resize,omitempty"`
	ResetStatus            *ResetStatus    `json:"reset_status,omitempty"`
	PromoteToReplicaSource json.RawMessage `json:"promote_to_replica_source,omitempty"`
	EjectReplicaSource     json.RawMessage `json:"eject_replica_source,omitempty"`
}

// Resize asks for a larger volume or another flavor; with both the volume wins.
type Resize struct {
	Volume    *VolumeRequest `json:"volume,omitempty"`
	FlavorRef Ref            `json:"flavorRef,omitempty"`
}

// ResetStatus clears a status that keeps an instance from being changed. It is the administrator's, and with
// force_delete the owner's.
type ResetStatus struct {
	ForceDelete json.RawMessage `json:"force_delete,omitempty"`
}

// InstanceConfiguration is the answer with an instance's default configuration.
type InstanceConfiguration struct {
	Instance struct {
		Configuration map[string]any `json:"configuration"`
	} `json:"instance"`
}

// CredentialsEnvelope reveals how to connect.
type CredentialsEnvelope struct {
	Credentials Credentials `json:"credentials"`
}

// Credentials is an account with its password; the URI is "" while the instance has no address.
type Credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
	URI      string `json:"uri"`
}

// RootRequest enables root, with a password of one's own or a generated one.
type RootRequest struct {
	Password *string `json:"password,omitempty"`
}

// RootEnabled tells whether root was enabled and not disabled since.
type RootEnabled struct {
	RootEnabled bool `json:"rootEnabled"`
}

// RootUser is the account with its new password.
type RootUser struct {
	User struct {
		Name     string `json:"name"`
		Password string `json:"password"`
	} `json:"user"`
	FailedSlaves []string `json:"failed_slaves"`
}
