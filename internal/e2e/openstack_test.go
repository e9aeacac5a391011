package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestLifeOnOpenStack is the life of an instance on real Keystone, Nova, Cinder, Neutron and Glance.
func TestLifeOnOpenStack(t *testing.T) {
	h, admin, cloud := openDevcloud(t)
	cloud.requireNothing(t)
	if a, err := h.try("GET", "/instances", nil, "X-Auth-Token", "not-a-token"); err != nil || a.status != http.StatusUnauthorized {
		t.Fatalf("a wrong token: %+v, %v", a, err)
	}
	h.do(http.StatusForbidden, "POST", "/mgmt/datastore-versions", object{"version": object{}})
	offerRedis(admin)

	start := time.Now()
	in := h.create("first", object{"nics": []object{{"net-id": cloud.network}}, "availability_zone": "nova"})
	in.awaitWithin(5*time.Minute, "ACTIVE", "HEALTHY")
	t.Logf("ACTIVE after %s", time.Since(start).Round(time.Second))
	if err := cloud.redis(t, in).Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	requireKey := func() {
		t.Helper()
		eventually(t, time.Minute, func() error {
			got, err := cloud.redis(t, in).Get(context.Background(), "key").Result()
			if err != nil || got != "value" {
				return fmt.Errorf("GET: %q, %v", got, err)
			}
			return nil
		})
	}
	in.action(object{"restart": object{}})
	in.awaitWithin(3*time.Minute, "ACTIVE", "HEALTHY")
	requireKey()
	in.action(object{"resize": object{"volume": object{"size": 2}}})
	in.awaitWithin(3*time.Minute, "ACTIVE", "HEALTHY")
	if owned := cloud.owned(t); len(owned["servers"]) != 1 || len(owned["volumes"]) != 1 || !strings.HasSuffix(owned["volumes"][0], " 2 GB") || len(owned["ports"]) != 2 {
		t.Errorf("the cloud has %v", owned)
	}
	requireKey()
	for _, action := range []object{{"resize": object{"flavorRef": "2"}}, {"stop": object{}}, {"start": object{}}, {"rebuild": object{}}} {
		operating := "HEALTHY"
		if _, stops := action["stop"]; stops {
			operating = "SHUTDOWN"
		}
		in.action(action)
		in.awaitWithin(5*time.Minute, "ACTIVE", operating)
		if operating == "HEALTHY" {
			requireKey()
		}
	}
	if flavor := in.show().text("instance", "flavor", "id"); flavor != "2" {
		t.Errorf("the flavor is %s", flavor)
	}
	h.do(http.StatusAccepted, "DELETE", "/instances/"+in.id, nil)
	eventually(t, 3*time.Minute, func() error {
		a, err := h.try("GET", "/instances/"+in.id, nil)
		if err != nil || a.status != http.StatusNotFound {
			return fmt.Errorf("%+v, %v", a, err)
		}
		return nil
	})
	cloud.requireNothing(t)
}

// TestRefusedByOpenStack: what the cloud refuses is said in a sentence, without the service project's numbers.
func TestRefusedByOpenStack(t *testing.T) {
	h, admin, cloud := openDevcloud(t)
	offerRedis(admin)
	const none = "11111111-1111-4111-8111-111111111111"
	admin.do(http.StatusAccepted, "POST", "/mgmt/datastore-versions", object{"version": object{
		"name": "7.0", "version": "no-image", "datastore_name": "redis", "datastore_manager": "redis", "image": none, "active": true,
	}})
	for _, wish := range []object{{"flavorRef": "99"}, {"nics": []object{{"net-id": none}}}, {"availability_zone": "moon"}} {
		body := object{"name": "nowhere", "flavorRef": "1", "volume": object{"size": 1}}
		for k, v := range wish {
			body[k] = v
		}
		h.do(http.StatusBadRequest, "POST", "/instances", object{"instance": body})
	}
	in := h.create("no-image", object{"datastore": object{"type": "redis", "version": "7.0", "version_number": "no-image"}})
	eventually(t, 3*time.Minute, func() error {
		if v := in.show(); v.text("instance", "status") != "ERROR" {
			return fmt.Errorf("it is %s", v.text("instance", "status"))
		}
		return nil
	})
	if fault := in.show().text("instance", "fault", "message"); !strings.Contains(fault, "requested image") {
		t.Errorf("the fault is %q", fault)
	}
	h.do(http.StatusAccepted, "DELETE", "/instances/"+in.id, nil)
	in.awaitGone()
	cloud.requireNothing(t)
}

