package api

import (
	"net/http"
	"strings"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// mgmtRoutes are the administrator's, over all projects.
func (s *Server) mgmtRoutes() []route {
	return []route{
		{http.MethodGet, "/mgmt/instances", plain("mgmt:instances", s.mgmtInstances)},
		{http.MethodGet, "/mgmt/instances/{id}", plain("mgmt:instances", s.mgmtInstance)},
		{http.MethodGet, "/mgmt/instances/{id}/root", plain("mgmt:instances", s.mgmtRootHistory)},
		{http.MethodPost, "/mgmt/instances/{id}/action", withBody(s, "mgmt:instances", s.mgmtActOnInstance)},
		{http.MethodPost, "/mgmt/instances/{id}/upgrade", withBody(s, "mgmt:instances", s.mgmtUpgradeAgent)},
		{http.MethodGet, "/mgmt/clusters", plain("mgmt:clusters", s.mgmtClusters)},
		{http.MethodGet, "/mgmt/clusters/{id}", plain("mgmt:clusters", s.mgmtCluster)},
		{http.MethodPost, "/mgmt/clusters/{id}/action", withBody(s, "mgmt:clusters", s.mgmtActOnCluster)},
	}
}

// presence reads the parameter deleted: lists without it have what lives and what was deleted.
func presence(r *request) (store.Presence, error) {
	switch value := strings.ToLower(r.URL.Query().Get("deleted")); value {
	case "":
		return store.LivingOrDeleted, nil
	case "true":
		return store.Deleted, nil
	case "false":
		return store.Living, nil
	default:
		return 0, badRequest("deleted must be true or false, not %q.", printable(value))
	}
}

func (s *Server) mgmtInstances(r *request) (*answer, error) {
	p, err := s.page(r)
	if err != nil {
		return nil, err
	}
	filter := store.InstanceFilter{
		ProjectID: r.URL.Query().Get("project_id"), IncludeClustered: boolParam(r, "include_clustered"), Limit: p.limit, Marker: p.marker,
	}
	if filter.Presence, err = presence(r); err != nil {
		return nil, err
	}
	views, more, err := s.Control.Instances(r.Context(), r.caller, filter)
	if err != nil {
		return nil, err
	}
	list := wire.MgmtInstanceList{Instances: []wire.MgmtInstance{}}
	if more {
		list.Links, list.InstancesLinks = s.nextLinks(r, views[len(views)-1].ID)
	}
	for i := range views {
		list.Instances = append(list.Instances, s.renderMgmtInstance(r, &views[i]))
	}
	return ok(list)
}

func (s *Server) mgmtInstance(r *request) (*answer, error) {
	p, err := presence(r)
	if err != nil {
		return nil, err
	}
	find := s.Control.Instance
	if p == store.Deleted {
		find = s.Control.DeletedInstance
	}
	v, err := find(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	i := s.renderMgmtInstance(r, v)
	if len(v.Guests) > 0 {
		g := &v.Guests[0]
		i.GuestStatus = &wire.GuestStatus{StateDescription: strings.ToLower(string(g.Status))}
		if i.Server != nil {
			i.Server.Addresses = serverAddresses(v)
		}
	}
	if !v.RootEnabledAt.IsZero() {
		enabled := at(v.RootEnabledAt)
		i.RootEnabled, i.RootEnabledBy = &enabled, v.RootEnabledBy
	}
	return ok(wire.MgmtInstanceEnvelope{Instance: i})
}

func (s *Server) renderMgmtInstance(r *request, v *dbaas.InstanceView) wire.MgmtInstance {
	i := wire.MgmtInstance{
		Instance: s.renderInstanceDetail(r, v), TaskDescription: string(v.Task),
		Deleted: !v.DeletedAt.IsZero(), DeletedAt: at(v.DeletedAt), MgmtVolume: &wire.MgmtVolume{Size: v.VolumeSize},
	}
	if i.Deleted {
		i.Status = string(dbaas.StatusShutdown)
	}
	if len(v.Guests) == 0 {
		return i
	}
	for n := range v.Guests {
		g := &v.Guests[n]
		agent := wire.MgmtAgent{GuestID: g.ID, Version: g.AgentVersion, Primary: n == 0}
		if beat, known := v.Heartbeats[g.ID]; known {
			agent.SeenAt = at(beat.SeenAt)
		}
		i.Agents = append(i.Agents, agent)
	}
	g := &v.Guests[0]
	status := g.Status.OperatingStatus()
	i.ServiceStatus = &status
	if g.ServerID != "" {
		i.Server = &wire.MgmtServer{ID: g.ServerID, Name: v.Name}
	}
	i.MgmtVolume.ID = g.VolumeID
	if beat, known := v.Heartbeats[g.ID]; known && beat.VolumeTotal > 0 {
		used, total := round(float64(beat.VolumeUsed)/(1<<30), 100), round(float64(beat.VolumeTotal)/(1<<30), 100)
		i.MgmtVolume.Used, i.MgmtVolume.Total = &used, &total
	}
	return i
}

// serverAddresses is how the compute service lists a server's addresses.
func serverAddresses(v *dbaas.InstanceView) map[string][]wire.ServerAddress {
	by := map[string][]wire.ServerAddress{}
	for _, a := range v.Addresses {
		by[a.Type] = append(by[a.Type], wire.ServerAddress{Addr: a.Address, Version: 4})
	}
	return by
}

func (s *Server) mgmtRootHistory(r *request) (*answer, error) {
	v, err := s.Control.Instance(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	var body wire.RootHistory
	h := &body.RootHistory
	h.ID, h.Enabled, h.User = v.ID, "Never", "Nobody"
	if !v.RootEnabledAt.IsZero() {
		h.Enabled, h.User = at(v.RootEnabledAt), v.RootEnabledBy
	}
	return ok(body)
}

// mgmtActOnInstance does one deed: exactly one key of the body.
func (s *Server) mgmtActOnInstance(r *request, body *wire.MgmtInstanceAction) (*answer, error) {
	named := 0
	for _, there := range []bool{body.Stop != nil, body.Rebuild != nil, body.ResetTaskStatus != nil, asked(body.Reboot), asked(body.Migrate)} {
		if there {
			named++
		}
	}
	if named != 1 {
		return nil, badRequest("Name exactly one action, with an object: stop, rebuild, reset-task-status, reboot or migrate.")
	}
	id := r.param("id")
	if _, err := s.Control.Instance(r.Context(), r.caller, id); err != nil {
		return nil, err
	}
	switch {
	case body.Stop != nil:
		return s.act(r, "mgmt:instances", func() (string, error) { return s.Control.StopInstance(r.Context(), r.caller, id) })
	case body.Rebuild != nil && body.Rebuild.ImageID != nil:
		return nil, badRequest("rebuild.image_id cannot be chosen: the image is that of the instance's datastore version.")
	case body.Rebuild != nil:
		return s.act(r, "mgmt:instances", func() (string, error) { return s.Control.RebuildInstance(r.Context(), r.caller, id) })
	case body.ResetTaskStatus != nil:
		return s.act(r, "mgmt:instances", func() (string, error) { return s.Control.ResetStatus(r.Context(), r.caller, id) })
	case asked(body.Reboot):
		return nil, notBuilt("Rebooting a server (restart starts the database again, and the server where it is down)")
	default:
		return nil, notBuilt("Migrating a server")
	}
}

// mgmtUpgradeAgent replaces the guest agents of an instance.
func (s *Server) mgmtUpgradeAgent(r *request, body *wire.UpgradeAgentEnvelope) (*answer, error) {
	u := body.Upgrade
	if u == nil {
		return nil, badRequest("Say in upgrade.location where the new agent is, and in upgrade.metadata.sha256 which one it is.")
	}
	if _, err := s.Control.Instance(r.Context(), r.caller, r.param("id")); err != nil {
		return nil, err
	}
	return s.act(r, "mgmt:instances", func() (string, error) {
		return s.Control.UpgradeAgent(r.Context(), r.caller, r.param("id"), control.AgentState{Location: u.Location, SHA256: u.Metadata.SHA256})
	})
}

func (s *Server) mgmtClusters(r *request) (*answer, error) {
	p, err := presence(r)
	if err != nil {
		return nil, err
	}
	views, _, err := s.Control.Clusters(r.Context(), r.caller, store.ClusterFilter{Presence: p})
	if err != nil {
		return nil, err
	}
	list := wire.MgmtClusterList{Clusters: []wire.MgmtCluster{}}
	for i := range views {
		list.Clusters = append(list.Clusters, renderMgmtCluster(renderCluster(r, &views[i]), &views[i]))
	}
	return ok(list)
}

func (s *Server) mgmtCluster(r *request) (*answer, error) {
	v, err := s.Control.Cluster(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return ok(wire.MgmtClusterEnvelope{Cluster: renderMgmtCluster(renderClusterDetail(r, v), v)})
}

func renderMgmtCluster(c wire.Cluster, v *control.ClusterView) wire.MgmtCluster {
	m := wire.MgmtCluster{Cluster: c}
	if !v.DeletedAt.IsZero() {
		deleted := at(v.DeletedAt)
		m.Deleted, m.DeletedAt = true, &deleted
	}
	return m
}

func (s *Server) mgmtActOnCluster(r *request, body *wire.MgmtClusterAction) (*answer, error) {
	if body.ResetTask == nil {
		return nil, badRequest("The one action is reset-task, with an object.")
	}
	return s.act(r, "mgmt:clusters", func() (string, error) { return s.Control.ResetClusterStatus(r.Context(), r.caller, r.param("id")) })
}
