package keystone

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/keystone/keystonetest"
)

func open(t *testing.T, k *keystonetest.Server) *Tokens {
	t.Helper()
	a, err := NewAccount(Config{AuthURL: k.AuthURL(), Username: "grove", Password: "of-the-service-account", Project: "service", Clock: k.Clock})
	if err != nil {
		t.Fatal(err)
	}
	return NewTokens(a, time.Minute)
}

// put makes the token "<user>-1" valid.
func put(k *keystonetest.Server, user string, ends time.Time) {
	k.Put(user+"-1", keystonetest.Token{User: user, Project: "project-of-" + user, Roles: []string{"member", "reader"}, Ends: ends})
}

func requireIdentity(t *testing.T, tokens *Tokens, token, user string) {
	t.Helper()
	i, err := tokens.Identify(t.Context(), token)
	if err != nil || i.UserID != user || i.ProjectID != "project-of-"+user || !slices.Equal(i.Roles, []string{"member", "reader"}) {
		t.Errorf("%s stands for %+v, %v", token, i, err)
	}
}

func requireRefused(t *testing.T, tokens *Tokens, token string, code dbaas.Code) {
	t.Helper()
	i, err := tokens.Identify(t.Context(), token)
	if i != nil || dbaas.ErrorCode(err) != code {
		t.Errorf("%.20q stands for %+v, %v; want %v", token, i, err, code)
	}
	if token != "" && err != nil && strings.Contains(dbaas.ErrorMessage(err), token) {
		t.Errorf("the refusal tells the token: %v", err)
	}
}

func TestTokensAreAskedForOnce(t *testing.T) {
	k := keystonetest.New(t)
	put(k, "alice", k.Clock.Now().Add(time.Hour))
	put(k, "bob", k.Clock.Now().Add(time.Hour))
	tokens := open(t, k)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { requireIdentity(t, tokens, "alice-1", "alice") })
	}
	all.Wait()
	requireIdentity(t, tokens, "bob-1", "bob")
	requireIdentity(t, tokens, "alice-1", "alice")
	if n := k.Validated(); n != 2 {
		t.Errorf("Keystone was asked %d times", n)
	}
	for range 3 {
		requireRefused(t, tokens, "nobody", dbaas.Unauthorized)
	}
	if n := k.Validated(); n != 3 {
		t.Errorf("Keystone was asked %d times after a wrong token", n)
	}
	for _, token := range []string{"", "two words", "line\nbreak", "\x00", strings.Repeat("x", 9000)} {
		requireRefused(t, tokens, token, dbaas.Unauthorized)
	}
	if n := k.Validated(); n != 3 {
		t.Errorf("Keystone was asked %d times after what cannot be a token", n)
	}
}

func TestTokensEnd(t *testing.T) {
	k := keystonetest.New(t)
	put(k, "alice", k.Clock.Now().Add(time.Hour))
	put(k, "bob", k.Clock.Now().Add(30*time.Second))
	tokens := open(t, k)
	requireIdentity(t, tokens, "alice-1", "alice")
	requireIdentity(t, tokens, "bob-1", "bob")
	k.Clock.Advance(30 * time.Second)
	requireRefused(t, tokens, "bob-1", dbaas.Unauthorized) // at its end, remembered or not
	k.Revoke("alice-1")
	k.Clock.Advance(30 * time.Second)
	requireRefused(t, tokens, "alice-1", dbaas.Unauthorized)
	put(k, "alice", k.Clock.Now().Add(time.Hour))
	k.Clock.Advance(time.Minute)
	requireIdentity(t, tokens, "alice-1", "alice") // what was wrong once may be right later
}

func TestKeystoneAway(t *testing.T) {
	k := keystonetest.New(t)
	put(k, "alice", k.Clock.Now().Add(time.Hour))
	put(k, "bob", k.Clock.Now().Add(time.Hour))
	k.SetAway(true)
	tokens := open(t, k)
	requireRefused(t, tokens, "alice-1", dbaas.Unavailable)
	k.SetAway(false)
	requireIdentity(t, tokens, "alice-1", "alice")
	k.SetAway(true)
	requireIdentity(t, tokens, "alice-1", "alice")
	requireRefused(t, tokens, "bob-1", dbaas.Unavailable) // not Unauthorized: its holder would log in again and again
}

// Our own token ends, or is revoked, before its time.
func TestServiceTokenEnds(t *testing.T) {
	k := keystonetest.New(t)
	put(k, "alice", k.Clock.Now().Add(time.Hour))
	put(k, "bob", k.Clock.Now().Add(time.Hour))
	tokens := open(t, k)
	requireIdentity(t, tokens, "alice-1", "alice")
	k.RevokeAccounts()
	requireIdentity(t, tokens, "bob-1", "bob")
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{AuthURL: "http://127.0.0.1:1/v3", Username: "u", Password: "p", Project: "s"}
	if _, err := NewAccount(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"needed": func(c *Config) { c.Project = "" }, "read the CA file": func(c *Config) { c.CAFile = "/nowhere" },
		"no certificate": func(c *Config) { c.CAFile = "/dev/null" },
	} {
		c := good
		change(&c)
		if _, err := NewAccount(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %s", err, name)
		}
	}
}
