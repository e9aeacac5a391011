package redis

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/host"
)

var update = flag.Bool("update", false, "write what the tests have shown of the versions into docs/datastores/redis.md")

// everywhere lists the versions that `make test` installs; the others are tried where REDIS_BINS, a list of directories
// as in $PATH, has them.
var everywhere = []string{redis70, valkey80}

// The features of the table. Each is shown of a version by the tests that say so (shows), all of them.
const (
	featureLife       = "create, stop, start, restart, crash, damaged and foreign files"
	featureSettings   = "configuration live and at a restart; every parameter known, with its range"
	featureAccount    = "account, password, and what tenants may do"
	featureUsers      = "users by ACL"
	featureFiles      = "persistence `aof`, `rdb`, `none`, changed while it runs"
	featureDisk       = "a full volume: writes refused, reads served; grown, writes again"
	featureResize     = "another flavor, live"
	featureProfiles   = "profiles"
	featureDrift      = "drift shown"
	featureReplicas   = "replicas; their secret rotated"
	featurePromotion  = "planned promotion without a lost write"
	featureFailover   = "failover: a replica takes over, the old master follows"
	featureDurability = "bounded durability"
	featureTLS        = "TLS: modes changed while clients stay, replication"
	featureCluster    = "cluster: create, users' passwords, restart"
	featureMoves      = "cluster: grow and shrink while it is written to"
	featureHealing    = "cluster: moves that were cut off are healed"
	featureTLSCluster = "cluster: TLS alone, bus included"
	featureUpgrade    = "upgrade, data kept, from"
	// featureMixed: members of both versions serve together, and data go from the older to the newer.
	featureMixed = "cluster: upgrade member by member, from"
)

func features() []string {
	return []string{featureLife, featureSettings, featureAccount, featureUsers, featureFiles, featureDisk, featureResize, featureProfiles,
		featureDrift, featureReplicas, featurePromotion, featureFailover, featureDurability, featureTLS, featureCluster, featureMoves,
		featureHealing, featureTLSCluster, featureUpgrade, featureMixed}
}

// numbers gives the installed versions and the numbers that their programs report.
var numbers = sync.OnceValue(func() map[string]string {
	found := map[string]string{}
	for _, v := range versions() {
		if _, number, err := v.Program(context.Background(), host.Programs(nil, v.Binary)); err == nil {
			found[v.Name] = number
		}
	}
	return found
})

// eachVersion runs a test for each version whose program is installed.
func eachVersion(t *testing.T, test func(t *testing.T, version string)) {
	t.Helper()
	for _, v := range versions() {
		if numbers()[v.Name] == "" && !slices.Contains(everywhere, v.Name) {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			requireVersions(t, v.Name)
			test(t, v.Name)
		})
	}
}

func requireVersions(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if numbers()[name] == "" {
			t.Skipf("the server of version %s is not installed", name)
		}
	}
}

// takesMinutes leaves a test to `make crash` on all versions but the default one, and to who brings versions along.
func takesMinutes(t *testing.T, version string) {
	t.Helper()
	if version != redis70 && os.Getenv("GROVE_CRASH") == "" && os.Getenv("REDIS_BINS") == "" {
		t.Skip("it takes minutes: make crash")
	}
}

// shown is what the tests of this run have shown: feature, version, how.
var shown struct {
	sync.Mutex
	cells map[string]map[string][]string
}

// shows says that a test, when it passes, shows features of a version.
func shows(t *testing.T, version string, features ...string) {
	t.Cleanup(func() {
		how := "yes"
		if t.Skipped() {
			how = skipped // a machine may lack what a test needs
		}
		for _, f := range features {
			if !t.Failed() {
				note(f, version, how)
			}
		}
	})
}

func note(feature, version, how string) {
	shown.Lock()
	defer shown.Unlock()
	if shown.cells == nil {
		shown.cells = map[string]map[string][]string{}
	}
	if shown.cells[feature] == nil {
		shown.cells[feature] = map[string][]string{}
	}
	if !slices.Contains(shown.cells[feature][version], how) {
		shown.cells[feature][version] = append(shown.cells[feature][version], how)
	}
}

