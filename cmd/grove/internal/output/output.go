// Package output writes lists and single objects in the formats of openstackclient: table, json, yaml, value, csv.
package output

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Formats lists the formats that Writer knows.
func Formats() []string { return []string{"table", "json", "yaml", "value", "csv"} }

// List is rows under columns. Values are strings, numbers, booleans, nil, slices and maps: JSON and YAML keep their
// types.
type List struct {
	Columns []string
	Rows    [][]any
}

// Record is one object: fields in the order in which they were added.
type Record struct {
	names  []string
	values []any
}

// Add appends a field.
func (r *Record) Add(name string, value any) {
	r.names = append(r.names, name)
	r.values = append(r.values, value)
}

// Writer writes results to W. Columns, when there are any, chooses and orders what is shown. Width is that of the
// terminal, 0 for none: a table is folded to fit.
type Writer struct {
	W       io.Writer
	Format  string
	Columns []string
	Width   int
}

// List writes a list.
func (w Writer) List(l List) error {
	chosen, err := w.choose(l.Columns)
	if err != nil {
		return err
	}
	cut := List{Columns: pick(l.Columns, chosen)}
	for _, row := range l.Rows {
		cut.Rows = append(cut.Rows, pick(row, chosen))
	}
	switch w.Format {
	case "json":
		return w.json(cut.objects())
	case "yaml":
		return w.yaml(cut.objects())
	case "value":
		return w.values(cut.Rows, " ")
	case "csv":
		return w.csv(cut)
	default:
		return w.table(cut)
	}
}

// Record writes a single object.
func (w Writer) Record(r Record) error {
	chosen, err := w.choose(r.names)
	if err != nil {
		return err
	}
	cut := Record{names: pick(r.names, chosen), values: pick(r.values, chosen)}
	switch w.Format {
	case "json":
		return w.json(cut.object())
	case "yaml":
		return w.yaml(cut.object())
	case "value":
		rows := make([][]any, len(cut.values))
		for i, v := range cut.values {
			rows[i] = []any{v}
		}
		return w.values(rows, " ")
	case "csv":
		return w.csv(cut.list())
	default:
		return w.table(cut.list())
	}
}

// choose gives the positions of the wanted columns: "Operating Status", "operating_status" and "operating-status" are
// the same one.
func (w Writer) choose(names []string) ([]int, error) {
	var chosen []int
	for _, want := range w.Columns {
		i := slices.IndexFunc(names, func(n string) bool { return plain(n) == plain(want) })
		if i < 0 {
			return nil, fmt.Errorf("there is no column %q here; there are: %s", want, strings.Join(names, ", "))
		}
		chosen = append(chosen, i)
	}
	if chosen == nil {
		for i := range names {
			chosen = append(chosen, i)
		}
	}
	return chosen, nil
}

func plain(name string) string {
	return strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(name))
}

func pick[T any](from []T, positions []int) []T {
	out := make([]T, len(positions))
	for i, p := range positions {
		out[i] = from[p]
	}
	return out
}

// list turns a record into the two columns in which tables show it.
func (r Record) list() List {
	l := List{Columns: []string{"Field", "Value"}}
	for i, name := range r.names {
		l.Rows = append(l.Rows, []any{name, r.values[i]})
	}
	return l
}

// object is a JSON object that keeps its order.
type object struct {
	names  []string
	values []any
}

func (r Record) object() object { return object(r) }

func (l List) objects() []object {
	all := make([]object, len(l.Rows))
	for i, row := range l.Rows {
		all[i] = object{l.Columns, row}
	}
	return all
}

// MarshalJSON writes the fields in order.
func (o object) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	for i, name := range o.names {
		k, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		v, err := marshal(o.values[i], "")
		if err != nil {
			return nil, err
		}
		b.WriteString("," + string(k) + ":" + v)
	}
	return []byte("{" + strings.TrimPrefix(b.String(), ",") + "}"), nil
}

// MarshalYAML gives the fields in order.
func (o object) MarshalYAML() (any, error) {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for i, name := range o.names {
		var k, v yaml.Node
		if err := k.Encode(name); err != nil {
			return nil, err
		}
		if err := v.Encode(o.values[i]); err != nil {
			return nil, err
		}
		m.Content = append(m.Content, &k, &v)
	}
	return m, nil
}

// marshal is json.Marshal without the escapes that only HTML needs.
func marshal(v any, indent string) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

func (w Writer) json(v any) error {
	text, err := marshal(v, "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w.W, text)
	return err
}

func (w Writer) yaml(v any) error {
	e := yaml.NewEncoder(w.W)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return err
	}
	return e.Close()
}

func (w Writer) values(rows [][]any, separator string) error {
	for _, row := range rows {
		if _, err := fmt.Fprintln(w.W, strings.Join(texts(row), separator)); err != nil {
			return err
		}
	}
	return nil
}

func (w Writer) csv(l List) error {
	c := csv.NewWriter(w.W)
	if err := c.Write(l.Columns); err != nil {
		return err
	}
	for _, row := range l.Rows {
		if err := c.Write(texts(row)); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

func texts(row []any) []string {
	out := make([]string, len(row))
	for i, v := range row {
		out[i] = text(v)
	}
	return out
}

// text is a value for people: nothing for nil, elements separated by commas, keys with "=".
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return harmless(v)
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []string:
		return harmless(strings.Join(v, ", "))
	case []any:
		return strings.Join(texts(v), ", ")
	case map[string]any:
		pairs := make([]string, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			pairs = append(pairs, harmless(k)+"="+text(v[k]))
		}
		return strings.Join(pairs, ", ")
	default:
		return harmless(fmt.Sprint(v))
	}
}

// harmless takes out what would steer a terminal.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return '?'
		}
		return r
	}, s)
}
