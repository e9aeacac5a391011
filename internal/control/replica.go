package control

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// MostReplicas is how many replicas one request may ask for.
const MostReplicas = 3

// CreateReplicas is the wish for replicas of an instance, whose flavor, volume, datastore, configuration group and network
// they get too, save where the wish says otherwise.
type CreateReplicas struct {
	Of              string
	Count           int    // 1 to MostReplicas
	Name            string // with several, "-1", "-2", ... is added
	ConfigurationID string // "" is the source's
	Zone            string // "" is the source's
	Region          string
	Nic             *dbaas.Nic // nil is the source's network
	Access          dbaas.Access
	// DeletionProtection is of each of them.
	DeletionProtection bool
}

// ReplicasState is the private state of a create_replicas operation.
type ReplicasState struct {
	ReplicaIDs []string `json:"replica_ids"`
}

// CreateReplicas accepts replicas of an instance, which goes on serving meanwhile. It gives the last of them.
func (s *Service) CreateReplicas(ctx context.Context, c Caller, r CreateReplicas) (*Created, error) {
	if err := s.requirePlace(ctx, c.ProjectID, r); err != nil {
		return nil, err
	}
	created := &Created{}
	var last *dbaas.Instance
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		source, err := s.sourceFor(ctx, tx, c, r.Of)
		if err != nil {
			return err
		}
		if err := tx.LockProject(source.ProjectID); err != nil {
			return err
		}
		group, err := tx.Group(source.GroupID)
		if err != nil {
			return err
		}
		group.Kind = dbaas.GroupReplication
		if err := tx.UpdateGroup(group); err != nil {
			return err
		}
		ch := change{kind: "create_replicas", instance: source, after: sizes(source)}
		var state ReplicasState
		for n := 1; n <= r.Count; n++ {
			last = newReplica(c, r, source, n)
			if err := s.insertReplica(ctx, tx, c, last); err != nil {
				return err
			}
			state.ReplicaIDs = append(state.ReplicaIDs, last.ID)
		}
		if err := s.requireQuota(tx, source.ProjectID, dbaas.QuotaInstances, dbaas.QuotaVolumes, dbaas.QuotaRAM); err != nil {
			return err
		}
		ch.state = state
		ch.lock, ch.shown = state.ReplicaIDs, last.ID
		created.OperationID, err = s.enqueue(tx, c, ch)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.nudge(ctx, created.OperationID)
	created.View, err = s.Store.InstanceView(ctx, last.ID)
	return created, err
}

// requirePlace refuses what the region does not have.
func (s *Service) requirePlace(ctx context.Context, projectID string, r CreateReplicas) error {
	if uuid.Validate(r.Of) != nil {
		return instanceNotFound(r.Of)
	}
	catalog, err := s.Catalog(ctx)
	if err != nil {
		return err
	}
	return s.requireRegion(catalog, projectID, r.Region, r.Zone, r.Nic)
}

// sourceFor locks the instance that is to have replicas.
func (s *Service) sourceFor(ctx context.Context, tx *store.Tx, c Caller, id string) (*dbaas.Instance, error) {
	source, err := ownInstance(tx, c, id)
	if err != nil {
		return nil, err
	}
	if err := s.requireReplication(ctx, source); err != nil {
		return nil, err
	}
	if source.ReplicaOf != "" {
		return nil, dbaas.Errorf(dbaas.Forbidden, "Instance %s is itself a replica: make replicas of its source %s.", id, source.ReplicaOf)
	}
	if err := requireIdle(tx, source); err != nil {
		return nil, err
	}
	return source, requireStarted(source, "making replicas of it")
}

// requireReplication refuses datastores whose databases cannot follow each other.
func (s *Service) requireReplication(ctx context.Context, in *dbaas.Instance) error {
	version, err := s.versionByID(ctx, in.DatastoreVersionID)
	if err != nil {
		return err
	}
	m, err := s.manifest(&version.DatastoreVersion)
	if err != nil {
		return err
	}
	if !m.Capabilities.Replication {
		return dbaas.Errorf(dbaas.NotImplemented, "The datastore %s has no replicas.", m.Name)
	}
	return nil
}

func newReplica(c Caller, r CreateReplicas, source *dbaas.Instance, n int) *dbaas.Instance {
	in := &dbaas.Instance{
		ID: newID(), ProjectID: source.ProjectID, GroupID: source.GroupID, ReplicaOf: source.ID, Name: r.Name,
		DatastoreVersionID: source.DatastoreVersionID, FlavorID: source.FlavorID,
		VolumeSize: source.VolumeSize, VolumeType: source.VolumeType,
		ConfigurationID: orElse(r.ConfigurationID, source.ConfigurationID), Region: source.Region,
		Zone: orElse(r.Zone, source.Zone), Locality: source.Locality, Nic: r.Nic, Access: r.Access,
		Persistence: source.Persistence, Profile: source.Profile, TLS: source.TLS,
		DeletionProtection: r.DeletionProtection, Task: dbaas.TaskBuilding,
	}
	if r.Count > 1 {
		in.Name = fmt.Sprintf("%s-%d", r.Name, n)
	}
	if in.Nic == nil && source.Nic != nil {
		in.Nic = &dbaas.Nic{NetworkID: source.Nic.NetworkID, SubnetID: source.Nic.SubnetID}
	}
	return in
}

