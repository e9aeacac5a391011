package openstack

import (
	"context"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/grove-dbaas/grove/internal/cloud"
)

// Owned implements [cloud.Provider].
func (c *Cloud) Owned(ctx context.Context, ownerID string) ([]cloud.Resource, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	var all []cloud.Resource
	add := func(kind, id, owner string) {
		if owner != "" && (ownerID == "" || owner == ownerID) {
			all = append(all, cloud.Resource{Kind: kind, ID: id, GuestID: owner})
		}
	}
	if err := s.addCompute(ctx, ownerID, add); err != nil {
		return nil, err
	}
	if err := s.addVolumes(ctx, ownerID, add); err != nil {
		return nil, err
	}
	err = s.addNetwork(ctx, add)
	return all, err
}

func (s *session) addCompute(ctx context.Context, ownerID string, add func(kind, id, owner string)) error {
	servers, err := s.serversOf(ctx, ownerID, "")
	if err != nil {
		return err
	}
	for _, v := range servers {
		add(cloud.KindServer, v.ID, v.Metadata[guestKey])
	}
	found, err := s.serverGroups(ctx)
	for _, g := range found {
		add(cloud.KindServerGroup, g.ID, groupOf(g.Name))
	}
	return err
}

func (s *session) addVolumes(ctx context.Context, ownerID string, add func(kind, id, owner string)) error {
	found, err := s.volumesOf(ctx, ownerID, "")
	for _, v := range found {
		add(cloud.KindVolume, v.ID, v.Metadata[guestKey])
	}
	return err
}

// addNetwork reads each list once, for what one list holds is of several kinds.
func (s *session) addNetwork(ctx context.Context, add func(kind, id, owner string)) error {
	found, err := listed(ctx, "ports", ports.List(s.network, ports.ListOpts{ProjectID: s.project}), ports.ExtractPorts)
	if err != nil {
		return err
	}
	for _, p := range found {
		add(cloud.KindPort, p.ID, owner(p.Description, guestTag))
		add(cloud.KindAddress, p.ID, owner(p.Description, addressTag))
	}
	security, err := listed(ctx, "security groups", groups.List(s.network, groups.ListOpts{ProjectID: s.project}), groups.ExtractGroups)
	for _, g := range security {
		add(cloud.KindSecurityGroup, g.ID, owner(g.Description, guestTag))
		add(cloud.KindPeersGroup, g.ID, owner(g.Description, peersTag))
	}
	return err
}
