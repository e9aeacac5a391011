package control

import (
	"context"
	"fmt"
	"slices"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
)

// RestartCluster restarts the members one after the other, replicas first; a master hands over to a replica before.
func (s *Service) RestartCluster(ctx context.Context, c Caller, id string) (string, error) {
	return s.beginClusterChange(ctx, c, id, dbaas.ClusterRestart, func(_ *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error) {
		return change{kind: "restart_cluster"}, requireWhole(cl, members)
	})
}

// ResizeClusterVolume grows the volume of every member to gb, one after the other.
func (s *Service) ResizeClusterVolume(ctx context.Context, c Caller, id string, gb int) (string, error) {
	return s.resizeCluster(ctx, c, id, dbaas.QuotaVolumes, func(in *dbaas.Instance) (bool, error) {
		if gb < in.VolumeSize {
			return false, dbaas.Errorf(dbaas.BadRequest, "The volumes have %d GB and can only grow: ask for more than that.", in.VolumeSize)
		}
		grows := gb > in.VolumeSize
		in.VolumeSize = gb
		return grows, s.requireVolumeSize(gb)
	})
}

// ResizeClusterFlavor moves every member to another flavor, one after the other, replicas first.
func (s *Service) ResizeClusterFlavor(ctx context.Context, c Caller, id, flavorID string) (string, error) {
	catalog, err := s.Catalog(ctx)
	if err != nil {
		return "", err
	}
	view, err := s.Cluster(ctx, c, id)
	if err != nil {
		return "", err
	}
	for i := range view.Members {
		if err := s.requireDataFit(ctx, c, &view.Members[i], flavorID); err != nil {
			return "", err
		}
	}
	return s.resizeCluster(ctx, c, id, dbaas.QuotaRAM, func(in *dbaas.Instance) (bool, error) {
		if _, ok := catalog.Flavor(flavorID); !ok {
			return false, unknownFlavor(catalog, flavorID)
		}
		moves := in.FlavorID != flavorID
		in.FlavorID = flavorID
		return moves, nil
	})
}

// resizeCluster writes the new size of all members; the operation brings them to it. Members that have it already, as
// after one that failed half way, stay as they are.
func (s *Service) resizeCluster(ctx context.Context, c Caller, id, quota string, resize func(in *dbaas.Instance) (changes bool, err error)) (string, error) {
	return s.beginClusterChange(ctx, c, id, dbaas.ClusterResizing, func(tx *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error) {
		if err := requireWhole(cl, members); err != nil {
			return change{}, err
		}
		if err := tx.LockProject(cl.ProjectID); err != nil {
			return change{}, err
		}
		before, any := clusterSizes(members), false
		for i := range members {
			changes, err := resize(&members[i])
			if err != nil {
				return change{}, err
			}
			any = any || changes
			if err := s.requireValuesFit(ctx, tx, c, &members[i]); err != nil {
				return change{}, err
			}
			if err := tx.UpdateInstance(&members[i]); err != nil {
				return change{}, err
			}
		}
		if !any {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "All members of the cluster have that size already.")
		}
		kind := "resize_cluster_flavor"
		if quota == dbaas.QuotaVolumes {
			kind = "resize_cluster_volume"
		}
		ch := change{kind: kind, before: before, after: clusterSizes(members)}
		return ch, s.requireQuota(tx, cl.ProjectID, quota)
	})
}

// UpgradeCluster brings the members to another version one after the other, replicas first. Those that have it already, as
// after an upgrade that failed half way, stay as they are.
func (s *Service) UpgradeCluster(ctx context.Context, c Caller, id, version string) (string, error) {
	view, err := s.Cluster(ctx, c, id)
	if err != nil {
		return "", err
	}
	return s.beginClusterChange(ctx, c, id, dbaas.ClusterUpgrading, func(_ *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error) {
		if err := requireWhole(cl, members); err != nil {
			return change{}, err
		}
		from, to, err := s.clusterUpgrade(ctx, cl, members, version)
		if err != nil {
			return change{}, err
		}
		if cl.ConfigurationID != "" && from.ID != to.ID {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "The configuration group of cluster %s is for version %s: detach it before the upgrade.", cl.ID, from.Name)
		}
		ch := change{
			kind: "upgrade_cluster", state: UpgradeState{VersionID: to.ID}, effects: pauses(members, to.ID),
			before: map[string]any{"version": from.Name}, after: map[string]any{"version": to.Name},
		}
		if requireOneVersion(cl, members) != nil {
			return ch, nil // going on may be what makes it well: an older member cannot follow a newer one
		}
		return ch, requireWell(view)
	})
}

