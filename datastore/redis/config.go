package redis

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/grove-dbaas/grove/datastore"
)

// settings are parameters and their values as the server writes them.
type settings map[string]string

// plan is a database's configuration: what everyone has, and what its tenant set.
type plan struct {
	version string
	base    settings // template and what follows from the size
	tenant  settings
}

// newPlan works out the configuration of a database. A value that may not be is a dbaas.Error.
func newPlan(d datastore.Desired) (plan, error) {
	m := manifest()
	s := sizingOf(d)
	if err := applyProfile(map[string]any{}, d.Profile); err != nil {
		return plan{}, err
	}
	values, err := m.Validate(d.Version, d.Values, s)
	if err != nil {
		return plan{}, err
	}
	p := plan{version: d.Version, base: settings{}, tenant: settings{}}
	for name, value := range defaults(d.Version, s) {
		p.base[name] = asText(value)
	}
	for name, value := range values {
		if parameter, ok := m.Parameter(d.Version, name); ok && !parameter.Secret {
			p.tenant[name] = asText(value)
		}
	}
	return p, nil
}

// asText writes a value as the server does.
func asText(value any) string {
	switch v := value.(type) {
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}

// wanted gives every value that the database should have.
func (p plan) wanted() settings {
	all := maps.Clone(p.base)
	for name, value := range p.tenant {
		if name == outputLimits { // the classes that it does not name stay
			value = all[name] + " " + value
		}
		all[name] = value
	}
	return all
}

const outputLimits = "client-output-buffer-limit"

// render writes the configuration file: the template, the tenant's values, and last what is ours, for the last word
// on a directive is the one that counts.
func (p plan) render(owned []directive) []byte {
	var b strings.Builder
	b.WriteString("# Written by Grove; changes by hand are lost at the next change.\n\n# The template, fitted to the flavor.\n")
	p.base.render(&b)
	b.WriteString("\n# Set by the tenant.\n")
	p.tenant.render(&b)
	b.WriteString("\n# Grove's own.\n")
	for _, d := range owned {
		d.render(&b)
	}
	return []byte(b.String())
}

func (s settings) render(b *strings.Builder) {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		directive{name, s[name]}.render(b)
	}
}

// directive is one line of a configuration file.
type directive struct{ name, value string }

func (d directive) render(b *strings.Builder) {
	b.WriteString(d.name)
	b.WriteByte(' ')
	switch {
	case d.value != "" && slices.Contains(severalWords(), d.name):
		b.WriteString(d.value)
	case d.value == "" || strings.ContainsAny(d.value, " \t\"'\\#"):
		b.WriteString(quote(d.value))
	default:
		b.WriteString(d.value)
	}
	b.WriteByte('\n')
}

// severalWords lists the directives whose value is several words to the server, and not one with spaces in it.
func severalWords() []string {
	return []string{outputLimits, "oom-score-adj-values", "latency-tracking-info-percentiles", "replicaof", "save"}
}

// quote writes a word as the server reads it between double quotes.
func quote(word string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(word) {
		switch c := word[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// difference splits what must change on the server that has running: what can be set live, and what takes effect only
// at the next start.
func difference(version string, wanted, running settings) (live settings, restart []string) {
	live = settings{}
	m := manifest()
	for name, value := range wanted {
		p, ok := m.Parameter(version, name)
		current, known := running[name]
		switch {
		case !ok || known && equal(p, value, current):
		case p.Restart:
			restart = append(restart, name)
		default:
			live[name] = value
		}
	}
	slices.Sort(restart)
	return live, restart
}

// equal tells whether two spellings mean the same value.
func equal(p *datastore.Parameter, a, b string) bool {
	return a == b || canonical(p, a) == canonical(p, b)
}

// canonical writes a value in one way, however it was spelled.
func canonical(p *datastore.Parameter, value string) string {
	switch {
	case p.Name == outputLimits:
		if limits, err := parseOutputLimits(value); err == nil {
			return fmt.Sprint(limits)
		}
	case p.Name == "notify-keyspace-events":
		letters := []rune(strings.ReplaceAll(value, "A", "g$lshzxetd"))
		slices.Sort(letters)
		return string(slices.Compact(letters))
	case p.Bytes:
		if n, ok := datastore.ParseBytes(value); ok {
			return strconv.FormatInt(n, 10)
		}
	case p.Type == datastore.TypeString && p.Values == nil:
		fields := strings.Fields(value)
		for i, f := range fields {
			if n, err := strconv.ParseFloat(f, 64); err == nil {
				fields[i] = strconv.FormatFloat(n, 'g', -1, 64)
			}
		}
		return strings.Join(fields, " ")
	}
	return strings.ToLower(value)
}
