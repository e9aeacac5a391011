package taskmanager

import (
	"context"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
)

// running is a cloud that says of every server that it runs.
type running struct{ cloud.Provider }

func (running) Server(context.Context, string) (*cloud.Server, error) {
	return &cloud.Server{Status: cloud.ServerActive}, nil
}

// TestPatienceWithPrimaries tells after how long a primary is failed over: counted from when its standby missed it, as far as
// that looked all the while, and never before the watch has seen for some seconds that it lasts.
func TestPatienceWithPrimaries(t *testing.T) {
	const heard = 3 * time.Second // how long it has been so when the watch looks first
	report := func(status dbaas.GuestStatus) *guest.StatusReport {
		return &guest.StatusReport{Status: datastore.Status{Status: status}}
	}
	missing := func(so time.Duration) datastore.PeerView {
		return datastore.PeerView{GuestID: "primary", UnseenMS: so.Milliseconds(), SilentMS: so.Milliseconds()}
	}
	late := func(so time.Duration) datastore.PeerView { // it got no CPU to look with
		return datastore.PeerView{GuestID: "primary", UnseenMS: so.Milliseconds()}
	}
	doubtful := func(so time.Duration) datastore.PeerView {
		return datastore.PeerView{GuestID: "primary", Alive: true, UnseenMS: so.Milliseconds()}
	}
	seen := func(time.Duration) datastore.PeerView { return datastore.PeerView{GuestID: "primary", Alive: true} }
	for name, c := range map[string]struct {
		heard   time.Duration
		primary *guest.StatusReport
		sees    func(so time.Duration) datastore.PeerView
		after   time.Duration // of the watch's first look; 0: never
	}{
		"vanished":                           {heard, nil, missing, 3500 * time.Millisecond},
		"vanished, and long missed":          {time.Hour, nil, missing, 3500 * time.Millisecond},
		"vanished, the standby is late":      {heard, nil, late, 6500 * time.Millisecond},
		"its agent alone is silent":          {heard, nil, seen, 0},
		"its agent is silent, it is doubted": {heard, nil, doubtful, 0},
		"stalled":                            {heard, report(dbaas.GuestBlocked), missing, 7500 * time.Millisecond},
		"stalled, and long missed":           {time.Hour, report(dbaas.GuestBlocked), missing, 6500 * time.Millisecond},
		"stalled, the standby is late":       {heard, report(dbaas.GuestBlocked), late, 10500 * time.Millisecond},
		"stalled, and seen":                  {heard, report(dbaas.GuestBlocked), doubtful, 0},
		"dead":                               {0, report(dbaas.GuestCrashed), doubtful, 1500 * time.Millisecond},
		"well, and missed":                   {heard, report(dbaas.GuestHealthy), missing, 0},
	} {
		now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		w := newWatch(&Manager{Config: Config{Clock: now, Cloud: running{}}})
		s, after := &suspect{}, time.Duration(0)
		for so := time.Duration(0); so < 14*time.Second && after == 0; so += suspectEvery {
			l := &look{view: &dbaas.InstanceView{}, primary: &dbaas.Guest{ID: "primary"}, standby: &dbaas.Guest{ID: "standby"}, ofPrimary: c.primary}
			l.ofStandby = report(dbaas.GuestHealthy)
			l.ofStandby.Peers = []datastore.PeerView{c.sees(c.heard + so)}
			if w.reason(t.Context(), s, l) != nil {
				after = so
			}
			now.Advance(suspectEvery)
		}
		if after != c.after {
			t.Errorf("%s: failed over after %v, want %v", name, after, c.after)
		}
	}
}
