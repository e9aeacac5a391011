package openstack

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// An address is a port that is bound to no server. What it leads to is a port that is allowed to send from it
// (allowed-address-pairs); whose server announces it. Neutron drops what all others send from it.

// lead is where an address leads, as its port's description tells after the tag.
type lead struct {
	epoch  int64
	target string // port id, "" for nowhere
	former string // a port that may still be allowed the address
}

func (l lead) describe(ownerID string) string {
	return fmt.Sprintf("%s%s epoch=%d target=%s former=%s", addressTag, ownerID, l.epoch, l.target, l.former)
}

func readLead(description string) (l lead) {
	for _, field := range strings.Fields(description) {
		switch name, value, _ := strings.Cut(field, "="); name {
		case "epoch":
			l.epoch, _ = strconv.ParseInt(value, 10, 64)
		case "target":
			l.target = value
		case "former":
			l.former = value
		}
	}
	return l
}

func addressView(p *ports.Port) *cloud.Address {
	v := portView(p)
	return &cloud.Address{ID: v.ID, Address: v.Address, Network: v.Network}
}

// EnsureAddress implements [cloud.Network].
func (c *Cloud) EnsureAddress(ctx context.Context, spec cloud.AddressSpec) (*cloud.Address, error) {
	return once(c, "address "+spec.Name+spec.RecordedID, func() (*cloud.Address, error) {
		s, err := c.session(ctx)
		if err != nil {
			return nil, err
		}
		p, err := s.keepPort(ctx, addressTag, spec.OwnerID, spec.Name, spec.RecordedID)
		if err != nil {
			return nil, err
		}
		if p == nil {
			opts := ports.CreateOpts{Name: spec.Name, Description: lead{}.describe(spec.OwnerID), SecurityGroups: &[]string{}}
			if p, err = c.makePort(ctx, s, spec.Nic, opts, "address"); err != nil {
				return nil, err
			}
		}
		return c.publish(ctx, s, p, spec)
	})
}

// PointAddress implements [cloud.Network]. The decision is written first, then the former target loses the address, then the
// new one gets it; whoever repeats it finishes what was begun. All writes are refused when another came between.
func (c *Cloud) PointAddress(ctx context.Context, addressID, portID string, epoch int64) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	address, err := s.port(ctx, "address", addressID)
	if err != nil {
		return err
	}
	old := readLead(address.Description)
	if epoch < old.epoch {
		return dbaas.Errorf(dbaas.Conflict, "The address is led by epoch %d; %d comes too late.", old.epoch, epoch)
	}
	if portID != "" {
		if _, err := s.port(ctx, "port", portID); err != nil {
			return err
		}
	}
	next := lead{epoch: epoch, target: portID, former: old.former}
	if old.target != portID {
		if old.former != "" && old.former != portID { // of a switch that was not finished
			if err := s.allow(ctx, old.former, address, false); err != nil {
				return err
			}
		}
		next.former = old.target
	}
	if address, err = s.writeLead(ctx, address, next); err != nil {
		return err
	}
	return s.follow(ctx, address, next)
}

func (s *session) writeLead(ctx context.Context, address *ports.Port, l lead) (*ports.Port, error) {
	description := l.describe(owner(address.Description, addressTag))
	if description == address.Description {
		return address, nil
	}
	written, err := ports.Update(ctx, s.network, address.ID, ports.UpdateOpts{Description: &description, RevisionNumber: &address.RevisionNumber}).Extract()
	return written, act(err, "address", address.ID)
}

// follow makes it so that the target, and nobody else, may use the address.
func (s *session) follow(ctx context.Context, address *ports.Port, l lead) error {
	if l.former != "" && l.former != l.target {
		if err := s.allow(ctx, l.former, address, false); err != nil {
			return err
		}
	}
	if l.target != "" {
		if err := s.allow(ctx, l.target, address, true); err != nil {
			return err
		}
	}
	if l.former == "" {
		return nil
	}
	l.former = ""
	_, err := s.writeLead(ctx, address, l)
	return err
}

// allow lets a port use an address, or no longer. A port that is gone uses none.
func (s *session) allow(ctx context.Context, portID string, address *ports.Port, allowed bool) error {
	p, err := ports.Get(ctx, s.network, portID).Extract()
	if err != nil {
		if !allowed && isGone(err) {
			return nil
		}
		return act(err, "port", portID)
	}
	ip := portView(address).Address
	pairs := slices.DeleteFunc(slices.Clone(p.AllowedAddressPairs), func(a ports.AddressPair) bool { return a.IPAddress == ip })
	if allowed {
		pairs = append(pairs, ports.AddressPair{IPAddress: ip})
	}
	if len(pairs) == len(p.AllowedAddressPairs) {
		return nil // it is so already
	}
	if pairs == nil {
		pairs = []ports.AddressPair{}
	}
	err = ports.Update(ctx, s.network, portID, ports.UpdateOpts{AllowedAddressPairs: &pairs, RevisionNumber: &p.RevisionNumber}).Err
	if !allowed && isGone(err) {
		return nil
	}
	if gophercloud.ResponseCodeIs(err, http.StatusPreconditionFailed) {
		return fmt.Errorf("port %s was changed by another at the same time", portID)
	}
	return act(err, "port", portID)
}

func (s *session) port(ctx context.Context, what, id string) (*ports.Port, error) {
	p, err := ports.Get(ctx, s.network, id).Extract()
	return p, act(err, what, id)
}

// DeleteAddress implements [cloud.Network].
func (c *Cloud) DeleteAddress(ctx context.Context, id string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	address, err := s.port(ctx, "address", id)
	switch {
	case dbaas.ErrorCode(err) == dbaas.NotFound:
		return s.deletePublic(ctx, id)
	case err != nil:
		return err
	}
	public, err := s.publicOf(ctx, owner(address.Description, addressTag))
	if err != nil {
		return err
	}
	for _, one := range public {
		if err := s.deletePublic(ctx, one.ID); err != nil {
			return err
		}
	}
	l := readLead(address.Description)
	for _, portID := range []string{l.target, l.former} {
		if portID == "" {
			continue
		}
		if err := s.allow(ctx, portID, address, false); err != nil {
			return err
		}
	}
	return gone(ports.Delete(ctx, s.network, id).ExtractErr(), "address", id)
}