func orElse(s, instead string) string {
	if s != "" {
		return s
	}
	return instead
}

// insertReplica writes the rows of a replica: the instance and its guest. Its group, and the group's secrets, are there.
func (s *Service) insertReplica(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance) error {
	version, err := s.versionByID(ctx, in.DatastoreVersionID)
	if err != nil {
		return err
	}
	if _, err := s.configurationFor(ctx, tx, c, in, version); err != nil {
		return err
	}
	return insertWithGuest(tx, in)
}

// PromoteState is the private state of a promote_replica operation.
type PromoteState struct {
	SourceID string `json:"source_id"` // that hands over
}

// PromoteReplica makes a replica the source of its set, without losing a write: the source and the other replicas
// follow it then.
func (s *Service) PromoteReplica(ctx context.Context, c Caller, id string) (string, error) {
	return s.changeSet(ctx, c, id, dbaas.TaskPromoting, func(tx *store.Tx, in *dbaas.Instance, set []dbaas.Instance) (change, error) {
		if in.ReplicaOf == "" {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "Instance %s is not a replica.", in.ID)
		}
		for i := range set {
			if set[i].ID != in.ReplicaOf && set[i].ID != in.ID {
				continue
			}
			if err := requireIdle(tx, &set[i]); err != nil {
				return change{}, err
			}
			if err := requireStarted(&set[i], "changing roles in its set"); err != nil {
				return change{}, err
			}
		}
		return change{kind: "promote_replica", state: PromoteState{SourceID: in.ReplicaOf}}, nil
	})
}

// EjectState is the private state of an eject_source operation.
type EjectState struct {
	// SuccessorID is the replica that takes over, once it is chosen.
	SuccessorID string `json:"successor_id,omitempty"`
	// Fenced: the epoch was raised. LeftGroupID is the group that the old source is in from then on.
	Fenced      bool   `json:"fenced,omitempty"`
	LeftGroupID string `json:"left_group_id,omitempty"`
}

// EjectSource has the most advanced replica take over from a source that is down, which then is an instance of its own.
func (s *Service) EjectSource(ctx context.Context, c Caller, id string) (string, error) {
	view, err := s.Instance(ctx, c, id)
	if err != nil {
		return "", err
	}
	return s.changeSet(ctx, c, id, dbaas.TaskEjecting, func(_ *store.Tx, in *dbaas.Instance, set []dbaas.Instance) (change, error) {
		switch {
		case in.ReplicaOf != "" || len(set) < 2:
			return change{}, dbaas.Errorf(dbaas.BadRequest, "Instance %s has no replicas that could take over.", in.ID)
		case !view.Down(dbaas.At(s.Clock.Now())):
			return change{}, dbaas.Errorf(dbaas.BadRequest,
				"Instance %s is alive: promote one of its replicas (promote_to_replica_source), which loses nothing.", in.ID)
		}
		return change{kind: "eject_source"}, nil
	})
}

// changeSet begins a change of roles: the whole set is busy with it. Members that are in ERROR stay so.
func (s *Service) changeSet(ctx context.Context, c Caller, id string, task dbaas.Task,
	edit func(tx *store.Tx, in *dbaas.Instance, set []dbaas.Instance) (change, error)) (string, error) {
	var operationID string
	err := s.commit(ctx, c, func(tx *store.Tx) error {
		in, err := ownInstance(tx, c, id)
		if err != nil {
			return err
		}
		if err := s.requireReplication(ctx, in); err != nil {
			return err
		}
		if in.ClusterID != "" {
			return dbaas.Errorf(dbaas.NotImplemented, "Instance %s is a member of cluster %s, which chooses its masters itself.", in.ID, in.ClusterID)
		}
		set, err := tx.GroupMembers(in.GroupID)
		if err != nil {
			return err
		}
		ch, err := edit(tx, in, set)
		if err != nil {
			return err
		}
		if ch.lock, err = beginTask(tx, set, task); err != nil {
			return err
		}
		ch.instance = in
		operationID, err = s.enqueue(tx, c, ch)
		return err
	})
	if err != nil {
		return "", err
	}
	s.nudge(ctx, operationID)
	return operationID, nil
}

// beginTask makes instances busy, save those that are in ERROR, and gives the ids of all.
func beginTask(tx *store.Tx, set []dbaas.Instance, task dbaas.Task) ([]string, error) {
	var ids []string
	for i := range set {
		in := &set[i]
		ids = append(ids, in.ID)
		if !in.Task.Idle() {
			continue
		}
		in.Task, in.Fault = task, nil
		if err := tx.UpdateInstance(in); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// detach makes a replica an instance of its own, with the data that it has.
func (s *Service) detach(tx *store.Tx, c Caller, in *dbaas.Instance) (string, error) {
	if in.ReplicaOf == "" {
		return "", dbaas.Errorf(dbaas.BadRequest, "Instance %s is not a replica.", in.ID)
	}
	if err := requireIdle(tx, in); err != nil {
		return "", err
	}
	if err := requireStarted(in, "detaching it"); err != nil {
		return "", err
	}
	in.Task, in.Fault = dbaas.TaskDetaching, nil
	return s.enqueue(tx, c, change{kind: "detach_replica", instance: in, before: map[string]any{"replica_of": in.ReplicaOf}})
}
