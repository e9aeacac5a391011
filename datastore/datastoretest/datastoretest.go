// Package datastoretest is the conformance suite of [datastore.Datastore]: each implementation passes it on a real host
// with its real server.
package datastoretest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// Fixture is what the suite must know of a datastore to try it.
type Fixture struct {
	Datastore datastore.Datastore
	Version   string
	// Connect logs in as a tenant does.
	Connect func(ctx context.Context, address, password string) (Tenant, error)
	// Dynamic and Static are values of a configuration group: taken live, and at the next start.
	Dynamic, Static map[string]any
	// Refused is a value that the server refuses though the manifest takes it; nil: there is none.
	Refused map[string]any
}

// Tenant is a tenant's connection.
type Tenant interface {
	Put(ctx context.Context, key, value string) error
	Find(ctx context.Context, key string) (string, error) // "" where there is none
	Close() error
}

// Machine is a host of its own for one test, on a loopback address that nobody else has. Its database is killed at the
// end.
func Machine(t testing.TB) *host.Host {
	t.Helper()
	return MachineIn(t, t.TempDir())
}

// MachineIn is Machine in a directory of the test's choice.
func MachineIn(t testing.TB, dir string) *host.Host {
	t.Helper()
	address := Address(t)
	agent, data, size := filepath.Join(dir, "agent"), filepath.Join(dir, "data"), filepath.Join(dir, "size")
	for _, d := range []string{agent, data} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(size, []byte(fmt.Sprint(1<<30)), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := host.Spec{Dir: agent, DataDir: data, Address: address, SizeFile: size, User: unitUser(t, dir)}.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Destroy(t, h) })
	return h
}

// UserVariable names, in the environment, the user that databases of machines run as, as they do on a cloud's server. It takes
// root.
const UserVariable = "GROVE_TEST_DATABASE_USER"

// unitUser lets the user of the environment reach a machine's directory.
func unitUser(t testing.TB, dir string) string {
	t.Helper()
	name := os.Getenv(UserVariable)
	for ; name != "" && dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(dir, info.Mode().Perm()|0o011); err != nil {
				t.Fatal(err)
			}
		}
	}
	return name
}

// Destroy kills what runs on a host.
func Destroy(t testing.TB, h *host.Host) {
	t.Helper()
	units := h.Units.(*host.Processes)
	if err := units.Destroy(context.Background()); err != nil {
		t.Errorf("kill the units of %s: %v", h.Dir, err)
	}
	units.Close()
}

// Reopen gives the host as the next agent finds it.
func Reopen(t testing.TB, h *host.Host) *host.Host {
	t.Helper()
	h.Units.(*host.Processes).Close()
	again, err := host.Spec{Dir: h.Dir, DataDir: h.DataDir, Address: h.Address, SizeFile: filepath.Join(filepath.Dir(h.DataDir), "size"), User: os.Getenv(UserVariable)}.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Destroy(t, again) })
	return again
}

// Address gives a loopback address, chosen at random among many.
func Address(t testing.TB) string {
	t.Helper()
	var b [3]byte
	rand.Read(b[:])
	return fmt.Sprintf("127.%d.%d.%d", 100+b[0]%100, b[1], 1+b[2]%254)
}

// Desired is a small database as wanted.
func Desired(version string, h *host.Host) datastore.Desired {
	return datastore.Desired{
		Version: version, Address: h.Address, FlavorRAM: 512, VCPUs: 1, VolumeSize: 1,
		Secrets: map[string]string{"password": Password},
	}
}

// Password is the tenant's first password.
const Password = "correct-horse-battery-staple-0123456"

// Up prepares and starts a database and waits until it is healthy.
func Up(t testing.TB, g datastore.Guest, d datastore.Desired) {
	t.Helper()
	ctx := t.Context()
	if err := g.Prepare(ctx, d); err != nil {
		t.Fatalf("prepare: %v", err)
	}
	if err := g.Start(ctx); err != nil {
		t.Fatalf("start: %v", err)
	}
	Await(t, g, dbaas.GuestHealthy)
}

