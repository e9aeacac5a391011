package redis

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/host"
)

// otherUser is whom databases run as in these tests: every Debian has it.
const otherUser = "nobody"

// TestServerMode runs databases as a cloud's server does: as a user that is not the agent's.
func TestServerMode(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root may run databases as another user")
	}
	if os.Getenv(datastoretest.UserVariable) != "" {
		t.Skip("all tests run so already")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.v", "-test.run", "^(TestDatabaseUser|TestFormerlyRoots|TestConformance|TestAccounts|TestTLSModes|TestTLSKeyIsClosed|TestUpgrade)$")
	cmd.Env = append(os.Environ(), datastoretest.UserVariable+"="+otherUser, "PATH="+reachable(t)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDatabaseUser ") {
		t.Errorf("%v: %s", err, out)
	}
}

// reachable copies the servers to where other users may execute them: a developer's may be below /root.
func reachable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		found := host.Programs(nil, name)
		if len(found) == 0 {
			continue
		}
		program, err := os.ReadFile(found[0])
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), program, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// requireUser fails unless the server's process runs as another user with every one of its numbers, and in no group of ours.
func (g *trial) requireUser(t *testing.T, u *host.Owner) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.pid(t)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("\nUid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", u.UID), fmt.Sprintf("\nGid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", u.GID), "\nGroups:\t \n", "\nCapEff:\t0000000000000000\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the server runs without %q: %s", want, text)
		}
	}
	err = filepath.WalkDir(g.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) || d.Name() == markFile { // one that was written aside; ours
			return nil
		}
		if err == nil && info.Sys().(*syscall.Stat_t).Uid != uint32(u.UID) {
			t.Errorf("%s belongs to %d", path, info.Sys().(*syscall.Stat_t).Uid)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func userOf(t *testing.T, h *host.Host) *host.Owner {
	t.Helper()
	if os.Getenv(datastoretest.UserVariable) == "" {
		t.Skip("TestServerMode runs it")
	}
	if h.Owner == nil || h.Owner.UID == 0 {
		t.Fatalf("databases run as %+v", h.Owner)
	}
	return h.Owner
}

// TestDatabaseUser: the server is no root, and its user can change nothing that the agent goes by.
func TestDatabaseUser(t *testing.T) {
	h := datastoretest.Machine(t)
	u := userOf(t, h)
	g := upOn(t, h, redis70)
	g.requireUser(t, u)
	c := g.tenant(t)
	if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	try := func(script string) error {
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}}
		return cmd.Run()
	}
	for _, allowed := range []string{"cat " + g.path(configFile), "cat " + g.path(aclFile), "touch " + g.path("own"), "touch " + filepath.Join(g.data, "own")} {
		if err := try(allowed); err != nil {
			t.Errorf("%s: %v", allowed, err)
		}
	}
	for _, refused := range []string{
		"cat " + g.path(recordFile), "rm -f " + g.path(recordFile), "mv " + g.path(configFile) + " " + g.path("x"), "echo >> " + g.path(configFile),
		"echo >> " + g.path(aclFile), "ls " + h.Dir, "touch " + filepath.Join(h.Dir, "x"), "touch " + filepath.Join(h.DataDir, "x"), "ls " + filepath.Join(h.Dir, "units"),
	} {
		if try(refused) == nil {
			t.Errorf("the database's user may %s", refused)
		}
	}
	// what it plants is not followed
	victim := filepath.Join(filepath.Dir(h.Dir), "victim")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := try("ln -s " + victim + " " + filepath.Join(g.data, "link") + "; ln -s " + filepath.Dir(victim) + " " + filepath.Join(g.data, "dir")); err != nil {
		t.Fatal(err)
	}
	if err := chownAll(g.data, 12345); err != nil { // the volume comes from a machine where the user had another number
		t.Fatal(err)
	}
	g.restart(t)
	g.requireUser(t, u)
	if info, err := os.Stat(victim); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("a link was followed: %v, %v", info, err)
	}
	if v, err := c.Get(t.Context(), "k").Result(); v != "v" {
		t.Errorf("k is %q, %v", v, err)
	}
	if err := g.host.Units.Kill(t.Context(), unit); err != nil { // its socket stays behind
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.requireUser(t, u)
}

// TestFormerlyRoots: a database that an agent of before ran as root goes on as root until it is started again, and then is not.
func TestFormerlyRoots(t *testing.T) {
	h := datastoretest.Machine(t)
	u := userOf(t, h)
	old, err := host.Spec{Dir: h.Dir, DataDir: h.DataDir, Address: h.Address, SizeFile: filepath.Join(filepath.Dir(h.DataDir), "size")}.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	before := upOn(t, old, redis70)
	if err := before.tenant(t).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	pid := before.pid(t)
	old.Close()
	_ = before.Close()
	g := &trial{Guest: newGuest(datastoretest.Reopen(t, h)), desired: before.desired}
	t.Cleanup(func() { _ = g.Close() })
	if err := g.Start(t.Context()); err != nil || g.pid(t) != pid {
		t.Fatalf("the database that ran is not adopted: %v", err)
	}
	g.restart(t)
	g.requireUser(t, u)
	if v, err := g.tenant(t).Get(t.Context(), "k").Result(); v != "v" {
		t.Errorf("k is %q, %v", v, err)
	}
}

func chownAll(dir string, uid int) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, uid)
	})
}
