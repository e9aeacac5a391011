package wire

import "encoding/json"

// OperationSummary is how far an operation has come.
type OperationSummary struct {
	ID         string `json:"id"`
	Kind       string `json:"kind"`
	Status     string `json:"status"` // running, failing, parked, succeeded, failed, cancelled
	Step       string `json:"step"`
	StepNumber int    `json:"step_number"` // counts from 1
	StepTotal  int    `json:"step_total"`
	Progress   string `json:"progress"` // what is being waited for
}

// Operation is one accepted change.
type Operation struct {
	OperationSummary
	ResourceType string         `json:"resource_type"`
	ResourceID   string         `json:"resource_id"`
	ParentID     string         `json:"parent_id,omitempty"`
	TenantID     string         `json:"tenant_id,omitempty"` // for administrators
	Attempt      int            `json:"attempt"`
	RequestID    string         `json:"request_id"`
	Actor        string         `json:"actor"`
	Failure      *InstanceFault `json:"failure,omitempty"`
	Created      Time           `json:"created"`
	Updated      Time           `json:"updated"`
	Ended        Time           `json:"ended"` // null while it has not
	// Steps is the history, in the answer with one operation.
	Steps []OperationStep `json:"steps,omitempty"`
}

// OperationStep is one line of an operation's history.
type OperationStep struct {
	Kind    string  `json:"kind"`
	Step    string  `json:"step"`
	Attempt int     `json:"attempt"`
	Started Time    `json:"started"`
	Ended   Time    `json:"ended"`
	Seconds float64 `json:"seconds"`
	Outcome string  `json:"outcome"`           // done, retry, failed
	Message string  `json:"message,omitempty"` // for administrators
}

// OperationEnvelope is the answer with one operation.
type OperationEnvelope struct {
	Operation Operation `json:"operation"`
}

// OperationList is a page of operations, the newest first.
type OperationList struct {
	Operations      []Operation `json:"operations"`
	Links           []Link      `json:"links,omitempty"`
	OperationsLinks []Link      `json:"operations_links,omitempty"`
}

// OperationAction is a deed to do with an operation: exactly one of the keys.
type OperationAction struct {
	_      struct{}  `wire:"strict"`
	Retry  *struct{} `json:"retry,omitempty"`
	Cancel *struct{} `json:"cancel,omitempty"`
}

// Event is one line of what happened to a resource.
type Event struct {
	ID            string          `json:"id"`
	Kind          string          `json:"kind"`
	Message       string          `json:"message"`
	ResourceType  string          `json:"resource_type"`
	ResourceID    string          `json:"resource_id"`
	TenantID      string          `json:"tenant_id,omitempty"` // for administrators
	OperationID   string          `json:"operation_id,omitempty"`
	Actor         string          `json:"actor,omitempty"`
	RequestID     string          `json:"request_id,omitempty"`
	SourceAddress string          `json:"source_address,omitempty"`
	Before        json.RawMessage `json:"before,omitempty"`
	After         json.RawMessage `json:"after,omitempty"`
	Created       Time            `json:"created"`
}

// EventList is a page of events, the newest first.
type EventList struct {
	Events      []Event `json:"events"`
	Links       []Link  `json:"links,omitempty"`
	EventsLinks []Link  `json:"events_links,omitempty"`
}

// DryRunEnvelope is the answer to a request with dry_run=true.
type DryRunEnvelope struct {
	DryRun DryRun `json:"dry_run"`
}

// DryRun is what a request would do.
type DryRun struct {
	Operation string   `json:"operation,omitempty"` // kind; "" for what takes effect at once
	Resources []string `json:"resources"`           // ids of what it would change
	Steps     []string `json:"steps"`
	Effects   []string `json:"effects"` // what users would notice
	OnFailure string   `json:"on_failure,omitempty"`
	Moves     *Moves   `json:"moves,omitempty"`
}

// Moves is what a change would move between the members of a cluster.
type Moves struct {
	Moves      []Move           `json:"moves"`
	Bytes      int64            `json:"bytes"`
	Duration   int              `json:"duration_seconds"`
	FreeMemory map[string]int64 `json:"free_memory,omitempty"` // that a receiving member needs besides what it has
	Warnings   []string         `json:"warnings,omitempty"`
}

// Move is one part of them.
type Move struct {
	From  string `json:"from"`
	To    string `json:"to"`
	What  string `json:"what"`
	Units int    `json:"units"`
	Bytes int64  `json:"bytes"`
}
