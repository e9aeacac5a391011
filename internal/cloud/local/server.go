package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// server is the record of a server.
type server struct {
	GuestID  string             `json:"guest_id"`
	Name     string             `json:"name"`
	FlavorID string             `json:"flavor_id"`
	Status   cloud.ServerStatus `json:"status"`
	Fault    string             `json:"fault,omitempty"`
	// Task is what is being done to it; Open goes on with it.
	Task task `json:"task,omitempty"`
	// On tells whether it should run.
	On bool `json:"on"`
	// NextFlavorID is where a resize goes to, OldFlavorID where one that is not confirmed came from.
	NextFlavorID string            `json:"next_flavor_id,omitempty"`
	OldFlavorID  string            `json:"old_flavor_id,omitempty"`
	PortID       string            `json:"port_id,omitempty"`
	GroupID      string            `json:"group_id,omitempty"`
	Zone         string            `json:"zone,omitempty"`
	Image        string            `json:"image,omitempty"`
	Metadata     map[string]string `json:"metadata,omitempty"`
	Born         int64             `json:"born"`
}

// task is a deed on a server that takes longer than a call may.
type task string

const (
	taskStart   task = "start"
	taskStop    task = "stop"
	taskReboot  task = "reboot"
	taskResize  task = "resize"
	taskRevert  task = "revert"
	taskRebuild task = "rebuild"
	taskDelete  task = "delete"
	// taskPowerOff pre-empts all others but taskDelete.
	taskPowerOff task = "power off"
)

func (s server) tag() (string, string) { return s.GuestID, s.Name }
func (s server) born() int64           { return s.Born }

// building tells whether the server has not come to its first start yet.
func (s server) building() bool { return s.Status == cloud.ServerBuild && s.Task == taskStart }

// view is the server as the seam shows it.
func (s server) view(id string) *cloud.Server {
	return &cloud.Server{ID: id, Name: s.Name, Status: s.Status, FlavorID: s.FlavorID, Fault: s.Fault}
}

// serverGroup is the record of a server group. All servers are on one machine, so that its policy is only kept.
type serverGroup struct {
	GroupID string `json:"group_id"`
	Policy  string `json:"policy"`
	Born    int64  `json:"born"`
}

func (g serverGroup) tag() (string, string) { return g.GroupID, "" }
func (g serverGroup) born() int64           { return g.Born }

// EnsureServerGroup records a group's locality policy.
func (c *Cloud) EnsureServerGroup(_ context.Context, groupID, policy string) (string, error) {
	switch policy {
	case "affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity":
	default:
		return "", dbaas.Errorf(dbaas.BadRequest, "There is no locality %q; there are affinity and anti-affinity.", policy)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ids := find(c.groups, groupID, "", ""); len(ids) > 0 {
		return ids[0], nil
	}
	id, err := newID()
	if err != nil {
		return "", err
	}
	return id, c.groups.put(id, serverGroup{GroupID: groupID, Policy: policy, Born: c.now()})
}

// DeleteServerGroup forgets a group, by the group's own id.
func (c *Cloud) DeleteServerGroup(_ context.Context, groupID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range find(c.groups, groupID, "", "") {
		if err := c.groups.remove(id); err != nil {
			return err
		}
	}
	return nil
}

// Console has nothing to show: what an agent writes is in the log of who runs it.
func (c *Cloud) Console(_ context.Context, id string, _ int) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.servers.rows[id]; !ok {
		return "", dbaas.Errorf(dbaas.NotFound, "There is no server %s.", id)
	}
	return "", nil
}

// EnsureServer makes a server and launches its agent.
func (c *Cloud) EnsureServer(ctx context.Context, s cloud.ServerSpec) (*cloud.Server, error) {
	if err := checkTag(s.GuestID, s.Name); err != nil {
		return nil, err
	}
	id, found, err := c.ensureServerRow(s)
	if err != nil {
		return nil, err
	}
	if !found {
		c.performNow(id)
	}
	return c.Server(ctx, id)
}

