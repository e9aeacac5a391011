package dbaas

import (
	"encoding/json"
	"time"
)

// HeartbeatExpiry is how old a guest's last sign of life may be before its instance shows ERROR (api.md 4.2).
const HeartbeatExpiry = 90 * time.Second

// InstanceView is an instance with all that the API shows beside it, read in a bounded number of queries.
type InstanceView struct {
	Instance
	Datastore         string // name
	Version           DatastoreVersion
	Guests            []Guest              // that live, the primary first
	Heartbeats        map[string]Heartbeat // by guest id; a missing one is unknown, not down
	Replicas          []string             // ids of live replicas, ascending
	ConfigurationName string
	Operation         *Operation // that holds the instance's lock, nil when idle
}

// Status is the API's status.
func (v *InstanceView) Status() Status { return v.Task.Status() }

// OperatingStatus is the API's operating_status at the instant now: "" while a task runs, else what the guest says,
// and ERROR when the guest is known to have fallen silent.
func (v *InstanceView) OperatingStatus(now Instant) string {
	if v.Task != TaskNone || len(v.Guests) == 0 {
		return ""
	}
	if v.silent(now) {
		return GuestUnknown.OperatingStatus()
	}
	return v.Guests[0].Status.OperatingStatus()
}

// OperatingCause is a sentence for the tenant on why the operating status is not HEALTHY; "" when there is none.
func (v *InstanceView) OperatingCause(now Instant) string {
	if len(v.Guests) == 0 {
		return ""
	}
	if v.silent(now) {
		return "The guest has given no sign of life since " + v.Heartbeats[v.Guests[0].ID].SeenAt.Time().Format(time.RFC3339) + "; restart the instance."
	}
	if v.Stopped && v.Guests[0].Status == GuestShutdown {
		return "The instance was stopped; start it when it is needed again."
	}
	return v.Guests[0].StatusCause
}

// Drift is a setting that is otherwise than Grove set it, as a guest observed it under the key "drift".
type Drift struct {
	Setting  string `json:"setting"`
	Value    string `json:"value"`
	Expected string `json:"expected"`
	Advice   string `json:"advice,omitempty"`
}

// Drift lists what the primary guest found to be otherwise than it should be.
func (v *InstanceView) Drift() []Drift {
	if len(v.Guests) == 0 || len(v.Guests[0].Observed) == 0 {
		return nil
	}
	var observed struct {
		Drift []Drift `json:"drift"`
	}
	if json.Unmarshal(v.Guests[0].Observed, &observed) != nil {
		return nil // an agent of another release
	}
	return observed.Drift
}

// Down tells whether the primary's database is known not to serve at the instant now: its agent says so, or has fallen
// silent.
func (v *InstanceView) Down(now Instant) bool {
	if len(v.Guests) == 0 {
		return false
	}
	switch v.Guests[0].Status {
	case GuestShutdown, GuestCrashed, GuestFailed:
		return true
	default:
		return v.silent(now)
	}
}

// silent tells whether the guest has fallen silent. One that was never heard of is unknown, not silent.
func (v *InstanceView) silent(now Instant) bool {
	h, ok := v.Heartbeats[v.Guests[0].ID]
	return ok && now.Sub(h.SeenAt) > HeartbeatExpiry
}
