package taskmanager

import (
	"fmt"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// failoverReport is what the event of a failover tells. Times are in milliseconds after the detection.
type failoverReport struct {
	control.FailoverState
	FencedMS    int64  `json:"fenced_ms"`
	PromotedMS  int64  `json:"promoted_ms"`
	PublishedMS int64  `json:"published_ms"`
	Loss        string `json:"loss"`
	// MissingBytes are changes that the old primary is known to have had and the new one lacks.
	MissingBytes *int64 `json:"missing_bytes,omitempty"`
}

func manner(state *control.FailoverState) string {
	switch {
	case state.Planned:
		return "planned"
	case state.Drill:
		return "drill"
	case state.Revive:
		return "revived"
	default:
		return "automatic"
	}
}

func message(state *control.FailoverState) string {
	switch {
	case state.Planned:
		return "The standby took over as planned; no write was lost."
	case state.Revive:
		return "The primary was started again, for no standby could take over. " + state.Cause
	default:
		return "The standby took over. " + state.Cause
	}
}

func reportOf(state *control.FailoverState, s *subject) failoverReport {
	since := func(at dbaas.Instant) int64 {
		if at == 0 {
			return 0
		}
		return at.Sub(state.DetectedAt).Milliseconds()
	}
	r := failoverReport{FailoverState: *state, FencedMS: since(state.FencedAt), PromotedMS: since(state.PromotedAt), PublishedMS: since(state.PointedAt)}
	switch {
	case state.Planned:
		r.Loss = "none"
	case state.Revive:
		r.Loss = "what the database had not written to its disk"
	case s.instance.HighAvailability != nil && s.instance.HighAvailability.Durability == dbaas.DurabilityBounded:
		r.Loss = "no write that WAIT confirmed; of others at most those of the standby's last lag"
	default:
		r.Loss = "writes that had not reached the standby"
	}
	if !state.Planned && !state.Revive {
		r.MissingBytes = missing(state)
		r.Loss += "; " + extent(state, r.MissingBytes)
	}
	return r
}

// missing tells how many bytes of what the old primary is known to have had the new one lacks; nil when that is not known.
func missing(state *control.FailoverState) *int64 {
	if state.Before == nil || state.After == nil || state.Before.History != state.After.History || state.BeforeAt == 0 {
		return nil
	}
	bytes := max(state.Before.Offset-state.After.Offset, 0)
	return &bytes
}

// extent says how much that may be, as far as it is known: an agent tells its position with its signs of life.
func extent(state *control.FailoverState, missing *int64) string {
	if missing == nil {
		return "how far the old primary was is not known"
	}
	when := fmt.Sprintf("%s, %.0f s before its failure was seen", state.BeforeAt.Time().UTC().Format(time.RFC3339), max(state.DetectedAt.Sub(state.BeforeAt), 0).Seconds())
	if *missing == 0 {
		return "the new primary has all that the old one told of last (" + when + "): at most what was confirmed after that may be missing"
	}
	return fmt.Sprintf("of what the old primary told of last (%s) %d bytes of changes are missing, and what was confirmed after that may be", when, *missing)
}
