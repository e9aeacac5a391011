package taskmanager

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// furthest asks the candidates how far they are, and gives the one that has most of the history that the old primary had
// when that is known; with any, where nobody has that, the most of another. silent gave none, with why, by guest id.
func (m *Manager) furthest(ctx context.Context, op *engine.Operation, s *subject, candidates []member, before *datastore.Position, any bool) (best *member, at *datastore.Position, silent map[string]error) {
	silent = map[string]error{}
	for i, candidate := range candidates {
		p, err := m.askPosition(ctx, op, s.on(candidate))
		if err != nil {
			m.Logger.WarnContext(ctx, "a candidate does not tell its position", "guest", candidate.guest.ID, "error", err)
			silent[candidate.guest.ID] = err
			continue
		}
		if !usable(p, before, any) {
			m.Logger.WarnContext(ctx, "a candidate cannot take over", "guest", candidate.guest.ID, "history", p.History, "syncing", p.Syncing)
			continue
		}
		if at == nil || ahead(p, at, before) {
			best, at = &candidates[i], p
		}
	}
	return best, at, silent
}

// ahead tells whether a is to be preferred to b: for the old primary's history, then for having more of the same one.
func ahead(a, b, before *datastore.Position) bool {
	if ours := usable(a, before, false); ours != usable(b, before, false) {
		return ours
	}
	return a.History == b.History && a.Offset > b.Offset
}

// usable tells whether a database can take over: it has a copy, and of the history that the old primary had when that is
// known. Where the old primary cannot come back by itself, any copy is better than none.
func usable(at, before *datastore.Position, any bool) bool {
	if at.History == "" || at.Syncing {
		return false
	}
	return any || before == nil || before.History == "" || before.History == at.History
}

func (m *Manager) askPosition(ctx context.Context, op *engine.Operation, s *subject) (*datastore.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	f := fence(op, s, fmt.Sprintf("position.%s.%d", s.guest.ID, op.LeaseEpoch))
	text, err := m.agent(s).Action(ctx, guest.ActionRequest{Fence: f, Name: datastore.ActionPosition})
	if err != nil {
		return nil, err
	}
	var at datastore.Position
	if err := json.Unmarshal(text, &at); err != nil {
		return nil, fmt.Errorf("decode the position of %s: %w", s.guest.ID, err)
	}
	return &at, nil
}
