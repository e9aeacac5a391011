package control

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// UpgradeState is the private state of an upgrade_instance operation: the version to go to, by id.
type UpgradeState struct {
	VersionID string `json:"version_id"`
}

// upgrade enqueues that an instance, and all who share its data, become another version. What the data cannot be brought
// to is refused before anything starts. The same version again is applied anew.
func (s *Service) upgrade(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance, version string) (string, error) {
	if err := requireIdle(tx, in); err != nil {
		return "", err
	}
	if err := requireStarted(in, "upgrading it"); err != nil {
		return "", err
	}
	from, err := s.versionByID(ctx, in.DatastoreVersionID)
	if err != nil {
		return "", err
	}
	to, err := s.upgradeTarget(ctx, from, version)
	if err != nil {
		return "", err
	}
	others, err := otherMembers(tx, in)
	if err != nil {
		return "", err
	}
	if err := requireUpgradable(tx, in, from, to, others); err != nil {
		return "", err
	}
	if err := requireInStep(tx, in); err != nil {
		return "", err
	}
	in.Task, in.Fault = dbaas.TaskUpgrading, nil
	return s.enqueue(tx, c, change{
		kind: forPair(in, "upgrade_instance", "upgrade_pair"), instance: in, lock: others, state: UpgradeState{VersionID: to.ID},
		before: map[string]any{"version": from.Name}, after: map[string]any{"version": to.Name},
	})
}

// upgradeTarget resolves the version to go to, by id or name, and requires that there is a way.
func (s *Service) upgradeTarget(ctx context.Context, from *VersionView, version string) (*VersionView, error) {
	to, err := s.activeVersion(ctx, from.Datastore.Name, version, "")
	if err != nil && uuid.Validate(version) == nil {
		return nil, versionNotFound(version)
	}
	if err != nil {
		return nil, err
	}
	m, err := s.manifest(&from.DatastoreVersion)
	if err != nil {
		return nil, err
	}
	if possible := m.Capabilities.Upgrades[from.Name]; to.ID != from.ID && !slices.Contains(possible, to.Name) {
		return nil, dbaas.Errorf(dbaas.BadRequest, "Version %s cannot be made version %s with its data kept; possible are: %s.", from.Name, to.Name, listed(possible))
	}
	return to, nil
}

// requireUpgradable refuses what would leave a member of the group behind.
func requireUpgradable(tx *store.Tx, in *dbaas.Instance, from, to *VersionView, others []string) error {
	if in.ReplicaOf != "" {
		return dbaas.Errorf(dbaas.BadRequest, "Instance %s is a replica: upgrade its source, %s, and all replicas with it.", in.ID, in.ReplicaOf)
	}
	for _, id := range append([]string{in.ID}, others...) {
		one, err := tx.Instance(id)
		if err != nil {
			return err
		}
		if to.ID != from.ID && one.ConfigurationID != "" {
			return dbaas.Errorf(dbaas.BadRequest, "The configuration group of instance %s is for version %s: detach it before the upgrade.", id, from.Name)
		}
		if err := requireStarted(one, "its group is upgraded"); err != nil {
			return err
		}
		if id != in.ID && !one.Task.Idle() {
			return dbaas.Errorf(dbaas.Unprocessable, "Instance %s of the group is not available (status %s).", id, one.Task.Status())
		}
	}
	return nil
}
