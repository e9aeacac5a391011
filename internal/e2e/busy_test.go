package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// soakVariable says how long the tests go on that `make soak` runs for long, such as 1h.
const soakVariable = "GROVE_SOAK"

// soaking tells whether tests are to go on for long.
func soaking() bool { return os.Getenv(soakVariable) != "" }

// soakTime is how long a test goes on that is better the longer it does; otherwise is for `make test`.
func soakTime(t *testing.T, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(soakVariable)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", soakVariable, err)
	}
	return d
}

// starve keeps every processor busy with others' work until the test ends.
func starve(t *testing.T) {
	t.Helper()
	for range runtime.NumCPU() {
		cmd := exec.Command("/bin/sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
}

// TestBusyMachine: a hot standby on a machine whose processors others keep busy is not failed over (R22, R24).
func TestBusyMachine(t *testing.T) {
	t.Parallel()
	h := open(t)
	in := h.createProtected("shop", async())
	w := writes(t, in.patient(), "k")
	runtime.LockOSThread() // the end of its thread would end those that starve
	defer runtime.UnlockOSThread()
	starve(t)
	w.awaitWriteAfter(time.Now().Add(soakTime(t, 3*time.Minute)), 2*time.Minute)
	in.requireFailovers(0)
	w.stop()
	t.Log(w.summary())
	w.requireAll(in.patient(), true)
	in.awaitProtection("protected")
	if fmt.Sprint(in.show().at("instance", "status")) != "ACTIVE" {
		t.Errorf("the instance is %v", in.show())
	}
}
