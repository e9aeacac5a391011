package taskmanager_test

import (
	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/all"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// datastores gives every datastore, with the capabilities whose workflows are tried here whatever a driver makes of them.
func datastores() []datastore.Datastore {
	var list []datastore.Datastore
	for _, d := range all.Datastores() {
		list = append(list, capable{d})
	}
	return list
}

type capable struct{ datastore.Datastore }

func (c capable) Manifest() *datastore.Manifest {
	m := *c.Datastore.Manifest()
	m.Capabilities.Persistence = []dbaas.Persistence{dbaas.PersistenceNone, dbaas.PersistenceRDB, dbaas.PersistenceAOF}
	return &m
}
