package taskmanager

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// configureAll configures the guests of the operation's instance as desired says and, with a kind of secrets to push, all
// others of the group too. It tells what waits for a restart of the operation's own guest. A guest that nobody's writes
// need and that does not answer is given patience, once, and then missed: catchUp tells it when it is heard of again.
func (m *Manager) configureAll(ctx context.Context, op *engine.Operation, s *subject, deed, kind string,
	desired func(context.Context, *subject) (datastore.Desired, error)) (restart, missed []string, err error) {
	targets := s.up()
	if kind == "" {
		targets = slices.DeleteFunc(targets, func(one member) bool { return one.instance.ID != s.instance.ID })
	}
	deaf := m.deaf(ctx, s, targets)
	for _, one := range targets {
		at, wish := s.on(one), m.desired
		if slices.Contains(deaf, one.guest.ID) {
			continue
		}
		if one.instance.ID == s.instance.ID {
			wish = desired
		}
		applied, err := m.configureWith(ctx, op, at, deed, kind, wish)
		if err != nil {
			return nil, nil, err
		}
		if one.guest.ID == s.guest.ID {
			restart = applied.RestartRequired
		}
	}
	if len(deaf) > 0 {
		op.SetProgress("%d of %d guests do not answer; they are told when they return", len(deaf), len(targets))
		known := func(id string) bool {
			return slices.ContainsFunc(targets, func(m member) bool { return slices.Contains(behind(m.instance), id) })
		}
		news := slices.ContainsFunc(deaf, func(id string) bool { return !known(id) })
		if news && inStep(op) < patience || len(deaf) == len(targets) {
			return nil, nil, later(op, agentPoll)
		}
	}
	return restart, deaf, nil
}

func (m *Manager) configureWith(ctx context.Context, op *engine.Operation, s *subject, deed, kind string,
	desired func(context.Context, *subject) (datastore.Desired, error)) (_ *datastore.Applied, err error) {
	request := guest.ConfigureRequest{Fence: fence(op, s, deed)}
	if request.Desired, err = desired(ctx, s); err != nil {
		return nil, err
	}
	if kind == "" && slices.Contains(behind(s.instance), s.guest.ID) {
		kind = control.SecretPassword
	}
	if kind != "" {
		if request.Sealed, err = m.seal(ctx, s, kind); err != nil {
			return nil, err
		}
	}
	return m.agent(s).Configure(ctx, request)
}

// deaf gives those of the members that do not answer and can be done without: followers, and members of a cluster.
func (m *Manager) deaf(ctx context.Context, s *subject, members []member) []string {
	ctx, cancel := context.WithTimeout(ctx, rpc.DefaultCallTimeout)
	defer cancel()
	var mu sync.Mutex
	var asks sync.WaitGroup
	var deaf []string
	for _, one := range members {
		if s.on(one).follows() == nil && one.instance.ClusterID == "" {
			continue
		}
		asks.Go(func() {
			if _, err := m.guests.Guest(one.guest).Status(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				deaf = append(deaf, one.guest.ID)
			}
		})
	}
	asks.Wait()
	slices.Sort(deaf)
	return deaf
}

// misses tells whether a guest that can be done without does not answer, and has been given patience: those in missed were.
// Until then it waits.
func (m *Manager) misses(ctx context.Context, op *engine.Operation, s *subject, missed []string) (bool, error) {
	if len(m.deaf(ctx, s, []member{{s.instance, s.guest}})) == 0 {
		return false, nil
	}
	if inStep(op) < patience && !slices.Contains(append(behind(s.instance), missed...), s.guest.ID) {
		op.SetProgress("a guest does not answer; if it stays so, it is told when it returns")
		return false, later(op, agentPoll)
	}
	return true, nil
}

// behind gives the guests of an instance that missed a change of its secrets.
func behind(in *dbaas.Instance) []string {
	if in.Applied == nil {
		return nil
	}
	return in.Applied.Behind
}

// leaveBehind notes who of the members missed the operation's change of secrets, and that the others are up to date.
func leaveBehind(tx *store.Tx, s *subject, members []member, missed []string) error {
	for _, m := range members {
		if !noteBehind(m, missed) || m.instance.ID == s.instance.ID { // that is written with the operation's subject
			continue
		}
		if err := tx.UpdateInstance(m.instance); err != nil {
			return err
		}
	}
	return nil
}

// noteMissed notes that guests of the operation's group missed a change. What they missed before is still so.
func (m *Manager) noteMissed(ctx context.Context, op *engine.Operation, missed []string) error {
	if len(missed) == 0 {
		return nil
	}
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		members, err := readMembers(tx, op.GroupID)
		if err != nil {
			return err
		}
		for _, one := range members {
			if slices.Contains(missed, one.guest.ID) && noteBehind(one, append(behind(one.instance), missed...)) {
				if err := tx.UpdateInstance(one.instance); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// noteBehind notes on a member's instance whether its guest is one of those that missed a change, and tells whether that is
// news.
func noteBehind(m member, missed []string) (news bool) {
	in, is := m.instance, slices.Contains(missed, m.guest.ID)
	if in.Applied == nil || slices.Contains(in.Applied.Behind, m.guest.ID) == is {
		return false
	}
	in.Applied.Behind = slices.DeleteFunc(in.Applied.Behind, func(id string) bool { return id == m.guest.ID })
	if is {
		in.Applied.Behind = append(in.Applied.Behind, m.guest.ID)
	}
	return true
}

const catchUpEvery = 10 * time.Second

// catchUp begins to tell guests what they missed that answer again.
func (m *Manager) catchUp(ctx context.Context) error {
	views, err := m.Store.Behind(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for i := range views {
		v := &views[i]
		if !v.Task.Idle() || v.Stopped {
			continue
		}
		var late []member
		for j := range v.Guests {
			if slices.Contains(v.Applied.Behind, v.Guests[j].ID) {
				late = append(late, member{&v.Instance, &v.Guests[j]})
			}
		}
		if len(m.askAll(ctx, late)) == 0 {
			continue
		}
		errs = append(errs, m.tellAgain(ctx, v.ID))
	}
	return errors.Join(errs...)
}

// tellAgain begins to configure an instance as it is; who is behind gets the newest secrets by that.
func (m *Manager) tellAgain(ctx context.Context, instanceID string) error {
	var id string
	err := m.Store.Tx(ctx, func(tx *store.Tx) error {
		in, err := tx.Instance(instanceID)
		if err != nil || !in.Task.Idle() || len(behind(in)) == 0 {
			return err
		}
		state := control.ConfigureState{PreviousConfigurationID: in.ConfigurationID}
		if in.ConfigurationID != "" {
			group, err := tx.Configuration(in.ConfigurationID)
			if err != nil {
				return err
			}
			state.PreviousValues = group.Values
		}
		in.Task = dbaas.TaskUpdating
		if err := tx.UpdateInstance(in); err != nil {
			return err
		}
		id, err = m.watch.begin(tx, in, "configure_instance", state, false)
		return err
	})
	return m.watch.began(ctx, id, err)
}
