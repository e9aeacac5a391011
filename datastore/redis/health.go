package redis

import (
	"context"
	"fmt"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// The states of a cluster and of its members.
const (
	stateOK       = "ok"
	stateDegraded = "degraded"
	stateFail     = "fail"
	stateUnknown  = "unknown"
)

// Health implements [datastore.Topology].
func (Datastore) Health(ctx context.Context, wish datastore.ClusterWish, members []datastore.Member) (*datastore.Health, error) {
	s := look(ctx, wish, members, viewArgs{})
	h := &datastore.Health{State: stateOK}
	worsen := func(state, cause string, args ...any) {
		h.Causes = append(h.Causes, fmt.Sprintf(cause, args...))
		if h.State != stateFail {
			h.State = state
		}
	}
	for _, w := range wish.Members {
		m := s.health(w)
		h.Members = append(h.Members, m)
		if m.State != stateOK {
			worsen(stateDegraded, "The member %s is %s.", w.GuestID, memberTrouble(m.State))
		}
	}
	if missing := s.unserved(); len(missing) > 0 {
		worsen(stateFail, "The hash slots %s have no master that serves them.", missing)
	}
	for _, guest := range s.answering() {
		if s.views[guest].State != stateOK {
			worsen(stateFail, "The member %s sees the cluster as failed.", guest)
		}
	}
	if n := len(s.open()); n > 0 && !s.moves() {
		worsen(stateDegraded, "%d hash slots are half moved.", n)
	}
	return h, nil
}

// heardMargin is how long a link may be made anew after a member has heard where to.
const heardMargin = time.Second

// Heard implements [datastore.Topology].
func (Datastore) Heard(ctx context.Context, wish datastore.ClusterWish, members []datastore.Member, since time.Duration) (bool, error) {
	s := look(ctx, wish, members, viewArgs{})
	if len(s.views) == 0 {
		return false, dbaas.Errorf(dbaas.Unavailable, "No member of the cluster answers.")
	}
	for _, v := range s.views {
		for _, n := range v.Nodes {
			if n.ID == v.ID || n.Failed {
				continue
			}
			if ago := time.Duration(v.Now-n.Answered) * time.Millisecond; !n.Connected || n.Suspected || n.Handshake || ago+heardMargin > since {
				return false, nil
			}
		}
	}
	return true, nil
}

func memberTrouble(state string) string {
	switch state {
	case stateUnknown:
		return "silent"
	case stateFail:
		return "taken for dead by the others"
	}
	return "not in step with its master"
}

// moves tells whether slots are being moved.
func (s *survey) moves() bool {
	for _, v := range s.views {
		if v.Mover.Running {
			return true
		}
	}
	return false
}

// unserved gives the slots that nobody who answers has, and that no silent one serves as far as the others see.
func (s *survey) unserved() slotSet {
	owner, _ := s.owners()
	for _, v := range s.views {
		for _, n := range v.Nodes {
			if n.Failed || s.views[s.guests[n.ID]] != nil {
				continue
			}
			for _, slot := range n.Slots {
				owner[slot] = n.ID
			}
		}
	}
	var missing slotSet
	for slot := range slotCount {
		if owner[slot] == "" {
			missing = append(missing, slot)
		}
	}
	return missing
}

// health tells of one member.
func (s *survey) health(w datastore.MemberWish) datastore.MemberHealth {
	m := datastore.MemberHealth{GuestID: w.GuestID, Role: w.Role, State: stateUnknown}
	v := s.views[w.GuestID]
	if v == nil {
		s.hearsay(&m)
		return m
	}
	self := v.self()
	m.State, m.Bytes = stateOK, v.Memory
	if self.Master {
		m.Role, m.Owns, m.Units = datastore.RoleMaster, self.Slots.String(), len(self.Slots)
	} else {
		m.Role, m.Master = datastore.RoleReplica, s.guests[self.Follows]
		if !v.LinkUp || s.wished[m.Master].ShardID != w.ShardID {
			m.State = stateDegraded
		}
	}
	if v.State != stateOK {
		m.State = stateDegraded
	}
	return m
}

// hearsay is what the others say of a silent member.
func (s *survey) hearsay(m *datastore.MemberHealth) {
	for _, v := range s.views {
		for _, n := range v.Nodes {
			if s.guests[n.ID] != m.GuestID {
				continue
			}
			if m.Role = datastore.RoleReplica; n.Master {
				m.Role, m.Owns, m.Units = datastore.RoleMaster, n.Slots.String(), len(n.Slots)
			}
			m.Master = s.guests[n.Follows]
			if n.Failed {
				m.State = stateFail
			}
		}
	}
}