// TestHotStandbyOnOpenStack: the server of the primary is stopped behind Grove's back, and the address moves in Neutron's records.
func TestHotStandbyOnOpenStack(t *testing.T) {
	h, admin, cloud := openDevcloud(t)
	cloud.requireNothing(t)
	offerRedis(admin)
	in := h.create("pair", object{"high_availability": object{"durability": "async"}})
	in.awaitWithin(5*time.Minute, "ACTIVE", "HEALTHY")
	writer := cloud.redis(t, in)
	if err := writer.Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error { // async: what is not there yet may be lost
		if n, err := writer.Do(context.Background(), "WAIT", 1, 1000).Int(); err != nil || n != 1 {
			return fmt.Errorf("the write is on %d standbys: %v", n, err)
		}
		return nil
	})
	first := cloud.primary(t, in)
	hosts := map[string]bool{}
	for _, s := range cloud.servers(t) {
		hosts[s.HypervisorHostname] = true
	}
	if len(hosts) != 2 {
		t.Errorf("both servers are on %v", hosts)
	}
	cloud.stopServerAt(t, first)
	start := time.Now()
	eventually(t, 2*time.Minute, func() error {
		if p := cloud.primary(t, in); p == first || p == "nowhere" {
			return fmt.Errorf("the address leads to %s", p)
		}
		got, err := cloud.redis(t, in).Get(context.Background(), "key").Result()
		if err != nil || got != "value" {
			return fmt.Errorf("GET: %q, %v", got, err)
		}
		return cloud.redis(t, in).Set(context.Background(), "key", "value", 0).Err()
	})
	t.Logf("another primary by Neutron's records after %s", time.Since(start).Round(time.Second))
	in.awaitWithin(5*time.Minute, "ACTIVE", "HEALTHY") // with a standby again
	h.do(http.StatusAccepted, "DELETE", "/instances/"+in.id, nil)
	eventually(t, 3*time.Minute, func() error {
		a, err := h.try("GET", "/instances/"+in.id, nil)
		if err != nil || a.status != http.StatusNotFound {
			return fmt.Errorf("%+v, %v", a, err)
		}
		return nil
	})
	cloud.requireNothing(t)
}

// TestClusterOnOpenStack: three masters reach each other over their bus; the security groups by which they may are gone with
// them.
func TestClusterOnOpenStack(t *testing.T) {
	h, admin, cloud := openDevcloud(t)
	cloud.requireNothing(t)
	offerRedis(admin)
	var members []object
	for range 3 {
		members = append(members, object{"flavorRef": "1", "volume": object{"size": 1}})
	}
	a := h.do(http.StatusOK, "POST", "/clusters", object{"cluster": object{"name": "c", "datastore": object{"type": "redis", "version": "7.0"}, "instances": members}})
	id := a.body.text("cluster", "id")
	eventually(t, 5*time.Minute, func() error {
		v := h.do(http.StatusOK, "GET", "/clusters/"+id, nil).body
		if task := v.text("cluster", "task", "name"); task != "NONE" {
			return fmt.Errorf("its task is %s", task)
		}
		return nil
	})
	password := h.do(http.StatusOK, "GET", "/clusters/"+id+"/credentials", nil).body.text("credentials", "password")
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{cloud.guestAddress(t) + ":6379"}, Password: password})
	t.Cleanup(func() { _ = c.Close() })
	for i := range 100 {
		if err := c.Set(t.Context(), fmt.Sprint("key", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if shared := cloud.peerRules(t); shared == 0 {
		t.Error("no rule lets the members reach each other")
	}
	h.do(http.StatusAccepted, "DELETE", "/clusters/"+id, nil)
	eventually(t, 3*time.Minute, func() error {
		a, err := h.try("GET", "/clusters/"+id, nil)
		if err != nil || a.status != http.StatusNotFound {
			return fmt.Errorf("%+v, %v", a, err)
		}
		return nil
	})
	cloud.requireNothing(t)
}
