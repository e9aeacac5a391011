package control

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// ChangeAvailability is the wish for another form: Wish nil makes the instance a single one.
type ChangeAvailability struct {
	Wish *dbaas.HighAvailability
}

// GuestState is the private state of an operation about one guest of an instance.
type GuestState struct {
	GuestID string `json:"guest_id"`
	// Previous is the form that the instance had, for one that fails.
	Previous *dbaas.HighAvailability `json:"previous,omitempty"`
}

// setAvailability makes a single instance a hot standby, or back, or changes its class. Id and address stay.
func (s *Service) setAvailability(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance, wish *dbaas.HighAvailability) (string, error) {
	if err := requireIdle(tx, in); err != nil {
		return "", err
	}
	if err := requireStarted(in, "changing its form"); err != nil {
		return "", err
	}
	before := in.HighAvailability
	ch := change{instance: in, before: map[string]any{"high_availability": before}, after: map[string]any{"high_availability": wish}}
	state := GuestState{Previous: before}
	in.HighAvailability = wish
	switch {
	case before == nil && wish == nil, before != nil && wish != nil && *before == *wish:
		return "", nil
	case before == nil:
		version, err := s.versionByID(ctx, in.DatastoreVersionID)
		if err != nil {
			return "", err
		}
		if err := s.requireStandbyPossible(version, in); err != nil {
			return "", err
		}
		if err := tx.LockProject(in.ProjectID); err != nil {
			return "", err
		}
		guest, err := InsertGuest(tx, in, newID())
		if err != nil {
			return "", err
		}
		ch.kind, state.GuestID = "add_guest", guest.ID
	case wish == nil:
		guests, err := tx.Guests(in.ID)
		if err != nil {
			return "", err
		}
		ch.kind = "remove_guest"
		for _, g := range guests {
			if g.ID != in.PrimaryGuestID {
				state.GuestID = g.ID
			}
		}
	default:
		ch.kind = "change_availability"
	}
	ch.state = state
	in.Task, in.Fault = dbaas.TaskUpdating, nil
	if err := tx.UpdateInstance(in); err != nil {
		return "", err
	}
	if before == nil {
		if err := s.requireQuota(tx, in.ProjectID, dbaas.QuotaVolumes, dbaas.QuotaRAM); err != nil {
			return "", err
		}
	}
	return s.enqueue(tx, c, ch)
}

// requireStandbyPossible refuses a hot standby where it cannot be.
func (s *Service) requireStandbyPossible(version *VersionView, in *dbaas.Instance) error {
	m, err := s.manifest(&version.DatastoreVersion)
	switch {
	case err != nil:
		return err
	case !m.Capabilities.Replication:
		return dbaas.Errorf(dbaas.NotImplemented, "The datastore %s has no replication, and so no high_availability.", m.Name)
	case in.ReplicaOf != "":
		return dbaas.Errorf(dbaas.BadRequest, "A replica has no standby of its own: give high_availability to its source, or promote it first.")
	case in.ClusterID != "":
		return dbaas.Errorf(dbaas.BadRequest, "A cluster's members have replicas, not standbys: set replicas_per_shard.")
	}
	return nil
}

// FailoverState is the private state of a failover.
type FailoverState struct {
	// Planned: the primary lives and hands over without loss. Drill: it lives, and is treated as if it did not.
	Planned bool `json:"planned,omitempty"`
	Drill   bool `json:"drill,omitempty"`
	// From is the guest that took the writes when this began, To the one that takes them now.
	From string `json:"from"`
	To   string `json:"to,omitempty"`
	// Cause is a sentence on why.
	Cause string `json:"cause,omitempty"`
	// Revive: nobody could take over, so that the primary is started again where it is.
	Revive bool `json:"revive,omitempty"`
	// Turned: the primary did not come back, and the standby did.
	Turned bool `json:"turned,omitempty"`
	// OwnWord: the primary's own agent said that it is dead.
	OwnWord bool `json:"own_word,omitempty"`
	// Silent: nobody reached the primary's server, so that its agent is not the first to be asked to end it.
	Silent bool `json:"silent,omitempty"`
	// Over: it was not needed after all.
	Over bool `json:"over,omitempty"`
	// Settled counts what was done of the end of one that failed for good.
	Settled    int                 `json:"settled,omitempty"`
	Fenced     string              `json:"fenced,omitempty"`    // by whom: "agent", "cloud", "nobody"
	Before     *datastore.Position `json:"before,omitempty"`    // of the old primary, as far as it is known
	BeforeAt   dbaas.Instant       `json:"before_at,omitempty"` // when that was told last
	After      *datastore.Position `json:"after,omitempty"`     // of the new one, when it was chosen
	Missed     []string            `json:"missed,omitempty"`    // replicas that could not be told yet
	DetectedAt dbaas.Instant       `json:"detected_at,omitempty"`
	FencedAt   dbaas.Instant       `json:"fenced_at,omitempty"`
	PromotedAt dbaas.Instant       `json:"promoted_at,omitempty"`
	PointedAt  dbaas.Instant       `json:"pointed_at,omitempty"`
}

