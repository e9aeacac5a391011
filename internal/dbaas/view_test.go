package dbaas_test

import (
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

func TestOperatingStatus(t *testing.T) {
	now := dbaas.At(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	view := func(task dbaas.Task, seen dbaas.Instant) *dbaas.InstanceView {
		v := &dbaas.InstanceView{Instance: dbaas.Instance{Task: task}}
		v.Guests = []dbaas.Guest{{ID: "g", Status: dbaas.GuestBlocked, StatusCause: "The volume is full."}}
		if seen != 0 {
			v.Heartbeats = map[string]dbaas.Heartbeat{"g": {SeenAt: seen}}
		}
		return v
	}
	for name, c := range map[string]struct {
		view          *dbaas.InstanceView
		status, cause string
	}{
		"as the guest says":                 {view(dbaas.TaskNone, now.Add(-time.Second)), "BLOCKED", "volume is full"},
		"never heard of: not down":          {view(dbaas.TaskNone, 0), "BLOCKED", "volume is full"},
		"fallen silent":                     {view(dbaas.TaskNone, now.Add(-dbaas.HeartbeatExpiry-time.Second)), "ERROR", "no sign of life since 2026-11-22T11:58:29Z"},
		"a task runs, the cause stays seen": {view(dbaas.TaskRebooting, now), "", "volume is full"},
		"without a guest":                   {&dbaas.InstanceView{}, "", ""},
	} {
		if got := c.view.OperatingStatus(now); got != c.status {
			t.Errorf("%s: status %q, want %q", name, got, c.status)
		}
		if got := c.view.OperatingCause(now); !strings.Contains(got, c.cause) {
			t.Errorf("%s: cause %q, want %q in it", name, got, c.cause)
		}
	}
}
