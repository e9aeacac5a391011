package e2e

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the auditor reads the rows themselves

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/cloud/local"
	"github.com/grove-dbaas/grove/internal/cloud/openstack"
	"github.com/grove-dbaas/grove/internal/keystone"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// fleet is a control plane of several processes of each role, on servers of their own that may be killed.
type fleet struct {
	t        testing.TB
	config   string
	apis     []*house
	managers []*house
	machine  *house    // runs the local cloud
	machines *machines // in the place of OpenStack's servers
	database *testbed.Database
	broker   *testbed.Broker
	amqpURL  string
	cloud    cloud.Provider
	accounts rpc.Accounts
	rows     *sql.DB
	project  string
	token    string
	front    atomic.Pointer[[]string] // where the APIs listen now
	rounds   atomic.Int64             // disturbances so far
	least    int                      // that there are while instances are created
	refused  atomic.Int64             // answers of 500 and above
}

// fleetLease is how long the taskmanagers of a fleet on the local cloud hold an operation. A step has to end before: a cloud
// takes longer to answer.
const fleetLease = 5 * time.Second

// openFleet starts two api and two taskmanager processes with leases of that length; more is further configuration, in YAML.
func openFleet(t testing.TB, lease time.Duration, more string) *fleet {
	t.Helper()
	f := &fleet{t: t, broker: testbed.RabbitMQ(t), database: testbed.PrivatePostgres(t), project: "demo"}
	vhost, amqpURL := f.broker.Vhost(t)
	f.amqpURL = amqpURL
	dir := t.TempDir()
	f.config = filepath.Join(dir, "grove.yaml")
	if !strings.Contains(more, "api:") {
		more += "api: {rate_limits: {GET: 0, POST: 0, PUT: 0, DELETE: 0}}\n"
	}
	text := fmt.Sprintf("listen: 127.0.0.1:0\ndata: %q\ndatabase: {url: %q}\nrpc: {url: %q, management_url: %q}\ntaskmanager: {lease: %s}\nquotas: {instances: 1000, volumes: 1000}\n%s",
		filepath.Join(dir, "data"), f.database.URL, amqpURL, f.broker.ManagementURL, lease, more)
	if err := errors.Join(os.WriteFile(f.config, []byte(text), 0o600), os.Mkdir(filepath.Join(dir, "data"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"keys", "create"}, {"migrate", "up"}} {
		if out, err := exec.Command(filepath.Join(bin, "groved"), append(args, "--config", f.config)...).CombinedOutput(); err != nil {
			t.Fatalf("groved %s: %v: %s", args, err, out)
		}
	}
	var err error
	if f.rows, err = sql.Open("pgx", f.database.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.rows.Close() })
	if f.accounts, err = amqp.NewAccounts(f.broker.ManagementURL, vhost, nil); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(more, "openstack") {
		f.openLocal(filepath.Join(dir, "data"), dir)
	}
	for i := range 2 {
		f.managers = append(f.managers, f.openOne(dir, "taskmanager", i))
		f.apis = append(f.apis, f.openOne(dir, "api", i))
	}
	f.publish()
	return f
}

// openLocal runs the local cloud as a process of its own.
func (f *fleet) openLocal(data, dir string) {
	f.t.Helper()
	machine := &house{t: f.t, dir: data}
	f.t.Cleanup(machine.requireNothingLeft)
	f.machine = openRole(f.t, dir, "cloud", "--config", f.config)
	f.cloud = local.Dial(data)
}

func (f *fleet) openOne(dir, role string, i int) *house {
	f.t.Helper()
	dir = filepath.Join(dir, fmt.Sprintf("%s-%d", role, i))
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.t.Fatal(err)
	}
	return openRole(f.t, dir, role, "--config", f.config)
}

// localFleet is the configuration of a fleet on the local cloud.
func localFleet() string {
	return fmt.Sprintf("cloud: {local: {shared: true, agents: process, agent_binary: %q, volumes: directory}}\n", filepath.Join(bin, "grove-agent"))
}

