package control

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// VersionWish is a datastore version as an administrator wishes it. Of a change, what is nil stays.
type VersionWish struct {
	Name, Manager, Image *string
	ImageTags, Packages  *[]string
	Active, Default      *bool
}

// Versions lists the versions of all datastores, also those that are not active: the administrator's.
func (s *Service) Versions(ctx context.Context, c Caller) ([]VersionView, error) {
	if !c.Admin {
		return nil, dbaas.Errorf(dbaas.Forbidden, "Only an administrator may see all datastore versions.")
	}
	datastores, versions, err := s.Store.Datastores(ctx)
	var views []VersionView
	for _, v := range versions {
		views = append(views, *versionView(datastores, v))
	}
	return views, err
}

// CreateVersion offers a version of a datastore, which is made when it is not there. number tells versions of one name apart; ""
// is the name.
func (s *Service) CreateVersion(ctx context.Context, c Caller, datastoreName, number string, wish VersionWish) error {
	if !c.Admin {
		return dbaas.Errorf(dbaas.Forbidden, "Only an administrator may offer datastore versions.")
	}
	return s.commit(ctx, c, func(tx *store.Tx) error {
		d, versions, err := datastoreToChange(tx, datastoreName)
		if err != nil {
			return err
		}
		v := dbaas.DatastoreVersion{ID: uuid.NewString(), DatastoreID: d.ID, Number: number}
		wish.apply(&v)
		if v.Number == "" {
			v.Number = v.Name
		}
		if slices.ContainsFunc(versions, func(o dbaas.DatastoreVersion) bool { return o.Name == v.Name && numberOf(o) == v.Number }) {
			return dbaas.Errorf(dbaas.BadRequest, "Datastore %s has a version %s with the number %s already.", d.Name, v.Name, v.Number)
		}
		return s.putVersion(tx, d, v, wish.Default)
	})
}

// UpdateVersion changes a version.
func (s *Service) UpdateVersion(ctx context.Context, c Caller, id string, wish VersionWish) error {
	if !c.Admin {
		return dbaas.Errorf(dbaas.Forbidden, "Only an administrator may change datastore versions.")
	}
	return s.changeVersion(ctx, c, id, func(tx *store.Tx, d dbaas.Datastore, v dbaas.DatastoreVersion) error {
		name, manager := v.Name, v.Manager
		wish.apply(&v)
		if v.Name != name || v.Manager != manager {
			if err := requireUnused(tx, id, "Version %s is in use: what it is called and what drives it stays.", name); err != nil {
				return err
			}
		}
		return s.putVersion(tx, d, v, wish.Default)
	})
}

// DeleteVersion withdraws a version that nothing uses.
func (s *Service) DeleteVersion(ctx context.Context, c Caller, id string) error {
	if !c.Admin {
		return dbaas.Errorf(dbaas.Forbidden, "Only an administrator may withdraw datastore versions.")
	}
	return s.changeVersion(ctx, c, id, func(tx *store.Tx, d dbaas.Datastore, v dbaas.DatastoreVersion) error {
		if err := requireUnused(tx, id, "Version %s is used by instances, clusters or configuration groups, or by deleted ones whose record is kept. Make it inactive: nothing new is made of it then.", v.Name); err != nil {
			return err
		}
		if d.DefaultVersionID == id {
			d.DefaultVersionID = ""
			if err := tx.UpsertDatastore(&d); err != nil {
				return err
			}
		}
		return tx.DeleteVersion(id)
	})
}

// DeleteDatastore removes a datastore that has no version.
func (s *Service) DeleteDatastore(ctx context.Context, c Caller, idOrName string) error {
	v, err := s.Datastore(ctx, c, idOrName)
	if err != nil {
		return err
	}
	return s.commit(ctx, c, func(tx *store.Tx) error {
		d, versions, err := datastoreToChange(tx, v.Name)
		if err != nil {
			return err
		}
		if len(versions) > 0 {
			return dbaas.Errorf(dbaas.BadRequest, "Datastore %s has %d versions: delete them first.", d.Name, len(versions))
		}
		return tx.DeleteDatastore(d.ID)
	})
}

