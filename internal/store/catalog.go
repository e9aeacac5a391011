package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// doNothing makes an insert leave the row alone that is there already.
func doNothing() clause.OnConflict { return clause.OnConflict{DoNothing: true} }

// UpsertDatastore writes a datastore by its id.
func (tx *Tx) UpsertDatastore(d *dbaas.Datastore) error {
	return tx.failed("write datastore", tx.db.Clauses(replaceBy("id", "name", "default_version_id")).Create(d).Error)
}

// UpsertVersion writes a datastore version by its id; CreatedAt stays what it was.
func (tx *Tx) UpsertVersion(v *dbaas.DatastoreVersion) error {
	tx.setTime(&v.CreatedAt)
	replace := replaceBy("id", "datastore_id", "name", "number", "manager", "active", "image", "image_tags", "packages")
	return tx.failed("write datastore version", tx.db.Clauses(replace).Create(v).Error)
}

// DeleteDatastore removes a datastore without versions.
func (tx *Tx) DeleteDatastore(id string) error {
	return tx.failed("delete datastore", tx.db.Where("id = ?", id).Delete(&dbaas.Datastore{}).Error)
}

// DeleteVersion removes a version that is not in use.
func (tx *Tx) DeleteVersion(id string) error {
	return tx.failed("delete datastore version", tx.db.Where("id = ?", id).Delete(&dbaas.DatastoreVersion{}).Error)
}

// VersionInUse tells whether a row refers to a version, that of something deleted included.
func (tx *Tx) VersionInUse(id string) (used bool, err error) {
	err = tx.db.Raw(`SELECT EXISTS (SELECT 1 FROM instances WHERE datastore_version_id = @id)
	OR EXISTS (SELECT 1 FROM clusters WHERE datastore_version_id = @id)
	OR EXISTS (SELECT 1 FROM configurations WHERE datastore_version_id = @id)`, sql.Named("id", id)).Scan(&used).Error
	return used, tx.failed("look for the uses of a datastore version", err)
}

// Datastores lists datastores and versions, also those that are not active.
func (tx *Tx) Datastores() ([]dbaas.Datastore, []dbaas.DatastoreVersion, error) {
	return datastores(tx.s, tx.db)
}

// Datastores lists datastores by name, and all their versions, also those that are not active, by name.
func (s *Store) Datastores(ctx context.Context) ([]dbaas.Datastore, []dbaas.DatastoreVersion, error) {
	return datastores(s, s.read.WithContext(ctx))
}

func datastores(s *Store, db *gorm.DB) (stores []dbaas.Datastore, versions []dbaas.DatastoreVersion, err error) {
	if err := db.Order("name").Find(&stores).Error; err != nil {
		return nil, nil, s.failed("list datastores", err)
	}
	if err := db.Order("datastore_id, name").Find(&versions).Error; err != nil {
		return nil, nil, s.failed("list datastore versions", err)
	}
	return stores, versions, nil
}

// SaveCatalog writes what a region's cloud offers.
func (tx *Tx) SaveCatalog(c *dbaas.Catalog) error {
	c.UpdatedAt = tx.Now()
	replace := replaceBy("region", "flavors", "volume_types", "networks", "zones", "updated_at")
	return tx.failed("write catalog", tx.db.Clauses(replace).Create(c).Error)
}

// Catalog reads what a region's cloud offers.
func (tx *Tx) Catalog(region string) (*dbaas.Catalog, error) { return catalog(tx.s, tx.db, region) }

// Catalog reads what a region's cloud offers.
func (s *Store) Catalog(ctx context.Context, region string) (*dbaas.Catalog, error) {
	return catalog(s, s.read.WithContext(ctx), region)
}

func catalog(s *Store, db *gorm.DB, region string) (*dbaas.Catalog, error) {
	return require[dbaas.Catalog](s, db.Where("region = ?", region), "catalog of region", region)
}

// LockProject takes the lock under which a project's quota is counted, until the transaction ends. On SQLite the
// transaction holds it already.
func (tx *Tx) LockProject(projectID string) error {
	if !tx.s.dialect.hasClock() {
		return nil
	}
	const lock = `SELECT id FROM projects WHERE id = ? FOR UPDATE`
	r := tx.db.Raw(lock, projectID).Scan(new(string))
	if r.Error == nil && r.RowsAffected == 0 {
		r = tx.db.Exec(`INSERT INTO projects (id) VALUES (?) ON CONFLICT DO NOTHING`, projectID)
		if r.Error == nil {
			r = tx.db.Raw(lock, projectID).Scan(new(string))
		}
	}
	return tx.failed("lock project", r.Error)
}

