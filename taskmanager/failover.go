package taskmanager

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

const kindFailover = "failover"

const (
	// lookWithin bounds one fresh look at a guest.
	lookWithin = time.Second
	// orderWithin bounds an order to a guest that should carry it out at once.
	orderWithin = 3 * time.Second
	// fencePoll is how soon a step looks again at a server that is being powered off.
	fencePoll = 100 * time.Millisecond
	// unfencedAfter is how long the asynchronous class tries to fence the old primary before it goes on without.
	unfencedAfter = 10 * time.Second
	// promoteWithin is how long a chosen standby may take to take over before the old primary is gone back to.
	promoteWithin = 30 * time.Second
	// freshFor is how old the reason of a failover may be without another look at it.
	freshFor = 3 * time.Second
)

func (m *Manager) failover() engine.Workflow {
	return engine.Workflow{
		Kind: kindFailover,
		Doc:  "Makes an instance's standby its primary, and has its address lead there.",
		Steps: []engine.Step{
			{Name: "confirm", Doc: "looking again", Run: m.confirmFailover, Within: time.Minute},
			{Name: "raiseEpoch", Doc: "shutting late commands out", Run: m.raiseEpochFirst, Within: 5 * time.Minute},
			{Name: "handOver", Doc: "waiting for the standby to have every write", Run: m.handOver, Within: time.Minute},
			{Name: "fence", Doc: "making sure that the old primary takes no writes", Run: m.fenceOld, Within: 24 * time.Hour},
			{Name: "choose", Doc: "choosing the new primary", Run: m.chooseNew, Within: time.Hour},
			{Name: "decide", Doc: "recording the new primary", Run: m.decideNew, Within: 5 * time.Minute},
			{Name: "promote", Doc: "letting the new primary take writes", Run: m.promoteNew, Within: time.Hour},
			{Name: "pointAddress", Doc: "moving the instance's address", Run: m.pointToNew, Within: time.Hour},
			{Name: "repointReplicas", Doc: "telling the replicas", Run: m.repointReplicas, Within: 5 * time.Minute},
			{Name: "publish", Doc: "telling what happened", Run: m.publishFailover, Within: 5 * time.Minute},
		},
		Failed: m.settleFailover,
		Ended: "ACTIVE with the fault. A primary that never ceased to serve stays; else the failover is carried through, for what was stopped " +
			"may have less on its disk than the standby has.",
	}
}

// eachOf loads the state of a failover and its subject, and saves the state when do is well. What is over does nothing.
func (m *Manager) eachOf(ctx context.Context, op *engine.Operation, do func(state *control.FailoverState, s *subject) error) error {
	var state control.FailoverState
	if err := op.Load(&state); err != nil {
		return err
	}
	if state.Over {
		return nil
	}
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	if err := do(&state, s); err != nil {
		return err
	}
	return op.Put(state)
}

// confirmFailover looks again where the reason is not fresh: whoever was away must not act on what was.
func (m *Manager) confirmFailover(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, s *subject) error {
		if state.Planned || state.Drill {
			return nil
		}
		now, err := m.Store.Now(ctx)
		if err != nil || now.Sub(state.DetectedAt) < freshFor {
			return err
		}
		old, err := s.about(state.From)
		if err != nil {
			return err
		}
		reports := m.askAll(ctx, append(old.others(), member{old.instance, old.guest}))
		if alive(reports[state.From]) {
			m.Logger.InfoContext(ctx, "the primary is back, no failover", "operation", op.ID)
			state.Over = true
		}
		return nil
	})
}

// others gives the other guests of the subject's instance.
func (s *subject) others() []member {
	return slices.DeleteFunc(slices.Clone(s.members), func(m member) bool {
		return m.instance.ID != s.instance.ID || m.guest.ID == s.guest.ID
	})
}

// askAll asks agents how they are, all at once. Those that do not answer in time are not in the answer.
func (m *Manager) askAll(ctx context.Context, members []member) map[string]*guest.StatusReport {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	var mu sync.Mutex
	var looks sync.WaitGroup
	reports := map[string]*guest.StatusReport{}
	for _, one := range members {
		looks.Go(func() {
			report, err := m.guests.Guest(one.guest).Status(ctx)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			reports[one.guest.ID] = report
		})
	}
	looks.Wait()
	return reports
}

// ask is askAll for the subject's guest alone: nil where it does not answer in time.
func (m *Manager) ask(ctx context.Context, s *subject) *guest.StatusReport {
	return m.askAll(ctx, []member{{s.instance, s.guest}})[s.guest.ID]
}

