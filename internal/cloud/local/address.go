package local

import (
	"context"
	"slices"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// addressesName is the directory of the records of addresses, which the forwarder reads.
const addressesName = "addresses"

// address is the record of an address, and what the forwarder goes by.
type address struct {
	OwnerID  string `json:"owner_id"`
	Name     string `json:"name"`
	Network  string `json:"network"` // id
	Address  string `json:"address"`
	TCPPorts []int  `json:"tcp_ports,omitempty"`
	PortID   string `json:"port_id,omitempty"`
	Target   string `json:"target,omitempty"` // the port's address, "" for nowhere
	Epoch    int64  `json:"epoch"`            // the highest seen
	Born     int64  `json:"born"`
}

func (a address) tag() (string, string) { return a.OwnerID, a.Name }
func (a address) born() int64           { return a.Born }

func (a address) view(id string) *cloud.Address {
	return &cloud.Address{ID: id, Address: a.Address, Network: a.Network}
}

// EnsureAddress gives an owner an address of its own.
func (c *Cloud) EnsureAddress(ctx context.Context, s cloud.AddressSpec) (*cloud.Address, error) {
	if err := checkTag(s.OwnerID, s.Name); err != nil {
		return nil, err
	}
	id, surplus, err := c.ensureAddressRow(s)
	if err != nil {
		return nil, err
	}
	if err := c.forward(ctx, append(surplus, id)...); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.address.rows[id].view(id), nil
}

// ensureAddressRow finds or makes the record, and removes surplus ones.
func (c *Cloud) ensureAddressRow(s cloud.AddressSpec) (id string, surplus []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ids := find(c.address, s.OwnerID, s.Name, s.RecordedID); len(ids) > 0 {
		for _, id := range ids[1:] {
			if err := c.address.remove(id); err != nil {
				return "", nil, err
			}
		}
		row := c.address.rows[ids[0]]
		if slices.Equal(row.TCPPorts, s.TCPPorts) {
			return ids[0], ids[1:], nil
		}
		row.TCPPorts = s.TCPPorts
		return ids[0], ids[1:], c.address.put(ids[0], row)
	}
	network, a, err := c.chooseAddress(place{tag: s.OwnerID + "/" + s.Name + "/address", nic: s.Nic, ports: s.TCPPorts})
	if err != nil {
		return "", nil, err
	}
	if id, err = newID(); err != nil {
		return "", nil, err
	}
	return id, nil, c.address.put(id, address{OwnerID: s.OwnerID, Name: s.Name, Network: network, Address: a.String(),
		TCPPorts: s.TCPPorts, Born: c.now()})
}

// PointAddress makes an address lead to a port. It is in force when it returns.
func (c *Cloud) PointAddress(ctx context.Context, addressID, portID string, epoch int64) error {
	if err := c.pointRow(addressID, portID, epoch); err != nil {
		return err
	}
	return c.forward(ctx, addressID) // also without a change: the record may be of a call that was cut off
}

func (c *Cloud) pointRow(addressID, portID string, epoch int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	row, ok := c.address.rows[addressID]
	p, portThere := c.ports.rows[portID]
	switch {
	case !ok:
		return dbaas.Errorf(dbaas.NotFound, "Address %s cannot be found.", addressID)
	case portID != "" && !portThere:
		return dbaas.Errorf(dbaas.NotFound, "Port %s cannot be found.", portID)
	case epoch < row.Epoch:
		return dbaas.Errorf(dbaas.Conflict, "Address %s follows epoch %d already, not %d.", addressID, row.Epoch, epoch)
	case row.PortID == portID && row.Target == p.Address && row.Epoch == epoch:
		return nil
	}
	row.PortID, row.Target, row.Epoch = portID, p.Address, epoch
	return c.address.put(addressID, row)
}

// unpoint makes all addresses that lead to a port lead nowhere.
func (c *Cloud) unpoint(ctx context.Context, portID string) error {
	ids, err := c.unpointRows(portID)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return nil
	}
	return c.forward(ctx, ids...)
}

// unpointRows gives also those that lead nowhere since an earlier call, which may have been cut off.
func (c *Cloud) unpointRows(portID string) (ids []string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, row := range c.address.rows {
		if row.PortID != portID {
			continue
		}
		ids = append(ids, id)
		row.Target = ""
		if err := c.address.put(id, row); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// DeleteAddress gives an address back.
func (c *Cloud) DeleteAddress(ctx context.Context, id string) error {
	if checkTag(id, id) != nil {
		return nil // nobody's
	}
	c.mu.Lock()
	err := c.address.remove(id)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.forward(ctx, id) // also without a record: an earlier call may have been cut off
}
