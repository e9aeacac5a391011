package openstack

import (
	"os"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/cloud/cloudtest"
	"github.com/grove-dbaas/grove/internal/keystone"
)

// open connects to the OpenStack that the usual variables name, as a service account; GROVE_TEST_NETWORK is the id of the
// network of guests, GROVE_TEST_IMAGE_TAG the tag of an image.
func open(t *testing.T) *Cloud {
	t.Helper()
	url := os.Getenv("OS_AUTH_URL")
	if url == "" {
		t.Skip("there is no OpenStack to test against (OS_AUTH_URL)")
	}
	account, err := keystone.NewAccount(keystone.Config{
		AuthURL: url, Username: os.Getenv("OS_USERNAME"), Password: os.Getenv("OS_PASSWORD"), UserDomain: os.Getenv("OS_USER_DOMAIN_NAME"),
		Project: os.Getenv("OS_PROJECT_NAME"), ProjectDomain: os.Getenv("OS_PROJECT_DOMAIN_NAME"), CAFile: os.Getenv("OS_CACERT"),
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{
		Account: account, Region: os.Getenv("OS_REGION_NAME"),
		Network: os.Getenv("GROVE_TEST_NETWORK"), ImageTags: []string{os.Getenv("GROVE_TEST_IMAGE_TAG")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConformance(t *testing.T) {
	c := open(t)
	cloudtest.Run(t, func(t *testing.T) cloudtest.Fixture {
		return cloudtest.Fixture{Cloud: c, TCPPorts: []int{6379}, Surplus: surplus(c), Public: true, Patience: 5 * time.Minute}
	})
}

// surplus makes a second resource of a kind, with the tag and name of the first.
func surplus(c *Cloud) func(t *testing.T, kind, id string) string {
	return func(t *testing.T, kind, id string) string {
		t.Helper()
		s, err := c.session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var second string
		switch kind {
		case cloud.KindPort, cloud.KindAddress:
			second, err = surplusPort(t, s, id)
		case cloud.KindVolume:
			second, err = surplusVolume(t, s, id)
		case cloud.KindServer:
			second, err = surplusServer(t, c, s, id)
		default:
			t.Fatalf("there is no second %s", kind)
		}
		if err != nil {
			t.Fatal(err)
		}
		return second
	}
}

// younger waits until what is made now is younger, by the seconds in which the services count.
func younger(than time.Time) {
	for time.Now().Unix() <= than.Unix() {
		time.Sleep(50 * time.Millisecond)
	}
}

func surplusPort(t *testing.T, s *session, id string) (string, error) {
	first, err := s.port(t.Context(), "port", id)
	if err != nil {
		return "", err
	}
	younger(first.CreatedAt)
	second, err := ports.Create(t.Context(), s.network, ports.CreateOpts{
		NetworkID: first.NetworkID, Name: first.Name, Description: first.Description, ProjectID: s.project,
	}).Extract()
	if err != nil {
		return "", err
	}
	return second.ID, nil
}

func surplusVolume(t *testing.T, s *session, id string) (string, error) {
	first, err := s.volumeByID(t.Context(), id)
	if err != nil {
		return "", err
	}
	younger(first.CreatedAt)
	second, err := volumes.Create(t.Context(), s.volume, volumes.CreateOpts{Name: first.Name, Size: first.Size, Metadata: first.Metadata}, nil).Extract()
	if err != nil {
		return "", err
	}
	return second.ID, nil
}

func surplusServer(t *testing.T, c *Cloud, s *session, id string) (string, error) {
	first, err := s.server(t.Context(), id)
	if err != nil {
		return "", err
	}
	image, err := c.image(t.Context(), s, cloud.ServerSpec{})
	if err != nil {
		return "", err
	}
	younger(first.Created)
	second, err := servers.Create(t.Context(), s.compute, servers.CreateOpts{
		Name: first.Name, FlavorRef: first.Flavor.ID, ImageRef: image, Metadata: first.Metadata,
		Networks: []servers.Network{{UUID: c.config.Network}},
	}, nil).Extract()
	if err != nil {
		return "", err
	}
	return second.ID, nil
}
