package api

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

func (s *Server) clusterRoutes() []route {
	return []route{
		{http.MethodGet, "/clusters", plain("cluster:index", s.listClusters)},
		{http.MethodPost, "/clusters", withBody(s, "cluster:create", s.createCluster)},
		{http.MethodGet, "/clusters/{id}", plain("cluster:show", s.showCluster)},
		{http.MethodPost, "/clusters/{id}", withBody(s, "", s.actOnCluster)},
		{http.MethodDelete, "/clusters/{id}", plain("cluster:delete", s.deleteCluster)},
		{http.MethodGet, "/clusters/{id}/instances/{instance}", plain("cluster:show_instance", s.showClusterMember)},
		{http.MethodGet, "/clusters/{id}/credentials", plain("cluster:credentials", s.showClusterCredentials)},
		{http.MethodGet, "/clusters/{id}/root", plain("cluster:extension:root:index", s.showClusterRoot)},
		{http.MethodPost, "/clusters/{id}/root", withOptionalBody(s, "cluster:extension:root:create", s.enableClusterRoot)},
	}
}

func (s *Server) listClusters(r *request) (*answer, error) {
	p, err := s.page(r)
	if err != nil {
		return nil, err
	}
	views, more, err := s.Control.Clusters(r.Context(), r.caller, store.ClusterFilter{ProjectID: r.caller.ProjectID, Limit: p.limit, Marker: p.marker})
	if err != nil {
		return nil, err
	}
	list := wire.ClusterList{Clusters: []wire.Cluster{}}
	for i := range views {
		list.Clusters = append(list.Clusters, renderCluster(r, &views[i]))
	}
	if more {
		list.Links, list.ClustersLinks = s.nextLinks(r, views[len(views)-1].ID)
	}
	return ok(list)
}

