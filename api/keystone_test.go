package api

import (
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/keystone"
	"github.com/grove-dbaas/grove/internal/keystone/keystonetest"
)

// withKeystone has tokens named for their holders: a role and a project each.
func withKeystone(k *keystonetest.Server, t *testing.T) option {
	account, err := keystone.NewAccount(keystone.Config{AuthURL: k.AuthURL(), Username: "grove", Password: "secret", Project: "service", Clock: k.Clock})
	if err != nil {
		t.Fatal(err)
	}
	for token, roles := range map[string][]string{"member": {"member", "reader"}, "reader": {"reader"}, "admin": {"admin", "member", "reader"}, "stranger": {"heat_stack_user"}} {
		k.Put(token, keystonetest.Token{User: token, Project: "demo", Roles: roles, Ends: k.Clock.Now().Add(time.Hour)})
	}
	k.Put("other", keystonetest.Token{User: "bob", Project: "other", Roles: []string{"admin"}, Ends: k.Clock.Now().Add(time.Hour)})
	k.Put("unscoped", keystonetest.Token{User: "carol", Roles: []string{"admin"}, Ends: k.Clock.Now().Add(time.Hour)})
	return withConfig(func(c *Config) {
		c.Authenticate, c.AuthURL = AuthKeystone(keystone.NewTokens(account, time.Minute)), "https://keystone.example/v3"
	})
}

func TestKeystoneDecides(t *testing.T) {
	h := newHouse(t, withKeystone(keystonetest.New(t), t))
	for _, c := range []struct {
		token, method, path, body string
		status                    int
	}{
		{"", "GET", "/instances", "", 401},
		{"nobody", "GET", "/instances", "", 401},
		{"nobody", "GET", "/no-such-route", "", 401}, // before all else
		{"other", "GET", "/instances", "", 403},      // administrators too keep to their own path
		{"other", "GET", "/no-such-route", "", 403},
		{"unscoped", "GET", "/instances", "", 403},
		{"member", "GET", "/no-such-route", "", 404},
		{"member", "GET", "/instances", "", 200},
		{"reader", "GET", "/instances", "", 200},
		{"stranger", "GET", "/instances", "", 403},
		{"stranger", "GET", "/flavors", "", 200},
		{"reader", "POST", "/instances", createBody("a"), 403},
		{"reader", "POST", "/instances", "{", 400}, // what cannot be understood comes before the policy
		{"member", "POST", "/instances", createBody("a"), 200},
		{"member", "GET", "/mgmt/instances", "", 403},
		{"admin", "GET", "/mgmt/instances", "", 200},
	} {
		h.call(c.method, c.path, c.body, "X-Auth-Token: "+c.token).want(c.status)
	}
	refused := h.call("GET", "/instances", "", "X-Auth-Token: nobody").want(401)
	if got := refused.header.Get("WWW-Authenticate"); got != `Keystone uri="https://keystone.example/v3"` {
		t.Errorf("WWW-Authenticate is %q", got)
	}
	refused.has("error.code", 401, "error.title", "Unauthorized")
	if strings.Contains(h.log.String(), "nobody") {
		t.Error("a token is in the log")
	}
}

func TestKeystoneAwayIsUnavailable(t *testing.T) {
	k := keystonetest.New(t)
	h := newHouse(t, withKeystone(k, t))
	k.SetAway(true)
	h.call("GET", "/instances", "", "X-Auth-Token: member").want(503)
	k.SetAway(false)
	h.call("GET", "/instances", "", "X-Auth-Token: member").want(200)
	k.SetAway(true)
	h.call("GET", "/instances", "", "X-Auth-Token: member").want(200) // its word is good for a while
}
