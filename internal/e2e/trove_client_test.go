package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"

	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestTroveClientOnOpenStack works with Grove as a tenant of any OpenStack does: with python-openstackclient, python-troveclient and a
// token of Keystone, whose catalog says where Grove listens.
func TestTroveClientOnOpenStack(t *testing.T) {
	cloud := loginDevcloud(t)
	program := testbed.Program(t, "openstack")
	_, admin := cloud.open(t, cloud.databaseAddress(t))
	offerRedis(admin)
	alice := client{t: t, program: program, env: cloud.variables(t, "dev-alice")}

	created := alice.object("database", "instance", "create", "first", "--flavor", "db.tiny", "--size", "1", "--datastore", "redis",
		"--datastore-version", "7.0", "--nic", "net-id="+cloud.network, "--allowed-cidr", "10.0.0.0/8")
	id, _ := created["id"].(string)
	if id == "" || created["name"] != "first" || created["datastore"] != "redis" {
		t.Fatalf("created: %v", created)
	}
	alice.awaitStatus(id, "ACTIVE")
	alice.says("first", "database", "instance", "list")
	shown := alice.object("database", "instance", "show", "first")
	if shown["operating_status"] != "HEALTHY" || shown["flavor"] != "1" || fmt.Sprint(shown["ip"]) == "" {
		t.Errorf("shown: %v", shown)
	}

	alice.says("redis", "datastore", "list")
	alice.says("7.0", "datastore", "version", "list", "redis")
	alice.says("db.tiny", "database", "flavor", "list")
	alice.says("512", "database", "flavor", "show", "1")
	alice.says("max_instances", "database", "limit", "list")
	alice.says("maxmemory-policy", "database", "configuration", "parameter", "list", "7.0", "--datastore", "redis")
	alice.says("False", "database", "root", "show", id)
	alice.says("password", "database", "root", "enable", id)
	alice.says("True", "database", "root", "show", id)

	alice.run("database", "configuration", "create", "lru", `{"maxmemory-policy": "allkeys-lru"}`, "--datastore", "redis", "--datastore-version", "7.0")
	alice.says("lru", "database", "configuration", "list")
	alice.says("allkeys-lru", "database", "configuration", "show", "lru")
	alice.run("database", "configuration", "attach", id, "lru")
	alice.awaitStatus(id, "ACTIVE")
	alice.says(id, "database", "configuration", "instances", "lru")
	alice.run("database", "configuration", "detach", id)
	alice.awaitStatus(id, "ACTIVE")
	alice.run("database", "configuration", "delete", "lru")

	alice.run("database", "instance", "update", id, "--name", "renamed")
	alice.says("renamed", "database", "instance", "list")
	alice.run("database", "instance", "resize", "volume", id, "2")
	alice.awaitStatus(id, "ACTIVE")
	alice.run("database", "instance", "restart", id)
	alice.awaitStatus(id, "ACTIVE")

	replica, _ := alice.object("database", "instance", "create", "second", "--replica-of", id, "--nic", "net-id="+cloud.network)["id"].(string)
	alice.awaitStatus(replica, "ACTIVE")
	alice.awaitStatus(id, "ACTIVE")
	alice.run("database", "instance", "promote", replica)
	alice.awaitStatus(replica, "ACTIVE")
	alice.awaitStatus(id, "ACTIVE")
	alice.refused("Unable to delete", "database", "instance", "delete", replica) // which is the source now
	alice.refused("99", "database", "instance", "create", "nowhere", "--flavor", "99", "--size", "1")

	for _, one := range []string{id, replica} {
		alice.run("database", "instance", "delete", one)
		alice.awaitGone(one)
	}
	cloud.requireNothing(t)
}

// databaseAddress is where the catalog says that Grove listens.
func (d *devcloud) databaseAddress(t *testing.T) string {
	t.Helper()
	auth, where := d.options(t, "dev-alice")
	provider, err := openstack.AuthenticatedClient(t.Context(), auth)
	if err != nil {
		t.Fatal(err)
	}
	where.ApplyDefaults("database")
	where.Availability = gophercloud.AvailabilityPublic
	found, err := provider.EndpointLocator(where)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(found)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// variables is the environment of a user's client.
func (d *devcloud) variables(t *testing.T, name string) []string {
	t.Helper()
	auth, where := d.options(t, name)
	return append(os.Environ(), "OS_AUTH_URL="+auth.IdentityEndpoint, "OS_USERNAME="+auth.Username, "OS_PASSWORD="+auth.Password,
		"OS_PROJECT_NAME="+auth.TenantName, "OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_IDENTITY_API_VERSION=3",
		"OS_REGION_NAME="+where.Region, "no_proxy=127.0.0.1", "PYTHONPATH=", "PYTHONHOME=")
}

// client is the program openstack in the hands of a user.
type client struct {
	t       *testing.T
	program string
	env     []string
}

func (c client) try(args ...string) (string, error) {
	cmd := exec.CommandContext(context.Background(), c.program, args...)
	cmd.Env = c.env
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("openstack %s: %w: %s", strings.Join(args, " "), err, failure.String())
	}
	return out.String(), nil
}

func (c client) run(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// says requires that a command succeeds and says something.
func (c client) says(want string, args ...string) {
	c.t.Helper()
	if out := c.run(args...); !strings.Contains(out, want) {
		c.t.Errorf("openstack %s does not say %q:\n%s", strings.Join(args, " "), want, out)
	}
}

// refused requires that a command fails and says why.
func (c client) refused(why string, args ...string) {
	c.t.Helper()
	if out, err := c.try(args...); err == nil || !strings.Contains(err.Error(), why) {
		c.t.Errorf("openstack %s: %s, %v", strings.Join(args, " "), out, err)
	}
}

// object is what a command shows.
func (c client) object(args ...string) (shown map[string]any) {
	c.t.Helper()
	out := c.run(append(args, "-f", "json")...)
	if err := json.Unmarshal([]byte(out), &shown); err != nil {
		c.t.Fatalf("openstack %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return shown
}

func (c client) awaitStatus(id, want string) {
	c.t.Helper()
	eventually(c.t, 3*time.Minute, func() error {
		out, err := c.try("database", "instance", "show", id, "-f", "value", "-c", "status")
		if err == nil && strings.TrimSpace(out) != want {
			err = fmt.Errorf("it is %s", out)
		}
		return err
	})
}

func (c client) awaitGone(id string) {
	c.t.Helper()
	eventually(c.t, 3*time.Minute, func() error {
		if out, err := c.try("database", "instance", "show", id, "-f", "value", "-c", "status"); err == nil {
			return errors.New("it is still " + out)
		}
		return nil
	})
}