// ensureServerRow finds or makes the record. found tells that nothing else is left to do.
func (c *Cloud) ensureServerRow(s cloud.ServerSpec) (id string, found bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := find(c.servers, s.GuestID, s.Name, s.RecordedID)
	if len(ids) > 0 {
		if err := c.dropSurplus(ids[0], ids[1:]); err != nil {
			return "", false, err
		}
		if c.servers.rows[ids[0]].Task == taskDelete {
			return "", false, fmt.Errorf("ensure server: server %s of that name is being deleted", ids[0])
		}
		return ids[0], !c.servers.rows[ids[0]].building(), c.equip(ids[0], s)
	}
	if err := c.checkServer(s); err != nil {
		return "", false, err
	}
	if id, err = newID(); err != nil {
		return "", false, err
	}
	row := server{GuestID: s.GuestID, Name: s.Name, FlavorID: s.FlavorID, Status: cloud.ServerBuild, Task: taskStart, On: true,
		PortID: s.PortID, GroupID: s.GroupID, Zone: s.Zone, Image: s.Image, Metadata: s.Metadata, Born: c.now()}
	if err := c.servers.put(id, row); err != nil {
		return "", false, err
	}
	return id, false, c.equip(id, s)
}

// equip gives a server that is being built what its first start needs; an earlier attempt may have been cut off.
func (c *Cloud) equip(id string, s cloud.ServerSpec) error {
	row := c.servers.rows[id]
	if !row.building() {
		return nil
	}
	if v, ok := c.volumes.rows[s.VolumeID]; ok {
		if err := c.attach(s.VolumeID, v, id); err != nil {
			return err
		}
	}
	return c.writeBootstrap(row, s.UserData)
}

// dropSurplus forgets servers beside the one to keep. They share its directory, and so have nothing of their own.
func (c *Cloud) dropSurplus(keep string, surplus []string) error {
	for _, id := range surplus {
		if v := c.attached(id); v != "" {
			row := c.volumes.rows[v]
			row.ServerID = keep
			if err := c.volumes.put(v, row); err != nil {
				return err
			}
		}
		if m, ok := c.machines[id]; ok && c.machines[keep] == nil {
			c.machines[keep] = m // whose agent runs in the directory
			delete(c.machines, id)
		}
		if err := c.servers.remove(id); err != nil {
			return err
		}
	}
	return nil
}

// checkServer refuses wishes that can't be granted.
func (c *Cloud) checkServer(s cloud.ServerSpec) error {
	if _, err := c.cfg.flavor(s.FlavorID); err != nil {
		return err
	}
	if err := c.cfg.checkZone(s.Zone); err != nil {
		return err
	}
	if _, ok := c.ports.rows[s.PortID]; !ok {
		return dbaas.Errorf(dbaas.BadRequest, "There is no port %q for the server.", s.PortID)
	}
	if v, ok := c.volumes.rows[s.VolumeID]; s.VolumeID != "" && !ok {
		return dbaas.Errorf(dbaas.BadRequest, "There is no volume %q for the server.", s.VolumeID)
	} else if v.ServerID != "" {
		return dbaas.Errorf(dbaas.BadRequest, "Volume %s is attached to server %s.", s.VolumeID, v.ServerID)
	}
	if _, ok := c.groups.rows[s.GroupID]; s.GroupID != "" && !ok {
		return dbaas.Errorf(dbaas.BadRequest, "There is no server group %q.", s.GroupID)
	}
	for _, row := range c.servers.rows {
		if row.GuestID == s.GuestID {
			return dbaas.Errorf(dbaas.BadRequest, "Guest %s has a server named %q already.", s.GuestID, row.Name)
		}
	}
	return nil
}

// The names of files in a server's directory.
const (
	bootstrapName = "bootstrap.json"
	hostName      = "host.json"
	agentName     = "agent"
)

func (c *Cloud) writeBootstrap(s server, userData []byte) error {
	dir := c.serverDir(s.GuestID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make server: %w", err)
	}
	return host.WriteFile(filepath.Join(dir, bootstrapName), userData, 0o600, nil)
}

func noServer(id string) error { return dbaas.Errorf(dbaas.NotFound, "Server %s cannot be found.", id) }

