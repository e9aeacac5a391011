package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/api/wire"
)

// get reads the value under a key of the answer's object.
func get[T any](ctx context.Context, c *Client, key string, path ...string) (*T, error) {
	body := map[string]*T{}
	if _, err := c.call(ctx, request{method: http.MethodGet, path: path, out: &body}); err != nil {
		return nil, err
	}
	if body[key] == nil {
		return new(T), nil
	}
	return body[key], nil
}

// Instances lists the project's instances by ascending id, the order in which pages follow each other, so that the last
// one's id is the marker to go on with; clustered includes members of clusters.
func (c *Client) Instances(ctx context.Context, p Page, clustered bool) ([]wire.Instance, error) {
	query := url.Values{}
	if clustered {
		query.Set("include_clustered", "true")
	}
	all, err := list[wire.Instance](ctx, c, request{path: []string{"instances"}, query: query}, "instances", p)
	slices.SortFunc(all, func(a, b wire.Instance) int { return strings.Compare(a.ID, b.ID) })
	return all, err
}

// Instance shows an instance.
func (c *Client) Instance(ctx context.Context, id string) (*wire.Instance, error) {
	return get[wire.Instance](ctx, c, "instance", "instances", id)
}

// CreateInstance asks for an instance; the answer has its password.
func (c *Client) CreateInstance(ctx context.Context, n wire.CreateInstance) (*wire.Instance, *Reply, error) {
	var body wire.InstanceEnvelope
	reply, err := c.call(ctx, request{method: http.MethodPost, path: []string{"instances"}, in: wire.CreateInstanceRequest{Instance: &n}, out: &body})
	return &body.Instance, reply, err
}

// DeleteInstance deletes an instance.
func (c *Client) DeleteInstance(ctx context.Context, id string) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodDelete, path: []string{"instances", id}})
}

// UpdateInstance changes an instance. A change with nothing in it detaches the configuration group.
func (c *Client) UpdateInstance(ctx context.Context, id string, change wire.PutInstance) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPut, path: []string{"instances", id}, in: wire.PutInstanceRequest{Instance: &change}})
}

// ActOnInstance starts one of the actions of POST /instances/{id}/action.
func (c *Client) ActOnInstance(ctx context.Context, id string, action wire.InstanceAction) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPost, path: []string{"instances", id, "action"}, in: action})
}

// DefaultConfiguration gives the values that an instance has without a configuration group.
func (c *Client) DefaultConfiguration(ctx context.Context, id string) (map[string]any, error) {
	var body wire.InstanceConfiguration
	_, err := c.call(ctx, request{method: http.MethodGet, path: []string{"instances", id, "configuration"}, out: &body})
	return body.Instance.Configuration, err
}

// Credentials reveals how to log in to an instance.
func (c *Client) Credentials(ctx context.Context, id string) (*wire.Credentials, error) {
	return get[wire.Credentials](ctx, c, "credentials", "instances", id, "credentials")
}

// RootEnabled tells whether root is enabled.
func (c *Client) RootEnabled(ctx context.Context, id string) (bool, error) {
	var body wire.RootEnabled
	_, err := c.call(ctx, request{method: http.MethodGet, path: []string{"instances", id, "root"}, out: &body})
	return body.RootEnabled, err
}

// EnableRoot enables root with a password, or with a generated one when it is empty.
func (c *Client) EnableRoot(ctx context.Context, id, password string) (*wire.RootUser, *Reply, error) {
	var in wire.RootRequest
	if password != "" {
		in.Password = &password
	}
	var body wire.RootUser
	reply, err := c.call(ctx, request{method: http.MethodPost, path: []string{"instances", id, "root"}, in: in, out: &body})
	return &body, reply, err
}

// DisableRoot disables root.
func (c *Client) DisableRoot(ctx context.Context, id string) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodDelete, path: []string{"instances", id, "root"}})
}

// Datastores lists what is on offer, with versions.
func (c *Client) Datastores(ctx context.Context) ([]wire.Datastore, error) {
	return list[wire.Datastore](ctx, c, request{path: []string{"datastores"}}, "datastores", Page{})
}

// Datastore shows a datastore by id or name.
func (c *Client) Datastore(ctx context.Context, ds string) (*wire.Datastore, error) {
	return get[wire.Datastore](ctx, c, "datastore", "datastores", ds)
}

// Versions lists the versions of a datastore, by id or name.
func (c *Client) Versions(ctx context.Context, ds string) ([]wire.Version, error) {
	return list[wire.Version](ctx, c, request{path: []string{"datastores", ds, "versions"}}, "versions", Page{})
}