// TestMain tries also the versions of REDIS_BINS and, when every test has run and passed, compares the table of versions
// with what they have shown.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := addPrograms(os.Getenv("REDIS_BINS")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	code := m.Run()
	if code == 0 && flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.list").Value.String() == "" {
		if err := checkTable("../../docs/datastores/redis.md"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// addPrograms puts directories with programs before those of $PATH.
func addPrograms(bins string) error {
	for _, dir := range filepath.SplitList(bins) {
		isVersion := func(v datastore.Version) bool {
			_, _, err := v.Program(context.Background(), []string{filepath.Join(dir, v.Binary)})
			return err == nil
		}
		if !slices.ContainsFunc(versions(), isVersion) {
			return fmt.Errorf("REDIS_BINS: no server in %s is of a version that Grove drives", dir)
		}
	}
	if bins == "" {
		return nil
	}
	return os.Setenv("PATH", bins+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

const (
	tableBegin = "<!-- written by the tests: go test ./datastore/redis -update -->\n"
	tableEnd   = "<!-- end -->\n"
	untested   = "untested"
	skipped    = "skipped"
)

// checkTable compares the page's columns of the versions that were tried with what was shown, or writes them.
func checkTable(page string) error {
	b, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(b), tableBegin)
	old, after, ended := strings.Cut(rest, tableEnd)
	if !found || !ended {
		return fmt.Errorf("%s has no place for the table of versions", page)
	}
	next := table(old)
	if *update {
		return os.WriteFile(page, []byte(before+tableBegin+next+tableEnd+after), 0o644)
	}
	if next != old {
		return fmt.Errorf("%s is not what the tests have shown (go test ./datastore/redis -update writes it):\n%s", page, next)
	}
	return nil
}

// table writes the table anew: the columns of the versions that were tried as the tests have shown them, the others as
// they were.
func table(old string) string {
	was := cellsOf(old)
	var b strings.Builder
	row := func(name string, cell func(version string) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, v := range versions() {
			fmt.Fprintf(&b, " %s |", cell(v.Name))
		}
		b.WriteString("\n")
	}
	row("", func(version string) string { return version })
	row("---", func(string) string { return "---" })
	row("tried with", func(version string) string {
		number := numbers()[version]
		if was := was["tried with"][version]; number == "" || was != "" && was != untested && !*update {
			return was
		}
		return number
	})
	for _, f := range features() {
		row(f, func(version string) string {
			how := slices.Clone(shown.cells[f][version])
			here := numbers()[version] != "" && !slices.Contains(how, skipped)
			how = slices.DeleteFunc(how, func(h string) bool { return h == skipped })
			for before := range strings.SplitSeq(was[f][version], ", ") {
				if stands(here, before) && !slices.Contains(how, before) {
					how = append(how, before)
				}
			}
			if len(how) == 0 {
				return untested
			}
			slices.Sort(how)
			return strings.Join(how, ", ")
		})
	}
	return b.String()
}

// stands tells whether what was shown before is kept, for this run could not show it: not here, or not from that version.
func stands(here bool, how string) bool {
	if how == "" || how == untested {
		return false
	}
	_, from := manifest().Version(how)
	return !here || from && numbers()[how] == ""
}

// cellsOf reads a table: by the rows' names, then the columns'.
func cellsOf(table string) map[string]map[string]string {
	cells := map[string]map[string]string{}
	var columns []string
	for line := range strings.Lines(table) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		if len(fields) < 3 {
			continue
		}
		if columns == nil {
			columns = fields
			continue
		}
		cells[fields[1]] = map[string]string{}
		for i := 2; i < min(len(fields), len(columns))-1; i++ {
			cells[fields[1]][columns[i]] = fields[i]
		}
	}
	return cells
}

// TestTableKeepsWhatWasNotTried: a run takes nothing back that it could not try.
func TestTableKeepsWhatWasNotTried(t *testing.T) {
	cells := cellsOf("| | a | b |\n| --- | --- | --- |\n| x | yes | untested |\n")
	if cells["x"]["a"] != "yes" || cells["x"]["b"] != untested {
		t.Errorf("the table is read as %v", cells)
	}
	for _, c := range []struct {
		here bool
		how  string
		want bool
	}{{true, "yes", false}, {false, "yes", true}, {true, untested, false}, {false, "", false}, {true, redis70, numbers()[redis70] == ""}} {
		if stands(c.here, c.how) != c.want {
			t.Errorf("here %v, %q: %v", c.here, c.how, !c.want)
		}
	}
}
