package redis

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func TestValuesThatTenantsMaySet(t *testing.T) {
	m := manifest()
	small := datastore.Sizing{FlavorRAM: 512, VolumeSize: 1}
	ceiling := sizing(small).ceiling
	for _, c := range []struct {
		name  string
		value any
		fault string // "" is fine
	}{
		{"hz", 15, ""},
		{"hz", 600, "between 1 and 100"},
		{"databases", 24, ""},
		{"databases", -1, "between 1 and 256"},
		{"databases", "text", "integer"},
		{"MaxMemory-Policy", "allkeys-lru", ""},
		{"maxmemory-policy", "lru", "one of volatile-lru"},
		{"maxmemory", ceiling, ""},
		{"maxmemory", "200mb", ""},
		{"maxmemory", ceiling + 1, "on this flavor (512 MB)"},
		{"maxmemory", ceiling / 4, "on this flavor (512 MB)"},
		{"maxmemory", 0, "at least 1mb"},
		{"maxclients", 10, "between 50 and"},
		{"maxclients", 10000, ""},
		{"maxclients", 20000, "on this flavor (512 MB)"},
		{"timeout", 0, ""},
		{"timeout", 9, "at least 10 seconds"},
		{"timeout", 300, ""},
		{"tcp-keepalive", 29, "between 30 and 600"},
		{"slowlog-log-slower-than", -1, ""},
		{"slowlog-log-slower-than", 99, "at least 100"},
		{"slowlog-max-len", 20001, "between 0 and 20000"},
		{"proto-max-bulk-len", "2gb", "between 1mb and 1gb"},
		{"appendfsync", "always", ""},
		{"appendfsync", "no", "a crash loses"},
		{"appendonly", false, "it comes with the instance's plan|the persistence mode is part of the plan"},
		{"save", "900 1", "the persistence mode"},
		{"notify-keyspace-events", "AKE", ""},
		{"notify-keyspace-events", "Q", "letters"},
		{"client-output-buffer-limit", "pubsub 32mb 8mb 60", ""},
		{"client-output-buffer-limit", "normal 0 0 0 pubsub 1mb 1mb 1", ""},
		{"client-output-buffer-limit", "replica 0 0 0", "belongs to the plan"},
		{"client-output-buffer-limit", "slave 0 0 0", "belongs to the plan"},
		{"client-output-buffer-limit", "normal 1gb 0 0", "on this flavor"},
		{"client-output-buffer-limit", "normal 1mb 1mb", "four words"},
		{"client-output-buffer-limit", "other 1mb 1mb 1", "no class"},
		{"maxmemory-clients", "10%", ""},
		{"maxmemory-clients", "64mb", ""},
		{"maxmemory-clients", 67108864, ""},
		{"maxmemory-clients", "0", "at least 1mb"},
		{"maxmemory-clients", "-10", "at least 1mb"},
		{"maxmemory-clients", "90%", "50%"},
		{"latency-tracking-info-percentiles", "50 99.9", ""},
		{"latency-tracking-info-percentiles", "101", "0 to 100"},
		{"hash-max-ziplist-entries", 5, ""},
		{"lua-time-limit", 5000, ""},
		{"requirepass", "s3cret", ""},
		{"requirepass", "", "never without a password"},
		{"requirepass", 5, `Parameter "requirepass" must be a string without control characters.`},
		{"dir", "/", "Grove needs it"},
		{"rename-command", "CONFIG x", "Grove needs it"},
		{"masterauth", "x", "Grove needs it"},
		{"maxmemory-polcy", "noeviction", `Did you mean "maxmemory-policy"?`},
		{"set-max-listpack-entries", 5, "has no configuration parameter"},
	} {
		_, err := m.Validate(redis70, map[string]any{c.name: c.value}, small)
		switch message := dbaas.ErrorMessage(err); {
		case c.fault == "" && err != nil:
			t.Errorf("%s = %v was refused: %s", c.name, c.value, message)
		case c.fault != "" && (dbaas.ErrorCode(err) != dbaas.Unprocessable || !containsAny(message, strings.Split(c.fault, "|"))):
			t.Errorf("%s = %v gave %q; want %q", c.name, c.value, message, c.fault)
		}
	}
	if _, err := m.Validate(valkey80, map[string]any{"set-max-listpack-entries": 5}, small); err != nil {
		t.Error(err)
	}
}

func containsAny(text string, parts []string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// TestEveryParameterIsTheServers compares the manifest with the servers: each parameter that the manifest says a
// version knows at run time is one that the server has, and there is none that the manifest does not know.
func TestEveryParameterIsTheServers(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureSettings)
		g := up(t, version)
		running, err := g.admin(t).configGet(t.Context(), "*")
		if err != nil {
			t.Fatal(err)
		}
		m := manifest()
		for name := range running {
			if _, ok := m.Parameter(version, name); !ok {
				t.Errorf("the server has a parameter %s that the manifest does not know", name)
			}
		}
		hidden := map[string]bool{}
		for _, r := range fileOnly() {
			hidden[r.Name] = true
		}
		for i := range m.Parameters {
			p := &m.Parameters[i]
			if p.KnownTo(version) && !hidden[p.Name] {
				if _, ok := running[p.Name]; !ok {
					t.Errorf("the server has no parameter %s", p.Name)
				}
			}
		}
	})
}

