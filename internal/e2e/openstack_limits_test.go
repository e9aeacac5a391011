package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	volumequota "github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	computequota "github.com/gophercloud/gophercloud/v2/openstack/compute/v2/quotasets"
	networkquota "github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/quotas"
)

// TestExhaustedOpenStack: a quota of Grove's project that is spent in Nova, Cinder or Neutron ends
// in ERROR with a sentence and none of the project's numbers; operators get the cloud's own words, its request's id, and an event.
// What was made until then is accounted for, and goes with the instance.
func TestExhaustedOpenStack(t *testing.T) {
	h, admin, cloud := openDevcloud(t)
	offerRedis(admin)
	ctx := t.Context()
	none, many := 0, 500
	instances := func(n *int) error {
		return computequota.Update(ctx, cloud.compute, cloud.project, computequota.UpdateOpts{Instances: n}).Err
	}
	volumes := func(n *int) error {
		return volumequota.Update(ctx, cloud.volume, cloud.project, volumequota.UpdateOpts{Volumes: n}).Err
	}
	ports := func(n *int) error {
		return networkquota.Update(ctx, cloud.net, cloud.project, networkquota.UpdateOpts{Port: n}).Err
	}
	for what, limit := range map[string]func(*int) error{"server": instances, "volume": volumes, "port": ports} {
		if err := limit(&none); err != nil {
			t.Fatal(err)
		}
		in := h.create("no-"+what, object{})
		requireExhausted(t, h, admin, in, "no room left for the "+what, "(request req-")
		if err := limit(&many); err != nil {
			t.Fatal(err)
		}
		h.do(http.StatusAccepted, "DELETE", "/instances/"+in.id, nil)
		in.awaitGone()
		cloud.requireNothing(t)
	}
}

// requireExhausted waits for ERROR, and compares what the tenant reads with what operators do.
func requireExhausted(t *testing.T, h, admin *house, in *instance, says, details string) {
	t.Helper()
	eventually(t, 3*time.Minute, func() error {
		if status := in.show().text("instance", "status"); status != "ERROR" {
			return fmt.Errorf("it is %s", status)
		}
		return nil
	})
	shown := in.show()
	if message := shown.text("instance", "fault", "message"); !strings.Contains(message, says) || strings.ContainsAny(message, "0123456789") {
		t.Errorf("the tenant reads %q", message)
	}
	if text := fmt.Sprint(shown); strings.Contains(text, details) {
		t.Errorf("the tenant reads what is for operators: %s", text)
	}
	if text := admin.do(http.StatusOK, "GET", "/mgmt/instances/"+in.id, nil).body.text("instance", "fault", "details"); !strings.Contains(text, details) {
		t.Errorf("operators read %q", text)
	}
	if text := fmt.Sprint(admin.do(http.StatusOK, "GET", "/events?all_projects=true&resource_id="+in.id, nil).raw); !strings.Contains(text, "cloud.exhausted") {
		t.Errorf("operators are told in no event: %s", text)
	}
	if text := fmt.Sprint(h.do(http.StatusOK, "GET", "/events?resource_id="+in.id, nil).raw); strings.Contains(text, "cloud.exhausted") {
		t.Errorf("the tenant is told: %s", text)
	}
}
