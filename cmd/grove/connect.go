package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"github.com/grove-dbaas/grove/cmd/grove/internal/clouds"
)

// defaultEndpoint and defaultProject are what 'groved dev' serves.
const (
	defaultEndpoint = "http://127.0.0.1:8779"
	defaultProject  = "demo"
)

// connectFlags are the flags that choose a server.
type connectFlags struct {
	endpoint string
	cloud    string
	project  string
	authType string
	caCert   string
	insecure bool
}

func (c *connectFlags) register(f *pflag.FlagSet) {
	f.StringVar(&c.endpoint, "endpoint", "", "`URL` of the server, with or without /v1.0/PROJECT (GROVE_ENDPOINT, OS_ENDPOINT)")
	f.StringVar(&c.project, "os-project-id", "", "`project` to work in (OS_PROJECT_ID)")
	f.StringVar(&c.cloud, "os-cloud", "", "`name` of a cloud in clouds.yaml (OS_CLOUD)")
	f.StringVar(&c.authType, "os-auth-type", "", "none or token (OS_AUTH_TYPE)")
	f.StringVar(&c.caCert, "os-cacert", "", "`file` with CA certificates to trust (OS_CACERT)")
	f.BoolVar(&c.insecure, "insecure", false, "do not check the server's certificate")
}

// alias lets flags be called as openstackclient calls them.
func alias(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	switch name {
	case "os-endpoint", "os-endpoint-override", "os-database-endpoint-override":
		name = "endpoint"
	case "project":
		name = "os-project-id"
	case "configuration-group":
		name = "configuration"
	}
	return pflag.NormalizedName(name)
}

// target is a server to speak to.
type target struct {
	endpoint string // with version and project
	token    string
	caCert   string
	insecure bool
}

// settings are what flags, environment and clouds.yaml say together, before it is judged.
type settings struct {
	target
	authType string
	authURL  string
	project  string
}

// resolve finds the server: --endpoint or GROVE_ENDPOINT, else a named cloud, else OS_* variables, else 'groved dev'.
// Flags go before the environment, and the environment before clouds.yaml.
func (c *connectFlags) resolve(getenv func(string) string) (target, error) {
	s := settings{
		authType: firstOf(c.authType, getenv("OS_AUTH_TYPE")),
		authURL:  getenv("OS_AUTH_URL"),
		project:  firstOf(getenv("OS_PROJECT_ID"), getenv("OS_TENANT_ID"), getenv("OS_PROJECT_NAME")),
		target: target{
			token:    firstOf(getenv("OS_TOKEN"), getenv("OS_AUTH_TOKEN")),
			caCert:   firstOf(c.caCert, getenv("OS_CACERT")),
			insecure: c.insecure || getenv("OS_INSECURE") != "",
		},
	}
	explicit := firstOf(c.endpoint, getenv("GROVE_ENDPOINT"))
	s.endpoint = firstOf(explicit, getenv("OS_ENDPOINT"), getenv("OS_ENDPOINT_OVERRIDE"), getenv("OS_DATABASE_ENDPOINT_OVERRIDE"))
	if name := firstOf(c.cloud, getenv("OS_CLOUD")); name != "" && (explicit == "" || c.cloud != "") {
		cloud, err := clouds.Load(name, getenv)
		if err != nil {
			return target{}, err
		}
		s.add(cloud)
	}
	if explicit == "" {
		if err := s.checkLogin(); err != nil {
			return target{}, err
		}
	}
	var err error
	s.endpoint, err = complete(firstOf(s.endpoint, defaultEndpoint), c.project, s.project)
	return s.target, err
}

// add takes from a cloud what is not set yet.
func (s *settings) add(c *clouds.Cloud) {
	s.authType = firstOf(s.authType, c.AuthType)
	s.authURL = firstOf(s.authURL, c.Auth.AuthURL)
	s.project = firstOf(s.project, c.Auth.ProjectID, c.Auth.ProjectName)
	s.token = firstOf(s.token, c.Auth.Token)
	s.endpoint = firstOf(s.endpoint, c.DatabaseEndpoint, c.Endpoint, c.Auth.Endpoint)
	s.caCert = firstOf(s.caCert, c.CACert)
	s.insecure = s.insecure || c.Verify != nil && !*c.Verify
}

// errLogin says what stands in for a login.
var errLogin = errors.New(`logging in to Keystone with a password or an application credential is not supported yet.
Give a token and the address of the service instead:
  export OS_TOKEN=$(openstack token issue -f value -c id) OS_AUTH_TYPE=token
  export OS_ENDPOINT=URL      # of the service "database" in 'openstack catalog list', with the project's id
For a server without authentication, such as 'groved dev', set GROVE_ENDPOINT or OS_AUTH_TYPE=none`)

// checkLogin refuses what would need a login to Keystone.
func (s *settings) checkLogin() error {
	kind := strings.TrimPrefix(strings.ReplaceAll(s.authType, "_", ""), "v3")
	switch kind {
	case "none", "noauth":
		s.token = ""
		return nil
	case "token", "admintoken", "tokenendpoint":
		if s.token == "" {
			return fmt.Errorf("the authentication type is %s, but there is no token: set OS_TOKEN", s.authType)
		}
	case "":
		if s.token == "" && s.authURL != "" {
			return errLogin
		}
	default:
		return errLogin
	}
	if s.token != "" && s.endpoint == "" {
		return errors.New(`there is a token, but no endpoint: set OS_ENDPOINT to the URL of the service "database" (openstack catalog list)`)
	}
	return nil
}

// complete makes the base URL of one project of an endpoint: with the version, and with the project. A project in the
// endpoint is kept, unless a flag names another.
func complete(endpoint, flag, project string) (string, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "http://" + endpoint
	}
	for _, mark := range []string{"%(project_id)s", "%(tenant_id)s", "$(project_id)s", "$(tenant_id)s"} {
		endpoint = strings.ReplaceAll(endpoint, mark, "")
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("the endpoint %q is not an http or https URL; it should look like http://127.0.0.1:8779/v1.0/demo", endpoint)
	}
	path, own := splitPath(u.Path)
	if u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback() {
		project = firstOf(project, defaultProject)
	}
	project = firstOf(flag, own, project)
	if project == "" {
		return "", fmt.Errorf("the endpoint %s names no project: set OS_PROJECT_ID, or give --os-project-id", endpoint)
	}
	u.RawQuery, u.Fragment, u.RawPath = "", "", ""
	u.Path = path
	return u.JoinPath(url.PathEscape(project)).String(), nil
}

// splitPath takes a path apart at its version, which is added when it is missing, and the project behind it.
func splitPath(path string) (base, project string) {
	path = strings.TrimRight(path, "/")
	at := versionSegment().FindStringIndex(path)
	if at == nil {
		return path + "/v1.0", ""
	}
	base = strings.TrimRight(path[:at[1]], "/")
	project, _, _ = strings.Cut(strings.TrimLeft(path[at[1]:], "/"), "/")
	return base, project
}

func versionSegment() *regexp.Regexp { return regexp.MustCompile(`/v[0-9]+(\.[0-9]+)?(/|$)`) }

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
