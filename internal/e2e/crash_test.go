package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestDatabasesSurviveACrash kills groved: databases go on serving, and the next groved adopts them.
func TestDatabasesSurviveACrash(t *testing.T) {
	h := open(t)
	in := h.createActive("cache1")
	in.set("greeting", "hello")
	client := in.redis()
	h.kill()
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatalf("the database stopped with groved: %v", err)
	}
	run := client.InfoMap(t.Context(), "server").Item("Server", "run_id")
	h.start()
	in.await("ACTIVE", "HEALTHY")
	in.requireValue("greeting", "hello")
	if again := client.InfoMap(t.Context(), "server").Item("Server", "run_id"); again != run {
		t.Errorf("the database was restarted: run id %s became %s", run, again)
	}
}

// TestCleanExitAndReturn stops groved: no process is left; the next groved starts the databases with their data.
func TestCleanExitAndReturn(t *testing.T) {
	h := open(t)
	in := h.createActive("cache1")
	in.set("greeting", "hello")
	h.stop()
	h.requireNothingLeft()
	h.start()
	in.await("ACTIVE", "HEALTHY")
	in.requireValue("greeting", "hello")
}

// TestCrashedDatabaseIsRestarted kills the database itself: its agent brings it back with its data.
func TestCrashedDatabaseIsRestarted(t *testing.T) {
	h := open(t)
	in := h.createActive("cache1")
	in.set("greeting", "hello")
	killRedis(t, in.redis())
	eventually(t, 30*time.Second, func() error { return in.redis().Ping(t.Context()).Err() })
	in.requireValue("greeting", "hello")
	in.await("ACTIVE", "HEALTHY")
	eventually(t, 10*time.Second, func() error {
		for _, e := range h.do(200, "GET", "/events?resource_id="+in.id, nil).body.at("events").([]any) {
			if kind := object(e.(map[string]any)).text("kind"); kind == "database.crashed" {
				return nil
			}
		}
		return fmt.Errorf("no event tells of the crash")
	})
}

// killRedis kills the server process behind a client, as a crash does.
func killRedis(t *testing.T, client *redis.Client) {
	t.Helper()
	pid := 0
	info := client.InfoMap(t.Context(), "server").Item("Server", "process_id")
	if _, err := fmt.Sscan(info, &pid); err != nil || pid <= 1 {
		t.Fatalf("process id %q: %v", info, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// requireValueSoon waits until the server answers again, and with the right value.
func requireValueSoon(t *testing.T, client *redis.Client, key, value string) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		got, err := client.Get(t.Context(), key).Result()
		if err == nil && got != value {
			t.Fatalf("GET %s: %q, want %q", key, got, value)
		}
		return err
	})
}

// TestCreatesSurviveRandomKills kills groved at random moments during creates and deletes: a kill alone never ends in
// ERROR, nothing is lost and nothing is left (R1, R10).
func TestCreatesSurviveRandomKills(t *testing.T) {
	h := open(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var instances []*instance
	for round := range 6 {
		instances = append(instances, h.create(fmt.Sprintf("cache-%d", round)))
		if round >= 3 {
			h.do(202, "DELETE", "/instances/"+instances[round-3].id, nil)
		}
		timer := time.NewTimer(time.Duration(random.IntN(400)) * time.Millisecond)
		<-timer.C
		h.kill()
		h.start()
	}
	for i, in := range instances {
		if i < 3 {
			in.awaitGone()
			continue
		}
		in.await("ACTIVE", "HEALTHY")
		in.set("k", "v")
	}
	a := h.do(200, "GET", "/mgmt/quotas/demo", nil)
	if a.body.at("quotas", 0, "in_use") != 3.0 {
		t.Errorf("quota in use: %v, want 3", a.body)
	}
	if dirs, _ := filepath.Glob(filepath.Join(h.dir, "servers", "*")); len(dirs) != 3 {
		t.Errorf("%d server directories for 3 instances: %v", len(dirs), dirs)
	}
}

// TestTwoHousesSideBySide runs two groved on one machine: addresses do not collide.
func TestTwoHousesSideBySide(t *testing.T) {
	a, b := open(t), open(t)
	x, y := a.createActive("x"), b.createActive("y")
	if x.address() == y.address() {
		t.Fatalf("both instances have address %s", x.address())
	}
	x.set("who", "x")
	y.set("who", "y")
	x.requireValue("who", "x")
}

// TestQuotaIsExact sends many creates at once against a small limit: exactly the limit is accepted (R10).
func TestQuotaIsExact(t *testing.T) {
	h := open(t)
	admin := *h
	admin.project = "admin"
	admin.do(200, "PUT", "/mgmt/quotas/demo", object{"quotas": object{"instances": 3}})
	type result struct {
		status int
		id     string
	}
	results := make(chan result, 12)
	for i := range cap(results) {
		go func() {
			a, err := h.try("POST", "/instances", object{"instance": object{"name": fmt.Sprintf("q%d", i), "flavorRef": "1", "volume": object{"size": 1}}})
			if err != nil {
				results <- result{status: -1}
				return
			}
			results <- result{status: a.status, id: a.body.text("instance", "id")}
		}()
	}
	count := map[int]int{}
	var accepted []*instance
	for range cap(results) {
		r := <-results
		count[r.status]++
		if r.status == 200 {
			accepted = append(accepted, &instance{h: h, id: r.id})
		}
	}
	if count[200] != 3 || count[413] != cap(results)-3 {
		t.Errorf("answers by status: %v, want three 200 and the rest 413", count)
	}
	for _, in := range accepted {
		in.await("ACTIVE", "HEALTHY")
	}
}
