package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/grove-dbaas/grove/api"
	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// TestConversationsWithTheRealAPI runs the scripts of testdata/real against the API, the use cases, the engine and the
// store as they are, on SQLite. Only the workflows are small ones: they have no cloud.
func TestConversationsWithTheRealAPI(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/real",
		Setup: func(env *testscript.Env) error {
			url, stop, err := startReal(env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(stop)
			for _, v := range cleanEnvironment(env) {
				env.Setenv(v[0], v[1])
			}
			env.Setenv("SERVER", url)
			env.Setenv("GROVE_ENDPOINT", url)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

func startReal(dir string) (url string, stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	logger := slog.New(slog.DiscardHandler)
	keys, keyErr := secret.CreateKeyring(filepath.Join(dir, "master.key"))
	st, err := store.Open(ctx, store.Options{URL: "sqlite://" + filepath.Join(dir, "grove.db"), Clock: clock.Real{}, Keyring: keys, Logger: logger})
	if err = errors.Join(keyErr, err); err != nil {
		cancel()
		return "", nil, err
	}
	ctl := control.New(control.Config{
		Store: st, Datastores: []datastore.Datastore{shelf{}}, Region: "local", DefaultDatastore: "redis", MaxVolumeSize: 50,
		Quotas: map[string]int{"instances": 100, "volumes": 1000, "backups": 50, "ram": -1},
		Node:   "test", Clock: clock.Real{}, Logger: logger,
	})
	e, engineErr := engine.New(engine.Config{
		Store: st, Workflows: workflows(st), Worker: "test", ScanEvery: 10 * time.Millisecond, Clock: clock.Real{}, Logger: logger,
	})
	handler, apiErr := api.New(api.Config{Control: ctl, PageSize: 2, Logger: logger})
	if err := errors.Join(engineErr, apiErr, furnish(ctx, st, ctl)); err != nil {
		cancel()
		return "", nil, errors.Join(err, st.Close())
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = e.Run(ctx) }()
	server := httptest.NewServer(handler)
	return server.URL, func() {
		server.Close()
		cancel()
		<-ended
		_ = st.Close()
	}, nil
}

func furnish(ctx context.Context, st *store.Store, ctl *control.Service) error {
	if err := st.Migrate(ctx); err != nil {
		return err
	}
	catalog := &dbaas.Catalog{Region: "local", Flavors: []dbaas.Flavor{
		{ID: "1", Name: "db.tiny", RAM: 512, VCPUs: 1, Disk: 5}, {ID: "2", Name: "db.small", RAM: 1024, VCPUs: 1, Disk: 10},
	}}
	return errors.Join(
		ctl.SyncDatastores(ctx, func(v datastore.Version) string { return v.Number + "15" }),
		st.Tx(ctx, func(tx *store.Tx) error { return tx.SaveCatalog(catalog) }),
	)
}

// workflows has one of two steps for each kind: one that waits once, and one that has the effect on the rows.
func workflows(st *store.Store) []engine.Workflow {
	var all []engine.Workflow
	for _, kind := range []string{"create_instance", "delete_instance", "restart_instance", "resize_volume", "resize_flavor", "configure_instance", "set_password"} {
		all = append(all, engine.Workflow{
			Kind: kind, Doc: kind,
			Steps: []engine.Step{
				{Name: "awaitVolume", Doc: "waiting for the volume", Within: time.Hour, Run: waitOnce},
				{Name: "markActive", Doc: "finishing", Within: time.Hour, Run: func(ctx context.Context, op *engine.Operation) error {
					return st.Fenced(ctx, &op.Operation, func(tx *store.Tx) error { return effect(tx, op) })
				}},
			},
			Failed: func(ctx context.Context, op *engine.Operation) error {
				return st.Fenced(ctx, &op.Operation, func(tx *store.Tx) error { return release(tx, op) })
			},
			Ended: "as it was",
		})
	}
	return all
}

// waitOnce waits a moment; a restart waits until it is superseded or cancelled.
func waitOnce(_ context.Context, op *engine.Operation) error {
	if op.Kind == "restart_instance" {
		op.SetProgress("the database is stopping")
		return engine.Wait(time.Minute)
	}
	if op.Progress == "" {
		op.SetProgress("the volume is being made")
		return engine.Wait(200 * time.Millisecond)
	}
	return nil
}

func effect(tx *store.Tx, op *engine.Operation) error {
	if op.Kind == "delete_instance" {
		return tx.DeleteInstance(op.ResourceID)
	}
	in, err := tx.Instance(op.ResourceID)
	if err != nil {
		return err
	}
	if in.Name == "broken" {
		return engine.Permanent(dbaas.Errorf(dbaas.Unprocessable, "The server did not come up."))
	}
	in.Task = dbaas.TaskNone
	switch op.Kind {
	case "create_instance":
		in.Addresses = []dbaas.Address{{Address: "127.77.0.5", Type: "private"}}
	case "set_password":
		if err := movePassword(tx, in, op); err != nil {
			return err
		}
	}
	return tx.UpdateInstance(in)
}

func release(tx *store.Tx, op *engine.Operation) error {
	in, err := tx.Instance(op.ResourceID)
	if err != nil {
		return err
	}
	in.Task, in.Fault = dbaas.TaskNone, op.Failure
	return tx.UpdateInstance(in)
}

func movePassword(tx *store.Tx, in *dbaas.Instance, op *engine.Operation) error {
	var state control.PasswordState
	if err := json.Unmarshal(op.State, &state); err != nil {
		return err
	}
	in.RootEnabledAt = 0
	if state.RootEnabled {
		in.RootEnabledAt, in.RootEnabledBy = tx.Now(), state.EnabledBy
	}
	id, err := tx.FindSecret(in.GroupID, control.SecretPendingPassword)
	if err != nil {
		return err
	}
	return tx.SecretMoveTo(id, control.SecretPassword)
}

// shelf is a datastore that is only a manifest: the API needs no more.
type shelf struct{}

func (shelf) Guest(*host.Host) datastore.Guest { return nil }

func (shelf) Manifest() *datastore.Manifest {
	low, high := int64(1), int64(500)
	return &datastore.Manifest{
		Name: "redis", DefaultVersion: "7.0", Username: "default", URIScheme: "redis", URIPort: 6379, Root: "-",
		Versions:     []datastore.Version{{Name: "7.0", Number: "7.0"}, {Name: "valkey-8.0", Number: "8.0"}},
		Capabilities: datastore.Capabilities{Replication: true, Persistence: []dbaas.Persistence{dbaas.PersistenceAOF}, Root: true},
		Defaults:     func(string, datastore.Sizing) map[string]any { return map[string]any{"hz": 10} },
		Parameters: []datastore.Parameter{
			{Name: "hz", Type: datastore.TypeInteger, Min: &low, Max: &high, Who: datastore.WhoTenant},
			{Name: "save", Type: datastore.TypeString, Who: datastore.WhoTenant},
			{Name: "requirepass", Type: datastore.TypeString, Who: datastore.WhoTenant, Secret: true},
		},
	}
}
