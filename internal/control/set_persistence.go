package control

import (
	"context"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// PersistenceLoss says in a sentence what a mode may lose; "" for the append-only file.
func PersistenceLoss(p dbaas.Persistence) string {
	switch p {
	case dbaas.PersistenceNone:
		return "Without persistence all data is lost whenever the database ends: by a crash, a restart, another flavor, an upgrade."
	case dbaas.PersistenceRDB:
		return "With snapshots alone, what was written after the last one is lost when the database ends by a crash."
	default:
		return ""
	}
}

// requirePersistence refuses what the datastore does not leave to tenants; "" is its own default.
func requirePersistence(m *datastore.Manifest, p dbaas.Persistence) error {
	offered := m.Capabilities.Persistence
	switch {
	case p == "" || slices.Contains(offered, p):
		return nil
	case len(offered) == 0:
		return dbaas.Errorf(dbaas.BadRequest, "Datastore %s leaves no choice of persistence.", m.Name)
	default:
		return dbaas.Errorf(dbaas.BadRequest, "persistence must be one of %s, not %q.", joined(offered), string(p))
	}
}

// requireProfile refuses a profile of tuning that the datastore does not have; "" is none.
func requireProfile(m *datastore.Manifest, name string) error {
	var names []string
	for _, p := range m.Capabilities.Profiles {
		names = append(names, p.Name)
	}
	switch {
	case name == "" || slices.Contains(names, name):
		return nil
	case len(names) == 0:
		return dbaas.Errorf(dbaas.BadRequest, "Datastore %s has no profiles.", m.Name)
	default:
		return dbaas.Errorf(dbaas.BadRequest, "profile must be one of %s, not %q.", joined(names), name)
	}
}

func joined[T ~string](list []T) string {
	var all []string
	for _, one := range list {
		all = append(all, string(one))
	}
	return strings.Join(all, ", ")
}

// ReshapeState is the private state of set_persistence and set_profile: what a failure goes back to.
type ReshapeState struct {
	Persistence dbaas.Persistence `json:"persistence"`
	Profile     string            `json:"profile"`
}

func (s *Service) setPersistence(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance, p dbaas.Persistence) (string, error) {
	if err := requireStarted(in, "its persistence is changed"); err != nil {
		return "", err
	}
	if p == in.Persistence {
		return "", nil
	}
	return s.reshape(ctx, tx, c, in, "set_persistence", func(m *datastore.Manifest) error {
		in.Persistence = p
		return requirePersistence(m, p)
	})
}

func (s *Service) setProfile(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance, name string) (string, error) {
	if name == in.Profile {
		return "", nil
	}
	return s.reshape(ctx, tx, c, in, "set_profile", func(m *datastore.Manifest) error {
		in.Profile = name
		return requireProfile(m, name)
	})
}

// reshape enqueues that an instance's database becomes what edit makes of the row.
func (s *Service) reshape(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance, kind string, edit func(*datastore.Manifest) error) (string, error) {
	if err := requireIdle(tx, in); err != nil {
		return "", err
	}
	version, err := s.versionByID(ctx, in.DatastoreVersionID)
	if err != nil {
		return "", err
	}
	m, err := s.manifest(&version.DatastoreVersion)
	if err != nil {
		return "", err
	}
	before := ReshapeState{Persistence: in.Persistence, Profile: in.Profile}
	if err := edit(m); err != nil {
		return "", err
	}
	in.Task, in.Fault = dbaas.TaskUpdating, nil
	return s.enqueue(tx, c, change{
		kind: kind, instance: in, state: before, before: before, after: ReshapeState{Persistence: in.Persistence, Profile: in.Profile},
	})
}
