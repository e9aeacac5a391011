// Package e2e drives the whole house as its users do: the real programs, REST from outside, real databases.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/testbed"
)

// bin is where TestMain built the programs.
var bin string

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "grove-e2e-bin"); err != nil {
		panic(err)
	}
	testbed.AtExit(func() { os.RemoveAll(bin) })
	build := exec.Command("go", append(append([]string{"build"}, raceFlag...), "-o", bin+"/", "../../cmd/...")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		os.Exit(1)
	}
	// Those that run side by side mostly wait; by default they would be as many as processors.
	if err := flag.Set("test.parallel", "3"); err != nil {
		panic(err)
	}
	testbed.Main(m)
}

// house is a running `groved dev`, or another role of groved.
type house struct {
	t       testing.TB
	dir     string
	role    string // "" is dev
	token   string // of Keystone, "" for none
	args    []string
	cmd     *exec.Cmd
	exited  chan struct{}
	base    string // http://address
	project string
	log     *os.File
}

// open starts a house on a fresh data directory, and ends it with the test.
func open(t testing.TB, args ...string) *house {
	t.Helper()
	h := &house{t: t, dir: filepath.Join(t.TempDir(), "data"), args: args, project: "demo"}
	h.start()
	t.Cleanup(func() {
		h.tellAfterFailure()
		h.stop()
		if t.Failed() {
			if text, err := os.ReadFile(h.log.Name()); err == nil {
				t.Logf("groved's log:\n%s", tail(withoutRequests(text), 8000))
			}
		}
		h.requireNothingLeft()
	})
	return h
}

// tellAfterFailure writes down what was done and what happened, should the test have failed.
func (h *house) tellAfterFailure() {
	if !h.t.Failed() {
		return
	}
	for path, fields := range map[string][]string{
		"operations": {"created", "ended", "kind", "status", "step", "progress", "resource_id", "failure"},
		"events":     {"created", "kind", "message", "resource_id", "after"},
	} {
		a, err := h.try("GET", "/"+path, nil)
		if err != nil {
			h.t.Logf("%s: %v", path, err)
			return
		}
		list, _ := a.body.at(path).([]any)
		for _, one := range list {
			var line []any
			for _, f := range fields {
				line = append(line, object(one.(map[string]any)).at(f))
			}
			if !strings.Contains(fmt.Sprint(line...), "Step ") {
				h.t.Log(append([]any{path}, line...)...)
			}
		}
	}
}

// withoutRequests drops the access log, which conditions that are polled fill.
func withoutRequests(log []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(log) {
		if !bytes.Contains(line, []byte("msg=request ")) {
			kept = append(kept, line...)
		}
	}
	return kept
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

// start runs groved and waits for its line.
func (h *house) start() {
	h.t.Helper()
	if err := h.tryStart(); err != nil {
		h.t.Fatal(err)
	}
}

// tryStart is start, for what may end at once because something that it needs is away.
func (h *house) tryStart() (err error) {
	if h.log, err = os.OpenFile(filepath.Join(filepath.Dir(h.dir), "groved"+h.role+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	defer h.log.Close() // it is opened by its name to be read
	args := []string{"dev", "--listen", "127.0.0.1:0", "--data", h.dir}
	if h.role != "" {
		args = []string{h.role}
	}
	h.cmd = exec.Command(filepath.Join(bin, "groved"), append(args, h.args...)...)
	h.cmd.Stderr = h.log
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := h.cmd.Start(); err != nil {
		return err
	}
	h.exited = make(chan struct{})
	line := make(chan string, 1)
	go func() {
		scanner := bufio.NewScanner(stdout)
		if scanner.Scan() {
			line <- scanner.Text()
		}
		_, _ = io.Copy(io.Discard, stdout)
		_ = h.cmd.Wait()
		close(h.exited)
	}()
	select {
	case l := <-line:
		address, ok := strings.CutPrefix(l, "grove ready ")
		if !ok && l != "grove "+h.role+" ready" {
			return fmt.Errorf("groved said %q", l)
		}
		h.base = address
		return nil
	case <-h.exited:
		text, _ := os.ReadFile(h.log.Name())
		return fmt.Errorf("groved ended before it was ready:\n%s", tail(text, 4000))
	case <-time.After(60 * time.Second):
		return errors.New("groved was not ready within 60 s")
	}
}

// kill ends groved as a crash does.
func (h *house) kill() {
	_ = h.cmd.Process.Signal(syscall.SIGKILL)
	<-h.exited
}

// stop ends groved cleanly; one that has ended already is left alone.
func (h *house) stop() {
	h.t.Helper()
	select {
	case <-h.exited:
		return
	default:
	}
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.exited:
	case <-time.After(60 * time.Second):
		_ = h.cmd.Process.Signal(syscall.SIGQUIT)
		<-h.exited
		h.t.Error("groved did not end within 60 s of SIGTERM")
	}
}

// requireNothingLeft fails when a process or a mount of this house outlived it.
func (h *house) requireNothingLeft() {
	h.t.Helper()
	eventually(h.t, 20*time.Second, func() error {
		if left := processesNaming(h.dir); len(left) > 0 {
			return fmt.Errorf("processes are left: %v", left)
		}
		mounts, err := os.ReadFile("/proc/mounts")
		if err != nil {
			return err
		}
		if bytes.Contains(mounts, []byte(h.dir)) {
			return errors.New("a volume is still mounted")
		}
		return nil
	})
}

// processesNaming lists the command lines of processes that name dir.
func processesNaming(dir string) []string {
	var found []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil || p == fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join(filepath.Dir(p), "cwd"))
		if bytes.Contains(text, []byte(dir)) || strings.HasPrefix(cwd, dir) {
			found = append(found, filepath.Base(filepath.Dir(p))+" "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return found
}

// eventually waits until check passes, and fails with what it said last.
func eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", within, err)
		}
		<-tick.C
	}
}