// Version shows a version by its id.
func (c *Client) Version(ctx context.Context, id string) (*wire.Version, error) {
	return get[wire.Version](ctx, c, "version", "datastores", "versions", id)
}

// Parameters lists the configuration parameters of a version, by its id.
func (c *Client) Parameters(ctx context.Context, version string) ([]wire.Parameter, error) {
	path := []string{"datastores", "versions", version, "parameters"}
	return list[wire.Parameter](ctx, c, request{path: path}, "configuration-parameters", Page{})
}

// Parameter shows one configuration parameter of a version, by its id.
func (c *Client) Parameter(ctx context.Context, version, name string) (*wire.Parameter, error) {
	var p wire.Parameter
	_, err := c.call(ctx, request{method: http.MethodGet, path: []string{"datastores", "versions", version, "parameters", name}, out: &p})
	return &p, err
}

// Flavors lists the sizes on offer.
func (c *Client) Flavors(ctx context.Context) ([]wire.Flavor, error) {
	return list[wire.Flavor](ctx, c, request{path: []string{"flavors"}}, "flavors", Page{})
}

// Flavor shows a flavor by its id.
func (c *Client) Flavor(ctx context.Context, id string) (*wire.Flavor, error) {
	return get[wire.Flavor](ctx, c, "flavor", "flavors", id)
}

// Configurations lists configuration groups.
func (c *Client) Configurations(ctx context.Context, p Page) ([]wire.Configuration, error) {
	return list[wire.Configuration](ctx, c, request{path: []string{"configurations"}}, "configurations", p)
}

// Configuration shows a configuration group.
func (c *Client) Configuration(ctx context.Context, id string) (*wire.Configuration, error) {
	return get[wire.Configuration](ctx, c, "configuration", "configurations", id)
}

// CreateConfiguration makes a configuration group.
func (c *Client) CreateConfiguration(ctx context.Context, n wire.CreateConfiguration) (*wire.Configuration, *Reply, error) {
	var body wire.ConfigurationEnvelope
	reply, err := c.call(ctx, request{method: http.MethodPost, path: []string{"configurations"}, in: wire.CreateConfigurationRequest{Configuration: &n}, out: &body})
	return &body.Configuration, reply, err
}

// ReplaceConfiguration replaces all values of a group, and its name and description where given.
func (c *Client) ReplaceConfiguration(ctx context.Context, id string, u wire.UpdateConfiguration) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPut, path: []string{"configurations", id}, in: wire.UpdateConfigurationRequest{Configuration: &u}})
}

// PatchConfiguration sets some values of a group.
func (c *Client) PatchConfiguration(ctx context.Context, id string, values map[string]any) (*Reply, error) {
	in := wire.UpdateConfigurationRequest{Configuration: &wire.UpdateConfiguration{Values: values}}
	return c.call(ctx, request{method: http.MethodPatch, path: []string{"configurations", id}, in: in})
}

// DeleteConfiguration deletes a group that no instance uses.
func (c *Client) DeleteConfiguration(ctx context.Context, id string) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodDelete, path: []string{"configurations", id}})
}

// ConfigurationInstances lists the instances that use a group.
func (c *Client) ConfigurationInstances(ctx context.Context, id string, p Page) ([]wire.Resource, error) {
	return list[wire.Resource](ctx, c, request{path: []string{"configurations", id, "instances"}}, "instances", p)
}

// Quotas lists a project's quotas.
func (c *Client) Quotas(ctx context.Context, project string) ([]wire.Quota, error) {
	return list[wire.Quota](ctx, c, request{path: []string{"mgmt", "quotas", project}}, "quotas", Page{})
}

// SetQuotas changes limits of a project; the answer has those that changed.
func (c *Client) SetQuotas(ctx context.Context, project string, limits map[string]int) (map[string]int, error) {
	var body wire.QuotaLimits
	_, err := c.call(ctx, request{method: http.MethodPut, path: []string{"mgmt", "quotas", project}, in: map[string]any{"quotas": limits}, out: &body})
	return body.Quotas, err
}

// MgmtInstances lists the instances of all projects that live, members of clusters too: the administrator's.
func (c *Client) MgmtInstances(ctx context.Context) ([]wire.MgmtInstance, error) {
	query := url.Values{"include_clustered": {"true"}, "deleted": {"false"}}
	return list[wire.MgmtInstance](ctx, c, request{path: []string{"mgmt", "instances"}, query: query}, "instances", Page{})
}

