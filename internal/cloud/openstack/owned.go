package openstack

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"sync"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"golang.org/x/sync/errgroup"

	"github.com/grove-dbaas/grove/internal/cloud"
)

// Owned implements [cloud.Provider]. The lists of the cloud are read side by side: a busy cloud takes seconds for one. One
// owner's servers and volumes, whose lists are the slow ones, the services pick out themselves.
func (c *Cloud) Owned(ctx context.Context, ownerID string) ([]cloud.Resource, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []cloud.Resource
	add := func(kind, id, owner string) {
		if owner != "" && (ownerID == "" || owner == ownerID) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, cloud.Resource{Kind: kind, ID: id, GuestID: owner})
		}
	}
	lists, ctx := errgroup.WithContext(ctx)
	lists.Go(func() error { return s.addServers(ctx, ownerID, add) })
	lists.Go(func() error { return s.addServerGroups(ctx, add) })
	lists.Go(func() error { return s.addVolumes(ctx, ownerID, add) })
	var used map[string]bool
	lists.Go(func() (err error) { used, err = s.addPorts(ctx, add); return err })
	lists.Go(func() error { return s.addPublic(ctx, ownerID, add) })
	lists.Go(func() error { return s.addSecurityGroups(ctx, add) })
	if err := lists.Wait(); err != nil {
		return nil, err
	}
	markSurplus(all, used)
	slices.SortFunc(all, func(a, b cloud.Resource) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// addServers finds an owner's servers by their names, which have its id: Nova has no filter by metadata.
func (s *session) addServers(ctx context.Context, ownerID string, add func(kind, id, owner string)) error {
	found, err := s.serversOf(ctx, ownerID, regexp.QuoteMeta(ownerID))
	for _, v := range found {
		add(cloud.KindServer, v.ID, v.Metadata[guestKey])
	}
	return err
}

func (s *session) addServerGroups(ctx context.Context, add func(kind, id, owner string)) error {
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

// addPorts gives the security groups that they are in, too.
func (s *session) addPorts(ctx context.Context, add func(kind, id, owner string)) (used map[string]bool, err error) {
	found, err := listed(ctx, "ports", ports.List(s.network, ports.ListOpts{ProjectID: s.project}), ports.ExtractPorts)
	for _, p := range found {
		add(cloud.KindPort, p.ID, owner(p.Description, guestTag))
		add(cloud.KindAddress, p.ID, owner(p.Description, addressTag))
	}
	return groupsOfPorts(found), err
}

func (s *session) addPublic(ctx context.Context, ownerID string, add func(kind, id, owner string)) error {
	found, err := s.publicOf(ctx, ownerID)
	for _, one := range found {
		add(cloud.KindPublicAddress, one.ID, owner(one.Description, addressTag))
	}
	return err
}

func (s *session) addSecurityGroups(ctx context.Context, add func(kind, id, owner string)) error {
	found, err := listed(ctx, "security groups", groups.List(s.network, groups.ListOpts{ProjectID: s.project}), groups.ExtractGroups)
	for _, g := range found {
		add(cloud.KindSecurityGroup, g.ID, owner(g.Description, guestTag))
		add(cloud.KindPeersGroup, g.ID, owner(g.Description, peersTag))
	}
	return err
}

// markSurplus marks the security groups that no port is in, of guests that have a port in another one.
func markSurplus(all []cloud.Resource, used map[string]bool) {
	settled := map[string]bool{}
	for _, r := range all {
		if r.Kind == cloud.KindSecurityGroup && used[r.ID] {
			settled[r.GuestID] = true
		}
	}
	for i, r := range all {
		all[i].Surplus = r.Kind == cloud.KindSecurityGroup && settled[r.GuestID] && !used[r.ID]
	}
}
