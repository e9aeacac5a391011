package engine

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/grove-dbaas/grove/internal/clock"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	run := func(context.Context, *Operation) error { return nil }
	good := Step{Name: "one", Doc: "doing one", Run: run, Within: minute}
	without := func(f func(*Step)) []Step {
		s := good
		f(&s)
		return []Step{s}
	}
	for want, workflows := range map[string][]Workflow{
		`workflow "a" is there twice`:              {{Kind: "a", Doc: "d", Steps: []Step{good}}, {Kind: "a", Doc: "d", Steps: []Step{good}}},
		`workflow "a": has no steps`:               {{Kind: "a", Doc: "d"}},
		`workflow "": needs a kind`:                {{Doc: "d", Steps: []Step{good}}},
		`workflow "b": needs a kind and a doc`:     {{Kind: "b", Steps: []Step{good}}},
		`step "one" is there twice`:                {{Kind: "a", Doc: "d", Steps: []Step{good, good}}},
		`step "" needs a name`:                     {{Kind: "a", Doc: "d", Steps: without(func(s *Step) { s.Name = "" })}},
		`workflow "c": step "one" needs a name, a`: {{Kind: "c", Doc: "d", Steps: without(func(s *Step) { s.Within = 0 })}},
		`workflow "d": step "one" needs a name, a`: {{Kind: "d", Doc: "d", Steps: without(func(s *Step) { s.Doc = "" })}},
		`workflow "e": step "one" needs a name, a`: {{Kind: "e", Doc: "d", Steps: without(func(s *Step) { s.Run = nil })}},
	} {
		_, err := New(Config{Store: NewMemory(clock.Real{}), Worker: "w", Workflows: workflows})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if _, err := New(Config{Worker: "w"}); err == nil {
		t.Error("an engine without a store")
	}
	if _, err := New(Config{Store: NewMemory(clock.Real{})}); err == nil {
		t.Error("a worker without a name")
	}
}

func TestDiagram(t *testing.T) {
	w := workflow("create", nil, "one", "two")
	w.Steps[1].Doc = "this | that"
	w.Ended = "It is ERROR."
	want := "## create\n\nDoes create.\n\n```mermaid\nflowchart LR\n    one --> two\n    two --> succeeded\n" +
		"    succeeded([succeeded])\n```\n\n| step | what is done | at most |\n| --- | --- | --- |\n" +
		"| `one` | doing one | 30m |\n| `two` | this \\| that | 30m |\n\nWhen a step fails for good: It is ERROR.\n"
	if diff := cmp.Diff(want, Diagram([]Workflow{w})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"create.one", "create.two"}, StepNames([]Workflow{w})); diff != "" {
		t.Error(diff)
	}
}
