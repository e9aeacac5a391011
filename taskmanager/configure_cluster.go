package taskmanager

import (
	"context"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) configureCluster() engine.Workflow {
	return engine.Workflow{
		Kind: "configure_cluster",
		Doc:  "Applies the configuration group, or a new password, to every member; dynamic values live, others at the next restart.",
		Steps: []engine.Step{
			{Name: "configureMembers", Doc: "configuring the members", Run: m.configureMembers, Within: time.Hour},
			{Name: "markConfigured", Doc: "publishing the cluster", Run: m.markClusterConfigured, Within: 5 * time.Minute},
		},
		Failed: m.restoring(m.restoreMembers, m.keepClusterConfiguration),
		Ended:  "Task NONE with the fault and the values that were in force before.",
	}
}

// configureClusterState adds what the steps pass on to what the request left.
type configureClusterState struct {
	control.ConfigureClusterState
	Done            []string            `json:"done,omitempty"` // guests
	Restored        []string            `json:"restored,omitempty"`
	Missed          []string            `json:"missed,omitempty"`           // guests that do not answer
	RestartRequired map[string][]string `json:"restart_required,omitempty"` // by guest
}

// configureMembers configures one member at a time. Those that do not answer are given patience, and then missed.
func (m *Manager) configureMembers(ctx context.Context, op *engine.Operation) error {
	var state configureClusterState
	if err := op.Load(&state); err != nil {
		return err
	}
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return err
	}
	s, err := m.nextMember(ctx, op, c, &state, state.Done)
	if err != nil || s == nil {
		return err
	}
	desired, err := m.desired(ctx, s)
	if err != nil {
		return err
	}
	request := guest.ConfigureRequest{Fence: fence(op, s, "configure"), Desired: desired}
	if state.SetsPassword {
		if request.Sealed, err = m.seal(ctx, s, control.SecretPendingPassword); err != nil {
			return err
		}
	}
	applied, err := m.agent(s).Configure(ctx, request)
	if err != nil {
		return refused(err)
	}
	if state.RestartRequired == nil {
		state.RestartRequired = map[string][]string{}
	}
	state.Done = append(state.Done, s.guest.ID)
	state.RestartRequired[s.guest.ID] = applied.RestartRequired
	op.SetProgress("%d of %d members", len(state.Done), len(c.members))
	if err := op.Put(state); err != nil {
		return err
	}
	return engine.Wait(0)
}

// nextMember gives the next member that is not done, nil when there is none. One that does not answer is noted as missed.
func (m *Manager) nextMember(ctx context.Context, op *engine.Operation, c *clusterSubject, state *configureClusterState, done []string) (*subject, error) {
	i := slices.IndexFunc(c.members, func(m member) bool {
		return !slices.Contains(done, m.guest.ID) && !slices.Contains(state.Missed, m.guest.ID)
	})
	if i < 0 {
		return nil, nil
	}
	s := c.on(c.members[i])
	missed, err := m.misses(ctx, op, s, nil)
	if err != nil || !missed {
		return s, err
	}
	if len(state.Missed)+1 == len(c.members) {
		return nil, later(op, agentPoll) // somebody must know it
	}
	state.Missed = append(state.Missed, s.guest.ID)
	if err := op.Put(*state); err != nil {
		return nil, err
	}
	return nil, engine.Wait(0)
}

func (m *Manager) markClusterConfigured(ctx context.Context, op *engine.Operation) error {
	var state configureClusterState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.updateCluster(ctx, op, func(tx *store.Tx, c *clusterSubject) error {
		if state.SetsPassword {
			if err := adoptPassword(tx, c.group.ID); err != nil {
				return err
			}
		}
		for _, m := range c.members {
			if state.Root {
				m.instance.RootEnabledAt, m.instance.RootEnabledBy = dbaas.Instant(0), ""
				if state.RootEnabled {
					m.instance.RootEnabledAt, m.instance.RootEnabledBy = tx.Now(), state.EnabledBy
				}
			}
			settle(c.on(m), state.RestartRequired[m.guest.ID])
			noteBehind(m, state.Missed)
		}
		rest(c)
		return nil
	})
}

// restoreMembers puts back what members had before that were configured, or may have been.
func (m *Manager) restoreMembers(ctx context.Context, op *engine.Operation) error {
	var state configureClusterState
	if err := op.Load(&state); err != nil {
		return err
	}
	c, err := m.loadCluster(ctx, op)
	if err != nil {
		return err
	}
	if len(state.Restored) > len(state.Done) { // the one that refused was the one after those that were done
		return nil
	}
	s, err := m.nextMember(ctx, op, c, &state, state.Restored)
	if err != nil || s == nil {
		return err
	}
	desired, err := m.desiredWith(ctx, s, state.PreviousValues)
	if err != nil {
		return err
	}
	applied, err := m.reapply(ctx, op, s, desired, state.SetsPassword)
	if err != nil {
		return err
	}
	if state.RestartRequired == nil {
		state.RestartRequired = map[string][]string{}
	}
	state.Restored = append(state.Restored, s.guest.ID)
	state.RestartRequired[s.guest.ID] = applied.RestartRequired
	if err := op.Put(state); err != nil {
		return err
	}
	return engine.Wait(0)
}

func (m *Manager) keepClusterConfiguration(ctx context.Context, op *engine.Operation, restored bool) error {
	var state configureClusterState
	if err := op.Load(&state); err != nil {
		return err
	}
	return m.updateCluster(ctx, op, func(tx *store.Tx, c *clusterSubject) error {
		if err := dropPending(tx, c.group.ID); err != nil {
			return err
		}
		previous, err := stillThere(tx, state.PreviousConfigurationID)
		if err != nil {
			return err
		}
		c.cluster.ConfigurationID = previous
		for _, m := range c.members {
			var waits []string
			if m.instance.Applied != nil {
				waits = m.instance.Applied.RestartRequired
			}
			if restart, ok := state.RestartRequired[m.guest.ID]; ok && restored {
				waits = restart
			}
			m.instance.ConfigurationID = previous
			settle(c.on(m), waits)
			if restored {
				noteBehind(m, state.Missed)
			}
		}
		rest(c)
		c.cluster.Fault = op.Failure
		return nil
	})
}
