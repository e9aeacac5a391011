package keystone

import (
	"net/http"

	"github.com/grove-dbaas/grove/internal/telemetry"
)

// traced gives the cloud the id of the request on whose behalf it is asked: its services write that into their logs, beside
// their own.
type traced struct {
	next http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t traced) RoundTrip(r *http.Request) (*http.Response, error) {
	if id := telemetry.RequestID(r.Context()); id != "" {
		r = r.Clone(r.Context())
		r.Header.Set("X-Openstack-Request-Id", id)
	}
	return t.next.RoundTrip(r)
}