func (s *Server) showCluster(r *request) (*answer, error) {
	view, err := s.Control.Cluster(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return ok(wire.ClusterEnvelope{Cluster: renderClusterDetail(r, view)})
}

func (s *Server) createCluster(r *request, body *wire.CreateClusterRequest) (*answer, error) {
	wish, err := clusterWish(body.Cluster)
	if err != nil {
		return nil, err
	}
	created, err := s.Control.CreateCluster(r.Context(), r.caller, wish)
	if err != nil {
		return nil, err
	}
	cluster := renderCluster(r, created.View)
	cluster.Password = created.Password
	return &answer{
		status: http.StatusOK, body: &wire.ClusterEnvelope{Cluster: cluster}, operations: []string{created.OperationID},
		secrets: []secretField{{&cluster.Password, created.PasswordSecretID}},
	}, nil
}

// clusterWish checks the shape of a wish. What exists and what fits, the use case checks.
func clusterWish(w *wire.CreateCluster) (control.CreateCluster, error) {
	var none control.CreateCluster
	if w == nil {
		return none, badRequest("cluster is required.")
	}
	if err := requireName("cluster.name", w.Name); err != nil {
		return none, err
	}
	if len([]rune(w.Name)) > maxName-len("-member-99") {
		return none, badRequest("cluster.name must have at most %d characters: its members' names begin with it.", maxName-len("-member-99"))
	}
	wish := control.CreateCluster{Name: w.Name, Locality: orBlank(w.Locality), TLS: dbaas.TLSMode(orBlank(w.TLS))}
	if w.Locality != nil && !slices.Contains(localities(), *w.Locality) {
		return none, badRequest("cluster.locality must be one of affinity, anti-affinity, soft-affinity, soft-anti-affinity.")
	}
	if d := w.Datastore; d != nil {
		wish.Datastore, wish.Version, wish.VersionNumber = d.Type, d.Version, d.VersionNumber
	}
	if w.Configuration != nil {
		wish.ConfigurationID = w.Configuration.ID()
	}
	if n := w.ExtendedProperties.ReplicasPerShard; n != nil {
		count, ok := n.Int()
		if !ok || count < 0 {
			return none, badRequest("cluster.extended_properties.replicas_per_shard must be a whole number of at least 0.")
		}
		wish.ReplicasPerShard = count
	}
	for i := range w.Instances {
		path, item := fmt.Sprintf("cluster.instances[%d]", i), &w.Instances[i]
		if item.FlavorRef.ID() == "" || item.Volume == nil {
			return none, badRequest("%s needs flavorRef, the id of a flavor, and volume: {\"size\": <GB>}.", path)
		}
		if item.Type != nil || item.RelatedTo != nil {
			return none, badRequest("%s: type and related_to are for grow; here every instance is a master, and extended_properties.replicas_per_shard says how many replicas each has.", path)
		}
		m, err := newMember(path, item)
		if err != nil {
			return none, err
		}
		wish.Masters = append(wish.Masters, m)
	}
	names := map[string]bool{}
	for i, m := range wish.Masters {
		if m.Name != "" && names[m.Name] {
			return none, badRequest("cluster.instances[%d]: the name %q is there twice.", i, printable(m.Name))
		}
		names[m.Name] = true
	}
	return wish, nil
}

func newMember(path string, w *wire.NewMember) (control.NewMember, error) {
	m := control.NewMember{Name: orBlank(w.Name), FlavorID: w.FlavorRef.ID(), Zone: orBlank(w.AvailabilityZone), Region: orBlank(w.RegionName)}
	if asked(w.Modules) {
		return m, notBuilt(path + ".modules")
	}
	if m.Region == "" {
		m.Region = orBlank(w.Region)
	}
	if w.Name != nil {
		if err := requireName(path+".name", *w.Name); err != nil {
			return m, err
		}
	}
	if len(m.FlavorID) > maxName || len(m.Zone) > maxName || len(m.Region) > maxName {
		return m, badRequest("%s: names have at most %d characters.", path, maxName)
	}
	var err error
	if w.Volume != nil {
		if m.VolumeSize, err = volumeSize(path+".volume.size", w.Volume.Size); err != nil {
			return m, err
		}
		m.VolumeType = orBlank(w.Volume.Type)
	}
	m.Nic, err = nicWish(w.Nics)
	return m, err
}

func (s *Server) deleteCluster(r *request) (*answer, error) {
	id, err := s.Control.DeleteCluster(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return accepted(id), nil
}

func (s *Server) showClusterMember(r *request) (*answer, error) {
	view, err := s.Control.ClusterMember(r.Context(), r.caller, r.param("id"), r.param("instance"))
	if err != nil {
		return nil, err
	}
	instance := s.renderInstanceDetail(r, view)
	s.addUse(instance.Volume, view)
	return ok(wire.InstanceEnvelope{Instance: instance})
}

func (s *Server) showClusterCredentials(r *request) (*answer, error) {
	c, err := s.Control.ClusterCredentials(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return ok(wire.CredentialsEnvelope{Credentials: wire.Credentials{Username: c.Username, Password: c.Password, URI: c.URI}})
}

func (s *Server) showClusterRoot(r *request) (*answer, error) {
	enabled, err := s.Control.ClusterRootEnabled(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	return ok(wire.RootEnabled{RootEnabled: enabled})
}

func (s *Server) enableClusterRoot(r *request, body *wire.RootRequest) (*answer, error) {
	if body.Password != nil {
		if err := requireName("password", *body.Password); err != nil {
			return nil, err
		}
	}
	root, err := s.Control.EnableClusterRoot(r.Context(), r.caller, r.param("id"), orBlank(body.Password))
	if err != nil {
		return nil, err
	}
	shown := &wire.RootUser{FailedSlaves: []string{}}
	shown.User.Name, shown.User.Password = root.Name, root.Password
	return &answer{
		status: http.StatusOK, body: shown, operations: []string{root.OperationID},
		secrets: []secretField{{&shown.User.Password, root.PasswordSecretID}},
	}, s.await(r, root.OperationID)
}

// renderCluster is a cluster as lists and the answers to changes show it.
func renderCluster(r *request, v *control.ClusterView) wire.Cluster {
	c := wire.Cluster{
		ID: v.ID, Name: v.Name, Task: clusterTask(v.Task), Created: at(v.CreatedAt), Updated: at(v.UpdatedAt),
		Datastore: wire.DatastoreRef{Type: v.Datastore, Version: v.Version.Name}, Links: links(r, "clusters", v.ID),
		Instances: []wire.ClusterMember{}, Locality: v.Locality, Configuration: v.ConfigurationID, Replicas: v.ReplicasPerShard,
		TLS: clusterTLS(v), TLSCertificate: renderCertificate(v.Members...),
		Fault: renderFault(r, v.Fault),
	}
	if r.caller.Admin {
		c.TenantID = v.ProjectID
	}
	if v.Health != nil {
		c.Health = &wire.ClusterHealth{State: v.Health.State, Causes: v.Health.Causes}
	}
	if v.Operation != nil {
		summary := summarize(v.Operation)
		c.Operation = &summary
	}
	for i := range v.Members {
		m := &v.Members[i]
		c.Instances = append(c.Instances, wire.ClusterMember{
			ID: m.ID, Name: m.Name, Type: "member", Role: string(v.Role(m)), ShardID: m.ShardID, Links: links(r, "instances", m.ID),
		})
	}
	return c
}

// clusterTLS is how clients connect to a cluster: all members are alike.
func clusterTLS(v *control.ClusterView) string {
	if len(v.Members) == 0 {
		return ""
	}
	return string(v.Members[0].TLS)
}

// renderClusterDetail adds what only show has.
func renderClusterDetail(r *request, v *control.ClusterView) wire.Cluster {
	c := renderCluster(r, v)
	for i := range v.Members {
		in, m := &v.Members[i], &c.Instances[i]
		m.Status, m.Volume = string(in.Status()), &wire.Volume{Size: in.VolumeSize}
		m.Version = in.Version.Name
		m.Flavor = &wire.Resource{ID: in.FlavorID, Links: links(r, "flavors", in.FlavorID)}
		for _, a := range in.Addresses {
			m.IP = append(m.IP, a.Address)
		}
		c.IP = append(c.IP, m.IP...)
		if h := v.MemberHealth(in); h != nil {
			m.Health, m.Slots, m.Keys = h.State, h.Owns, h.Units
		}
		if up, lag, known := v.Link(in); known {
			if m.LinkUp = &up; lag >= 0 {
				m.Lag = &lag
			}
		}
	}
	return c
}

// clusterTask gives a task as Trove's clients know it (api reference 4.5).
func clusterTask(t dbaas.ClusterTask) wire.ClusterTask {
	for _, known := range []wire.ClusterTask{
		{ID: 1, Name: string(dbaas.ClusterNone), Description: "no task"},
		{ID: 2, Name: string(dbaas.ClusterBuilding), Description: "building the initial cluster"},
		{ID: 3, Name: string(dbaas.ClusterDeleting), Description: "deleting"},
		{ID: 5, Name: string(dbaas.ClusterGrowing), Description: "growing"},
		{ID: 6, Name: string(dbaas.ClusterShrinking), Description: "shrinking"},
		{ID: 7, Name: string(dbaas.ClusterUpgrading), Description: "rolling upgrade"},
		{ID: 8, Name: string(dbaas.ClusterRestart), Description: "rolling restart"},
		{ID: 9, Name: string(dbaas.ClusterUpdating), Description: "configuration change"},
		{ID: 10, Name: string(dbaas.ClusterResizing), Description: "rolling resize"},
	} {
		if known.Name == string(t) {
			return known
		}
	}
	return wire.ClusterTask{Name: string(t), Description: string(t)}
}

// actOnCluster does one deed: exactly one key of the body.
func (s *Server) actOnCluster(r *request, body *wire.ClusterAction) (*answer, error) {
	named := 0
	for _, there := range []bool{
		body.Grow != nil, body.Shrink != nil, body.Resize != nil, body.Restart != nil, body.Upgrade != nil,
		body.ConfigurationAttach != nil, body.ConfigurationDetach != nil, body.ResetStatus != nil, body.AddShard != nil,
		body.SetTLS != nil, body.RenewCertificates != nil,
	} {
		if there {
			named++
		}
	}
	if named != 1 {
		return nil, badRequest("Name exactly one action: grow, shrink, resize, restart, upgrade, configuration_attach, configuration_detach, set_tls, renew_certificates or reset-status.")
	}
	id, ctx := r.param("id"), r.Context()
	switch {
	case body.Grow != nil:
		items, err := growWish(body.Grow)
		if err != nil {
			return nil, err
		}
		return s.actCluster(r, func() (string, error) { return s.Control.GrowCluster(ctx, r.caller, id, items) })
	case body.Shrink != nil:
		ids, err := shrinkWish(body.Shrink)
		if err != nil {
			return nil, err
		}
		return s.actCluster(r, func() (string, error) { return s.Control.ShrinkCluster(ctx, r.caller, id, ids) })
	case body.Resize != nil:
		return s.resizeCluster(r, id, body.Resize)
	case body.Restart != nil:
		return s.actCluster(r, func() (string, error) { return s.Control.RestartCluster(ctx, r.caller, id) })
	case body.Upgrade != nil:
		version := body.Upgrade.DatastoreVersion
		if version == "" || len(version) > maxName {
			return nil, badRequest("upgrade.datastore_version is required: the id or name of a version.")
		}
		return s.actCluster(r, func() (string, error) { return s.Control.UpgradeCluster(ctx, r.caller, id, version) })
	case body.ConfigurationAttach != nil:
		group := body.ConfigurationAttach.ConfigurationID.ID()
		if group == "" {
			return nil, badRequest("configuration_attach.configuration_id is required.")
		}
		return s.actCluster(r, func() (string, error) { return s.Control.AttachClusterConfiguration(ctx, r.caller, id, group) })
	case body.ConfigurationDetach != nil:
		return s.actCluster(r, func() (string, error) { return s.Control.DetachClusterConfiguration(ctx, r.caller, id) })
	case body.SetTLS != nil:
		if body.SetTLS.Mode == "" {
			return nil, badRequest("set_tls.mode is required: both or on.")
		}
		mode := dbaas.TLSMode(body.SetTLS.Mode)
		return s.actCluster(r, func() (string, error) { return s.Control.SetClusterTLS(ctx, r.caller, id, mode) })
	case body.RenewCertificates != nil:
		return s.actCluster(r, func() (string, error) { return s.Control.RenewClusterCertificates(ctx, r.caller, id) })
	case body.ResetStatus != nil:
		return s.resetCluster(r, id, body.ResetStatus)
	default:
		if err := s.require(r, "cluster:action"); err != nil {
			return nil, err
		}
		if _, err := s.Control.Cluster(ctx, r.caller, id); err != nil {
			return nil, err
		}
		return nil, badRequest("add_shard is for datastores whose shards are alike; grow this cluster by a master.")
	}
}

// actCluster asks the policy, does the deed and shows the cluster.
func (s *Server) actCluster(r *request, deed func() (operationID string, err error)) (*answer, error) {
	return s.actClusterBy(r, "cluster:action", deed)
}

func (s *Server) actClusterBy(r *request, rule string, deed func() (operationID string, err error)) (*answer, error) {
	a, err := s.act(r, rule, deed)
	if err != nil {
		return nil, err
	}
	view, err := s.Control.Cluster(r.Context(), r.caller, r.param("id"))
	if err != nil {
		return nil, err
	}
	a.body = wire.ClusterEnvelope{Cluster: renderCluster(r, view)}
	return a, nil
}

func (s *Server) resetCluster(r *request, id string, reset *wire.ResetStatus) (*answer, error) {
	rule := "cluster:reset-status"
	if force := reset.ForceDelete; asked(force) && string(force) != "false" {
		rule = "cluster:force_delete"
	}
	return s.actClusterBy(r, rule, func() (string, error) { return s.Control.ResetClusterStatus(r.Context(), r.caller, id) })
}

func (s *Server) resizeCluster(r *request, id string, body *wire.Resize) (*answer, error) {
	flavor := body.FlavorRef.ID()
	switch {
	case body.Volume != nil:
		size, err := volumeSize("resize.volume.size", body.Volume.Size)
		if err != nil {
			return nil, err
		}
		return s.actCluster(r, func() (string, error) { return s.Control.ResizeClusterVolume(r.Context(), r.caller, id, size) })
	case flavor != "" && len(flavor) <= maxName:
		return s.actCluster(r, func() (string, error) { return s.Control.ResizeClusterFlavor(r.Context(), r.caller, id, flavor) })
	default:
		return nil, badRequest("resize needs volume: {\"size\": <GB>} or flavorRef, the id of a flavor.")
	}
}

func growWish(items []wire.NewMember) ([]control.NewMember, error) {
	if len(items) == 0 {
		return nil, badRequest("grow names at least one new member.")
	}
	var wish []control.NewMember
	for i := range items {
		path, item := fmt.Sprintf("grow[%d]", i), &items[i]
		m, err := newMember(path, item)
		if err != nil {
			return nil, err
		}
		switch {
		case len(item.Type) == 0, len(item.Type) == 1 && (item.Type[0] == "master" || item.Type[0] == "member"):
		case len(item.Type) == 1 && item.Type[0] == "replica":
			m.Replica = true
		default:
			return nil, badRequest("%s.type must be \"master\" or \"replica\".", path)
		}
		if m.RelatedTo = orBlank(item.RelatedTo); len(m.RelatedTo) > maxName {
			return nil, badRequest("%s.related_to has at most %d characters.", path, maxName)
		}
		wish = append(wish, m)
	}
	return wish, nil
}

func shrinkWish(items []wire.LeavingMember) ([]string, error) {
	if len(items) == 0 {
		return nil, badRequest("shrink names at least one member: [{\"id\": …}].")
	}
	var ids []string
	for i, item := range items {
		if uuid.Validate(item.ID.ID()) != nil {
			return nil, badRequest("shrink[%d].id must be the id of a member.", i)
		}
		if slices.Contains(ids, item.ID.ID()) {
			return nil, badRequest("shrink[%d].id is there twice.", i)
		}
		ids = append(ids, item.ID.ID())
	}
	return ids, nil
}
