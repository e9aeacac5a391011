// Package wire holds the JSON of Grove's REST API, the Trove v1.0 API with Grove's additions, as the server and the CLI
// share it. A pointer or an omitempty stands where a key must be absent rather than null (api reference 6.1); a pointer
// without omitempty where null has a meaning. The tag wire:"strict" on a field makes the server refuse unknown keys in
// its object; on a blank field, in the object that it is in.
package wire

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// timeLayout is Trove's: UTC, to the second, without a zone. Clients fail on a trailing Z.
const timeLayout = "2006-01-02T15:04:05"

// Time is a moment; the zero one is null.
type Time struct{ time.Time }

// MarshalJSON writes Trove's form.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(t.UTC().Format(timeLayout))
}

// UnmarshalJSON reads Trove's form; null and "" are the zero time.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s == "" {
		t.Time = time.Time{}
		return nil
	}
	parsed, err := time.Parse(timeLayout, s)
	if err != nil {
		return fmt.Errorf("time %q is not of the form %s", s, timeLayout)
	}
	t.Time = parsed
	return nil
}

// Number is a whole number that may arrive as a JSON number or as a decimal string, and is written as a number.
type Number string

// NumberOf makes a Number.
func NumberOf(n int) Number { return Number(strconv.Itoa(n)) }

// MaxNumber is the largest Number.
const MaxNumber = 1<<31 - 1

// Int gives the number; ok is false for what is not a whole number of at most [MaxNumber] in size.
func (n Number) Int() (value int, ok bool) {
	s := string(n)
	if len(s) > 40 {
		return 0, false
	}
	v, err := strconv.ParseInt(s, 10, 32)
	return int(v), err == nil && !strings.HasPrefix(s, "+")
}

// MarshalJSON writes the number.
func (n Number) MarshalJSON() ([]byte, error) {
	v, ok := n.Int()
	if !ok {
		return nil, fmt.Errorf("%q is not a whole number", string(n))
	}
	return strconv.AppendInt(nil, int64(v), 10), nil
}

// UnmarshalJSON takes numbers and strings; what number they are, Int tells.
func (n *Number) UnmarshalJSON(b []byte) error {
	return unmarshalScalar(b, (*string)(n), n)
}

// Ref names something by id, which may arrive as a string or as a whole number, or as a link that ends in the id.
type Ref string

// ID gives the id: the last part of a link.
func (r Ref) ID() string { return string(r[strings.LastIndexByte(string(r), '/')+1:]) }

// UnmarshalJSON takes strings and numbers.
func (r *Ref) UnmarshalJSON(b []byte) error {
	return unmarshalScalar(b, (*string)(r), r)
}

// unmarshalScalar takes a string or a number literal as it stands. For others the error is encoding/json's own, which
// then knows the path of the field.
func unmarshalScalar[T any](b []byte, to *string, target *T) error {
	switch {
	case string(b) == "null":
		return nil
	case b[0] == '"':
		return json.Unmarshal(b, to)
	case b[0] == '-' || '0' <= b[0] && b[0] <= '9':
		*to = string(b)
		return nil
	default:
		return typeError(b, *target)
	}
}

// Optional is a value whose absence, null and presence are three different wishes.
type Optional[T any] struct {
	Set   bool // the key was there
	Null  bool // its value was null
	Value T
}

// Some is a present value.
func Some[T any](v T) Optional[T] { return Optional[T]{Set: true, Value: v} }

// Null is a present null.
func Null[T any]() Optional[T] { return Optional[T]{Set: true, Null: true} }

// IsZero makes the omitzero option leave out what is not set.
func (o Optional[T]) IsZero() bool { return !o.Set }

// Inner is the type of the value, for decoders that compare keys with types.
func (o Optional[T]) Inner() reflect.Type { return reflect.TypeFor[T]() }

// MarshalJSON writes the value or null.
func (o Optional[T]) MarshalJSON() ([]byte, error) {
	if o.Null || !o.Set {
		return []byte("null"), nil
	}
	return json.Marshal(o.Value)
}

// UnmarshalJSON notes that the key was there.
func (o *Optional[T]) UnmarshalJSON(b []byte) error {
	o.Set = true
	if string(b) == "null" {
		o.Null = true
		return nil
	}
	return json.Unmarshal(b, &o.Value)
}

// Link is a link of a resource, or of a page to the next one.
type Link struct {
	Rel  string `json:"rel"`
	Href string `json:"href"`
}

// Resource refers to another resource.
type Resource struct {
	ID    string `json:"id"`
	Name  string `json:"name,omitempty"`
	Links []Link `json:"links,omitempty"`
}

// Fault is an error as the API answers it: {"<name>": {"code": …, "message": …}}.
type Fault struct {
	Code       int    `json:"code"`
	Message    string `json:"message"`
	Title      string `json:"title,omitempty"`      // of a refused token
	Details    string `json:"details,omitempty"`    // of a rate limit
	RetryAfter string `json:"retryAfter,omitempty"` // of a rate limit
}

// Headers that Grove adds to HTTP's own.
const (
	HeaderRequestID      = "X-Openstack-Request-Id"
	HeaderOperation      = "Grove-Operation"
	HeaderIdempotencyKey = "Idempotency-Key"
)
