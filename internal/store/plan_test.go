package store

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"gorm.io/gorm"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// planRows is how many instances the tests of plans have in one project. SQLite's plans do not depend on it.
const planRows = 100_000

// listed is a list query at some page.
type listed struct {
	name  string
	query func(db *gorm.DB) *gorm.DB // not yet run
	into  any
}

// listQueries is every list query of the store, at its first, a middle and its last page.
func listQueries(s *Store, rows int) (all []listed) {
	const limit = 20
	pages := map[string]int{"first": 0, "middle": rows / 2, "last": rows - 2*limit}
	for name, n := range pages {
		after := ""
		before := map[string]string{"first": "", "middle": manyID(n, 4), "last": manyID(2*limit, 4)}[name]
		if n > 0 {
			after = manyID(n, 0)
		}
		instances := func(clustered bool) func(db *gorm.DB) *gorm.DB {
			return func(db *gorm.DB) *gorm.DB {
				return viewQuery(db, instancePage(db, InstanceFilter{ProjectID: testProject, IncludeClustered: clustered, Limit: limit, Marker: after}))
			}
		}
		var ids []string
		for k := range limit {
			ids = append(ids, manyID(n+k+1, 0))
		}
		operations := func(f OperationFilter) func(db *gorm.DB) *gorm.DB {
			f.Limit, f.Marker = limit, before
			return func(db *gorm.DB) *gorm.DB { return operationPage(db, f) }
		}
		events := func(f EventFilter) func(db *gorm.DB) *gorm.DB {
			f.Limit, f.Marker = limit, before
			return func(db *gorm.DB) *gorm.DB { return eventPage(db, f) }
		}
		all = append(all,
			listed{name + " instances", instances(false), &[]map[string]any{}},
			listed{name + " instances and members", instances(true), &[]map[string]any{}},
			listed{name + " guests", func(db *gorm.DB) *gorm.DB { return s.guestQuery(db, ids) }, &[]map[string]any{}},
			listed{name + " configurations", func(db *gorm.DB) *gorm.DB {
				return configurationPage(db, ConfigurationFilter{ProjectID: testProject, Limit: limit, Marker: manyID(min(n/21, 2000), 3)})
			}, &[]dbaas.Configuration{}},
			listed{name + " configurations of all projects", func(db *gorm.DB) *gorm.DB {
				return configurationPage(db, ConfigurationFilter{Limit: limit, Marker: manyID(min(n/21, 2000), 3)})
			}, &[]dbaas.Configuration{}},
			listed{name + " instances of a configuration", func(db *gorm.DB) *gorm.DB {
				return configurationInstancePage(db, manyID(1, 3), limit, after)
			}, &[]dbaas.Instance{}},
			listed{name + " operations", operations(OperationFilter{}), &[]dbaas.Operation{}},
			listed{name + " operations of a project", operations(OperationFilter{ProjectID: testProject}), &[]dbaas.Operation{}},
			listed{name + " running operations of a project", operations(OperationFilter{ProjectID: testProject, Status: "running"}), &[]dbaas.Operation{}},
			listed{name + " running operations", operations(OperationFilter{Status: "running"}), &[]dbaas.Operation{}},
			listed{name + " operations of a busy resource", operations(OperationFilter{ProjectID: testProject, ResourceID: "busy3"}), &[]dbaas.Operation{}},
			listed{name + " running operations of a busy resource", operations(OperationFilter{ResourceID: "busy3", Status: "running"}), &[]dbaas.Operation{}},
			listed{name + " operations of a quiet resource", operations(OperationFilter{ProjectID: testProject, ResourceID: manyID(4, 0)}), &[]dbaas.Operation{}},
			listed{name + " events of a project", events(EventFilter{ProjectID: testProject}), &[]dbaas.Event{}},
			listed{name + " events of a busy resource", events(EventFilter{ProjectID: testProject, ResourceID: "busy3"}), &[]dbaas.Event{}},
			listed{name + " events", events(EventFilter{}), &[]dbaas.Event{}},
		)
	}
	one := func(db *gorm.DB) *gorm.DB {
		return viewQuery(db, db.Model(&dbaas.Instance{}).Where("id = ? AND deleted_at = 0", manyID(rows/2, 0)))
	}
	return append(all, listed{"show", one, &[]map[string]any{}},
		listed{"all protected", func(db *gorm.DB) *gorm.DB { return viewQuery(db, protected(db)) }, &[]map[string]any{}},
		listed{"findings", func(db *gorm.DB) *gorm.DB { return findingPage(db, 20, manyID(5, 0)) }, &[]dbaas.Finding{}},
		listed{"all behind", func(db *gorm.DB) *gorm.DB { return viewQuery(db, behind(db)) }, &[]map[string]any{}})
}

// manyRows tells that a page has enough rows to judge by.
func (l listed) manyRows() bool {
	return !strings.Contains(l.name, "quiet") && l.name != "show" && !strings.HasPrefix(l.name, "last")
}

// statement gives the text of a query and its values.
func (l listed) statement(t *testing.T, db *gorm.DB) (string, []any) {
	t.Helper()
	r := l.query(db.Session(&gorm.Session{DryRun: true})).Find(l.into)
	if r.Error != nil {
		t.Fatal(r.Error)
	}
	return r.Statement.SQL.String(), r.Statement.Vars
}

