package api

import (
	"net/http"
	"strings"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
)

// askDryRun notes that a request only wants to know what it would do. A value that is not understood is refused: the
// opposite of what was meant could be done.
func askDryRun(r *request) error {
	query := r.URL.Query()
	if r.Method == http.MethodGet || !query.Has("dry_run") {
		return nil
	}
	switch value := query.Get("dry_run"); {
	case strings.EqualFold(value, "true"):
		r.caller.DryRun = &control.Plan{}
		return nil
	case strings.EqualFold(value, "false"):
		return nil
	default:
		return badRequest("dry_run must be true or false, not %q.", printable(value))
	}
}

func renderPlan(p *control.Plan) wire.DryRunEnvelope {
	plan := wire.DryRun{
		Operation: p.Operation, Resources: orEmpty(p.Resources), Steps: orEmpty(p.Steps), Effects: p.Effects, OnFailure: p.OnFailure,
	}
	if m := p.Moves; m != nil {
		plan.Moves = &wire.Moves{Moves: []wire.Move{}, Bytes: m.Bytes, Duration: m.Duration, FreeMemory: m.FreeMemory, Warnings: m.Warnings}
		for _, move := range m.Moves {
			plan.Moves.Moves = append(plan.Moves.Moves, wire.Move(move))
		}
	}
	return wire.DryRunEnvelope{DryRun: plan}
}
