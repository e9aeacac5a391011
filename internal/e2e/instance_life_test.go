package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestLifeOfAnInstance walks the main job through REST alone.
func TestLifeOfAnInstance(t *testing.T) {
	h := open(t)
	in := h.createActive("cache1")
	if in.password == "" {
		t.Fatal("the create answer carries no password")
	}
	in.set("greeting", "hello")

	t.Run("credentials are revealed again", func(t *testing.T) {
		a := h.do(200, "GET", "/instances/"+in.id+"/credentials", nil)
		if a.body.text("credentials", "username") != "default" || a.body.text("credentials", "password") != in.password {
			t.Errorf("got %v", a.body)
		}
		if want := "redis://default:" + in.password + "@" + in.address() + ":6379"; a.body.text("credentials", "uri") != want {
			t.Errorf("uri %q, want %q", a.body.text("credentials", "uri"), want)
		}
	})
	t.Run("dynamic values apply live, others need a restart", func(t *testing.T) {
		group := h.do(200, "POST", "/configurations", object{"configuration": object{
			"name": "tuned", "values": object{"maxmemory-policy": "allkeys-lru", "timeout": 300}, "datastore": object{"type": "redis", "version": "7.0"}}})
		id := group.body.text("configuration", "id")
		h.do(202, "PUT", "/instances/"+in.id, object{"instance": object{"configuration": id}})
		in.await("ACTIVE", "HEALTHY")
		h.do(200, "PATCH", "/configurations/"+id, object{"configuration": object{"values": object{"databases": 24}}})
		in.await("RESTART_REQUIRED", "")
		in.action(object{"restart": object{}})
		in.await("ACTIVE", "HEALTHY")
		in.requireValue("greeting", "hello")
		if err := in.redis().Do(context.Background(), "SELECT", "23").Err(); err != nil {
			t.Errorf("database 23 after databases = 24: %v", err)
		}
		h.do(202, "PUT", "/instances/"+in.id, object{"instance": object{"configuration": nil}})
		in.await("RESTART_REQUIRED", "")
		h.do(202, "DELETE", "/configurations/"+id, nil)
	})
	t.Run("resize keeps the data", func(t *testing.T) {
		in.action(object{"resize": object{"volume": object{"size": 2}}})
		eventually(t, 60*time.Second, func() error {
			if v := in.show(); v.at("instance", "volume", "size") != 2.0 || v.text("instance", "status") == "RESIZE" {
				return fmt.Errorf("volume %v, status %v", v.at("instance", "volume"), v.at("instance", "status"))
			}
			return nil
		})
		in.action(object{"resize": object{"flavorRef": "2"}})
		in.await("ACTIVE", "HEALTHY")
		if got := in.show().text("instance", "flavor", "id"); got != "2" {
			t.Errorf("flavor %s, want 2", got)
		}
		in.requireValue("greeting", "hello")
	})
	t.Run("root is a new password of the tenant's account", func(t *testing.T) {
		old := in.password
		a := h.do(200, "POST", "/instances/"+in.id+"/root", nil)
		in.password = a.body.text("user", "password")
		if a.body.text("user", "name") != "-" || in.password == "" || in.password == old {
			t.Fatalf("got %v", a.body)
		}
		in.requireValue("greeting", "hello")
		if h.do(200, "GET", "/instances/"+in.id+"/root", nil).body.at("rootEnabled") != true {
			t.Error("rootEnabled is not true")
		}
		h.do(204, "DELETE", "/instances/"+in.id+"/root", nil)
		if err := in.redis().Ping(context.Background()).Err(); err == nil {
			t.Error("the password of root still works after disable")
		}
		in.password = h.do(200, "GET", "/instances/"+in.id+"/credentials", nil).body.text("credentials", "password")
		in.requireValue("greeting", "hello")
		h.do(404, "DELETE", "/instances/"+in.id+"/root", nil)
	})
	t.Run("deletion protection", func(t *testing.T) {
		h.do(202, "PUT", "/instances/"+in.id, object{"instance": object{"deletion_protection": true}})
		h.do(403, "DELETE", "/instances/"+in.id, nil)
		h.do(202, "PUT", "/instances/"+in.id, object{"instance": object{"deletion_protection": false}})
	})
	h.do(202, "DELETE", "/instances/"+in.id, nil)
	in.awaitGone()
	if left, _ := filepath.Glob(filepath.Join(h.dir, "servers", "*")); len(left) > 0 {
		t.Errorf("directories are left: %v", left)
	}
	for _, u := range h.do(200, "GET", "/limits", nil).body.at("limits").([]any)[:1] {
		if !strings.Contains(fmt.Sprint(u), "ABSOLUTE") {
			t.Errorf("the first limit is %v", u)
		}
	}
	a := h.do(200, "GET", "/mgmt/quotas/demo", nil)
	if a.body.at("quotas", 0, "in_use") != 0.0 {
		t.Errorf("quota after the delete: %v", a.body)
	}
}

// TestConflictingChanges sends many changes at once: exactly one is accepted, the others name what runs (R8).
func TestConflictingChanges(t *testing.T) {
	h := open(t)
	in := h.createActive("cache1")
	bodies := []object{
		{"restart": object{}},
		{"resize": object{"volume": object{"size": 3}}},
		{"resize": object{"flavorRef": "2"}},
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[int]int{}
	for i := range 24 {
		wg.Go(func() {
			a, err := h.try("POST", "/instances/"+in.id+"/action", bodies[i%len(bodies)])
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			count[a.status]++
			if a.status == 422 && !strings.Contains(a.raw, "restart_instance") && !strings.Contains(a.raw, "resize_") {
				t.Errorf("the refusal does not name what runs: %s", a.raw)
			}
		})
	}
	wg.Wait()
	if count[202] != 1 || count[422] != 23 {
		t.Errorf("answers by status: %v, want one 202 and 23 422", count)
	}
	in.await("ACTIVE", "HEALTHY")
}

// TestDeleteSupersedesCreate deletes while the create is still at work: it ends with nothing left.
func TestDeleteSupersedesCreate(t *testing.T) {
	h := open(t)
	for i := range 5 {
		in := h.create(fmt.Sprintf("brief-%d", i))
		h.do(202, "DELETE", "/instances/"+in.id, nil)
		in.awaitGone()
	}
	if left, _ := filepath.Glob(filepath.Join(h.dir, "servers", "*")); len(left) > 0 {
		t.Errorf("directories are left: %v", left)
	}
}
