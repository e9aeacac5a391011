// Package dbaas holds the nouns of Grove: what tenants ask for, what runs for them, the statuses both can have and the
// errors that may cross a boundary. It depends on the standard library alone; every other room speaks in its terms.
//
// The structs are also the rows of the database: a field that is stored as JSON carries gorm's serializer tag, which is
// a plain string here. Instants are microseconds (see [Instant]), so that both databases compare them alike.
package dbaas

import (
	"encoding/json"
	"time"
)

// Instant is a moment in microseconds since the Unix epoch, UTC. The zero value means "never" or "not yet".
type Instant int64

// At converts t, dropping what is finer than a microsecond.
func At(t time.Time) Instant {
	if t.IsZero() {
		return 0
	}
	return Instant(t.UnixMicro())
}

// Time is the moment in UTC; the zero time for the zero Instant.
func (i Instant) Time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(i)).UTC()
}

// Add returns the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d.Microseconds()) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i-j) * time.Microsecond }

// IsZero tells whether the instant is unset.
func (i Instant) IsZero() bool { return i == 0 }

// JSON is a document that is stored and carried without being understood.
type JSON = json.RawMessage