func alive(r *guest.StatusReport) bool { return r != nil && r.Status.Status == dbaas.GuestHealthy }

// raiseEpochFirst makes everything that was ordered before too late.
func (m *Manager) raiseEpochFirst(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(*control.FailoverState, *subject) error { return m.raiseEpoch(ctx, op) })
}

// handOver lets a living primary wait until its standby has everything, and change places with it.
func (m *Manager) handOver(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, s *subject) error {
		if !state.Planned {
			return nil
		}
		old, err := s.about(state.From)
		if err != nil {
			return err
		}
		others := old.others()
		if len(others) == 0 {
			return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "There is no standby to hand over to."))
		}
		if m.ask(ctx, old) == nil && inStep(op) < unfencedAfter {
			op.SetProgress("the primary's agent does not answer") // nor has it been asked for anything
			return later(op, readyPoll)
		}
		port, err := m.port(ctx, s)
		if err != nil {
			return err
		}
		to, err := json.Marshal(others[0].endpoint(port))
		if err != nil {
			return err
		}
		_, err = m.agent(old).Action(ctx, guest.ActionRequest{Fence: fence(op, old, "handover"), Name: datastore.ActionHandover, Args: to})
		if err != nil {
			return engine.Permanent(err)
		}
		state.To = others[0].guest.ID
		return nil
	})
}

// fenceOld makes sure that the old primary takes no writes: its agent ends the database; where no agent answers the cloud
// cuts the server's power. Without a fence the bounded class goes no further.
func (m *Manager) fenceOld(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, s *subject) error {
		if state.Planned || state.Fenced != "" {
			return nil
		}
		old, err := s.about(state.From)
		if err != nil {
			return err
		}
		by, err := m.cutOff(ctx, op, old, state)
		if err != nil {
			return err
		}
		bounded := s.instance.HighAvailability != nil && s.instance.HighAvailability.Durability == dbaas.DurabilityBounded
		if by == "" && !bounded && inStep(op) > unfencedAfter {
			by = "nobody"
		}
		if by == "" {
			op.SetProgress("the old primary can be neither reached nor powered off; in the bounded class nothing is switched before")
			if !bounded {
				op.SetProgress("the old primary is being powered off")
			}
			return engine.Wait(fencePoll)
		}
		state.Fenced = by
		state.FencedAt, err = m.Store.Now(ctx)
		return err
	})
}

// cutOff ends a guest's database, and tells by whom it is known to have ended: "" for not yet. Where the agent did not
// just answer, the cloud's word is asked for first, which costs less than an agent's silence.
func (m *Manager) cutOff(ctx context.Context, op *engine.Operation, s *subject, state *control.FailoverState) (by string, err error) {
	if !state.OwnWord && !state.Drill && m.isOff(ctx, s) {
		return "cloud", nil
	}
	agentFirst := !state.Silent && inStep(op) < orderWithin
	if agentFirst && m.endedByAgent(ctx, op, s) {
		return "agent", nil
	}
	cloudCtx, cancel := context.WithTimeout(ctx, 2*orderWithin)
	defer cancel()
	if err := m.Cloud.PowerOffServer(cloudCtx, s.guest.ServerID); err != nil && dbaas.ErrorCode(err) != dbaas.NotFound {
		m.Logger.WarnContext(ctx, "a server is not powered off yet", "server", s.guest.ServerID, "error", err)
	}
	if m.isOff(ctx, s) {
		return "cloud", nil
	}
	if !agentFirst && m.endedByAgent(ctx, op, s) {
		return "agent", nil
	}
	return "", nil
}

func (m *Manager) endedByAgent(ctx context.Context, op *engine.Operation, s *subject) bool {
	ctx, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	return m.agent(s).Stop(ctx, guest.StopRequest{Fence: fence(op, s, "fence"), Now: true}) == nil
}

// isOff tells whether the cloud says that nothing runs on a guest's server.
func (m *Manager) isOff(ctx context.Context, s *subject) bool {
	ctx, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	server, err := m.Cloud.Server(ctx, s.guest.ServerID)
	if err != nil {
		return dbaas.ErrorCode(err) == dbaas.NotFound
	}
	return server.HostDown || server.Status == cloud.ServerShutoff
}

