package openstack

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// The tags of Neutron's resources are the beginnings of their descriptions: Nova writes a port's device and its owner, and
// tags cannot be given at creation.
const (
	guestTag   = "grove guest "
	addressTag = "grove address "
)

// owner takes whose something is out of a description.
func owner(description, tag string) string {
	rest, ok := strings.CutPrefix(description, tag)
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, " ")
	return id
}

// portsOf lists the ports that carry an owner's tag, the oldest first; of all owners with "".
func (s *session) portsOf(ctx context.Context, tag, ownerID, name string) ([]ports.Port, error) {
	all, err := listed(ctx, "ports", ports.List(s.network, ports.ListOpts{ProjectID: s.project, Name: name}), ports.ExtractPorts)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(p ports.Port) bool {
		id := owner(p.Description, tag)
		return id == "" || ownerID != "" && id != ownerID
	})
	slices.SortStableFunc(all, func(a, b ports.Port) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, nil
}

func portView(p *ports.Port) *cloud.Port {
	v := &cloud.Port{ID: p.ID, Network: p.NetworkID}
	if len(p.FixedIPs) > 0 {
		v.Address = p.FixedIPs[0].IPAddress
	}
	return v
}

// keepPort finds a port and deletes those that are too many.
func (s *session) keepPort(ctx context.Context, tag, ownerID, name, recorded string) (*ports.Port, error) {
	found, err := s.portsOf(ctx, tag, ownerID, name)
	if err != nil {
		return nil, err
	}
	kept, surplus := choose(found, recorded, func(p *ports.Port) string { return p.ID })
	for _, one := range surplus {
		if err := gone(ports.Delete(ctx, s.network, one.ID).ExtractErr(), "port", one.ID); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// makePort makes a port where a nic asks for one.
func (c *Cloud) makePort(ctx context.Context, s *session, nic dbaas.Nic, opts ports.CreateOpts, what string) (*ports.Port, error) {
	opts.ProjectID = s.project
	opts.NetworkID = nic.NetworkID
	if opts.NetworkID == "" && nic.SubnetID != "" {
		subnet, err := subnets.Get(ctx, s.network, nic.SubnetID).Extract()
		if err != nil {
			return nil, refused(err, what)
		}
		opts.NetworkID = subnet.NetworkID
	}
	if opts.NetworkID == "" {
		opts.NetworkID = c.config.Network
	}
	if nic.SubnetID != "" || nic.IPAddress != "" {
		opts.FixedIPs = []ports.IP{{SubnetID: nic.SubnetID, IPAddress: nic.IPAddress}}
	}
	made, err := ports.Create(ctx, s.network, opts).Extract()
	if err != nil {
		return nil, refused(err, what)
	}
	return made, nil
}

// EnsurePort implements [cloud.Network].
func (c *Cloud) EnsurePort(ctx context.Context, spec cloud.PortSpec) (*cloud.Port, error) {
	return once(c, "port "+spec.Name+spec.RecordedID, func() (*cloud.Port, error) {
		s, err := c.session(ctx)
		if err != nil {
			return nil, err
		}
		p, err := s.keepPort(ctx, guestTag, spec.GuestID, spec.Name, spec.RecordedID)
		if err != nil {
			return nil, err
		}
		if p == nil {
			opts := ports.CreateOpts{Name: spec.Name, Description: guestTag + spec.GuestID}
			if spec.SecurityGroupID != "" {
				opts.SecurityGroups = &[]string{spec.SecurityGroupID}
			}
			if p, err = c.makePort(ctx, s, spec.Nic, opts, "port"); err != nil {
				return nil, err
			}
		}
		return portView(p), nil
	})
}

// DeletePort implements [cloud.Network].
func (c *Cloud) DeletePort(ctx context.Context, id string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	return gone(ports.Delete(ctx, s.network, id).ExtractErr(), "port", id)
}

// securityGroupsOf lists the groups of a guest, the oldest first; of all guests with "".
func (s *session) securityGroupsOf(ctx context.Context, guestID, name string) ([]groups.SecGroup, error) {
	ours := groups.ListOpts{ProjectID: s.project, Name: name}
	all, err := listed(ctx, "security groups", groups.List(s.network, ours), groups.ExtractGroups)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(g groups.SecGroup) bool {
		id := owner(g.Description, guestTag)
		return id == "" || guestID != "" && id != guestID
	})
	slices.SortStableFunc(all, func(a, b groups.SecGroup) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, nil
}

// rule is who may reach which port.
type rule struct {
	port   int
	prefix netip.Prefix
}

func wantedRules(spec cloud.SecurityGroupSpec, cidrs []string) (map[rule]bool, error) {
	wanted := map[rule]bool{}
	for _, text := range cidrs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, dbaas.WrapError(err, dbaas.BadRequest, "%q is no network such as 192.0.2.0/24.", text)
		}
		for _, port := range spec.TCPPorts {
			wanted[rule{port, prefix.Masked()}] = true
		}
	}
	return wanted, nil
}

