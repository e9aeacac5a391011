package api

import (
	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// availabilityWish checks the wish for a standby. What the datastore can do, the use case checks.
func availabilityWish(h *wire.HighAvailability) (*dbaas.HighAvailability, error) {
	if h == nil {
		return nil, nil
	}
	wish := &dbaas.HighAvailability{Durability: dbaas.Durability(h.Durability), WhenDegraded: dbaas.WhenDegraded(h.WhenDegraded)}
	switch wish.Durability {
	case dbaas.DurabilityAsync, dbaas.DurabilityBounded:
	default:
		return nil, badRequest("high_availability.durability must be async or bounded.")
	}
	switch {
	case wish.WhenDegraded == "":
	case wish.WhenDegraded != dbaas.DegradedRefuse && wish.WhenDegraded != dbaas.DegradedAccept:
		return nil, badRequest("high_availability.when_degraded must be refuse or accept.")
	case wish.Durability != dbaas.DurabilityBounded:
		return nil, badRequest("high_availability.when_degraded is for the durability bounded; async always accepts writes.")
	}
	return wish, nil
}

// renderProtection shows a hot standby as it is, from what its guests said last.
func (s *Server) renderProtection(r *request, v *dbaas.InstanceView) *wire.Protection {
	p := s.Control.Protection(v)
	if p == nil {
		return nil
	}
	shown := &wire.Protection{State: p.State, Cause: p.Cause}
	shown.Durability = string(v.HighAvailability.Durability)
	if v.HighAvailability.Durability == dbaas.DurabilityBounded {
		shown.WhenDegraded = string(orElse(v.HighAvailability.WhenDegraded, dbaas.DegradedRefuse))
	}
	if p.Standby == nil {
		return shown
	}
	shown.Standby = &wire.Standby{
		Status: p.Standby.Status.OperatingStatus(), Role: string(p.Role), InStep: p.InStep, Updated: at(p.Standby.StatusAt),
	}
	if p.Lag >= 0 {
		lag := round(p.Lag, 1000)
		shown.Standby.Lag = &lag
	}
	if r.caller.Admin {
		shown.Standby.ID = p.Standby.ID
	}
	return shown
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