// SetQuota writes a project's own limit of a resource.
func (tx *Tx) SetQuota(q dbaas.Quota) error {
	return tx.failed("write quota", tx.db.Clauses(replaceBy("project_id,resource", "hard_limit")).Create(&q).Error)
}

// DeleteQuota removes a project's own limit of a resource, so that the default holds again.
func (tx *Tx) DeleteQuota(projectID, resource string) error {
	err := tx.db.Where("project_id = ? AND resource = ?", projectID, resource).Delete(&dbaas.Quota{}).Error
	return tx.failed("delete quota", err)
}

// Usage counts what a project has in use, from the rows that live, beside its limits.
func (tx *Tx) Usage(projectID string, defaults map[string]int) ([]dbaas.Usage, error) {
	return usage(tx.s, tx.db, projectID, defaults)
}

// Usage counts what a project has in use, beside its limits.
func (s *Store) Usage(ctx context.Context, projectID string, defaults map[string]int) ([]dbaas.Usage, error) {
	return usage(s, s.read.WithContext(ctx), projectID, defaults)
}

// usageRow is how many instances of one flavor there are in a region.
type usageRow struct {
	Region    string
	FlavorID  string
	Instances int
	Guests    int
	Volumes   int
}

// A hot standby is one instance, and takes the memory and volumes of two.
const usageQuery = `
SELECT region, flavor_id, count(*) AS instances,
	CAST(sum(CASE WHEN high_availability IS NULL THEN 1 ELSE 2 END) AS BIGINT) AS guests,
	CAST(sum(CASE WHEN high_availability IS NULL THEN 1 ELSE 2 END * volume_charged) AS BIGINT) AS volumes
FROM instances WHERE project_id = ? AND deleted_at = 0 GROUP BY region, flavor_id`

func usage(s *Store, db *gorm.DB, projectID string, defaults map[string]int) ([]dbaas.Usage, error) {
	limits, err := limitsOf(s, db, projectID, defaults)
	if err != nil {
		return nil, err
	}
	var rows []usageRow
	if err := db.Raw(usageQuery, projectID).Scan(&rows).Error; err != nil {
		return nil, s.failed("count usage", err)
	}
	ram, err := memoryOf(s, db, rows)
	if err != nil {
		return nil, err
	}
	used := map[string]int{dbaas.QuotaRAM: ram}
	for _, r := range rows {
		used[dbaas.QuotaInstances] += r.Instances
		used[dbaas.QuotaVolumes] += r.Volumes
	}
	var list []dbaas.Usage
	for _, resource := range dbaas.QuotaResources() {
		list = append(list, dbaas.Usage{Resource: resource, InUse: used[resource], Limit: limits[resource]})
	}
	return list, nil
}

func limitsOf(s *Store, db *gorm.DB, projectID string, defaults map[string]int) (map[string]int, error) {
	var quotas []dbaas.Quota
	if err := db.Where("project_id = ?", projectID).Find(&quotas).Error; err != nil {
		return nil, s.failed("read quotas", err)
	}
	limits := map[string]int{}
	for _, resource := range dbaas.QuotaResources() {
		limits[resource] = -1
		if d, ok := defaults[resource]; ok {
			limits[resource] = d
		}
	}
	for _, q := range quotas {
		limits[q.Resource] = q.Limit
	}
	return limits, nil
}

// memoryOf sums the memory of all flavors in use. One that the cloud no longer offers counts nothing.
func memoryOf(s *Store, db *gorm.DB, rows []usageRow) (ram int, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	var regions []string
	for _, r := range rows {
		if !slices.Contains(regions, r.Region) {
			regions = append(regions, r.Region)
		}
	}
	var catalogs []dbaas.Catalog
	if err := db.Select("Region", "Flavors").Where(s.dialect.in("region", regions)).Find(&catalogs).Error; err != nil {
		return 0, s.failed("read catalogs", err)
	}
	for _, r := range rows {
		for _, c := range catalogs {
			if f, ok := c.Flavor(r.FlavorID); ok && c.Region == r.Region {
				ram += f.RAM * r.Guests
			}
		}
	}
	return ram, nil
}

// replaceBy makes an insert replace columns of the row with the same key.
func replaceBy(key string, columns ...string) clause.OnConflict {
	return clause.OnConflict{Columns: columnsOf(key), DoUpdates: clause.AssignmentColumns(columns)}
}

func columnsOf(names string) []clause.Column {
	var columns []clause.Column
	for _, name := range strings.Split(names, ",") {
		columns = append(columns, clause.Column{Name: name})
	}
	return columns
}
