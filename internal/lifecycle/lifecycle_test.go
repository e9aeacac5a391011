package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/grove-dbaas/grove/internal/lifecycle"
)

// recorder notes what happens in which order.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, s)
}

func (r *recorder) part(name string) lifecycle.Part {
	return lifecycle.Part{
		Name:  name,
		Start: func(context.Context) error { r.note("start " + name); return nil },
		Run:   func(ctx context.Context) error { <-ctx.Done(); r.note("end " + name); return nil },
		Stop:  func(context.Context) error { r.note("stop " + name); return nil },
	}
}

func TestStartInOrderStopInReverse(t *testing.T) {
	var r recorder
	ctx, cancel := context.WithCancel(context.Background())
	ready := func() { r.note("ready"); cancel() }
	if err := lifecycle.Run(ctx, slog.Default(), ready, r.part("a"), r.part("b")); err != nil {
		t.Fatal(err)
	}
	want := []string{"start a", "start b", "ready", "end b", "stop b", "end a", "stop a"}
	if !slices.Equal(r.seen, want) {
		t.Errorf("got %v, want %v", r.seen, want)
	}
}

func TestFailedStartStopsWhatStarted(t *testing.T) {
	var r recorder
	broken := lifecycle.Part{Name: "b", Start: func(context.Context) error { return errors.New("no luck") }}
	err := lifecycle.Run(context.Background(), slog.Default(), nil, r.part("a"), broken)
	if err == nil || !slices.Equal(r.seen, []string{"start a", "end a", "stop a"}) {
		t.Errorf("err %v, seen %v", err, r.seen)
	}
}

func TestFailingPartEndsTheProcess(t *testing.T) {
	var r recorder
	broken := lifecycle.Part{Name: "b", Run: func(context.Context) error { return errors.New("no luck") }}
	err := lifecycle.Run(context.Background(), slog.Default(), nil, r.part("a"), broken)
	if err == nil || !slices.Equal(r.seen, []string{"start a", "end a", "stop a"}) {
		t.Errorf("err %v, seen %v", err, r.seen)
	}
}

// TestFailureWhileStopping: what goes wrong on the way out is told too.
func TestFailureWhileStopping(t *testing.T) {
	var r recorder
	late := errors.New("requests were cut off")
	broken := lifecycle.Part{Name: "b", Run: func(ctx context.Context) error { <-ctx.Done(); return late }}
	ctx, cancel := context.WithCancel(context.Background())
	err := lifecycle.Run(ctx, slog.Default(), cancel, r.part("a"), broken)
	if !errors.Is(err, late) || !slices.Equal(r.seen, []string{"start a", "end a", "stop a"}) {
		t.Errorf("err %v, seen %v", err, r.seen)
	}
}
