package control

import (
	"context"
	"encoding/json"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// TLSState is the private state of set_tls: the mode that is wished for, and what a failure goes back to.
type TLSState struct {
	Mode     dbaas.TLSMode `json:"mode"`
	Previous dbaas.TLSMode `json:"previous"`
}

// requireTLS refuses a mode that the datastore does not have; "" is off.
func requireTLS(m *datastore.Manifest, mode dbaas.TLSMode) error {
	switch {
	case mode == "":
		return nil
	case mode != dbaas.TLSOff && mode != dbaas.TLSBoth && mode != dbaas.TLSOn:
		return dbaas.Errorf(dbaas.BadRequest, "tls must be one of off, both, on, not %q.", string(mode))
	case mode.Encrypted() && !m.Capabilities.TLS:
		return dbaas.Errorf(dbaas.BadRequest, "Datastore %s has no TLS.", m.Name)
	}
	return nil
}

// setTLS changes how clients connect to an instance and its replicas, while they stay connected.
func (s *Service) setTLS(ctx context.Context, tx *store.Tx, c Caller, in *dbaas.Instance, mode dbaas.TLSMode) (string, error) {
	if err := requireIdle(tx, in); err != nil {
		return "", err
	}
	if in.ReplicaOf != "" {
		return "", dbaas.Errorf(dbaas.BadRequest, "Instance %s is a replica, and is reached as its source is: change tls on %s.", in.ID, in.ReplicaOf)
	}
	if err := requireStarted(in, "its TLS is changed"); err != nil {
		return "", err
	}
	if err := s.requireTLSOf(ctx, in.DatastoreVersionID, mode); err != nil {
		return "", err
	}
	if mode.OrOff() == in.TLS.OrOff() {
		return "", nil
	}
	others, err := otherMembers(tx, in)
	if err != nil {
		return "", err
	}
	in.Task, in.Fault = dbaas.TaskUpdating, nil
	return s.enqueue(tx, c, change{kind: "set_tls", instance: in, lock: others, state: TLSState{Mode: mode.OrOff(), Previous: in.TLS},
		before: map[string]any{"tls": in.TLS.OrOff()}, after: map[string]any{"tls": mode.OrOff()}})
}

func (s *Service) requireTLSOf(ctx context.Context, versionID string, mode dbaas.TLSMode) error {
	version, err := s.versionByID(ctx, versionID)
	if err != nil {
		return err
	}
	m, err := s.manifest(&version.DatastoreVersion)
	if err != nil {
		return err
	}
	return requireTLS(m, mode)
}

// SetClusterTLS changes how clients connect to a cluster, and its members to each other, while all of them serve.
func (s *Service) SetClusterTLS(ctx context.Context, c Caller, id string, mode dbaas.TLSMode) (string, error) {
	return s.beginClusterChange(ctx, c, id, dbaas.ClusterUpdating, func(_ *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error) {
		if err := requireWhole(cl, members); err != nil {
			return change{}, err
		}
		if err := s.requireTLSOf(ctx, cl.DatastoreVersionID, mode); err != nil {
			return change{}, err
		}
		now := members[0].TLS.OrOff()
		if mode = mode.OrOff(); mode == now {
			return change{}, dbaas.Errorf(dbaas.BadRequest, "The tls of cluster %s is %s already.", cl.ID, now)
		}
		return change{kind: "set_tls", state: TLSState{Mode: mode, Previous: members[0].TLS},
			before: map[string]any{"tls": now}, after: map[string]any{"tls": mode}}, nil
	})
}

const kindRenew = "renew_certificates"

// RenewCertificates gives an instance's databases new keys and certificates; nobody is cut off.
func (s *Service) RenewCertificates(ctx context.Context, c Caller, id string) (string, error) {
	return s.beginChange(ctx, c, id, dbaas.TaskUpdating, func(_ *store.Tx, in *dbaas.Instance) (change, error) {
		if err := requireStarted(in, "its certificates are renewed"); err != nil {
			return change{}, err
		}
		return change{kind: kindRenew}, requireEncrypted(in)
	})
}

// RenewClusterCertificates gives the members of a cluster new keys and certificates; nobody is cut off.
func (s *Service) RenewClusterCertificates(ctx context.Context, c Caller, id string) (string, error) {
	return s.beginClusterChange(ctx, c, id, dbaas.ClusterUpdating, func(_ *store.Tx, cl *dbaas.Cluster, members []dbaas.Instance) (change, error) {
		if err := requireWhole(cl, members); err != nil {
			return change{}, err
		}
		return change{kind: kindRenew}, requireEncrypted(&members[0])
	})
}

func requireEncrypted(in *dbaas.Instance) error {
	if !in.TLS.Encrypted() {
		return dbaas.Errorf(dbaas.BadRequest, "Instance %s has no certificate: its tls is off.", in.ID)
	}
	return nil
}

// CertificateIn is what a database said of its certificate; nil when it said nothing.
func CertificateIn(observed []byte) *datastore.Certificate {
	var said struct {
		Certificate *datastore.Certificate `json:"certificate"`
	}
	if len(observed) == 0 || json.Unmarshal(observed, &said) != nil {
		return nil
	}
	return said.Certificate
}

// CertificateOf is the certificate of the instances' guests that expires first; nil when none is known.
func CertificateOf(views ...dbaas.InstanceView) *datastore.Certificate {
	var first *datastore.Certificate
	for i := range views {
		for j := range views[i].Guests {
			c := CertificateIn(views[i].Guests[j].Observed)
			if c != nil && (first == nil || c.NotAfter.Before(first.NotAfter)) {
				first = c
			}
		}
	}
	return first
}
