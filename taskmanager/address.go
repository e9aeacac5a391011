package taskmanager

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// hasAddress tells whether an instance has an address of its own, which stays when another guest takes its writes. The
// members of a cluster have none: its clients know each by its guest's.
func hasAddress(in *dbaas.Instance) bool { return in.ClusterID == "" }

// addressPrivate is the type of an address of a tenant's own network.
const addressPrivate = "private"

func shown(address, network string) []dbaas.Address {
	return []dbaas.Address{{Address: address, Type: addressPrivate, Network: network}}
}

// ensureAddress gives the instance the address that its tenant sees. It carries the instance's tag, for guests come and go.
func (m *Manager) ensureAddress(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil || !hasAddress(s.instance) {
		return err
	}
	ports, err := m.tcpPorts(ctx, s)
	if err != nil {
		return err
	}
	spec := cloud.AddressSpec{
		OwnerID: s.instance.ID, Name: objectName(s.instance.ID), TCPPorts: ports, RecordedID: s.instance.AddressID,
	}
	if s.instance.Nic != nil {
		spec.Nic = *s.instance.Nic
	}
	a, err := m.Cloud.EnsureAddress(ctx, spec)
	if err != nil {
		return m.refusedByCloud(ctx, op, err)
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.instance.AddressID, s.instance.Addresses = a.ID, shown(a.Address, a.Network)
		return nil
	})
}

// pointAddress makes the instance's address lead to the subject's guest.
func (m *Manager) pointAddress(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil || s.instance.AddressID == "" {
		return err
	}
	return m.Cloud.PointAddress(ctx, s.instance.AddressID, s.guest.PortID, s.group.Epoch)
}

// deleteAddressStep gives the instance's address back.
func (m *Manager) deleteAddressStep() engine.Step {
	return engine.Step{Name: "deleteAddress", Doc: "giving the instance's address back", Within: 30 * time.Minute,
		Run: func(ctx context.Context, op *engine.Operation) error {
			return m.deleteAll(ctx, op, op.ResourceID, cloud.KindAddress, m.Cloud.DeleteAddress)
		}}
}
