package openstack

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
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
	// peersTag is of the security group that guests share who reach each other. Their own groups name it too.
	peersTag = "grove peers "
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
	network, err := c.networkOf(ctx, s, nic)
	if err != nil {
		return nil, refused(err, what)
	}
	opts.NetworkID = network
	if nic.SubnetID != "" || nic.IPAddress != "" {
		opts.FixedIPs = []ports.IP{{SubnetID: nic.SubnetID, IPAddress: nic.IPAddress}}
	}
	made, err := ports.Create(ctx, s.network, opts).Extract()
	if err != nil {
		return nil, refused(err, what)
	}
	return made, nil
}

// networkOf gives the id of the network that a nic is on.
func (c *Cloud) networkOf(ctx context.Context, s *session, nic dbaas.Nic) (string, error) {
	switch {
	case nic.NetworkID != "":
		return nic.NetworkID, nil
	case nic.SubnetID == "":
		return c.config.Network, nil
	}
	subnet, err := subnets.Get(ctx, s.network, nic.SubnetID).Extract()
	if err != nil {
		return "", err
	}
	return subnet.NetworkID, nil
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
			if opts.SecurityGroups, err = c.groupsOf(ctx, s, spec.SecurityGroupID); err != nil {
				return nil, err
			}
			if p, err = c.makePort(ctx, s, spec.Nic, opts, "port"); err != nil {
				return nil, err
			}
		}
		return portView(p), nil
	})
}

// groupsOf gives the groups that a port is in: a guest's own, and the one that it shares with its peers. Without its own it is
// in the project's default one.
func (c *Cloud) groupsOf(ctx context.Context, s *session, own string) (*[]string, error) {
	if own == "" {
		return nil, nil
	}
	g, err := groups.Get(ctx, s.network, own).Extract()
	if err != nil {
		return nil, act(err, "security group", own)
	}
	p := readPeers(g.Description)
	if p.id == "" {
		return &[]string{own}, nil
	}
	shared, err := c.ensurePeersGroup(ctx, s, p.id)
	if err != nil {
		return nil, err
	}
	wanted := p.rules(shared)
	for _, r := range g.Rules { // those that are there, but for peers in a group that was one too many
		if have := ruleOf(r); r.Direction == string(rules.DirIngress) && have.group == "" {
			wanted[have] = true
		}
	}
	return &[]string{own, shared}, s.setRules(ctx, g, wanted)
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

// rule is who may reach which port: a network, or the members of a group.
type rule struct {
	family rules.RuleEtherType
	port   int
	prefix netip.Prefix
	group  string
}

func wantedRules(spec cloud.SecurityGroupSpec, cidrs []string) (map[rule]bool, error) {
	wanted := map[rule]bool{}
	for _, text := range cidrs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, dbaas.WrapError(err, dbaas.BadRequest, "%q is no network such as 192.0.2.0/24.", text)
		}
		for _, port := range spec.TCPPorts {
			wanted[rule{family: familyOf(prefix), port: port, prefix: prefix.Masked()}] = true
		}
	}
	return wanted, nil
}

func familyOf(prefix netip.Prefix) rules.RuleEtherType {
	if prefix.Addr().Is6() {
		return rules.EtherType6
	}
	return rules.EtherType4
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
			if cidrs, err = c.ownNetwork(ctx, s, spec.Nic); err != nil {
				return "", err
			}
		}
		wanted, err := wantedRules(spec, cidrs)
		if err != nil {
			return "", err
		}
		if p := peersOf(spec); p.id != "" {
			shared, err := c.ensurePeersGroup(ctx, s, p.id)
			if err != nil {
				return "", err
			}
			maps.Copy(wanted, p.rules(shared))
		}
		return g.ID, s.setRules(ctx, g, wanted)
	})
}

// peers are guests that reach each other on ports.
type peers struct {
	id    string
	ports []int
}

func peersOf(spec cloud.SecurityGroupSpec) peers {
	return peers{spec.PeersID, slices.Concat(spec.TCPPorts, spec.PeerPorts)}
}

// describe is what a guest's own group says of its peers, so that its rules can be made anew from it.
func (p peers) describe() string {
	if p.id == "" {
		return ""
	}
	var list []string
	for _, port := range p.ports {
		list = append(list, strconv.Itoa(port))
	}
	return " peers=" + p.id + " ports=" + strings.Join(list, ",")
}

