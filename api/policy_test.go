package api

import (
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/internal/control"
)

func TestPolicyRules(t *testing.T) {
	alice := control.Caller{ProjectID: "alpha", UserID: "alice", Roles: []string{"member", "Reader"}}
	root := control.Caller{ProjectID: "admin", UserID: "root", Roles: []string{"admin"}, Admin: true}
	for _, c := range []struct {
		rule        string
		alice, root bool
	}{
		{"", true, true},
		{"@", true, true},
		{"!", false, false},
		{"role:member", true, false},
		{"role:reader", true, false}, // roles have no case
		{"role:mem", false, false},
		{"is_admin:True", false, true},
		{"is_admin:False", true, false},
		{"project_id:%(tenant)s", true, true},
		{"tenant:%(project_id)s", true, true},
		{"user_id:%(user_id)s", true, true},
		{"user_id:alice", true, false},
		{"'alpha':%(project_id)s", true, false},
		{`"alpha":%(project_id)s`, true, false},
		{"not role:member", false, true},
		{"not not role:member", true, false},
		{"role:admin or role:member and project_id:admin", false, true}, // and binds tighter
		{"(role:admin or role:member) and project_id:alpha", true, false},
		{"role:member AND NOT (role:x OR role:y)", true, false},
		{"((role:member))", true, false},
		{"role:admin and system_scope:all", false, false},
		{"rule:admin_or_owner", true, true},
		{"rule:reader and not rule:admin", true, false},
	} {
		p, err := NewPolicy(map[string]string{"instance:create": c.rule})
		if err != nil {
			t.Errorf("%q: %v", c.rule, err)
			continue
		}
		if got := p.allows("instance:create", alice); got != c.alice {
			t.Errorf("%q allows alice: %t", c.rule, got)
		}
		if got := p.allows("instance:create", root); got != c.root {
			t.Errorf("%q allows root: %t", c.rule, got)
		}
	}
}

func TestPolicyMistakes(t *testing.T) {
	for _, c := range []struct{ name, rule, want string }{
		{"instance:create", "member", "kind:match"},
		{"instance:create", "role:", "kind:match"},
		{"instance:create", "role:a role:b", "one word too many"},
		{"instance:create", "role:a or", "it ends where"},
		{"instance:create", "and role:a", "kind:match"},
		{"instance:create", "(role:a", "parenthesis"},
		{"instance:create", "role:a)", "one word too many"},
		{"instance:create", "role:%(role)s", "substituted"},
		{"instance:create", "projectid:%(tenant)s", `no attribute "projectid"`},
		{"instance:create", "project_id:%(owner)s", `no attribute "owner"`},
		{"instance:create", "http://policy.example/%(tenant)s", "not supported"},
		{"instance:create", "rule:nobody", `"nobody" that does not exist`},
		{"instance:craete", "role:a", `no rule "instance:craete"`},
		{"admin", "rule:admin", "asks itself"},
		{"owner", "rule:member", "asks itself"},
	} {
		if _, err := NewPolicy(map[string]string{c.name: c.rule}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q: %v, want %q", c.name, c.rule, err, c.want)
		}
	}
	_, err := NewPolicy(map[string]string{"instance:create": "x", "instance:delete": "y"})
	if err == nil || !strings.Contains(err.Error(), "instance:create") || !strings.Contains(err.Error(), "instance:delete") {
		t.Errorf("not all mistakes are listed: %v", err)
	}
}

// A reader sees, and changes nothing nor learns a password.
func TestReadersChangeNothing(t *testing.T) {
	h := newHouse(t)
	reader := control.Caller{ProjectID: "demo", Roles: []string{"reader"}}
	stranger := control.Caller{ProjectID: "demo", Roles: []string{"heat_stack_user"}}
	for _, rt := range h.server.routes() {
		if rt.handle.rule == "" || !rt.handle.built {
			continue
		}
		reads := rt.method == "GET" && !strings.HasSuffix(rt.path, "/credentials") && h.server.Policy.rules[rt.handle.rule].text != "rule:admin"
		if got := h.server.Policy.allows(rt.handle.rule, reader); got != reads {
			t.Errorf("%s %s (%s) to a reader: %t", rt.method, rt.path, rt.handle.rule, got)
		}
		if h.server.Policy.allows(rt.handle.rule, stranger) && h.server.Policy.rules[rt.handle.rule].text != "@" {
			t.Errorf("%s %s (%s) is open to any role", rt.method, rt.path, rt.handle.rule)
		}
	}
}

func FuzzPolicyRule(f *testing.F) {
	f.Add("(role:a or not rule:admin) and 'x':%(tenant)s")
	f.Fuzz(func(_ *testing.T, text string) {
		if p, err := NewPolicy(map[string]string{"instance:create": text}); err == nil {
			p.allows("instance:create", control.Caller{ProjectID: "p", Roles: []string{"a"}})
		}
	})
}
