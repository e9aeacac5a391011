// Package redis drives Redis and Valkey: alone, and as masters and replicas of each other.
package redis

import (
	"strings"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// The versions of the manifest.
const (
	redis70  = "7.0"
	redis72  = "7.2"
	redis74  = "7.4"
	redis80  = "8.0"
	valkey80 = "valkey-8.0"
	valkey81 = "valkey-8.1"
)

// port is where tenants connect.
const port = 6379

// tenantUser is the tenant's account; agentUser is ours, whose password never leaves the guest.
const (
	tenantUser = "default"
	agentUser  = "_agent"
	// replicationUser is the account by which the members of a group reach each other.
	replicationUser = "_repl"
)

// Datastore is Redis as the core sees it.
type Datastore struct{}

var _ datastore.Datastore = Datastore{}

// Manifest implements [datastore.Datastore].
func (Datastore) Manifest() *datastore.Manifest { return manifest() }

// Guest implements [datastore.Datastore].
func (Datastore) Guest(h *host.Host) datastore.Guest { return newGuest(h) }

// versions lists what we drive: Redis, and Valkey, which began as Redis 7.2.
func versions() (list []datastore.Version) {
	for _, name := range []string{redis70, redis72, redis74, redis80, valkey80, valkey81} {
		v := datastore.Version{Name: name, Binary: "redis-server", Says: "Redis server v=", Number: name + "."}
		if number, ok := strings.CutPrefix(name, "valkey-"); ok {
			v.Binary, v.Says, v.Number = "valkey-server", "Valkey server v=", number+"."
		}
		list = append(list, v)
	}
	return list
}

func manifest() *datastore.Manifest {
	return &datastore.Manifest{
		Name:           "redis",
		Versions:       versions(),
		DefaultVersion: redis70,
		Username:       tenantUser,
		URIScheme:      "redis",
		URIPort:        port,
		TLSScheme:      "rediss",
		TLSPort:        tlsPort,
		TCPPorts:       []int{port, tlsPort},
		PeerPorts:      []int{busPort},
		Root:           "-",
		Parameters:     parameters(),
		Defaults:       defaults,
		RequireFit:     requireFit,
		Capabilities: datastore.Capabilities{
			Root: true, Replication: true, Users: true, TLS: true, Profiles: offeredProfiles(),
			Upgrades:    upgrades(),
			Persistence: []dbaas.Persistence{dbaas.PersistenceAOF, dbaas.PersistenceRDB, dbaas.PersistenceNone},
			Cluster:     &datastore.ClusterShape{MinMasters: minMasters, MostMembers: mostMembers},
		},
	}
}
