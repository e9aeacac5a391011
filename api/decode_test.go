package api

import (
	"encoding/json"
	"io"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func TestOptionalKnowsAbsentNullAndValue(t *testing.T) {
	for body, want := range map[string]wire.Optional[wire.Ref]{
		`{"instance": {}}`:                       {},
		`{"instance": {"configuration": null}}`:  wire.Null[wire.Ref](),
		`{"instance": {"configuration": "c0"}}`:  wire.Some[wire.Ref]("c0"),
		`{"instance": {"configuration": "a/b"}}`: wire.Some[wire.Ref]("a/b"),
	} {
		var got wire.PutInstanceRequest
		if _, err := decodeBody([]byte(body), &got); err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if got.Instance.Configuration != want {
			t.Errorf("%s: %+v, want %+v", body, got.Instance.Configuration, want)
		}
		back, err := json.Marshal(got)
		if err != nil || string(back) != strings.ReplaceAll(body, " ", "") {
			t.Errorf("%s is written back as %s (%v)", body, back, err)
		}
	}
}

func TestNesting(t *testing.T) {
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if err := requireShallow(nested(maxDepth)); err != nil {
		t.Error(err)
	}
	if err := requireShallow(nested(maxDepth + 1)); err == nil {
		t.Error("one level too many is accepted")
	}
	if err := requireShallow([]byte(`{"a": "\\\"[[[[[[[[[[[[[[[[[[[[[[[["}`)); err != nil {
		t.Errorf("brackets in a string count: %v", err)
	}
}

func TestNearestKey(t *testing.T) {
	known := knownKeys(reflect.TypeFor[wire.CreateInstance]())
	for key, want := range map[string]string{
		"flavor": "flavorRef", "flavorref": "flavorRef", "flavour_ref": "flavorRef", "nmae": "name", "volumes": "volume", "zzzzzz": "",
		"deletion-protection": "deletion_protection", "restorepoint": "restorePoint", strings.Repeat("x", 100): "",
	} {
		if want != "" {
			want = "; did you mean " + want + "?"
		}
		if got := didYouMean(key, known); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

// FuzzBodies holds for every route's decoder: it does not panic, and what it refuses is the client's mistake.
func FuzzBodies(f *testing.F) {
	s := &Server{Config: Config{}}
	routes := bodyRoutes(s)
	for i := range routes {
		for _, seed := range []string{createBody("a"), `{"instance": {"configuration": null}}`, `{"resize": {"volume": {"size": "8"}}}`,
			`{"configuration": {"name": "g", "values": {"hz": 1e9, "a": [true, null]}}}`, `{"quotas": {"ram": "-1"}}`, `{"password": "\ud800"}`,
			`{"instance": {"nics": [{"net-id": {}}]}}`, `{}`, `[]`, `{"a":`, "{\"\x00\": 1}"} {
			f.Add(uint8(i), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		rt := routes[int(which)%len(routes)]
		r := httptest.NewRequest(rt.method, "/", strings.NewReader(string(body)))
		read, err := readBody(r)
		if err == nil && len(read) > 0 {
			err = rt.handle.decode(read)
		}
		if err != nil && statusOf(dbaas.ErrorCode(err)) >= 500 {
			t.Errorf("%s %s: %v", rt.method, rt.path, err)
		}
	})
}

func bodyRoutes(s *Server) (withBodies []route) {
	for _, rt := range s.routes() {
		if rt.handle.body {
			withBodies = append(withBodies, rt)
		}
	}
	return withBodies
}

// FuzzCreateInstance follows a wish for an instance to where it leaves the API.
func FuzzCreateInstance(f *testing.F) {
	f.Add([]byte(createBody("a")))
	f.Add([]byte(`{"instance": {"name": "i", "flavorRef": "a/b/", "volume": {"size": "1"}, "nics": [{"net-id": "n", "subnet_id": "x", "ip_address": "1.2.3.4"}]}}`))
	f.Add([]byte(`{"instance": {"name": "i", "flavorRef": 1, "volume": {"size": 1}, "access": {"allowed_cidrs": ["::/0", "1.2.3.4"]}, "users": [ ]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var request wire.CreateInstanceRequest
		if _, err := decodeBody(body, &request); err != nil {
			return
		}
		wish, err := instanceWish(request.Instance)
		if err != nil {
			if code := dbaas.ErrorCode(err); code != dbaas.BadRequest && code != dbaas.NotImplemented {
				t.Errorf("%v", err)
			}
			return
		}
		if wish.Name == "" || len([]rune(wish.Name)) > maxName || wish.FlavorID == "" || wish.VolumeSize < 1 || wish.Access.AllowedCIDRs == nil {
			t.Errorf("%s passes as %+v", body, wish)
		}
	})
}

// FuzzQueries sends any path and query to every kind of request: never a 5xx but 501 and 503.
func FuzzQueries(f *testing.F) {
	h := newHouse(f)
	h.log.mute()
	f.Add("/instances?limit=2&marker=x")
	f.Add("/instances/%2e%2e/users/a%40b%25")
	f.Add("/operations?resource_id=%00&status=running")
	f.Add("/datastores/versions/%zz")
	f.Fuzz(func(t *testing.T, path string) {
		r := httptest.NewRequest("GET", "/v1.0/demo/", nil)
		before, query, _ := strings.Cut(path, "?")
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = "/v1.0/demo"+before, "", query
		w := httptest.NewRecorder()
		h.server.ServeHTTP(w, r)
		body, _ := io.ReadAll(w.Body)
		if w.Code >= 500 && w.Code != 501 && w.Code != 503 {
			t.Errorf("GET %q → %d %s", path, w.Code, body)
		}
	})
}
