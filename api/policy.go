package api

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Policy says for each rule (api reference 7.5) who may do what it stands for, in the language of oslo.policy.
type Policy struct{ rules map[string]rule }

// rule is a compiled rule.
type rule struct {
	text  string
	check check
	refs  []string // rules that it asks
}

// The rules that others are made of. Operators know the first four from Trove's policy file. An owner's reader, as Keystone
// has it, sees everything and changes nothing, and is shown no password.
const (
	ruleAdminContext = "context_is_admin"
	ruleAdmin        = "admin"
	ruleAdminOrOwner = "admin_or_owner"
	ruleOwner        = "owner"
	ruleMember       = "member"
	ruleReader       = "reader"
)

// DefaultRules gives Trove's rules, with those of what Grove adds, by name.
func DefaultRules() map[string]string {
	rules := map[string]string{
		ruleAdminContext: "role:admin",
		ruleAdmin:        "is_admin:True",
		ruleAdminOrOwner: "rule:admin or rule:member",
		ruleOwner:        "project_id:%(tenant)s",
		ruleMember:       "role:member and rule:owner",
		ruleReader:       "(role:reader or role:member) and rule:owner",
	}
	add := func(who, resource string, deeds ...string) {
		for _, deed := range deeds {
			rules[resource+":"+deed] = who
		}
	}
	const anyone, admin, member, reader = "@", "rule:admin", "rule:admin or rule:member", "rule:admin or rule:reader"
	add(anyone, "datastore", "index", "show", "version_index", "version_show", "version_show_by_uuid",
		"list_associated_flavors", "list_associated_volume_types")
	add(anyone, "flavor", "index", "show")
	add(anyone, "volume_type", "index", "show")
	add(admin, "datastore", "delete")
	add(reader, "limits", "index")
	add(reader, "ca", "show")
	add(reader, "instance", "index", "detail", "show", "configuration", "guest_log_list", "backups", "module_list", "ssl")
	add(member, "instance", "create", "delete", "force_delete", "update", "edit", "restart", "stop", "start", "rebuild", "failover",
		"renew_certificates", "resize_volume", "resize_flavor", "promote_to_replica_source", "eject_replica_source",
		"module_apply", "module_remove", "credentials")
	add(admin, "instance", "reset_status")
	add(reader, "instance:extension:root", "index")
	add(member, "instance:extension:root", "create", "delete")
	add(reader, "instance:extension:user", "index", "show")
	add(member, "instance:extension:user", "create", "delete", "update", "update_all")
	add(reader, "instance:extension:user_access", "index")
	add(member, "instance:extension:user_access", "update", "delete")
	add(reader, "instance:extension:database", "index", "show")
	add(member, "instance:extension:database", "create", "delete")
	add(reader, "cluster", "index", "show", "show_instance")
	add(member, "cluster", "create", "delete", "force_delete", "action", "credentials")
	add(admin, "cluster", "reset-status")
	add(reader, "cluster:extension:root", "index")
	add(member, "cluster:extension:root", "create", "delete")
	add(reader, "backup", "index", "show")
	add(member, "backup", "create", "delete")
	add(reader, "backup_strategy", "index")
	add(member, "backup_strategy", "create", "delete")
	add(reader, "configuration", "index", "show", "instances")
	add(member, "configuration", "create", "delete", "update", "edit")
	add(reader, "configuration-parameter", "index", "show", "index_by_version", "show_by_version")
	add(reader, "module", "index", "show", "instances")
	add(member, "module", "create", "delete", "update", "reapply")
	add(reader, "quota", "show")
	add(admin, "quota", "update")
	add(reader, "operation", "index", "show")
	add(member, "operation", "retry", "cancel")
	add(admin, "operation", "all_projects")
	add(reader, "event", "index")
	add(admin, "mgmt", "instances", "clusters", "datastore_versions", "configuration_parameters", "findings")
	return rules
}

// NewPolicy compiles [DefaultRules] with an operator's rules in the place of those of the same name. Further names without a
// colon are the operator's own, for others to ask. All mistakes are listed at once.
func NewPolicy(operators map[string]string) (*Policy, error) {
	texts := DefaultRules()
	var mistakes []error
	for name, text := range operators {
		if _, known := texts[name]; !known && strings.Contains(name, ":") {
			mistakes = append(mistakes, fmt.Errorf("there is no rule %q", name))
		}
		texts[name] = text
	}
	p := &Policy{rules: map[string]rule{}}
	for name, text := range texts {
		r, err := compile(text)
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("rule %s: %w", name, err))
		}
		p.rules[name] = r
	}
	for _, name := range slices.Sorted(maps.Keys(p.rules)) {
		mistakes = append(mistakes, p.requireEnd(name, nil))
	}
	return p, errors.Join(mistakes...)
}

// requireEnd makes sure that a rule asks no rule that does not exist, nor, by way of others, itself.
func (p *Policy) requireEnd(name string, asking []string) error {
	if slices.Contains(asking, name) {
		return fmt.Errorf("rule %s asks itself", name)
	}
	for _, ref := range p.rules[name].refs {
		if _, known := p.rules[ref]; !known {
			return fmt.Errorf("rule %s asks for a rule %q that does not exist", name, ref)
		}
		if err := p.requireEnd(ref, append(asking, name)); err != nil {
			return err
		}
	}
	return nil
}

// Rules gives the rules in force by name.
func (p *Policy) Rules() map[string]string {
	texts := make(map[string]string, len(p.rules))
	for name, r := range p.rules {
		texts[name] = r.text
	}
	return texts
}

// allows tells whether a caller may do what a rule stands for. A rule that does not exist allows nobody.
func (p *Policy) allows(name string, c control.Caller) bool {
	r, known := p.rules[name]
	return known && r.check(p, c)
}

// require refuses a caller that a rule does not allow.
func (s *Server) require(r *request, name string) error {
	switch {
	case s.Policy.allows(name, r.caller):
		return nil
	case s.Policy.rules[name].text == "rule:"+ruleAdmin:
		return dbaas.Errorf(dbaas.Forbidden, "Policy rule %s: only an administrator may do this.", name)
	case len(r.caller.Roles) == 0:
		return dbaas.Errorf(dbaas.Forbidden, "Policy rule %s does not allow this to somebody without a role.", name)
	default:
		return dbaas.Errorf(dbaas.Forbidden, "Policy rule %s does not allow this to the roles %s.", name, strings.Join(r.caller.Roles, ", "))
	}
}
