package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/grove-dbaas/grove/api/wire"
)

// maxValues bounds the text of a configuration group's values.
const maxValues = 1 << 20

// parseValues reads a group's values: a JSON or YAML object of scalars.
func parseValues(text []byte) (map[string]any, error) {
	if len(text) > maxValues {
		return nil, errors.New("the values are longer than a megabyte")
	}
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed) {
		return parseJSONValues(trimmed)
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil || values == nil {
		return nil, errors.New(`the values are neither a JSON nor a YAML object, such as {"timeout": 300}`)
	}
	return values, checkScalars(values)
}

// parseJSONValues keeps numbers as they were written.
func parseJSONValues(text []byte) (map[string]any, error) {
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		return nil, fmt.Errorf("read the values: %w", err)
	}
	return values, checkScalars(values)
}

func checkScalars(values map[string]any) error {
	for name, v := range values {
		if !isScalar(v) {
			return fmt.Errorf("the value of %q should be a string, a number or true or false", name)
		}
	}
	return nil
}

// isScalar tells what a parameter's value may be. YAML knows numbers that JSON does not.
func isScalar(v any) bool {
	switch v := v.(type) {
	case string, bool, int, int64, uint64, json.Number:
		return true
	case float64:
		return !math.IsNaN(v) && !math.IsInf(v, 0)
	}
	return false
}

// parseSetting reads name=value. The value is taken as the parameter's type wants it; where the parameter is unknown,
// what looks like a number or a truth value is one, and quotes make a string of anything.
func parseSetting(text string, parameters []wire.Parameter) (name string, value any, err error) {
	name, raw, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return "", nil, fmt.Errorf("%q should be NAME=VALUE", text)
	}
	if isSecret(name) {
		return "", nil, fmt.Errorf("%s is a secret, which other users of this machine could read on the command line; give it with --values-file, '-' for standard input", name)
	}
	for _, p := range parameters {
		if strings.EqualFold(p.Name, name) && p.Type == "string" && !strings.HasPrefix(raw, `"`) {
			return name, raw, nil
		}
	}
	return name, scalar(raw), nil
}

// isSecret tells whether a parameter's name says that its value is a password.
func isSecret(name string) bool {
	name = strings.ToLower(name)
	return strings.Contains(name, "pass") || strings.Contains(name, "secret") || strings.HasSuffix(name, "auth")
}

// scalar reads a JSON number, truth value or quoted string; all else is a string as it stands.
func scalar(raw string) any {
	var v any
	d := json.NewDecoder(strings.NewReader(raw))
	d.UseNumber()
	if !json.Valid([]byte(raw)) || d.Decode(&v) != nil {
		return raw
	}
	switch v.(type) {
	case string, bool, json.Number:
		return v
	}
	return raw
}

// readFile reads a file, "-" being standard input.
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(a.in, maxValues+1))
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxValues+1))
}
