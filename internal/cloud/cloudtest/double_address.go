package cloudtest

import (
	"context"
	"fmt"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// EnsureAddress makes an address.
func (d *Double) EnsureAddress(ctx context.Context, s cloud.AddressSpec) (*cloud.Address, error) {
	d.mu.Lock()
	defer d.unlock()
	find := func() []string {
		return matching(d.address, func(a *doubleAddress) bool { return a.spec.OwnerID == s.OwnerID && a.spec.Name == s.Name })
	}
	id, err := d.ensure(ctx, "address", s.RecordedID, find, d.deleteAddress, func() error {
		network, address, err := d.choose(s.Nic)
		if err != nil {
			return err
		}
		id := d.nextID()
		d.address[id] = &doubleAddress{Address: cloud.Address{ID: id, Address: address, Network: network}, spec: s}
		return nil
	})
	if err != nil {
		return nil, err
	}
	kept := d.address[id]
	switch {
	case s.Public && kept.Public == "":
		err = d.wire(ctx, "create_public_address", func() (bool, error) {
			kept.Public, kept.publicID = fmt.Sprintf("203.0.113.%d", len(d.address)), d.nextID()
			return true, nil
		})
	case !s.Public && kept.Public != "":
		err = d.wire(ctx, "delete_public_address", func() (bool, error) {
			kept.Public, kept.publicID = "", ""
			return true, nil
		})
	}
	a := kept.Address
	return &a, err
}

// PointAddress makes an address lead to a port.
func (d *Double) PointAddress(ctx context.Context, addressID, portID string, epoch int64) error {
	d.mu.Lock()
	defer d.unlock()
	return d.wire(ctx, "point_address", func() (bool, error) {
		a, ok := d.address[addressID]
		switch {
		case !ok:
			return false, dbaas.Errorf(dbaas.NotFound, "Address %s cannot be found.", addressID)
		case portID != "" && d.ports[portID] == nil:
			return false, dbaas.Errorf(dbaas.NotFound, "Port %s cannot be found.", portID)
		case epoch < a.epoch:
			return false, dbaas.Errorf(dbaas.Conflict, "Address %s follows epoch %d already, not %d.", addressID, a.epoch, epoch)
		}
		changed := a.portID != portID
		a.portID, a.epoch = portID, epoch
		return changed, nil
	})
}

// PointsTo tells the port that an address leads to, "" for nowhere, and the epoch of that.
func (d *Double) PointsTo(addressID string) (portID string, epoch int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a, ok := d.address[addressID]; ok {
		return a.portID, a.epoch
	}
	return "", 0
}

// DeleteAddress deletes an address.
func (d *Double) DeleteAddress(ctx context.Context, id string) error {
	d.mu.Lock()
	defer d.unlock()
	return d.deleteAddress(ctx, id)
}

func (d *Double) deleteAddress(ctx context.Context, id string) error {
	return d.wire(ctx, "delete_address", func() (bool, error) { return drop(d.address, id), nil })
}
