package datastore

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// MaxValueLength is the greatest length of a value as text, in characters (api.md 3.12).
const MaxValueLength = 128

// MaxExact is the greatest integer that every JSON reader gives back as it was. No parameter has a larger one.
const MaxExact = 1<<53 - 1

func findParameter(parameters []Parameter, version, name string) (*Parameter, bool) {
	for i := range parameters {
		p := &parameters[i]
		if p.KnownTo(version) && p.isCalled(name) {
			return p, true
		}
	}
	return nil, false
}

func (p *Parameter) isCalled(name string) bool {
	return strings.EqualFold(p.Name, name) ||
		slices.ContainsFunc(p.Aliases, func(alias string) bool { return strings.EqualFold(alias, name) })
}

func validateValues(m *Manifest, version string, values map[string]any, s Sizing) (map[string]any, error) {
	if _, ok := m.Version(version); !ok {
		return nil, refuse("Datastore %s has no version %q.", m.Name, version)
	}
	valid := make(map[string]any, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		p, ok := findParameter(m.Parameters, version, name)
		if !ok {
			return nil, unknownParameter(m, version, name)
		}
		if _, twice := valid[p.Name]; twice {
			return nil, refuse("Parameter %q is given twice, once as %q.", p.Name, name)
		}
		value, err := p.Parse(values[name], s)
		if err != nil {
			return nil, err
		}
		valid[p.Name] = value
	}
	return valid, nil
}

// Parse checks a value that a tenant gave and gives it back in the parameter's own type: bool, int64, float64 or
// string.
func (p *Parameter) Parse(value any, s Sizing) (any, error) {
	if p.Who != WhoTenant {
		return nil, p.forbidden()
	}
	parsed, err := p.convert(value)
	if err != nil {
		return nil, err
	}
	if text := fmt.Sprint(parsed); len([]rune(text)) > MaxValueLength {
		return nil, refuse("Parameter %q: a value has at most %d characters, not %d.", p.Name, MaxValueLength, len([]rune(text)))
	}
	if p.Check == nil {
		return parsed, nil
	}
	if err := p.Check(parsed, s); err != nil {
		return nil, refuse("Parameter %q %s.", p.Name, strings.TrimSuffix(err.Error(), "."))
	}
	return parsed, nil
}

func (p *Parameter) convert(value any) (any, error) {
	switch p.Type {
	case TypeBoolean:
		if b, ok := parseBoolean(value); ok {
			return b, nil
		}
	case TypeInteger:
		if n, ok := p.parseInteger(value); ok && p.inRange(n) {
			return n, nil
		}
	case TypeFloat:
		if f, ok := parseFloat(value); ok && (p.Min == nil || f >= float64(*p.Min)) && (p.Max == nil || f <= float64(*p.Max)) {
			return f, nil
		}
	case TypeString:
		if text, ok := p.parseText(value); ok {
			return text, nil
		}
	}
	if p.Secret {
		return nil, refuse("Parameter %q must be %s.", p.Name, p.expectation())
	}
	return nil, refuse("Parameter %q must be %s, not %s.", p.Name, p.expectation(), show(value))
}

func (p *Parameter) inRange(n int64) bool {
	return (p.Min == nil || n >= *p.Min) && (p.Max == nil || n <= *p.Max)
}

// parseBoolean takes JSON booleans and the words of configuration files.
func parseBoolean(value any) (b, ok bool) {
	switch v := value.(type) {
	case bool:
		return v, true
	case string:
		switch strings.ToLower(v) {
		case "yes", "true":
			return true, true
		case "no", "false":
			return false, true
		}
	}
	return false, false
}

// parseInteger takes whole JSON numbers, digits in a string and, for sizes, numbers with a unit.
func (p *Parameter) parseInteger(value any) (int64, bool) {
	switch v := value.(type) {
	case int:
		return int64(v), true
	case int64:
		return v, true
	case float64:
		return int64(v), v == math.Trunc(v) && math.Abs(v) <= MaxExact
	case json.Number:
		return p.parseDigits(v.String())
	case string:
		if n, ok := p.parseDigits(v); ok {
			return n, true
		}
		if p.Bytes {
			return ParseBytes(v)
		}
	}
	return 0, false
}

func (p *Parameter) parseDigits(text string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, n <= MaxExact && n >= -MaxExact
	}
	f, err := strconv.ParseFloat(text, 64) // a JSON number may be written 1e3
	if err != nil || !strings.ContainsAny(text, ".eE") || f != math.Trunc(f) || math.Abs(f) > MaxExact {
		return 0, false
	}
	return int64(f), true
}