// clusterUpgrade resolves the version to go to, and requires that there is a way from that of every member. Members differ
// after an upgrade that failed half way.
func (s *Service) clusterUpgrade(ctx context.Context, cl *dbaas.Cluster, members []dbaas.Instance, version string) (from, to *VersionView, err error) {
	if from, err = s.versionByID(ctx, cl.DatastoreVersionID); err != nil {
		return nil, nil, err
	}
	if to, err = s.upgradeTarget(ctx, from, version); err != nil {
		return nil, nil, err
	}
	due := cl.DatastoreVersionID != to.ID
	for i := range members {
		has, err := s.versionByID(ctx, members[i].DatastoreVersionID)
		if err != nil {
			return nil, nil, err
		}
		if _, err := s.upgradeTarget(ctx, has, version); err != nil {
			return nil, nil, err
		}
		due = due || has.ID != to.ID
	}
	if !due {
		return nil, nil, dbaas.Errorf(dbaas.BadRequest, "Cluster %s has version %s already.", cl.ID, to.Name)
	}
	return from, to, nil
}

// pauses says which shards do not serve while their only member is upgraded.
func pauses(members []dbaas.Instance, versionID string) []string {
	size := map[string]int{}
	for i := range members {
		size[members[i].ShardID]++
	}
	alone := 0
	for i := range members {
		if size[members[i].ShardID] == 1 && members[i].DatastoreVersionID != versionID {
			alone++
		}
	}
	if alone == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d of %d shards have no replica: each does not answer while its master is upgraded, until that has loaded its data again.", alone, len(size))}
}

// requireWell refuses what takes members away, one at a time, while one does not serve.
func requireWell(v *ClusterView) error {
	for i := range v.Members {
		m := &v.Members[i]
		for _, g := range m.Guests {
			if g.Status != dbaas.GuestHealthy {
				return dbaas.Errorf(dbaas.Unprocessable, "The member %s (%s) of cluster %s does not serve (%s). What is lost is brought back without being asked; try again once the cluster is well.",
					m.Name, m.ID, v.ID, g.Status)
			}
		}
	}
	if h := v.Health; h != nil && h.State != "ok" {
		return dbaas.Errorf(dbaas.Unprocessable, "Cluster %s is not well (%s). It is being healed; try again once it is.", v.ID, h.State)
	}
	return nil
}

// requireOneVersion refuses what members of different versions cannot do together: those of the older one read nothing that
// those of the newer one write.
func requireOneVersion(cl *dbaas.Cluster, members []dbaas.Instance) error {
	for i := range members {
		if members[i].DatastoreVersionID != cl.DatastoreVersionID {
			return dbaas.Errorf(dbaas.Unprocessable, "The members of cluster %s are of different versions since an upgrade that did not end: upgrade it again first.", cl.ID)
		}
	}
	return nil
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	text := names[0]
	for _, n := range names[1:] {
		text += ", " + n
	}
	return text
}

// ConfigureClusterState is the private state of a configure_cluster operation: what a refusal goes back to, and how far
// it has come.
type ConfigureClusterState struct {
	ConfigureState
	// Root: the operation is about the password alone. What "root enabled" shall say afterwards is in the rest.
	Root        bool   `json:"root,omitempty"`
	RootEnabled bool   `json:"root_enabled,omitempty"`
	EnabledBy   string `json:"enabled_by,omitempty"`
}

// AttachClusterConfiguration makes a configuration group that of all members.
func (s *Service) AttachClusterConfiguration(ctx context.Context, c Caller, id, configurationID string) (string, error) {
	return s.beginClusterChange(ctx, c, id, dbaas.ClusterUpdating, func(tx *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error) {
		if cl.ConfigurationID == configurationID {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "Configuration group %s is attached to cluster %s already.", configurationID, cl.ID)
		}
		if err := requireOneVersion(cl, members); err != nil {
			return change{}, err
		}
		state, err := previousValues(tx, cl.ConfigurationID)
		if err != nil {
			return change{}, err
		}
		return s.configureCluster(ctx, tx, c, cl, members, configurationID, state, true)
	})
}

// DetachClusterConfiguration takes the configuration group off all members.
func (s *Service) DetachClusterConfiguration(ctx context.Context, c Caller, id string) (string, error) {
	return s.beginClusterChange(ctx, c, id, dbaas.ClusterUpdating, func(tx *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error) {
		if cl.ConfigurationID == "" {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "Cluster %s has no configuration group attached.", cl.ID)
		}
		state, err := previousValues(tx, cl.ConfigurationID)
		if err != nil {
			return change{}, err
		}
		return s.configureCluster(ctx, tx, c, cl, members, "", state, true)
	})
}

