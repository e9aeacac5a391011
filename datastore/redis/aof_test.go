package redis

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func respSet(key, value string) string {
	return fmt.Sprintf("*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, len(value), value)
}

func TestAnnotations(t *testing.T) {
	t.Parallel()
	for n := 2; n < 1500; n++ {
		b := annotations(n)
		if len(b) != n || b[n-1] != '\n' {
			t.Fatalf("%d bytes are %d: %q", n, len(b), b)
		}
		for line := range bytes.Lines(b) {
			if line[0] != '#' || len(line) > annotationLine || n > 2 && !bytes.HasSuffix(line, []byte("\r\n")) {
				t.Fatalf("%d bytes have the line %q", n, line)
			}
		}
	}
}

// TestMendFile compares files before and after: only zeros between commands change.
func TestMendFile(t *testing.T) {
	t.Parallel()
	a, b := respSet("a", "1\x00\x00\r\n\x00\x00\x00*1"), respSet("b", strings.Repeat("\x00", 3000))
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	fill := func(n int) string { return string(annotations(n)) }
	for name, c := range map[string]struct{ before, after string }{
		"empty":              {"", ""},
		"no hole":            {a + b, a + b},
		"hole":               {a + zeros(500) + b, a + fill(500) + b},
		"two bytes":          {a + zeros(2) + b, a + fill(2) + b},
		"one byte":           {a + zeros(1) + b, a + zeros(1) + b},
		"two holes":          {a + zeros(5) + b + zeros(200_000) + a, ""},
		"at the start":       {zeros(7) + a, fill(7) + a},
		"at the end":         {a + zeros(130), a + fill(130)},
		"before a half":      {a + zeros(130) + b[:len(b)-1000], a + fill(130) + b[:len(b)-1000]},
		"before half a line": {a + zeros(130) + "*3\r\n$", a + fill(130) + "*3\r\n$"},
		"half a command":     {a + b[:100], a + b[:100]},
		"annotations":        {"#TS:1\r\n" + a + "#\r\n" + zeros(9) + "#TS:2\r\n" + b, "#TS:1\r\n" + a + "#\r\n" + fill(9) + "#TS:2\r\n" + b},
		"half filled":        {a + fill(1000)[:300] + zeros(700) + b, a + fill(1000) + b},
		"filled before":      {a + zeros(300) + fill(1000)[300:] + b, a + fill(1000) + b},
		"filled":             {a + fill(1000) + b, a + fill(1000) + b},
		"within a command":   {a + "*3\r\n$3\r\n" + zeros(50) + b, "same"},
		"within a header":    {a + "*3" + zeros(50) + b, "same"},
		"damaged elsewhere":  {a + zeros(50) + b + "nonsense" + a, "same"},
		"before nonsense":    {a + zeros(50) + "$1\r\n", "same"},
		"snapshot":           {"REDIS0010" + zeros(50), "same"},
		"no words":           {"*0\r\n" + zeros(50), "same"},
		"value too long":     {"*1\r\n$2\r\nabc\r\n" + zeros(50) + a, "same"},
	} {
		path := filepath.Join(t.TempDir(), "aof")
		if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := mendFile(t.Context(), path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case c.after == "same":
			c.after = c.before
		case name == "two holes":
			c.after = string(got)
			rest := strings.ReplaceAll(strings.ReplaceAll(c.after, "#", ""), "\r\n", "")
			if len(got) != len(c.before) || rest != strings.ReplaceAll(a+b+a, "\r\n", "") {
				t.Errorf("%s: something else has changed", name)
			}
		}
		if string(got) != c.after {
			t.Errorf("%s: %q became %q, not %q", name, c.before, got, c.after)
		}
	}
}

// TestServerSkipsAnnotations has the real server load what was mended, with holes of many sizes.
func TestServerSkipsAnnotations(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		g := up(t, version)
		if err := g.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		files, _, err := incrementalFiles(filepath.Join(g.data, aofDir))
		if err != nil || len(files) != 1 {
			t.Fatalf("%v, %v", files, err)
		}
		var b bytes.Buffer
		keys := 0
		for n := 2; n < 1100; n++ {
			keys++
			b.WriteString(respSet(fmt.Sprint("k", keys), "v"))
			b.Write(make([]byte, n))
		}
		b.Write(make([]byte, 1<<20))
		b.WriteString(respSet("last", "v"))
		if err := os.WriteFile(files[0], b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := g.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		datastoretest.Await(t, g, dbaas.GuestHealthy)
		if n, err := g.tenant(t).DBSize(t.Context()).Result(); n != int64(keys)+1 {
			t.Errorf("%d keys of %d, %v", n, keys+1, err)
		}
	})
}

// TestMendOnFullDisk: without room for what a hole becomes, everything stays and the sentence says what to do.
func TestMendOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	grow := smallDisk(t, dir)
	path := filepath.Join(dir, "aof")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := f.WriteString(respSet("a", "1"))
	_, err2 := f.WriteAt([]byte(respSet("b", "2")), 1<<20)
	if err := errors.Join(err1, err2, f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 9<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	err = mendFile(t.Context(), path)
	if dbaas.ErrorCode(err) != dbaas.Unprocessable || !strings.Contains(dbaas.ErrorMessage(err), "full") {
		t.Errorf("the error is %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file has changed: %v", err)
	}
	grow()
	if err := mendFile(t.Context(), path); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(path); err != nil || bytes.IndexByte(after, 0) >= 0 || len(after) != len(before) {
		t.Errorf("the hole is there still: %v", err)
	}
}
