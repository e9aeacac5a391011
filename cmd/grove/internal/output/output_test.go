package output

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

func write(t *testing.T, w Writer, l List) string {
	t.Helper()
	var b bytes.Buffer
	w.W = &b
	if err := w.List(l); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func awkward() List {
	return List{
		Columns: []string{"ID", "Some Text", "Anything"},
		Rows: [][]any{
			{1, "two words", nil},
			{2, "a\x1b[31mred\nline", []any{"x", 1.5, true}},
			{3, "ünïcödé <&>", map[string]any{"b": 1, "a": "z"}},
		},
	}
}

func TestTableIsAligned(t *testing.T) {
	want := strings.TrimPrefix(`
+----+-------------+--------------+
| ID | Some Text   | Anything     |
+----+-------------+--------------+
| 1  | two words   |              |
| 2  | a?[31mred   | x, 1.5, true |
|    | line        |              |
| 3  | ünïcödé <&> | a=z, b=1     |
+----+-------------+--------------+
`, "\n")
	if got := write(t, Writer{Format: "table"}, awkward()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestTableIsFoldedToTheTerminalAtSpacesOnly(t *testing.T) {
	l := List{
		Columns: []string{"ID", "Operating Status", "Message"},
		Rows:    [][]any{{"0123456789", "OK", "a long sentence with many words in it"}, {"1", "", " leading"}},
	}
	got := write(t, Writer{Format: "table", Width: 45}, l)
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 45 {
			t.Errorf("line of %d: %s", n, line)
		}
	}
	if !strings.Contains(got, "| 0123456789 |") {
		t.Errorf("the id was cut:\n%s", got)
	}
	// What cannot be folded stays whole, however narrow the terminal.
	if got := write(t, Writer{Format: "table", Width: 5}, l); !strings.Contains(got, "0123456789") || !strings.Contains(got, "Operating") {
		t.Errorf("text was cut:\n%s", got)
	}
}

func TestMachineFormatsCarryTypesAndOrder(t *testing.T) {
	l := awkward()
	got := write(t, Writer{Format: "json"}, l)
	var back []map[string]any
	if err := json.Unmarshal([]byte(got), &back); err != nil {
		t.Fatal(err)
	}
	if back[0]["ID"] != 1.0 || back[0]["Anything"] != nil || back[1]["Some Text"] != "a\x1b[31mred\nline" {
		t.Errorf("json lost something: %v", back)
	}
	if !strings.Contains(got, "<&>") || strings.Index(got, `"ID"`) > strings.Index(got, `"Anything"`) {
		t.Errorf("json escaped or reordered:\n%s", got)
	}
	var fromYAML []map[string]any
	if err := yaml.Unmarshal([]byte(write(t, Writer{Format: "yaml"}, l)), &fromYAML); err != nil {
		t.Fatal(err)
	}
	if fromYAML[0]["ID"] != 1 || fromYAML[2]["Some Text"] != "ünïcödé <&>" {
		t.Errorf("yaml lost something: %v", fromYAML)
	}
	rows, err := csv.NewReader(strings.NewReader(write(t, Writer{Format: "csv"}, l))).ReadAll()
	if err != nil || len(rows) != 4 || rows[2][1] != "a?[31mred\nline" {
		t.Errorf("csv: %q, %v", rows, err)
	}
}

func TestEmptyListsAreListsEverywhere(t *testing.T) {
	l := List{Columns: []string{"ID"}}
	for format, want := range map[string]string{"json": "[]\n", "yaml": "[]\n", "value": "", "csv": "ID\n"} {
		if got := write(t, Writer{Format: format}, l); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}

func TestColumnsAreChosenInTheOrderGiven(t *testing.T) {
	got := write(t, Writer{Format: "csv", Columns: []string{"some-text", "id"}}, awkward())
	if !strings.HasPrefix(got, "Some Text,ID\ntwo words,1\n") {
		t.Errorf("got %q", got)
	}
	err := Writer{W: &bytes.Buffer{}, Columns: []string{"nosuch"}}.List(awkward())
	if err == nil || !strings.Contains(err.Error(), "there are: ID, Some Text, Anything") {
		t.Errorf("got %v", err)
	}
}

func FuzzTable(f *testing.F) {
	f.Add("Operating Status", "a b\nc", 20)
	f.Add("", " x", 1)
	f.Add("ü ü", "\x1b[2J\u00a0", 3)
	f.Fuzz(func(t *testing.T, header, cell string, width int) {
		var b bytes.Buffer
		w := Writer{W: &b, Format: "table", Width: width % 200}
		if err := w.List(List{Columns: []string{header, "B"}, Rows: [][]any{{cell, cell}, {1, nil}}}); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsRune(b.String(), '\x1b') {
			t.Errorf("an escape sequence got through: %q", b.String())
		}
	})
}
