package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// agentUpgrade asks for other agents, and gives the operation as it ended.
func (h *house) agentUpgrade(in *instance, location, sum string) object {
	h.t.Helper()
	admin := *h
	admin.project = "admin"
	id := admin.do(202, "POST", "/mgmt/instances/"+in.id+"/upgrade", object{"upgrade": object{
		"location": location, "metadata": object{"sha256": sum},
	}}).header.Get("Grove-Operation")
	var op object
	eventually(h.t, 3*time.Minute, func() error {
		op = h.do(200, "GET", "/operations/"+id, nil).body
		if op.at("operation", "ended") == nil {
			return fmt.Errorf("it is at %s: %s", op.text("operation", "step"), op.text("operation", "progress"))
		}
		return nil
	})
	return op
}

// TestAgentsAreUpgraded: agents become another build by the CLI, a broken one is rolled back on its own machine, groved is
// killed meanwhile; the databases notice nothing.
func TestAgentsAreUpgraded(t *testing.T) {
	h, _ := openWithBroker(t)
	single, pair := h.createActive("single"), h.createProtected("pair", async())
	w := writes(t, pair.patient(), "k")
	processes := []int{single.primaryProcess(), pair.primaryProcess()}
	next := filepath.Join(t.TempDir(), "next")
	build := exec.Command("go", append(append([]string{"build"}, raceFlag...), "-ldflags", "-X main.version=next", "-o", next, "../../cmd/grove-agent")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	program, err := os.ReadFile(next)
	if err != nil {
		t.Fatal(err)
	}
	broken := []byte("#!/bin/sh\nexit 1\n")
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			_, _ = rw.Write(broken)
			return
		}
		_, _ = rw.Write(program)
	}))
	t.Cleanup(s.Close)
	sum := func(text []byte) string { b := sha256.Sum256(text); return hex.EncodeToString(b[:]) }

	op := h.agentUpgrade(single, s.URL+"/broken", sum(broken))
	if failure := fmt.Sprint(op.at("operation", "failure")); op.text("operation", "status") != "failed" || !strings.Contains(failure, "ended by itself") {
		t.Errorf("a broken agent: %v", op)
	}
	if v := single.show(); v.text("instance", "status") != "ACTIVE" || v.at("instance", "fault") != nil {
		t.Errorf("the tenant is told of it: %v", v)
	}
	grove := func(args ...string) string {
		cmd := exec.Command(filepath.Join(bin, "grove"), append(args, "--project", "admin")...)
		cmd.Env = append(os.Environ(), "GROVE_ENDPOINT="+h.base)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("grove %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	admin := *h
	admin.project = "admin"
	begun := admin.do(202, "POST", "/mgmt/instances/"+single.id+"/upgrade", object{"upgrade": object{"location": s.URL, "metadata": object{"sha256": sum(program)}}})
	h.kill()
	h.start()
	single.await("ACTIVE", "HEALTHY")
	eventually(t, 2*time.Minute, func() error {
		op := h.do(200, "GET", "/operations/"+begun.header.Get("Grove-Operation"), nil).body
		if op.text("operation", "status") != "succeeded" {
			return fmt.Errorf("%v", op)
		}
		return nil
	})
	grove("agent", "upgrade", "--all", "--location", s.URL, "--sha256", sum(program), "--batch", "1")
	eventually(t, time.Minute, func() error { // a report tells it
		if listed := grove("agent", "list", "--version", "next"); strings.Count(listed, "next") != 3 {
			return fmt.Errorf("the agents are:\n%s", listed)
		}
		return nil
	})
	if now := []int{single.primaryProcess(), pair.primaryProcess()}; now[0] != processes[0] || now[1] != processes[1] {
		t.Errorf("the databases' processes were %v and are %v", processes, now)
	}
	pair.requireFailovers(0)
	w.stop()
	w.requireNoErrors("agents are replaced")
	w.requireAll(pair.patient(), true)
}
