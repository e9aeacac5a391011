package dbaas

import (
	"testing"
	"time"
)

// TestInstants: microseconds in UTC; zero is "never" in both directions.
func TestInstants(t *testing.T) {
	if At(time.Time{}) != 0 || !Instant(0).Time().IsZero() || !Instant(0).IsZero() {
		t.Error("never is not zero")
	}
	when := time.Date(2026, 3, 4, 5, 6, 7, 8_009_999, time.FixedZone("east", 3600))
	i := At(when)
	if got := i.Time(); !got.Equal(when.Truncate(time.Microsecond)) || got.Location() != time.UTC {
		t.Errorf("%v became %v", when, got)
	}
	later := i.Add(90 * time.Second)
	if later.Sub(i) != 90*time.Second || i.Sub(later) != -90*time.Second || i.IsZero() {
		t.Errorf("%d and %d are %v apart", i, later, later.Sub(i))
	}
}