// publish tells callers where the APIs listen now.
func (f *fleet) publish() {
	var bases []string
	for _, h := range f.apis {
		bases = append(bases, h.base)
	}
	f.front.Store(&bases)
}

// caller gives a house to send requests with, by the API processes in turn.
func (f *fleet) caller(turn int) *house {
	bases := *f.front.Load()
	return &house{t: f.t, base: bases[turn%len(bases)], project: f.project, token: f.token}
}

// send repeats a request, by other processes too, until it is answered; a POST carries an Idempotency-Key. Repeated is what was
// cut off, and what is answered with a Retry-After: 503, and 409 while nobody knows yet what became of the first try.
func (f *fleet) send(method, path string, body any) (*answer, error) {
	key := rand.Text()
	deadline := time.Now().Add(3 * time.Minute)
	for turn := 0; ; turn++ {
		a, err := f.caller(turn).try(method, path, body, "Idempotency-Key", key)
		if err == nil && a.status >= 500 {
			f.refused.Add(1)
		}
		if err == nil && a.header.Get("Retry-After") == "" {
			return a, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s %s is not answered: %+v, %w", method, path, a, err)
		}
		pause := time.NewTimer(100 * time.Millisecond)
		<-pause.C
	}
}

// wish is an instance that was accepted.
type wish struct {
	name, id, password string
	status, fault      string
	took               time.Duration
}

// create asks for an instance, waits until it has come to an end, and deletes it then when it is not to be kept.
func (f *fleet) create(name string, version object, keep bool) (w wish, err error) {
	begun := time.Now()
	body := object{"name": name, "flavorRef": "1", "volume": object{"size": 1}}
	for k, v := range version {
		body[k] = v
	}
	a, err := f.send("POST", "/instances", object{"instance": body})
	if err != nil || a.status != 200 {
		return w, fmt.Errorf("create %s: %+v, %w", name, a, err)
	}
	w = wish{name: name, id: a.body.text("instance", "id"), password: a.body.text("instance", "password")}
	deadline := time.Now().Add(15 * time.Minute)
	for w.status != "ERROR" && w.status != "ACTIVE" {
		pause := time.NewTimer(500 * time.Millisecond)
		<-pause.C
		if a, err = f.send("GET", "/instances/"+w.id, nil); err != nil || a.status != 200 {
			return w, fmt.Errorf("accepted and lost: %s: %+v, %w", name, a, err)
		}
		w.status, w.fault = a.body.text("instance", "status"), a.body.text("instance", "fault", "message")
		if time.Now().After(deadline) {
			return w, fmt.Errorf("%s came to no end; it is %s at %v", name, w.status, a.body.at("instance", "operation"))
		}
	}
	w.took = time.Since(begun)
	if w.status == "ERROR" && w.fault == "" {
		return w, fmt.Errorf("%s ended in ERROR without a reason", name)
	}
	if keep {
		return w, nil
	}
	return w, f.remove(w.id)
}

// remove deletes an instance, and returns when it is gone.
func (f *fleet) remove(id string) error {
	a, err := f.send("DELETE", "/instances/"+id, nil)
	if err != nil || a.status != 202 && a.status != 404 {
		return fmt.Errorf("delete %s: %+v, %w", id, a, err)
	}
	for deadline := time.Now().Add(15 * time.Minute); ; {
		if a, err = f.send("GET", "/instances/"+id, nil); err != nil || a.status == 404 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is still there: %s", id, a.raw)
		}
		pause := time.NewTimer(500 * time.Millisecond)
		<-pause.C
	}
}

// kill kills a role's process and starts it again. What it needs may be away meanwhile: it is started until it stays.
func (f *fleet) kill(h *house, pause time.Duration) {
	f.t.Helper()
	h.kill()
	timer := time.NewTimer(pause)
	<-timer.C
	f.revive(h)
}

func (f *fleet) revive(h *house) {
	f.t.Helper()
	eventually(f.t, 3*time.Minute, h.tryStart)
	f.publish()
}

