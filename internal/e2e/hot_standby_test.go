package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// async and bounded are the classes of hot standbys as they stand in a request.
func async() object { return object{"high_availability": object{"durability": "async"}} }

func bounded(whenDegraded string) object {
	return object{"high_availability": object{"durability": "bounded", "when_degraded": whenDegraded}}
}

// createProtected makes a hot standby, and waits until its standby could take over.
func (h *house) createProtected(name string, class object) *instance {
	h.t.Helper()
	in := h.createActive(name, class)
	in.awaitProtection("protected")
	return in
}

// awaitProtection waits for a state of high_availability while no operation runs.
func (in *instance) awaitProtection(state string) {
	in.h.t.Helper()
	eventually(in.h.t, 120*time.Second, func() error {
		v := in.show()
		if got := v.text("instance", "high_availability", "state"); got != state {
			return fmt.Errorf("instance %s is %v, want %s; operation %v", in.id, v.at("instance", "high_availability"), state, v.at("instance", "operation"))
		}
		if op := v.at("instance", "operation"); op != nil {
			return fmt.Errorf("instance %s: %v runs", in.id, op)
		}
		return nil
	})
}

// patient is a client that never tries again by itself, for who measures must see each failure. It waits longer than a busy
// machine takes: what it reports is the server's doing.
func (in *instance) patient() *redis.Client {
	in.h.t.Helper()
	return in.client(10 * time.Second)
}

func (in *instance) client(within time.Duration) *redis.Client {
	in.h.t.Helper()
	return redis.NewClient(&redis.Options{Addr: in.address() + ":6379", Password: in.password, DisableIdentity: true, MaxRetries: -1,
		DialerRetries: 1, DialTimeout: within, ReadTimeout: within, WriteTimeout: within, PoolSize: 4})
}

// events lists an instance's events of a kind, the newest first.
func (in *instance) events(kind string) (found []object) {
	in.h.t.Helper()
	marker := ""
	for {
		list, _ := in.h.do(200, "GET", "/events?resource_id="+in.id+marker, nil).body.at("events").([]any)
		for _, e := range list {
			o := object(e.(map[string]any))
			marker = "&marker=" + o.text("id")
			if o.text("kind") == kind {
				found = append(found, o)
			}
		}
		if len(list) == 0 {
			return found
		}
	}
}

// requireFailovers fails unless the instance was failed over n times so far.
func (in *instance) requireFailovers(n int) {
	in.h.t.Helper()
	if e := in.events("instance.failover"); len(e) != n {
		in.h.t.Errorf("%d failovers, want %d: %v", len(e), n, e)
	}
}

// awaitFailovers waits until the instance was failed over n times.
func (in *instance) awaitFailovers(n int) {
	in.h.t.Helper()
	eventually(in.h.t, 90*time.Second, func() error {
		if e := in.events("instance.failover"); len(e) != n {
			return fmt.Errorf("%d failovers, want %d", len(e), n)
		}
		return nil
	})
}

// requireReport reads the report of the newest failover.
func (in *instance) requireReport() object {
	in.h.t.Helper()
	e := in.events("instance.failover")
	if len(e) == 0 {
		in.h.t.Fatal("there is no event instance.failover")
	}
	for _, field := range []string{"detected_at", "fenced", "fenced_ms", "promoted_ms", "published_ms", "loss"} {
		if e[0].at("after", field) == nil && (field != "fenced" || e[0].at("after", "planned") != true) {
			in.h.t.Errorf("the report has no %s: %v", field, e[0])
		}
	}
	return e[0]
}

