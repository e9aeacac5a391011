package e2e

import (
	"os/exec"
	"testing"
	"time"
)

// mostPause bounds how long a client waits when a hot standby is changed guest by guest, on whatever machine tests run.
const mostPause = 10 * time.Second

// TestHotStandbyIsChangedGuestByGuest restarts a hot standby, moves it to another flavor and upgrades it while a tenant's program writes through its address: no
// acknowledged write is lost, and the longest pause is short.
func TestHotStandbyIsChangedGuestByGuest(t *testing.T) {
	t.Parallel()
	h := open(t)
	in := h.createProtected("shop", async())
	address := in.address()
	w := writes(t, in.patient(), "k")
	version := in.show().text("instance", "datastore", "version")
	for _, change := range []struct {
		name string
		ask  func()
	}{
		{"restart", func() { in.action(object{"restart": object{}}) }},
		{"flavor", func() { in.action(object{"resize": object{"flavorRef": "2"}}) }},
		{"upgrade", func() {
			if _, err := exec.LookPath("valkey-server"); err == nil && version == "7.0" {
				version = "valkey-8.0"
			}
			h.do(202, "PUT", "/instances/"+in.id, object{"instance": object{"datastore_version": version}})
		}},
	} {
		w.forget()
		change.ask()
		in.awaitProtection("protected")
		w.awaitWrite(60 * time.Second)
		pause, refused := w.longestPause()
		t.Logf("%s: the longest pause was %s; writes that failed: %d", change.name, pause, refused)
		if pause > mostPause {
			t.Errorf("%s: writes paused for %s, want at most %s", change.name, pause, mostPause)
		}
		if in.show().at("instance", "fault") != nil {
			t.Errorf("%s: %v", change.name, in.show().at("instance", "fault"))
		}
	}
	w.requireAll(in.patient(), true)
	if got := in.show().text("instance", "datastore", "version"); got != version {
		t.Errorf("the version is %s, want %s", got, version)
	}
	if in.address() != address {
		t.Errorf("the address is %s, was %s", in.address(), address)
	}
	for _, e := range in.events("instance.failover") {
		if e.at("after", "planned") != true {
			t.Errorf("a failover that nobody asked for: %v", e)
		}
	}
}
