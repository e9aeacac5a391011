package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	volumequota "github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	computequota "github.com/gophercloud/gophercloud/v2/openstack/compute/v2/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	networkquota "github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/quotas"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/pagination"
	"github.com/redis/go-redis/v9"
	"go.yaml.in/yaml/v3"

	"github.com/grove-dbaas/grove/internal/testbed"
)

// openDevcloud gives a house of an api and a taskmanager process on PostgreSQL, RabbitMQ and the OpenStack whose state is in
// GROVE_DEVCLOUD, with a Keystone token of the tenant alice.
func openDevcloud(t *testing.T) (h *house, admin *house, cloud *devcloud) {
	t.Helper()
	cloud = loginDevcloud(t)
	h, admin = cloud.open(t, "127.0.0.1:0")
	return h, admin, cloud
}

// open starts the house, whose API listens at an address.
func (cloud *devcloud) open(t testing.TB, listen string) (h, admin *house) {
	t.Helper()
	if !cloud.dark {
		watchMachines(t, filepath.Join(cloud.dir, "data/nova/servers"), cloud.project)
	}
	broker := testbed.RabbitMQ(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "grove.yaml")
	text := fmt.Sprintf(`
listen: %q
data: %q
database: {url: %q}
rpc: {url: %q, management_url: %q}
api: {auth: keystone, token_cache: 5s, rate_limits: {GET: 0, POST: 0, PUT: 0, DELETE: 0}}
keystone: {auth_url: %q, username: %q, password: %q, project: %q}
cloud: {provider: openstack, openstack: {network: %q, image_tags: [redis]%s}}
%s
`, listen, dir, testbed.Postgres(t), broker.URL, broker.ManagementURL, cloud.authURL, cloud.service.Username, cloud.service.Password, cloud.service.TenantName, cloud.network, cloud.openStack, cloud.settings)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"keys", "create"}, {"migrate", "up"}} {
		if out, err := exec.Command(filepath.Join(bin, "groved"), append(args, "--config", config)...).CombinedOutput(); err != nil {
			t.Fatalf("groved %s: %v: %s", args, err, out)
		}
	}
	openRole(t, dir, "taskmanager", "--config", config)
	h = openRole(t, dir, "api", "--config", config)
	token, project := cloud.token(t, "dev-alice")
	h.project, h.token = project, token
	token, project = cloud.token(t, "dev-admin")
	admin = &house{t: t, base: h.base, project: project, token: token}
	return h, admin
}

// openRole starts one role of groved, and ends it with the test.
func openRole(t testing.TB, dir, role string, args ...string) *house {
	t.Helper()
	h := &house{t: t, dir: filepath.Join(dir, role), role: role, args: args}
	h.start()
	t.Cleanup(func() {
		h.stop()
		if t.Failed() {
			if text, err := os.ReadFile(h.log.Name()); err == nil {
				t.Logf("the log of groved %s:\n%s", role, tail(withoutRequests(text), 8000))
			}
		}
	})
	return h
}

// devcloud is the real OpenStack of a developer's machine, as Grove's service account sees it in a project of this test alone.
type devcloud struct {
	dir, authURL, network string // authURL is where Grove finds Keystone
	project               string
	timeout               time.Duration // Grove's patience with a request
	dark                  bool          // no server boots
	settings              string        // more configuration of Grove
	openStack             string        // ", option: value": more of cloud.openstack
	service               gophercloud.AuthOptions
	compute, volume, net  *gophercloud.ServiceClient
}

func loginDevcloud(t testing.TB) *devcloud {
	t.Helper()
	d := &devcloud{dir: os.Getenv("GROVE_DEVCLOUD"), timeout: time.Minute}
	if d.dir == "" {
		t.Skip("there is no OpenStack to test against (GROVE_DEVCLOUD)")
	}
	service, where := d.options(t, "dev-dbaas")
	d.authURL = service.IdentityEndpoint
	service.TenantName = d.makeProject(t)
	d.service = service
	client, err := openstack.AuthenticatedClient(t.Context(), service)
	if err != nil {
		t.Fatal(err)
	}
	for into, open := range map[**gophercloud.ServiceClient]func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error){
		&d.compute: openstack.NewComputeV2, &d.volume: openstack.NewBlockStorageV3, &d.net: openstack.NewNetworkV2,
	} {
		if *into, err = open(client, where); err != nil {
			t.Fatal(err)
		}
	}
	found := listed(t, networks.List(d.net, networks.ListOpts{Name: "private"}), networks.ExtractNetworks)
	if len(found) != 1 {
		t.Fatalf("the network private: %+v", found)
	}
	d.network = found[0].ID
	t.Cleanup(func() {
		if t.Failed() {
			d.sweep(t)
		}
	})
	return d
}

