package dbaas

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"maxmemory", "maxmemory-policy", "maxclients", "timeout", "hz", "appendonly"}
	for name, want := range map[string]string{
		"maxmemory":        "maxmemory",
		"MaxMemory":        "maxmemory",
		"maxmemry":         "maxmemory",
		"maxmemory-polcy":  "maxmemory-policy",
		"timeuot":          "timeout",
		"append_only":      "appendonly",
		"hx":               "hz",
		"h":                "hz",
		"":                 "",
		"nothing-of-these": "",
		"qwv":              "",
		"tls":              "",
		"tïmeout":          "timeout",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if got := Nearest("a", nil); got != "" {
		t.Errorf("of nothing %q is near", got)
	}
	if got := Nearest("ab", []string{"ac", "ad"}); got != "ac" {
		t.Errorf("of two that are as near it gave %q, not the first", got)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"same", "same", 0}} {
		if got, back := distance(c.a, c.b), distance(c.b, c.a); got != c.want || back != c.want {
			t.Errorf("%q to %q: %d, back %d, want %d", c.a, c.b, got, back, c.want)
		}
	}
}

func FuzzNearest(f *testing.F) {
	f.Add("maxmemry", "maxmemory")
	f.Fuzz(func(t *testing.T, name, known string) {
		if got := Nearest(name, []string{known}); got != "" && got != known {
			t.Errorf("%q is not among the known", got)
		}
		if distance(name, known) != distance(known, name) {
			t.Errorf("%q and %q are not as far from each other as back", name, known)
		}
	})
}