// chooseNew takes the guest that has most of the history. Where none could take over, the old primary is started again.
func (m *Manager) chooseNew(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, s *subject) error {
		if state.To != "" || state.Revive {
			return nil
		}
		old, err := s.about(state.From)
		if err != nil {
			return err
		}
		best, at, silent := m.furthest(ctx, op, s, old.others(), state.Before, inStep(op) > orderWithin && !state.OwnWord)
		if best != nil {
			state.To, state.After = best.guest.ID, at
			return nil
		}
		op.SetProgress("no standby can take over yet")
		patience := unfencedAfter
		if state.OwnWord && !worthAWait(s.instance, silent) {
			patience = orderWithin
		}
		if inStep(op) > patience {
			state.Revive = true
			return nil
		}
		return later(op, readyPoll)
	})
}

// worthAWait tells whether standbys that gave no position are waited for: whose agent does not answer in time, it may be a
// busy one that has everything; whose database does not, where an old primary that starts again would have less than it had.
func worthAWait(in *dbaas.Instance, silent map[string]error) bool {
	keepsEachWrite := in.Persistence == "" || in.Persistence == dbaas.PersistenceAOF
	for _, err := range silent {
		if !keepsEachWrite || errors.Is(err, context.DeadlineExceeded) {
			return true
		}
	}
	return false
}

// decideNew records who takes the writes. From here on every way leads forward.
func (m *Manager) decideNew(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, _ *subject) error {
		if state.Revive {
			return nil
		}
		return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
			s.instance.PrimaryGuestID = state.To
			return nil
		})
	})
}

// promoteNew lets the new primary take writes; or starts the old one again, which nobody can replace.
func (m *Manager) promoteNew(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, s *subject) (err error) {
		if state.PromotedAt > 0 {
			return nil
		}
		if state.Revive {
			if s.instance.PrimaryGuestID != state.From { // turned from, and that was not saved
				return m.turnToStandby(ctx, op, state, s)
			}
			err = m.reviveOld(ctx, op, state, s)
			if err != nil && s.instance.Persistence == dbaas.PersistenceNone && !state.Turned {
				if turned := m.turnToStandby(ctx, op, state, s); turned != nil {
					return turned
				}
			}
		} else {
			if s.instance.PrimaryGuestID != state.To { // gone back from, and that was not saved
				return m.goBack(ctx, op, state)
			}
			if s, err = s.about(state.To); err != nil {
				return err
			}
			orderCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			err = m.configureGuest(orderCtx, op, s, "promote")
			if err != nil && (engine.IsPermanent(err) || inStep(op) > promoteWithin) {
				m.Logger.ErrorContext(ctx, "the standby does not take over, the old primary is started again", "guest", state.To, "error", err)
				return m.goBack(ctx, op, state)
			}
		}
		if err != nil {
			return err
		}
		state.PromotedAt, err = m.Store.Now(ctx)
		return err
	})
}

// goBack makes the old primary the one to take writes again, for the chosen one does not come to it. Nobody has written to
// that: the address does not lead there yet.
func (m *Manager) goBack(ctx context.Context, op *engine.Operation, state *control.FailoverState) error {
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		s, err := readSubject(tx, op)
		if err != nil {
			return err
		}
		s.group.Epoch++
		s.instance.PrimaryGuestID = state.From
		if err := tx.UpdateGroup(s.group); err != nil {
			return err
		}
		return tx.UpdateInstance(s.instance)
	})
	if err != nil {
		return err
	}
	state.To, state.After, state.Revive = "", nil, true
	if state.Planned {
		state.Planned, state.Drill = false, true
	}
	if err := op.Put(state); err != nil {
		return err
	}
	return engine.Wait(0)
}

// turnToStandby has a standby take over after all that can do so by now, once: an old primary that kept nothing on disk has
// nothing that could be lost, and does not start while others may have its data. It gives nil where there is none.
func (m *Manager) turnToStandby(ctx context.Context, op *engine.Operation, state *control.FailoverState, s *subject) error {
	old, err := s.about(state.From)
	if err != nil {
		return err
	}
	to := s.instance.PrimaryGuestID
	if to == state.From {
		best, at, _ := m.furthest(ctx, op, s, old.others(), state.Before, false)
		if best == nil {
			return nil
		}
		// It may have started this moment, and is not to once the standby is gone.
		err := m.agent(old).Stop(ctx, guest.StopRequest{Fence: fence(op, old, "turn"), Now: true})
		if err != nil && !m.isOff(ctx, old) {
			return err
		}
		to, state.After = best.guest.ID, at
		err = m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
			s, err := readSubject(tx, op)
			if err != nil {
				return err
			}
			s.group.Epoch++
			s.instance.PrimaryGuestID = to
			if err := tx.UpdateGroup(s.group); err != nil {
				return err
			}
			return tx.UpdateInstance(s.instance)
		})
		if err != nil {
			return err
		}
	}
	state.To, state.Revive, state.Turned = to, false, true
	if err := op.Put(state); err != nil {
		return err
	}
	return engine.Wait(0)
}

