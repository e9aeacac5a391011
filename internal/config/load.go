package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Load reads the file at path over base; with path "" it is base alone. ${NAME} in the file is replaced from the
// environment, so that secrets need not stand in it. An unknown option is an error that names its line.
func Load(path string, base Config) (Config, error) {
	if path == "" {
		return base, base.Validate()
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return base, fmt.Errorf("read the configuration: %w", err)
	}
	expanded, err := expand(raw)
	if err != nil {
		return base, fmt.Errorf("%s: %w", path, err)
	}
	c := base
	d := yaml.NewDecoder(bytes.NewReader(expanded))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return base, fmt.Errorf("%s: %w", path, err)
	}
	return c, c.Validate()
}

// LoadPolicy reads a policy file: rules by name, in YAML or JSON. With path "" there are none.
func LoadPolicy(path string) (map[string]string, error) {
	rules := map[string]string{}
	if path == "" {
		return rules, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	if err := yaml.Unmarshal(raw, &rules); err != nil {
		return nil, fmt.Errorf("read the policy %s: %w", path, err)
	}
	return rules, nil
}

// expand replaces ${NAME} by the environment's value; a name that is not set is an error.
func expand(raw []byte) ([]byte, error) {
	var missing []string
	out := regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}`).ReplaceAllFunc(raw, func(m []byte) []byte {
		name := string(m[2 : len(m)-1])
		value, ok := os.LookupEnv(name)
		if !ok {
			missing = append(missing, name)
		}
		return []byte(value)
	})
	if missing != nil {
		return nil, fmt.Errorf("not set in the environment: %s", strings.Join(missing, ", "))
	}
	return out, nil
}

// Validate lists all mistakes at once.
func (c *Config) Validate() error {
	var mistakes []error
	say := func(option, format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf(option+": "+format, args...))
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		say("listen", "must be host:port, not %q", c.Listen)
	}
	if c.Region == "" {
		say("region", "must not be empty")
	}
	c.validateServices(say)
	c.validateLimits(say)
	c.validateCloud(say)
	oneOf(say, "log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf(say, "log.format", c.Log.Format, "text", "json")
	return errors.Join(mistakes...)
}

type sayFunc func(option, format string, args ...any)

func (c *Config) validateServices(say sayFunc) {
	if u := c.Database.URL; u != "" && !strings.HasPrefix(u, "sqlite://") && !strings.HasPrefix(u, "postgres://") && !strings.HasPrefix(u, "postgresql://") {
		say("database.url", "must begin with postgres:// or sqlite://")
	}
	for option, u := range map[string]string{"rpc.url": c.RPC.URL, "rpc.guest_url": c.RPC.GuestURL} {
		if p, err := url.Parse(u); u != "" && (err != nil || p.Scheme != "amqp" && p.Scheme != "amqps") {
			say(option, "must be an amqp:// or amqps:// URL")
		}
	}
	if c.RPC.CAFile != "" {
		for option, u := range map[string]string{"rpc.url": c.RPC.URL, "rpc.guest_url": c.RPC.GuestURL} {
			if !strings.HasPrefix(u, "amqps://") && (u != "" || option == "rpc.url") {
				say(option, "must be an amqps:// URL with rpc.ca_file")
			}
		}
		if !strings.HasPrefix(c.RPC.ManagementURL, "https://") {
			say("rpc.management_url", "must be an https:// URL with rpc.ca_file: the administrator's password travels there")
		}
	}
	if c.RPC.URL != "" && c.RPC.ManagementURL == "" {
		say("rpc.management_url", "is needed with rpc.url, for the guests' accounts")
	}
	oneOf(say, "api.auth", c.API.Auth, "none", "keystone")
	if c.API.Auth == "keystone" {
		c.validateKeystone(say, "api.auth")
	}
}

// validateKeystone asks for what an option needs of the account.
func (c *Config) validateKeystone(say sayFunc, neededBy string) {
	if u, err := url.Parse(c.Keystone.AuthURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		say("keystone.auth_url", "must be an http:// or https:// URL (%s needs it)", neededBy)
	}
	for option, value := range map[string]string{"keystone.username": c.Keystone.Username, "keystone.password": c.Keystone.Password, "keystone.project": c.Keystone.Project} {
		if value == "" {
			say(option, "must not be empty (%s needs it)", neededBy)
		}
	}
	if c.Keystone.Timeout <= 0 {
		say("keystone.timeout", "must be positive")
	}
}

func (c *Config) validateLimits(say sayFunc) {
	if c.API.MaxBody < 1024 {
		say("api.max_body", "must be at least 1024 bytes")
	}
	if c.API.PageSize < 1 || c.API.PageSize > 1000 {
		say("api.page_size", "must be from 1 to 1000")
	}
	for verb, n := range c.API.RateLimits {
		if n < 0 || !slices.Contains([]string{"GET", "POST", "PUT", "PATCH", "DELETE"}, verb) {
			say("api.rate_limits", "%s: %d is not a verb with a number of requests per minute", verb, n)
		}
	}
	if c.Taskmanager.Workers < 1 {
		say("taskmanager.workers", "must be at least 1")
	}
	if c.Taskmanager.Lease.Seconds() < 3 {
		say("taskmanager.lease", "must be at least 3s")
	}
	if c.Guests.Heartbeat <= 0 {
		say("guests.heartbeat", "must be positive")
	}
	if c.Guests.FirstContact < time.Second {
		say("guests.first_contact", "must be at least 1s")
	}
	if c.Guests.AgentTrial < time.Second {
		say("guests.agent_trial", "must be at least 1s")
	}
	for resource, n := range c.Quotas {
		if n < -1 || !slices.Contains(dbaas.QuotaResources(), resource) {
			say("quotas", "%s: %d is not a resource with a limit", resource, n)
		}
	}
	for option, d := range map[string]time.Duration{
		"retention.operations": c.Retention.Operations, "retention.events": c.Retention.Events,
		"retention.idempotency": c.Retention.Idempotency, "retention.deleted": c.Retention.Deleted, "api.shutdown_wait": c.API.ShutdownWait, "janitor.every": c.Janitor.Every, "janitor.age": c.Janitor.Age, "api.token_cache": c.API.TokenCache,
	} {
		if d < 0 {
			say(option, "must not be negative")
		}
	}
	if c.MaxVolumeSize < 1 {
		say("max_volume_size", "must be at least 1 GB")
	}
}

func (c *Config) validateCloud(say sayFunc) {
	oneOf(say, "cloud.provider", c.Cloud.Provider, "local", "openstack")
	if c.Cloud.Provider == "openstack" {
		c.validateOpenStack(say)
		return
	}
	l := c.Cloud.Local
	oneOf(say, "cloud.local.network_mode", l.NetworkMode, "loopback", "namespaces")
	oneOf(say, "cloud.local.agents", l.Agents, "embedded", "process")
	oneOf(say, "cloud.local.volumes", l.Volumes, "auto", "loop", "directory")
	if l.Agents == "process" && c.RPC.URL == "" {
		say("cloud.local.agents", "process needs rpc.url: agents of their own reach the control plane through RabbitMQ")
	}
	if p, err := netip.ParsePrefix(l.Network); err != nil || !p.Addr().IsLoopback() {
		say("cloud.local.network", "must be a loopback network such as 127.77.0.0/16")
	}
	if len(l.Flavors) == 0 {
		say("cloud.local.flavors", "must have at least one flavor")
	}
	for _, f := range l.Flavors {
		if f.ID == "" || f.RAM < 64 || f.VCPUs < 1 {
			say("cloud.local.flavors", "flavor %q needs an id, at least 64 MB of ram and a vcpu", f.ID)
		}
	}
	if len(l.Zones) == 0 {
		say("cloud.local.zones", "must have at least one zone")
	}
}

func (c *Config) validateOpenStack(say sayFunc) {
	c.validateKeystone(say, "cloud.provider")
	if c.Cloud.OpenStack.Network == "" {
		say("cloud.openstack.network", "must be the id of a network")
	}
	oneOf(say, "cloud.openstack.interface", c.Cloud.OpenStack.Interface, "public", "internal", "admin")
}

func oneOf(say sayFunc, option, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		say(option, "must be %s, not %q", strings.Join(allowed, " or "), value)
	}
}

// Effective is the configuration as YAML, secrets masked.
func Effective(c Config) ([]byte, error) {
	mask(reflect.ValueOf(&c).Elem())
	return yaml.Marshal(c)
}

// mask hides the passwords in every string that is marked secret, and keeps the rest of a URL readable.
func mask(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		f := v.Field(i)
		switch secret := v.Type().Field(i).Tag.Get("secret"); {
		case secret == "whole" && f.String() != "":
			f.SetString("***")
			continue
		case secret == "true" && f.String() != "":
			f.SetString(maskURL(f.String()))
			continue
		}
		mask(f)
	}
}

func maskURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" {
		return "***"
	}
	q := u.Query()
	for name := range q {
		if strings.Contains(strings.ToLower(name), "password") {
			q.Set(name, "xxxxx")
			u.RawQuery = q.Encode()
		}
	}
	return u.Redacted()
}

// defaultDataDir is grove below the user's state directory (XDG base directory specification).
func defaultDataDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "grove")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "grove")
	}
	return filepath.Join(home, ".local", "state", "grove")
}
