package openstack

import (
	"context"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumetypes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/availabilityzones"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/rbacpolicies"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Catalog implements [cloud.Provider]. Networks are all that the service account sees; the default one comes first.
func (c *Cloud) Catalog(ctx context.Context) (*dbaas.Catalog, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	cat := &dbaas.Catalog{Region: c.config.Region}
	if cat.Flavors, err = s.flavors(ctx); err != nil {
		return nil, err
	}
	if cat.VolumeTypes, err = s.volumeTypes(ctx); err != nil {
		return nil, err
	}
	if cat.Networks, err = s.networks(ctx, c.config.Network); err != nil {
		return nil, err
	}
	cat.Zones, err = s.zones(ctx)
	return cat, err
}

// listed reads all pages of a list.
func listed[T any](ctx context.Context, what string, pager pagination.Pager, extract func(pagination.Page) ([]T, error)) ([]T, error) {
	pages, err := pager.AllPages(ctx)
	if err != nil {
		return nil, plain(err, "list "+what)
	}
	all, err := extract(pages)
	return all, plain(err, "list "+what)
}

func (s *session) flavors(ctx context.Context) (list []dbaas.Flavor, err error) {
	found, err := listed(ctx, "flavors", flavors.ListDetail(s.compute, flavors.ListOpts{SortKey: "memory_mb"}), flavors.ExtractFlavors)
	for _, f := range found {
		list = append(list, dbaas.Flavor{ID: f.ID, Name: f.Name, RAM: f.RAM, VCPUs: f.VCPUs, Disk: f.Disk, Ephemeral: f.Ephemeral})
	}
	return list, err
}

func (s *session) volumeTypes(ctx context.Context) (list []dbaas.VolumeType, err error) {
	found, err := listed(ctx, "volume types", volumetypes.List(s.volume, volumetypes.ListOpts{}), volumetypes.ExtractVolumeTypes)
	for _, t := range found {
		list = append(list, dbaas.VolumeType{ID: t.ID, Name: t.Name, IsPublic: t.IsPublic})
	}
	return list, err
}

func (s *session) networks(ctx context.Context, first string) (list []dbaas.Network, err error) {
	cidrs, ids := map[string]string{}, map[string][]string{}
	nets, err := listed(ctx, "subnets", subnets.List(s.network, subnets.ListOpts{}), subnets.ExtractSubnets)
	if err != nil {
		return nil, err
	}
	for _, one := range nets {
		cidrs[one.NetworkID] = one.CIDR
		ids[one.NetworkID] = append(ids[one.NetworkID], one.ID)
	}
	guests, err := s.networkGuests(ctx)
	if err != nil {
		return nil, err
	}
	found, err := listed(ctx, "networks", networks.List(s.network, networks.ListOpts{}), networks.ExtractNetworks)
	for _, n := range found {
		one := dbaas.Network{ID: n.ID, Name: n.Name, CIDR: cidrs[n.ID], Subnets: ids[n.ID]}
		if n.ID == first {
			list = append([]dbaas.Network{one}, list...)
			continue
		}
		if !n.Shared {
			one.Projects = append(guests[n.ID], n.ProjectID)
		}
		list = append(list, one)
	}
	return list, err
}

// networkGuests gives the projects that a network is shared with, besides its own, by the network's id.
func (s *session) networkGuests(ctx context.Context) (map[string][]string, error) {
	shared := rbacpolicies.ListOpts{ObjectType: "network", Action: rbacpolicies.ActionAccessShared}
	guests := map[string][]string{}
	pages, err := rbacpolicies.List(s.network, shared).AllPages(ctx)
	if isGone(err) {
		return guests, nil // this Neutron shares with all or nobody
	}
	if err != nil {
		return nil, plain(err, "list whom networks are shared with")
	}
	found, err := rbacpolicies.ExtractRBACPolicies(pages)
	if err != nil {
		return nil, plain(err, "list whom networks are shared with")
	}
	for _, one := range found {
		guests[one.ObjectID] = append(guests[one.ObjectID], one.TargetTenant)
	}
	return guests, nil
}

func (s *session) zones(ctx context.Context) (list []string, err error) {
	found, err := listed(ctx, "availability zones", availabilityzones.List(s.compute), availabilityzones.ExtractAvailabilityZones)
	for _, z := range found {
		if z.ZoneState.Available {
			list = append(list, z.ZoneName)
		}
	}
	return list, err
}
