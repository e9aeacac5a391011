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
