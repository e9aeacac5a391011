package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// maxDepth is how deep a body may be nested; the deepest that the API knows is half of that.
const maxDepth = 16

func badRequest(format string, args ...any) error {
	return dbaas.Errorf(dbaas.BadRequest, format, args...)
}

// readBody reads the body, which the chain has limited. A body must be JSON; one without a content type is taken for it.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, bodyTooLarge(tooLarge.Limit)
	case err != nil:
		return nil, badRequest("The body could not be read to its end.")
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return nil, nil
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, dbaas.Errorf(dbaas.UnsupportedMedia, "A body with the content encoding %q is not understood; send it as it is.", printable(encoding))
	}
	if contentType := r.Header.Get("Content-Type"); contentType != "" {
		media, _, err := mime.ParseMediaType(contentType)
		if media != "application/json" || err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
			return nil, dbaas.Errorf(dbaas.UnsupportedMedia, "The content type %q is not understood; use application/json.", printable(contentType))
		}
	}
	return body, requireShallow(body)
}

func bodyTooLarge(limit int64) error {
	return dbaas.Errorf(dbaas.OverLimit, "The body is larger than %d bytes.", limit)
}

// requireShallow refuses nesting that costs more to decode than it can mean.
func requireShallow(body []byte) error {
	depth, inString, escaped := 0, false, false
	for _, c := range body {
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped = c == '\\'
			inString = c != '"'
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return badRequest("The body is nested deeper than %d levels.", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// decodeBody reads JSON into a wire type. Keys that the type does not know are refused where it is strict, else left
// out with a warning that names the nearest known one. Unlike encoding/json alone it tells keys by their exact case,
// so that what is ignored and what is taken is never in doubt.
func decodeBody(body []byte, into any) (warnings []string, err error) {
	tree, err := decodeTree(body)
	if err != nil {
		return nil, err
	}
	if _, ok := tree.(map[string]any); !ok {
		return nil, badRequest("The body must be a JSON object, not %s.", kindOf(tree))
	}
	var w keyWalk
	if err := w.walk("", tree, reflect.TypeOf(into), false); err != nil {
		return nil, err
	}
	if len(w.ignored) > 0 {
		if body, err = json.Marshal(tree); err != nil {
			return nil, fmt.Errorf("encode body without unknown keys: %w", err)
		}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return nil, decodeError(err)
	}
	return w.ignored, nil
}

func decodeTree(body []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, decodeError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, badRequest("The body goes on after its JSON object.")
	}
	return tree, nil
}

// decodeError says what encoding/json found in the words of the API.
func decodeError(err error) error {
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType):
		name := wrongType.Field
		if name == "" {
			name = "The body"
		}
		value, _, _ := strings.Cut(wrongType.Value, " ")
		return badRequest("%s must be %s, not %s.", name, typeWords(wrongType.Type), withArticle(value))
	case errors.As(err, &syntax):
		return badRequest("The body is not JSON: %s (at byte %d).", syntax.Error(), syntax.Offset)
	default:
		return badRequest("The body is not complete JSON.")
	}
}

func typeWords(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[wire.Number]():
		return "a whole number"
	case t == reflect.TypeFor[wire.Ref]():
		return "an id"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "a list"
	default:
		return "a number"
	}
}

func withArticle(value string) string {
	switch value {
	case "object", "array":
		return "an " + value
	case "bool":
		return "a boolean"
	default:
		return "a " + value
	}
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case map[string]any:
		return "an object"
	case []any:
		return "an array"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	default:
		return "a number"
	}
}

// keyWalk compares the keys of a JSON tree with a type, and removes those that the type does not have.
type keyWalk struct {
	ignored []string
}

// inner is implemented by wire.Optional: it gives the type of what may be inside.
type inner interface{ Inner() reflect.Type }

func (w *keyWalk) walk(path string, node any, t reflect.Type, strict bool) error {
	for t != nil && (t.Kind() == reflect.Pointer || t.Implements(reflect.TypeFor[inner]())) {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		} else {
			t = reflect.Zero(t).Interface().(inner).Inner()
		}
	}
	switch node := node.(type) {
	case string:
		return requireText(path, node)
	case []any:
		var elem reflect.Type
		if t != nil && t.Kind() == reflect.Slice && t != reflect.TypeFor[json.RawMessage]() {
			elem = t.Elem()
		}
		for i, v := range node {
			if err := w.walk(fmt.Sprintf("%s[%d]", path, i), v, elem, strict); err != nil {
				return err
			}
		}
	case map[string]any:
		return w.walkObject(path, node, t, strict)
	}
	return nil
}

func (w *keyWalk) walkObject(path string, object map[string]any, t reflect.Type, strict bool) error {
	if t == nil || t.Kind() != reflect.Struct {
		return w.walkValues(path, object)
	}
	if blank, ok := t.FieldByName("_"); ok && blank.Tag.Get("wire") == "strict" {
		strict = true
	}
	known := knownKeys(t)
	for _, key := range slices.Sorted(mapKeys(object)) {
		name := join(path, key)
		field, ok := known[key]
		switch {
		case ok:
			if err := w.walk(name, object[key], field.Type, field.Tag.Get("wire") == "strict"); err != nil {
				return err
			}
		case strict:
			return badRequest("%s is not a key that this request knows%s; it knows: %s.",
				printable(name), didYouMean(key, known), strings.Join(slices.Sorted(mapKeys(known)), ", "))
		default:
			if err := w.walkValues(path, map[string]any{key: object[key]}); err != nil {
				return err
			}
			w.ignored = append(w.ignored, fmt.Sprintf("The unknown key %s was ignored%s.", printable(name), didYouMean(key, known)))
			delete(object, key)
		}
	}
	return nil
}

// walkValues checks the text of an object without fixed keys.
func (w *keyWalk) walkValues(path string, object map[string]any) error {
	for _, key := range slices.Sorted(mapKeys(object)) {
		if err := requireText(path, key); err != nil {
			return err
		}
		if err := w.walk(join(path, key), object[key], nil, false); err != nil {
			return err
		}
	}
	return nil
}

func mapKeys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// requireText refuses the one character that databases cannot store.
func requireText(path, text string) error {
	if strings.ContainsRune(text, 0) {
		return badRequest("%s holds a NUL character.", printable(path))
	}
	return nil
}

func knownKeys(t reflect.Type) map[string]reflect.StructField {
	known := map[string]reflect.StructField{}
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			known[name] = field
		}
	}
	return known
}

// didYouMean names the nearest known key, when one is near.
func didYouMean(key string, known map[string]reflect.StructField) string {
	if len(key) > 64 {
		return ""
	}
	nearest := dbaas.Nearest(key, slices.Sorted(maps.Keys(known)))
	if nearest == "" {
		return ""
	}
	return "; did you mean " + nearest + "?"
}

// printable makes a client's own words fit for a message: short, and without control characters.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, s)
	if runes := []rune(s); len(runes) > 80 {
		return string(runes[:80]) + "…"
	}
	return s
}
