package openstack

import (
	"context"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
)

// managementGroup is the name and description of the security group of all interfaces on the management network.
const managementGroup = "grove management"

// manage gives a new server an interface on the management network, where there is one: its agent reaches the broker from
// there, and nobody reaches it. Nova makes the port with the server and removes it with it.
func (c *Cloud) manage(ctx context.Context, s *session, opts *servers.CreateOpts) error {
	if c.config.ManagementNetwork == "" {
		return nil
	}
	group, err := c.ensureSharedGroup(ctx, s, managementGroup, managementGroup)
	if err != nil {
		return err
	}
	own, _ := opts.Networks.([]servers.Network)
	opts.Networks = append(own, servers.Network{UUID: c.config.ManagementNetwork})
	opts.SecurityGroups = []string{group} // of what Nova makes: the guest's own port has others
	return nil
}
