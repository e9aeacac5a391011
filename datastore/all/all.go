// Package all lists the datastores, one line each.
package all

import (
	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/redis"
)

// Datastores lists every datastore; the first is the default.
func Datastores() []datastore.Datastore {
	return []datastore.Datastore{
		redis.Datastore{},
	}
}
