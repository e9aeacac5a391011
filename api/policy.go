package api

import (
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Role is what a policy rule asks of a caller.
type Role string

// The roles. An owner acts in its own project, which the path and the use cases make sure of; an administrator may do
// everything that an owner may.
const (
	Owner         Role = "owner"
	Administrator Role = "admin"
	Anyone        Role = "anyone"
)

// Policy says for each rule (api reference 7.5) which role it needs.
type Policy map[string]Role

// DefaultPolicy is Trove's, with the rules of what Grove adds.
func DefaultPolicy() Policy {
	p := Policy{}
	p.add(Anyone, "datastore", "index", "show", "version_index", "version_show", "version_show_by_uuid",
		"list_associated_flavors", "list_associated_volume_types")
	p.add(Anyone, "flavor", "index", "show")
	p.add(Anyone, "volume_type", "index", "show")
	p.add(Administrator, "datastore", "delete")
	p.add(Owner, "limits", "index")
	p.add(Owner, "ca", "show")
	p.add(Owner, "instance", "create", "delete", "force_delete", "index", "detail", "show", "update", "edit", "restart", "stop", "start", "rebuild", "failover", "renew_certificates",
		"resize_volume", "resize_flavor", "promote_to_replica_source", "eject_replica_source", "configuration",
		"guest_log_list", "backups", "module_list", "module_apply", "module_remove", "credentials", "ssl")
	p.add(Administrator, "instance", "reset_status")
	p.add(Owner, "instance:extension:root", "create", "delete", "index")
	p.add(Owner, "instance:extension:user", "create", "delete", "index", "show", "update", "update_all")
	p.add(Owner, "instance:extension:user_access", "update", "delete", "index")
	p.add(Owner, "instance:extension:database", "create", "delete", "index", "show")
	p.add(Owner, "cluster", "create", "delete", "force_delete", "index", "show", "show_instance", "action", "credentials")
	p.add(Administrator, "cluster", "reset-status")
	p.add(Owner, "cluster:extension:root", "create", "delete", "index")
	p.add(Owner, "backup", "create", "delete", "index", "show")
	p.add(Owner, "backup_strategy", "create", "index", "delete")
	p.add(Owner, "configuration", "create", "delete", "index", "show", "instances", "update", "edit")
	p.add(Owner, "configuration-parameter", "index", "show", "index_by_version", "show_by_version")
	p.add(Owner, "module", "create", "delete", "index", "show", "instances", "update", "reapply")
	p.add(Owner, "quota", "show")
	p.add(Administrator, "quota", "update")
	p.add(Owner, "operation", "index", "show", "retry", "cancel")
	p.add(Administrator, "operation", "all_projects")
	p.add(Owner, "event", "index")
	p.add(Administrator, "mgmt", "instances", "clusters", "datastore_versions", "configuration_parameters")
	return p
}

func (p Policy) add(role Role, resource string, deeds ...string) {
	for _, deed := range deeds {
		p[resource+":"+deed] = role
	}
}

// require refuses a caller that a rule does not allow. A rule that does not exist allows nobody.
func (s *Server) require(r *request, rule string) error {
	role, known := s.Policy[rule]
	switch {
	case known && role == Anyone, known && role == Owner && r.caller.ProjectID != "", known && r.caller.Admin:
		return nil
	case role == Administrator:
		return dbaas.Errorf(dbaas.Forbidden, "Policy rule %s: only an administrator may do this.", rule)
	default:
		return dbaas.Errorf(dbaas.Forbidden, "Policy rule %s does not allow this.", rule)
	}
}
