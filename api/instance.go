package api

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

func (s *Server) instanceRoutes() []route {
	return []route{
		{http.MethodGet, "/instances", plain("instance:index", s.listInstances)},
		{http.MethodGet, "/instances/detail", plain("instance:detail", s.listInstancesDetailed)},
		{http.MethodPost, "/instances", withBody(s, "instance:create", s.createInstance)},
		{http.MethodGet, "/instances/{id}", plain("instance:show", s.showInstance)},
		{http.MethodPut, "/instances/{id}", withBody(s, "instance:update", s.putInstance)},
		{http.MethodPatch, "/instances/{id}", withBody(s, "instance:edit", s.patchInstance)},
		{http.MethodDelete, "/instances/{id}", plain("instance:delete", s.deleteInstance)},
		{http.MethodPost, "/instances/{id}/action", withBody(s, "", s.actOnInstance)},
		{http.MethodGet, "/instances/{id}/configuration", plain("instance:configuration", s.showDefaultConfiguration)},
		{http.MethodGet, "/instances/{id}/credentials", plain("instance:credentials", s.showCredentials)},
	}
}

func (s *Server) listInstances(r *request) (*answer, error) {
	return s.instancePage(r, s.renderInstance)
}

func (s *Server) listInstancesDetailed(r *request) (*answer, error) {
	return s.instancePage(r, s.renderInstanceDetail)
}

