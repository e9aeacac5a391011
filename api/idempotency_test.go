package api

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/control"
)

const key = "Idempotency-Key: 5f0c"

func TestRepeatedRequestGetsTheFirstAnswer(t *testing.T) {
	h := newHouse(t)
	first := h.call(http.MethodPost, "/instances", createBody("a"), key).want(200)
	second := h.call(http.MethodPost, "/instances", createBody("a"), key).want(200)
	if string(first.body) != string(second.body) || first.operation() != second.operation() {
		t.Errorf("the answers differ:\n%s\n%s", first.body, second.body)
	}
	if n := h.count("instances"); n != "1" {
		t.Errorf("there are %s instances", n)
	}
	h.call(http.MethodPost, "/instances", createBody("b"), key).fault(422, "unprocessableEntity", "Idempotency-Key")
	h.call(http.MethodPost, "/configurations", createBody("a"), key).fault(422)
	h.as("other").call(http.MethodPost, "/instances", createBody("a"), key).want(200) // keys are a project's own
	h.call(http.MethodPost, "/instances", createBody("a"), "Idempotency-Key: another").want(200)
	h.call(http.MethodPost, "/instances", createBody("a"), "Idempotency-Key: "+strings.Repeat("x", 256)).fault(400, "Idempotency-Key")
	h.call(http.MethodPost, "/instances", createBody("a"), "Idempotency-Key: caf\u00e9").fault(400)
	h.call(http.MethodPost, "/instances", createBody("a"), "Idempotency-Key: ").want(200) // an empty one is none
}

func TestRefusalsWarningsAndEmptyAnswersAreRepeatedToo(t *testing.T) {
	h := newHouse(t)
	id := h.newInstance("a")
	for i, body := range []string{`{"resize": {"flavorRef": "2", "zzz": 1}}`, `{"resize": {"flavorRef": "99"}}`} {
		header := fmt.Sprintf("Idempotency-Key: %d", i)
		first := h.call(http.MethodPost, "/instances/"+id+"/action", body, header)
		second := h.call(http.MethodPost, "/instances/"+id+"/action", body, header)
		if first.status != second.status || string(first.body) != string(second.body) ||
			first.header.Get("Warning") != second.header.Get("Warning") || first.header.Get("Grove-Operation") != second.header.Get("Grove-Operation") {
			t.Errorf("%s: %d %s, then %d %s", body, first.status, first.body, second.status, second.body)
		}
	}
}

// The key's row holds references, not secrets; the answer is revealed anew, as long as the secret is the same.
func TestSecretsOfRepeatedAnswers(t *testing.T) {
	h := newHouse(t)
	first := h.call(http.MethodPost, "/instances", createBody("a"), key).want(200)
	id, password := first.text("instance.id"), first.text("instance.password")
	h.requireNoSecret(password)
	h.settle()
	h.call(http.MethodPost, "/instances", createBody("a"), key).want(200).has("instance.password", password)

	h.worker(func(string) string { return "" })
	root := h.call(http.MethodPost, "/instances/"+id+"/root", `{"password": "wonder1and"}`, "Idempotency-Key: root").want(200)
	h.requireNoSecret("wonder1and")
	again := h.call(http.MethodPost, "/instances/"+id+"/root", `{"password": "wonder1and"}`, "Idempotency-Key: root").want(200)
	if string(root.body) != string(again.body) {
		t.Errorf("%s is not %s", again.body, root.body)
	}
	replaced := h.call(http.MethodPost, "/instances", createBody("a"), key).want(200)
	if strings.Contains(string(replaced.body), password) || strings.Contains(string(replaced.body), "grove-secret") {
		t.Errorf("a replaced secret is told: %s", replaced.body)
	}
	if !strings.Contains(replaced.header.Get("Warning"), "replaced") {
		t.Error("there is no warning that the password was replaced")
	}
}

// requireNoSecret looks for a secret in the clear, in every row and every log line.
func (h *house) requireNoSecret(secret string) {
	h.t.Helper()
	for _, table := range []string{"idempotency_keys", "operations", "events", "instances", "guests", "secrets"} {
		if h.holds(table, secret) {
			h.t.Errorf("table %s holds the secret in the clear", table)
		}
	}
	if strings.Contains(h.log.String(), secret) {
		h.t.Error("the log holds the secret")
	}
}

func TestManyAtOnceMakeOneResource(t *testing.T) {
	h := newHouse(t)
	const keys, sends = 4, 50
	var mu sync.Mutex
	bodies := map[string]map[string]int{}
	var senders sync.WaitGroup
	for k := range keys {
		for i := range sends {
			senders.Go(func() {
				header := fmt.Sprintf("Idempotency-Key: key-%d", k)
				if i%2 == 1 {
					h.cutOff(createBody("a"), header) // a client that goes away in the middle
				}
				r := h.call(http.MethodPost, "/instances", createBody("a"), header)
				mu.Lock()
				defer mu.Unlock()
				if bodies[header] == nil {
					bodies[header] = map[string]int{}
				}
				bodies[header][fmt.Sprint(r.status, string(r.body))]++
			})
		}
	}
	senders.Wait()
	for header, answers := range bodies {
		if len(answers) != 1 {
			t.Errorf("%s has %d different answers: %v", header, len(answers), answers)
		}
	}
	if n := h.count("instances"); n != fmt.Sprint(keys) {
		t.Errorf("%s instances, want %d", n, keys)
	}
}