// makeProject gives Grove's account a project for this test, with room enough, and returns its name.
func (d *devcloud) makeProject(t testing.TB) string {
	t.Helper()
	ctx := context.Background()
	admin, where := d.options(t, "dev-admin")
	client, err := openstack.AuthenticatedClient(ctx, admin)
	if err != nil {
		t.Fatal(err)
	}
	identity, err1 := openstack.NewIdentityV3(client, where)
	compute, err2 := openstack.NewComputeV2(client, where)
	volume, err3 := openstack.NewBlockStorageV3(client, where)
	network, err4 := openstack.NewNetworkV2(client, where)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	project, err := projects.Create(ctx, identity, projects.CreateOpts{Name: "grove-" + rand.Text(), DomainID: "default"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	d.project = project.ID
	t.Cleanup(func() {
		if err := projects.Delete(ctx, identity, project.ID).ExtractErr(); err != nil {
			t.Errorf("delete the project of this test: %v", err)
		}
	})
	account := identityOf(t, d, "dev-dbaas")
	role := roleNamed(t, identity, "admin")
	many, gigabytes, memory := 500, 20000, 900000
	_, err1 = computequota.Update(ctx, compute, project.ID, computequota.UpdateOpts{
		Instances: &many, Cores: &many, RAM: &memory, ServerGroups: &many, ServerGroupMembers: &many,
	}).Extract()
	_, err2 = volumequota.Update(ctx, volume, project.ID, volumequota.UpdateOpts{Volumes: &many, Gigabytes: &gigabytes}).Extract()
	_, err3 = networkquota.Update(ctx, network, project.ID, networkquota.UpdateOpts{
		Port: &many, SecurityGroup: &many, SecurityGroupRule: &gigabytes, FloatingIP: &many,
	}).Extract()
	err4 = roles.Assign(ctx, identity, role, roles.AssignOpts{UserID: account, ProjectID: project.ID}).ExtractErr()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return project.Name
}

// identityOf gives the id of a user.
func identityOf(t testing.TB, d *devcloud, name string) string {
	t.Helper()
	auth, _ := d.options(t, name)
	client, err := openstack.AuthenticatedClient(t.Context(), auth)
	if err != nil {
		t.Fatal(err)
	}
	user, err := client.GetAuthResult().(tokens.CreateResult).ExtractUser()
	if err != nil {
		t.Fatal(err)
	}
	return user.ID
}

// roleNamed gives the id of a role.
func roleNamed(t testing.TB, identity *gophercloud.ServiceClient, name string) string {
	t.Helper()
	found := listed(t, roles.List(identity, roles.ListOpts{Name: name}), roles.ExtractRoles)
	if len(found) != 1 {
		t.Fatalf("the role %s: %+v", name, found)
	}
	return found[0].ID
}

// sweep removes what a test that failed has left.
func (d *devcloud) sweep(t testing.TB) {
	t.Helper()
	ctx := context.Background()
	eventually(t, 2*time.Minute, func() error {
		var left []error
		for _, s := range d.servers(t) {
			left = append(left, servers.Delete(ctx, d.compute, s.ID).ExtractErr(), errors.New("a server is going"))
		}
		for _, v := range d.volumes(t) {
			left = append(left, volumes.Delete(ctx, d.volume, v.ID, nil).ExtractErr(), errors.New("a volume is going"))
		}
		for _, p := range d.ports(t) {
			left = append(left, ports.Delete(ctx, d.net, p.ID).ExtractErr())
		}
		for _, g := range d.securityGroups(t) {
			left = append(left, groups.Delete(ctx, d.net, g.ID).ExtractErr())
		}
		return errors.Join(left...)
	})
}

func (d *devcloud) options(t testing.TB, name string) (gophercloud.AuthOptions, gophercloud.EndpointOpts) {
	t.Helper()
	var file struct {
		Clouds map[string]struct {
			Auth struct {
				AuthURL  string `yaml:"auth_url"`
				Username string `yaml:"username"`
				Password string `yaml:"password"`
				Project  string `yaml:"project_name"`
			} `yaml:"auth"`
			Region string `yaml:"region_name"`
		} `yaml:"clouds"`
	}
	text, err := os.ReadFile(filepath.Join(d.dir, "clouds.yaml"))
	if err == nil {
		err = yaml.Unmarshal(text, &file)
	}
	one, ok := file.Clouds[name]
	if err != nil || !ok {
		t.Fatalf("read clouds.yaml of %s: %v", name, err)
	}
	return gophercloud.AuthOptions{
		IdentityEndpoint: one.Auth.AuthURL, Username: one.Auth.Username, Password: one.Auth.Password, TenantName: one.Auth.Project, DomainName: "Default",
	}, gophercloud.EndpointOpts{Region: one.Region}
}

// token logs in as somebody, and gives the id of the project too.
func (d *devcloud) token(t testing.TB, name string) (token, project string) {
	t.Helper()
	auth, _ := d.options(t, name)
	client, err := openstack.AuthenticatedClient(t.Context(), auth)
	if err != nil {
		t.Fatal(err)
	}
	p, err := client.GetAuthResult().(tokens.CreateResult).ExtractProject()
	if err != nil {
		t.Fatal(err)
	}
	return client.TokenID, p.ID
}

// listed reads all pages of a list, also while a test ends.
func listed[T any](t testing.TB, pager pagination.Pager, extract func(pagination.Page) ([]T, error)) []T {
	t.Helper()
	pages, err := pager.AllPages(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	all, err := extract(pages)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// servers lists Grove's.
func (d *devcloud) servers(t testing.TB) []servers.Server {
	t.Helper()
	return listed(t, servers.List(d.compute, servers.ListOpts{}), servers.ExtractServers)
}

// stopServerAt stops the server with an address, as its user would.
func (d *devcloud) stopServerAt(t testing.TB, address string) {
	t.Helper()
	for _, p := range d.ports(t) {
		if p.DeviceID != "" && p.FixedIPs[0].IPAddress == address {
			if err := servers.Stop(t.Context(), d.compute, p.DeviceID).ExtractErr(); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no server has the address %s", address)
}

// guestAddress gives the address of some server.
func (d *devcloud) guestAddress(t testing.TB) string {
	t.Helper()
	for _, p := range d.ports(t) {
		if p.DeviceID != "" {
			return p.FixedIPs[0].IPAddress
		}
	}
	t.Fatal("there is no server")
	return ""
}

// peerRules counts the rules that let peers reach each other.
func (d *devcloud) peerRules(t testing.TB) (n int) {
	t.Helper()
	for _, g := range d.securityGroups(t) {
		for _, r := range g.Rules {
			if r.RemoteGroupID != "" && r.RemoteGroupID != g.ID {
				n++
			}
		}
	}
	return n
}

// securityGroups lists Grove's.
func (d *devcloud) securityGroups(t testing.TB) []groups.SecGroup {
	t.Helper()
	all := listed(t, groups.List(d.net, groups.ListOpts{ProjectID: d.project}), groups.ExtractGroups)
	return slices.DeleteFunc(all, func(g groups.SecGroup) bool { return !strings.HasPrefix(g.Description, "grove ") })
}

// owned lists what the real services have of Grove's, by kind: names, and of ports their descriptions.
func (d *devcloud) owned(t testing.TB) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, s := range d.servers(t) {
		all["servers"] = append(all["servers"], s.Name)
	}
	for _, g := range d.securityGroups(t) {
		all["security groups"] = append(all["security groups"], g.Name)
	}
	for _, v := range d.volumes(t) {
		all["volumes"] = append(all["volumes"], fmt.Sprintf("%s %d GB", v.Name, v.Size))
	}
	for _, p := range d.ports(t) {
		all["ports"] = append(all["ports"], p.Description)
	}
	for _, f := range d.floating(t) {
		all["floating"] = append(all["floating"], f.FloatingIP)
	}
	return all
}

// volumes lists Grove's.
func (d *devcloud) volumes(t testing.TB) []volumes.Volume {
	t.Helper()
	return listed(t, volumes.List(d.volume, volumes.ListOpts{}), volumes.ExtractVolumes)
}

// ports lists the ports that carry a tag of Grove's.
func (d *devcloud) ports(t testing.TB) []ports.Port {
	t.Helper()
	all := listed(t, ports.List(d.net, ports.ListOpts{ProjectID: d.project}), ports.ExtractPorts)
	return slices.DeleteFunc(all, func(p ports.Port) bool { return !strings.HasPrefix(p.Description, "grove ") })
}

// requireNothing waits until the cloud has nothing of Grove's.
func (d *devcloud) requireNothing(t testing.TB) {
	t.Helper()
	eventually(t, 2*time.Minute, func() error {
		if all := d.owned(t); len(all) > 0 {
			return fmt.Errorf("the cloud still has %v", all)
		}
		return nil
	})
}

// primary gives the address of the guest that an instance's address leads to, by Neutron's records: there is no network between.
// While it moves it leads nowhere.
func (d *devcloud) primary(t testing.TB, in *instance) string {
	t.Helper()
	all := d.ports(t)
	for _, p := range all {
		target, leads := strings.CutPrefix(p.Description, "grove address "+in.id+" ")
		if !leads {
			continue
		}
		for _, other := range all {
			if strings.Contains(target, "target="+other.ID) {
				if slices.ContainsFunc(other.AllowedAddressPairs, func(a ports.AddressPair) bool { return a.IPAddress == p.FixedIPs[0].IPAddress }) {
					return other.FixedIPs[0].IPAddress
				}
			}
		}
	}
	return "nowhere"
}

func (d *devcloud) redis(t testing.TB, in *instance) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: d.primary(t, in) + ":6379", Password: in.password, DisableIdentity: true, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// offerRedis has the administrator offer a version with the image of this cloud.
func offerRedis(admin *house) {
	admin.do(http.StatusAccepted, "POST", "/mgmt/datastore-versions", object{"version": object{
		"name": "7.0", "datastore_name": "redis", "datastore_manager": "redis", "image_tags": []string{"dbaas", "redis"}, "packages": []string{},
		"active": true, "default": true,
	}})
}
