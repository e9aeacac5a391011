package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
)

// TestSilentAgentOnOpenStack: the agent of a server that boots and says nothing is waited for as long as the operator says. Then the
// tenant reads a sentence, and operators what the server's console said last; it goes like any other.
func TestSilentAgentOnOpenStack(t *testing.T) {
	cloud := loginDevcloud(t)
	cloud.dark, cloud.settings = true, "guests: {first_contact: 15s}"
	h, admin := cloud.open(t, "127.0.0.1:0")
	offerRedis(admin)
	in := h.create("silent")
	in.awaitError(t, 3*time.Minute)
	if message := in.show().text("instance", "fault", "message"); !strings.Contains(message, "agent") || strings.Contains(message, "CONSOLE") {
		t.Errorf("the tenant reads %q", message)
	}
	if text := admin.do(http.StatusOK, "GET", "/mgmt/instances/"+in.id, nil).body.text("instance", "fault", "details"); !strings.Contains(text, "FAKE CONSOLE OUTPUT") {
		t.Errorf("operators read %q", text)
	}
	if owned := cloud.owned(t); len(owned["servers"]) != 1 || len(owned["volumes"]) != 1 || len(owned["ports"]) != 2 {
		t.Errorf("the cloud has %v", owned)
	}
	h.do(http.StatusAccepted, "DELETE", "/instances/"+in.id, nil)
	in.awaitGone()
	cloud.requireNothing(t)
}

// TestNoHostOnOpenStack: a server that no host has room for is in ERROR at Nova; the instance says so, and operators are told.
func TestNoHostOnOpenStack(t *testing.T) {
	cloud := loginDevcloud(t)
	const more = 5_000_000 // GB than a host has
	name, disk := "grove-"+rand.Text(), more
	flavor, err := flavors.Create(t.Context(), cloud.compute, flavors.CreateOpts{Name: name, ID: name, RAM: 512, VCPUs: 1, Disk: &disk}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := flavors.Delete(context.Background(), cloud.compute, flavor.ID).ExtractErr(); err != nil {
			t.Errorf("delete flavor: %v", err)
		}
	})
	h, admin := cloud.open(t, "127.0.0.1:0")
	offerRedis(admin)
	in := h.create("huge", object{"flavorRef": flavor.ID})
	requireExhausted(t, h, admin, in, "no machine left", "No valid host")
	h.do(http.StatusAccepted, "DELETE", "/instances/"+in.id, nil)
	in.awaitGone()
	cloud.requireNothing(t)
}

// TestNoOtherHostOnOpenStack: of guests that must be on hosts of their own there are at most as many as hosts.
func TestNoOtherHostOnOpenStack(t *testing.T) {
	h, admin, cloud := openDevcloud(t)
	offerRedis(admin)
	const hosts = 3
	source := h.create("source", object{"locality": "anti-affinity"})
	source.awaitWithin(5*time.Minute, "ACTIVE", "HEALTHY")
	h.do(http.StatusOK, "POST", "/instances", object{"instance": object{"name": "copy", "flavorRef": "1", "replica_of": source.id, "replica_count": hosts}})
	var replicas []*instance
	shown := source.show()
	for i := 0; shown.at("instance", "replicas", i) != nil; i++ {
		replicas = append(replicas, &instance{h: h, id: shown.text("instance", "replicas", i, "id")})
	}
	if len(replicas) != hosts {
		t.Fatalf("%d replicas", len(replicas))
	}
	var failed *instance
	eventually(t, 5*time.Minute, func() error {
		for _, r := range replicas {
			if r.show().text("instance", "status") == "ERROR" {
				failed = r
				return nil
			}
		}
		return fmt.Errorf("no replica is in ERROR")
	})
	requireExhausted(t, h, admin, failed, "no machine left", "host")
	where := map[string]bool{}
	for _, s := range cloud.servers(t) {
		if s.HypervisorHostname != "" && where[s.HypervisorHostname] {
			t.Errorf("two servers are on %s", s.HypervisorHostname)
		}
		where[s.HypervisorHostname] = true
	}
	for _, r := range append(replicas, source) {
		eventually(t, 5*time.Minute, func() error {
			a, err := h.try("DELETE", "/instances/"+r.id, nil)
			if err != nil || a.status != http.StatusAccepted {
				return fmt.Errorf("%+v, %v", a, err)
			}
			return nil
		})
		r.awaitGone()
	}
	cloud.requireNothing(t)
}

// awaitError waits until an instance is in ERROR.
func (in *instance) awaitError(t *testing.T, atMost time.Duration) {
	t.Helper()
	eventually(t, atMost, func() error {
		if status := in.show().text("instance", "status"); status != "ERROR" {
			return fmt.Errorf("it is %s", status)
		}
		return nil
	})
}