// metric reads one number of groved's.
func (h *house) metric(name string) float64 {
	h.t.Helper()
	resp, err := http.Get(h.base + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				h.t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// primaryProcess finds the process that takes the instance's writes.
func (in *instance) primaryProcess() int {
	in.h.t.Helper()
	c := in.redis()
	pid := 0
	eventually(in.h.t, 30*time.Second, func() error {
		info := c.InfoMap(context.Background(), "server").Item("Server", "process_id")
		if _, err := fmt.Sscan(info, &pid); err != nil || pid <= 1 {
			return fmt.Errorf("process id %q: %v", info, err)
		}
		return nil
	})
	return pid
}

// guestOf finds whose process it is: servers run below directories that bear their names.
func (h *house) guestOf(pid int) string {
	h.t.Helper()
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		h.t.Fatal(err)
	}
	rest, ok := strings.CutPrefix(cwd, filepath.Join(h.dir, "servers")+"/")
	if !ok {
		h.t.Fatalf("process %d is at %s", pid, cwd)
	}
	id, _, _ := strings.Cut(rest, "/")
	return id
}

func (in *instance) killPrimary() {
	in.h.t.Helper()
	if err := syscall.Kill(in.primaryProcess(), syscall.SIGKILL); err != nil {
		in.h.t.Fatal(err)
	}
}

// TestHotStandby is a tenant's life with a hot standby: its program writes all the while through the one address.
func TestHotStandby(t *testing.T) {
	t.Parallel()
	h := open(t)
	in := h.createProtected("shop", async())
	ips, _ := in.show().at("instance", "ip").([]any)
	if len(ips) != 1 {
		t.Fatalf("a hot standby shows the addresses %v, want one", ips)
	}
	if n := h.do(200, "GET", "/instances", nil).body.at("instances").([]any); len(n) != 1 {
		t.Errorf("a hot standby is %d instances", len(n))
	}
	w := writes(t, in.patient(), "k")

	in.killPrimary()
	in.awaitFailovers(1)
	t.Logf("a kill: %s", w.summary())
	w.awaitWrite(60 * time.Second)
	w.requireAll(in.patient(), false)
	in.requireReport()
	if n := h.metric(`grove_failover_duration_seconds_count{manner="automatic"}`); n != 1 {
		t.Errorf("grove_failover_duration_seconds counts %v automatic failovers, want 1", n)
	}
	in.awaitProtection("protected")

	planned := writes(t, in.patient(), "planned")
	in.action(object{"failover": object{}})
	in.awaitFailovers(2)
	in.awaitProtection("protected")
	planned.awaitWrite(60 * time.Second)
	planned.stop()
	t.Logf("a planned failover: %s", planned.summary())
	planned.requireAll(in.patient(), true)
	if loss := in.requireReport().text("after", "loss"); loss != "none" {
		t.Errorf("a planned failover's report says: loss %q", loss)
	}

	in.action(object{"failover": object{"drill": true}})
	in.awaitFailovers(3)
	in.awaitProtection("protected")
	w.awaitWrite(60 * time.Second)
	w.requireAll(in.patient(), false)

	in.action(object{"stop": object{}})
	in.await("ACTIVE", "SHUTDOWN")
	h.do(422, "POST", "/instances/"+in.id+"/action", object{"failover": object{}})
	in.action(object{"start": object{}})
	in.await("ACTIVE", "HEALTHY")
	w.awaitWrite(60 * time.Second)
	in.awaitProtection("protected")
	in.requireFailovers(3)
	w.requireAll(in.patient(), false)

	w.forget()
	h.do(202, "PUT", "/instances/"+in.id, object{"instance": object{"high_availability": nil}})
	in.awaitIdle()
	if v := in.show().at("instance", "high_availability"); v != nil {
		t.Errorf("a single instance shows high_availability %v", v)
	}
	h.do(202, "PUT", "/instances/"+in.id, object{"instance": async()})
	in.awaitProtection("protected")
	w.requireNoErrors("from hot standby to single and back")
	if now := in.show().at("instance", "ip"); fmt.Sprint(now) != fmt.Sprint(ips) {
		t.Errorf("the address %v became %v", ips, now)
	}
	w.stop()
	w.requireAll(in.patient(), false)
	h.do(202, "DELETE", "/instances/"+in.id, nil)
	in.awaitGone()
}

// awaitIdle waits until no operation works on the instance.
func (in *instance) awaitIdle() {
	in.h.t.Helper()
	eventually(in.h.t, 90*time.Second, func() error {
		v := in.show()
		if op := v.at("instance", "operation"); op != nil {
			return fmt.Errorf("%v runs", op)
		}
		if v.text("instance", "status") == "ERROR" {
			return errors.New("status ERROR")
		}
		return nil
	})
}

// TestBoundedStandby: with its standby out of step, a bounded instance refuses writes or takes them, as its tenant chose,
// and says that it is degraded; no write that WAIT confirmed is lost with the primary.
func TestBoundedStandby(t *testing.T) {
	t.Parallel()
	h := open(t)
	in := h.createProtected("ledger", bounded("refuse"))
	ctx := t.Context()
	c := in.patient()
	defer c.Close()
	refused := func() error {
		if err := c.Set(ctx, "k", "v", 0).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOREPLICAS") {
			return fmt.Errorf("a write without a standby gave %v, want NOREPLICAS", err)
		}
		return nil
	}
	degraded := func() error {
		if v := in.show(); v.text("instance", "high_availability", "state") != "degraded" || v.text("instance", "high_availability", "cause") == "" {
			return fmt.Errorf("without its standby it shows %v", v.at("instance", "high_availability"))
		}
		return nil
	}
	h.suspendStandby(in)
	eventually(t, 60*time.Second, degraded)
	eventually(t, 60*time.Second, refused)
	in.awaitProtection("protected") // repaired, unasked
	eventually(t, 60*time.Second, func() error { return c.Set(ctx, "k", "v", 0).Err() })

	h.do(202, "PUT", "/instances/"+in.id, object{"instance": bounded("accept")})
	in.awaitProtection("protected")
	if got := in.show().text("instance", "high_availability", "when_degraded"); got != "accept" {
		t.Errorf("when_degraded is %q, want accept", got)
	}
	standby := h.suspendStandby(in)
	eventually(t, 60*time.Second, degraded)
	eventually(t, 60*time.Second, func() error { return c.Set(ctx, "degraded", "v", 0).Err() })
	if err := syscall.Kill(standby, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) { // sooner than its repair, most likely
		t.Fatal(err)
	}
	in.awaitProtection("protected")

	h.do(202, "PUT", "/instances/"+in.id, object{"instance": bounded("refuse")})
	in.awaitProtection("protected")
	in.requireFailovers(0)
	w := writes(t, in.patient(), "k")
	in.killPrimary()
	in.awaitFailovers(1)
	w.awaitWrite(60 * time.Second)
	w.stop()
	w.requireAll(in.patient(), false)
	t.Log(w.summary())
}