// turns is after how many disturbances each kind of them was there.
const turns = 7

// disturb kills processes, one of each role in turn, and broker and database now and then, until done is closed.
func (f *fleet) disturb(random *mathrand.Rand, every time.Duration, done <-chan struct{}) {
	f.t.Helper()
	victims := slices.Concat(f.managers, f.apis)
	for round := 0; ; round++ {
		f.rounds.Store(int64(round))
		pause := time.NewTimer(every/2 + time.Duration(random.Int64N(int64(every))))
		select {
		case <-done:
			pause.Stop()
			return
		case <-pause.C:
		}
		one := f.managers[random.IntN(2)]
		if round%2 == 1 {
			one = f.apis[random.IntN(2)]
		}
		switch round % turns {
		case 2:
			if f.machine == nil { // OpenStack is not ours to kill
				f.kill(one, 0)
				continue
			}
			f.kill(f.machine, time.Duration(random.IntN(500))*time.Millisecond)
		case 3:
			f.broker.Kill()
			f.kill(one, 0) // it comes back without its broker
			f.broker.Start(f.t)
		case 5:
			f.database.Kill()
			one.kill()
			f.database.Start(f.t)
			f.revive(one)
		case 6: // all at once
			for _, h := range victims {
				h.kill()
			}
			for _, h := range victims {
				f.revive(h)
			}
		default:
			f.kill(one, time.Duration(random.IntN(1000))*time.Millisecond)
		}
	}
}

// soak creates that many instances while everything that may be killed is, every few seconds; every second instance is deleted
// again. At the end each is ACTIVE, or in ERROR with a reason, and the auditor finds nothing.
func (f *fleet) soak(count, atOnce int, every time.Duration, version object, ping func(w wish) error) {
	f.t.Helper()
	seed := uint64(time.Now().UnixNano())
	f.t.Logf("seed %d", seed)
	begun := time.Now()
	wishes, failures := make([]wish, count), make([]error, count)
	done := make(chan struct{})
	var work sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		work.Go(func() {
			for i := range next {
				wishes[i], failures[i] = f.create(fmt.Sprintf("soak-%03d", i), version, i%2 == 0)
			}
		})
	}
	go func() {
		for i := range count {
			for int(f.rounds.Load())*count < i*f.least { // they come while each kind of disturbance does
				pause := time.NewTimer(50 * time.Millisecond)
				<-pause.C
			}
			next <- i
		}
		close(next)
		work.Wait()
		close(done)
	}()
	f.disturb(mathrand.New(mathrand.NewPCG(seed, 0)), every, done)
	if err := errors.Join(failures...); err != nil {
		f.t.Error(err)
	}
	var kept []wish
	var times []time.Duration
	for i, w := range wishes {
		if w.status == "ERROR" {
			f.t.Logf("%s ended in ERROR: %s", w.name, w.fault)
		}
		times = append(times, w.took)
		if i%2 == 0 && failures[i] == nil {
			kept = append(kept, w)
		}
	}
	slices.Sort(times)
	f.t.Logf("%d creates, %d deletes, %d disturbances in %s; until ACTIVE: median %s, longest %s", count, count-len(kept), f.rounds.Load(),
		time.Since(begun).Round(time.Second), times[len(times)/2].Round(100*time.Millisecond), times[len(times)-1].Round(100*time.Millisecond))
	f.audit(kept)
	slowest := slices.MaxFunc(wishes, func(a, b wish) int { return cmp.Compare(a.took, b.took) })
	steps, err := f.list(`SELECT s.step || ' done after ' || (s.ended_at - o.created_at) / 1000 || ' ms' FROM operation_steps s
		JOIN operations o ON o.id = s.operation_id WHERE o.kind = 'create_instance' AND o.resource_id = '` + slowest.id + `' ORDER BY s.number`)
	f.t.Logf("the slowest, %s: %v, %v", slowest.name, steps, err)
	for _, w := range kept {
		if w.status == "ACTIVE" {
			eventually(f.t, time.Minute, func() error { return ping(w) })
		}
	}
	var deletes sync.WaitGroup
	gone := make([]error, len(kept))
	for i, w := range kept {
		deletes.Go(func() { gone[i] = f.remove(w.id) })
	}
	deletes.Wait()
	if err := errors.Join(gone...); err != nil {
		f.t.Error(err)
	}
	f.audit(nil)
}