func TestListQueriesReadWhatTheyReturn(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		s := openPostgres(t)
		seedMany(t, s, planRows)
		for _, l := range listQueries(s, planRows) {
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				t.Run(l.name+"/"+mode, func(t *testing.T) { checkPostgresPlan(t, s, l, mode) })
			}
		}
		t.Run("claim", func(t *testing.T) { checkClaimPlan(t, s) })
	})
	t.Run("sqlite", func(t *testing.T) {
		s := openSQLite(t)
		rows := planRows
		if raceDetector {
			rows = 2000
		}
		seedMany(t, s, rows)
		for _, l := range listQueries(s, rows) {
			t.Run(l.name, func(t *testing.T) { checkSQLitePlan(t, s, l) })
		}
	})
}

// planNode is a node of PostgreSQL's EXPLAIN.
type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Rows     float64    `json:"Actual Rows"`
	Loops    float64    `json:"Actual Loops"`
	Filtered float64    `json:"Rows Removed by Filter"`
	Rechecks float64    `json:"Rows Removed by Index Recheck"`
	Plans    []planNode `json:"Plans"`
}

// reads sums the rows that a plan reads, by table.
func (n planNode) reads(by map[string]float64) {
	if n.Relation != "" {
		by[n.Relation] += (n.Rows + n.Filtered + n.Rechecks) * n.Loops
	}
	for _, p := range n.Plans {
		p.reads(by)
	}
}

// checkPostgresPlan explains a query as the server runs it while it is new, and as it runs it when it has been prepared
// for long: without knowing the values.
func checkPostgresPlan(t *testing.T, s *Store, l listed, mode string) {
	sql, vars := l.statement(t, s.read)
	plan := explain(t, s, mode, sql, vars)
	reads := map[string]float64{}
	plan.reads(reads)
	returned := max(plan.Rows, 1)
	for table, n := range reads {
		if n > 3*returned {
			t.Errorf("reads %.0f rows of %s for %.0f that it returns", n, table, returned)
		}
	}
	if l.manyRows() && plan.Rows < 10 {
		t.Errorf("returns %.0f rows: the test proves nothing", plan.Rows)
	}
	if t.Failed() {
		t.Log(sql)
	}
}

func explain(t *testing.T, s *Store, mode, sql string, vars []any) planNode {
	t.Helper()
	var text string
	err := s.read.Connection(func(db *gorm.DB) error {
		literals := make([]string, len(vars))
		for i, v := range vars {
			literals[i] = literal(t, v)
		}
		execute := "EXECUTE listed"
		if len(vars) > 0 {
			execute += "(" + strings.Join(literals, ", ") + ")"
		}
		for _, statement := range []string{"SET plan_cache_mode = " + mode, "PREPARE listed AS " + sql} {
			if _, err := db.Statement.ConnPool.ExecContext(t.Context(), statement); err != nil {
				return err
			}
		}
		err := db.Statement.ConnPool.QueryRowContext(t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) "+execute).Scan(&text)
		if _, undo := db.Statement.ConnPool.ExecContext(t.Context(), "DEALLOCATE listed"); err == nil {
			err = undo
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var plans []struct{ Plan planNode }
	if err := json.Unmarshal([]byte(text), &plans); err != nil {
		t.Fatal(err)
	}
	return plans[0].Plan
}

func literal(t *testing.T, v any) string {
	t.Helper()
	if valuer, ok := v.(driver.Valuer); ok {
		value, err := valuer.Value()
		if err != nil {
			t.Fatal(err)
		}
		v = value
	}
	switch v := v.(type) {
	case int, int64, dbaas.Instant:
		return fmt.Sprint(v)
	}
	return "'" + strings.ReplaceAll(fmt.Sprint(v), "'", "''") + "'"
}

// checkClaimPlan sees to it that a worker does not look through history to find something to do.
func checkClaimPlan(t *testing.T, s *Store) {
	for _, statement := range []string{
		"SELECT o.id FROM operations o WHERE o.wake_at <= " + postgresNow + " AND " +
			strings.ReplaceAll(claimable, "@now", postgresNow) + " ORDER BY o.wake_at LIMIT 1",
		strings.ReplaceAll(nextDue, "@now", postgresNow),
	} {
		reads := map[string]float64{}
		explain(t, s, "force_generic_plan", statement, nil).reads(reads)
		if reads["operations"] > 10 {
			t.Errorf("%s: reads %.0f operations", statement, reads["operations"])
		}
	}
}

// checkSQLitePlan wants every table to be searched by an index in the order of the result. The rows of the sub-select
// itself are walked, once each.
func checkSQLitePlan(t *testing.T, s *Store, l listed) {
	sql, vars := l.statement(t, s.read)
	var steps []struct{ Detail string }
	if err := s.read.Raw("EXPLAIN QUERY PLAN "+sql, vars...).Scan(&steps).Error; err != nil {
		t.Fatal(err)
	}
	if len(steps) == 0 {
		t.Fatal("no plan")
	}
	for _, step := range steps {
		scan := strings.HasPrefix(step.Detail, "SCAN ") && step.Detail != "SCAN i" && !strings.Contains(step.Detail, "CONSTANT ROW") &&
			!(l.name == "first operations" || l.name == "first events") &&
			!strings.HasPrefix(step.Detail, "SCAN instances USING INDEX instances_"+strings.TrimPrefix(l.name, "all "))
		if scan || strings.Contains(step.Detail, "TEMP B-TREE") {
			t.Errorf("%s\nin %+v\nof %s", step.Detail, steps, sql)
		}
	}
	rows := l.query(s.read).Scan(l.into)
	if rows.Error != nil {
		t.Fatal(rows.Error)
	}
	if l.manyRows() && rows.RowsAffected < 10 {
		t.Errorf("returns %d rows: the test proves nothing", rows.RowsAffected)
	}
}