func previousValues(tx *store.Tx, configurationID string) (ConfigureState, error) {
	state := ConfigureState{PreviousConfigurationID: configurationID}
	if configurationID == "" {
		return state, nil
	}
	previous, err := tx.Configuration(configurationID)
	if err != nil {
		return state, err
	}
	state.PreviousValues = previous.Values
	return state, nil
}

// configureCluster writes the group to the cluster and its members. With password, a password in the group is set too.
func (s *Service) configureCluster(ctx context.Context, tx *store.Tx, c Caller, cl *dbaas.Cluster, members []dbaas.Instance,
	configurationID string, state ConfigureState, password bool) (change, error) {
	if err := requireWhole(cl, members); err != nil {
		return change{}, err
	}
	version, err := s.versionByID(ctx, cl.DatastoreVersionID)
	if err != nil {
		return change{}, err
	}
	cl.ConfigurationID = configurationID
	for i := range members {
		in := &members[i]
		in.ConfigurationID = configurationID
		group, err := s.configurationFor(ctx, tx, c, in, version)
		if err != nil {
			return change{}, err
		}
		if group != nil && password && i == 0 {
			value, err := groupPassword(tx, group)
			if err != nil {
				return change{}, err
			}
			if value != nil {
				state.SetsPassword = true
				if _, err := tx.PutSecret(cl.GroupID, SecretPendingPassword, value); err != nil {
					return change{}, err
				}
			}
		}
		if err := tx.UpdateInstance(in); err != nil {
			return change{}, err
		}
	}
	return change{
		kind: "configure_cluster", state: ConfigureClusterState{ConfigureState: state},
		before: map[string]any{"configuration": state.PreviousConfigurationID}, after: map[string]any{"configuration": configurationID},
	}, nil
}

// reconfigureCluster applies the changed values of a group to a cluster that it is attached to.
func (s *Service) reconfigureCluster(ctx context.Context, tx *store.Tx, c Caller, clusterID string, state ConfigureState, password bool) (string, error) {
	cl, members, err := ownCluster(tx, c, clusterID)
	if err != nil {
		return "", err
	}
	if err := requireClusterIdle(tx, cl); err != nil {
		return "", err
	}
	ch, err := s.configureCluster(ctx, tx, c, cl, members, cl.ConfigurationID, state, password)
	if err != nil {
		return "", err
	}
	cl.Task, cl.Fault, ch.cluster, ch.lock = dbaas.ClusterUpdating, nil, cl, idsOf(members)
	if err := tx.UpdateCluster(cl); err != nil {
		return "", err
	}
	return s.enqueue(tx, c, ch)
}

// EnableClusterRoot sets a new password of the tenant's account on all members, the given one or with "" a generated one.
func (s *Service) EnableClusterRoot(ctx context.Context, c Caller, id, password string) (*Root, error) {
	view, err := s.Cluster(ctx, c, id)
	if err != nil {
		return nil, err
	}
	m, err := s.manifest(&view.Version)
	if err != nil {
		return nil, err
	}
	if !m.Capabilities.Root {
		return nil, dbaas.Errorf(dbaas.NotImplemented, "Datastore %s has no root account.", m.Name)
	}
	if password == "" {
		password = secret.GeneratePassword()
	}
	root := &Root{Name: m.Root, Password: password}
	root.OperationID, err = s.beginClusterChange(ctx, c, id, dbaas.ClusterUpdating, func(tx *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (_ change, err error) {
		if err := requireWhole(cl, members); err != nil {
			return change{}, err
		}
		state, err := previousValues(tx, cl.ConfigurationID)
		if err != nil {
			return change{}, err
		}
		state.SetsPassword = true
		root.PasswordSecretID, err = tx.PutSecret(cl.GroupID, SecretPendingPassword, []byte(password))
		return change{kind: "configure_cluster", state: ConfigureClusterState{
			ConfigureState: state, Root: true, RootEnabled: true, EnabledBy: c.UserID,
		}}, err
	})
	if err != nil {
		return nil, err
	}
	return root, nil
}

// ClusterRootEnabled tells whether root was enabled on the cluster.
func (s *Service) ClusterRootEnabled(ctx context.Context, c Caller, id string) (bool, error) {
	view, err := s.Cluster(ctx, c, id)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(view.Members, func(in dbaas.InstanceView) bool { return !in.RootEnabledAt.IsZero() }), nil
}