// Await waits until the database has a status.
func Await(t testing.TB, g datastore.Guest, want dbaas.GuestStatus) datastore.Status {
	t.Helper()
	var s datastore.Status
	testbed.Eventually(t, 30*time.Second, func() error {
		if s = g.Status(t.Context()); s.Status != want {
			return fmt.Errorf("the database is %s (%s), not %s", s.Status, s.Cause, want)
		}
		return nil
	})
	return s
}

// suite is one run of Run.
type suite struct {
	Fixture
}

// Run tries a datastore.
func Run(t *testing.T, f Fixture) {
	s := suite{f}
	t.Run("manifest", s.testManifest)
	t.Run("life", s.testLife)
	t.Run("interrupted", s.testInterrupted)
	t.Run("configure", s.testConfigure)
	t.Run("password", s.testPassword)
	t.Run("unmounted", s.testUnmounted)
	t.Run("foreign volume", s.testForeignVolume)
	t.Run("adopted", s.testAdopted)
	t.Run("replica", s.testReplica)
}

func (s suite) testManifest(t *testing.T) {
	m := s.Datastore.Manifest()
	if _, ok := m.Version(s.Version); !ok {
		t.Fatalf("the manifest has no version %q", s.Version)
	}
	if _, ok := m.Version(m.DefaultVersion); !ok {
		t.Errorf("the manifest has no version %q, its default", m.DefaultVersion)
	}
	if m.Name == "" || m.Username == "" || m.URIScheme == "" || len(m.TCPPorts) == 0 {
		t.Errorf("the manifest says too little: %+v", m)
	}
	sizing := datastore.Sizing{FlavorRAM: 1024, VolumeSize: 1}
	defaults := m.Defaults(s.Version, sizing)
	for i := range m.Parameters {
		p := &m.Parameters[i]
		if found, ok := m.Parameter(s.Version, strings.ToUpper(p.Name)); p.KnownTo(s.Version) && (!ok || found.Name != p.Name) {
			t.Errorf("parameter %s is not found by its name in capitals", p.Name)
		}
		if p.Who != datastore.WhoTenant && p.Why == "" {
			t.Errorf("parameter %s is forbidden without a reason", p.Name)
		}
		if p.Who != datastore.WhoTenant || !p.KnownTo(s.Version) || p.Secret {
			continue
		}
		value, ok := defaults[p.Name]
		if !ok {
			t.Errorf("parameter %s has no value in the template: detaching a group could not put it back", p.Name)
		} else if !hasType(p.Type, value) {
			t.Errorf("the template's value of %s is a %T", p.Name, value)
		}
	}
}

func hasType(p datastore.Type, value any) bool {
	var ok bool
	switch p {
	case datastore.TypeBoolean:
		_, ok = value.(bool)
	case datastore.TypeInteger:
		_, ok = value.(int64)
	case datastore.TypeFloat:
		_, ok = value.(float64)
	case datastore.TypeString:
		_, ok = value.(string)
	}
	return ok
}

