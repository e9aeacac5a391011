package keystone

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/grove-dbaas/grove/internal/telemetry"
)

// TestTraced: the cloud learns on behalf of which request it is asked, and nothing where there is none.
func TestTraced(t *testing.T) {
	var said string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { said = r.Header.Get("X-Openstack-Request-Id") }))
	defer server.Close()
	client := http.Client{Transport: traced{http.DefaultTransport}}
	for _, id := range []string{telemetry.NewRequestID(), ""} {
		r, err := http.NewRequestWithContext(telemetry.WithRequestID(t.Context(), id), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if said != id || r.Header.Get("X-Openstack-Request-Id") != "" {
			t.Errorf("the cloud reads %q, not %q", said, id)
		}
	}
}
