package api

import (
	"encoding/json"
	"net/http"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
)

// createReplicas is what creating an instance is with replica_of. The answer describes the last of several.
func (s *Server) createReplicas(r *request, i *wire.CreateInstance) (*answer, error) {
	wish, err := replicaWish(i)
	if err != nil {
		return nil, err
	}
	created, err := s.Control.CreateReplicas(r.Context(), r.caller, wish)
	if err != nil {
		return nil, err
	}
	return &answer{
		status: http.StatusOK, body: wire.InstanceEnvelope{Instance: s.renderInstanceDetail(r, created.View)},
		operations: []string{created.OperationID},
	}, nil
}

// replicaWish checks the shape of a wish. A flavor is ignored, for older clients cannot but send one; what else a replica
// has from its source is refused.
func replicaWish(i *wire.CreateInstance) (control.CreateReplicas, error) {
	var none control.CreateReplicas
	of, err := sourceID(i)
	if err != nil {
		return none, err
	}
	if err := forbidInherited(i); err != nil {
		return none, err
	}
	if err := requireBuilt(i); err != nil {
		return none, err
	}
	if err := requireName("instance.name", i.Name); err != nil {
		return none, err
	}
	wish := control.CreateReplicas{
		Of: of, Count: 1, Name: i.Name, Zone: orBlank(i.AvailabilityZone), Region: orBlank(i.RegionName),
		DeletionProtection: i.DeletionProtection,
	}
	if i.ReplicaCount != nil {
		n, ok := i.ReplicaCount.Int()
		if !ok || n < 1 || n > control.MostReplicas {
			return none, badRequest("instance.replica_count must be 1 to %d.", control.MostReplicas)
		}
		wish.Count = n
	}
	if wish.Count > 1 && len([]rune(i.Name)) > maxName-2 {
		return none, badRequest("instance.name must have at most %d characters with several replicas, which get -1, -2, ... added.", maxName-2)
	}
	if i.Configuration != nil {
		wish.ConfigurationID = i.Configuration.ID()
	}
	if wish.Nic, err = nicWish(i.Nics); err != nil {
		return none, err
	}
	if wish.Nic != nil && wish.Nic.IPAddress != "" {
		return none, badRequest("instance.nics[0].ip_address cannot be given with instance.replica_of.")
	}
	if wish.Access, err = accessWish(i.Access); err != nil {
		return none, err
	}
	return wish, requireOptions(i)
}

// sourceID is what the replicas are to follow; slave_of is replica_of's former name.
func sourceID(i *wire.CreateInstance) (string, error) {
	value := i.ReplicaOf
	switch {
	case asked(i.ReplicaOf) && asked(i.SlaveOf):
		return "", badRequest("instance.slave_of is another name for instance.replica_of; give one of them.")
	case asked(i.SlaveOf):
		value = i.SlaveOf
	}
	var id string
	if json.Unmarshal(value, &id) != nil || uuid.Validate(id) != nil {
		return "", badRequest("instance.replica_of must be the id of an instance.")
	}
	return id, nil
}

// forbidInherited refuses what replicas have from their source, or cannot begin with.
func forbidInherited(i *wire.CreateInstance) error {
	for _, key := range []struct {
		name  string
		given bool
	}{
		{"volume", i.Volume != nil}, {"datastore", i.Datastore != nil}, {"locality", i.Locality != nil},
		{"high_availability", i.HighAvailability != nil}, {"persistence", i.Persistence != nil}, {"profile", i.Profile != nil}, {"tls", i.TLS != nil},
		{"databases", asked(i.Databases)}, {"users", asked(i.Users)}, {"restorePoint", asked(i.RestorePoint)},
	} {
		if key.given {
			return badRequest("instance.%s cannot be given with instance.replica_of: a replica has its source's.", key.name)
		}
	}
	return nil
}
