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

// showCA shows the authority that clients of databases trust.
func (s *Server) showCA(r *request) (*answer, error) {
	ca, err := s.Control.Authority(r.Context())
	if err != nil {
		return nil, err
	}
	return ok(wire.CAEnvelope{CA: wire.CA{Certificate: ca.Certificate(), NotAfter: at(dbaas.At(ca.NotAfter()))}})
}

// renderCertificate is what an instance's databases say of their certificate; nil where they have none.
func renderCertificate(v *dbaas.InstanceView) *wire.Certificate {
	c := control.CertificateOf(v)
	if c == nil {
		return nil
	}
	return &wire.Certificate{NotAfter: at(dbaas.At(c.NotAfter)), Names: c.Names}
}
