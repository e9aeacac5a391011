package openstack

import (
	"context"

	"github.com/grove-dbaas/grove/internal/cloud"
)

// Owned implements [cloud.Provider].
func (c *Cloud) Owned(ctx context.Context, ownerID string) ([]cloud.Resource, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	var all []cloud.Resource
	add := func(kind, id, owner string) { all = append(all, cloud.Resource{Kind: kind, ID: id, GuestID: owner}) }
	serverList, err := s.serversOf(ctx, ownerID, "")
	if err != nil {
		return nil, err
	}
	for _, v := range serverList {
		add(cloud.KindServer, v.ID, v.Metadata[guestKey])
	}
	volumeList, err := s.volumesOf(ctx, ownerID, "")
	if err != nil {
		return nil, err
	}
	for _, v := range volumeList {
		add(cloud.KindVolume, v.ID, v.Metadata[guestKey])
	}
	for tag, kind := range map[string]string{guestTag: cloud.KindPort, addressTag: cloud.KindAddress} {
		portList, err := s.portsOf(ctx, tag, ownerID, "")
		if err != nil {
			return nil, err
		}
		for _, p := range portList {
			add(kind, p.ID, owner(p.Description, tag))
		}
	}
	groupList, err := s.securityGroupsOf(ctx, ownerID, "")
	if err != nil {
		return nil, err
	}
	for _, g := range groupList {
		add(cloud.KindSecurityGroup, g.ID, owner(g.Description, guestTag))
	}
	return all, nil
}
