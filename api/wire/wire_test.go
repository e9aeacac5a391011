package wire

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestNumbersOfAllForms(t *testing.T) {
	for text, want := range map[string]int{`5`: 5, `"5"`: 5, `"-1"`: -1, `2147483647`: 2147483647} {
		var n Number
		if err := json.Unmarshal([]byte(text), &n); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got, ok := n.Int(); !ok || got != want {
			t.Errorf("%s is %d %t", text, got, ok)
		}
	}
	for _, text := range []string{`5.0`, `"5.0"`, `""`, `"+5"`, `"five"`, `" 5"`, `2147483648`, `1e3`, `"0x10"`, `"` + strings.Repeat("0", 41) + `"`} {
		var n Number
		if err := json.Unmarshal([]byte(text), &n); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got, ok := n.Int(); ok {
			t.Errorf("%s passes for %d", text, got)
		}
	}
}

func TestTimesAreNaiveUTC(t *testing.T) {
	var at Time
	if err := json.Unmarshal([]byte(`"2026-11-22T10:11:12"`), &at); err != nil {
		t.Fatal(err)
	}
	if b, _ := json.Marshal(at); string(b) != `"2026-11-22T10:11:12"` {
		t.Errorf("it is written back as %s", b)
	}
	for _, empty := range []string{`null`, `""`} {
		if err := json.Unmarshal([]byte(empty), &at); err != nil || !at.IsZero() {
			t.Errorf("%s is %v (%v)", empty, at, err)
		}
	}
	if b, _ := json.Marshal(Time{}); string(b) != "null" {
		t.Errorf("the zero time is %s", b)
	}
	if err := json.Unmarshal([]byte(`"2026-11-22T10:11:12Z"`), &at); err == nil {
		t.Error("a zone is accepted")
	}
}

// A value of the wrong type is reported with the field's path, as encoding/json's own are.
func TestWrongTypesKnowTheirField(t *testing.T) {
	for body, want := range map[string]string{
		`{"instance": {"volume": {"size": {}}}}`:            "instance.volume.size",
		`{"instance": {"flavorRef": [1]}}`:                  "instance.flavorRef",
		`{"instance": {"nics": [{"net-id": 5}]}}`:           "instance.nics.net-id",
		`{"instance": {"access": {"allowed_cidrs": true}}}`: "instance.access.allowed_cidrs",
	} {
		var typeError *json.UnmarshalTypeError
		if err := json.Unmarshal([]byte(body), new(CreateInstanceRequest)); !errors.As(err, &typeError) || typeError.Field != want {
			t.Errorf("%s: %v, want a type error of %s", body, err, want)
		}
	}
	var typeError *json.UnmarshalTypeError
	err := json.Unmarshal([]byte(`{"instance": {"access": {"is_public": 5}}}`), new(PutInstanceRequest))
	if !errors.As(err, &typeError) || typeError.Field != "instance.access.is_public" {
		t.Errorf("%v, want a type error of instance.access.is_public", err)
	}
}

// The CLI reads what the server writes.
func TestInstanceThereAndBack(t *testing.T) {
	for _, body := range []string{
		`{"id":"i","name":"n","status":"ACTIVE","operating_status":"","datastore":{"type":"redis","version":"7.0"},"flavor":{"id":"1"},"region":null,"access":{"is_public":false,"allowed_cidrs":[]},"links":[]}`,
		`{"id":"i","name":"n","status":"ACTIVE","operating_status":"","datastore":{"type":"redis","version":"7.0"},"flavor":{"id":"1"},"volume":{"size":5},"region":"R","access":{"is_public":false,"allowed_cidrs":[]},"links":[],"created":"2026-11-22T10:11:12","updated":"2026-11-22T10:11:12","service_status_updated":null,"deletion_protection":true}`,
	} {
		var i Instance
		if err := json.Unmarshal([]byte(body), &i); err != nil {
			t.Fatal(err)
		}
		if back, err := json.Marshal(i); err != nil || string(back) != body {
			t.Errorf("%s\nis written back as\n%s (%v)", body, back, err)
		}
	}
}
