package redis

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// docs/tuning.md has every value that is not the server's own default.
func TestTuningPageHasTheTemplate(t *testing.T) {
	t.Parallel()
	server := redis.NewClient(&redis.Options{Addr: testbed.RedisServer(t, "redis-server"), DisableIdentity: true})
	t.Cleanup(func() { _ = server.Close() })
	running, err := server.ConfigGet(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	page, size, bySize := tuningPage(t), datastore.Sizing{FlavorRAM: 1024}, map[string]any{}
	sizing(size).apply(bySize)
	template := settings{}
	for name, value := range defaults(redis70, size) {
		template[name] = asText(value)
	}
	live, restart := difference(redis70, template, running)
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(live)), restart) {
		want := "`" + name + " " + template[name] + "`"
		if _, ok := bySize[name]; ok {
			want = "| `" + name // and its formula
		} else if strings.HasPrefix(name, "lazyfree-lazy-") {
			want = "`lazyfree-lazy-* " + template[name] + "`"
		}
		if !strings.Contains(page, want) {
			t.Errorf("docs/tuning.md lacks %s", want)
		}
	}
}

// docs/tuning.md has each profile's values and no others, and each setting of the operating system.
func TestTuningPageHasProfilesAndSettings(t *testing.T) {
	page := tuningPage(t)
	for _, p := range profiles() {
		var values []string
		for _, name := range slices.Sorted(maps.Keys(p.values)) {
			values = append(values, "`"+name+" "+asText(p.values[name])+"`")
		}
		if got, want := cell(page, p.Name, 2), strings.Join(values, ", "); got != want {
			t.Errorf("docs/tuning.md, profile %s: %s, want %s", p.Name, got, want)
		}
	}
	for _, s := range systemSettings() {
		name, ok := strings.CutPrefix(s.Path, "/proc/sys/")
		if ok {
			name = strings.ReplaceAll(name, "/", ".")
		} else {
			name = strings.TrimPrefix(name, "/sys/kernel/mm/")
		}
		if got := cell(page, name, 1); !strings.HasPrefix(got, s.Want) {
			t.Errorf("docs/tuning.md, %s: %q, want %s", name, got, s.Want)
		}
	}
}

func tuningPage(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../../docs/tuning.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// cell gives the i-th column of the table's row whose first has the name.
func cell(page, name string, i int) string {
	for line := range strings.Lines(page) {
		if columns := strings.Split(strings.Trim(line, "| \n"), " | "); columns[0] == "`"+name+"`" && i < len(columns) {
			return columns[i]
		}
	}
	return ""
}
