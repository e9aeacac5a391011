package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/telemetry/metric"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// house is the API on a real database, with nobody who works off operations unless a worker is started.
type house struct {
	*client // of the project demo
	t       testing.TB
	store   *store.Store
	control *control.Service
	server  *Server
	clock   *clock.Manual // nil: the machine's clock
	log     *syncBuffer
	path    string // of the database
}

type option func(*control.Config, *Config, *house)

func withManualClock() option {
	return func(c *control.Config, a *Config, h *house) {
		h.clock = clock.NewManual(time.Date(2026, 11, 22, 10, 11, 12, 345678000, time.UTC))
		c.Clock, a.Clock = h.clock, h.clock
	}
}

func withConfig(change func(*Config)) option {
	return func(_ *control.Config, a *Config, _ *house) { change(a) }
}

func withQuotas(quotas map[string]int) option {
	return func(c *control.Config, _ *Config, _ *house) { c.Quotas = quotas }
}

func newHouse(t testing.TB, options ...option) *house {
	t.Helper()
	h := &house{t: t, log: &syncBuffer{}, path: filepath.Join(t.TempDir(), "grove.db")}
	logger := slog.New(slog.NewTextHandler(h.log, nil))
	cc := control.Config{
		Datastores: []datastore.Datastore{shelf{}}, Region: "RegionOne", DefaultDatastore: "redis", MaxVolumeSize: 50,
		Quotas: map[string]int{"instances": 100, "volumes": 1000, "backups": 50, "ram": -1},
		Node:   "test", Clock: clock.Real{}, Logger: logger,
	}
	ac := Config{PageSize: 3, AwaitAtMost: 2 * time.Second, Metrics: metric.NewRegistry(), Logger: logger}
	for _, o := range options {
		o(&cc, &ac, h)
	}
	cc.Store = h.openStore(t, cc.Clock, logger)
	h.store, h.control = cc.Store, control.New(cc)
	ac.Control = h.control
	var err error
	if h.server, err = New(ac); err != nil {
		t.Fatal(err)
	}
	h.client = &client{h: h, project: "demo"}
	return h
}