// FailOver hands an instance's writes to its standby: without losing one, or, as a drill, as if the primary had died.
func (s *Service) FailOver(ctx context.Context, c Caller, id string, drill bool) (string, error) {
	return s.beginChange(ctx, c, id, dbaas.TaskPromoting, func(tx *store.Tx, in *dbaas.Instance) (change, error) {
		if in.HighAvailability == nil {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "Instance %s has no standby: give it high_availability first.", in.ID)
		}
		if err := requireStarted(in, "a failover"); err != nil {
			return change{}, err
		}
		if err := requireInStep(tx, in); err != nil {
			return change{}, err
		}
		return change{kind: "failover", state: FailoverState{
			Planned: !drill, Drill: drill, From: in.PrimaryGuestID, Cause: "It was asked for.", DetectedAt: tx.Now(),
		}}, nil
	})
}

// requireInStep refuses what a hot standby's other guest is needed for, as long as that could not take over.
func requireInStep(tx *store.Tx, in *dbaas.Instance) error {
	if in.HighAvailability == nil {
		return nil
	}
	guests, err := tx.Guests(in.ID)
	if err != nil {
		return err
	}
	if !standbyReady(guests, in.PrimaryGuestID) {
		return dbaas.Errorf(dbaas.Unprocessable, "The standby of instance %s is not in step; wait until high_availability.state is protected.", in.ID)
	}
	return nil
}

// forPair chooses between what is done to a single database in place and to a hot standby guest by guest.
func forPair(in *dbaas.Instance, single, pair string) string {
	if in.HighAvailability != nil {
		return pair
	}
	return single
}

// standbyReady tells whether a guest beside the primary could take over.
func standbyReady(guests []dbaas.Guest, primary string) bool {
	for i := range guests {
		if guests[i].ID != primary && guests[i].Status == dbaas.GuestHealthy && inStep(&guests[i]) {
			return true
		}
	}
	return false
}

// inStep tells whether a guest last said that it follows its master closely.
func inStep(g *dbaas.Guest) bool {
	r := ReplicationIn(g.Observed)
	return r != nil && r.Role == datastore.RoleReplica && r.LinkUp && !r.Syncing
}

// ReplicationIn is what a database said of its place in its group; nil when it said nothing.
func ReplicationIn(observed []byte) *datastore.Replication {
	var said struct {
		Replication *datastore.Replication `json:"replication"`
	}
	if len(observed) == 0 || json.Unmarshal(observed, &said) != nil {
		return nil
	}
	return said.Replication
}

// The states of a hot standby.
const (
	Protected   = "protected"
	Degraded    = "degraded"     // were the primary to die now, nobody could take over
	FailingOver = "failing_over" // somebody is just doing so
)

// Protection is how well a hot standby is protected now, as its guests said last.
type Protection struct {
	State   string
	Cause   string // why it is not protected
	Standby *dbaas.Guest
	Role    datastore.Role
	InStep  bool
	// Lag is how far the standby is behind, in seconds; -1 when that is not known.
	Lag float64
}

// MetricLag is the metric by which a master tells how many seconds ago the last of its replicas told how far it is.
const MetricLag = "replica_lag_seconds"

// lagBehind is what a guest's last sign of life says of MetricLag, -1 when it says nothing.
func lagBehind(beat dbaas.Heartbeat) float64 {
	var metrics map[string]float64
	if json.Unmarshal([]byte(beat.Metrics), &metrics) == nil {
		if lag, ok := metrics[MetricLag]; ok {
			return lag
		}
	}
	return -1
}

// Protection tells how well a hot standby is protected; nil for other instances. It calls nobody.
func (s *Service) Protection(v *dbaas.InstanceView) *Protection {
	if v.HighAvailability == nil {
		return nil
	}
	p := &Protection{State: Degraded, Lag: -1, Cause: "There is no standby yet."}
	for i := range v.Guests {
		if v.Guests[i].ID != v.PrimaryGuestID {
			p.Standby = &v.Guests[i]
		}
	}
	if p.Standby != nil {
		p.judge(v, dbaas.At(s.Clock.Now()))
	}
	if op := v.Operation; op != nil && op.Kind == "failover" {
		p.State, p.Cause = FailingOver, "A failover is running."
	}
	return p
}

// misses tells whether a guest said last that it does not see another.
func misses(g *dbaas.Guest, other string) bool {
	var views []datastore.PeerView
	if len(g.Peers) == 0 || json.Unmarshal(g.Peers, &views) != nil {
		return false
	}
	return slices.ContainsFunc(views, func(v datastore.PeerView) bool { return v.GuestID == other && !v.Alive })
}

func (p *Protection) judge(v *dbaas.InstanceView, now dbaas.Instant) {
	if r := ReplicationIn(p.Standby.Observed); r != nil {
		p.Role = r.Role
	}
	p.InStep = inStep(p.Standby)
	beat, heard := v.Heartbeats[p.Standby.ID]
	if p.InStep {
		p.Lag = lagBehind(v.Heartbeats[v.PrimaryGuestID])
	}
	switch {
	case heard && now.Sub(beat.SeenAt) > dbaas.HeartbeatExpiry:
		p.Cause = "The standby has fallen silent."
	case p.Standby.Status != dbaas.GuestHealthy:
		p.Cause = "The standby's database is " + string(p.Standby.Status) + "."
	case !p.InStep:
		p.Cause = "The standby is not in step with the primary."
	case misses(p.Standby, v.PrimaryGuestID):
		p.Cause = "The standby does not reach the primary."
	default:
		p.State, p.Cause = Protected, ""
	}
}
