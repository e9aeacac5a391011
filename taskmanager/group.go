package taskmanager

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// up gives the members of the group whose databases have come up once: whoever takes writes first, then its followers.
func (s *subject) up() []member {
	var all []member
	for _, m := range s.members {
		if m.instance.Applied != nil && len(m.guest.PublicKey) > 0 {
			all = append(all, m)
		}
	}
	slices.SortStableFunc(all, func(a, b member) int {
		return boolOrder(s.on(b).follows() == nil, s.on(a).follows() == nil)
	})
	return all
}

func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// primaryOf gives the guest that takes the writes of an instance of the group.
func (s *subject) primaryOf(instanceID string) *subject {
	for _, m := range s.members {
		if m.instance.ID == instanceID && m.primary() {
			return s.on(m)
		}
	}
	return nil
}

// loadOf reads the subject of another instance than the operation's own, by its primary.
func (m *Manager) loadOf(ctx context.Context, op *engine.Operation, instanceID string) (*subject, error) {
	var s *subject
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) (err error) {
		s, err = subjectOf(tx, instanceID, "")
		return err
	})
	return s, err
}

// patience is how long a change of the whole group waits for a member that does not answer and is not needed for it.
const patience = 30 * time.Second

// tellRoles tells every member of the group its role: whoever takes writes first, then all others at once. A follower that
// does not answer is left behind in the end, with a fault: it is told when it is restarted.
func (m *Manager) tellRoles(ctx context.Context, op *engine.Operation, s *subject, deed string) error {
	members := s.up()
	deaf := m.deaf(ctx, s, members)
	var mu sync.Mutex
	var orders sync.WaitGroup
	var missed []string // instances
	var errs []error
	for _, one := range members {
		at := s.on(one)
		switch {
		case at.follows() == nil:
			if err := m.configureGuest(ctx, op, at, deed); err != nil {
				return err
			}
			continue
		case slices.Contains(deaf, one.guest.ID):
			missed = append(missed, one.instance.ID)
			continue
		}
		orders.Go(func() {
			err := m.configureGuest(ctx, op, at, deed)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs, missed = append(errs, err), append(missed, one.instance.ID)
			}
		})
	}
	orders.Wait()
	if len(missed) == 0 {
		return nil
	}
	if inStep(op) < patience {
		op.SetProgress("%d of %d guests have not been told their role", len(missed), len(members))
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
		return later(op, agentPoll)
	}
	m.Logger.WarnContext(ctx, "members not told their role", "operation", op.ID, "instances", missed, "error", errors.Join(errs...))
	for _, id := range missed {
		if err := m.blame(ctx, op, id); err != nil {
			return err
		}
	}
	return nil
}

// blame notes on a member that it missed a change of its set.
func (m *Manager) blame(ctx context.Context, op *engine.Operation, instanceID string) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		in, err := tx.Instance(instanceID)
		if err != nil {
			return err
		}
		in.Fault = &dbaas.Fault{At: tx.Now(),
			Message: "The instance did not answer when its replication set changed, and may follow its former source: restart it."}
		return tx.UpdateInstance(in)
	})
}

// endSet makes a set idle again after a change of its roles. The fault, when there is one, is the operation's resource's.
func (m *Manager) endSet(ctx context.Context, op *engine.Operation, task dbaas.Task, groupIDs ...string) error {
	return m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		for _, groupID := range groupIDs {
			set, err := tx.GroupMembers(groupID)
			if err != nil {
				return err
			}
			for i := range set {
				in := &set[i]
				if op.Failure != nil && in.ID == op.ResourceID {
					in.Fault = op.Failure
				}
				if in.Task == task {
					in.Task = in.IdleTask()
				}
				if err := tx.UpdateInstance(in); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// swapSource makes one instance of the subject's group its source, and all others its replicas. Late commands of before
// are refused from then on.
func swapSource(tx *store.Tx, s *subject, sourceID string) error {
	seen := map[string]bool{}
	for _, m := range s.members {
		if seen[m.instance.ID] {
			continue
		}
		seen[m.instance.ID] = true
		of := sourceID
		if m.instance.ID == sourceID {
			of = ""
		}
		if m.instance.ReplicaOf == of {
			continue
		}
		m.instance.ReplicaOf = of
		if err := tx.UpdateInstance(m.instance); err != nil {
			return err
		}
	}
	s.group.Epoch++
	return tx.UpdateGroup(s.group)
}

// leaveGroup makes the subject's instance a group of its own, with copies of the group's secrets and users, that obeys
// nothing older than the group does.
func leaveGroup(tx *store.Tx, s *subject) error {
	old := s.group
	own := &dbaas.Group{ProjectID: old.ProjectID, Kind: dbaas.GroupSingle, Epoch: old.Epoch + 1}
	if err := tx.InsertGroup(own); err != nil {
		return err
	}
	if err := tx.CopySecrets(old.ID, own.ID); err != nil {
		return err
	}
	users, err := tx.Users(old.ID)
	if err != nil {
		return err
	}
	for _, u := range users {
		u.GroupID = own.ID
		if err := tx.PutUser(&u); err != nil {
			return err
		}
	}
	for _, m := range s.members {
		if m.instance.ID != s.instance.ID {
			continue
		}
		m.guest.GroupID = own.ID
		if err := tx.UpdateGuest(m.guest); err != nil {
			return err
		}
	}
	s.instance.GroupID, s.instance.ReplicaOf = own.ID, ""
	if err := tx.UpdateInstance(s.instance); err != nil {
		return err
	}
	return fitGroup(tx, old)
}

// fitGroup makes a set of which one instance is left a single instance.
func fitGroup(tx *store.Tx, g *dbaas.Group) error {
	left, err := tx.GroupMembers(g.ID)
	if err != nil || g.Kind != dbaas.GroupReplication || len(left) != 1 {
		return err
	}
	g.Kind = dbaas.GroupSingle
	return tx.UpdateGroup(g)
}

// handover has one database of the group pass its writes to another, without losing one.
func (m *Manager) handover(ctx context.Context, op *engine.Operation, from, to *subject) error {
	port, err := m.port(ctx, to)
	if err != nil {
		return err
	}
	args, err := json.Marshal(member{to.instance, to.guest}.endpoint(port))
	if err != nil {
		return err
	}
	_, err = m.agent(from).Action(ctx, guest.ActionRequest{Fence: fence(op, from, "handover."+to.guest.ID), Name: datastore.ActionHandover, Args: args})
	return err
}

// port is where the subject's database listens.
func (m *Manager) port(ctx context.Context, s *subject) (int, error) {
	version, err := m.Store.Version(ctx, s.instance.DatastoreVersionID)
	if err != nil {
		return 0, err
	}
	manifest, err := m.manifest(*version)
	if err != nil {
		return 0, err
	}
	return manifest.URIPort, nil
}

// roleNow asks a database for its role.
func (m *Manager) roleNow(ctx context.Context, s *subject) (datastore.Role, error) {
	report, err := m.status(ctx, s)
	if err != nil {
		return "", err
	}
	if r := control.ReplicationIn(report.Status.Observed); r != nil {
		return r.Role, nil
	}
	return "", nil
}
