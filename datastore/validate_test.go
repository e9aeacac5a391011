package datastore

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

func at(n int64) *int64 { return &n }

// sample is a datastore that has a parameter of every kind.
func sample() *Manifest {
	tooSmall := func(value any, s Sizing) error {
		if s.FlavorRAM > 0 && value.(int64) > int64(s.FlavorRAM) {
			return errors.New("must fit the flavor")
		}
		return nil
	}
	return &Manifest{
		Name:     "sample",
		Versions: []Version{{Name: "1"}, {Name: "2"}},
		Parameters: []Parameter{
			{Name: "cache-size", Aliases: []string{"buffer"}, Type: TypeInteger, Bytes: true, Min: at(1 << 20), Max: at(1 << 30), Who: WhoTenant},
			{Name: "hz", Type: TypeInteger, Min: at(1), Max: at(100), Who: WhoTenant},
			{Name: "lazy", Type: TypeBoolean, Who: WhoTenant},
			{Name: "load", Type: TypeFloat, Min: at(0), Max: at(1), Who: WhoTenant},
			{Name: "policy", Type: TypeString, Values: []string{"none", "lru"}, Who: WhoTenant},
			{Name: "note", Type: TypeString, Who: WhoTenant},
			{Name: "share", Type: TypeString, Bytes: true, Who: WhoTenant},
			{Name: "memory", Type: TypeInteger, Who: WhoTenant, Check: tooSmall},
			{Name: "password", Type: TypeString, Secret: true, Who: WhoTenant},
			{Name: "newer", Type: TypeBoolean, Who: WhoTenant, Versions: []string{"2"}},
			{Name: "dir", Type: TypeString, Who: WhoNobody, Why: "it belongs to the volume"},
		},
	}
}

func TestValidateTakes(t *testing.T) {
	for _, c := range []struct {
		given string
		want  map[string]any
	}{
		{`{}`, map[string]any{}},
		{`{"hz": 15}`, map[string]any{"hz": int64(15)}},
		{`{"HZ": "15"}`, map[string]any{"hz": int64(15)}},
		{`{"hz": 15.0}`, map[string]any{"hz": int64(15)}},
		{`{"hz": 1e1}`, map[string]any{"hz": int64(10)}},
		{`{"lazy": true}`, map[string]any{"lazy": true}},
		{`{"lazy": "no"}`, map[string]any{"lazy": false}},
		{`{"lazy": "YES"}`, map[string]any{"lazy": true}},
		{`{"load": 1}`, map[string]any{"load": 1.0}},
		{`{"load": "0.5"}`, map[string]any{"load": 0.5}},
		{`{"policy": "LRU"}`, map[string]any{"policy": "lru"}},
		{`{"cache-size": "64mb"}`, map[string]any{"cache-size": int64(64 << 20)}},
		{`{"Buffer": "2M"}`, map[string]any{"cache-size": int64(2000000)}},
		{`{"cache-size": 1048576}`, map[string]any{"cache-size": int64(1 << 20)}},
		{`{"share": 4096}`, map[string]any{"share": "4096"}},
		{`{"note": ""}`, map[string]any{"note": ""}},
		{`{"note": "` + strings.Repeat("é", 128) + `"}`, map[string]any{"note": strings.Repeat("é", 128)}},
		{`{"memory": 100}`, map[string]any{"memory": int64(100)}},
	} {
		var values map[string]any
		if err := json.Unmarshal([]byte(c.given), &values); err != nil {
			t.Fatal(err)
		}
		got, err := sample().Validate("1", values, Sizing{FlavorRAM: 512})
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s became %v, %v; want %v", c.given, got, err, c.want)
		}
		again, err := sample().Validate("1", got, Sizing{})
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%v validated again became %v, %v", got, again, err)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	for _, c := range []struct{ given, want string }{
		{`{"hz": 600}`, `Parameter "hz" must be an integer between 1 and 100, not 600.`},
		{`{"hz": 0}`, `Parameter "hz" must be an integer between 1 and 100, not 0.`},
		{`{"hz": "text"}`, `Parameter "hz" must be an integer between 1 and 100, not "text".`},
		{`{"hz": 1.5}`, `Parameter "hz" must be an integer between 1 and 100, not 1.5.`},
		{`{"hz": true}`, `Parameter "hz" must be an integer between 1 and 100, not true.`},
		{`{"hz": null}`, `Parameter "hz" must be an integer between 1 and 100, not null.`},
		{`{"hz": [1]}`, `Parameter "hz" must be an integer between 1 and 100, not [1].`},
		{`{"hz": 1e300}`, `Parameter "hz" must be an integer between 1 and 100, not 1e+300.`},
		{`{"hz": "64mb"}`, `Parameter "hz" must be an integer between 1 and 100, not "64mb".`},
		{`{"lazy": "maybe"}`, `Parameter "lazy" must be true or false, not "maybe".`},
		{`{"lazy": 1}`, `Parameter "lazy" must be true or false, not 1.`},
		{`{"load": 2}`, `Parameter "load" must be a number between 0 and 1, not 2.`},
		{`{"load": "NaN"}`, `Parameter "load" must be a number between 0 and 1, not "NaN".`},
		{`{"policy": "lfu"}`, `Parameter "policy" must be one of none, lru, not "lfu".`},
		{`{"policy": 1}`, `Parameter "policy" must be one of none, lru, not 1.`},
		{`{"cache-size": "1kb"}`, `Parameter "cache-size" must be a number of bytes, or a size such as "64mb", between 1mb and 1gb, not "1kb".`},
		{`{"cache-size": "9999999999gb"}`, `Parameter "cache-size" must be a number of bytes, or a size such as "64mb", between 1mb and 1gb, not "9999999999gb".`},
		{`{"note": 1}`, `Parameter "note" must be a string without control characters, not 1.`},
		{`{"note": "a\nb"}`, `Parameter "note" must be a string without control characters, not "a\nb".`},
		{`{"note": "` + strings.Repeat("é", 129) + `"}`, `Parameter "note": a value has at most 128 characters, not 129.`},
		{`{"note": {"` + strings.Repeat("x", 60) + `": 1}}`, `Parameter "note" must be a string without control characters, not {"` + strings.Repeat("x", 38) + `….`},
		{`{"memory": 1000}`, `Parameter "memory" must fit the flavor.`},
		{`{"password": "p\u0000word"}`, `Parameter "password" must be a string without control characters.`},
		{`{"dir": "/"}`, `Parameter "dir" cannot be set in a configuration group: it belongs to the volume.`},
		{`{"newer": true}`, `sample 1 has no configuration parameter "newer".`},
		{`{"polcy": "lru"}`, `sample 1 has no configuration parameter "polcy". Did you mean "policy"?`},
		{`{"cache_size": 1}`, `sample 1 has no configuration parameter "cache_size". Did you mean "cache-size"?`},
		{`{"zzzzzz": 1}`, `sample 1 has no configuration parameter "zzzzzz".`},
		{`{"": 1}`, `sample 1 has no configuration parameter "".`},
		{`{"hz": 1, "HZ": 2}`, `Parameter "hz" is given twice, once as "hz".`},
		{`{"buffer": "1mb", "cache-size": "1mb"}`, `Parameter "cache-size" is given twice, once as "cache-size".`},
	} {
		var values map[string]any
		if err := json.Unmarshal([]byte(c.given), &values); err != nil {
			t.Fatal(err)
		}
		got, err := sample().Validate("1", values, Sizing{FlavorRAM: 512})
		if dbaas.ErrorCode(err) != dbaas.Unprocessable || dbaas.ErrorMessage(err) != c.want {
			t.Errorf("%s gave %v and %s: %s\nwant %s", c.given, got, dbaas.ErrorCode(err), dbaas.ErrorMessage(err), c.want)
		}
	}
}

