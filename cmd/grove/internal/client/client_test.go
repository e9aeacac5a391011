package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/api/wire"
)

// serve starts a server and a client for its project "p".
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return connect(t, server.URL)
}

func connect(t *testing.T, url string) *Client {
	t.Helper()
	c, err := New(Config{Endpoint: url + "/v1.0/p/", Token: "t", UserAgent: "test", Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPathsAreEscaped(t *testing.T) {
	asked := make(chan string, 1)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.EscapedPath()
		fmt.Fprint(w, `{"datastore": {}}`)
	})
	for name, want := range map[string]string{
		"a/b":     "/v1.0/p/datastores/a%2Fb",
		"..":      "/v1.0/p/datastores/%2E%2E",
		"x y?z#%": "/v1.0/p/datastores/x%20y%3Fz%23%25",
	} {
		_, err := c.Datastore(t.Context(), name)
		if got := <-asked; err != nil || got != want {
			t.Errorf("%q went to %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestErrorsCarryTheServersWords(t *testing.T) {
	for body, want := range map[string]string{
		`{"itemNotFound": {"code": 404, "message": "No such thing."}}`:          "No such thing (HTTP 404, request req-1)",
		`{"message": "Flat.", "code": "404 Not Found"}`:                         "Flat (HTTP 404, request req-1)",
		`{"overLimit": {"code": 413, "message": "Many.", "details": "POST 2"}}`: "Many. POST 2 (HTTP 404, request req-1)",
		`<html>`: "GET /flavors was refused without a reason: 404 Not Found (HTTP 404, request req-1)",
		``:       "GET /flavors was refused without a reason: 404 Not Found (HTTP 404, request req-1)",
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(wire.HeaderRequestID, "req-1")
			w.WriteHeader(404)
			fmt.Fprint(w, body)
		})
		_, err := c.Flavors(t.Context())
		if err == nil || err.Error() != want || !IsNotFound(err) {
			t.Errorf("%s: got %v, want %s", body, err, want)
		}
	}
}

func TestAnswersOfSomethingElseAreErrors(t *testing.T) {
	for _, body := range []string{"<html>hello</html>", "", `{"flavours": []}`, `{"flavors": 7}`, "[]"} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, body) })
		if _, err := c.Flavors(t.Context()); err == nil {
			t.Errorf("%q was taken for an answer", body)
		}
	}
}

func TestRedirectsAreNotFollowedWithTheToken(t *testing.T) {
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer other.Close()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	_, err := c.Flavors(t.Context())
	if err == nil || !strings.Contains(err.Error(), "sends us on to "+other.URL) || asked.Load() != 0 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
}

// flaky fails the first requests in one of several ways, then answers.
type flaky struct {
	mu       sync.Mutex
	failures int
	fail     func(w http.ResponseWriter)
	requests int
	keys     map[string]int
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests++
	f.keys[r.Header.Get(wire.HeaderIdempotencyKey)]++
	if f.requests <= f.failures {
		f.fail(w)
		return
	}
	fmt.Fprint(w, `{"flavors": [], "configuration": {"id": "1"}}`)
}

func cut(http.ResponseWriter) { panic(http.ErrAbortHandler) }

func status(code int, retryAfter string) func(w http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(code)
	}
}

func TestRetries(t *testing.T) {
	get := func(c *Client) error { _, err := c.Flavors(t.Context()); return err }
	post := func(c *Client) error {
		_, _, err := c.CreateConfiguration(t.Context(), wire.CreateConfiguration{})
		return err
	}
	put := func(c *Client) error {
		_, err := c.ReplaceConfiguration(t.Context(), "1", wire.UpdateConfiguration{})
		return err
	}
	for _, test := range []struct {
		name     string
		call     func(*Client) error
		fail     func(http.ResponseWriter)
		requests int // with one failure first
		ok       bool
	}{
		{"GET, connection cut", get, cut, 2, true},
		{"GET, 503 with Retry-After", get, status(503, "1"), 2, true},
		{"GET, 413 with Retry-After", get, status(413, "1"), 2, true},
		{"GET, 503 without", get, status(503, ""), 1, false},
		{"GET, 500", get, status(500, "1"), 1, false},
		{"POST, connection cut", post, cut, 2, true},
		{"POST, 503", post, status(503, "1"), 1, false},
		{"POST, 409 at first", post, status(409, "1"), 1, false},
		{"PUT, connection cut", put, cut, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := &flaky{failures: 1, fail: test.fail, keys: map[string]int{}}
			err := test.call(serve(t, f.ServeHTTP))
			f.mu.Lock()
			defer f.mu.Unlock()
			if (err == nil) != test.ok || f.requests != test.requests {
				t.Errorf("%d requests, %v", f.requests, err)
			}
			if len(f.keys) != 1 {
				t.Errorf("a repetition had another idempotency key: %v", f.keys)
			}
		})
	}
}

