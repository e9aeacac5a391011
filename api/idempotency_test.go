package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
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
	row, fresh, err := h.control.BeginIdempotent(t.Context(), caller, "5f0c", hashOf(t, createBody("a")))
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

// A process that died with a request under way leaves a key whose outcome nobody knows. That is said, not guessed.
func TestKeyOfADeadProcess(t *testing.T) {
	h := newHouse(t, withManualClock())
	if _, _, err := h.control.BeginIdempotent(t.Context(), h.caller(), "5f0c", hashOf(t, createBody("a"))); err != nil {
		t.Fatal(err)
	}
	h.clock.Advance(2 * time.Minute)
	before := h.digest()
	h.call(http.MethodPost, "/instances", createBody("a"), key).fault(409, "ended while it worked")
	if h.digest() != before {
		t.Error("something was written")
	}
}