func readPeers(description string) (p peers) {
	for _, field := range strings.Fields(description) {
		switch name, value, _ := strings.Cut(field, "="); name {
		case "peers":
			p.id = value
		case "ports":
			for _, text := range strings.Split(value, ",") {
				if port, err := strconv.Atoi(text); err == nil {
					p.ports = append(p.ports, port)
				}
			}
		}
	}
	return p
}

// rules let in who is in the group that peers share.
func (p peers) rules(shared string) map[rule]bool {
	wanted := map[rule]bool{}
	for _, port := range p.ports {
		wanted[rule{family: rules.EtherType4, port: port, group: shared}] = true
		wanted[rule{family: rules.EtherType6, port: port, group: shared}] = true
	}
	return wanted
}

// sharedGroups lists the groups with a description, the one that counts first. There is one, but for a moment where several
// guests were made at once.
func (s *session) sharedGroups(ctx context.Context, description string) ([]groups.SecGroup, error) {
	all, err := listed(ctx, "security groups", groups.List(s.network, groups.ListOpts{ProjectID: s.project, Description: description}), groups.ExtractGroups)
	slices.SortFunc(all, func(a, b groups.SecGroup) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return all, err
}

// ensurePeersGroup gives the id of the group that peers share. It has no rules: it is what rules of theirs name. A rule that
// names one that was one too many goes with it, and is made anew with the port.
func (c *Cloud) ensurePeersGroup(ctx context.Context, s *session, peersID string) (string, error) {
	return c.ensureSharedGroup(ctx, s, "grove-peers-"+peersID, peersTag+peersID)
}

// ensureSharedGroup gives the id of the group with a description, which lets nobody in. Who has made one too many removes it.
func (c *Cloud) ensureSharedGroup(ctx context.Context, s *session, name, description string) (string, error) {
	return once(c, description, func() (string, error) {
		all, err := s.sharedGroups(ctx, description)
		if err != nil || len(all) > 0 {
			return first(all), err
		}
		made, err := groups.Create(ctx, s.network, groups.CreateOpts{Name: name, Description: description, ProjectID: s.project}).Extract()
		if err != nil {
			return "", refused(err, "security group")
		}
		if all, err = s.sharedGroups(ctx, description); err != nil {
			return "", err
		}
		if kept := first(all); kept != "" && kept != made.ID {
			return kept, gone(groups.Delete(ctx, s.network, made.ID).ExtractErr(), "security group", made.ID)
		}
		return made.ID, nil
	})
}

func first(all []groups.SecGroup) string {
	if len(all) == 0 {
		return ""
	}
	return all[0].ID
}

// securityGroup finds a guest's group and deletes those that are too many, or makes it. No row names it: of several the one counts
// that the guest's port is in.
func (s *session) securityGroup(ctx context.Context, spec cloud.SecurityGroupSpec) (*groups.SecGroup, error) {
	found, err := s.securityGroupsOf(ctx, spec.GuestID, spec.Name)
	if err != nil {
		return nil, err
	}
	used := ""
	if len(found) > 1 {
		all, err := s.portsOf(ctx, guestTag, spec.GuestID, "")
		if err != nil {
			return nil, err
		}
		used = usedGroup(found, groupsOfPorts(all))
	}
	kept, surplus := choose(found, used, func(g *groups.SecGroup) string { return g.ID })
	for _, one := range surplus {
		if err := gone(groups.Delete(ctx, s.network, one.ID).ExtractErr(), "security group", one.ID); err != nil {
			return nil, err
		}
	}
	if kept != nil {
		return kept, nil
	}
	made, err := groups.Create(ctx, s.network, groups.CreateOpts{
		Name: spec.Name, Description: guestTag + spec.GuestID + peersOf(spec).describe(), ProjectID: s.project,
	}).Extract()
	if err != nil {
		return nil, refused(err, "security group")
	}
	return made, nil
}

// groupsOfPorts tells which groups have a port in them.
func groupsOfPorts(all []ports.Port) map[string]bool {
	used := map[string]bool{}
	for _, p := range all {
		for _, id := range p.SecurityGroups {
			used[id] = true
		}
	}
	return used
}

// usedGroup gives the first group that is used, "" for none.
func usedGroup(all []groups.SecGroup, used map[string]bool) string {
	for _, g := range all {
		if used[g.ID] {
			return g.ID
		}
	}
	return ""
}

// ownNetwork gives the CIDRs of the network that a nic is on.
func (c *Cloud) ownNetwork(ctx context.Context, s *session, nic dbaas.Nic) (cidrs []string, err error) {
	network, err := c.networkOf(ctx, s, nic)
	if err != nil {
		return nil, refused(err, "security group")
	}
	found, err := listed(ctx, "subnets", subnets.List(s.network, subnets.ListOpts{NetworkID: network}), subnets.ExtractSubnets)
	for _, one := range found {
		cidrs = append(cidrs, one.CIDR)
	}
	return cidrs, err
}

// ruleOf reads a rule of Neutron's. One that lets everybody in has neither network nor group, and is nobody's wish.
func ruleOf(r rules.SecGroupRule) rule {
	have := rule{family: rules.RuleEtherType(r.EtherType), port: r.PortRangeMin, group: r.RemoteGroupID}
	if have.group == "" {
		have.prefix, _ = netip.ParsePrefix(r.RemoteIPPrefix)
	}
	return have
}

// setRules makes a group's rules for what comes in those that are wanted. New ones come before old ones go.
func (s *session) setRules(ctx context.Context, g *groups.SecGroup, wanted map[rule]bool) error {
	var outdated []string
	for _, r := range g.Rules {
		if r.Direction != string(rules.DirIngress) {
			continue
		}
		have := ruleOf(r)
		if r.Protocol != string(rules.ProtocolTCP) || r.PortRangeMax != r.PortRangeMin || !wanted[have] {
			outdated = append(outdated, r.ID)
			continue
		}
		delete(wanted, have)
	}
	if err := s.addRules(ctx, g.ID, wanted); err != nil {
		return err
	}
	for _, id := range outdated {
		if err := gone(rules.Delete(ctx, s.network, id).ExtractErr(), "security group's rule", id); err != nil {
			return err
		}
	}
	return nil
}

// addRules makes rules in one request, all or none: each one costs Neutron as much as a port.
func (s *session) addRules(ctx context.Context, groupID string, wanted map[rule]bool) error {
	if len(wanted) == 0 {
		return nil
	}
	var wishes []rules.CreateOpts
	for r := range wanted {
		wish := rules.CreateOpts{
			SecGroupID: groupID, ProjectID: s.project, Direction: rules.DirIngress, EtherType: r.family, Protocol: rules.ProtocolTCP,
			PortRangeMin: r.port, PortRangeMax: r.port, RemoteGroupID: r.group,
		}
		if r.group == "" {
			wish.RemoteIPPrefix = r.prefix.String()
		}
		wishes = append(wishes, wish)
	}
	err := rules.CreateBulk(ctx, s.network, wishes).Err
	if err != nil && strings.Contains(err.Error(), "SecurityGroupRuleExists") { // an earlier request of ours has arrived meanwhile
		return plain(err, "make rules of security group "+groupID)
	}
	if err != nil {
		return refused(err, "security group's rules")
	}
	return nil
}

// DeleteSecurityGroup implements [cloud.Network].
func (c *Cloud) DeleteSecurityGroup(ctx context.Context, id string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	g, err := groups.Get(ctx, s.network, id).Extract()
	if isGone(err) {
		return nil
	}
	if err != nil {
		return plain(err, "security group "+id)
	}
	if err := s.dropPeersGroups(ctx, readPeers(g.Description).id); err != nil {
		return err
	}
	return gone(groups.Delete(ctx, s.network, id).ExtractErr(), "security group", id)
}

// dropPeersGroups removes the group that peers share when no port is in it any more: Neutron refuses it before.
func (s *session) dropPeersGroups(ctx context.Context, peersID string) error {
	if peersID == "" {
		return nil
	}
	all, err := s.sharedGroups(ctx, peersTag+peersID)
	if err != nil {
		return err
	}
	for _, one := range all {
		err := groups.Delete(ctx, s.network, one.ID).ExtractErr()
		if gophercloud.ResponseCodeIs(err, http.StatusConflict) {
			continue
		}
		if err := gone(err, "security group", one.ID); err != nil {
			return err
		}
	}
	return nil
}
