package dbaas

// OperationStatus is where an operation stands.
type OperationStatus string

// The statuses of an operation. Running and failing ones hold locks; the others have ended.
const (
	OperationRunning   OperationStatus = "running"
	OperationFailing   OperationStatus = "failing" // its workflow's Failed is at work
	OperationParked    OperationStatus = "parked"  // pre-empted by a failover, goes on afterwards
	OperationSucceeded OperationStatus = "succeeded"
	OperationFailed    OperationStatus = "failed"
	OperationCancelled OperationStatus = "cancelled"
)

// Ended tells whether the operation has come to its end.
func (s OperationStatus) Ended() bool {
	return s == OperationSucceeded || s == OperationFailed || s == OperationCancelled
}

// Operation is one accepted change and how far it has come: the durable half of a workflow.
type Operation struct {
	ID           string
	Kind         string // of the workflow that runs it; a delete changes it (SupersededBy)
	ProjectID    string
	ResourceType string // "instance", "configuration", ...
	ResourceID   string
	GroupID      string // "" when the resource has no group
	ParentID     string // "" unless a step of another operation made it
	Status       OperationStatus
	Step         string // the step that runs or runs next
	StepNumber   int    // counts from 1, for progress
	StepTotal    int
	State        JSON `gorm:"serializer:json"` // the workflow's private state: ids, never secret values
	Attempt      int  // of the current step
	StepSince    Instant
	Progress     string // one phrase for users: what is being waited for
	WakeAt       Instant
	LeaseOwner   string
	LeaseUntil   Instant
	LeaseEpoch   int64  // grows with each claim; guards every save and every command to a guest
	SupersededBy string // kind of the workflow that takes this row over before the next step
	ParkedBy     string // id of the failover that pre-empted it
	Cancel       bool   // an operator asked to end it; it fails at the next step boundary
	ChildFailure string // the first failed child's sentence
	Failure      *Fault `gorm:"serializer:json"`
	RequestID    string
	TraceParent  string
	Actor        string  // user id, or "schedule:<id>", "watch"
	CreatedAt    Instant `gorm:"autoCreateTime:false"`
	UpdatedAt    Instant `gorm:"autoUpdateTime:false"`
	EndedAt      Instant
}

// OperationStep is one line of an operation's history, as GET /operations/{id} shows it.
type OperationStep struct {
	OperationID string
	Number      int // order of the record within its operation
	Kind        string
	Step        string
	Attempt     int
	StartedAt   Instant
	EndedAt     Instant
	Outcome     string // "done", "retry", "failed"; waits are not recorded
	Message     string
}

// OperationLock gives a resource to one operation. The primary key makes the database refuse a second one.
type OperationLock struct {
	ResourceID  string `gorm:"primaryKey"`
	OperationID string
	ParkedID    string // the operation that gets the lock back when a failover ends
}

// Event is one line of what happened to a resource, enough to audit and to bill from.
type Event struct {
	ID            string
	ProjectID     string
	ResourceType  string
	ResourceID    string
	OperationID   string
	Kind          string // "instance.create.start", "guest.status", "disk.usage", ...
	Message       string
	Actor         string
	RequestID     string
	SourceAddress string
	Before        JSON    `gorm:"serializer:json"` // sizes before the change
	After         JSON    `gorm:"serializer:json"`
	CreatedAt     Instant `gorm:"autoCreateTime:false"`
}
