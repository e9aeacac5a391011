package wire

// Finding is one thing of which the cloud and Grove's records disagree.
type Finding struct {
	ID          string `json:"id"`
	Problem     string `json:"problem"` // orphan: nothing accounts for it; missing: the cloud does not have it
	Kind        string `json:"kind"`
	ResourceID  string `json:"resource_id"`
	OwnerID     string `json:"owner_id"` // whose tag it carries: a guest, an instance, a group
	InstanceID  string `json:"instance_id,omitempty"`
	ProjectID   string `json:"project_id,omitempty"`
	Since       Time   `json:"since"`
	ToBeDeleted bool   `json:"to_be_deleted"`
	Failure     string `json:"failure,omitempty"` // why it could not be deleted yet
}

// FindingList is a page of findings.
type FindingList struct {
	Findings      []Finding `json:"findings"`
	Links         []Link    `json:"links,omitempty"`
	FindingsLinks []Link    `json:"findings_links,omitempty"`
}

// FindingsAction is what an administrator wants done about findings.
type FindingsAction struct {
	_      struct{}        `wire:"strict"`
	Delete *DeleteFindings `json:"delete,omitempty"`
}

// DeleteFindings names orphans to be deleted: some, or all.
type DeleteFindings struct {
	_        struct{} `wire:"strict"`
	Findings []string `json:"findings,omitempty"`
	All      bool     `json:"all,omitempty"`
}