// After a cut the first request may still be at work: the server says 409, and is asked again until it has the answer.
func TestPOSTWaitsForItsFirstAttempt(t *testing.T) {
	var attempts atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch attempts.Add(1) {
		case 1:
			cut(w)
		case 2:
			status(409, "1")(w)
		default:
			fmt.Fprint(w, `{"configuration": {"id": "1"}}`)
		}
	})
	g, _, err := c.CreateConfiguration(t.Context(), wire.CreateConfiguration{})
	if err != nil || g.ID != "1" || attempts.Load() != 3 {
		t.Errorf("got %v, %v after %d attempts", g, err, attempts.Load())
	}
}

func TestARefusedConnectionIsToldAtOnce(t *testing.T) {
	c := connect(t, "http://127.0.0.1:1")
	_, err := c.Flavors(t.Context())
	var gone *UnreachableError
	if !errors.As(err, &gone) || gone.Sent {
		t.Errorf("got %#v", err)
	}
}

func TestCancellingIsNotAnUnreachableServer(t *testing.T) {
	arrived := make(chan struct{}, 1)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { arrived <- struct{}{}; <-r.Context().Done() })
	cancelled := func(call func(ctx context.Context) error) error {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		return call(ctx)
	}
	var interrupted *InterruptedError
	err := cancelled(func(ctx context.Context) error { _, err := c.Flavors(ctx); return err })
	if !errors.Is(err, context.Canceled) || errors.As(err, &interrupted) {
		t.Errorf("GET: got %v", err)
	}
	err = cancelled(func(ctx context.Context) error { _, err := c.DeleteInstance(ctx, "a"); return err })
	if !errors.Is(err, context.Canceled) || !errors.As(err, &interrupted) {
		t.Errorf("DELETE: got %v", err)
	}
}

func TestASilentServerTimesOutOnce(t *testing.T) {
	var requests atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		<-r.Context().Done()
	})
	c.timeout = 50 * time.Millisecond
	_, err := c.Flavors(t.Context())
	if err == nil || !strings.Contains(err.Error(), "timed out") || requests.Load() != 1 {
		t.Errorf("got %v after %d requests", err, requests.Load())
	}
}

func TestListStopsWhenPagesLeadInACircle(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"instances": [{"id": "a"}], "links": [{"rel": "next", "href": "https://x/?marker=a"}]}`)
	})
	if _, err := c.Instances(t.Context(), Page{}, false); err == nil || !strings.Contains(err.Error(), "same page") {
		t.Errorf("got %v", err)
	}
}

func TestMarkersAreDecodedTwice(t *testing.T) {
	if got := nextMarker([]byte(`[{"rel": "next", "href": "https://h/x?limit=1&marker=bob%2540%2525"}]`)); got != "bob@%" {
		t.Errorf("got %q", got)
	}
}

func TestHeadersAreRead(t *testing.T) {
	h := http.Header{}
	h.Add(wire.HeaderOperation, "a, b")
	h.Add(wire.HeaderOperation, "c")
	h.Add("Warning", `299 grove "say \"no\""`)
	h.Add("Warning", `odd`)
	if got := fmt.Sprint(operations(h), warnings(h)); got != `[a b c] [say "no" odd]` {
		t.Errorf("got %s", got)
	}
}

func TestEndpointsThatAreNone(t *testing.T) {
	for _, endpoint := range []string{"", "x", "ftp://host/v1.0/p", "http://", "::"} {
		if _, err := New(Config{Endpoint: endpoint}); err == nil {
			t.Errorf("%q was taken", endpoint)
		}
	}
}