// changeVersion reads a version while nobody else changes its datastore.
func (s *Service) changeVersion(ctx context.Context, c Caller, id string, change func(*store.Tx, dbaas.Datastore, dbaas.DatastoreVersion) error) error {
	known, err := s.versionByID(ctx, id)
	if err != nil {
		return err
	}
	return s.commit(ctx, c, func(tx *store.Tx) error {
		d, versions, err := datastoreToChange(tx, known.Datastore.Name)
		if err != nil {
			return err
		}
		v, ok := findByID(versions, id)
		if !ok {
			return versionNotFound(id)
		}
		return change(tx, d, v)
	})
}

// datastoreToChange gives a datastore by its name, made when it is not there, with its versions. Until the transaction ends
// nobody else changes either: writing its row takes the lock.
func datastoreToChange(tx *store.Tx, name string) (dbaas.Datastore, []dbaas.DatastoreVersion, error) {
	d := dbaas.Datastore{ID: stableID(name), Name: name}
	read := func() ([]dbaas.DatastoreVersion, error) {
		datastores, versions, err := tx.Datastores()
		if i := slices.IndexFunc(datastores, func(o dbaas.Datastore) bool { return o.Name == name }); i >= 0 {
			d = datastores[i]
		}
		return slices.DeleteFunc(versions, func(v dbaas.DatastoreVersion) bool { return v.DatastoreID != d.ID }), err
	}
	if _, err := read(); err != nil {
		return d, nil, err
	}
	if err := tx.UpsertDatastore(&d); err != nil {
		return d, nil, err
	}
	versions, err := read() // as it is now that we have the lock
	return d, versions, err
}

func requireUnused(tx *store.Tx, id, format string, args ...any) error {
	used, err := tx.VersionInUse(id)
	if err == nil && used {
		return dbaas.Errorf(dbaas.BadRequest, format, args...)
	}
	return err
}

// putVersion checks and writes a version, and whether it is its datastore's default.
func (s *Service) putVersion(tx *store.Tx, d dbaas.Datastore, v dbaas.DatastoreVersion, standard *bool) error {
	m, ok := s.manifests[v.Manager]
	if !ok {
		return dbaas.Errorf(dbaas.BadRequest, "There is no manager %q; there are: %s.", v.Manager, strings.Join(slices.Sorted(maps.Keys(s.manifests)), ", "))
	}
	if _, ok := m.Version(v.Name); !ok {
		return dbaas.Errorf(dbaas.BadRequest, "The manager %s drives no version %q; it drives: %s.", v.Manager, v.Name, strings.Join(versionNames(m), ", "))
	}
	if v.Image == "" && len(v.ImageTags) == 0 {
		return dbaas.Errorf(dbaas.BadRequest, "A version needs an image, or tags by which one is found.")
	}
	if err := tx.UpsertVersion(&v); err != nil {
		return err
	}
	switch {
	case standard != nil && *standard:
		if !v.Active {
			return dbaas.Errorf(dbaas.BadRequest, "Version %s is not active: it cannot be the default.", v.Name)
		}
		d.DefaultVersionID = v.ID
	case standard != nil && d.DefaultVersionID == v.ID, !v.Active && d.DefaultVersionID == v.ID:
		d.DefaultVersionID = ""
	default:
		return nil
	}
	return tx.UpsertDatastore(&d)
}

func (w VersionWish) apply(v *dbaas.DatastoreVersion) {
	set(&v.Name, w.Name)
	set(&v.Manager, w.Manager)
	set(&v.Image, w.Image)
	set(&v.ImageTags, w.ImageTags)
	set(&v.Packages, w.Packages)
	set(&v.Active, w.Active)
}

func set[T any](field, wish *T) {
	if wish != nil {
		*field = *wish
	}
}

func numberOf(v dbaas.DatastoreVersion) string {
	if v.Number == "" {
		return v.Name
	}
	return v.Number
}

func versionNames(m *datastore.Manifest) (names []string) {
	for _, v := range m.Versions {
		names = append(names, v.Name)
	}
	return names
}
