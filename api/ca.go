package api

import (
	"net/http"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (s *Server) caRoutes() []route {
	return []route{{http.MethodGet, "/ca", plain("ca:show", s.showCA)}}
}

// showCA shows the authorities that clients of databases trust: more than one while one follows another.
func (s *Server) showCA(r *request) (*answer, error) {
	ca, err := s.Control.Authorities(r.Context())
	if err != nil {
		return nil, err
	}
	body := wire.CA{Certificate: ca.Certificate(), NotAfter: at(dbaas.At(ca.Signs.NotAfter()))}
	for _, one := range ca.Trusted() {
		role := "signs"
		switch one {
		case ca.Next:
			role = "next"
		case ca.Old:
			role = "old"
		}
		body.Authorities = append(body.Authorities, wire.Authority{ID: one.ID(), Role: role, NotAfter: at(dbaas.At(one.NotAfter()))})
	}
	return ok(wire.CAEnvelope{CA: body})
}

// renderCertificate is the certificate of the instances' databases that expires first; nil where they have none.
func renderCertificate(views ...dbaas.InstanceView) *wire.Certificate {
	c := control.CertificateOf(views...)
	if c == nil {
		return nil
	}
	return &wire.Certificate{NotAfter: at(dbaas.At(c.NotAfter)), Names: c.Names}
}
