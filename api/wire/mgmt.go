package wire

import "encoding/json"

// MgmtInstance is an instance as the administrator of all projects sees it.
type MgmtInstance struct {
	Instance
	Deleted         bool        `json:"deleted"`
	DeletedAt       Time        `json:"deleted_at"` // null while it lives
	TaskDescription string      `json:"task_description"`
	ServiceStatus   *string     `json:"service_status"` // of its database; null before it was heard of
	Server          *MgmtServer `json:"server"`         // of the primary guest; null when there is none
	// Agents are those of its guests, the primary's first.
	Agents []MgmtAgent `json:"agents,omitempty"`
	// The following are in the answer to show alone.
	MgmtVolume    *MgmtVolume  `json:"volume"`
	GuestStatus   *GuestStatus `json:"guest_status,omitempty"`
	RootEnabled   *Time        `json:"root_enabled,omitempty"`
	RootEnabledBy string       `json:"root_enabled_by,omitempty"`
}

// MgmtAgent is the agent of a guest.
type MgmtAgent struct {
	GuestID string `json:"guest_id"`
	Version string `json:"version"` // "" before it was heard of
	Primary bool   `json:"primary"`
	SeenAt  Time   `json:"seen_at"` // its last sign of life; null before the first
}

// UpgradeAgentEnvelope is the wish for other guest agents.
type UpgradeAgentEnvelope struct {
	Upgrade *UpgradeAgent `json:"upgrade,omitempty"`
}

// UpgradeAgent names the program that agents are to become.
type UpgradeAgent struct {
	Location string `json:"location"`
	Metadata struct {
		SHA256 string `json:"sha256"`
	} `json:"metadata"`
}

// MgmtServer is the server of an instance's primary guest.
type MgmtServer struct {
	ID        string                     `json:"id"`
	Name      string                     `json:"name"`
	Addresses map[string][]ServerAddress `json:"addresses,omitempty"` // by network
}

// ServerAddress is an address in the words of the compute service.
type ServerAddress struct {
	Addr    string `json:"addr"`
	Version int    `json:"version"`
}

// MgmtVolume is the volume of an instance's primary guest.
type MgmtVolume struct {
	ID    string   `json:"id,omitempty"`
	Size  int      `json:"size"` // GB
	Used  *float64 `json:"used,omitempty"`
	Total *float64 `json:"total,omitempty"`
}

// MgmtVersion is a datastore version with what an administrator sets of it.
type MgmtVersion struct {
	ID               string   `json:"id"`
	Name             string   `json:"name"`
	Version          string   `json:"version"` // its number; the name when none was given
	DatastoreID      string   `json:"datastore_id"`
	DatastoreName    string   `json:"datastore_name"`
	DatastoreManager string   `json:"datastore_manager"`
	Image            string   `json:"image"`
	ImageTags        []string `json:"image_tags"`
	Packages         []string `json:"packages"`
	Active           bool     `json:"active"`
	Default          bool     `json:"default"`
	RegistryExt      string   `json:"registry_ext"`
	ReplStrategy     string   `json:"repl_strategy"`
}

// MgmtVersionEnvelope is the answer with one version.
type MgmtVersionEnvelope struct {
	Version MgmtVersion `json:"version"`
}

// MgmtVersionList is the versions of all datastores.
type MgmtVersionList struct {
	Versions []MgmtVersion `json:"versions"`
}

// CreateVersionRequest offers a version of a datastore.
type CreateVersionRequest struct {
	Version *CreateVersion `json:"version"`
}

// CreateVersion is a version as it is wished.
type CreateVersion struct {
	_             struct{} `wire:"strict"`
	DatastoreName string   `json:"datastore_name"`
	Number        string   `json:"version,omitempty"`
	UpdateVersion
}

// UpdateVersion is the body of a change; what is absent stays. It is in no envelope.
type UpdateVersion struct {
	_                struct{}  `wire:"strict"`
	Name             *string   `json:"name,omitempty"`
	DatastoreManager *string   `json:"datastore_manager,omitempty"`
	Image            *string   `json:"image,omitempty"`
	ImageTags        *[]string `json:"image_tags,omitempty"`
	Packages         *[]string `json:"packages,omitempty"`
	Active           *bool     `json:"active,omitempty"`
	Default          *bool     `json:"default,omitempty"`
	RegistryExt      *string   `json:"registry_ext,omitempty"`
	ReplStrategy     *string   `json:"repl_strategy,omitempty"`
}

// GuestStatus is what the primary guest said last of its database.
type GuestStatus struct {
	StateDescription string `json:"state_description"`
}

// MgmtInstanceEnvelope is the answer with one instance.
type MgmtInstanceEnvelope struct {
	Instance MgmtInstance `json:"instance"`
}

// MgmtInstanceList is a page of instances of all projects.
type MgmtInstanceList struct {
	Instances      []MgmtInstance `json:"instances"`
	Links          []Link         `json:"links,omitempty"`
	InstancesLinks []Link         `json:"instances_links,omitempty"`
}

// MgmtInstanceAction is one thing that an administrator does to an instance: exactly one key.
type MgmtInstanceAction struct {
	Stop            *struct{}       `json:"stop,omitempty"`
	Rebuild         *MgmtRebuild    `json:"rebuild,omitempty"`
	ResetTaskStatus *struct{}       `json:"reset-task-status,omitempty"`
	Reboot          json.RawMessage `json:"reboot,omitempty"`
	Migrate         json.RawMessage `json:"migrate,omitempty"`
}

// MgmtRebuild gives an instance a new root disk, of the image of its datastore version.
type MgmtRebuild struct {
	ImageID *string `json:"image_id,omitempty"`
}

// RootHistory tells since when and by whom root is enabled.
type RootHistory struct {
	RootHistory struct {
		ID      string `json:"id"`
		Enabled any    `json:"enabled"` // a time, or "Never"
		User    string `json:"user"`    // or "Nobody"
	} `json:"root_history"`
}

// MgmtCluster is a cluster as the administrator of all projects sees it.
type MgmtCluster struct {
	Cluster
	Deleted   bool  `json:"deleted"`
	DeletedAt *Time `json:"deleted_at,omitempty"`
}

// MgmtClusterEnvelope is the answer with one cluster.
type MgmtClusterEnvelope struct {
	Cluster MgmtCluster `json:"cluster"`
}

// MgmtClusterList is all clusters of all projects.
type MgmtClusterList struct {
	Clusters []MgmtCluster `json:"clusters"`
}

// MgmtClusterAction is one thing that an administrator does to a cluster.
type MgmtClusterAction struct {
	ResetTask *struct{} `json:"reset-task,omitempty"`
}
