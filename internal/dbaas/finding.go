package dbaas

// Problem is how the cloud and the rows disagree.
type Problem string

// The problems. An orphan is in the cloud and no row accounts for it; what is missing is in a row and not in the cloud.
const (
	ProblemOrphan  Problem = "orphan"
	ProblemMissing Problem = "missing"
)

// Finding is one thing of which the cloud, or the broker, and the rows disagree.
type Finding struct {
	ID         string
	Problem    Problem
	Kind       string // of the cloud's resource: "server", "volume", ...; KindBrokerAccount
	ResourceID string
	OwnerID    string // whose tag it carries: a guest, an instance, a group
	InstanceID string // that the row belongs to; "" when there is none
	ProjectID  string
	FirstSeen  Instant
	ReportedAt Instant // 0 while it is young
	DeleteAt   Instant // when somebody wished its deletion; 0: nobody did
	DeleteBy   string
	Failure    string // why the deletion has not succeeded yet; for operators
}

// KindBrokerAccount is the kind of a finding that the message broker has, not the cloud.
const KindBrokerAccount = "broker_account"