// cutOff sends a request whose client goes away at once.
func (h *house) cutOff(body, header string) {
	ctx, cancel := context.WithCancel(context.Background())
	r := httptest.NewRequest(http.MethodPost, "/v1.0/demo/instances", strings.NewReader(body)).WithContext(ctx)
	name, value, _ := strings.Cut(header, ": ")
	r.Header.Set(name, value)
	r.Header.Set("Content-Type", "application/json")
	cancel()
	h.server.ServeHTTP(httptest.NewRecorder(), r)
}

// A failure of the server's does not use the key up.
func TestFailureForgetsTheKey(t *testing.T) {
	h := newHouse(t)
	h.control.Region = "elsewhere" // whose catalog is not known
	h.call(http.MethodPost, "/instances", createBody("a"), key).fault(503)
	h.control.Region = "RegionOne"
	h.call(http.MethodPost, "/instances", createBody("a"), key).want(200)
}

// While another process is at work on the first, the repetition waits for it, and then is told to come back.
func TestDuplicateOfARequestAtWork(t *testing.T) {
	h := newHouse(t)
	h.server.duplicateWait = 300 * time.Millisecond
	caller := h.caller()
	row, fresh, err := h.control.BeginIdempotent(t.Context(), caller, "5f0c", hashOf(t, createBody("a")), time.Minute)
	if err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	r := h.call(http.MethodPost, "/instances", createBody("a"), key).fault(409, "conflict", "still at work")
	if r.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", r.header.Get("Retry-After"))
	}
	h.server.duplicateWait = 5 * time.Second
	var waiting sync.WaitGroup
	waiting.Go(func() { h.call(http.MethodPost, "/instances", createBody("a"), key).fault(404, "the first answer") })
	row.Status, row.Body, row.Header = 404, []byte(`{"itemNotFound": {"code": 404, "message": "the first answer"}}`), []byte(`{}`)
	if err := h.control.FinishIdempotent(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
}

// A process that died with a request under way leaves a key. Did the request take effect, then its answer is what it
// made; else the repetition is the first.
func TestKeyOfADeadProcess(t *testing.T) {
	h := newHouse(t, withManualClock())
	row, _, err := h.control.BeginIdempotent(t.Context(), h.caller(), "5f0c", hashOf(t, createBody("a")), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	h.clock.Advance(2 * time.Minute)
	first := h.call(http.MethodPost, "/instances", createBody("a"), key).want(200)
	h.call(http.MethodPost, "/instances", createBody("a"), key).want(200).has("instance.id", first.text("instance.id"))
	late := h.caller()
	late.Claim = &control.Claim{Row: row}
	if _, err := h.control.RestartInstance(t.Context(), late, first.text("instance.id")); err == nil {
		t.Error("a request that was given up took effect all the same")
	}
	if n := h.count("instances"); n != "1" {
		t.Errorf("there are %s instances", n)
	}
}

// dead leaves the keys of all requests as if their process had died between the commit and the answer.
func (h *house) dead() {
	h.t.Helper()
	db, err := sql.Open("sqlite", h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec("UPDATE idempotency_keys SET status = 0, body = NULL, header = effects.header FROM effects WHERE effects.key = idempotency_keys.key"); err != nil {
		h.t.Fatal(err)
	}
	h.clock.Advance(2 * time.Minute)
}

// keepEffects has the database remember what the store writes to a key when its request takes effect.
func (h *house) keepEffects() {
	h.t.Helper()
	db, err := sql.Open("sqlite", h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec(`CREATE TABLE effects (key TEXT, header TEXT);
		CREATE TRIGGER keep AFTER UPDATE ON idempotency_keys WHEN NEW.header LIKE '%"effect"%' BEGIN INSERT INTO effects VALUES (NEW.key, NEW.header); END`); err != nil {
		h.t.Fatal(err)
	}
}

func TestAnswerThatADeadProcessOwes(t *testing.T) {
	h := newHouse(t, withManualClock())
	h.keepEffects()
	id := h.newInstance("source")
	path := "/instances/" + id
	requests := []struct {
		path, body, shown string
		status            int
	}{
		{"/instances", createBody("a"), "instance", 200},
		{"/clusters", clusterBody("c", 3, 0), "cluster", 200},
		{path + "/action", `{"restart": {}}`, "", 202},
		{"/instances", `{"instance": {"name": "r", "replica_of": "` + id + `", "replica_count": 2}}`, "instance", 200},
	}
	for i, q := range requests {
		header := fmt.Sprintf("Idempotency-Key: dead-%d", i)
		first := h.call(http.MethodPost, q.path, q.body, header).want(q.status)
		h.dead()
		before := h.digest()
		again := h.call(http.MethodPost, q.path, q.body, header).want(q.status)
		if again.operation() != first.operation() || h.digest() != before {
			t.Errorf("%s: the repetition names the operation %s, the first %s; or it wrote something", q.path, again.operation(), first.operation())
		}
		if q.shown != "" {
			again.has(q.shown+".id", first.at(q.shown+".id"), q.shown+".password", first.at(q.shown+".password"))
		}
		h.settle()
	}
	header := "Idempotency-Key: dead-users"
	h.worker(func(string) string { return "" })
	h.call(http.MethodPost, path+"/users", `{"users": [{"name": "w", "password": "wonderland1"}]}`, header).want(202)
	h.dead()
	h.call(http.MethodPost, path+"/users", `{"users": [{"name": "w", "password": "wonderland1"}]}`, header).fault(409, "took effect")
}
