package keystone

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
)

// TestPatience: who asks to be left alone is left alone, for as long as is asked and bearable.
func TestPatience(t *testing.T) {
	for asked, want := range map[string]time.Duration{"30": 30 * time.Second, "86400": mostPatience, "Thu, 01 Jan 2026 00:00:40 GMT": 40 * time.Second, "": 0, "soon": 0} {
		t.Run(asked, func(t *testing.T) {
			now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
			calls := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls++
				w.Header().Set("Retry-After", asked)
				w.WriteHeader(http.StatusTooManyRequests)
			}))
			defer server.Close()
			client := http.Client{Transport: newPatient(http.DefaultTransport, now)}
			call := func() int {
				t.Helper()
				before := calls
				if resp, err := client.Get(server.URL); err == nil {
					resp.Body.Close()
				}
				return calls - before
			}
			call()
			if want > 0 {
				now.Advance(want - time.Second)
				if call() > 0 {
					t.Error("it was asked again too soon")
				}
			}
			now.Advance(time.Second)
			if call() == 0 {
				t.Error("it is not asked any more")
			}
		})
	}
}

// TestPauses: the longest pause counts, of Cinder's and Nova's 413 too; a service that shares its host with another has its own.
func TestPauses(t *testing.T) {
	now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	var status int
	var asked string
	calls := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls++
		w.Header().Set("Retry-After", asked)
		w.WriteHeader(status)
	}))
	defer server.Close()
	p := newPatient(http.DefaultTransport, now)
	call := func(path string) int {
		t.Helper()
		before := calls
		if resp, err := (&http.Client{Transport: p}).Get(server.URL + path); err == nil {
			resp.Body.Close()
		}
		return calls - before
	}
	for _, status = range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusRequestEntityTooLarge} {
		asked = "30"
		if call("/volume/v3/volumes") == 0 || call("/volume/v3/types") > 0 {
			t.Errorf("%d with Retry-After is not heard", status)
		}
		if call("/compute/v2.1/servers") == 0 {
			t.Errorf("%d of one service stops another", status)
		}
		now.Advance(30 * time.Second)
	}
	status, asked = http.StatusRequestEntityTooLarge, "0"
	for range 2 {
		if call("/volume/v3/volumes") == 0 {
			t.Error("a quota that is exceeded stops a service")
		}
	}
	p.pause("cloud/volume", 30*time.Second)
	p.pause("cloud/volume", 5*time.Second) // the answer to a request that was under way
	if left := p.left("cloud/volume"); left != 30*time.Second {
		t.Errorf("a shorter pause replaced a longer one: %s", left)
	}
}
