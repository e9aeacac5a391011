package api

import (
	"github.com/grove-dbaas/grove/api/wire"
)

// actOnInstance does one deed: exactly one key of the body.
func (s *Server) actOnInstance(r *request, body *wire.InstanceAction) (*answer, error) {
	named := 0
	for _, there := range []bool{
		body.Restart != nil, body.Stop != nil, body.Start != nil, body.Rebuild != nil, body.Failover != nil, body.Resize != nil, body.ResetStatus != nil,
		body.PromoteToReplicaSource != nil, body.EjectReplicaSource != nil, body.RenewCertificates != nil,
	} {
		if there {
			named++
		}
	}
	if named != 1 {
		return nil, badRequest("Name exactly one action, with an object: restart, stop, start, rebuild, failover, resize, promote_to_replica_source, eject_replica_source, renew_certificates or reset_status.")
	}
	id, ctx := r.param("id"), r.Context()
	switch {
	case body.Restart != nil:
		return s.act(r, "instance:restart", func() (string, error) { return s.Control.RestartInstance(ctx, r.caller, id) })
	case body.Stop != nil:
		return s.act(r, "instance:stop", func() (string, error) { return s.Control.StopInstance(ctx, r.caller, id) })
	case body.Start != nil:
		return s.act(r, "instance:start", func() (string, error) { return s.Control.StartInstance(ctx, r.caller, id) })
	case body.Rebuild != nil:
		return s.act(r, "instance:rebuild", func() (string, error) { return s.Control.RebuildInstance(ctx, r.caller, id) })
	case body.Failover != nil:
		return s.act(r, "instance:failover", func() (string, error) {
			return s.Control.FailOver(ctx, r.caller, id, body.Failover.Drill)
		})
	case body.Resize != nil:
		return s.resize(r, id, body.Resize)
	case body.ResetStatus != nil:
		rule := "instance:reset_status"
		if force := body.ResetStatus.ForceDelete; asked(force) && string(force) != "false" {
			rule = "instance:force_delete"
		}
		return s.act(r, rule, func() (string, error) { return s.Control.ResetStatus(ctx, r.caller, id) })
	case body.RenewCertificates != nil:
		return s.act(r, "instance:renew_certificates", func() (string, error) { return s.Control.RenewCertificates(ctx, r.caller, id) })
	case body.PromoteToReplicaSource != nil:
		return s.act(r, "instance:promote_to_replica_source", func() (string, error) { return s.Control.PromoteReplica(ctx, r.caller, id) })
	default:
		return s.act(r, "instance:eject_replica_source", func() (string, error) { return s.Control.EjectSource(ctx, r.caller, id) })
	}
}

// act asks the policy and does the deed.
func (s *Server) act(r *request, rule string, deed func() (operationID string, err error)) (*answer, error) {
	if err := s.require(r, rule); err != nil {
		return nil, err
	}
	id, err := deed()
	switch {
	case err != nil:
		return nil, err
	case id == "":
		return accepted(), nil
	default:
		return accepted(id), nil
	}
}

func (s *Server) resize(r *request, id string, body *wire.Resize) (*answer, error) {
	flavor := body.FlavorRef.ID()
	switch {
	case body.Volume != nil:
		size, err := volumeSize("resize.volume.size", body.Volume.Size)
		if err != nil {
			return nil, err
		}
		return s.act(r, "instance:resize_volume", func() (string, error) {
			return s.Control.ResizeVolume(r.Context(), r.caller, id, size)
		})
	case flavor != "" && len(flavor) <= maxName:
		return s.act(r, "instance:resize_flavor", func() (string, error) {
			return s.Control.ResizeFlavor(r.Context(), r.caller, id, flavor)
		})
	default:
		return nil, badRequest("resize needs a volume with its new size, or the flavorRef of another flavor.")
	}
}
