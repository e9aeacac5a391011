package e2e

import (
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/glebarez/go-sqlite"
	_ "github.com/jackc/pgx/v5/stdlib" // rows are made past the API

	"github.com/grove-dbaas/grove/internal/testbed"
)

// BenchmarkReads measures lists (a page of 20) and shows through HTTP against a groved of its own, by how many
// instances the project has and how many clients ask. CPU is groved's alone, without the database server's.
func BenchmarkReads(b *testing.B) {
	for _, database := range []string{"postgres", "sqlite"} {
		for _, size := range []int{100, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", database, size), func(b *testing.B) {
				h := openBench(b, database)
				ids := h.seed(b, size)
				for _, clients := range []int{1, 8} {
					b.Run(fmt.Sprintf("list/clients=%d", clients), func(b *testing.B) {
						h.load(b, clients, func() string { return "/instances?limit=20&marker=" + ids[rand.IntN(len(ids))] })
					})
					b.Run(fmt.Sprintf("show/clients=%d", clients), func(b *testing.B) {
						h.load(b, clients, func() string { return "/instances/" + ids[rand.IntN(len(ids))] })
					})
				}
			})
		}
	}
}

// benchHouse is a groved dev whose rows are made past its API.
type benchHouse struct {
	*house
	driver, source string
}

func openBench(b *testing.B, database string) *benchHouse {
	b.Helper()
	h := &benchHouse{house: &house{t: b, dir: filepath.Join(b.TempDir(), "data"), project: "demo"}}
	h.driver, h.source = "sqlite", filepath.Join(h.dir, "grove.db")+"?_pragma=busy_timeout(10000)"
	if database == "postgres" {
		url := testbed.Postgres(b)
		h.driver, h.source = "pgx", url
		config := filepath.Join(b.TempDir(), "grove.yaml")
		if err := os.WriteFile(config, []byte("database: {url: \""+url+"\"}\n"), 0o600); err != nil {
			b.Fatal(err)
		}
		h.args = []string{"--config", config}
	}
	h.start()
	b.Cleanup(h.stop)
	return h
}

// seed makes a project's instances, each with group, guest and heartbeat, and gives the ids of some.
func (h *benchHouse) seed(b *testing.B, n int) []string {
	b.Helper()
	db, err := sql.Open(h.driver, h.source)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	numbers, id := fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d)", n), "printf('%%s0000000-0000-7000-8000-%%012x', '%s', i)"
	if h.driver == "pgx" {
		numbers, id = fmt.Sprintf("WITH n AS (SELECT generate_series(1, %d) AS i)", n), "'%s0000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0')"
	}
	group, instance, guest := fmt.Sprintf(id, "a"), fmt.Sprintf(id, "b"), fmt.Sprintf(id, "c")
	for _, statement := range []string{
		"INSERT INTO instance_groups (id, project_id, kind, created_at) " + numbers + " SELECT " + group + ", 'demo', 'single', 1 FROM n",
		"INSERT INTO instances (id, project_id, group_id, name, datastore_version_id, flavor_id, volume_size, volume_charged, region, access, addresses, task, created_at, updated_at) " +
			numbers + " SELECT " + instance + ", 'demo', " + group + ", 'cache', (SELECT id FROM datastore_versions WHERE name = '7.0'), '1', 5, 5, 'RegionOne', " +
			"'{\"is_public\":false,\"allowed_cidrs\":[]}', '[{\"address\":\"127.77.0.9\",\"type\":\"private\"}]', 'NONE', 1, 1 FROM n",
		"INSERT INTO guests (id, instance_id, group_id, project_id, status, created_at, updated_at) " +
			numbers + " SELECT " + guest + ", " + instance + ", " + group + ", 'demo', 'healthy', 1, 1 FROM n",
		"INSERT INTO heartbeats (guest_id, boot_id, sequence, seen_at, volume_used, volume_total, metrics) " +
			numbers + " SELECT " + guest + ", 'boot', 1, 9000000000000000, 1, 1000, '{}' FROM n",
		"ANALYZE",
	} {
		if _, err := db.ExecContext(b.Context(), statement); err != nil {
			b.Fatalf("%v\n%s", err, statement)
		}
	}
	ids := make([]string, 0, 200)
	for range cap(ids) {
		ids = append(ids, fmt.Sprintf("b0000000-0000-7000-8000-%012x", 1+rand.IntN(n)))
	}
	return ids
}

// load sends b.N requests from clients side by side and reports rate, latencies and groved's CPU per request.
func (h *benchHouse) load(b *testing.B, clients int, path func() string) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	var left atomic.Int64
	left.Store(int64(b.N))
	var mu sync.Mutex
	var took []time.Duration
	cpu := h.cpu(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			var own []time.Duration
			for left.Add(-1) >= 0 {
				begin := time.Now()
				if err := get(client, h.base+"/v1.0/demo"+path()); err != nil {
					b.Error(err)
					return
				}
				own = append(own, time.Since(begin))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64((h.cpu(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/req")
	b.ReportMetric(0, "ns/op")
}

func get(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s, %v", url, resp.Status, err)
	}
	return nil
}

// cpu is the user and system time that groved has taken, in ticks of 10 ms.
func (h *benchHouse) cpu(b *testing.B) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
