package wire

// Versions is the answer of the service's root: the versions of the API.
type Versions struct {
	Versions []APIVersion `json:"versions"`
}

// VersionDocument is the answer of the version's root.
type VersionDocument struct {
	Version APIVersion `json:"version"`
}

// APIVersion is a version of the API. Its time is one of the few with a zone.
type APIVersion struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Updated string `json:"updated"`
	Links   []Link `json:"links"`
}

// Datastore is a kind of database on offer.
type Datastore struct {
	ID             string    `json:"id"`
	Name           string    `json:"name"`
	DefaultVersion string    `json:"default_version,omitempty"`
	Versions       []Version `json:"versions"`
	Links          []Link    `json:"links"`
}

// Version is a version of a datastore; Datastore is absent inside a datastore.
type Version struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Version   string `json:"version"`
	Datastore string `json:"datastore,omitempty"`
	Links     []Link `json:"links"`
	*VersionAdmin
}

// VersionAdmin is what administrators see of a version beside the rest.
type VersionAdmin struct {
	Active      bool     `json:"active"`
	Packages    *string  `json:"packages"`
	Image       *string  `json:"image"`
	ImageTags   []string `json:"image_tags"`
	RegistryExt string   `json:"registry_ext"`
	ReplStrat   string   `json:"repl_strategy"`
}

// DatastoreList is all datastores.
type DatastoreList struct {
	Datastores []Datastore `json:"datastores"`
}

// DatastoreEnvelope is the answer with one datastore.
type DatastoreEnvelope struct {
	Datastore Datastore `json:"datastore"`
}

// VersionList is all versions of a datastore.
type VersionList struct {
	Versions []Version `json:"versions"`
}

// VersionEnvelope is the answer with one version.
type VersionEnvelope struct {
	Version Version `json:"version"`
}

// Parameter is a configuration parameter that tenants may set.
type Parameter struct {
	Name               string `json:"name"`
	Type               string `json:"type"`
	Min                *int64 `json:"min,omitempty"`
	Max                *int64 `json:"max,omitempty"`
	RestartRequired    bool   `json:"restart_required"`
	DatastoreVersionID string `json:"datastore_version_id"`
	// Values lists the choices of an enumeration.
	Values []string `json:"values,omitempty"`
}

// ParameterList is all parameters of a version.
type ParameterList struct {
	Parameters []Parameter `json:"configuration-parameters"`
}

// Flavor is a size of server. ID is null unless it is a plain decimal number; StrID is always there.
type Flavor struct {
	ID        *int64 `json:"id"`
	StrID     string `json:"str_id"`
	Name      string `json:"name"`
	RAM       int    `json:"ram"` // MB
	VCPUs     int    `json:"vcpus"`
	Disk      int    `json:"disk"`      // GB
	Ephemeral int    `json:"ephemeral"` // GB
	Links     []Link `json:"links"`
}

// FlavorList is all flavors.
type FlavorList struct {
	Flavors []Flavor `json:"flavors"`
}

// FlavorEnvelope is the answer with one flavor.
type FlavorEnvelope struct {
	Flavor Flavor `json:"flavor"`
}

// VolumeType is a kind of volume.
type VolumeType struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	IsPublic    bool    `json:"is_public"`
	Description *string `json:"description"`
}

// VolumeTypeList is all kinds of volumes.
type VolumeTypeList struct {
	VolumeTypes []VolumeType `json:"volume_types"`
}

// VolumeTypeEnvelope is the answer with one kind of volume.
type VolumeTypeEnvelope struct {
	VolumeType VolumeType `json:"volume_type"`
}

// LimitList is the absolute limits (first) and the rate limits. The elements are objects of two shapes.
type LimitList struct {
	Limits []any `json:"limits"`
}

// RateLimit is how many requests with a verb may be made, and how many remain. Its time carries a zone.
type RateLimit struct {
	Verb          string `json:"verb"`
	URI           string `json:"uri"`
	Regex         string `json:"regex"`
	Value         int    `json:"value"`
	Remaining     int    `json:"remaining"`
	Unit          string `json:"unit"`
	NextAvailable string `json:"nextAvailable"`
}

// Quota is a project's limit of a resource and what of it is in use; -1 is unlimited.
type Quota struct {
	Resource string `json:"resource"`
	InUse    int    `json:"in_use"`
	Reserved int    `json:"reserved"`
	Limit    int    `json:"limit"`
}

// QuotaList is a project's quotas.
type QuotaList struct {
	Quotas []Quota `json:"quotas"`
}

// SetQuotasRequest changes limits by resource; null leaves one as it is.
type SetQuotasRequest struct {
	Quotas map[string]*Number `json:"quotas"`
}

// QuotaLimits is the answer to SetQuotasRequest: what was changed.
type QuotaLimits struct {
	Quotas map[string]int `json:"quotas"`
}
