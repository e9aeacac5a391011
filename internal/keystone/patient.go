package keystone

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
)

// mostPatience bounds how long a service's Retry-After is honoured.
const mostPatience = 5 * time.Minute

// patient sends nothing to a service that has asked for a pause (429 or 503 with Retry-After) before that is over. It does
// not wait: the engine comes back.
type patient struct {
	next  http.RoundTripper
	clock clock.Clock

	mu    sync.Mutex
	until map[string]time.Time // by host
}

func newPatient(next http.RoundTripper, c clock.Clock) *patient {
	return &patient{next: next, clock: c, until: map[string]time.Time{}}
}

// RoundTrip implements [http.RoundTripper].
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	left := p.until[r.URL.Host].Sub(p.clock.Now())
	p.mu.Unlock()
	if left > 0 {
		return nil, fmt.Errorf("%s has asked to be left alone for another %s", r.URL.Host, left.Round(time.Second))
	}
	resp, err := p.next.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return resp, err
	}
	if pause := p.asked(resp.Header.Get("Retry-After")); pause > 0 {
		p.mu.Lock()
		p.until[r.URL.Host] = p.clock.Now().Add(min(pause, mostPatience))
		p.mu.Unlock()
	}
	return resp, nil
}

// asked reads a Retry-After: seconds or a date.
func (p *patient) asked(text string) time.Duration {
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(p.clock.Now())
	}
	return 0
}
