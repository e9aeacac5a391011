package taskmanager_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/cloud/cloudtest"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/inproc"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager"
)

// yard is what a janitor looks after: rows, a cloud and a broker, whose time is the test's.
type yard struct {
	file     string // of SQLite
	store    *store.Store
	cloud    *crowd
	accounts *inproc.Accounts
	clock    *clock.Manual
}

// crowd is a cloud with more in it than a double can hold.
type crowd struct {
	*cloudtest.Double
	more     []cloud.Resource
	deleting func(serverID string) // is called before a server is deleted
}

func (c *crowd) DeleteServer(ctx context.Context, id string) error {
	if c.deleting != nil {
		c.deleting(id)
	}
	return c.Double.DeleteServer(ctx, id)
}

func (c *crowd) Owned(ctx context.Context, ownerID string) ([]cloud.Resource, error) {
	all, err := c.Double.Owned(ctx, ownerID)
	if ownerID == "" {
		all = append(all, c.more...)
	}
	return all, err
}

// openYard has its rows in SQLite, whose time is the test's too; the manual clock does not reach PostgreSQL.
func openYard(t testing.TB, url string) *yard {
	t.Helper()
	dir := t.TempDir()
	keyring, err := secret.CreateKeyring(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	y := &yard{file: filepath.Join(dir, "grove.db"), cloud: &crowd{Double: cloudtest.NewDouble()}, accounts: &inproc.Accounts{}, clock: clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))}
	if url == "" {
		url = "sqlite://" + y.file
	}
	y.store, err = store.Open(context.Background(), store.Options{URL: url, Clock: y.clock, Keyring: keyring})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = y.store.Close() })
	if err := y.store.Migrate(context.Background()); err != nil {
		t.Fatal(err)
	}
	y.tx(t, func(tx *store.Tx) error {
		return errors.Join(tx.UpsertDatastore(&dbaas.Datastore{ID: "redis", Name: "redis"}),
			tx.UpsertVersion(&dbaas.DatastoreVersion{ID: "version", DatastoreID: "redis", Name: "7.0", Manager: "redis", Active: true}))
	})
	return y
}

