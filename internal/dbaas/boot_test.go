package dbaas

import "testing"

func TestBootedBefore(t *testing.T) {
	for _, c := range []struct {
		boot, other string
		want        bool
	}{
		{BootID(9, "z"), BootID(10, "a"), true},
		{BootID(10, "a"), BootID(9, "z"), false},
		{BootID(3, "a"), BootID(3, "b"), false}, // a counter that could not be saved
		{"", BootID(1, "a"), false},
		{BootID(1, "a"), "", false},
		{"617b7386-9217", BootID(10_000_000, "a"), false},
		{"x.y", BootID(1, "a"), false},
	} {
		if got := BootedBefore(c.boot, c.other); got != c.want {
			t.Errorf("%q before %q: %t", c.boot, c.other, got)
		}
	}
}