// object is a JSON object as it came over the wire.
type object map[string]any

// at walks into nested objects and lists: at("instance", "volume", "size").
func (o object) at(path ...any) any {
	var v any = map[string]any(o)
	for _, p := range path {
		switch key := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[key]
		case int:
			l, _ := v.([]any)
			if key >= len(l) {
				return nil
			}
			v = l[key]
		}
	}
	return v
}

func (o object) text(path ...any) string {
	s, _ := o.at(path...).(string)
	return s
}

// answer is what a request came back with.
type answer struct {
	status int
	header http.Header
	body   object
	raw    string
}

// try sends a request below the project and does not judge the answer.
func (h *house) try(method, path string, body any, header ...string) (*answer, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, h.base+"/v1.0/"+h.project+path, payload)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if h.token != "" {
		req.Header.Set("X-Auth-Token", h.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	a := &answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	if len(raw) > 0 {
		_ = json.Unmarshal(raw, &a.body)
	}
	return a, nil
}

// do sends a request that must be answered with status.
func (h *house) do(status int, method, path string, body any, header ...string) *answer {
	h.t.Helper()
	a, err := h.try(method, path, body, header...)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.status != status {
		h.t.Fatalf("%s %s: status %d, want %d: %s", method, path, a.status, status, a.raw)
	}
	return a
}

// instance is a Redis instance as its tenant knows it.
type instance struct {
	h        *house
	id       string
	password string
}

// create asks for an instance and does not wait for it.
func (h *house) create(name string, more ...object) *instance {
	h.t.Helper()
	wish := object{"name": name, "flavorRef": "1", "volume": object{"size": 1}}
	for _, m := range more {
		for k, v := range m {
			wish[k] = v
		}
	}
	a := h.do(200, "POST", "/instances", object{"instance": wish})
	return &instance{h: h, id: a.body.text("instance", "id"), password: a.body.text("instance", "password")}
}

// createActive asks for an instance and waits until it serves.
func (h *house) createActive(name string, more ...object) *instance {
	h.t.Helper()
	in := h.create(name, more...)
	in.await("ACTIVE", "HEALTHY")
	return in
}

func (in *instance) show() object {
	in.h.t.Helper()
	return in.h.do(200, "GET", "/instances/"+in.id, nil).body
}

// await waits for a status and operating status; ERROR fails at once unless it is what is waited for.
func (in *instance) await(status, operating string) {
	in.h.t.Helper()
	in.awaitWithin(90*time.Second, status, operating)
}

func (in *instance) awaitWithin(within time.Duration, status, operating string) {
	in.h.t.Helper()
	eventually(in.h.t, within, func() error {
		v := in.show()
		s, o := v.text("instance", "status"), v.text("instance", "operating_status")
		if s == "ERROR" && status != "ERROR" {
			in.h.t.Fatalf("instance %s is in ERROR: %v", in.id, v.at("instance", "fault"))
		}
		if s != status || o != operating {
			return fmt.Errorf("instance %s is %s/%s, want %s/%s", in.id, s, o, status, operating)
		}
		return nil
	})
}

// awaitGone waits until a deleted instance is unknown.
func (in *instance) awaitGone() {
	in.h.t.Helper()
	eventually(in.h.t, 60*time.Second, func() error {
		a, err := in.h.try("GET", "/instances/"+in.id, nil)
		if err != nil {
			return err
		}
		if a.status != http.StatusNotFound {
			return fmt.Errorf("instance %s answers %d: %s", in.id, a.status, a.raw)
		}
		return nil
	})
}

func (in *instance) action(body object) {
	in.h.t.Helper()
	in.h.do(202, "POST", "/instances/"+in.id+"/action", body)
}

func (in *instance) address() string {
	in.h.t.Helper()
	return in.show().text("instance", "ip", 0)
}

// redis connects as the tenant does: to the instance's own address with its own password.
func (in *instance) redis() *redis.Client {
	in.h.t.Helper()
	c := redis.NewClient(&redis.Options{Addr: in.address() + ":6379", Password: in.password, DisableIdentity: true, MaxRetries: -1})
	in.h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// set writes a key and requires that it reads back.
func (in *instance) set(key, value string) {
	in.h.t.Helper()
	if err := in.redis().Set(context.Background(), key, value, 0).Err(); err != nil {
		in.h.t.Fatalf("SET %s: %v", key, err)
	}
	in.requireValue(key, value)
}

func (in *instance) requireValue(key, value string) {
	in.h.t.Helper()
	got, err := in.redis().Get(context.Background(), key).Result()
	if err != nil || got != value {
		in.h.t.Fatalf("GET %s: %q, %v; want %q", key, got, err, value)
	}
}