// instancePage cuts the page by ascending id and shows it newest first.
func (s *Server) instancePage(r *request, render func(*request, *dbaas.InstanceView) wire.Instance) (*answer, error) {
	p, err := s.page(r)
	if err != nil {
		return nil, err
	}
	views, more, err := s.Control.Instances(r.Context(), r.caller, store.InstanceFilter{
		ProjectID: r.caller.ProjectID, IncludeClustered: boolParam(r, "include_clustered"), Limit: p.limit, Marker: p.marker,
	})
	if err != nil {
		return nil, err
	}
	list := wire.InstanceList{Instances: []wire.Instance{}}
	if more {
		list.Links, list.InstancesLinks = s.nextLinks(r, views[len(views)-1].ID)
	}
	slices.SortStableFunc(views, func(a, b dbaas.InstanceView) int {
		return cmp.Or(cmp.Compare(b.CreatedAt, a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	for i := range views {
		list.Instances = append(list.Instances, render(r, &views[i]))
	}
	return ok(list)
}

func (s *Server) showInstance(r *request) (*answer, error) {
	view, err := s.Control.Instance(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	instance := s.renderInstanceDetail(r, view)
	s.addUse(instance.Volume, view)
	return ok(wire.InstanceEnvelope{Instance: instance})
}

func (s *Server) deleteInstance(r *request) (*answer, error) {
	id, err := s.Control.DeleteInstance(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return accepted(id), nil
}

func (s *Server) showDefaultConfiguration(r *request) (*answer, error) {
	values, err := s.Control.DefaultConfiguration(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	if values == nil {
		values = map[string]any{}
	}
	var body wire.InstanceConfiguration
	body.Instance.Configuration = values
	return ok(body)
}

func (s *Server) showCredentials(r *request) (*answer, error) {
	c, err := s.Control.Credentials(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return ok(wire.CredentialsEnvelope{Credentials: wire.Credentials{Username: c.Username, Password: c.Password, URI: c.URI}})
}

func (s *Server) now() dbaas.Instant { return dbaas.At(s.Clock.Now()) }

// renderInstance is the summary that lists show.
func (s *Server) renderInstance(r *request, v *dbaas.InstanceView) wire.Instance {
	i := wire.Instance{
		ID: v.ID, Name: v.Name, Status: string(v.Status()), OperatingStatus: v.OperatingStatus(s.now()),
		Datastore: wire.DatastoreRef{Type: v.Datastore, Version: v.Version.Name},
		Flavor:    wire.Resource{ID: v.FlavorID, Links: links(r, "flavors", v.FlavorID)},
		Volume:    &wire.Volume{Size: v.VolumeSize},
		Region:    orNull(v.Region),
		Access:    wire.Access{IsPublic: v.Access.IsPublic, AllowedCIDRs: orEmpty(v.Access.AllowedCIDRs)},
		Links:     links(r, "instances", v.ID),
	}
	if r.caller.Admin {
		i.TenantID = v.ProjectID
	}
	for _, a := range v.Addresses {
		i.IP = append(i.IP, a.Address)
		i.Addresses = append(i.Addresses, wire.Address(a))
	}
	if v.ReplicaOf != "" {
		i.ReplicaOf = &wire.Resource{ID: v.ReplicaOf, Links: links(r, "instances", v.ReplicaOf)}
	}
	for _, id := range v.Replicas {
		i.Replicas = append(i.Replicas, wire.Resource{ID: id, Links: links(r, "instances", id)})
	}
	return i
}

// renderInstanceDetail is what show, create and the detailed list show.
func (s *Server) renderInstanceDetail(r *request, v *dbaas.InstanceView) wire.Instance {
	i := s.renderInstance(r, v)
	i.Datastore.VersionNumber, i.Datastore.VersionID = v.Version.Number, v.Version.ID
	i.InstanceDetail = &wire.InstanceDetail{
		Created: at(v.CreatedAt), Updated: at(v.UpdatedAt), Fault: renderFault(r, v.Fault), Locality: v.Locality,
		ClusterID: v.ClusterID, DeletionProtection: v.DeletionProtection, URI: s.Control.URI(v),
		Persistence: string(s.Control.Persistence(v)), Profile: v.Profile, TLS: string(v.TLS), TLSCertificate: renderCertificate(*v),
	}
	if v.ConfigurationID != "" {
		i.Configuration = &wire.Resource{ID: v.ConfigurationID, Name: v.ConfigurationName, Links: links(r, "configurations", v.ConfigurationID)}
	}
	i.HighAvailability = s.renderProtection(r, v)
	if v.Operation != nil {
		summary := summarize(v.Operation)
		i.Operation = &summary
	}
	if len(v.Guests) > 0 {
		s.addGuest(r, &i, v)
	}
	return i
}

// addGuest adds what the primary guest says, and for administrators what it is made of.
func (s *Server) addGuest(r *request, i *wire.Instance, v *dbaas.InstanceView) {
	g := &v.Guests[0]
	i.ServiceStatusUpdated = at(g.StatusAt)
	if i.OperatingStatus != dbaas.GuestHealthy.OperatingStatus() {
		i.OperatingStatusCause = v.OperatingCause(s.now())
	}
	i.Drift = renderDrift(r, v)
	if r.caller.Admin {
		encrypted := true
		i.ServerID, i.VolumeID, i.EncryptedRPC = g.ServerID, g.VolumeID, &encrypted
	}
}

// renderDrift shows what the primary guest found to be otherwise than it should be. The server's own settings, which are
// files, are the administrator's affair.
func renderDrift(r *request, v *dbaas.InstanceView) (list []wire.Drift) {
	for _, d := range v.Drift() {
		if r.caller.Admin || !strings.HasPrefix(d.Setting, "/") {
			list = append(list, wire.Drift(d))
		}
	}
	return list
}

// addUse adds how full the volume is, as the primary guest's last sign of life says.
func (s *Server) addUse(volume *wire.Volume, v *dbaas.InstanceView) {
	if len(v.Guests) == 0 {
		return
	}
	beat, known := v.Heartbeats[v.Guests[0].ID]
	if !known || beat.VolumeTotal <= 0 || s.now().Sub(beat.SeenAt) > dbaas.HeartbeatExpiry {
		return
	}
	used := round(float64(beat.VolumeUsed)/(1<<30), 100)
	percent := round(100*float64(beat.VolumeUsed)/float64(beat.VolumeTotal), 10)
	volume.Used, volume.UsedPercent = &used, &percent
}

func round(x, parts float64) float64 { return math.Round(x*parts) / parts }

// renderFault shows what went wrong; the details are the administrator's.
func renderFault(r *request, f *dbaas.Fault) *wire.InstanceFault {
	if f == nil {
		return nil
	}
	fault := &wire.InstanceFault{Message: f.Message, Created: at(f.At)}
	if r.caller.Admin {
		fault.Details = &f.Details
	}
	return fault
}