// tenant logs in.
func (s suite) tenant(t *testing.T, h *host.Host, password string) Tenant {
	t.Helper()
	c, err := s.Connect(t.Context(), h.Address, password)
	if err != nil {
		t.Fatalf("log in as the tenant: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s suite) requireValue(t *testing.T, h *host.Host, key, want string) {
	t.Helper()
	got, err := s.tenant(t, h, Password).Find(t.Context(), key)
	if err != nil || got != want {
		t.Errorf("key %s holds %q, %v; want %q", key, got, err, want)
	}
}

// testLife goes through everything twice: each deed may be repeated.
func (s suite) testLife(t *testing.T) {
	h := Machine(t)
	g := s.Datastore.Guest(h)
	if st := g.Status(t.Context()); st.Status == dbaas.GuestHealthy {
		t.Errorf("a database that was never prepared is %s", st.Status)
	}
	for range 2 {
		Up(t, g, Desired(s.Version, h))
	}
	if st := g.Status(t.Context()); len(st.Metrics) == 0 || len(st.Observed) == 0 {
		t.Errorf("a healthy database tells nothing of itself: %+v", st)
	}
	if err := s.tenant(t, h, Password).Put(t.Context(), "kept", "yes"); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Connect(t.Context(), h.Address, "wrong"); err == nil {
		t.Error("a wrong password lets in")
		_ = c.Close()
	}
	for range 2 {
		if err := g.Stop(t.Context()); err != nil {
			t.Fatalf("stop: %v", err)
		}
		if st := g.Status(t.Context()); st.Status != dbaas.GuestShutdown {
			t.Errorf("a stopped database is %s (%s)", st.Status, st.Cause)
		}
	}
	for range 2 {
		if err := g.Start(t.Context()); err != nil {
			t.Fatalf("start: %v", err)
		}
	}
	Await(t, g, dbaas.GuestHealthy)
	s.requireValue(t, h, "kept", "yes")
	for _, unit := range g.Units() {
		if err := h.Units.Kill(t.Context(), unit); err != nil {
			t.Fatal(err)
		}
	}
	if st := g.Status(t.Context()); st.Status != dbaas.GuestCrashed || st.Cause == "" {
		t.Errorf("a killed database is %s (%s)", st.Status, st.Cause)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatalf("start after a crash: %v", err)
	}
	Await(t, g, dbaas.GuestHealthy)
	s.requireValue(t, h, "kept", "yes")
}

// testInterrupted cuts deeds off at many points, and does them again.
func (s suite) testInterrupted(t *testing.T) {
	h := Machine(t)
	d := Desired(s.Version, h)
	for wait := time.Duration(0); wait <= 32*time.Millisecond; wait = 2*wait + time.Millisecond {
		g := s.Datastore.Guest(h)
		until := time.Now().Add(wait)
		ctx, cancel := context.WithDeadline(t.Context(), until)
		if err := g.Prepare(ctx, d); err == nil {
			err = g.Start(ctx)
			if err != nil && time.Now().Before(until) { // a connection's deadline passes before the context is done
				t.Errorf("start: %v", err)
			}
		}
		cancel()
	}
	g := s.Datastore.Guest(h)
	Up(t, g, d)
	if err := s.tenant(t, h, Password).Put(t.Context(), "a", "b"); err != nil {
		t.Error(err)
	}
}

func (s suite) testConfigure(t *testing.T) {
	h := Machine(t)
	g := s.Datastore.Guest(h)
	d := Desired(s.Version, h)
	Up(t, g, d)
	d.Secrets = nil
	configure := func(values map[string]any, want ...string) {
		t.Helper()
		d.Values = values
		applied, err := g.Configure(t.Context(), d)
		if err != nil || len(applied.Effective) > 0 || strings.Join(applied.RestartRequired, " ") != strings.Join(want, " ") {
			t.Fatalf("configure %v: %+v, %v; want these to require a restart: %q", values, applied, err, want)
		}
	}
	static := make([]string, 0, len(s.Static))
	for name := range s.Static {
		static = append(static, name)
	}
	configure(nil)
	configure(s.Dynamic)
	configure(s.Dynamic)
	configure(s.Static, static...) // and puts the dynamic ones back
	configure(s.Static, static...)
	if s.Refused != nil {
		s.requireRefusal(t, g, d)
		configure(s.Static, static...)
	}
	if err := errors.Join(g.Stop(t.Context()), g.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	Await(t, g, dbaas.GuestHealthy)
	configure(s.Static)
	configure(nil, static...)
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	configure(s.Dynamic) // of one that does not run
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	Await(t, g, dbaas.GuestHealthy)
	configure(s.Dynamic)
}

func (s suite) requireRefusal(t *testing.T, g datastore.Guest, d datastore.Desired) {
	t.Helper()
	d.Values = s.Refused
	_, err := g.Configure(t.Context(), d)
	if dbaas.ErrorCode(err) != dbaas.Unprocessable {
		t.Fatalf("configure %v: %v; want a refusal", s.Refused, err)
	}
	for name := range s.Refused {
		if !strings.Contains(dbaas.ErrorMessage(err), name) && len(s.Refused) == 1 {
			t.Errorf("the refusal does not name %s: %s", name, dbaas.ErrorMessage(err))
		}
	}
}

// testPassword changes the password: connections stay, the old one lets nobody in, and a restart changes nothing.
func (s suite) testPassword(t *testing.T) {
	h := Machine(t)
	g := s.Datastore.Guest(h)
	d := Desired(s.Version, h)
	Up(t, g, d)
	before := s.tenant(t, h, Password)
	const changed = "another-password-of-this-tenant-0123"
	d.Secrets = map[string]string{"password": changed}
	for range 2 {
		if _, err := g.Configure(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	if err := before.Put(t.Context(), "still", "here"); err != nil {
		t.Errorf("an open connection was cut: %v", err)
	}
	requireChanged := func() {
		t.Helper()
		if c, err := s.Connect(t.Context(), h.Address, Password); err == nil {
			t.Error("the old password still lets in")
			_ = c.Close()
		}
		s.tenant(t, h, changed)
	}
	requireChanged()
	d.Secrets = nil // as they are
	if _, err := g.Configure(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Stop(t.Context()), g.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	Await(t, g, dbaas.GuestHealthy)
	requireChanged()
	requireNoSecret(t, h, changed)
}

// requireNoSecret looks for a password in all that is on disk.
func requireNoSecret(t *testing.T, h *host.Host, password string) {
	t.Helper()
	err := filepath.Walk(filepath.Dir(h.Dir), func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), password) {
			t.Errorf("the password is written in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// unmounted is a volume that is not there.
type unmounted struct{ host.Volume }

func (unmounted) Mounted(context.Context) (bool, error) { return false, nil }

func (s suite) testUnmounted(t *testing.T) {
	h := Machine(t)
	g := s.Datastore.Guest(h)
	Up(t, g, Desired(s.Version, h))
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Volume = unmounted{h.Volume}
	if err := g.Start(t.Context()); err == nil {
		t.Error("the database was started without its volume")
	}
	if err := g.Prepare(t.Context(), Desired(s.Version, h)); err == nil {
		t.Error("a database was prepared without its volume")
	}
}

// testForeignVolume puts an empty volume in the place of the database's own.
func (s suite) testForeignVolume(t *testing.T) {
	h := Machine(t)
	g := s.Datastore.Guest(h)
	Up(t, g, Desired(s.Version, h))
	if err := s.tenant(t, h, Password).Put(t.Context(), "kept", "yes"); err != nil {
		t.Fatal(err)
	}
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	away := h.DataDir + ".away"
	if err := errors.Join(os.Rename(h.DataDir, away), os.Mkdir(h.DataDir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err == nil {
		t.Error("the database was started empty on another volume")
	}
	if err := errors.Join(os.RemoveAll(h.DataDir), os.Rename(away, h.DataDir)); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	Await(t, g, dbaas.GuestHealthy)
	s.requireValue(t, h, "kept", "yes")
}

// testAdopted leaves a running database to the next agent.
func (s suite) testAdopted(t *testing.T) {
	h := Machine(t)
	Up(t, s.Datastore.Guest(h), Desired(s.Version, h))
	before, err := h.Units.State(t.Context(), s.Datastore.Guest(h).Units()[0])
	if err != nil {
		t.Fatal(err)
	}
	again := Reopen(t, h)
	g := s.Datastore.Guest(again)
	Await(t, g, dbaas.GuestHealthy)
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := again.Units.State(t.Context(), g.Units()[0])
	if err != nil || !after.Running || after.Started != before.Started {
		t.Errorf("the process was %+v and is %+v, %v", before, after, err)
	}
	Destroy(t, again)
}
