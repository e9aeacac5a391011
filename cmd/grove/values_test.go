package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/api/wire"
)

func TestParseValues(t *testing.T) {
	for text, want := range map[string]string{
		`{"timeout": 300, "a": true, "b": 1.5, "c": "x", "big": 9007199254740993}`: `{"a":true,"b":1.5,"big":9007199254740993,"c":"x","timeout":300}`,
		"timeout: 300\nsave: 900 1\nappendonly: yes\n":                             `{"appendonly":"yes","save":"900 1","timeout":300}`,
		"{}": `{}`,
	} {
		values, err := parseValues([]byte(text))
		got, _ := json.Marshal(values)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "[]", "7", "text", `{"a": [1]}`, `{"a": null}`, "a: {b: c}", "{", "a: 2026-11-22", "? [a]\n: b"} {
		if values, err := parseValues([]byte(text)); err == nil {
			t.Errorf("%q was taken for %v", text, values)
		}
	}
}

func TestParseSetting(t *testing.T) {
	known := []wire.Parameter{{Name: "save", Type: "string"}, {Name: "hz", Type: "integer"}}
	for text, want := range map[string]string{
		"hz=15":                  `"hz" 15`,
		"SAVE=900":               `"SAVE" "900"`,
		`save="900"`:             `"save" "900"`,
		"save=":                  `"save" ""`,
		"x=":                     `"x" ""`,
		"x=true":                 `"x" true`,
		"x=null":                 `"x" "null"`,
		"x=[1]":                  `"x" "[1]"`,
		"x=a=b":                  `"x" "a=b"`,
		"x=12345678901234567890": `"x" 12345678901234567890`,
	} {
		name, value, err := parseSetting(text, known)
		encoded, _ := json.Marshal(value)
		if got := fmt.Sprintf("%q %s", name, encoded); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "=1", "requirepass=s3cret", "MasterAuth=s3cret"} {
		_, _, err := parseSetting(text, known)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestParseNic(t *testing.T) {
	nic, err := parseNic("net-id=n, subnet-id=s,ip-address=10.0.0.5")
	if err != nil || nic != (wire.Nic{NetworkID: "n", SubnetID: "s", IPAddress: "10.0.0.5"}) {
		t.Errorf("got %+v, %v", nic, err)
	}
	for _, text := range []string{"", "net-id", "net-id=", "port-id=x"} {
		if _, err := parseNic(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestEndpointIsCompleted(t *testing.T) {
	for _, test := range []struct{ endpoint, flag, project, want string }{
		{"http://127.0.0.1:8779", "", "", "http://127.0.0.1:8779/v1.0/demo"},
		{"127.0.0.1:8779/", "", "", "http://127.0.0.1:8779/v1.0/demo"},
		{"http://[::1]:8779/v1.0", "", "", "http://[::1]:8779/v1.0/demo"},
		{"http://localhost/v1.0/own", "", "env", "http://localhost/v1.0/own"},
		{"http://localhost/v1.0/own", "flag", "env", "http://localhost/v1.0/flag"},
		{"https://h/database/v1.0/%(tenant_id)s", "", "env", "https://h/database/v1.0/env"},
		{"https://h/v1.0/$(project_id)s", "", "a b/c", "https://h/v1.0/a%20b%2Fc"},
		{"https://h/x/?q=1#f", "", "env", "https://h/x/v1.0/env"},
	} {
		got, err := complete(test.endpoint, test.flag, test.project)
		if err != nil || got != test.want {
			t.Errorf("%+v: got %s, %v", test, got, err)
		}
	}
	for _, endpoint := range []string{"https://h", "ftp://127.0.0.1", "http://", "http://[", "://x"} {
		if got, err := complete(endpoint, "", ""); err == nil {
			t.Errorf("%q became %q", endpoint, got)
		}
	}
}

func FuzzValues(f *testing.F) {
	f.Add(`{"a": 1}`)
	f.Add("a: 1\nb: [")
	f.Add("x=1")
	f.Add("a: &a {b: *a}")
	f.Fuzz(func(t *testing.T, text string) {
		if values, err := parseValues([]byte(text)); err == nil {
			if _, err := json.Marshal(values); err != nil {
				t.Errorf("%q gave values that JSON cannot carry: %v", text, err)
			}
		}
		if _, value, err := parseSetting(text, nil); err == nil {
			if _, err := json.Marshal(value); err != nil {
				t.Errorf("%q gave a value that JSON cannot carry: %v", text, err)
			}
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	f.Add("http://127.0.0.1:8779/v1.0/demo", "", "p")
	f.Fuzz(func(t *testing.T, endpoint, flag, project string) {
		got, err := complete(endpoint, flag, project)
		if err == nil && !strings.HasPrefix(got, "http") {
			t.Errorf("%q became %q", endpoint, got)
		}
	})
}
