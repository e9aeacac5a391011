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

// The types of an instance's addresses: of a tenant's own network, and of the world's.
const (
	addressPrivate = "private"
	addressPublic  = "public"
)

func shown(address, network string) []dbaas.Address {
	return []dbaas.Address{{Address: address, Type: addressPrivate, Network: network}}
}

// ensureAddress gives the instance the address that its tenant sees. It carries the instance's tag, for guests come and go.
func (m *Manager) ensureAddress(ctx context.Context, op *engine.Operation) error {
	s, err := m.load(ctx, op)
	if err != nil {
		return err
	}
	return m.ensureAddressOf(ctx, op, s, s.instance.Access.IsPublic)
}

// ensureAddressOf makes the subject's address, public or not, and records what it is.
func (m *Manager) ensureAddressOf(ctx context.Context, op *engine.Operation, s *subject, public bool) error {
	if !hasAddress(s.instance) {
		return nil
	}
	ports, err := m.tcpPorts(ctx, s)
	if err != nil {
		return err
	}
	spec := cloud.AddressSpec{
		OwnerID: s.instance.ID, Name: objectName(s.instance.ID), Nic: s.nic(), TCPPorts: ports, Public: public, RecordedID: s.instance.AddressID,
	}
	a, err := m.Cloud.EnsureAddress(ctx, spec)
	if err != nil {
		return m.refusedByCloud(ctx, op, err)
	}
	return m.update(ctx, op, func(_ *store.Tx, s *subject) error {
		s.instance.AddressID, s.instance.Addresses = a.ID, shown(a.Address, a.Network)
		if a.Public != "" {
			s.instance.Addresses = append(s.instance.Addresses, dbaas.Address{Address: a.Public, Type: addressPublic})
		}
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
			for _, kind := range []string{cloud.KindAddress, cloud.KindPublicAddress} { // the second where the first went without it
				if err := m.deleteAll(ctx, op, op.ResourceID, kind, m.Cloud.DeleteAddress); err != nil {
					return err
				}
			}
			return nil
		}}
}
