package openstack

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/attachinterfaces"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servergroups"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// guestKey is in the metadata of servers and volumes: whose they are.
const guestKey = "grove_guest"

// server is what we read of Nova's servers.
type server struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Status     string            `json:"status"`
	Task       string            `json:"OS-EXT-STS:task_state"`
	HostStatus string            `json:"host_status"` // for administrators
	Created    time.Time         `json:"created"`
	Metadata   map[string]string `json:"metadata"`
	Flavor     struct {
		ID string `json:"id"`
	} `json:"flavor"`
	Volumes []struct {
		ID string `json:"id"`
	} `json:"os-extended-volumes:volumes_attached"`
	Fault struct {
		Message string `json:"message"`
		Details string `json:"details"`
	} `json:"fault"`
}

// noRoom finds how Nova says that no host can have a server: at once, or after it has tried others because two servers that must
// not share a host were sent to the same one.
var noRoom = regexp.MustCompile(`No valid host|affinity|Exhausted all hosts`)

func (s *server) view() *cloud.Server {
	v := &cloud.Server{ID: s.ID, Name: s.Name, Status: cloud.ServerStatus(s.Status), FlavorID: s.Flavor.ID, HostDown: s.HostStatus == "DOWN"}
	if s.Status == string(cloud.ServerError) {
		v.Fault = s.Fault.Message
		v.NoRoom = noRoom.MatchString(v.Fault)
	}
	return v
}

func (s *session) server(ctx context.Context, id string) (*server, error) {
	found := new(server)
	err := servers.Get(ctx, s.compute, id).ExtractInto(found)
	return found, act(err, "server", id)
}

// serversOf lists the servers of a guest, the oldest first; of all guests with "". Names are a regular expression.
func (s *session) serversOf(ctx context.Context, guestID, names string) ([]server, error) {
	all, err := listed(ctx, "servers", servers.List(s.compute, servers.ListOpts{Name: names}), func(p pagination.Page) (all []server, err error) {
		return all, servers.ExtractServersInto(p, &all)
	})
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(one server) bool {
		owner := one.Metadata[guestKey]
		return owner == "" || guestID != "" && owner != guestID
	})
	slices.SortStableFunc(all, func(a, b server) int { return a.Created.Compare(b.Created) })
	return all, nil
}

// Server implements [cloud.Compute].
func (c *Cloud) Server(ctx context.Context, id string) (*cloud.Server, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	found, err := s.server(ctx, id)
	if err != nil {
		return nil, err
	}
	return found.view(), nil
}

// EnsureServer implements [cloud.Compute].
func (c *Cloud) EnsureServer(ctx context.Context, spec cloud.ServerSpec) (*cloud.Server, error) {
	return once(c, "server "+spec.Name+spec.RecordedID, func() (*cloud.Server, error) {
		s, err := c.session(ctx)
		if err != nil {
			return nil, err
		}
		kept, err := s.keepServer(ctx, spec)
		if err != nil {
			return nil, err
		}
		if kept != nil {
			return kept.view(), s.complete(ctx, kept, spec)
		}
		return c.makeServer(ctx, s, spec)
	})
}

// keepServer finds the server and deletes those that are too many.
func (s *session) keepServer(ctx context.Context, spec cloud.ServerSpec) (*server, error) {
	found, err := s.serversOf(ctx, spec.GuestID, "^"+regexp.QuoteMeta(spec.Name)+"$")
	if err != nil {
		return nil, err
	}
	kept, surplus := choose(found, spec.RecordedID, func(v *server) string { return v.ID })
	for _, one := range surplus {
		if err := gone(servers.Delete(ctx, s.compute, one.ID).ExtractErr(), "server", one.ID); err != nil {
			return nil, err
		}
	}
	switch {
	case len(surplus) > 0:
		return nil, fmt.Errorf("waiting for %d surplus servers of %s to go", len(surplus), spec.Name)
	case kept != nil && kept.Task == "deleting":
		return nil, fmt.Errorf("waiting for server %s to go", kept.ID)
	}
	return kept, nil
}