func TestValidateRefusesUnknownVersions(t *testing.T) {
	if _, err := sample().Validate("3", nil, Sizing{}); dbaas.ErrorCode(err) != dbaas.Unprocessable {
		t.Errorf("an unknown version gave %v", err)
	}
	if _, err := sample().Validate("2", map[string]any{"newer": true}, Sizing{}); err != nil {
		t.Error(err)
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1b": 1, "1k": 1000, "1kb": 1024, "3m": 3000000, "64MB": 64 << 20, "1g": 1e9, "2gb": 2 << 30, "-1kb": -1024} {
		if n, ok := ParseBytes(text); !ok || n != want {
			t.Errorf("%s is %d, %v; want %d", text, n, ok, want)
		}
	}
	for _, text := range []string{"", "mb", "1.5mb", "1tb", "1 mb x", "99999999999999999999", "9007199254740992", "1mbb"} {
		if n, ok := ParseBytes(text); ok {
			t.Errorf("%q passed as %d", text, n)
		}
	}
}

// FuzzValidate: whatever is taken is taken again as it became, and survives JSON, as it does in the store.
func FuzzValidate(f *testing.F) {
	for _, seed := range []string{`{"hz": 15}`, `{"cache-size": "64mb"}`, `{"note": "x"}`, `{"load": 0.1}`, `{"share": "10%"}`, `{"x": 1}`, `[]`} {
		f.Add([]byte(seed))
	}
	m := sample()
	f.Fuzz(func(t *testing.T, text []byte) {
		var values map[string]any
		if json.Unmarshal(text, &values) != nil {
			return
		}
		valid, err := m.Validate("2", values, Sizing{})
		if err != nil {
			if dbaas.ErrorCode(err) != dbaas.Unprocessable || len(dbaas.ErrorMessage(err)) > 2000+6*len(text) {
				t.Errorf("%s: %v", text, err)
			}
			return
		}
		stored, err := json.Marshal(valid)
		if err != nil {
			t.Fatal(err)
		}
		var back map[string]any
		if err := json.Unmarshal(stored, &back); err != nil {
			t.Fatal(err)
		}
		again, err := m.Validate("2", back, Sizing{})
		if err != nil || !reflect.DeepEqual(again, valid) {
			t.Errorf("%s became %v, and stored %v, %v", text, valid, again, err)
		}
	})
}
