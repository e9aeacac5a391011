package control

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// DatastoreView is a datastore with the versions that the caller may see.
type DatastoreView struct {
	dbaas.Datastore
	Versions []dbaas.DatastoreVersion
}

// VersionView is a version with its datastore.
type VersionView struct {
	dbaas.DatastoreVersion
	Datastore dbaas.Datastore
}

// SyncDatastores puts the manifests' datastores and versions into the database. installed gives the full number of a
// version that can be had here, and "" of one that can't: that one is not active. Ids are derived from the names, so that
// every process agrees on them.
func (s *Service) SyncDatastores(ctx context.Context, installed func(datastore.Version) string) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		for _, d := range s.Config.Datastores {
			if err := syncDatastore(tx, d.Manifest(), installed); err != nil {
				return err
			}
		}
		return nil
	})
}

func syncDatastore(tx *store.Tx, m *datastore.Manifest, installed func(datastore.Version) string) error {
	row := dbaas.Datastore{ID: stableID(m.Name), Name: m.Name}
	var versions []dbaas.DatastoreVersion
	for _, v := range m.Versions {
		number := installed(v)
		version := dbaas.DatastoreVersion{
			ID: stableID(m.Name, v.Name), DatastoreID: row.ID, Name: v.Name, Number: number, Manager: m.Name, Active: number != "",
		}
		if version.Active && (row.DefaultVersionID == "" || v.Name == m.DefaultVersion) {
			row.DefaultVersionID = version.ID
		}
		versions = append(versions, version)
	}
	if err := tx.UpsertDatastore(&row); err != nil {
		return err
	}
	for i := range versions {
		if err := tx.UpsertVersion(&versions[i]); err != nil {
			return err
		}
	}
	return nil
}

// stableID is the same id for the same names, in every installation.
func stableID(names ...string) string {
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte("grove:datastore"))
	for _, n := range names {
		id = uuid.NewSHA1(id, []byte(n))
	}
	return id.String()
}

// Datastores lists what is on offer: for tenants only datastores with active versions, and those versions.
func (s *Service) Datastores(ctx context.Context, c Caller) ([]DatastoreView, error) {
	datastores, versions, err := s.Store.Datastores(ctx)
	if err != nil {
		return nil, err
	}
	var views []DatastoreView
	for _, d := range datastores {
		v := DatastoreView{Datastore: d}
		for _, version := range versions {
			if version.DatastoreID == d.ID && (version.Active || c.Admin) {
				v.Versions = append(v.Versions, version)
			}
		}
		if len(v.Versions) > 0 || c.Admin {
			views = append(views, v)
		}
	}
	return views, nil
}

// Datastore finds a datastore by id or name.
func (s *Service) Datastore(ctx context.Context, c Caller, idOrName string) (*DatastoreView, error) {
	views, err := s.Datastores(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, v := range views {
		if v.ID == idOrName || v.Name == idOrName {
			v.Versions = slices.DeleteFunc(v.Versions, func(version dbaas.DatastoreVersion) bool { return !version.Active })
			return &v, nil
		}
	}
	return nil, dbaas.Errorf(dbaas.NotFound, "Datastore %q not found.", idOrName)
}

// Version finds a version by id or name within a datastore, or by id alone with datastore "".
func (s *Service) Version(ctx context.Context, c Caller, datastoreName, version string) (*VersionView, error) {
	if datastoreName == "" {
		return s.versionByID(ctx, version)
	}
	return s.findVersion(ctx, datastoreName, version, "")
}

// Parameters lists what tenants may set in configuration groups of a version.
func (s *Service) Parameters(ctx context.Context, c Caller, datastoreName, version string) (*VersionView, []datastore.Parameter, error) {
	v, err := s.Version(ctx, c, datastoreName, version)
	if err != nil {
		return nil, nil, err
	}
	m, err := s.manifest(&v.DatastoreVersion)
	if err != nil {
		return nil, nil, err
	}
	var parameters []datastore.Parameter
	for _, p := range m.Parameters {
		if p.Who == datastore.WhoTenant && (p.Versions == nil || slices.Contains(p.Versions, v.Name)) {
			parameters = append(parameters, p)
		}
	}
	return v, parameters, nil
}

// Catalog is what the region's cloud offers, as it was last seen.
func (s *Service) Catalog(ctx context.Context) (*dbaas.Catalog, error) {
	catalog, err := s.Store.Catalog(ctx, s.Region)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil, dbaas.Errorf(dbaas.Unavailable, "The cloud's flavors are not known yet; try again in a moment.")
	}
	return catalog, err
}

