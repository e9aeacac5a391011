package taskmanager

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// TestReportsAreNotLost: a report that could not be stored comes again; one that will never be stored does not.
func TestReportsAreNotLost(t *testing.T) {
	for _, c := range []struct {
		err   error
		again bool
	}{
		{nil, false},
		{dbaas.Errorf(dbaas.Unauthorized, "Not authentic."), false},
		{dbaas.Errorf(dbaas.NotFound, "No such guest."), false},
		{fmt.Errorf("verify: %w", dbaas.Errorf(dbaas.BadRequest, "Nonsense.")), false},
		{dbaas.WrapError(errors.New("connection refused"), dbaas.Unavailable, "The database cannot be reached."), true},
		{fmt.Errorf("read guest: %w", dbaas.Errorf(dbaas.Unavailable, "Away.")), true},
		{errors.New("wrong master key"), true},
	} {
		if got := rpc.Retryable(redeliver(c.err)); got != c.again {
			t.Errorf("%v: delivered again %t, want %t", c.err, got, c.again)
		}
	}
}

// TestWhatGuestsMayTell: events of a guest are bounded, and never those that bills are made from.
func TestWhatGuestsMayTell(t *testing.T) {
	g := &dbaas.Guest{ID: "g", InstanceID: "i", ProjectID: "p"}
	r := &guest.StatusReport{Events: []guest.ReportedEvent{
		{ID: "1", Kind: "disk.usage", Message: "full\x00 \xff" + strings.Repeat("é", 2*longestSentence)},
		{ID: "2", Kind: "instance.delete_instance.accepted"},
		{ID: "3", Kind: "operation.create_instance.succeeded"},
	}}
	for range 2 * mostReportedEvents {
		r.Events = append(r.Events, guest.ReportedEvent{Kind: strings.Repeat("k", 1000)})
	}
	events := reportedEvents(g, r)
	if len(events) != mostReportedEvents-2 {
		t.Fatalf("%d events are believed", len(events))
	}
	first := events[0]
	if first.Kind != "disk.usage" || first.ResourceID != "i" || first.ProjectID != "p" || first.Actor != "guest:g" ||
		!strings.HasPrefix(first.Message, "full é") || len([]rune(first.Message)) != longestSentence {
		t.Errorf("the event is %+v", first)
	}
	if len(events[1].Kind) != longestKind {
		t.Errorf("a kind has %d characters", len(events[1].Kind))
	}
}

// TestPollsSlowDown: what takes long is looked at less and less often.
func TestPollsSlowDown(t *testing.T) {
	for in, want := range map[time.Duration]time.Duration{
		0: readyPoll, time.Second: readyPoll, 8 * time.Second: time.Second, time.Minute: 7500 * time.Millisecond, time.Hour: mostPoll,
	} {
		op := &engine.Operation{Operation: dbaas.Operation{StepSince: 1000, UpdatedAt: dbaas.Instant(1000).Add(in)}}
		if got := later(op, readyPoll).Error(); got != engine.Wait(want).Error() {
			t.Errorf("after %s in the step: %s, want %s", in, got, want)
		}
	}
}
