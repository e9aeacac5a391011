package api

import (
	"strings"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

func notBuilt(what string) error {
	return dbaas.Errorf(dbaas.NotImplemented, "%s is not built yet.", what)
}

// notBuiltRoutes are the routes of Trove that Grove does not have yet. They say so rather than that they do not exist.
func (s *Server) notBuiltRoutes() []route {
	var all []route
	for _, resource := range []struct {
		name, rule string
		routes     []string
	}{
		{"The resource backups", "backup:index", []string{
			"GET /instances/{id}/backups", "GET /backups", "POST /backups", "GET /backups/{id}", "DELETE /backups/{id}"}},
		{"The resource backup_strategies", "backup_strategy:index", []string{
			"GET /backup_strategies", "POST /backup_strategies", "DELETE /backup_strategies"}},
		{"The resource log", "instance:guest_log_list", []string{"GET /instances/{id}/log", "POST /instances/{id}/log"}},
		{"The resource ssl", "instance:ssl", []string{"GET /instances/{id}/ssl", "POST /instances/{id}/ssl"}},
		{"The resource modules", "module:index", []string{
			"GET /instances/{id}/modules", "POST /instances/{id}/modules", "DELETE /instances/{id}/modules/{module}",
			"GET /modules", "POST /modules", "GET /modules/{id}", "PUT /modules/{id}", "DELETE /modules/{id}",
			"GET /modules/{id}/instances", "PUT /modules/{id}/instances"}},
		{"The resource databases", "instance:extension:database:index", []string{
			"GET /instances/{id}/databases", "POST /instances/{id}/databases", "GET /instances/{id}/databases/{name}",
			"DELETE /instances/{id}/databases/{name}"}},
		{"The resource mgmt/instances", "mgmt:instances", []string{
			"GET /mgmt/instances/{id}/diagnostics", "GET /mgmt/instances/{id}/hwinfo", "GET /mgmt/instances/{id}/rpc_ping"}},
		{"The resource mgmt/datastores/versions/parameters", "mgmt:configuration_parameters", []string{
			"GET /mgmt/datastores/versions/{version}/parameters", "POST /mgmt/datastores/versions/{version}/parameters",
			"GET /mgmt/datastores/versions/{version}/parameters/{name}", "PUT /mgmt/datastores/versions/{version}/parameters/{name}",
			"DELETE /mgmt/datastores/versions/{version}/parameters/{name}"}},
	} {
		for _, line := range resource.routes {
			all = append(all, notBuiltRoute(line, resource.name, resource.rule))
		}
	}
	return all
}

// notBuiltRoute answers "VERB path" with 501. The name is of the resource; the rule keeps who may not use it from
// learning more than that.
func notBuiltRoute(line, name, rule string) route {
	method, path, _ := strings.Cut(line, " ")
	return route{method, path, endpoint{rule: rule, handle: func(*request) (*answer, error) {
		return nil, notBuilt(name)
	}}}
}
