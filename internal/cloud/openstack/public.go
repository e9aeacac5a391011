package openstack

import (
	"context"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/external"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/layer3/floatingips"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// A public address is a floating IP on the port of an address. Where that leads to changes below it.

// publish gives an address a public one, or takes it away.
func (c *Cloud) publish(ctx context.Context, s *session, p *ports.Port, spec cloud.AddressSpec) (*cloud.Address, error) {
	address := addressView(p)
	if !spec.Public && spec.RecordedID == "" {
		return address, nil // it never had one
	}
	found, err := s.publicOf(ctx, spec.OwnerID)
	if err != nil {
		return nil, err
	}
	for _, one := range found {
		if spec.Public && address.Public == "" && one.PortID == p.ID {
			address.Public = one.FloatingIP
			continue
		}
		if err := s.deletePublic(ctx, one.ID); err != nil {
			return nil, err
		}
	}
	if !spec.Public || address.Public != "" {
		return address, nil
	}
	outside, err := c.external(ctx, s)
	if err != nil {
		return nil, err
	}
	made, err := floatingips.Create(ctx, s.network, floatingips.CreateOpts{
		FloatingNetworkID: outside, PortID: p.ID, ProjectID: s.project, Description: addressTag + spec.OwnerID,
	}).Extract()
	if isGone(err) && c.config.ExternalNetwork != "" && isGone(networks.Get(ctx, s.network, outside).Err) {
		return nil, dbaas.WrapError(plain(err, "make a public address on network "+outside), dbaas.BadRequest,
			"The public network that the cloud's operator has chosen is not there; leave access.is_public out until that is mended.")
	}
	if isGone(err) { // Neutron: "External network … is not reachable from subnet …"
		return nil, dbaas.WrapError(plain(err, "make a public address"), dbaas.BadRequest,
			"The instance's network has no router to the public network; connect them, or leave access.is_public out.")
	}
	if err != nil {
		return nil, refused(err, "public address")
	}
	address.Public = made.FloatingIP
	return address, nil
}

// publicOf lists the public addresses of an owner, the oldest first; of all owners with "".
func (s *session) publicOf(ctx context.Context, ownerID string) ([]floatingips.FloatingIP, error) {
	opts := floatingips.ListOpts{ProjectID: s.project}
	if ownerID != "" {
		opts.Description = addressTag + ownerID
	}
	pages, err := floatingips.List(s.network, opts).AllPages(ctx)
	if isGone(err) {
		return nil, nil // this Neutron has no routers
	}
	if err != nil {
		return nil, plain(err, "list public addresses")
	}
	all, err := floatingips.ExtractFloatingIPs(pages)
	all = slices.DeleteFunc(all, func(f floatingips.FloatingIP) bool { return !strings.HasPrefix(f.Description, addressTag) })
	slices.SortStableFunc(all, func(a, b floatingips.FloatingIP) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, plain(err, "list public addresses")
}

func (s *session) deletePublic(ctx context.Context, id string) error {
	return gone(floatingips.Delete(ctx, s.network, id).ExtractErr(), "public address", id)
}

// external gives the network of public addresses: the one that is configured, or the only one that there is.
func (c *Cloud) external(ctx context.Context, s *session) (string, error) {
	if c.config.ExternalNetwork != "" {
		return c.config.ExternalNetwork, nil
	}
	outside := true
	opts := external.ListOptsExt{ListOptsBuilder: networks.ListOpts{}, External: &outside}
	found, err := listed(ctx, "public networks", networks.List(s.network, opts), networks.ExtractNetworks)
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", dbaas.Errorf(dbaas.BadRequest, "This cloud has no public addresses; leave access.is_public out.")
	case len(found) > 1:
		return "", dbaas.Errorf(dbaas.BadRequest, "This cloud has several public networks, and its operator has chosen none for databases; leave access.is_public out.")
	}
	return found[0].ID, nil
}
