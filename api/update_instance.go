package api

import (
	"context"
	"encoding/json"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (s *Server) putInstance(r *request, body *wire.PutInstanceRequest) (*answer, error) {
	i := body.Instance
	if i == nil {
		return nil, badRequest("instance is required; an empty object detaches the configuration group.")
	}
	return s.updateInstance(r, instanceChange{
		name: i.Name, protection: i.DeletionProtection, configuration: i.Configuration, access: i.Access,
		replicaOf: i.ReplicaOf, version: i.DatastoreVersion, persistence: i.Persistence, profile: i.Profile, tls: i.TLS, availability: i.HighAvailability,
	})
}

func (s *Server) patchInstance(r *request, body *wire.PatchInstanceRequest) (*answer, error) {
	i := body.Instance
	if i == nil {
		return nil, badRequest("instance is required; an empty object detaches the configuration group.")
	}
	return s.updateInstance(r, instanceChange{
		name: i.Name, protection: i.DeletionProtection, configuration: i.Configuration,
		replicaOf: i.ReplicaOf, slaveOf: i.SlaveOf, version: i.DatastoreVersion, persistence: i.Persistence, profile: i.Profile, tls: i.TLS, availability: i.HighAvailability,
	})
}

// instanceChange is what PUT and PATCH have in common.
type instanceChange struct {
	name          *string
	protection    *bool
	configuration wire.Optional[wire.Ref]
	access        wire.Optional[wire.AccessRequest]
	replicaOf     wire.Optional[json.RawMessage]
	slaveOf       wire.Optional[json.RawMessage]
	version       wire.Optional[json.RawMessage]
	persistence   wire.Optional[string]
	profile       wire.Optional[string]
	tls           wire.Optional[string]
	availability  wire.Optional[wire.HighAvailability]
}

// require checks what may be asked for together.
func (c *instanceChange) require() error {
	asked := 0
	for _, set := range []bool{c.configuration.Set, c.access.Set, c.replicaOf.Set, c.slaveOf.Set, c.version.Set, c.persistence.Set, c.profile.Set, c.tls.Set, c.availability.Set} {
		if set {
			asked++
		}
	}
	switch {
	case asked > 1:
		return badRequest("Change one thing at a time: at most one key besides name and deletion_protection.")
	case c.access.Null:
		return badRequest("instance.access must be an object, not null.")
	case c.name != nil:
		return requireName("instance.name", *c.name)
	}
	return nil
}

// wish translates the change. One that names nothing detaches the configuration group: older clients do it so.
func (c *instanceChange) wish() (control.UpdateInstance, error) {
	u := control.UpdateInstance{Name: c.name, DeletionProtection: c.protection}
	u.Detach = c.replicaOf.Set || c.slaveOf.Set // whatever the value: Trove's clients send null, "" or the source
	nothing := c.name == nil && c.protection == nil && !c.access.Set && !c.persistence.Set && !c.profile.Set && !c.tls.Set && !c.version.Set && !u.Detach && !c.availability.Set
	if c.configuration.Set || nothing {
		id := c.configuration.Value.ID()
		u.Configuration = &id
	}
	if c.access.Set {
		access, err := accessWish(&c.access.Value)
		if err != nil {
			return u, err
		}
		u.Access = &access
	}
	if c.persistence.Set {
		mode := dbaas.Persistence(c.persistence.Value)
		u.Persistence = &mode
	}
	if c.profile.Set {
		u.Profile = &c.profile.Value
	}
	if c.tls.Set {
		mode := dbaas.TLSMode(c.tls.Value)
		u.TLS = &mode
	}
	if c.version.Set {
		version, err := versionWish(c.version.Value)
		if err != nil {
			return u, err
		}
		u.Version = &version
	}
	if c.availability.Set {
		u.Availability = &control.ChangeAvailability{}
		if !c.availability.Null {
			var err error
			if u.Availability.Wish, err = availabilityWish(&c.availability.Value); err != nil {
				return u, err
			}
		}
	}
	return u, nil
}

// versionWish reads the version to upgrade to: a name or id.
func versionWish(text json.RawMessage) (string, error) {
	var version string
	if json.Unmarshal(text, &version) != nil || version == "" || len(version) > maxName {
		return "", badRequest("instance.datastore_version must be the name or id of a version.")
	}
	return version, nil
}

func (s *Server) updateInstance(r *request, c instanceChange) (*answer, error) {
	if err := c.require(); err != nil {
		return nil, err
	}
	wish, err := c.wish()
	if err != nil {
		return nil, err
	}
	if wish.Persistence != nil {
		r.warnLoss(*wish.Persistence)
	}
	id, err := s.Control.UpdateInstance(r.Context(), r.caller, r.param("id"), wish)
	if err != nil {
		return nil, err
	}
	if id == "" {
		return accepted(), nil
	}
	if wish.Configuration == nil && wish.Profile == nil {
		return accepted(id), nil
	}
	return accepted(id), s.await(r, id)
}

// warnLoss says in the answer what a mode of persistence may lose.
func (r *request) warnLoss(p dbaas.Persistence) {
	if loss := control.PersistenceLoss(p); loss != "" {
		r.warnings = append(r.warnings, loss)
	}
}

// await waits for operations whose effect Trove's answer comes after. One that failed is the answer; one that still
// runs when the time is over goes on without the client.
func (s *Server) await(r *request, ids ...string) error {
	ctx, cancel := context.WithTimeout(r.Context(), s.AwaitAtMost)
	defer cancel()
	for _, id := range ids {
		op, err := s.Control.Await(ctx, id, s.AwaitAtMost)
		switch {
		case ctx.Err() != nil && (op == nil || !op.Status.Ended()):
			return nil
		case err != nil:
			s.Logger.WarnContext(ctx, "accepted operation not awaited", "operation", id, "error", err)
			return nil
		case op.Status == dbaas.OperationFailed || op.Status == dbaas.OperationCancelled:
			return badRequest("%s", failureMessage(op))
		}
	}
	return nil
}

func failureMessage(op *dbaas.Operation) string {
	if op.Failure == nil || op.Failure.Message == "" {
		return "The operation " + op.ID + " ended as " + string(op.Status) + "."
	}
	return op.Failure.Message
}
