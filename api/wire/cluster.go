package wire

import "encoding/json"

// ClusterTask is what a cluster is busy with.
type ClusterTask struct {
	ID          int    `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
}

// Cluster is a cluster. Its members' status, flavor, volume and addresses are in the answer to show alone.
type Cluster struct {
	ID             string            `json:"id"`
	Name           string            `json:"name"`
	Task           ClusterTask       `json:"task"`
	Created        Time              `json:"created"`
	Updated        Time              `json:"updated"`
	Datastore      DatastoreRef      `json:"datastore"`
	Links          []Link            `json:"links"`
	IP             []string          `json:"ip,omitempty"`
	Instances      []ClusterMember   `json:"instances"`
	Locality       string            `json:"locality,omitempty"`
	Configuration  string            `json:"configuration,omitempty"`
	TenantID       string            `json:"tenant_id,omitempty"` // for administrators
	Password       string            `json:"password,omitempty"`  // in the answer to create only
	Replicas       int               `json:"replicas_per_shard"`
	TLS            string            `json:"tls,omitempty"`             // "off", "both", "on", where it was chosen
	TLSCertificate *Certificate      `json:"tls_certificate,omitempty"` // the one of the members' that expires first
	Health         *ClusterHealth    `json:"health,omitempty"`          // after the first look at the whole
	Fault          *InstanceFault    `json:"fault,omitempty"`           // of the last change
	Operation      *OperationSummary `json:"operation,omitempty"`       // that works on the cluster now
}

// ClusterHealth is how the cluster was when it was last looked at as a whole.
type ClusterHealth struct {
	State  string   `json:"state"` // "ok", "degraded", "fail"
	Causes []string `json:"causes,omitempty"`
}

// ClusterMember is an instance of a cluster.
type ClusterMember struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Type    string    `json:"type"`               // "member"
	Role    string    `json:"role,omitempty"`     // "master" or "replica", as observed
	ShardID string    `json:"shard_id,omitempty"` // the same for a master and its replicas
	Status  string    `json:"status,omitempty"`
	IP      []string  `json:"ip,omitempty"`
	Flavor  *Resource `json:"flavor,omitempty"`
	Volume  *Volume   `json:"volume,omitempty"`
	Version string    `json:"datastore_version,omitempty"` // the members' differ while they are upgraded
	Links   []Link    `json:"links"`
	Health  string    `json:"health,omitempty"` // "ok", "degraded", "fail", "unknown"
	Slots   string    `json:"slots,omitempty"`  // "0-5460"
	Keys    int       `json:"slot_count,omitempty"`
	LinkUp  *bool     `json:"link_up,omitempty"`     // of a replica, to its master
	Lag     *float64  `json:"lag_seconds,omitempty"` // of a replica that is linked
}

// ClusterEnvelope is the answer with one cluster.
type ClusterEnvelope struct {
	Cluster Cluster `json:"cluster"`
}

// ClusterList is a page of clusters.
type ClusterList struct {
	Clusters []Cluster `json:"clusters"`
	Links    []Link    `json:"links,omitempty"`
	// ClustersLinks is the same for clients that follow the address as it stands (gophercloud).
	ClustersLinks []Link `json:"clusters_links,omitempty"`
}

// CreateClusterRequest asks for a cluster.
type CreateClusterRequest struct {
	Cluster *CreateCluster `json:"cluster"`
}

// CreateCluster is the wish for a cluster: instances names its masters.
type CreateCluster struct {
	Name               string            `json:"name"`
	Datastore          *DatastoreRef     `json:"datastore,omitempty"`
	Instances          []NewMember       `json:"instances"`
	Locality           *string           `json:"locality,omitempty"`
	Configuration      *Ref              `json:"configuration,omitempty"`
	TLS                *string           `json:"tls,omitempty"`
	ExtendedProperties ClusterProperties `json:"extended_properties,omitzero"`
}

// ClusterProperties are the properties of a cluster that depend on its datastore.
type ClusterProperties struct {
	// ReplicasPerShard is how many replicas each master gets.
	ReplicasPerShard *Number `json:"replicas_per_shard,omitempty"`
}

// NewMember is the wish for a member. Type and RelatedTo are of grow.
type NewMember struct {
	Name             *string         `json:"name,omitempty"`
	FlavorRef        Ref             `json:"flavorRef,omitempty"`
	Volume           *VolumeRequest  `json:"volume,omitempty"`
	Nics             []Nic           `json:"nics,omitempty" wire:"strict"`
	AvailabilityZone *string         `json:"availability_zone,omitempty"`
	RegionName       *string         `json:"region_name,omitempty"`
	Region           *string         `json:"region,omitempty"` // another name for region_name
	Modules          json.RawMessage `json:"modules,omitempty"`
	Type             Words           `json:"type,omitempty"` // "master" (the default) or "replica"
	RelatedTo        *string         `json:"related_to,omitempty"`
}

// Words is a string or a list of strings.
type Words []string

// UnmarshalJSON takes both forms.
func (w *Words) UnmarshalJSON(b []byte) error {
	switch {
	case string(b) == "null":
		return nil
	case b[0] == '"':
		*w = make(Words, 1)
		return json.Unmarshal(b, &(*w)[0])
	case b[0] == '[':
		return json.Unmarshal(b, (*[]string)(w))
	default:
		return typeError(b, *w)
	}
}

// ClusterAction is a deed to do with a cluster: exactly one of the keys.
type ClusterAction struct {
	_                   struct{}             `wire:"strict"`
	Grow                []NewMember          `json:"grow,omitempty"`
	Shrink              []LeavingMember      `json:"shrink,omitempty"`
	Resize              *Resize              `json:"resize,omitempty"`
	Restart             *struct{}            `json:"restart,omitempty"`
	SetTLS              *SetTLS              `json:"set_tls,omitempty" wire:"strict"`
	RenewCertificates   *struct{}            `json:"renew_certificates,omitempty"`
	Upgrade             *ClusterUpgrade      `json:"upgrade,omitempty"`
	ConfigurationAttach *AttachConfiguration `json:"configuration_attach,omitempty"`
	ConfigurationDetach *struct{}            `json:"configuration_detach,omitempty"`
	ResetStatus         *ResetStatus         `json:"reset-status,omitempty"`
	AddShard            json.RawMessage      `json:"add_shard,omitempty"`
}

// LeavingMember names a member that is to leave.
type LeavingMember struct {
	ID Ref `json:"id"`
}

// ClusterUpgrade asks for another version, by id or name.
type ClusterUpgrade struct {
	DatastoreVersion string `json:"datastore_version"`
}

// AttachConfiguration names a configuration group.
type AttachConfiguration struct {
	ConfigurationID Ref `json:"configuration_id"`
}