// suspendStandby suspends the standby's database, and gives its process.
func (h *house) suspendStandby(in *instance) int {
	h.t.Helper()
	primary := in.primaryProcess()
	for _, line := range processesNaming(h.dir) {
		text, command, _ := strings.Cut(line, " ")
		pid, err := strconv.Atoi(text)
		if err != nil {
			h.t.Fatal(err)
		}
		if pid != primary && strings.Contains(command, "redis-server") {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				h.t.Fatal(err)
			}
			return pid
		}
	}
	h.t.Fatal("no standby runs")
	return 0
}

// stall keeps the primary's only thread busy for some two minutes: it runs, and answers nobody.
func (in *instance) stall() {
	in.h.t.Helper()
	ctx := context.Background()
	c := in.patient()
	in.h.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetRange(ctx, "large", 32<<20, "x").Err(); err != nil {
		in.h.t.Fatal(err)
	}
	fastest := time.Minute
	for range 8 {
		begun := time.Now()
		if err := c.BitCount(ctx, "large", nil).Err(); err != nil {
			in.h.t.Fatal(err)
		}
		fastest = min(fastest, time.Since(begun))
	}
	times := int(2 * time.Minute / max(fastest, time.Millisecond))
	queued := c.Conn() // not closed: a database drops what a client that left has queued
	if _, err := queued.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Do(ctx, "MULTI")
		for range times {
			p.Do(ctx, "BITCOUNT", "large")
		}
		return nil
	}); err != nil {
		in.h.t.Fatal(err)
	}
	go func() { _ = queued.Do(ctx, "EXEC").Err() }()
}

// TestStalledPrimary: a database that runs and answers nobody is failed over.
func TestStalledPrimary(t *testing.T) {
	t.Parallel()
	h := open(t)
	in := h.createProtected("shop", async())
	w := writes(t, in.patient(), "k")
	in.stall()
	took := w.awaitWrite(100 * time.Second)
	w.stop()
	t.Logf("writes again after %s; %s", took.Round(time.Millisecond), w.summary())
	in.awaitFailovers(1)
	w.requireAll(in.patient(), false)
	if in.requireReport().text("after", "cause") == "" {
		t.Error("the report has no cause")
	}
	in.awaitProtection("protected")
}