// audit compares what was asked for with the rows, the rows with the cloud and with the broker's accounts, both ways, and
// quotas with what there is; in a moment of calm all is the same.
func (f *fleet) audit(kept []wish) {
	f.t.Helper()
	eventually(f.t, 2*time.Minute, func() error { return f.differences(kept) })
}

func (f *fleet) differences(kept []wish) error {
	var found []error
	differ := func(what string, args ...any) { found = append(found, fmt.Errorf(what, args...)) }
	for _, q := range []string{
		`SELECT kind || ' ' || resource_id || ' at ' || step FROM operations WHERE ended_at = 0`,
		`SELECT 'lock of ' || resource_id FROM operation_locks`,
		`SELECT 'guest ' || id || ' of a deleted instance' FROM guests WHERE deleted_at = 0 AND instance_id IN (SELECT id FROM instances WHERE deleted_at > 0)`,
		`SELECT 'second instance ' || name FROM instances GROUP BY project_id, name HAVING count(*) > 1`,
	} {
		left, err := f.list(q)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			differ("left: %v", left)
		}
	}
	wanted := map[string]bool{}
	for _, w := range kept {
		wanted[w.id] = true
	}
	instances, err := f.list(`SELECT id FROM instances WHERE deleted_at = 0`)
	if err != nil {
		return err
	}
	for _, id := range instances {
		if !wanted[id] {
			differ("nobody wants instance %s", id)
		}
		delete(wanted, id)
	}
	for id := range wanted {
		differ("instance %s is lost", id)
	}
	rows, err := f.list(`SELECT kind || ' ' || id FROM (
		SELECT 'server' AS kind, server_id AS id FROM guests WHERE deleted_at = 0 UNION ALL
		SELECT 'volume', volume_id FROM guests WHERE deleted_at = 0 UNION ALL
		SELECT 'port', port_id FROM guests WHERE deleted_at = 0) AS all_of WHERE id <> ''`)
	if err != nil {
		return err
	}
	owned, err := f.cloud.Owned(context.Background(), "")
	if err != nil {
		return err
	}
	var there []string
	groups := 0
	for _, r := range owned {
		switch r.Kind {
		case cloud.KindServer, cloud.KindVolume, cloud.KindPort:
			there = append(there, r.Kind+" "+r.ID)
		case cloud.KindSecurityGroup:
			groups++
		}
	}
	slices.Sort(rows)
	slices.Sort(there)
	if !slices.Equal(rows, there) {
		differ("rows and cloud differ: %d and %d; only in rows: %v; only in the cloud: %v", len(rows), len(there), without(rows, there), without(there, rows))
	}
	guests, err := f.list(`SELECT id FROM guests WHERE deleted_at = 0`)
	if err != nil {
		return err
	}
	if groups != len(guests) {
		differ("%d security groups for %d guests", groups, len(guests))
	}
	accounts, err := f.accounts.List(context.Background())
	if err != nil {
		return err
	}
	if lone := slices.Concat(without(accounts, guests), without(guests, accounts)); len(lone) > 0 {
		differ("guests without an account at the broker, or the reverse: %v", lone)
	}
	return errors.Join(append(found, f.quotaDifference(map[string]int{"instances": len(instances), "volumes": len(guests)}))...)
}

