package control

import (
	"encoding/json"
	"testing"
)

// R27: an api of one release wakes the taskmanagers of another.
func TestNudgeOfEarlierReleases(t *testing.T) {
	var n Nudge
	if err := json.Unmarshal([]byte(`{"operation_id":"op"}`), &n); err != nil || n.OperationID != "op" || MethodNudge != "nudge" {
		t.Errorf("%+v, %v", n, err)
	}
}
