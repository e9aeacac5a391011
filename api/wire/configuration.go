package wire

// Configuration is a configuration group as lists show it, with the detail where an answer has that.
type Configuration struct {
	ID                     string  `json:"id"`
	Name                   string  `json:"name"`
	Description            *string `json:"description"`
	Created                Time    `json:"created"`
	Updated                Time    `json:"updated"`
	DatastoreName          string  `json:"datastore_name"`
	DatastoreVersionID     string  `json:"datastore_version_id"`
	DatastoreVersionName   string  `json:"datastore_version_name"`
	DatastoreVersionNumber string  `json:"datastore_version_number"`
	*ConfigurationDetail
}

// ConfigurationDetail is what show and create have beside the summary. Secret values are shown as [Masked].
type ConfigurationDetail struct {
	Values        map[string]any `json:"values"`
	InstanceCount int            `json:"instance_count"`
}

// Masked stands for a secret value.
const Masked = "***"

// ConfigurationEnvelope is the answer with one group.
type ConfigurationEnvelope struct {
	Configuration Configuration `json:"configuration"`
}

// ConfigurationList is a page of groups.
type ConfigurationList struct {
	Configurations      []Configuration `json:"configurations"`
	Links               []Link          `json:"links,omitempty"`
	ConfigurationsLinks []Link          `json:"configurations_links,omitempty"`
}

// CreateConfigurationRequest asks for a group.
type CreateConfigurationRequest struct {
	Configuration *CreateConfiguration `json:"configuration"`
}

// CreateConfiguration is the wish for a group. Values is required and may be empty.
type CreateConfiguration struct {
	Name        string         `json:"name"`
	Description *string        `json:"description,omitempty"`
	Values      map[string]any `json:"values"`
	Datastore   *DatastoreRef  `json:"datastore,omitempty"`
}

// UpdateConfigurationRequest changes a group: PUT replaces all values, PATCH merges them.
type UpdateConfigurationRequest struct {
	Configuration *UpdateConfiguration `json:"configuration"`
}

// UpdateConfiguration is a change of a group.
type UpdateConfiguration struct {
	Name        *string        `json:"name,omitempty"`
	Description *string        `json:"description,omitempty"`
	Values      map[string]any `json:"values,omitempty"`
}

// ConfigurationInstances is a page of the instances that a group is attached to.
type ConfigurationInstances struct {
	Instances      []Resource `json:"instances"`
	Links          []Link     `json:"links,omitempty"`
	InstancesLinks []Link     `json:"instances_links,omitempty"`
}
