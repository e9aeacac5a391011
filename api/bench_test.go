package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkRequests measures what the API itself costs, beside a small SQLite database.
func BenchmarkRequests(b *testing.B) {
	h := newHouse(b, withConfig(func(c *Config) { c.PageSize = 20 }))
	h.log.mute()
	var id string
	for i := range 20 {
		id = h.newInstance(fmt.Sprintf("i%d", i))
	}
	for _, path := range []string{"/nowhere", "/flavors", "/instances/" + id, "/instances"} {
		b.Run(path[1:min(len(path), 11)], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodGet, "/v1.0/demo"+path, nil)
				h.server.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}
