package taskmanager

import (
	"testing"
	"time"
)

// TestPatienceWithClusters: a cluster gets time to help itself, and one that cannot be healed is left alone for longer each
// time.
func TestPatienceWithClusters(t *testing.T) {
	w, now := newClusterWatch(), time.Unix(0, 0)
	var healed []int // seconds
	for i := range 8 * 15 {
		if w.saw("g", false, false, now.Add(time.Duration(i)*time.Second)) {
			healed = append(healed, i)
		}
	}
	if len(healed) != 3 || healed[0] != 15 || healed[1] != 45 || healed[2] != 105 {
		t.Errorf("a cluster that stays ill is healed at %v seconds", healed)
	}
	later := now.Add(time.Hour)
	if w.saw("g", false, true, later) {
		t.Error("a cluster is healed while something else is done to it")
	}
	if !w.saw("g", false, false, later) {
		t.Error("a cluster that is ill is not healed")
	}
	w.saw("g", true, false, later)
	w.saw("g", false, false, later)
	if w.saw("g", false, false, later.Add(clusterPatience-1)) || !w.saw("g", false, false, later.Add(clusterPatience)) {
		t.Error("one that was well in between is not given the time of the first illness")
	}
}