func (c *Cloud) makeServer(ctx context.Context, s *session, spec cloud.ServerSpec) (*cloud.Server, error) {
	image, err := c.image(ctx, s, spec)
	if err != nil {
		return nil, err
	}
	opts, err := createOpts(spec, image)
	if err != nil {
		return nil, err
	}
	if err := c.manage(ctx, s, &opts); err != nil {
		return nil, err
	}
	var hints servers.SchedulerHintOptsBuilder
	if spec.GroupID != "" {
		hints = servers.SchedulerHintOpts{Group: spec.GroupID}
	}
	made := new(server)
	err = servers.Create(ctx, s.compute, opts, hints).ExtractInto(made)
	if err != nil {
		return s.afterRefusal(ctx, spec, err)
	}
	// The answer to create has little more than the id.
	return &cloud.Server{ID: made.ID, Name: spec.Name, Status: cloud.ServerBuild, FlavorID: spec.FlavorID}, nil
}

// afterRefusal looks whether the refusal comes of an earlier request of ours that has arrived late: then the server is
// there, or its volume is taken already.
func (s *session) afterRefusal(ctx context.Context, spec cloud.ServerSpec, err error) (*cloud.Server, error) {
	refusal := refused(err, "server")
	if code := dbaas.ErrorCode(refusal); code != dbaas.BadRequest {
		return nil, refusal
	}
	if kept, err := s.keepServer(ctx, spec); err != nil || kept != nil {
		if err != nil {
			return nil, err
		}
		return kept.view(), nil
	}
	if spec.VolumeID != "" {
		if v, lost := s.volumeByID(ctx, spec.VolumeID); lost == nil && v.Status != string(cloud.VolumeAvailable) {
			return nil, plain(err, fmt.Sprintf("make server %s, whose volume is %s", spec.Name, v.Status))
		}
	}
	return nil, refusal
}

func createOpts(spec cloud.ServerSpec, image string) (servers.CreateOpts, error) {
	userData, err := cloudConfig(spec.UserData)
	if err != nil {
		return servers.CreateOpts{}, err
	}
	metadata := maps.Clone(spec.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	metadata[guestKey] = spec.GuestID
	configDrive := true
	opts := servers.CreateOpts{
		Name: spec.Name, FlavorRef: spec.FlavorID, ImageRef: image, AvailabilityZone: spec.Zone, Metadata: metadata,
		UserData: userData, ConfigDrive: &configDrive,
	}
	if spec.PortID != "" {
		opts.Networks = []servers.Network{{Port: spec.PortID}}
	}
	if spec.VolumeID != "" {
		opts.BlockDevice = []servers.BlockDevice{
			{SourceType: servers.SourceImage, DestinationType: servers.DestinationLocal, UUID: image, BootIndex: 0, DeleteOnTermination: true},
			{SourceType: servers.SourceVolume, DestinationType: servers.DestinationVolume, UUID: spec.VolumeID, BootIndex: -1},
		}
	}
	return opts, nil
}

// bootstrapPath is where grove-agent looks for its bootstrap by default.
const bootstrapPath = "/etc/grove/bootstrap.json"

// cloudConfig is what cloud-init does with a bootstrap at first boot. JSON is YAML.
func cloudConfig(bootstrap []byte) ([]byte, error) {
	if len(bootstrap) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(map[string]any{
		"write_files": []map[string]string{{
			"path": bootstrapPath, "permissions": "0600", "encoding": "b64", "content": base64.StdEncoding.EncodeToString(bootstrap),
		}},
		"runcmd": [][]string{{"systemctl", "enable", "--now", "grove-agent"}},
	})
	return append([]byte("#cloud-config\n"), b...), err
}

// image gives the id of a server's image: named, or the youngest with all tags.
func (c *Cloud) image(ctx context.Context, s *session, spec cloud.ServerSpec) (string, error) {
	if spec.Image != "" {
		return spec.Image, nil
	}
	tags := spec.ImageTags
	if len(tags) == 0 {
		tags = c.config.ImageTags
	}
	youngest := images.ListOpts{Tags: tags, Status: images.ImageStatusActive, Sort: "created_at:desc"}
	found, err := listed(ctx, "images", images.List(s.image, youngest), images.ExtractImages)
	if err != nil {
		return "", err
	}
	if len(found) == 0 || len(tags) == 0 {
		return "", dbaas.Errorf(dbaas.BadRequest, "The cloud has no image with the tags %q of this datastore version.", tags)
	}
	return found[0].ID, nil
}

// complete gives a server that is kept what it was to have from the start: another may have had it.
func (s *session) complete(ctx context.Context, kept *server, spec cloud.ServerSpec) error {
	switch cloud.ServerStatus(kept.Status) {
	case cloud.ServerActive, cloud.ServerShutoff:
	case cloud.ServerBuild:
		if spec.VolumeID != "" && len(kept.Volumes) == 0 {
			return fmt.Errorf("waiting until server %s is built", kept.ID)
		}
		return nil
	default:
		return nil
	}
	if spec.VolumeID != "" && len(kept.Volumes) == 0 {
		if err := s.attachVolume(ctx, spec.VolumeID, kept.ID); err != nil {
			return err
		}
	}
	if spec.PortID == "" {
		return nil
	}
	port, err := ports.Get(ctx, s.network, spec.PortID).Extract()
	if err != nil {
		return act(err, "port", spec.PortID)
	}
	if port.DeviceID == kept.ID {
		return nil
	}
	return plain(attachinterfaces.Create(ctx, s.compute, kept.ID, attachinterfaces.CreateOpts{PortID: port.ID}).Err, "attach port "+port.ID)
}

func (s *session) attachVolume(ctx context.Context, volumeID, serverID string) error {
	err := volumeattach.Create(ctx, s.compute, serverID, volumeattach.CreateOpts{VolumeID: volumeID}).Err
	return act(err, "server", serverID)
}

// on does something with a server as it stands.
func (c *Cloud) on(ctx context.Context, id string, deed func(*session, *server) error) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	found, err := s.server(ctx, id)
	if err != nil {
		return err
	}
	return deed(s, found)
}