// TestEveryTenantParameterIsTaken sets each parameter that a tenant may set to the ends of its range, live or in the
// file, so that no value that we take is refused by the server.
func TestEveryTenantParameterIsTaken(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version string) {
		shows(t, version, featureSettings)
		g := up(t, version)
		m := manifest()
		for i := range m.Parameters {
			p := &m.Parameters[i]
			if p.Who != datastore.WhoTenant || !p.KnownTo(version) || p.Secret || p.Name == "activedefrag" {
				continue
			}
			for _, value := range extremes(p) {
				d := g.desired
				d.Values = map[string]any{p.Name: value}
				if _, err := m.Validate(version, d.Values, datastore.Sizing{FlavorRAM: d.FlavorRAM}); err != nil {
					continue // a Check narrows it
				}
				applied, err := g.Configure(t.Context(), d)
				if err != nil {
					t.Errorf("%s = %v: %v", p.Name, value, err)
				}
				if len(applied.Effective) > 0 && p.Name != "maxclients" { // which depends on the machine's limits
					t.Errorf("%s = %v: the server made it %v", p.Name, value, applied.Effective)
				}
				if p.Restart != (len(applied.RestartRequired) == 1) {
					t.Errorf("%s = %v requires a restart: %v; want %v", p.Name, value, applied.RestartRequired, p.Restart)
				}
			}
		}
	})
}

// extremes gives values of a parameter that differ from the template's.
func extremes(p *datastore.Parameter) []any {
	switch {
	case p.Type == datastore.TypeBoolean:
		return []any{true, false}
	case p.Values != nil:
		var list []any
		for _, v := range p.Values {
			list = append(list, v)
		}
		return list
	case p.Type == datastore.TypeInteger:
		list := []any{*p.Max, *p.Min}
		if p.Restart {
			return list // neither is the template's
		}
		return append(list, *p.Min+1)
	}
	return nil
}

func TestSizing(t *testing.T) {
	for _, c := range []struct {
		ram      int
		ceiling  int64 // MiB
		unit     int64
		fraction float64
	}{
		{256, 125, 192, 0.48}, {512, 251, 384, 0.49}, {1024, 502, 768, 0.49}, {2048, 1157, 1748, 0.56}, {4096, 2528, 3796, 0.61},
		{8192, 5193, 7782, 0.63}, {32768, 21321, 31129, 0.65},
	} {
		m := sizing(datastore.Sizing{FlavorRAM: c.ram})
		if m.ceiling != c.ceiling*mib || m.unit/mib != c.unit {
			t.Errorf("a flavor of %d MB has maxmemory %d MiB in %d MiB; want %d in %d", c.ram, m.ceiling/mib, m.unit/mib, c.ceiling, c.unit)
		}
		if f := float64(m.ceiling) / mib / float64(c.ram); f < c.fraction-0.01 || f > c.fraction+0.01 {
			t.Errorf("a flavor of %d MB gives %.3f of it to data; want %.2f", c.ram, f, c.fraction)
		}
		if all := m.ceiling*14/10 + m.backlog; all > m.unit {
			t.Errorf("a flavor of %d MB needs %d and has %d", c.ram, all, m.unit)
		}
	}
}

// TestRender compares configuration files with those in testdata; GROVE_GOLDEN=write writes them anew.
func TestRender(t *testing.T) {
	for _, c := range []struct {
		file    string
		desired datastore.Desired
	}{
		{"plain-7.0.conf", datastore.Desired{Version: redis70, FlavorRAM: 512, VolumeSize: 1}},
		{"plain-valkey-8.0.conf", datastore.Desired{Version: valkey80, FlavorRAM: 2048, VolumeSize: 5}},
		{"tuned-7.0.conf", datastore.Desired{Version: redis70, FlavorRAM: 4096, VolumeSize: 20, Values: map[string]any{
			"maxmemory-policy": "allkeys-lru", "timeout": "300", "databases": 24.0, "lazyfree-lazy-expire": "no", "maxmemory": "2gb",
			"client-output-buffer-limit": "pubsub 16mb 4mb 30", "notify-keyspace-events": "AKE", "requirepass": "not shown",
		}}},
	} {
		c.desired.Address = "10.0.0.5"
		p, err := newPlan(c.desired)
		if err != nil {
			t.Fatal(err)
		}
		g := &Guest{dir: `/srv/the "agent"/redis`, data: "/srv/data/redis"}
		got := p.render(g.owned(&record{Desired: c.desired}))
		path := filepath.Join("testdata", c.file)
		if os.Getenv("GROVE_GOLDEN") == "write" {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || string(got) != string(want) {
			t.Errorf("%s differs (%v):\n%s", path, err, got)
		}
	}
}

func TestRefusedConfiguration(t *testing.T) {
	const output = "1:C 22 Nov 2026 # oO0OoO0OoO0Oo Redis is starting\n\n*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\n" +
		"Reading the configuration file, at line 8\n>>> 'activedefrag yes'\nActive defragmentation cannot be enabled\n"
	if got := refusedConfiguration(output); got != "'activedefrag yes': Active defragmentation cannot be enabled" {
		t.Errorf("got %q", got)
	}
	if got := refusedConfiguration("Ready to accept connections"); got != "" {
		t.Errorf("got %q", got)
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add("# Server\r\nredis_version:7.0.15\r\nloading:0\r\ndb0:keys=3,expires=0,avg_ttl=0\r\n")
	f.Add("db0:keys=\r\ndb:keys=5\ndbx:1")
	f.Fuzz(func(t *testing.T, text string) {
		i := parseInfo(text)
		metrics(i)
		observed(i, nil, nil)
		refusedConfiguration(text)
	})
}

func FuzzOutputLimits(f *testing.F) {
	f.Add("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60")
	f.Fuzz(func(t *testing.T, text string) {
		limits, err := parseOutputLimits(text)
		if err != nil {
			return
		}
		var again []string
		for class, l := range limits {
			again = append(again, class+" "+l.String())
		}
		back, err := parseOutputLimits(strings.Join(again, " "))
		if err != nil || fmt.Sprint(back) != fmt.Sprint(limits) {
			t.Errorf("%q is %v and becomes %v, %v", text, limits, back, err)
		}
	})
}
