package engine

import (
	"fmt"
	"strings"
)

// StepNames lists every step as "kind.step", in order. They are stored in rows: a name that was ever shipped stays, or
// a migration renames it.
func StepNames(workflows []Workflow) []string {
	var names []string
	for _, w := range workflows {
		for _, s := range w.Steps {
			names = append(names, w.Kind+"."+s.Name)
		}
	}
	return names
}

// Diagram writes workflows as Markdown: each with a diagram for the eye and a table of its steps.
func Diagram(workflows []Workflow) string {
	var b strings.Builder
	for i, w := range workflows {
		if i > 0 {
			b.WriteString("\n")
		}
		w.diagram(&b)
	}
	return b.String()
}

func (w Workflow) diagram(b *strings.Builder) {
	fmt.Fprintf(b, "## %s\n\n%s\n\n```mermaid\nflowchart LR\n", w.Kind, w.Doc)
	for i, s := range w.Steps {
		next := "succeeded"
		if i+1 < len(w.Steps) {
			next = w.Steps[i+1].Name
		}
		fmt.Fprintf(b, "    %s --> %s\n", s.Name, next)
	}
	b.WriteString("    succeeded([succeeded])\n```\n\n| step | what is done | at most |\n| --- | --- | --- |\n")
	for _, s := range w.Steps {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", s.Name, cell(s.Doc), short(s.Within))
	}
	if w.Ended != "" {
		fmt.Fprintf(b, "\nWhen a step fails for good: %s\n", w.Ended)
	}
}

// cell escapes what would end a cell of a table.
func cell(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "\n", " ") }
