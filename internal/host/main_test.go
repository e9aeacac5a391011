package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// helperEnv makes this test binary play a part of its own instead of running tests.
const helperEnv = "HOST_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "start-many":
		startMany(os.Args[1])
	case "start-one":
		startOne(os.Args[1])
	default:
		os.Exit(m.Run())
	}
}

// startMany starts units until it is killed.
func startMany(dir string) {
	p, err := OpenProcesses(dir, nil)
	for i := 0; err == nil; i++ {
		err = p.Start(context.Background(), UnitSpec{Name: fmt.Sprintf("u%d", i), Argv: []string{"sleep", "1000"}})
		fmt.Println(i)
	}
	fmt.Println(err)
	os.Exit(1)
}

// startOne starts one unit and waits to be killed.
func startOne(dir string) {
	p, err := OpenProcesses(dir, nil)
	if err == nil {
		err = p.Start(context.Background(), sleeper("db"))
	}
	fmt.Println(err)
	select {}
}

func sleeper(name string) UnitSpec {
	return UnitSpec{Name: name, Argv: []string{"sh", "-c", "echo up; sleep 1000 & wait"}, StopTimeout: 5}
}

// helper starts this binary in another part; it is killed when the test ends.
func helper(t *testing.T, part, dir string) (*exec.Cmd, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), helperEnv+"="+part)
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	t.Cleanup(func() {
		_ = r.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, r
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// asNobody runs a test of this binary again as an ordinary user.
func asNobody(t *testing.T, test string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return // is one
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("there is no user nobody")
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	dir, err := os.MkdirTemp("", "nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary := filepath.Join(dir, "host.test")
	if out, err := exec.Command("cp", os.Args[0], binary).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run", "^("+test+")$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
}