// EnsureSecurityGroup implements [cloud.Network].
func (c *Cloud) EnsureSecurityGroup(ctx context.Context, spec cloud.SecurityGroupSpec) (string, error) {
	if _, err := wantedRules(spec, spec.AllowedCIDRs); err != nil {
		return "", err
	}
	return once(c, "security group "+spec.Name, func() (string, error) {
		s, err := c.session(ctx)
		if err != nil {
			return "", err
		}
		g, err := s.securityGroup(ctx, spec)
		if err != nil {
			return "", err
		}
		cidrs := spec.AllowedCIDRs
		if len(cidrs) == 0 {
			if cidrs, err = c.ownNetwork(ctx, s); err != nil {
				return "", err
			}
		}
		wanted, err := wantedRules(spec, cidrs)
		if err != nil {
			return "", err
		}
		return g.ID, s.setRules(ctx, g, wanted)
	})
}

func (s *session) securityGroup(ctx context.Context, spec cloud.SecurityGroupSpec) (*groups.SecGroup, error) {
	found, err := s.securityGroupsOf(ctx, spec.GuestID, spec.Name)
	if err != nil {
		return nil, err
	}
	kept, surplus := choose(found, "", func(g *groups.SecGroup) string { return g.ID })
	for _, one := range surplus {
		if err := gone(groups.Delete(ctx, s.network, one.ID).ExtractErr(), "security group", one.ID); err != nil {
			return nil, err
		}
	}
	if kept != nil {
		return kept, nil
	}
	made, err := groups.Create(ctx, s.network, groups.CreateOpts{Name: spec.Name, Description: guestTag + spec.GuestID, ProjectID: s.project}).Extract()
	if err != nil {
		return nil, refused(err, "security group")
	}
	return made, nil
}

// ownNetwork gives the CIDRs of the network in which guests are.
func (c *Cloud) ownNetwork(ctx context.Context, s *session) (cidrs []string, err error) {
	found, err := listed(ctx, "subnets", subnets.List(s.network, subnets.ListOpts{NetworkID: c.config.Network}), subnets.ExtractSubnets)
	for _, one := range found {
		cidrs = append(cidrs, one.CIDR)
	}
	return cidrs, err
}

// setRules makes a group's rules for what comes in those that are wanted. New ones come before old ones go.
func (s *session) setRules(ctx context.Context, g *groups.SecGroup, wanted map[rule]bool) error {
	var outdated []string
	for _, r := range g.Rules {
		if r.Direction != string(rules.DirIngress) {
			continue
		}
		prefix, err := netip.ParsePrefix(r.RemoteIPPrefix)
		have := rule{r.PortRangeMin, prefix}
		if err != nil || r.Protocol != string(rules.ProtocolTCP) || r.PortRangeMax != r.PortRangeMin || !wanted[have] {
			outdated = append(outdated, r.ID)
			continue
		}
		delete(wanted, have)
	}
	for r := range wanted {
		family := rules.EtherType4
		if r.prefix.Addr().Is6() {
			family = rules.EtherType6
		}
		err := rules.Create(ctx, s.network, rules.CreateOpts{
			SecGroupID: g.ID, ProjectID: s.project, Direction: rules.DirIngress, EtherType: family, Protocol: rules.ProtocolTCP,
			PortRangeMin: r.port, PortRangeMax: r.port, RemoteIPPrefix: r.prefix.String(),
		}).Err
		if err != nil && !strings.Contains(err.Error(), "SecurityGroupRuleExists") {
			return refused(err, "security group's rule")
		}
	}
	for _, id := range outdated {
		if err := gone(rules.Delete(ctx, s.network, id).ExtractErr(), "security group's rule", id); err != nil {
			return err
		}
	}
	return nil
}

// DeleteSecurityGroup implements [cloud.Network].
func (c *Cloud) DeleteSecurityGroup(ctx context.Context, id string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	return gone(groups.Delete(ctx, s.network, id).ExtractErr(), "security group", id)
}