func (s *Service) versionByID(ctx context.Context, id string) (*VersionView, error) {
	datastores, versions, err := s.Store.Datastores(ctx)
	if err != nil {
		return nil, err
	}
	v, ok := findByID(versions, id)
	if !ok {
		return nil, versionNotFound(id)
	}
	return versionView(datastores, v), nil
}

// findVersion resolves what a request says of a datastore and version; "" is the default of either.
func (s *Service) findVersion(ctx context.Context, datastoreName, version, number string) (*VersionView, error) {
	datastores, versions, err := s.Store.Datastores(ctx)
	if err != nil {
		return nil, err
	}
	if datastoreName == "" {
		datastoreName = s.DefaultDatastore
	}
	i := slices.IndexFunc(datastores, func(d dbaas.Datastore) bool { return d.ID == datastoreName || d.Name == datastoreName })
	if i < 0 {
		return nil, dbaas.Errorf(dbaas.NotFound, "Datastore %q not found.", datastoreName)
	}
	if version == "" && number == "" {
		if version = datastores[i].DefaultVersionID; version == "" {
			return nil, dbaas.WrapError(errNoVersion, dbaas.NotFound, "Datastore %s has no version that is active here.", datastores[i].Name)
		}
	}
	v, err := pickVersion(versions, datastores[i], version, number)
	if err != nil {
		return nil, err
	}
	return versionView(datastores, v), nil
}

var errNoVersion = errors.New("no such version")

func pickVersion(versions []dbaas.DatastoreVersion, d dbaas.Datastore, version, number string) (dbaas.DatastoreVersion, error) {
	var found []dbaas.DatastoreVersion
	for _, v := range versions {
		named := version == "" || v.ID == version || v.Name == version
		if v.DatastoreID == d.ID && named && (number == "" || v.Number == number) {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return dbaas.DatastoreVersion{}, dbaas.WrapError(errNoVersion, dbaas.NotFound, "Datastore %s has no version %q.", d.Name, strings.TrimSpace(version+" "+number))
	default:
		return dbaas.DatastoreVersion{}, dbaas.Errorf(dbaas.BadRequest, "Datastore %s has several versions %q: name one by id or version number.", d.Name, version)
	}
}

// activeVersion resolves the version of a new instance. What does not exist or is not active is a bad request here,
// where it is not the resource that the path names (api.md 6.4).
func (s *Service) activeVersion(ctx context.Context, datastoreName, version, number string) (*VersionView, error) {
	if datastoreName == "" && s.DefaultDatastore == "" {
		return nil, dbaas.Errorf(dbaas.BadRequest, "Name a datastore: there is no default one.")
	}
	v, err := s.findVersion(ctx, datastoreName, version, number)
	if errors.Is(err, errNoVersion) {
		return nil, dbaas.Errorf(dbaas.BadRequest, "%s", dbaas.ErrorMessage(err))
	}
	if err != nil {
		return nil, err
	}
	if !v.Active {
		return nil, dbaas.Errorf(dbaas.BadRequest, "Datastore version %s is not active here.", v.Name)
	}
	_, err = s.manifest(&v.DatastoreVersion)
	return v, err
}

func versionView(datastores []dbaas.Datastore, v dbaas.DatastoreVersion) *VersionView {
	view := &VersionView{DatastoreVersion: v}
	for _, d := range datastores {
		if d.ID == v.DatastoreID {
			view.Datastore = d
		}
	}
	return view
}

func versionNotFound(id string) error {
	return dbaas.Errorf(dbaas.NotFound, "Datastore version %q not found.", id)
}

func findByID(versions []dbaas.DatastoreVersion, id string) (dbaas.DatastoreVersion, bool) {
	for _, v := range versions {
		if v.ID == id {
			return v, true
		}
	}
	return dbaas.DatastoreVersion{}, false
}

func datastoreName(datastores []dbaas.Datastore, id string) string {
	for _, d := range datastores {
		if d.ID == id {
			return d.Name
		}
	}
	return ""
}