// openStore opens a copy of the template.
func (h *house) openStore(t testing.TB, c clock.Clock, logger *slog.Logger) *store.Store {
	t.Helper()
	made, err := template()
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "master.key")
	if err := errors.Join(os.WriteFile(h.path, made.database, 0o600), os.WriteFile(keyFile, made.key, 0o600)); err != nil {
		t.Fatal(err)
	}
	keys, err := secret.LoadKeyring(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), store.Options{URL: "sqlite://" + h.path, Clock: c, Keyring: keys, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

type furnished struct{ database, key []byte }

// template is a database at the current schema with a catalog and the datastores, made once: migrating takes longer
// than most tests.
var template = sync.OnceValues(func() (made furnished, err error) {
	dir, err := os.MkdirTemp("", "grove-api-test")
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	database, key := filepath.Join(dir, "grove.db"), filepath.Join(dir, "master.key")
	keys, err := secret.CreateKeyring(key)
	if err != nil {
		return made, err
	}
	if err := furnish("sqlite://"+database, keys); err != nil {
		return made, err
	}
	if made.database, err = os.ReadFile(database); err != nil {
		return made, err
	}
	made.key, err = os.ReadFile(key)
	return made, err
})

func furnish(url string, keys *secret.Keyring) (err error) {
	ctx := context.Background()
	st, err := store.Open(ctx, store.Options{URL: url, Keyring: keys})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if err := st.Migrate(ctx); err != nil {
		return err
	}
	ctl := control.New(control.Config{Store: st, Datastores: []datastore.Datastore{shelf{}}, Clock: clock.Real{}, Logger: slog.Default()})
	if err := ctl.SyncDatastores(ctx, func(v datastore.Version) string {
		if v.Name == "6.2" {
			return ""
		}
		return v.Number
	}); err != nil {
		return err
	}
	return st.Tx(ctx, func(tx *store.Tx) error {
		return tx.SaveCatalog(&dbaas.Catalog{
			Region: "RegionOne",
			Flavors: []dbaas.Flavor{
				{ID: "1", Name: "db.tiny", RAM: 512, VCPUs: 1, Disk: 5}, {ID: "2", Name: "db.small", RAM: 1024, VCPUs: 1, Disk: 10},
				{ID: "007", Name: "db.bond", RAM: 2048, VCPUs: 2, Disk: 10},
			},
			VolumeTypes: []dbaas.VolumeType{{ID: "local", Name: "local", IsPublic: true}},
			Networks:    []dbaas.Network{{ID: "11111111-1111-4111-8111-111111111111", Name: "blue"}},
			Zones:       []string{"nova"},
		})
	})
}

func (h *house) tx(fn func(tx *store.Tx) error) {
	h.t.Helper()
	if err := h.store.Tx(context.Background(), fn); err != nil {
		h.t.Fatal(err)
	}
}

// digest tells whether anything in the database has changed, whatever the table.
func (h *house) digest() string {
	h.t.Helper()
	db, err := sql.Open("sqlite", h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	sum := sha256.New()
	for _, table := range queryAll(h.t, db, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name") {
		rows := queryAll(h.t, db, `SELECT * FROM "`+table[0]+`"`)
		slices.SortFunc(rows, slices.Compare)
		for _, row := range rows {
			_, _ = fmt.Fprintf(sum, "%s: %q\n", table[0], row)
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// count counts the rows of a table.
func (h *house) count(table string) string {
	h.t.Helper()
	db, err := sql.Open("sqlite", h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	return queryAll(h.t, db, "SELECT COUNT(*) FROM "+table)[0][0]
}

func queryAll(t testing.TB, db *sql.DB, query string) (all [][]string) {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		row, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		line := make([]string, len(row))
		for i, v := range row {
			line[i] = v.String
		}
		all = append(all, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// worker works off operations until the test ends: it writes the effects into the rows, as the workflows would. fail
// gives the sentence with which an operation of a kind fails, "" for success.
func (h *house) worker(fail func(kind string) string) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if !h.workOne(ctx, fail) {
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
		}
	})
	h.t.Cleanup(func() { cancel(); done.Wait() })
}

// settle works off all that is queued now.
func (h *house) settle() {
	for h.workOne(context.Background(), func(string) string { return "" }) {
	}
}

func (h *house) workOne(ctx context.Context, fail func(kind string) string) bool {
	op, err := h.store.Claim(ctx, "test", "", time.Minute)
	if err != nil || op == nil {
		if err != nil && ctx.Err() == nil {
			h.t.Errorf("claim: %v", err)
		}
		return false
	}
	if op.SupersededBy != "" {
		op.Kind = op.SupersededBy
		if err := h.store.Save(ctx, op, engine.Save{Keep: time.Minute, NewStep: true, Superseded: true}); err != nil {
			h.t.Errorf("take over as %s: %v", op.Kind, err)
			return true
		}
	}
	failure := fail(op.Kind)
	err = h.store.Tx(ctx, func(tx *store.Tx) error { return effect(tx, op, failure) })
	if err != nil {
		h.t.Errorf("effect of %s: %v", op.Kind, err)
	}
	op.Status, op.Step, op.StepNumber, op.StepTotal = dbaas.OperationSucceeded, "finish", 1, 1
	if failure != "" {
		op.Status, op.Failure = dbaas.OperationFailed, &dbaas.Fault{Message: failure, Details: "what only operators see"}
	}
	step := &dbaas.OperationStep{Kind: op.Kind, Step: "finish", Attempt: 1, Outcome: "done", Message: "what only operators see"}
	err = h.store.Save(ctx, op, engine.Save{Ended: true, Step: step})
	if err != nil && !errors.Is(err, engine.ErrSuperseded) && ctx.Err() == nil {
		h.t.Errorf("save: %v", err)
	}
	return true
}

func effect(tx *store.Tx, op *dbaas.Operation, failure string) error {
	if op.Kind == "delete_instance" {
		return tx.DeleteInstance(op.ResourceID)
	}
	if op.ResourceType == "cluster" {
		return clusterEffect(tx, op, failure)
	}
	in, err := tx.Instance(op.ResourceID)
	if err != nil {
		return err
	}
	in.Task = dbaas.TaskNone
	switch {
	case failure != "":
		in.Fault = &dbaas.Fault{Message: failure, Details: "what only operators see", At: tx.Now()}
	case op.Kind == "create_instance":
		in.Addresses = []dbaas.Address{{Address: "127.77.0.5", Type: "private", Network: "11111111-1111-4111-8111-111111111111"}}
		if err := healthy(tx, in.ID); err != nil {
			return err
		}
	case op.Kind == "upgrade_instance":
		var state control.UpgradeState
		if err := json.Unmarshal(op.State, &state); err != nil {
			return err
		}
		in.DatastoreVersionID = state.VersionID
	case op.Kind == "start_instance":
		in.Stopped = false
	case setEffect(op.Kind) != nil:
		return setEffect(op.Kind)(tx, in, op)
	case op.Kind == "set_users":
		if err := usersSet(tx, in); err != nil {
			return err
		}
	case op.Kind == "set_password":
		if err := passwordSet(tx, in, op); err != nil {
			return err
		}
	}
	return tx.UpdateInstance(in)
}

func healthy(tx *store.Tx, instanceID string) error {
	guests, err := tx.Guests(instanceID)
	if err != nil {
		return err
	}
	g := &guests[0]
	g.Status, g.StatusAt, g.ServerID, g.VolumeID = dbaas.GuestHealthy, tx.Now(), "server-1", "volume-1"
	return tx.UpdateGuest(g)
}

func passwordSet(tx *store.Tx, in *dbaas.Instance, op *dbaas.Operation) error {
	var state control.PasswordState
	if err := json.Unmarshal(op.State, &state); err != nil {
		return err
	}
	in.RootEnabledAt, in.RootEnabledBy = 0, ""
	if state.RootEnabled {
		in.RootEnabledAt, in.RootEnabledBy = tx.Now(), state.EnabledBy
	}
	id, err := tx.FindSecret(in.GroupID, control.SecretPendingPassword)
	if err != nil {
		return err
	}
	return tx.SecretMoveTo(id, control.SecretPassword)
}

func usersSet(tx *store.Tx, in *dbaas.Instance) error {
	id, err := tx.FindSecret(in.GroupID, control.SecretPendingUsers)
	if err != nil {
		return err
	}
	value, err := tx.RevealSecret(id)
	if err != nil {
		return err
	}
	var accounts []datastore.UserAccount
	if err := json.Unmarshal(value, &accounts); err != nil {
		return err
	}
	before, err := tx.Users(in.GroupID)
	if err != nil {
		return err
	}
	for _, u := range before {
		err = errors.Join(err, tx.DeleteUser(in.GroupID, u.Name))
	}
	for _, a := range accounts {
		err = errors.Join(err, tx.PutUser(&dbaas.User{GroupID: in.GroupID, Name: a.Name, Grants: a.Grants}))
	}
	return errors.Join(err, tx.SecretMoveTo(id, control.SecretUsers))
}

// shelf is a datastore that is only a manifest: the API never needs more.
type shelf struct{}

func (shelf) Guest(*host.Host) datastore.Guest { return nil }

func (shelf) Manifest() *datastore.Manifest {
	one, hundred := int64(1), int64(500)
	return &datastore.Manifest{
		Name: "redis", DefaultVersion: "7.0", Username: "default", URIScheme: "redis", URIPort: 6379, Root: "-",
		Versions: []datastore.Version{{Name: "6.2", Number: "6.2"}, {Name: "7.0", Number: "7.0"}, {Name: "valkey-8.0", Number: "8.0"}},
		Capabilities: datastore.Capabilities{
			Root: true, Users: true, Replication: true, TLS: true,
			Persistence: []dbaas.Persistence{"aof", "rdb", "none"}, Profiles: []datastore.Profile{{Name: "cache", Doc: "A cache."}},
			Cluster: &datastore.ClusterShape{MinMasters: 3, MostMembers: 15}, Upgrades: map[string][]string{"7.0": {"valkey-8.0"}},
		},
		Defaults: func(_ string, s datastore.Sizing) map[string]any {
			return map[string]any{"hz": 10, "appendonly": true, "maxmemory-policy": "noeviction", "databases": 16}
		},
		Parameters: []datastore.Parameter{
			{Name: "hz", Type: datastore.TypeInteger, Min: &one, Max: &hundred, Who: datastore.WhoTenant},
			{Name: "databases", Type: datastore.TypeInteger, Min: &one, Who: datastore.WhoTenant, Restart: true},
			{Name: "maxmemory-policy", Type: datastore.TypeString, Values: []string{"noeviction", "allkeys-lru"}, Who: datastore.WhoTenant},
			{Name: "notify-keyspace-events", Type: datastore.TypeString, Who: datastore.WhoTenant},
			{Name: "appendonly", Type: datastore.TypeBoolean, Who: datastore.WhoTenant},
			{Name: "requirepass", Type: datastore.TypeString, Who: datastore.WhoTenant, Secret: true},
			{Name: "dir", Type: datastore.TypeString, Who: datastore.WhoNobody, Why: "the server owns its files"},
		},
	}
}

// client sends requests of one project.
type client struct {
	h       *house
	project string
}

func (h *house) as(project string) *client { return &client{h: h, project: project} }

// result is an answer, with which a conversation goes on.
type result struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   []byte
}

// call sends a request to a path below the project; a path that begins with "/v1.0" or "//" stands as it is (without
// one slash of the two). Headers are "Name: value". Every answer is held against openapi.yaml.
func (c *client) call(method, path, body string, headers ...string) *result {
	c.h.t.Helper()
	switch {
	case strings.HasPrefix(path, "//"):
		path = path[1:]
	case !strings.HasPrefix(path, "/v1.0"):
		path = "/v1.0/" + c.project + path
	}
	r := httptest.NewRequest(method, "http://dbaas.example:8779"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	return c.h.send(r)
}

func (h *house) send(r *http.Request) *result {
	h.t.Helper()
	body := &bytes.Buffer{}
	w := httptest.NewRecorder()
	w.Body = body
	h.server.ServeHTTP(w, r)
	res := &result{t: h.t, what: r.Method + " " + r.URL.RequestURI(), status: w.Code, header: w.Header(), body: body.Bytes()}
	for _, problem := range checkContract(r, res) {
		h.t.Errorf("%s → %d: %s\n%s", res.what, res.status, problem, res.body)
	}
	return res
}

func (c *client) get(path string) *result { c.h.t.Helper(); return c.call(http.MethodGet, path, "") }
func (c *client) post(path, body string) *result {
	c.h.t.Helper()
	return c.call(http.MethodPost, path, body)
}
func (c *client) put(path, body string) *result {
	c.h.t.Helper()
	return c.call(http.MethodPut, path, body)
}
func (c *client) patch(path, body string) *result {
	c.h.t.Helper()
	return c.call(http.MethodPatch, path, body)
}
func (c *client) delete(path string) *result {
	c.h.t.Helper()
	return c.call(http.MethodDelete, path, "")
}

// want requires a status.
func (r *result) want(status int) *result {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("%s → %d, want %d\n%s", r.what, r.status, status, r.body)
	}
	return r
}

// fault requires an error with a status, whose message contains each text.
func (r *result) fault(status int, texts ...string) *result {
	r.t.Helper()
	r.want(status)
	for _, text := range texts {
		if !strings.Contains(string(r.body), text) {
			r.t.Errorf("%s → %s, which does not say %q", r.what, r.body, text)
		}
	}
	return r
}

// at digs a value out of the body: keys and indexes separated by dots.
func (r *result) at(path string) any {
	r.t.Helper()
	var v any
	if err := json.Unmarshal(r.body, &v); err != nil {
		r.t.Fatalf("%s: %v in %q", r.what, err, r.body)
	}
	for _, key := range strings.Split(path, ".") {
		switch node := v.(type) {
		case map[string]any:
			value, there := node[key]
			if !there {
				return absent
			}
			v = value
		case []any:
			var i int
			if _, err := fmt.Sscan(key, &i); err != nil || i >= len(node) {
				return absent
			}
			v = node[i]
		default:
			return absent
		}
	}
	return v
}

type absence struct{}

func (absence) String() string { return "absent" }

// absent is what at gives for a key that is not there, which is not the same as null.
var absent = absence{}

func (r *result) text(path string) string {
	r.t.Helper()
	s, ok := r.at(path).(string)
	if !ok {
		r.t.Fatalf("%s: %s is %v in %s", r.what, path, r.at(path), r.body)
	}
	return s
}

// has requires values, given as path and value in turn.
func (r *result) has(pairs ...any) *result {
	r.t.Helper()
	for pair := range slices.Chunk(pairs, 2) {
		want := pair[1]
		if n, ok := want.(int); ok {
			want = float64(n)
		}
		got := r.at(pair[0].(string))
		if fmt.Sprint(got) != fmt.Sprint(want) || fmt.Sprintf("%T", got) != fmt.Sprintf("%T", want) && want != nil {
			r.t.Errorf("%s: %s is %v (%T), want %v (%T)", r.what, pair[0], got, got, want, want)
		}
	}
	return r
}

func (r *result) operation() string {
	r.t.Helper()
	id := r.header.Get("Grove-Operation")
	if id == "" {
		r.t.Fatalf("%s → %d names no operation", r.what, r.status)
	}
	return id
}

// newInstance creates an instance and brings it to ACTIVE.
func (c *client) newInstance(name string) string {
	c.h.t.Helper()
	id := c.post("/instances", createBody(name)).want(200).text("instance.id")
	c.h.settle()
	return id
}

func createBody(name string) string {
	return fmt.Sprintf(`{"instance": {"name": %q, "flavorRef": "1", "volume": {"size": 1}}}`, name)
}

func (c *client) newConfiguration(name, values string) string {
	c.h.t.Helper()
	return c.post("/configurations", fmt.Sprintf(`{"configuration": {"name": %q, "values": %s}}`, name, values)).want(200).text("configuration.id")
}

// document is openapi.yaml, read once.
var document = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(OpenAPI)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background())
})

var documentRouter = sync.OnceValues(func() (routers.Router, error) {
	doc, err := document()
	if err != nil {
		return nil, err
	}
	return gorillamux.NewRouter(doc)
})

// checkContract holds an answer against openapi.yaml, and against what holds for every answer.
func checkContract(r *http.Request, res *result) (problems []string) {
	if res.header.Get("X-Openstack-Request-Id") == "" {
		problems = append(problems, "there is no request id")
	}
	if res.status >= 500 && res.status != 501 && res.status != 503 {
		problems = append(problems, "501 and 503 are the only 5xx")
	}
	if res.status == 503 && res.header.Get("Retry-After") == "" {
		problems = append(problems, "503 without Retry-After")
	}
	router, err := documentRouter()
	if err != nil {
		return append(problems, err.Error())
	}
	if strings.Contains(r.Header.Get("Accept"), "version=1.0") {
		r = r.Clone(r.Context())
		r.URL.Path = "/v1.0" + r.URL.Path
	}
	route, params, err := router.FindRoute(r)
	if err != nil || res.status == http.StatusNotAcceptable {
		return append(problems, checkNoRoute(res)...)
	}
	if r.URL.Query().Has("dry_run") && len(res.body) > 0 && res.status == http.StatusOK {
		return append(problems, checkSchema(res, "DryRun")...) // any changing request takes it
	}
	responses := route.Operation.Responses
	spec := responses.Status(res.status)
	if spec == nil {
		spec = responses.Default()
	}
	if spec == nil {
		return append(problems, "the document has no such answer")
	}
	if len(spec.Value.Content) == 0 && len(res.body) > 0 {
		problems = append(problems, "the document has no body here")
	}
	if len(spec.Value.Content) == 0 && res.header.Get("Content-Type") != "application/json" {
		problems = append(problems, "an empty answer is JSON by its header too")
	}
	if route.Path == "/metrics" || route.Path == "/openapi.yaml" {
		return problems
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 res.status, Header: res.header, Body: io.NopCloser(bytes.NewReader(res.body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	})
	if err != nil {
		problems = append(problems, err.Error())
	}
	return problems
}

// checkNoRoute holds for what no route answers: a fault, and nothing else.
func checkNoRoute(res *result) []string {
	if res.status < 400 {
		return []string{"the document has no such route"}
	}
	return checkSchema(res, "Fault")
}

// checkSchema holds a body against a schema of the document.
func checkSchema(res *result, schema string) []string {
	doc, err := document()
	if err != nil {
		return []string{err.Error()}
	}
	var body any
	if err := json.Unmarshal(res.body, &body); err != nil {
		return []string{err.Error()}
	}
	if err := doc.Components.Schemas[schema].Value.VisitJSON(body); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// syncBuffer is a log that many goroutines write.
type syncBuffer struct {
	mu    sync.Mutex
	b     bytes.Buffer
	muted bool
}

// mute lets go of what is written from now on.
func (b *syncBuffer) mute() { b.muted = true }

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.muted {
		return len(p), nil
	}
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// caller is who the requests of project demo come from.
func (h *house) caller() control.Caller {
	return control.Caller{ProjectID: "demo", UserID: "demo"}
}

// hashOf is the hash that a POST of an instance has.
func hashOf(t testing.TB, body string) string {
	t.Helper()
	return requestHash(&request{Request: httptest.NewRequest(http.MethodPost, "/v1.0/demo/instances", nil), body: []byte(body)})
}

// holds tells whether a text is in any column of a table.
func (h *house) holds(table, text string) bool {
	h.t.Helper()
	db, err := sql.Open("sqlite", h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	return strings.Contains(fmt.Sprint(queryAll(h.t, db, "SELECT * FROM "+table)), text)
}

func decodeState(op *dbaas.Operation, into any) error {
	if len(op.State) == 0 {
		return nil
	}
	return json.Unmarshal(op.State, into)
}
