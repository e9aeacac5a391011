package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
)

// postgresTool runs a program of PostgreSQL's.
func postgresTool(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	tools, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(tools) == 0 {
		t.Fatalf("there is no %s", name)
	}
	out, err := exec.Command(tools[len(tools)-1], args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = exit.Stderr
		}
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return out
}

// unknown gives what the cloud has of owners that are not among these, as the janitor's list has it.
func (f *fleet) unknown(owners []string) (things []string) {
	f.t.Helper()
	owned, err := f.cloud.Owned(context.Background(), "")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, r := range owned {
		if !slices.Contains(owners, r.GuestID) {
			things = append(things, r.Kind+" "+r.ID)
		}
	}
	return things
}

// janitor lets the janitor look, whatever it did last, and gives what `grove janitor` shows then.
func (f *fleet) janitor() (string, error) {
	if _, err := f.rows.Exec(`UPDATE leases SET done_at = 0 WHERE name = 'janitor'`); err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(bin, "grove"), "janitor", "--project", "admin")
	cmd.Env = append(os.Environ(), "GROVE_ENDPOINT="+f.caller(0).base)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("grove janitor: %w: %s", err, out)
	}
	return string(out), nil
}

// awaitFindings waits until the janitor shows all of that.
func (f *fleet) awaitFindings(problem string, things []string) {
	f.t.Helper()
	eventually(f.t, 2*time.Minute, func() error {
		shown, err := f.janitor()
		for _, thing := range things {
			kind, id, _ := strings.Cut(thing, " ")
			if err == nil && !slices.ContainsFunc(strings.Split(shown, "\n"), func(line string) bool {
				return strings.Contains(line, problem) && strings.Contains(line, kind) && strings.Contains(line, id)
			}) {
				err = fmt.Errorf("%s %s is not among\n%s", problem, thing, shown)
			}
		}
		return err
	})
}

func (f *fleet) migrate(args ...string) {
	f.t.Helper()
	if out, err := exec.Command(filepath.Join(bin, "groved"), append([]string{"migrate", "--config", f.config}, args...)...).CombinedOutput(); err != nil {
		f.t.Fatalf("groved migrate %v: %v: %s", args, err, out)
	}
}

// restoreTo puts the database back to a backup as docs/install.md says, while no process of the control plane runs.
func (f *fleet) restoreTo(dump string) {
	f.t.Helper()
	processes := slices.Concat(f.apis, f.managers)
	for _, h := range processes {
		h.stop()
	}
	postgresTool(f.t, "pg_restore", "--dbname="+f.database.URL, "--clean", "--if-exists", dump)
	f.migrate("up")
	f.migrate("restored")
	for _, h := range processes {
		h.start()
	}
	f.publish()
}

// requireRoles: who was failed over since the backup serves on, and is not told to give up what it has unless somebody says so.
func (f *fleet) requireRoles(pair *instance) {
	f.t.Helper()
	eventually(f.t, 2*time.Minute, func() error {
		if op := pair.show().at("instance", "operation"); !strings.Contains(fmt.Sprint(op), "The command is of epoch") {
			return fmt.Errorf("a pair that was failed over since the backup: %v", op)
		}
		return nil
	})
	pair.set("later", pair.id)
	f.migrate("restored", "--roles", pair.id)
	pair.awaitProtection("protected")
	pair.requireValue("after", pair.id)
}

// TestRestoredDatabase: the database is restored from a backup while the cloud has moved on. What the rows know goes on serving
// and takes orders, what they do not know is shown, and nothing is deleted unless somebody says so (R30).
func TestRestoredDatabase(t *testing.T) {
	f := openFleet(t, fleetLease, localFleet()+"janitor: {age: 1s}\nguests: {heartbeat: 1s}\n")
	h := f.caller(0)
	kept, grown, gone, pair := h.create("kept"), h.create("grown"), h.create("gone"), h.create("pair", async())
	for _, in := range []*instance{kept, grown, gone, pair} {
		in.await("ACTIVE", "HEALTHY")
		in.set("before", in.id)
	}
	pair.awaitProtection("protected")
	dump := filepath.Join(t.TempDir(), "grove.dump")
	postgresTool(t, "pg_dump", "--format=custom", "--file="+dump, f.database.URL)
	owners, err := f.list(`SELECT id FROM guests UNION SELECT id FROM instances UNION SELECT id FROM instance_groups`)
	if err != nil {
		t.Fatal(err)
	}
	ofGone, err := f.list(`SELECT 'server ' || server_id FROM guests WHERE instance_id = '` + gone.id + `'
		UNION SELECT 'volume ' || volume_id FROM guests WHERE instance_id = '` + gone.id + `'`)
	if err != nil {
		t.Fatal(err)
	}

	made := h.createActive("made")
	made.set("after", made.id)
	afterwards := made.redis()
	h.do(202, "DELETE", "/instances/"+gone.id, nil)
	gone.awaitGone()
	grown.action(object{"resize": object{"volume": object{"size": 2}}})
	grown.awaitIdle()
	kept.set("after", kept.id)
	pair.action(object{"failover": object{}})
	pair.awaitFailovers(1)
	pair.awaitProtection("protected")
	pair.set("after", pair.id)
	unknown := f.unknown(owners)
	if !slices.ContainsFunc(unknown, func(r string) bool { return strings.HasPrefix(r, cloud.KindVolume) }) {
		t.Fatalf("of what was made after the backup the cloud has %v", unknown)
	}
	f.restoreTo(dump)
	h = f.caller(0)
	for _, in := range []*instance{kept, grown, gone, pair, made} {
		in.h = h
	}

	for _, in := range []*instance{kept, grown} {
		in.await("ACTIVE", "HEALTHY")
		in.requireValue("before", in.id)
	}
	kept.requireValue("after", kept.id)
	pair.requireValue("before", pair.id)
	pair.requireValue("after", pair.id)
	if soaking() { // the first order comes a minute later
		f.requireRoles(pair)
	}
	f.awaitFindings("orphan", unknown)
	f.awaitFindings("missing", ofGone)
	// Orders are obeyed.
	kept.action(object{"restart": object{}})
	kept.awaitIdle()
	kept.await("ACTIVE", "HEALTHY")
	kept.requireValue("after", kept.id)
	grown.action(object{"resize": object{"volume": object{"size": 2}}})
	grown.awaitIdle()
	grown.await("ACTIVE", "HEALTHY")
	grown.requireValue("before", grown.id)
	h.do(202, "DELETE", "/instances/"+gone.id, nil)
	gone.awaitGone()
	h.createActive("next").set("k", "v")

	if still := f.unknown(owners); len(without(unknown, still)) > 0 {
		t.Errorf("nobody asked for it, and it was deleted: %v", without(unknown, still))
	}
	if got, err := afterwards.Get(t.Context(), "after").Result(); err != nil || got != made.id {
		t.Errorf("a database of after the backup gives %q, %v", got, err)
	}
}
