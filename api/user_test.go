package api

import (
	"strings"
	"testing"
)

// TestUsers is the conversation that python-troveclient has: names with their host, dots and signs escaped once or
// twice, changes answered with an empty 202.
func TestUsers(t *testing.T) {
	h := newHouse(t)
	id := h.newInstance("cache")
	h.worker(func(string) string { return "" })
	users := "/instances/" + id + "/users"
	h.get(users).want(200).has("users.0", absent, "links", absent)
	h.post(users, `{"users": [{"name": "app.writer", "password": "s3cret-of-writer", "host": "%", "databases": [{"name": "app:*"}]},
		{"name": "reader", "password": "s3cret-of-reader"}]}`).want(202)
	h.get(users).want(200).has("users.0.name", "app.writer", "users.0.host", "%", "users.0.databases.0.name", "app:*",
		"users.1.name", "reader", "users.1.databases.0", absent)
	for _, path := range []string{"app.writer", "app%2ewriter", "app%2ewriter%40%25", "app.writer@%25", "app%252ewriter%2540%2525", "app%2ewriter%40"} {
		h.get(users+"/"+path).want(200).has("user.name", "app.writer", "user.databases.0.name", "app:*")
	}
	one := users + "/app%2ewriter%40%25"
	h.put(one+"/databases", `{"databases": [{"name": "jobs:*"}, {"name": "app:*"}]}`).want(202)
	h.get(one+"/databases").want(200).has("databases.0.name", "app:*", "databases.1.name", "jobs:*", "databases.2", absent)
	h.delete(one + "/databases/app%3A%2A").want(202)
	h.delete(one+"/databases/app:*").fault(404, "app:*")
	h.get(one+"/databases").want(200).has("databases.0.name", "jobs:*", "databases.1", absent)
	h.put(users, `{"users": [{"name": "reader", "password": "n3w-one-of-reader", "host": "%"}]}`).want(202)
	h.put(one, `{"user": {"name": "w2", "password": "another-s3cret"}}`).want(202)
	h.get(one).fault(404, "app.writer")
	h.get(users+"/w2").want(200).has("user.databases.0.name", "jobs:*")
	h.delete(users + "/reader").want(202)
	h.delete(users+"/reader").fault(404, "reader")
	h.get(users).want(200).has("users.0.name", "w2", "users.1", absent)
	for _, secret := range []string{"s3cret-of", "n3w-one-of", "another-s3cret"} {
		h.requireNoSecret(secret)
	}
}

func TestUsersThatAreRefused(t *testing.T) {
	h := newHouse(t)
	users := "/instances/" + h.newInstance("cache") + "/users"
	h.post(users, `{"users": [{"name": "writer", "password": "wonderland1"}]}`).want(202)
	h.settle()
	before := h.digest()
	post := func(user string) *result { t.Helper(); return h.post(users, `{"users": [`+user+`]}`) }
	for _, name := range []string{"default", "root", "_agent", "_repl"} {
		post(`{"name": "`+name+`", "password": "wonderland1"}`).fault(400, "reserved")
		h.get(users+"/"+name).fault(400, "reserved")
		h.put(users+"/writer", `{"user": {"name": "`+name+`"}}`).fault(400, "reserved")
		h.delete(users+"/"+name).fault(400, "reserved")
	}
	post(`{"name": "writer", "password": "wonderland1"}`).fault(400, "already")
	post(`{"name": "a", "password": "wonderland1"}, {"name": "a", "password": "wonderland1"}`).fault(400, "already")
	post(`{"name": "a b", "password": "wonderland1"}`).fault(400, "letters")
	post(`{"name": "a", "password": "wonderland1", "host": "10.%"}`).fault(400, "access rules")
	post(`{"name": "a", "password": ""}`).fault(400, "password")
	post(`{"name": "a", "password": "wonderland1", "databases": [{"name": "two words"}]}`).fault(400, "app:*")
	post(`{"name": "a", "password": "wonderland1", "databases": [{"name": "line\nbreak"}]}`).fault(400, "app:*")
	post("").fault(400, "users is required")
	h.put(users, `{"users": [{"name": "nobody", "password": "wonderland1"}]}`).fault(404, "nobody")
	h.put(users+"/writer", `{"user": {}}`).fault(400, "user is required")
	h.put(users+"/writer/databases", `{"databases": []}`).fault(400, "databases is required")
	h.put(users+"/nobody/databases", `{"databases": [{"name": "a:*"}]}`).fault(404, "nobody")
	h.get(users+"/writer@10.0.0.1").fault(400, "access rules")
	h.get(users+"?limit=abc").fault(400, "limit")
	if h.digest() != before {
		t.Error("something that was refused was written")
	}
	post(`{"name": "x", "password": "` + strings.Repeat("x", 256) + `"}`).fault(400)
}

// TestUserPages: a page's last name is the marker of the next, for Trove's clients and for those that follow links.
func TestUserPages(t *testing.T) {
	h := newHouse(t)
	users := "/instances/" + h.newInstance("cache") + "/users"
	var wishes []string
	for _, name := range []string{"e", "d", "c", "b", "a"} {
		wishes = append(wishes, `{"name": "`+name+`", "password": "wonderland1"}`)
	}
	h.post(users, `{"users": [`+strings.Join(wishes, ",")+`]}`)
	h.settle()
	first := h.get(users+"?limit=2").want(200).has("users.0.name", "a", "users.1.name", "b", "users.2", absent)
	if !strings.Contains(first.text("links.0.href"), "marker=b") || !strings.Contains(first.text("users_links.0.href"), "marker=b") {
		t.Errorf("the links are %s", first.body)
	}
	h.get(users+"?limit=2&marker=b").has("users.0.name", "c", "users.1.name", "d")
	h.get(users+"?limit=2&marker=d%40%25").has("users.0.name", "e", "users.1", absent, "links", absent)
}

// A failure of the guest's is the answer, and the users stay as they were.
func TestUsersRefusedByTheGuest(t *testing.T) {
	h := newHouse(t)
	users := "/instances/" + h.newInstance("cache") + "/users"
	h.worker(func(kind string) string {
		if kind == "set_users" {
			return "The database refuses the user."
		}
		return ""
	})
	h.post(users, `{"users": [{"name": "writer", "password": "wonderland1"}]}`).fault(400, "The database refuses the user.")
	h.get(users).want(200).has("users.0", absent)
}
