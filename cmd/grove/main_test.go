package main

import (
	"bufio"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"grove": main})
}

// TestConversations runs the scripts of testdata/script against a Grove in memory of their own. With
// UPDATE_GOLDEN=1 in the environment the golden outputs in the scripts are written anew.
func TestConversations(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_GOLDEN") != "",
		Setup: func(env *testscript.Env) error {
			d := newDouble()
			server := httptest.NewUnstartedServer(d)
			server.Config.ErrorLog = log.New(io.Discard, "", 0) // it aborts connections on purpose
			server.Start()
			env.Defer(server.Close)
			env.Values["double"] = d
			for _, v := range cleanEnvironment(env) {
				env.Setenv(v[0], v[1])
			}
			env.Setenv("SERVER", server.URL)
			env.Setenv("GROVE_ENDPOINT", server.URL)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":     exits,
			"busy":      busy,
			"keys":      keys,
			"interrupt": interrupt,
		},
	})
}

// cleanEnvironment is what scripts see of the environment: nothing that chooses a server, and a proxy that must not be
// used for this machine.
func cleanEnvironment(env *testscript.Env) [][2]string {
	return [][2]string{
		{"HOME", env.WorkDir + "/home"},
		{"GORACE", "atexit_sleep_ms=0"}, // else each of some hundred processes ends a second later under the race detector
		{"HTTP_PROXY", "http://127.0.0.1:1"}, {"http_proxy", "http://127.0.0.1:1"}, {"NO_PROXY", ""}, {"no_proxy", ""},
	}
}

// exits runs a command that must end with a code: exits 64 grove instance show.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// busy lets the server answer the next n GETs with 503.
func busy(ts *testscript.TestScript, _ bool, args []string) {
	d := ts.Value("double").(*double)
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	d.busy = n
}

// keys compares the idempotency keys that came: "keys a a" wants two equal ones called a, "keys * a" any first.
func keys(ts *testscript.TestScript, _ bool, want []string) {
	d := ts.Value("double").(*double)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.keys) != len(want) {
		ts.Fatalf("the keys are %q", d.keys)
	}
	for i, key := range d.keys {
		switch {
		case key == "":
			ts.Fatalf("POST %d came without an idempotency key", i+1)
		case want[i] == "=" && key != d.keys[i-1]:
			ts.Fatalf("key %d, %q, is not the one before it, %q", i+1, key, d.keys[i-1])
		case want[i] != "=" && want[i] != "*" && want[i] != key:
			ts.Fatalf("key %d is %q, want %q", i+1, key, want[i])
		}
	}
}

// interrupt runs a command, presses Ctrl-C when its standard error says what a pattern wants, and leaves what it said
// in the files out and err: interrupt ensureVolume grove operation watch ID. It must end with 130.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	path := filepath.SplitList(ts.Getenv("PATH"))[0]
	cmd := exec.Command(filepath.Join(path, args[1]), args[2:]...)
	for _, name := range []string{"PATH", "HOME", "GROVE_ENDPOINT", "GORACE", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var out strings.Builder
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	var said strings.Builder
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), args[0]) {
			ts.Check(cmd.Process.Signal(os.Interrupt))
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
		ts.Fatalf("%v, want exit code %d; it said:\n%s", err, exitInterrupted, said.String())
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), []byte(out.String()), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("err"), []byte(said.String()), 0o600))
}
