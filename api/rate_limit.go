package api

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// rateLimiter is a leaky bucket per project and verb.
type rateLimiter struct {
	perMinute map[string]int
	clock     clock.Clock

	mu      sync.Mutex
	buckets map[bucketKey]*rate.Limiter
}

type bucketKey struct{ project, verb string }

// manyBuckets is when buckets that have run full again are thrown away: they are as good as new ones.
const manyBuckets = 10_000

func newRateLimiter(perMinute map[string]int, c clock.Clock) *rateLimiter {
	return &rateLimiter{perMinute: perMinute, clock: c, buckets: map[bucketKey]*rate.Limiter{}}
}

// take takes a request out of the project's bucket, or says when to come back.
func (l *rateLimiter) take(project, verb string) error {
	limit := l.perMinute[verb]
	if limit <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	bucket := l.bucket(project, verb, limit, now)
	if bucket.AllowN(now, 1) {
		return nil
	}
	return &retryError{
		fault:   dbaas.Errorf(dbaas.OverLimit, "Too many requests."),
		after:   untilOne(bucket, now),
		details: fmt.Sprintf("%s is limited to %d per minute.", verb, limit),
	}
}

func (l *rateLimiter) bucket(project, verb string, limit int, now time.Time) *rate.Limiter {
	key := bucketKey{project, verb}
	if bucket, ok := l.buckets[key]; ok {
		return bucket
	}
	if len(l.buckets) >= manyBuckets {
		for k, b := range l.buckets {
			if b.TokensAt(now) >= float64(b.Burst()) {
				delete(l.buckets, k)
			}
		}
	}
	bucket := rate.NewLimiter(rate.Limit(float64(limit)/60), limit)
	l.buckets[key] = bucket
	return bucket
}

// untilOne is how long it takes until the bucket allows a request.
func untilOne(b *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - b.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing / float64(b.Limit()) * float64(time.Second))
}

// show lists a project's limits in Trove's order.
func (l *rateLimiter) show(project string) []wire.RateLimit {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	limits := []wire.RateLimit{}
	for _, verb := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodGet, http.MethodPatch} {
		limit := l.perMinute[verb]
		if limit <= 0 {
			continue
		}
		shown := wire.RateLimit{Verb: verb, URI: "*", Regex: ".*", Value: limit, Remaining: limit, Unit: "MINUTE"}
		available := now
		if bucket, ok := l.buckets[bucketKey{project, verb}]; ok {
			shown.Remaining = max(0, int(bucket.TokensAt(now)))
			available = now.Add(untilOne(bucket, now))
		}
		shown.NextAvailable = available.UTC().Format(zonedLayout)
		limits = append(limits, shown)
	}
	return limits
}

// zonedLayout is the form of the few times that carry a zone.
const zonedLayout = "2006-01-02T15:04:05Z"
