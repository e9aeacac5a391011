package cloudtest

import (
	"context"
	"fmt"
	"slices"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// EnsureServer makes a server.
func (d *Double) EnsureServer(ctx context.Context, s cloud.ServerSpec) (*cloud.Server, error) {
	d.mu.Lock()
	defer d.unlock()
	find := func() []string {
		return matching(d.servers, func(r *doubleServer) bool { return r.spec.GuestID == s.GuestID && r.spec.Name == s.Name })
	}
	remove := func(ctx context.Context, id string) error {
		if v := d.servers[id].spec.VolumeID; v != "" && s.VolumeID == v { // before its server goes, for the one kept
			defer func() { _ = d.attach(v, keptOf(find(), id)) }()
		}
		return d.deleteServer(ctx, id)
	}
	id, err := d.ensure(ctx, "server", s.RecordedID, find, remove, func() error { return d.createServer(s) })
	if err != nil {
		return nil, err
	}
	view := d.servers[id].Server
	return &view, nil
}

// keptOf gives an id that is not the one removed.
func keptOf(ids []string, removed string) string {
	for _, id := range ids {
		if id != removed {
			return id
		}
	}
	return ""
}

func (d *Double) createServer(s cloud.ServerSpec) error {
	if !d.hasFlavor(s.FlavorID) {
		return dbaas.Errorf(dbaas.BadRequest, "There is no flavor %q.", s.FlavorID)
	}
	if s.Zone != "" && !slices.Contains(d.Offers.Zones, s.Zone) {
		return dbaas.Errorf(dbaas.BadRequest, "There is no availability zone %q.", s.Zone)
	}
	if d.ports[s.PortID] == nil {
		return dbaas.Errorf(dbaas.BadRequest, "There is no port %q.", s.PortID)
	}
	v := d.volumes[s.VolumeID]
	switch {
	case s.VolumeID != "" && v == nil:
		return dbaas.Errorf(dbaas.BadRequest, "There is no volume %q.", s.VolumeID)
	case v != nil && v.ServerID != "" && d.servers[v.ServerID] != nil && d.servers[v.ServerID].spec.GuestID != s.GuestID:
		return dbaas.Errorf(dbaas.BadRequest, "Volume %s is attached to server %s.", v.ID, v.ServerID)
	}
	id := d.nextID()
	r := &doubleServer{Server: cloud.Server{ID: id, Name: s.Name, Status: cloud.ServerActive, FlavorID: s.FlavorID}, spec: s}
	d.servers[id] = r
	if v != nil && v.ServerID == "" {
		v.ServerID, v.Status = id, cloud.VolumeInUse
	}
	d.play("create_server", r)
	d.power(r, true)
	return nil
}

func (d *Double) hasFlavor(id string) bool {
	return slices.ContainsFunc(d.Offers.Flavors, func(f dbaas.Flavor) bool { return f.ID == id })
}

// play gives a server the script that was set for a call.
func (d *Double) play(call string, s *doubleServer) {
	s.script = d.scripts[call]
	delete(d.scripts, call)
}

// Server finds a server.
func (d *Double) Server(ctx context.Context, id string) (*cloud.Server, error) {
	d.mu.Lock()
	defer d.unlock()
	var view cloud.Server
	err := d.wire(ctx, "show_server", func() (bool, error) {
		s, ok := d.servers[id]
		if !ok {
			return false, noServer(id)
		}
		view = s.Server
		if len(s.script) > 0 {
			view.Status, s.script = s.script[0], s.script[1:]
			if view.Status == cloud.ServerError && len(s.script) == 0 {
				view.Fault = "as scripted"
				s.Status, s.Fault = view.Status, view.Fault
				d.power(s, false)
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	return &view, nil
}

func noServer(id string) error { return dbaas.Errorf(dbaas.NotFound, "Server %s cannot be found.", id) }

// command makes a wire call on a server that is there.
func (d *Double) command(ctx context.Context, call, id string, effect func(s *doubleServer) (bool, error)) error {
	d.mu.Lock()
	defer d.unlock()
	return d.wire(ctx, call, func() (bool, error) {
		s, ok := d.servers[id]
		if !ok {
			return false, noServer(id)
		}
		changed, err := effect(s)
		if changed && err == nil {
			d.play(call, s)
		}
		return changed, err
	})
}

// ResizeServer gives a server another flavor, to be confirmed.
func (d *Double) ResizeServer(ctx context.Context, id, flavorID string) error {
	if !d.hasFlavor(flavorID) {
		return dbaas.Errorf(dbaas.BadRequest, "There is no flavor %q.", flavorID)
	}
	return d.command(ctx, "resize_server", id, func(s *doubleServer) (bool, error) {
		switch {
		case s.FlavorID == flavorID:
			return false, nil
		case s.Status == cloud.ServerVerifyResize:
			return false, fmt.Errorf("server %s: a resize waits for its confirmation", id)
		}
		d.cycle(s)
		s.old, s.FlavorID, s.spec.FlavorID, s.Status = s.FlavorID, flavorID, flavorID, cloud.ServerVerifyResize
		return true, nil
	})
}

// cycle notes that a server that runs goes down and comes up.
func (d *Double) cycle(s *doubleServer) {
	if s.running {
		d.power(s, false)
		d.power(s, true)
	}
}

// settle gives the status of a server to which nothing is being done.
func (s *doubleServer) settle() {
	s.Status = cloud.ServerShutoff
	if s.running {
		s.Status = cloud.ServerActive
	}
}

// ConfirmResize makes a resize final.
func (d *Double) ConfirmResize(ctx context.Context, id string) error {
	return d.command(ctx, "confirm_resize", id, func(s *doubleServer) (bool, error) {
		if s.Status != cloud.ServerVerifyResize {
			return false, nil
		}
		s.old = ""
		s.settle()
		return true, nil
	})
}

// RevertResize undoes a resize that is not confirmed.
func (d *Double) RevertResize(ctx context.Context, id string) error {
	return d.command(ctx, "revert_resize", id, func(s *doubleServer) (bool, error) {
		if s.Status != cloud.ServerVerifyResize {
			return false, nil
		}
		s.FlavorID, s.spec.FlavorID, s.old = s.old, s.old, ""
		d.cycle(s)
		s.settle()
		return true, nil
	})
}

// RebootServer reboots a server.
func (d *Double) RebootServer(ctx context.Context, id string) error {
	return d.command(ctx, "reboot_server", id, func(s *doubleServer) (bool, error) {
		d.power(s, false)
		d.power(s, true)
		s.settle()
		return true, nil
	})
}

// StopServer stops a server.
func (d *Double) StopServer(ctx context.Context, id string) error {
	return d.command(ctx, "stop_server", id, func(s *doubleServer) (bool, error) {
		changed := s.running
		d.power(s, false)
		s.settle()
		return changed, nil
	})
}

// PowerOffServer cuts a server's power.
func (d *Double) PowerOffServer(ctx context.Context, id string) error {
	return d.command(ctx, "power_off_server", id, func(s *doubleServer) (bool, error) {
		changed := s.running || s.Status != cloud.ServerShutoff
		d.power(s, false)
		s.old = ""
		s.settle()
		return changed, nil
	})
}

// StartServer starts a server.
func (d *Double) StartServer(ctx context.Context, id string) error {
	return d.command(ctx, "start_server", id, func(s *doubleServer) (bool, error) {
		changed := !s.running
		d.power(s, true)
		if s.Status != cloud.ServerVerifyResize {
			s.settle()
			s.Fault = ""
		}
		return changed, nil
	})
}

// RebuildServer makes a server's disk anew.
func (d *Double) RebuildServer(ctx context.Context, id string, spec cloud.ServerSpec) error {
	return d.command(ctx, "rebuild_server", id, func(s *doubleServer) (bool, error) {
		d.power(s, false)
		s.spec.UserData, s.spec.Image, s.spec.Metadata = spec.UserData, spec.Image, spec.Metadata
		d.power(s, true)
		s.settle()
		s.Fault = ""
		return true, nil
	})
}

// DeleteServer deletes a server; its volume stays.
func (d *Double) DeleteServer(ctx context.Context, id string) error {
	d.mu.Lock()
	defer d.unlock()
	return d.deleteServer(ctx, id)
}

func (d *Double) deleteServer(ctx context.Context, id string) error {
	return d.wire(ctx, "delete_server", func() (bool, error) {
		s, ok := d.servers[id]
		if !ok {
			return false, nil
		}
		d.power(s, false)
		delete(d.servers, id)
		for _, v := range d.volumes {
			if v.ServerID == id {
				v.ServerID, v.Status = "", cloud.VolumeAvailable
			}
		}
		return true, nil
	})
}

// EnsureVolume makes a volume.
func (d *Double) EnsureVolume(ctx context.Context, s cloud.VolumeSpec) (*cloud.Volume, error) {
	known := func(t dbaas.VolumeType) bool { return s.Type == t.ID || s.Type == t.Name }
	if s.SizeGB < 1 || s.Type != "" && !slices.ContainsFunc(d.Offers.VolumeTypes, known) {
		return nil, dbaas.Errorf(dbaas.BadRequest, "There is no volume of %d GB and type %q.", s.SizeGB, s.Type)
	}
	d.mu.Lock()
	defer d.unlock()
	find := func() []string {
		return matching(d.volumes, func(v *doubleVolume) bool { return v.spec.GuestID == s.GuestID && v.spec.Name == s.Name })
	}
	id, err := d.ensure(ctx, "volume", s.RecordedID, find, d.deleteVolume, func() error {
		id := d.nextID()
		d.volumes[id] = &doubleVolume{Volume: cloud.Volume{ID: id, Status: cloud.VolumeAvailable, SizeGB: s.SizeGB}, spec: s}
		return nil
	})
	if err != nil {
		return nil, err
	}
	v := d.volumes[id].Volume
	return &v, nil
}

func noVolume(id string) error { return dbaas.Errorf(dbaas.NotFound, "Volume %s cannot be found.", id) }

// Volume finds a volume.
func (d *Double) Volume(ctx context.Context, id string) (*cloud.Volume, error) {
	d.mu.Lock()
	defer d.unlock()
	var view cloud.Volume
	err := d.wire(ctx, "show_volume", func() (bool, error) {
		v, ok := d.volumes[id]
		if !ok {
			return false, noVolume(id)
		}
		view = v.Volume
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	return &view, nil
}

// ExtendVolume grows a volume.
func (d *Double) ExtendVolume(ctx context.Context, id string, sizeGB int) error {
	d.mu.Lock()
	defer d.unlock()
	return d.wire(ctx, "extend_volume", func() (bool, error) {
		v, ok := d.volumes[id]
		switch {
		case !ok:
			return false, noVolume(id)
		case sizeGB < v.SizeGB:
			return false, dbaas.Errorf(dbaas.BadRequest, "Volume %s has %d GB and cannot shrink to %d GB.", id, v.SizeGB, sizeGB)
		}
		changed := v.SizeGB != sizeGB
		v.SizeGB = sizeGB
		return changed, nil
	})
}

// AttachVolume attaches a volume to a server.
func (d *Double) AttachVolume(ctx context.Context, id, serverID string) error {
	d.mu.Lock()
	defer d.unlock()
	return d.wire(ctx, "attach_volume", func() (bool, error) {
		before := ""
		if v := d.volumes[id]; v != nil {
			before = v.ServerID
		}
		return before != serverID, d.attach(id, serverID)
	})
}

func (d *Double) attach(id, serverID string) error {
	v, s := d.volumes[id], d.servers[serverID]
	switch {
	case v == nil:
		return noVolume(id)
	case s == nil:
		return noServer(serverID)
	case v.ServerID == serverID:
		return nil
	case v.ServerID != "":
		return dbaas.Errorf(dbaas.BadRequest, "Volume %s is attached to server %s.", id, v.ServerID)
	}
	v.ServerID, v.Status = serverID, cloud.VolumeInUse
	s.spec.VolumeID = id
	return nil
}

// DetachVolume detaches a volume from a server.
func (d *Double) DetachVolume(ctx context.Context, id, serverID string) error {
	d.mu.Lock()
	defer d.unlock()
	return d.wire(ctx, "detach_volume", func() (bool, error) {
		v, ok := d.volumes[id]
		if !ok || v.ServerID != serverID {
			return false, nil
		}
		v.ServerID, v.Status = "", cloud.VolumeAvailable
		if s := d.servers[serverID]; s != nil {
			s.spec.VolumeID = ""
		}
		return true, nil
	})
}

// DeleteVolume deletes a volume that is not attached.
func (d *Double) DeleteVolume(ctx context.Context, id string) error {
	d.mu.Lock()
	defer d.unlock()
	return d.deleteVolume(ctx, id)
}

func (d *Double) deleteVolume(ctx context.Context, id string) error {
	return d.wire(ctx, "delete_volume", func() (bool, error) {
		if v := d.volumes[id]; v != nil && v.ServerID != "" {
			return false, fmt.Errorf("volume %s is attached to server %s", id, v.ServerID)
		}
		return drop(d.volumes, id), nil
	})
}
