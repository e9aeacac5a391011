package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/clock"
)

// A step that is tried again and again is one line, and steps that passed between two answers are all there.
func TestPlainProgress(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	now := clock.NewManual(time.Date(2026, 11, 22, 10, 11, 12, 0, time.UTC))
	p := newProgress(out, false, now)
	step := func(name, outcome string) wire.OperationStep {
		return wire.OperationStep{Kind: "create_instance", Step: name, Outcome: outcome}
	}
	w := &work{id: "1", name: "cache1", op: &wire.Operation{OperationSummary: wire.OperationSummary{
		Kind: "create_instance", Status: "running", Step: "b", StepNumber: 2, StepTotal: 3, Progress: "waiting"}}}
	w.op.Steps = []wire.OperationStep{step("a", "done"), step("b", "retry"), step("b", "retry")}
	p.saw(w)
	p.saw(w)
	now.Advance(61 * time.Second)
	w.op.Steps = append(w.op.Steps, step("b", "retry"), step("b", "done"), step("c", "done"))
	w.op.Status = "succeeded"
	p.saw(w)
	want := `[ 0.0s] cache1: create_instance a done
[ 0.0s] cache1: create_instance b retry
[ 0.0s] cache1: create_instance 2/3 b: waiting
[1m1s] cache1: create_instance b done
[1m1s] cache1: create_instance c done
[1m1s] cache1: create_instance succeeded
`
	if got, err := os.ReadFile(out.Name()); err != nil || string(got) != want {
		t.Errorf("got %v\n%swant\n%s", err, got, want)
	}
}