// Server finds a server.
func (c *Cloud) Server(_ context.Context, id string) (*cloud.Server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.servers.rows[id]
	if !ok {
		return nil, noServer(id)
	}
	return s.view(id), nil
}

// begin changes a server's record and begins the task that stands in it then. change tells with false that there is
// nothing to do.
func (c *Cloud) begin(id string, change func(s *server) (bool, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.servers.rows[id]
	if !ok || s.Task == taskDelete {
		return noServer(id)
	}
	before := s.Task
	needed, err := change(&s)
	if err != nil || !needed {
		return err
	}
	if before != "" {
		return fmt.Errorf("server %s is busy: %s", id, before)
	}
	if err := c.servers.put(id, s); err != nil {
		return err
	}
	c.kick(id)
	return nil
}

// ResizeServer begins a change of flavor: the server goes down and comes up with the other one.
func (c *Cloud) ResizeServer(_ context.Context, id, flavorID string) error {
	if _, err := c.cfg.flavor(flavorID); err != nil {
		return err
	}
	return c.begin(id, func(s *server) (bool, error) {
		if s.FlavorID == flavorID && s.Task == "" || s.Task == taskResize && s.NextFlavorID == flavorID {
			return false, nil
		}
		if s.Status == cloud.ServerVerifyResize {
			return false, fmt.Errorf("server %s: an earlier resize is neither confirmed nor reverted", id)
		}
		s.Task, s.Status, s.NextFlavorID = taskResize, cloud.ServerResize, flavorID
		return true, nil
	})
}

// ConfirmResize makes a resize final; without one there is nothing to do.
func (c *Cloud) ConfirmResize(_ context.Context, id string) error {
	return c.begin(id, func(s *server) (bool, error) {
		if s.Status != cloud.ServerVerifyResize {
			return false, nil
		}
		s.Status, s.OldFlavorID = settled(*s), ""
		return true, nil
	})
}

// settled is the status of a server to which nothing is being done.
func settled(s server) cloud.ServerStatus {
	if s.On {
		return cloud.ServerActive
	}
	return cloud.ServerShutoff
}

// RevertResize begins the way back to the flavor before a resize; without one there is nothing to do.
func (c *Cloud) RevertResize(_ context.Context, id string) error {
	return c.begin(id, func(s *server) (bool, error) {
		if s.Status != cloud.ServerVerifyResize {
			return false, nil
		}
		s.Task, s.Status = taskRevert, cloud.ServerResize
		return true, nil
	})
}

// RebootServer begins to shut a server down and to start it again.
func (c *Cloud) RebootServer(_ context.Context, id string) error {
	return c.begin(id, func(s *server) (bool, error) {
		if s.Task == taskReboot {
			return false, nil
		}
		if s.Status == cloud.ServerVerifyResize {
			return false, fmt.Errorf("server %s: confirm or revert its resize first", id)
		}
		s.Task, s.Status, s.On, s.Fault = taskReboot, cloud.ServerReboot, true, ""
		return true, nil
	})
}

// StopServer begins to shut a server down.
func (c *Cloud) StopServer(_ context.Context, id string) error {
	return c.begin(id, func(s *server) (bool, error) {
		if s.Task == taskStop || s.Task == "" && s.Status == cloud.ServerShutoff {
			return false, nil
		}
		if s.Status == cloud.ServerVerifyResize {
			return false, fmt.Errorf("server %s: confirm or revert its resize first", id)
		}
		s.Task, s.On, s.Fault = taskStop, false, ""
		return true, nil
	})
}

// PowerOffServer ends a server as a loss of power does: agent and database are killed. Until they are the server does
// not count as off, also should groved end meanwhile.
func (c *Cloud) PowerOffServer(_ context.Context, id string) error {
	off, err := c.beginPowerOff(id)
	if err != nil || off {
		return err
	}
	c.performNow(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.servers.rows[id]; ok && s.Status == cloud.ServerError {
		return fmt.Errorf("power off server %s: %s", id, s.Fault)
	}
	return nil
}

func (c *Cloud) beginPowerOff(id string) (off bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.servers.rows[id]
	switch {
	case !ok || s.Task == taskDelete:
		return false, noServer(id)
	case s.Task == "" && !s.On && s.Status == cloud.ServerShutoff:
		return true, nil
	case s.Task != taskPowerOff:
		s.Task, s.On, s.Fault = taskPowerOff, false, ""
		if err := c.servers.put(id, s); err != nil {
			return false, err
		}
	}
	if m := c.machines[id]; m != nil {
		m.interrupt()
	}
	return false, nil
}

// StartServer begins to start a server; for one in ERROR it is another try.
func (c *Cloud) StartServer(_ context.Context, id string) error {
	return c.begin(id, func(s *server) (bool, error) {
		if s.Task == taskStart || s.Task == "" && s.On && s.Status != cloud.ServerError {
			return false, nil
		}
		s.Task, s.On, s.Fault = taskStart, true, ""
		return true, nil
	})
}

// RebuildServer begins to make the server anew from its bootstrap: its own directory is its root disk.
func (c *Cloud) RebuildServer(_ context.Context, id string, spec cloud.ServerSpec) error {
	return c.begin(id, func(s *server) (bool, error) {
		if s.Task == taskRebuild {
			return false, nil
		}
		if s.Task == "" { // else refused below
			if err := c.writeBootstrap(*s, spec.UserData); err != nil {
				return false, err
			}
		}
		s.Task, s.Status, s.On, s.Image, s.Metadata, s.Fault = taskRebuild, cloud.ServerBuild, true, spec.Image, spec.Metadata, ""
		return true, nil
	})
}

// DeleteServer deletes a server: what runs in it is killed, its volume is detached, its directory is removed. The id of
// a guest deletes what is left of its servers without a record.
func (c *Cloud) DeleteServer(ctx context.Context, id string) error {
	c.mu.Lock()
	s, ok := c.servers.rows[id]
	if !ok {
		stray := c.strayServer(id)
		c.mu.Unlock()
		if !stray {
			return nil
		}
		return c.demolish(ctx, id)
	}
	var err error
	if s.Task != taskDelete {
		s.Task, s.On = taskDelete, false
		err = c.servers.put(id, s)
	}
	if m := c.machines[id]; m != nil {
		m.interrupt() // what was being done to it does not matter any more
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	m := c.machine(id)
	m.turn.Lock()
	defer m.turn.Unlock()
	return c.erase(ctx, m, id)
}

// strayServer tells whether a guest without a server's record has something that only a server has.
func (c *Cloud) strayServer(guestID string) bool {
	if checkTag(guestID, guestID) != nil {
		return false
	}
	for _, row := range c.servers.rows {
		if row.GuestID == guestID {
			return false
		}
	}
	return c.leftovers(guestID)
}

// erase removes a server for good. It is called in the machine's turn.
func (c *Cloud) erase(ctx context.Context, m *machine, id string) error {
	c.mu.Lock()
	s, ok := c.servers.rows[id]
	c.mu.Unlock()
	if !ok {
		return nil
	}
	if err := m.killAgent(); err != nil {
		return fmt.Errorf("delete server %s: %w", id, err)
	}
	if err := c.demolish(ctx, s.GuestID); err != nil {
		return fmt.Errorf("delete server %s: %w", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.machines, id)
	return c.servers.remove(id)
}

// demolish ends what runs for a guest, lets its volumes go and removes its server's files.
func (c *Cloud) demolish(ctx context.Context, guestID string) error {
	dir := c.serverDir(guestID)
	if err := c.crash(ctx, dir); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, v := range c.volumes.rows {
		if v.GuestID != guestID || v.ServerID == "" {
			continue
		}
		if err := c.unplug(ctx, id, v, dir); err != nil {
			return err
		}
		v.ServerID = ""
		if err := c.volumes.put(id, v); err != nil {
			return err
		}
	}
	return c.removeServerFiles(dir)
}

// removeServerFiles removes all in a guest's directory but volumes, and the directory when it is empty then.
func (c *Cloud) removeServerFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isVolumeName(e.Name()) {
			continue
		}
		if err := removeAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return removeEmpty(dir)
}

// removeAll is os.RemoveAll, for a directory into which someone may write his last words just now.
func removeAll(path string) error {
	var err error
	for range 10 {
		if err = os.RemoveAll(path); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return err
}