// Console implements [cloud.Compute].
func (c *Cloud) Console(ctx context.Context, id string, lines int) (string, error) {
	s, err := c.session(ctx)
	if err != nil {
		return "", err
	}
	text, err := servers.ShowConsoleOutput(ctx, s.compute, id, servers.ShowConsoleOutputOpts{Length: lines}).Extract()
	return text, act(err, "server", id)
}

// ResizeServer implements [cloud.Compute].
func (c *Cloud) ResizeServer(ctx context.Context, id, flavorID string) error {
	return c.on(ctx, id, func(s *session, v *server) error {
		if v.Flavor.ID == flavorID && v.Status != "REVERT_RESIZE" {
			return nil
		}
		err := servers.Resize(ctx, s.compute, id, servers.ResizeOpts{FlavorRef: flavorID}).ExtractErr()
		return refused(err, "server of that flavor")
	})
}

// ConfirmResize implements [cloud.Compute].
func (c *Cloud) ConfirmResize(ctx context.Context, id string) error {
	return c.on(ctx, id, func(s *session, v *server) error {
		if v.Status != string(cloud.ServerVerifyResize) {
			return nil
		}
		return act(servers.ConfirmResize(ctx, s.compute, id).ExtractErr(), "server", id)
	})
}

// RevertResize implements [cloud.Compute].
func (c *Cloud) RevertResize(ctx context.Context, id string) error {
	return c.on(ctx, id, func(s *session, v *server) error {
		if v.Status != string(cloud.ServerVerifyResize) {
			return nil
		}
		return act(servers.RevertResize(ctx, s.compute, id).ExtractErr(), "server", id)
	})
}

// RebootServer implements [cloud.Compute].
func (c *Cloud) RebootServer(ctx context.Context, id string) error {
	return c.on(ctx, id, func(s *session, _ *server) error {
		return act(servers.Reboot(ctx, s.compute, id, servers.RebootOpts{Type: servers.SoftReboot}).ExtractErr(), "server", id)
	})
}

// StopServer implements [cloud.Compute].
func (c *Cloud) StopServer(ctx context.Context, id string) error {
	return c.on(ctx, id, func(s *session, v *server) error {
		if v.Status == string(cloud.ServerShutoff) && v.Task == "" || v.Task == "powering-off" {
			return nil
		}
		return act(servers.Stop(ctx, s.compute, id).ExtractErr(), "server", id)
	})
}

// PowerOffServer implements [cloud.Compute]. Nova knows no harder stop than its own: it gives the guest os_shutdown_timeout
// (a property of the image, 60 s where it has none), then cuts the power.
func (c *Cloud) PowerOffServer(ctx context.Context, id string) error { return c.StopServer(ctx, id) }

// StartServer implements [cloud.Compute].
func (c *Cloud) StartServer(ctx context.Context, id string) error {
	return c.on(ctx, id, func(s *session, v *server) error {
		switch {
		case v.Status == string(cloud.ServerActive) && v.Task == "", v.Task == "powering-on":
			return nil
		case v.Status == string(cloud.ServerError):
			return act(servers.Reboot(ctx, s.compute, id, servers.RebootOpts{Type: servers.HardReboot}).ExtractErr(), "server", id)
		default:
			return act(servers.Start(ctx, s.compute, id).ExtractErr(), "server", id)
		}
	})
}