// quotaDifference compares what is charged with what there is; volumes are of 1 GB.
func (f *fleet) quotaDifference(there map[string]int) error {
	a, err := f.caller(0).try("GET", "/limits", nil)
	if err != nil {
		return err
	}
	if a.status != 200 {
		return fmt.Errorf("limits: %s", a.raw)
	}
	mgmt, err := f.administrator().try("GET", "/mgmt/quotas/"+f.project, nil)
	if err != nil {
		return err
	}
	for i := 0; mgmt.body.at("quotas", i) != nil; i++ {
		resource, _ := mgmt.body.at("quotas", i).(map[string]any)
		name := fmt.Sprint(resource["resource"])
		if n, ok := there[name]; ok && resource["in_use"] != float64(n) {
			return fmt.Errorf("quota of %s: %v in use, where there are %d", name, resource["in_use"], n)
		}
	}
	if mgmt.status != 200 {
		return fmt.Errorf("quotas: %s", mgmt.raw)
	}
	return nil
}

// administrator sends requests as one.
func (f *fleet) administrator() *house {
	h := f.caller(0)
	if f.token == "" {
		h.project = "admin"
	}
	return h
}

// list gives the one column of a query.
func (f *fleet) list(query string) (all []string, err error) {
	rows, err := f.rows.Query(query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var one string
		if err := rows.Scan(&one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// without gives what is in a and not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(one string) bool { return slices.Contains(b, one) })
}

// TestCreatesWhileEverythingDies: two processes of each role, which are killed one after the other, and broker and database
// with them, while instances are created and deleted: none is lost, none comes twice, nothing is left (R1, R3, R5, R10).
func TestCreatesWhileEverythingDies(t *testing.T) {
	f := openFleet(t, fleetLease, localFleet())
	count, every := 20, time.Second
	f.least = turns
	if soaking() {
		count, every, f.least = 200, 3*time.Second, 10*turns
	}
	f.soak(count, 8, every, nil, func(w wish) error {
		in := &instance{h: f.caller(0), id: w.id, password: w.password}
		return in.redis().Ping(context.Background()).Err()
	})
}

// openOpenStackFleet is a fleet on OpenStack, with the administrator's token.
func openOpenStackFleet(t testing.TB, d *devcloud) *fleet {
	t.Helper()
	machines := watchMachines(t, filepath.Join(d.dir, "data/nova/servers"), d.project)
	f := openFleet(t, 15*time.Second, fmt.Sprintf(`
api: {auth: keystone, token_cache: 5s, rate_limits: {GET: 0, POST: 0, PUT: 0, DELETE: 0}}
keystone: {auth_url: %q, username: %q, password: %q, project: %q, timeout: %s}
cloud: {provider: openstack, openstack: {network: %q, image_tags: [redis]}}
`, d.authURL, d.service.Username, d.service.Password, d.service.TenantName, d.timeout, d.network))
	account, err := keystone.NewAccount(keystone.Config{AuthURL: d.service.IdentityEndpoint, Username: d.service.Username, Password: d.service.Password,
		UserDomain: "Default", Project: d.service.TenantName, Timeout: time.Minute, Clock: clock.Real{}})
	if err != nil {
		t.Fatal(err)
	}
	if f.cloud, err = openstack.New(openstack.Config{Account: account, Region: "RegionOne", Interface: "public", Network: d.network}); err != nil {
		t.Fatal(err)
	}
	f.token, f.project = d.token(t, "dev-admin")
	f.machines = machines
	return f
}

// TestManyOpenStackCreatesWhileEverythingDies is the same on OpenStack, whose services are not killed.
func TestManyOpenStackCreatesWhileEverythingDies(t *testing.T) {
	d := loginDevcloud(t)
	f := openOpenStackFleet(t, d)
	count, every := 8, 4*time.Second
	f.least = turns
	if soaking() {
		count, every, f.least = 50, 8*time.Second, 3*turns
	}
	offerRedis(f.caller(0))
	f.soak(count, 5, every, object{"datastore": object{"type": "redis", "version": "7.0"}}, func(w wish) error {
		a, err := f.caller(0).try("GET", "/instances/"+w.id, nil)
		if err != nil {
			return err
		}
		if status := a.body.text("instance", "operating_status"); status != "HEALTHY" {
			return fmt.Errorf("%s is %s", w.name, status)
		}
		return nil
	})
	d.requireNothing(t)
}
