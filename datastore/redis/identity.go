package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/host"
)

// nodeIDsFile is in the agent's directory: which nodes of its cluster the server has been, the last one last. A server that
// finds no nodes.conf on its volume is another node than before, with the data of that one, which is nobody from then on.
const nodeIDsFile = "node-ids.json"

// mostNodeIDs is how many of them are remembered.
const mostNodeIDs = 8

// noteNode remembers which node the server is, and gives which it has been before.
func (g *Guest) noteNode(id string) (former []string, err error) {
	g.naming.Lock()
	defer g.naming.Unlock()
	var ids []string
	b, err := os.ReadFile(g.path(nodeIDsFile))
	if err == nil {
		err = json.Unmarshal(b, &ids)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read which nodes the server has been: %w", err)
	}
	former = slices.DeleteFunc(slices.Clone(ids), func(known string) bool { return known == id })
	if len(ids) > 0 && ids[len(ids)-1] == id {
		return former, nil
	}
	if b, err = json.Marshal(append(former[max(0, len(former)+1-mostNodeIDs):], id)); err != nil {
		return nil, err
	}
	return former, host.WriteFile(g.path(nodeIDsFile), b, 0o600, nil)
}

// legacy is what a node left that is nobody any more.
type legacy struct {
	heir  string // the guest whose server was that node
	slots slotSet
	epoch int64 // of the node's claim to them, as the others know it
}

// legacies gives what the members have left behind that are other nodes than before, as the others see it. Where a replica
// has the data too, nothing is left: it takes the dead node's place by itself.
func (s *survey) legacies() map[string]legacy {
	left := map[string]legacy{}
	for heir, v := range s.views {
		for _, id := range v.Former {
			if !v.self().Master || s.guests[id] != "" || s.followed(id) {
				continue
			}
			for _, other := range s.views {
				if n := other.node(id); n != nil && len(n.Slots) > len(left[id].slots) {
					left[id] = legacy{heir, n.Slots, max(n.Epoch, left[id].epoch)}
				}
			}
		}
	}
	return left
}

func (s *survey) followed(id string) bool {
	for _, v := range s.views {
		if v.self().Follows == id {
			return true
		}
	}
	return false
}

// heirs gives who takes the slots of nodes that are nobody any more.
func (s *survey) heirs() map[int]string {
	heirs := map[int]string{}
	for _, l := range s.legacies() {
		for _, slot := range l.slots {
			heirs[slot] = l.heir
		}
	}
	return heirs
}

// inherit has the others believe those who have taken over the slots of nodes that are nobody any more: of two who claim
// slots, the one of the higher epoch is believed.
func (s *survey) inherit(ctx context.Context) (*datastore.Progress, error) {
	waiting := 0
	for _, l := range s.legacies() {
		self := s.views[l.heir].self()
		if len(self.Slots) == 0 || self.Epoch > l.epoch {
			continue // the word spreads
		}
		waiting++
		if err := s.do(ctx, l.heir, actionBump, nothing{}); err != nil {
			return nil, err
		}
	}
	if waiting > 0 {
		return again(500, "telling that %d members have lost their identity", waiting), nil
	}
	return nil, nil
}

// mistaken tells whether somebody takes a member for the node that it was before, and could tell it of that node's claim to
// the slots: it would believe that, and delete its keys. Who speaks with it finds out.
func (s *survey) mistaken(guest string) bool {
	v := s.views[guest]
	for other, o := range s.views {
		for _, n := range o.Nodes {
			if other != guest && n.ID != v.ID && slices.Contains(v.Former, n.ID) && n.Address != "" && n.Address == s.wished[guest].Address {
				return true
			}
		}
	}
	return false
}