// rebuildOpts adds the user data, which gophercloud's own lack.
type rebuildOpts struct {
	servers.RebuildOpts
	userData []byte
}

// ToServerRebuildMap implements [servers.RebuildOptsBuilder].
func (o rebuildOpts) ToServerRebuildMap() (map[string]any, error) {
	body, err := o.RebuildOpts.ToServerRebuildMap()
	if inner, ok := body["rebuild"].(map[string]any); ok && len(o.userData) > 0 {
		inner["user_data"] = base64.StdEncoding.EncodeToString(o.userData)
	}
	return body, err
}

// RebuildServer implements [cloud.Compute].
func (c *Cloud) RebuildServer(ctx context.Context, id string, spec cloud.ServerSpec) error {
	return c.on(ctx, id, func(s *session, _ *server) error {
		image, err := c.image(ctx, s, spec)
		if err != nil {
			return err
		}
		userData, err := cloudConfig(spec.UserData)
		if err != nil {
			return err
		}
		opts := rebuildOpts{servers.RebuildOpts{ImageRef: image, Name: spec.Name}, userData}
		return act(servers.Rebuild(ctx, s.rebuild, id, opts).Err, "server", id)
	})
}

// DeleteServer implements [cloud.Compute].
func (c *Cloud) DeleteServer(ctx context.Context, id string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	return gone(servers.Delete(ctx, s.compute, id).ExtractErr(), "server", id)
}

// groupPrefix begins the names of server groups, which have nothing else to carry a tag.
const groupPrefix = "grove-"

func groupName(groupID string) string { return groupPrefix + groupID }

// groupOf is whose a server group is, "" for none of ours.
func groupOf(name string) string {
	id, ours := strings.CutPrefix(name, groupPrefix)
	if _, err := uuid.Parse(id); !ours || err != nil {
		return ""
	}
	return id
}

// groupPage is how many server groups are asked for at once: Nova gives no more by default, and no link to the next ones.
const groupPage = 1000

func (s *session) serverGroups(ctx context.Context) (all []servergroups.ServerGroup, err error) {
	for {
		page := servergroups.ListOpts{Limit: groupPage, Offset: len(all)}
		found, err := listed(ctx, "server groups", servergroups.List(s.compute, page), servergroups.ExtractServerGroups)
		all = append(all, found...)
		if err != nil || len(found) < groupPage {
			return all, err
		}
	}
}

func (s *session) serverGroupsOf(ctx context.Context, groupID string) ([]servergroups.ServerGroup, error) {
	all, err := s.serverGroups(ctx)
	return slices.DeleteFunc(all, func(g servergroups.ServerGroup) bool { return g.Name != groupName(groupID) }), err
}

// EnsureServerGroup implements [cloud.Compute].
func (c *Cloud) EnsureServerGroup(ctx context.Context, groupID, policy string) (string, error) {
	return once(c, "server group "+groupID, func() (string, error) {
		s, err := c.session(ctx)
		if err != nil {
			return "", err
		}
		found, err := s.serverGroupsOf(ctx, groupID)
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return keptGroup(found), nil
		}
		if err := servergroups.Create(ctx, s.compute, servergroups.CreateOpts{Name: groupName(groupID), Policies: []string{policy}}).Err; err != nil {
			return "", refused(err, "server group")
		}
		if found, err = s.serverGroupsOf(ctx, groupID); err != nil || len(found) == 0 {
			return "", cmp.Or(err, fmt.Errorf("the cloud does not show the server group of %s yet", groupID))
		}
		return keptGroup(found), nil
	})
}

// keptGroup gives the id of the server group that counts where a request has made several: servers apart have to be in the same
// one. They go together.
func keptGroup(found []servergroups.ServerGroup) string {
	return slices.MinFunc(found, func(a, b servergroups.ServerGroup) int {
		return cmp.Or(cmp.Compare(len(b.Members), len(a.Members)), cmp.Compare(a.ID, b.ID))
	}).ID
}

// DeleteServerGroup implements [cloud.Compute].
func (c *Cloud) DeleteServerGroup(ctx context.Context, groupID string) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	found, err := s.serverGroupsOf(ctx, groupID)
	if err != nil {
		return err
	}
	for _, g := range found {
		if err := gone(servergroups.Delete(ctx, s.compute, g.ID).ExtractErr(), "server group", g.ID); err != nil {
			return err
		}
	}
	return nil
}

// isGone tells that the cloud does not know something.
func isGone(err error) bool { return gophercloud.ResponseCodeIs(err, http.StatusNotFound) }
