package taskmanager

import (
	"fmt"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// TestLossInReport: what may be missing after a failover is told as far as it is known, and from when that is.
func TestLossInReport(t *testing.T) {
	t.Parallel()
	detected := dbaas.Instant(1_800_000_000_000_000)
	seen := detected - 7_000_000
	beat := func(history string, offset int) string {
		return fmt.Sprintf(`{"replication_offset":%d,"replication_history":%.0f}`, offset, datastore.HistoryNumber(history))
	}
	after := &datastore.Position{Offset: 1000, Replication: datastore.Replication{History: "a"}}
	for name, c := range map[string]struct {
		metrics string
		missing int64 // -1: not known
		says    string
	}{
		"the new one has all":        {beat("a", 1000), 0, "7 s before its failure was seen): at most what was confirmed after that"},
		"the new one has more":       {beat("a", 990), 0, "at most what was confirmed after that"},
		"the new one lacks some":     {beat("a", 1234), 234, "234 bytes of changes are missing, and what was confirmed after that may be"},
		"told of a history before":   {beat("b", 1234), -1, "is not known"},
		"its database was dead then": {"{}", -1, "is not known"},
		"it has told nothing":        {"", -1, "is not known"},
	} {
		l := &look{primary: &dbaas.Guest{ID: "p", Observed: dbaas.JSON(`{"replication":{"role":"master","history":"a"}}`)}, view: &dbaas.InstanceView{
			Heartbeats: map[string]dbaas.Heartbeat{"p": {SeenAt: seen, Metrics: c.metrics}},
		}}
		state := &control.FailoverState{DetectedAt: detected, After: after}
		state.Before, state.BeforeAt = positionBefore(l)
		r := reportOf(state, &subject{instance: &dbaas.Instance{}})
		if !strings.Contains(r.Loss, c.says) {
			t.Errorf("%s: %q", name, r.Loss)
		}
		if (r.MissingBytes == nil) != (c.missing < 0) || r.MissingBytes != nil && *r.MissingBytes != c.missing {
			t.Errorf("%s: missing are %v", name, r.MissingBytes)
		}
	}
}
