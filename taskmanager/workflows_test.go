package taskmanager_test

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/taskmanager"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

var update = flag.Bool("update", false, "write docs/workflows.md anew")

// TestPageIsGenerated keeps docs/workflows.md what `groved workflows` prints.
func TestPageIsGenerated(t *testing.T) {
	const page = "../docs/workflows.md"
	want := taskmanager.Page()
	if *update {
		must(t, os.WriteFile(page, []byte(want), 0o644))
	}
	got, err := os.ReadFile(page)
	must(t, err)
	if string(got) != want {
		t.Error("docs/workflows.md is not what `groved workflows` prints: go test ./taskmanager -run TestPageIsGenerated -update")
	}
}

// TestEveryStepIsBounded is design rule 7: no state lacks a deadline.
func TestEveryStepIsBounded(t *testing.T) {
	for _, w := range taskmanager.Workflows() {
		for _, s := range w.Steps {
			if s.Within <= 0 || s.Within > 24*time.Hour || s.Doc == "" {
				t.Errorf("%s/%s: Within %s, Doc %q", w.Kind, s.Name, s.Within, s.Doc)
			}
		}
		if w.Failed == nil || w.Ended == "" || w.Doc == "" {
			t.Errorf("%s: a workflow says what it does and how it ends when it fails", w.Kind)
		}
	}
}

// TestStepNamesStay compares the steps with the list of all ever shipped: names are stored in rows, so that renaming
// one is a migration. A new step is appended to the list.
func TestStepNamesStay(t *testing.T) {
	text, err := os.ReadFile("testdata/step_names.txt")
	must(t, err)
	shipped := strings.Fields(string(text))
	names := engine.StepNames(taskmanager.Workflows())
	for _, n := range names {
		if !slices.Contains(shipped, n) {
			t.Errorf("%s is not in testdata/step_names.txt: append it", n)
		}
	}
	for _, n := range shipped {
		if !slices.Contains(names, n) {
			t.Errorf("%s was shipped and is gone: rows may still name it, so it needs a migration", n)
		}
	}
}
