package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func (m *Manager) upgradeAgent() engine.Workflow {
	return engine.Workflow{
		Kind: "upgrade_agent",
		Doc:  "Replaces the guest agents of an instance by another program, one after the other, a standby's first; databases run on.",
		Steps: []engine.Step{
			{Name: "replaceAgents", Doc: "replacing the guest agents", Run: m.replaceAgents, Within: 15 * time.Minute},
			{Name: "markActive", Doc: "publishing the instance", Run: m.markIdle, Within: 5 * time.Minute},
		},
		Failed: m.markIdle,
		Ended:  "ACTIVE; an agent that did not work was replaced on its own machine by the one before.",
	}
}

// replaceAgents has one agent after the other replace itself, and comes back until each has said that it is what it should
// be. While one is away it may just be starting.
func (m *Manager) replaceAgents(ctx context.Context, op *engine.Operation) error {
	var state control.AgentState
	if err := op.Load(&state); err != nil {
		return err
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	for _, one := range s.own() {
		on := s.on(one)
		upgrade, err := m.agent(on).UpgradeAgent(ctx, guest.AgentRequest{
			Fence: fence(op, on, "agent."+one.guest.ID), Location: state.Location, SHA256: state.SHA256, Patience: m.AgentTrial,
		})
		switch {
		case dbaas.ErrorCode(err) == dbaas.Unavailable:
			op.SetProgress("the agent does not answer; it may be starting")
			return later(op, agentPoll)
		case err != nil:
			return refused(err)
		case !upgrade.Done:
			op.SetProgress("%s", upgrade.Progress)
			return later(op, agentPoll)
		}
	}
	return nil
}

// markIdle ends an operation that tenants need not know of: what they were told of before stays.
func (m *Manager) markIdle(ctx context.Context, op *engine.Operation) error {
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.instance.Task = s.instance.IdleTask()
		return nil
	})
}
