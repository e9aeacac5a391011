package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// cluster is a Redis cluster as its tenant knows it.
type cluster struct {
	h        *house
	id       string
	password string
}

func (h *house) createCluster(name string, masters, replicas int) *cluster {
	h.t.Helper()
	var members []object
	for range masters {
		members = append(members, object{"flavorRef": "1", "volume": object{"size": 1}})
	}
	a := h.do(200, "POST", "/clusters", object{"cluster": object{"name": name, "instances": members,
		"datastore": object{"type": "redis", "version": "7.0"}, "extended_properties": object{"replicas_per_shard": replicas}}})
	c := &cluster{h: h, id: a.body.text("cluster", "id"), password: a.body.text("cluster", "password")}
	c.awaitMembers(masters, masters*replicas)
	return c
}

func (c *cluster) show() object {
	c.h.t.Helper()
	return c.h.do(200, "GET", "/clusters/"+c.id, nil).body
}

// members gives the members as shown.
func (c *cluster) members() (list []object) {
	c.h.t.Helper()
	shown, _ := c.show().at("cluster", "instances").([]any)
	for _, one := range shown {
		list = append(list, object(one.(map[string]any)))
	}
	return list
}

// awaitMembers waits until the cluster shows so many masters with slots and so many replicas, and nothing is done to it.
func (c *cluster) awaitMembers(masters, replicas int) {
	c.h.t.Helper()
	eventually(c.h.t, 180*time.Second, func() error {
		v := c.show()
		if v.text("cluster", "task", "name") != "NONE" || v.at("cluster", "operation") != nil {
			return fmt.Errorf("task %v, operation %v, fault %v", v.at("cluster", "task"), v.at("cluster", "operation"), v.at("cluster", "fault"))
		}
		roles := map[string]int{}
		for _, m := range c.members() {
			roles[m.text("role")]++
			if m.text("role") == "master" && m.text("slots") == "" {
				return fmt.Errorf("master %v has no slots", m)
			}
		}
		if roles["master"] != masters || roles["replica"] != replicas || len(c.members()) != masters+replicas {
			return fmt.Errorf("roles are %v, want %d masters and %d replicas", roles, masters, replicas)
		}
		return nil
	})
}

func (c *cluster) client() *redis.ClusterClient {
	c.h.t.Helper()
	var addresses []string
	for _, m := range c.members() {
		addresses = append(addresses, fmt.Sprint(m.at("ip", 0))+":6379")
	}
	return redis.NewClusterClient(&redis.ClusterOptions{Addrs: addresses, Password: c.password, DisableIdentity: true,
		DialTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, PoolSize: 4, MaxRedirects: 16})
}

// TestCluster is a tenant's life with a cluster: it grows and shrinks while a program writes to it, which is refused
// nothing; a failover inside a shard shows.
func TestCluster(t *testing.T) {
	t.Parallel()
	h := open(t)
	c := h.createCluster("catalogue", 3, 1)
	w := writes(t, c.client(), "k")
	before := map[string]bool{}
	for _, m := range c.members() {
		before[m.text("id")] = true
	}
	h.do(202, "POST", "/clusters/"+c.id, object{"grow": []object{{}}})
	c.awaitMembers(4, 4)
	w.requireNoErrors("it grows")
	var leaving []object
	for _, m := range c.members() {
		if !before[m.text("id")] && m.text("role") == "master" {
			leaving = append(leaving, object{"id": m.text("id")})
		}
	}
	if len(leaving) != 1 {
		t.Fatalf("new masters: %v", leaving)
	}
	h.do(202, "POST", "/clusters/"+c.id, object{"shrink": leaving})
	c.awaitMembers(3, 3)
	w.requireNoErrors("it shrinks")
	c.awaitLinks(3)

	var master object
	for _, m := range c.members() {
		if m.text("role") == "master" {
			master = m
		}
	}
	pid := h.redisAt(fmt.Sprint(master.at("ip", 0)))
	begun := time.Now()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil { // its agent does not start it again
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, func() error {
		for _, m := range c.members() {
			if m.text("shard_id") == master.text("shard_id") && m.text("id") != master.text("id") && m.text("role") == "master" {
				return nil
			}
		}
		return errors.New("the shard shows no new master")
	})
	t.Logf("a failover inside a shard shows after %s", time.Since(begun).Round(time.Millisecond))
	w.awaitWrite(60 * time.Second)
	w.stop()
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	t.Log(w.summary())
	c.awaitMembers(3, 3)
	h.do(202, "DELETE", "/clusters/"+c.id, nil)
	eventually(t, 90*time.Second, func() error {
		if a, err := h.try("GET", "/clusters/"+c.id, nil); err != nil || a.status != 404 {
			return fmt.Errorf("a deleted cluster answers %v, %v", a, err)
		}
		return nil
	})
	if left, _ := filepath.Glob(filepath.Join(h.dir, "servers", "*")); len(left) > 0 {
		t.Errorf("directories are left: %v", left)
	}
}

// awaitLinks waits until so many replicas show that they are in step, and how far behind they are; and masters nothing of it.
func (c *cluster) awaitLinks(replicas int) {
	c.h.t.Helper()
	eventually(c.h.t, 60*time.Second, func() error {
		linked := 0
		for _, m := range c.members() {
			if _, told := m.at("lag_seconds").(float64); told && m.at("link_up") == true && m.text("role") == "replica" {
				linked++
			} else if m.text("role") == "master" && m.at("link_up") != nil {
				return fmt.Errorf("a master shows a link: %v", m)
			}
		}
		if linked != replicas {
			return fmt.Errorf("%d of %d replicas show their link and lag: %v", linked, replicas, c.members())
		}
		return nil
	})
}

// redisAt finds the process of the database of a guest's own address.
func (h *house) redisAt(address string) (pid int) {
	h.t.Helper()
	paths, _ := filepath.Glob(filepath.Join(h.dir, "servers", "*", "host.json"))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), `"`+address+`"`) {
			continue
		}
		for _, line := range processesNaming(filepath.Dir(path)) {
			if number, command, _ := strings.Cut(line, " "); strings.Contains(command, "redis-server") {
				if _, err := fmt.Sscan(number, &pid); err != nil {
					h.t.Fatal(err)
				}
				return pid
			}
		}
	}
	h.t.Fatalf("no database is at %s", address)
	return 0
}
