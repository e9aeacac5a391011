package keystone

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
)

// mostPatience bounds how long a service's Retry-After is honoured.
const mostPatience = 5 * time.Minute

// patient sends nothing to a service that has asked for a pause (429, 503 or 413 with Retry-After) before that is over, and the
// longest one that it asked for. It does not wait: the engine comes back.
type patient struct {
	next  http.RoundTripper
	clock clock.Clock

	mu    sync.Mutex
	until map[string]time.Time // by service
}

func newPatient(next http.RoundTripper, c clock.Clock) *patient {
	return &patient{next: next, clock: c, until: map[string]time.Time{}}
}

// serviceOf tells services apart: by host and port, or by the first part of the path where they share those.
func serviceOf(u *url.URL) string {
	first, _, _ := strings.Cut(strings.TrimLeft(u.Path, "/"), "/")
	return u.Host + "/" + first
}

// RoundTrip implements [http.RoundTripper].
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	service := serviceOf(r.URL)
	if left := p.left(service); left > 0 {
		return nil, fmt.Errorf("%s has asked to be left alone for another %s", service, left.Round(time.Second))
	}
	resp, err := p.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusRequestEntityTooLarge:
		p.pause(service, min(p.asked(resp.Header.Get("Retry-After")), mostPatience))
	}
	return resp, nil
}

func (p *patient) left(service string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.until[service].Sub(p.clock.Now())
}

// pause leaves a service alone for a while from now on. Answers of requests that were sent side by side may ask for less.
func (p *patient) pause(service string, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := p.clock.Now().Add(d); until.After(p.until[service]) {
		p.until[service] = until
	}
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