// reviveOld lets the old primary take writes where it is.
func (m *Manager) reviveOld(ctx context.Context, op *engine.Operation, state *control.FailoverState, s *subject) error {
	old, err := s.about(state.From)
	if err != nil {
		return err
	}
	if err := m.powerOn(ctx, op, old); err != nil {
		return err
	}
	serves := alive(m.ask(ctx, old))
	if !serves { // what is suspended takes no orders
		if err := m.agent(old).Stop(ctx, guest.StopRequest{Fence: fence(op, old, "end"), Now: true}); err != nil {
			return err
		}
	}
	if _, err := m.configureWith(ctx, op, old, "resume."+strconv.FormatInt(s.group.Epoch, 10), "", m.desiredOfSurvivor); err != nil || serves {
		return refused(err)
	}
	return m.agent(old).Restart(ctx, fence(op, old, "revive"))
}

// desiredOfSurvivor leaves those out, where nothing is kept on disk, whose servers are off or gone: what they had is nowhere,
// and a master does not begin empty while it has to take them for holders of its data.
func (m *Manager) desiredOfSurvivor(ctx context.Context, s *subject) (datastore.Desired, error) {
	d, err := m.desired(ctx, s)
	if err != nil || d.Persistence != dbaas.PersistenceNone {
		return d, err
	}
	for _, one := range s.members {
		if one.guest.ID != s.guest.ID && m.isOff(ctx, s.on(one)) {
			d.Peers = slices.DeleteFunc(d.Peers, func(e datastore.Endpoint) bool { return e.GuestID == one.guest.ID })
		}
	}
	return d, nil
}

// powerOn starts a guest's server where it is off, and comes back until it runs.
func (m *Manager) powerOn(ctx context.Context, op *engine.Operation, s *subject) error {
	server, err := m.Cloud.Server(ctx, s.guest.ServerID)
	if err != nil {
		return err
	}
	if server.Status == cloud.ServerActive || server.Status == cloud.ServerVerifyResize { // the resize is parked, and goes on later
		return nil
	}
	if err := m.Cloud.StartServer(ctx, s.guest.ServerID); err != nil {
		return err
	}
	op.SetProgress("the server is %s", server.Status)
	return later(op, cloudPoll)
}

func (m *Manager) pointToNew(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, s *subject) error {
		if s.instance.AddressID != "" {
			s, err := s.primary()
			if err != nil {
				return err
			}
			if err := m.Cloud.PointAddress(ctx, s.instance.AddressID, s.guest.PortID, s.group.Epoch); err != nil {
				return err
			}
		}
		var err error
		state.PointedAt, err = m.Store.Now(ctx)
		return err
	})
}

// repointReplicas tells those who followed the old primary whom to follow now. Who cannot be told is told by the repair.
func (m *Manager) repointReplicas(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, s *subject) error {
		if state.Revive {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, orderWithin)
		defer cancel()
		var mu sync.Mutex
		var orders sync.WaitGroup
		for _, one := range s.members {
			if one.guest.ID == state.To || one.guest.ID == state.From && !state.Planned {
				continue
			}
			orders.Go(func() {
				if err := m.configureGuest(ctx, op, s.on(one), "repoint."+one.guest.ID); err != nil {
					mu.Lock()
					defer mu.Unlock()
					state.Missed = append(state.Missed, one.guest.ID)
				}
			})
		}
		orders.Wait()
		return nil
	})
}

func (m *Manager) publishFailover(ctx context.Context, op *engine.Operation) error {
	return m.eachOf(ctx, op, func(state *control.FailoverState, _ *subject) error {
		err := m.update(ctx, op, func(tx *store.Tx, s *subject) error {
			if (state.Planned || state.Drill) && op.ParentID == "" {
				settle(s, restartRequired(s.instance))
			}
			if !state.Revive {
				s.instance.Fault = nil
			}
			return note(tx, s.instance, op.ID, eventFailover, message(state), reportOf(state, s))
		})
		if err == nil && state.PointedAt > 0 {
			m.Operations.Failover(manner(state), state.PointedAt.Sub(state.DetectedAt))
		}
		return err
	})
}
