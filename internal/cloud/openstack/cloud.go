// Package openstack is the cloud of Nova, Cinder, Neutron and Glance, driven with a service account.
//
// Everything that is ours carries its owner's tag: servers and volumes in their metadata, ports, addresses and security
// groups in their description, which nobody else writes.
package openstack

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/gophercloud/gophercloud/v2"
	stack "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"golang.org/x/sync/singleflight"

	"github.com/grove-dbaas/grove/internal/cloud"
)

// The pinned microversions.
const (
	// The newest in which a server tells its flavor's id. It has host_status (2.16) and soft-anti-affinity (2.15).
	computeVersion = "2.46"
	// Rebuild takes user data from here on.
	rebuildVersion = "2.57"
	// A volume in use can be extended from here on.
	volumeVersion = "3.42"
)

// Cloud is one region of an OpenStack cloud. It is safe for concurrent use.
type Cloud struct {
	config Config
	// makes has one creation of a name at a time in this process: several would each make one.
	makes singleflight.Group

	opening singleflight.Group
	opened  atomic.Pointer[session]
}

var _ cloud.Provider = (*Cloud)(nil)

// session is what a login opened.
type session struct {
	project                                  string // id
	compute, rebuild, volume, network, image *gophercloud.ServiceClient
}

// New makes a Cloud. It calls nobody: the cloud may be away when the control plane starts.
func New(c Config) (*Cloud, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	return &Cloud{config: c}, nil
}

// session finds the services, once. Who gives up waiting for a slow login does so alone.
func (c *Cloud) session(ctx context.Context) (*session, error) {
	if s := c.opened.Load(); s != nil {
		return s, nil
	}
	asked := c.opening.DoChan("", func() (any, error) {
		s, err := c.login(context.WithoutCancel(ctx)) // each of its requests has an end
		if err == nil {
			c.opened.Store(s)
		}
		return s, err
	})
	select {
	case <-ctx.Done():
		return nil, plain(ctx.Err(), "log in to the cloud")
	case r := <-asked:
		s, _ := r.Val.(*session)
		return s, plain(r.Err, "log in to the cloud")
	}
}

func (c *Cloud) login(ctx context.Context) (*session, error) {
	client, err := c.config.Account.Login(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{}
	if s.project, err = projectOf(client); err != nil {
		return nil, err
	}
	return s, s.find(client, gophercloud.EndpointOpts{Region: c.config.Region, Availability: gophercloud.Availability(c.config.Interface)})
}

func projectOf(client *gophercloud.ProviderClient) (string, error) {
	result, ok := client.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return "", fmt.Errorf("the login was answered by %T", client.GetAuthResult())
	}
	project, err := result.ExtractProject()
	if err != nil {
		return "", err
	}
	return project.ID, nil
}

// find takes the endpoints from the catalog.
func (s *session) find(client *gophercloud.ProviderClient, where gophercloud.EndpointOpts) error {
	for _, e := range []struct {
		into    **gophercloud.ServiceClient
		find    func(*gophercloud.ProviderClient, gophercloud.EndpointOpts) (*gophercloud.ServiceClient, error)
		version string
	}{
		{&s.compute, stack.NewComputeV2, computeVersion},
		{&s.rebuild, stack.NewComputeV2, rebuildVersion},
		{&s.volume, stack.NewBlockStorageV3, volumeVersion},
		{&s.network, stack.NewNetworkV2, ""},
		{&s.image, stack.NewImageV2, ""},
	} {
		found, err := e.find(client, where)
		if err != nil {
			return fmt.Errorf("region %q, interface %q: %w", where.Region, where.Availability, err)
		}
		found.Microversion = e.version
		*e.into = found
	}
	return nil
}

// once has one call of make for a name at a time; whoever comes meanwhile gets what that gives.
func once[T any](c *Cloud, name string, make func() (T, error)) (T, error) {
	v, err, _ := c.makes.Do(name, func() (any, error) { return make() })
	made, _ := v.(T)
	return made, err
}

// choose keeps of several of one name the one recorded, else the oldest, which comes first.
func choose[T any](found []T, recorded string, id func(*T) string) (kept *T, surplus []T) {
	at := 0
	for i := range found {
		if recorded != "" && id(&found[i]) == recorded {
			at = i
		}
	}
	for i := range found {
		if i == at {
			kept = &found[i]
		} else {
			surplus = append(surplus, found[i])
		}
	}
	return kept, surplus
}