// ParseBytes reads a size as database servers write it: digits and a unit of k, kb, m, mb, g, gb, where the ones with
// "b" count in 1024.
func ParseBytes(text string) (int64, bool) {
	text = strings.ToLower(strings.TrimSpace(text))
	digits := strings.TrimRightFunc(text, unicode.IsLetter)
	var unit int64
	switch text[len(digits):] {
	case "", "b":
		unit = 1
	case "k":
		unit = 1000
	case "kb":
		unit = 1 << 10
	case "m":
		unit = 1000 * 1000
	case "mb":
		unit = 1 << 20
	case "g":
		unit = 1000 * 1000 * 1000
	case "gb":
		unit = 1 << 30
	default:
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > MaxExact/unit || n < -MaxExact/unit {
		return 0, false
	}
	return n * unit, true
}

func parseFloat(value any) (float64, bool) {
	switch v := value.(type) {
	case float64:
		return v, !math.IsInf(v, 0) && !math.IsNaN(v)
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case json.Number:
		return parseFloat(v.String())
	case string:
		f, err := strconv.ParseFloat(v, 64)
		return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
	}
	return 0, false
}

// parseText takes strings; of an enumeration in any case, of a size that is kept as text also numbers.
func (p *Parameter) parseText(value any) (string, bool) {
	text, ok := value.(string)
	if !ok && p.Bytes {
		var n int64
		if n, ok = p.parseInteger(value); ok {
			text = strconv.FormatInt(n, 10)
		}
	}
	if !ok || strings.ContainsFunc(text, unicode.IsControl) {
		return "", false
	}
	if p.Values == nil {
		return text, true
	}
	for _, v := range p.Values {
		if strings.EqualFold(v, text) {
			return v, true
		}
	}
	return "", false
}

// expectation says what would be right.
func (p *Parameter) expectation() string {
	switch {
	case p.Type == TypeBoolean:
		return "true or false"
	case p.Values != nil:
		return "one of " + strings.Join(p.Values, ", ")
	case p.Type == TypeString:
		return "a string without control characters"
	}
	kind := "an integer"
	if p.Type == TypeFloat {
		kind = "a number"
	}
	if p.Bytes {
		kind = `a number of bytes, or a size such as "64mb",`
	}
	switch {
	case p.Min != nil && p.Max != nil && *p.Max < MaxExact:
		return fmt.Sprintf("%s between %s and %s", kind, p.number(*p.Min), p.number(*p.Max))
	case p.Min != nil:
		return fmt.Sprintf("%s of at least %s", kind, p.number(*p.Min))
	case p.Max != nil:
		return fmt.Sprintf("%s of at most %s", kind, p.number(*p.Max))
	}
	return strings.TrimSuffix(kind, ",")
}

func (p *Parameter) number(n int64) string {
	if p.Bytes {
		return FormatBytes(n)
	}
	return strconv.FormatInt(n, 10)
}

// FormatBytes writes a size with the largest unit that it is a whole number of.
func FormatBytes(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 30, "gb"}, {1 << 20, "mb"}, {1 << 10, "kb"}} {
		if n != 0 && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// show writes a value as it came, cut to a length that fits a message.
func show(value any) string {
	b, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprintf("a %T", value)
	}
	if text := []rune(string(b)); len(text) > 40 {
		return string(text[:40]) + "…"
	}
	return string(b)
}

func (p *Parameter) forbidden() error {
	if p.Why != "" {
		return refuse("Parameter %q cannot be set in a configuration group: %s.", p.Name, p.Why)
	}
	return refuse("Parameter %q cannot be set in a configuration group.", p.Name)
}

// unknownParameter is the refusal of a name that a version does not have.
func unknownParameter(m *Manifest, version, name string) error {
	sentence := fmt.Sprintf("%s %s has no configuration parameter %s.", m.Name, version, show(name))
	if near := nearest(m.Parameters, version, name); near != "" {
		sentence += fmt.Sprintf(" Did you mean %q?", near)
	}
	return refuse("%s", sentence)
}

// nearest gives the parameter that was perhaps meant, "" when none is near.
func nearest(parameters []Parameter, version, name string) string {
	if len(name) > MaxValueLength {
		return ""
	}
	var known []string
	for i := range parameters {
		if p := &parameters[i]; p.Who == WhoTenant && p.KnownTo(version) {
			known = append(known, p.Name)
		}
	}
	return dbaas.Nearest(strings.ReplaceAll(name, "_", "-"), known)
}

func refuse(format string, args ...any) error {
	return dbaas.Errorf(dbaas.Unprocessable, format, args...)
}