// UpgradeAgents replaces the guest agents of an instance: the administrator's.
func (c *Client) UpgradeAgents(ctx context.Context, id string, u wire.UpgradeAgent) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPost, path: []string{"mgmt", "instances", id, "upgrade"}, in: wire.UpgradeAgentEnvelope{Upgrade: &u}})
}

// Findings lists where the cloud and Grove's records disagree: the administrator's.
func (c *Client) Findings(ctx context.Context, p Page) ([]wire.Finding, error) {
	return list[wire.Finding](ctx, c, request{path: []string{"mgmt", "findings"}}, "findings", p)
}

// DeleteFindings has orphans deleted: the administrator's.
func (c *Client) DeleteFindings(ctx context.Context, d wire.DeleteFindings) error {
	_, err := c.call(ctx, request{method: http.MethodPost, path: []string{"mgmt", "findings", "action"}, in: wire.FindingsAction{Delete: &d}})
	return err
}

// MgmtVersions lists the versions of all datastores: the administrator's.
func (c *Client) MgmtVersions(ctx context.Context) ([]wire.MgmtVersion, error) {
	return list[wire.MgmtVersion](ctx, c, request{path: []string{"mgmt", "datastore-versions"}}, "versions", Page{})
}

// CreateVersion offers a version of a datastore.
func (c *Client) CreateVersion(ctx context.Context, v wire.CreateVersion) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPost, path: []string{"mgmt", "datastore-versions"}, in: wire.CreateVersionRequest{Version: &v}})
}

// UpdateVersion changes a version.
func (c *Client) UpdateVersion(ctx context.Context, id string, v wire.UpdateVersion) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPatch, path: []string{"mgmt", "datastore-versions", id}, in: v})
}

// DeleteVersion withdraws a version.
func (c *Client) DeleteVersion(ctx context.Context, id string) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodDelete, path: []string{"mgmt", "datastore-versions", id}})
}

// CA shows the authority that signs the certificates of databases.
func (c *Client) CA(ctx context.Context) (*wire.CA, error) { return get[wire.CA](ctx, c, "ca", "ca") }

// Limits shows the project's limits.
func (c *Client) Limits(ctx context.Context) (*Limits, error) {
	entries, err := list[json.RawMessage](ctx, c, request{path: []string{"limits"}}, "limits", Page{})
	if err != nil {
		return nil, err
	}
	l := &Limits{Absolute: map[string]int{}}
	for i, entry := range entries {
		if i == 0 {
			if err := decodeAbsolute(entry, l.Absolute); err != nil {
				return nil, err
			}
			continue
		}
		var r wire.RateLimit
		if err := json.Unmarshal(entry, &r); err != nil {
			return nil, err
		}
		l.Rates = append(l.Rates, r)
	}
	return l, nil
}

// decodeAbsolute takes the numbers out of the first element of the limits.
func decodeAbsolute(entry json.RawMessage, into map[string]int) error {
	var fields map[string]any
	if err := json.Unmarshal(entry, &fields); err != nil {
		return err
	}
	for name, v := range fields {
		if n, ok := v.(float64); ok {
			into[name] = int(n)
		}
	}
	return nil
}

// Limits is what a project may do: absolute limits by name, and rates.
type Limits struct {
	Absolute map[string]int
	Rates    []wire.RateLimit
}

// OperationFilter chooses operations.
type OperationFilter struct {
	ResourceID string
	Status     string
}

// Operations lists operations, the newest first.
func (c *Client) Operations(ctx context.Context, f OperationFilter, p Page) ([]wire.Operation, error) {
	query := url.Values{}
	set(query, "resource_id", f.ResourceID)
	set(query, "status", f.Status)
	return list[wire.Operation](ctx, c, request{path: []string{"operations"}, query: query}, "operations", p)
}

// Operation shows an operation with its steps.
func (c *Client) Operation(ctx context.Context, id string) (*wire.Operation, error) {
	return get[wire.Operation](ctx, c, "operation", "operations", id)
}

// ActOnOperation retries or cancels an operation.
func (c *Client) ActOnOperation(ctx context.Context, id string, action wire.OperationAction) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPost, path: []string{"operations", id, "action"}, in: action})
}

// Events lists events, the newest first; resourceID "" is all.
func (c *Client) Events(ctx context.Context, resourceID string, p Page) ([]wire.Event, error) {
	query := url.Values{}
	set(query, "resource_id", resourceID)
	return list[wire.Event](ctx, c, request{path: []string{"events"}, query: query}, "events", p)
}

func set(query url.Values, key, value string) {
	if value != "" {
		query.Set(key, value)
	}
}