func (y *yard) tx(t testing.TB, fn func(tx *store.Tx) error) {
	t.Helper()
	if err := y.store.Tx(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func (y *yard) janitor(t testing.TB, node string, j taskmanager.Janitor) *taskmanager.Manager {
	t.Helper()
	m, err := taskmanager.New(taskmanager.Config{
		Store: y.store, Cloud: y.cloud, Transport: inproc.New(inproc.Options{}).Control(), Accounts: y.accounts,
		Region: "RegionOne", Node: node, Workers: 1, Lease: time.Minute, Clock: y.clock, Logger: silent(), Janitor: j,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// pass lets time go by, and the janitor look.
func (y *yard) pass(t testing.TB, m *taskmanager.Manager, later time.Duration) {
	t.Helper()
	y.clock.Advance(later)
	if err := m.Tidy(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// plant makes in the cloud and at the broker all that an owner may have, and tells it: "kind id".
func (y *yard) plant(t testing.TB, guestID, instanceID, groupID string) *dbaas.Guest {
	t.Helper()
	ctx := context.Background()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	group, err := y.cloud.EnsureSecurityGroup(ctx, cloud.SecurityGroupSpec{GuestID: guestID, Name: guestID, TCPPorts: []int{6379}})
	check(err)
	port, err := y.cloud.EnsurePort(ctx, cloud.PortSpec{GuestID: guestID, Name: guestID, SecurityGroupID: group})
	check(err)
	volume, err := y.cloud.EnsureVolume(ctx, cloud.VolumeSpec{GuestID: guestID, Name: guestID, SizeGB: 1})
	check(err)
	rule, err := y.cloud.EnsureServerGroup(ctx, groupID, "anti-affinity")
	check(err)
	server, err := y.cloud.EnsureServer(ctx, cloud.ServerSpec{GuestID: guestID, Name: guestID, FlavorID: "1", Image: "image", PortID: port.ID, VolumeID: volume.ID, GroupID: rule})
	check(err)
	if instanceID != "" {
		_, err = y.cloud.EnsureAddress(ctx, cloud.AddressSpec{OwnerID: instanceID, Name: instanceID, TCPPorts: []int{6379}})
		check(err)
	}
	check(y.accounts.Ensure(ctx, rpc.Account{GuestID: guestID, Queue: guestID, Password: "secret"}))
	return &dbaas.Guest{ID: guestID, ServerID: server.ID, VolumeID: volume.ID, PortID: port.ID, Queue: guestID}
}

// live makes an instance with rows and all that these name.
func (y *yard) live(t testing.TB, n int) *dbaas.Instance {
	t.Helper()
	in := &dbaas.Instance{
		ID: fmt.Sprintf("instance-%d", n), ProjectID: "demo", GroupID: fmt.Sprintf("group-%d", n), Name: "db", DatastoreVersionID: "version",
		FlavorID: "1", VolumeSize: 1, Region: "RegionOne", Task: dbaas.TaskNone,
	}
	g := y.plant(t, fmt.Sprintf("guest-%d", n), in.ID, in.GroupID)
	g.InstanceID, g.GroupID, g.ProjectID = in.ID, in.GroupID, "demo"
	for _, r := range y.owned(t, in.ID) {
		in.AddressID = r.ID
	}
	y.tx(t, func(tx *store.Tx) error {
		if err := tx.InsertGroup(&dbaas.Group{ID: in.GroupID, ProjectID: "demo", Kind: dbaas.GroupSingle}); err != nil {
			return err
		}
		if err := tx.InsertInstance(in); err != nil {
			return err
		}
		return tx.InsertGuest(g)
	})
	return in
}

func (y *yard) owned(t testing.TB, owner string) []cloud.Resource {
	t.Helper()
	all, err := y.cloud.Owned(context.Background(), owner)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// findings are all that is reported, as "problem kind resource".
func (y *yard) findings(t testing.TB) (list []string) {
	t.Helper()
	all, _, err := y.store.ListFindings(context.Background(), 0, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		list = append(list, fmt.Sprint(f.Problem, " ", f.Kind, " ", f.ResourceID))
	}
	slices.Sort(list)
	return list
}

func requireFindings(t testing.TB, y *yard, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := y.findings(t); !slices.Equal(got, want) {
		t.Fatalf("found\n  %q\nplanted\n  %q", got, want)
	}
}

// planted is how what an owner has in the cloud is to be found.
func (y *yard) planted(t testing.TB, problem dbaas.Problem, owners ...string) (list []string) {
	t.Helper()
	for _, owner := range owners {
		for _, r := range y.owned(t, owner) {
			list = append(list, fmt.Sprint(problem, " ", r.Kind, " ", r.ID))
		}
	}
	return list
}

// TestJanitorFindsAll: an orphan of each kind and each kind of what is missing is found, when it is no longer young, and nothing
// else; what is found is not touched until somebody says so, and then nothing else is.
func TestJanitorFindsAll(t *testing.T) {
	t.Parallel()
	y := openYard(t, "")
	ctx := t.Context()
	for n := range 3 {
		y.live(t, n)
	}
	m := y.janitor(t, "one", taskmanager.Janitor{Age: time.Hour})
	y.plant(t, "lost-guest", "lost-instance", "lost-group")
	orphans := append(y.planted(t, dbaas.ProblemOrphan, "lost-guest", "lost-instance", "lost-group"), "orphan broker_account lost-guest")
	if len(orphans) != 7 {
		t.Fatalf("planted %q", orphans)
	}
	y.pass(t, m, 0)
	y.pass(t, m, 59*time.Minute)
	requireFindings(t, y) // it is young
	y.pass(t, m, time.Minute)
	requireFindings(t, y, orphans...)

	gone := y.live(t, 3)
	var missing []string
	for _, r := range append(y.owned(t, "guest-3"), y.owned(t, gone.ID)...) {
		remove := map[string]func(context.Context, string) error{cloud.KindServer: y.cloud.DeleteServer, cloud.KindVolume: y.cloud.DeleteVolume,
			cloud.KindPort: y.cloud.DeletePort, cloud.KindAddress: y.cloud.DeleteAddress}[r.Kind]
		if remove == nil {
			continue // rows do not name it
		}
		missing = append(missing, "missing "+r.Kind+" "+r.ID)
		if r.Kind == cloud.KindServer {
			must(t, y.cloud.PowerOffServer(ctx, r.ID))
		}
		must(t, remove(ctx, r.ID))
	}
	if len(missing) != 4 {
		t.Fatalf("removed %q", missing)
	}
	y.pass(t, m, 0)
	requireFindings(t, y, orphans...)
	y.pass(t, m, time.Hour)
	requireFindings(t, y, append(missing, orphans...)...)

	before := len(y.owned(t, ""))
	y.pass(t, m, time.Hour)
	if after := len(y.owned(t, "")); after != before {
		t.Fatalf("of %d resources %d are left, and nobody wanted any deleted", before, after)
	}
	y.tx(t, func(tx *store.Tx) error {
		n, err := tx.WishOrphansDeleted("operator")
		if n != len(orphans) {
			t.Errorf("%d are to be deleted", n)
		}
		return err
	})
	for range 3 {
		y.pass(t, m, time.Minute)
	}
	requireFindings(t, y, missing...)
	accounts, err := y.accounts.List(ctx)
	must(t, err)
	if !slices.Equal(accounts, []string{"guest-0", "guest-1", "guest-2", "guest-3"}) {
		t.Errorf("accounts %q", accounts)
	}
	if left := len(y.owned(t, "")); left != before-6 {
		t.Errorf("of %d resources %d are left", before, left)
	}
}

// TestJanitorLeavesAlone: nothing is told of what an operation is at work on, of what was recorded meanwhile, nor of what only
// looks like one too many.
func TestJanitorLeavesAlone(t *testing.T) {
	t.Parallel()
	y := openYard(t, "")
	ctx := t.Context()
	m := y.janitor(t, "one", taskmanager.Janitor{Age: time.Hour, Delete: true})
	// A server that is gone, of an instance that is being worked on.
	busy := y.live(t, 0)
	for _, r := range y.owned(t, "guest-0") {
		if r.Kind == cloud.KindServer {
			must(t, y.cloud.DeleteServer(ctx, r.ID))
		}
	}
	op := &dbaas.Operation{Kind: "restart_instance", ProjectID: "demo", ResourceType: "instance", ResourceID: busy.ID, GroupID: busy.GroupID, Status: dbaas.OperationRunning}
	y.tx(t, func(tx *store.Tx) error { return tx.Enqueue(op, busy.GroupID, busy.ID) })
	// A guest whose create failed before anything was recorded: its rows account for what there is.
	y.live(t, 1)
	y.tx(t, func(tx *store.Tx) error {
		g, err := tx.Guest("guest-1")
		if err != nil {
			return err
		}
		g.ServerID, g.VolumeID, g.PortID = "", "", ""
		return tx.UpdateGuest(g)
	})
	// An orphan whose row comes later than it.
	y.plant(t, "guest-2", "instance-2", "group-2")
	before := len(y.owned(t, ""))
	y.pass(t, m, 0)
	y.live(t, 2)
	for range 3 {
		y.pass(t, m, 2*time.Hour)
	}
	requireFindings(t, y)
	if after := len(y.owned(t, "")); after != before {
		t.Errorf("of %d resources %d are left", before, after)
	}
}

// TestJanitorDeletesWhatCameLate: what a request made that was thought lost goes without being asked for, young or not, when its
// owner has another one that the row names, and when the owner is gone; all else stays.
func TestJanitorDeletesWhatCameLate(t *testing.T) {
	t.Parallel()
	for name, url := range databases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := openYard(t, url(t))
			ctx := t.Context()
			m := y.janitor(t, "one", taskmanager.Janitor{Age: time.Hour})
			y.live(t, 0)
			kept := y.owned(t, "guest-0")
			for _, r := range kept {
				y.cloud.Duplicate(r.Kind, r.ID)
			}
			gone := y.live(t, 1)
			y.plant(t, "stranger", "", "group-0")
			strange := y.owned(t, "stranger")
			y.tx(t, func(tx *store.Tx) error { return tx.DeleteInstance(gone.ID) })
			for range 2 { // a server goes before what it may hold
				y.pass(t, m, time.Second)
			}
			if left := y.owned(t, "guest-0"); !slices.Equal(left, kept) {
				t.Errorf("left is %v, not %v", left, kept)
			}
			if left := append(append(y.owned(t, "guest-1"), y.owned(t, gone.ID)...), y.owned(t, gone.GroupID)...); len(left) != 0 {
				t.Errorf("of an instance that is gone %v is left", left)
			}
			if left := y.owned(t, "stranger"); !slices.Equal(left, strange) {
				t.Errorf("of a stranger %v is left, not %v", left, strange)
			}
			accounts, err := y.accounts.List(ctx)
			must(t, err)
			if !slices.Equal(accounts, []string{"guest-0", "stranger"}) {
				t.Errorf("accounts %q", accounts)
			}
		})
	}
}

// TestJanitorLooksAgain: an instance that is begun to be worked on while a pass deletes is left alone.
func TestJanitorLooksAgain(t *testing.T) {
	t.Parallel()
	y := openYard(t, "")
	m := y.janitor(t, "one", taskmanager.Janitor{Age: time.Hour})
	var second []string
	for n := range 2 {
		y.live(t, n)
		for _, r := range y.owned(t, fmt.Sprint("guest-", n)) {
			if r.Kind == cloud.KindServer {
				second = append(second, y.cloud.Duplicate(r.Kind, r.ID))
			}
		}
	}
	y.cloud.deleting = func(id string) {
		other := 1 - slices.Index(second, id)
		op := &dbaas.Operation{Kind: "restart_instance", ProjectID: "demo", ResourceType: "instance", ResourceID: fmt.Sprint("instance-", other), GroupID: fmt.Sprint("group-", other), Status: dbaas.OperationRunning}
		y.tx(t, func(tx *store.Tx) error { return tx.Enqueue(op, op.GroupID, op.ResourceID) })
	}
	y.pass(t, m, 0)
	var left []string
	for _, r := range y.owned(t, "") {
		if slices.Contains(second, r.ID) {
			left = append(left, r.ID)
		}
	}
	if len(left) != 1 {
		t.Errorf("left is %q", left)
	}
}

// TestJanitorAfterOperations: without being told to look at all, a taskmanager looks for what came late when an operation has ended
// lately, and only then.
func TestJanitorAfterOperations(t *testing.T) {
	t.Parallel()
	y := openYard(t, "")
	m := y.janitor(t, "one", taskmanager.Janitor{Age: time.Hour})
	in := y.live(t, 0)
	kept := y.owned(t, "guest-0")
	at := slices.IndexFunc(kept, func(r cloud.Resource) bool { return r.Kind == cloud.KindVolume })
	y.cloud.Duplicate(cloud.KindVolume, kept[at].ID)
	due := func() bool {
		t.Helper()
		before := y.cloud.Calls("")
		must(t, m.TidyWhenDue(t.Context()))
		return y.cloud.Calls("") != before
	}
	op := &dbaas.Operation{Kind: "restart_instance", ProjectID: "demo", ResourceType: "instance", ResourceID: in.ID, GroupID: in.GroupID, Status: dbaas.OperationRunning}
	y.tx(t, func(tx *store.Tx) error { return tx.Enqueue(op, in.GroupID, in.ID) })
	if due() {
		t.Error("it looked while nothing had ended")
	}
	y.end(t, op.ID)
	if !due() {
		t.Error("it did not look when an operation had just ended")
	}
	if left := y.owned(t, "guest-0"); !slices.Equal(left, kept) {
		t.Errorf("left is %v, not %v", left, kept)
	}
	if due() {
		t.Error("it looked twice in a minute")
	}
	y.clock.Advance(time.Minute)
	if !due() {
		t.Error("it did not look again: requests are later than that")
	}
	y.clock.Advance(time.Hour)
	if due() {
		t.Error("it goes on for ever")
	}
}

// end ends an operation.
func (y *yard) end(t *testing.T, operationID string) {
	t.Helper()
	db, err := sql.Open("sqlite", y.file)
	must(t, err)
	defer db.Close()
	_, err = db.Exec(`UPDATE operations SET status = 'SUCCEEDED', ended_at = ? WHERE id = ?`, dbaas.At(y.clock.Now()), operationID)
	must(t, err)
	_, err = db.Exec(`DELETE FROM operation_locks`)
	must(t, err)
}

// TestJanitorAlone: while one taskmanager looks, and until its lease is over, no other does.
func TestJanitorAlone(t *testing.T) {
	t.Parallel()
	for name, url := range databases(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := openYard(t, url(t))
			ctx := t.Context()
			m := y.janitor(t, "one", taskmanager.Janitor{Age: time.Hour})
			taken, err := y.store.TakeLease(ctx, "janitor", "another", time.Hour)
			must(t, err)
			must(t, m.Tidy(ctx))
			if !taken || y.cloud.Calls("") != 0 {
				t.Errorf("%v; %d calls while another is at it", taken, y.cloud.Calls(""))
			}
			must(t, y.store.EndLease(ctx, "janitor", "one", true, 0)) // is not its own
			must(t, m.Tidy(ctx))
			if y.cloud.Calls("") != 0 {
				t.Error("a lease was ended by another than its holder")
			}
			must(t, y.store.EndLease(ctx, "janitor", "another", false, 0))
			must(t, m.Tidy(ctx))
			done, err := y.store.LastDone(ctx, "janitor")
			must(t, err)
			if y.cloud.Calls("") == 0 || done.IsZero() {
				t.Errorf("%d calls, done at %v when nobody else is at it", y.cloud.Calls(""), done)
			}
		})
	}
}

// TestJanitorWithoutACloud: what could not be looked at is not judged, and a cloud in trouble is not asked at once again, by nobody.
func TestJanitorWithoutACloud(t *testing.T) {
	t.Parallel()
	y := openYard(t, "")
	m := y.janitor(t, "one", taskmanager.Janitor{Age: time.Hour, Delete: true})
	other := y.janitor(t, "two", taskmanager.Janitor{Age: time.Hour})
	y.live(t, 0)
	y.cloud.Inject(cloudtest.Fault{Mode: cloudtest.Fail, Times: -1})
	for range 3 {
		y.clock.Advance(time.Hour)
		if err := m.Tidy(t.Context()); err == nil {
			t.Error("a cloud that does not answer is no failure")
		}
		calls := y.cloud.Calls("")
		y.clock.Advance(59 * time.Second)
		must(t, m.Tidy(t.Context()))
		must(t, other.Tidy(t.Context()))
		if more := y.cloud.Calls("") - calls; more != 0 {
			t.Errorf("the cloud was asked %d times within a minute of a pass that failed", more)
		}
	}
	y.cloud.Heal()
	requireFindings(t, y)
}

// TestJanitorIsConstantWork: what it asks of the cloud is the same for 100 and 10,000 instances, well or broken.
func TestJanitorIsConstantWork(t *testing.T) {
	t.Parallel()
	calls := map[string]int{}
	for name, c := range map[string]struct{ rows, broken int }{"few": {100, 0}, "many": {10_000, 0}, "many broken": {10_000, 5_000}} {
		y := openYard(t, "")
		y.seed(t, c.rows, c.broken)
		m := y.janitor(t, "one", taskmanager.Janitor{Age: time.Hour})
		y.pass(t, m, 0)
		y.pass(t, m, time.Hour)
		calls[name] = y.cloud.Calls("")
		if found := len(y.findings(t)); found != c.broken {
			t.Errorf("%s: found %d, broken are %d", name, found, c.broken)
		}
	}
	if calls["few"] != calls["many"] || calls["many"] != calls["many broken"] || calls["few"] == 0 {
		t.Errorf("calls %v", calls)
	}
	if testing.Verbose() {
		t.Log(calls)
	}
}

// BenchmarkJanitor is P17: a pass over 10,000 instances in their steady state, with none and with 5,000 broken.
func BenchmarkJanitor(b *testing.B) {
	for _, broken := range []int{0, 5000} {
		b.Run(fmt.Sprintf("broken=%d", broken), func(b *testing.B) {
			y := openYard(b, "")
			y.seed(b, 10_000, broken)
			m := y.janitor(b, "one", taskmanager.Janitor{Age: time.Minute})
			y.pass(b, m, time.Hour)
			y.pass(b, m, time.Hour)
			before := y.cloud.Calls("")
			for b.Loop() {
				y.pass(b, m, time.Hour)
			}
			b.ReportMetric(float64(y.cloud.Calls("")-before)/float64(b.N), "cloud-calls/op")
		})
	}
}

// seed has n instances with all that they need in rows and in the cloud; of the first broken ones the server is missing (the even
// ones) or the row is (the odd ones).
func (y *yard) seed(t testing.TB, n, broken int) {
	t.Helper()
	db, err := sql.Open("sqlite", y.file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows := fmt.Sprintf("FROM (WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < %d) SELECT n FROM s) WHERE n %% 2 = 0 OR n >= %d", n-1, broken)
	for _, statement := range []string{
		`INSERT INTO instance_groups (id, project_id, kind, created_at) SELECT 'group-' || n, 'demo', 'single', 1 `,
		`INSERT INTO instances (id, project_id, group_id, name, datastore_version_id, task, address_id, created_at, updated_at)
			SELECT 'instance-' || n, 'demo', 'group-' || n, 'db', 'version', 'NONE', 'address-' || n, 1, 1 `,
		`INSERT INTO guests (id, instance_id, group_id, project_id, queue, server_id, volume_id, port_id, created_at, updated_at)
			SELECT 'guest-' || n, 'instance-' || n, 'group-' || n, 'demo', 'q', 'server-' || n, 'volume-' || n, 'port-' || n, 1, 1 `,
	} {
		if _, err := db.Exec(statement + rows); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		add := func(kind, id, owner string) {
			y.cloud.more = append(y.cloud.more, cloud.Resource{Kind: kind, ID: fmt.Sprint(id, "-", i), GuestID: fmt.Sprint(owner, "-", i)})
		}
		if i >= broken || i%2 == 1 {
			add(cloud.KindServer, "server", "guest")
		}
		if i >= broken || i%2 == 0 {
			add(cloud.KindVolume, "volume", "guest")
			add(cloud.KindPort, "port", "guest")
			add(cloud.KindSecurityGroup, "security", "guest")
			add(cloud.KindAddress, "address", "instance")
		}
	}
}

// silent swallows what is logged: thousands of findings.
func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }
