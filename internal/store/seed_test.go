package store

import (
	"fmt"
	"strings"
	"testing"
)

// seedMany fills a database with n instances of one project and all that belongs to them: a twentieth are members of
// clusters, a fiftieth replicas, a hundredth at work, a hundredth (the oldest) deleted; half of them use the configuration
// group number 1. There are as many operations and events, half of them of ten busy resources.
func seedMany(t testing.TB, s *Store, n int) {
	t.Helper()
	seedVersion(t, s)
	db := s.write
	series := fmt.Sprintf("(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < %d) SELECT n FROM s)", n)
	id := "(printf('%%08x', (n)) || '-0000-7000-8000-00000000000%d')"
	if s.dialect.hasClock() {
		series = fmt.Sprintf("generate_series(1, %d) AS s(n)", n)
		id = "(lpad(to_hex((n)::int), 8, '0') || '-0000-7000-8000-00000000000%d')"
	}
	words := []string{"SERIES", series, "MANY", fmt.Sprint(n), "MASTER", strings.Replace(fmt.Sprintf(id, 0), "(n)", "(n - 1)", 1)}
	for kind := range 6 {
		words = append(words, fmt.Sprint("ID", kind), fmt.Sprintf(id, kind))
	}
	for _, statement := range strings.Split(strings.NewReplacer(words...).Replace(manyRows), ";\n") {
		if err := db.Exec(statement).Error; err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if s.dialect.hasClock() {
		if err := db.Exec("VACUUM ANALYZE").Error; err != nil {
			t.Fatal(err)
		}
	}
}

// manyID is the id of the n-th row of a kind in seedMany.
func manyID(n, kind int) string { return fmt.Sprintf("%08x-0000-7000-8000-00000000000%d", n, kind) }

const manyRows = `INSERT INTO instance_groups (id, project_id, kind, created_at) SELECT ID1, 'demo', 'single', n FROM SERIES;
INSERT INTO instances (id, project_id, group_id, cluster_id, replica_of, name, datastore_version_id, flavor_id, volume_size,
	volume_charged, configuration_id, region, access, addresses, task, applied, high_availability, created_at, updated_at, deleted_at)
	SELECT ID0, 'demo', ID1, CASE WHEN n % 20 = 0 THEN 'c' ELSE '' END,
	CASE WHEN n % 50 = 1 AND n > 1 THEN MASTER ELSE '' END,
	'db' || n, '` + testVersion + `', '1', 2, 2, CASE WHEN n % 2 = 0 THEN '00000001-0000-7000-8000-000000000003' ELSE '' END,
	'local', '{"is_public":false,"allowed_cidrs":null}', '[{"address":"127.77.0.2","type":"private"}]', 'NONE',
	CASE WHEN n % 100 = 9 THEN '{"flavor_id":"1","volume_size":2,"behind":["g"]}' ELSE '{"flavor_id":"1","volume_size":2}' END,
	CASE WHEN n % 100 = 7 THEN '{"durability":"async"}' END, n, n, CASE WHEN n > 10 AND n <= MANY / 100 THEN n ELSE 0 END FROM SERIES;
INSERT INTO guests (id, instance_id, group_id, project_id, queue, status, boot_id, sequence, observed, created_at, updated_at)
	SELECT ID2, ID0, ID1, 'demo', 'q' || n, 'healthy', 'b', 1, '{"role":"master"}', n, n FROM SERIES;
INSERT INTO heartbeats (guest_id, boot_id, sequence, seen_at, metrics) SELECT ID2, 'b', 1, n, '{"memory":1}' FROM SERIES;
INSERT INTO configurations (id, project_id, name, datastore_version_id, parameters, created_at, updated_at, deleted_at)
	SELECT ID3, 'demo', 'c' || n, '` + testVersion + `', '{}', n, n, CASE WHEN n > 10 AND n <= 200 THEN n ELSE 0 END FROM SERIES WHERE n <= 5000;
INSERT INTO operations (id, kind, project_id, resource_type, resource_id, status, created_at, updated_at, wake_at, ended_at)
	SELECT ID4, 'create_instance', 'demo', 'instance', CASE WHEN n % 2 = 0 THEN ID0 ELSE 'busy' || (n % 20) END,
	CASE WHEN n % 100 = 3 THEN 'running' WHEN n % 10 = 4 THEN 'failed' ELSE 'succeeded' END, n, n, n,
	CASE WHEN n % 100 = 3 THEN 0 ELSE n END FROM SERIES;
INSERT INTO operation_locks (resource_id, operation_id) SELECT ID0, ID4 FROM SERIES WHERE n % 100 = 3;
INSERT INTO operation_steps (operation_id, number, step) SELECT ID4, 1, 's' FROM SERIES;
INSERT INTO events (id, project_id, resource_type, resource_id, kind, created_at)
	SELECT ID5, 'demo', 'instance', CASE WHEN n % 2 = 0 THEN ID0 ELSE 'busy' || (n % 20) END, 'k', n FROM SERIES;
INSERT INTO findings (id, problem, kind, resource_id, first_seen, reported_at) SELECT ID5, 'orphan', 'server', 'server-' || n, n,
	CASE WHEN n % 2 = 0 THEN n ELSE 0 END FROM SERIES`
