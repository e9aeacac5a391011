package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// volume is the record of a volume.
type volume struct {
	GuestID  string `json:"guest_id"`
	Name     string `json:"name"`
	SizeGB   int    `json:"size_gb"`
	Type     string `json:"type,omitempty"`
	Zone     string `json:"zone,omitempty"`
	Loop     bool   `json:"loop"`               // a loop file, else a directory
	Ready    bool   `json:"ready"`              // its content was made; should that be missing, it is lost, and must not be made anew
	Deleting bool   `json:"deleting,omitempty"` // its content may be gone already
	ServerID string `json:"server_id,omitempty"`
	Born     int64  `json:"born"`
}

func (v volume) tag() (string, string) { return v.GuestID, v.Name }
func (v volume) born() int64           { return v.Born }
func (v volume) bytes() int64          { return int64(v.SizeGB) << 30 }

// view is the volume as the seam shows it.
func (c *Cloud) volumeView(id string) *cloud.Volume {
	v := c.volumes.rows[id]
	view := &cloud.Volume{ID: id, Status: cloud.VolumeAvailable, SizeGB: v.SizeGB, ServerID: v.ServerID}
	switch {
	case !v.Ready:
		view.Status = cloud.VolumeCreating
	case !exists(c.contentPath(id, v)):
		view.Status, view.Fault = cloud.VolumeError, c.contentPath(id, v)+" is gone"
	case v.ServerID != "":
		view.Status = cloud.VolumeInUse
	}
	return view
}

// contentPath is where a volume's content is now.
func (c *Cloud) contentPath(id string, v volume) string {
	if v.Loop {
		return c.imagePath(id, v)
	}
	if path := c.directoryPath(id, v); v.ServerID == "" || exists(path) {
		return path
	}
	return c.dataDir(v.ServerID)
}

// The names in a server's directory that have to do with volumes.
const (
	dataName     = "data"      // where the volume is mounted, or the directory that it is while it is attached
	deviceName   = "device"    // link to the loop device
	sizeName     = "data.size" // size of an attached directory
	volumePrefix = "volume-"   // + id: a directory that is not attached; + id + imageSuffix: a loop file
	imageSuffix  = ".img"
)

func (c *Cloud) imagePath(id string, v volume) string {
	return filepath.Join(c.serverDir(v.GuestID), volumePrefix+id+imageSuffix)
}

func (c *Cloud) directoryPath(id string, v volume) string {
	return filepath.Join(c.serverDir(v.GuestID), volumePrefix+id)
}

// EnsureVolume makes a volume.
func (c *Cloud) EnsureVolume(_ context.Context, s cloud.VolumeSpec) (*cloud.Volume, error) {
	if err := c.checkVolume(s); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, err := c.ensureVolumeRow(s)
	if err != nil {
		return nil, err
	}
	if err := c.makeVolume(id); err != nil {
		return nil, err
	}
	return c.volumeView(id), nil
}

func (c *Cloud) checkVolume(s cloud.VolumeSpec) error {
	if err := checkTag(s.GuestID, s.Name); err != nil {
		return err
	}
	if s.SizeGB < 1 {
		return dbaas.Errorf(dbaas.BadRequest, "A volume has a size of at least 1 GB, not %d.", s.SizeGB)
	}
	if err := c.cfg.checkVolumeType(s.Type); err != nil {
		return err
	}
	return c.cfg.checkZone(s.Zone)
}

// ensureVolumeRow finds or makes the record, and removes surplus volumes.
func (c *Cloud) ensureVolumeRow(s cloud.VolumeSpec) (string, error) {
	if err := c.finishDeletes(); err != nil {
		return "", err
	}
	ids := find(c.volumes, s.GuestID, s.Name, s.RecordedID)
	if len(ids) > 0 {
		for _, id := range ids[1:] {
			if c.volumes.rows[id].ServerID != "" {
				continue // in use: not ours to end
			}
			if err := c.removeVolume(id, c.volumes.rows[id]); err != nil {
				return "", err
			}
		}
		return ids[0], nil
	}
	id, err := newID()
	if err != nil {
		return "", err
	}
	return id, c.volumes.put(id, volume{GuestID: s.GuestID, Name: s.Name, SizeGB: s.SizeGB, Type: s.Type, Zone: s.Zone, Loop: c.loops, Born: c.now()})
}

// makeVolume makes the content of a new volume.
func (c *Cloud) makeVolume(id string) error {
	v := c.volumes.rows[id]
	if v.Ready {
		return nil
	}
	err := os.MkdirAll(c.serverDir(v.GuestID), 0o700)
	if err == nil && v.Loop {
		err = makeSparse(c.imagePath(id, v), v.bytes())
	} else if err == nil {
		err = os.MkdirAll(c.directoryPath(id, v), 0o700)
	}
	if err != nil {
		return fmt.Errorf("make volume %s: %w", id, err)
	}
	v.Ready = true
	return c.volumes.put(id, v)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// dataDir is the data directory of a server.
func (c *Cloud) dataDir(serverID string) string {
	return filepath.Join(c.serverDir(c.servers.rows[serverID].GuestID), dataName)
}

// Volume finds a volume.
func (c *Cloud) Volume(_ context.Context, id string) (*cloud.Volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.volumes.rows[id]; !ok || v.Deleting {
		return nil, noVolume(id)
	}
	return c.volumeView(id), nil
}

func noVolume(id string) error { return dbaas.Errorf(dbaas.NotFound, "Volume %s cannot be found.", id) }

// ExtendVolume grows a volume.
func (c *Cloud) ExtendVolume(_ context.Context, id string, sizeGB int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.volumes.rows[id]
	switch {
	case !ok:
		return noVolume(id)
	case sizeGB < v.SizeGB:
		return dbaas.Errorf(dbaas.BadRequest, "Volume %s has %d GB already and cannot shrink to %d GB.", id, v.SizeGB, sizeGB)
	}
	v.SizeGB = sizeGB
	if err := c.resize(id, v); err != nil {
		return fmt.Errorf("extend volume %s: %w", id, err)
	}
	return c.volumes.put(id, v)
}

// resize makes a volume as large as its record says.
func (c *Cloud) resize(id string, v volume) error {
	if !v.Loop {
		if v.ServerID == "" || !exists(c.sizePath(v.ServerID)) {
			return nil
		}
		return c.writeSize(v)
	}
	file := c.imagePath(id, v)
	if err := makeSparse(file, v.bytes()); err != nil {
		return err
	}
	device, err := findLoop(file)
	if err != nil || device == "" {
		return err
	}
	return refreshLoop(device)
}

func (c *Cloud) sizePath(serverID string) string {
	return filepath.Join(c.serverDir(c.servers.rows[serverID].GuestID), sizeName)
}

func (c *Cloud) writeSize(v volume) error {
	return host.WriteFile(c.sizePath(v.ServerID), []byte(strconv.FormatInt(v.bytes(), 10)), 0o600, nil)
}

// AttachVolume attaches a volume to a server.
func (c *Cloud) AttachVolume(_ context.Context, id, serverID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.volumes.rows[id]
	if !ok {
		return noVolume(id)
	}
	s, ok := c.servers.rows[serverID]
	if !ok {
		return noServer(serverID)
	}
	if err := c.attach(id, v, serverID); err != nil {
		return err
	}
	if !s.On {
		return nil
	}
	return c.plug(id, c.volumes.rows[id])
}

// attach records that a volume belongs to a server, which has at most one.
func (c *Cloud) attach(id string, v volume, serverID string) error {
	if v.ServerID == serverID {
		return nil
	}
	if v.ServerID != "" {
		return dbaas.Errorf(dbaas.BadRequest, "Volume %s is attached to server %s.", id, v.ServerID)
	}
	if other := c.attached(serverID); other != "" {
		return dbaas.Errorf(dbaas.BadRequest, "Server %s has volume %s already.", serverID, other)
	}
	v.ServerID = serverID
	return c.volumes.put(id, v)
}

// attached gives the volume of a server, "" when it has none.
func (c *Cloud) attached(serverID string) string {
	for id, v := range c.volumes.rows {
		if v.ServerID == serverID {
			return id
		}
	}
	return ""
}

// plug makes an attached volume visible in its server: as a device, or as the data directory.
func (c *Cloud) plug(id string, v volume) error {
	dir := c.serverDir(c.servers.rows[v.ServerID].GuestID)
	if path := c.contentPath(id, v); !exists(path) {
		return fmt.Errorf("attach volume %s: %s is gone", id, path)
	}
	if !v.Loop {
		data := filepath.Join(dir, dataName)
		if from := c.directoryPath(id, v); exists(from) {
			if err := os.Rename(from, data); err != nil {
				return fmt.Errorf("attach volume %s: %w", id, err)
			}
		}
		return c.writeSize(v)
	}
	device, err := attachLoop(c.imagePath(id, v))
	if err != nil {
		return err
	}
	return link(device, filepath.Join(dir, deviceName))
}

// link makes a symbolic link, in place of the one that is there.
func link(target, path string) error {
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// unplug takes a volume out of its server, in which nothing runs any more that may hold it.
func (c *Cloud) unplug(ctx context.Context, id string, v volume, dir string) error {
	if !v.Loop {
		if err := os.Remove(filepath.Join(dir, sizeName)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("detach volume %s: %w", id, err)
		}
		err := os.Rename(filepath.Join(dir, dataName), c.directoryPath(id, v))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("detach volume %s: %w", id, err)
		}
		return nil
	}
	if err := (host.BlockVolume{MountPoint: filepath.Join(dir, dataName)}).Unmount(ctx); err != nil {
		return fmt.Errorf("detach volume %s: %w", id, err)
	}
	if err := detachLoops(c.imagePath(id, v)); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, deviceName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("detach volume %s: %w", id, err)
	}
	return nil
}

// DetachVolume detaches a volume from a server. While the server has it mounted that fails, and is worth a retry.
func (c *Cloud) DetachVolume(ctx context.Context, id, serverID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.volumes.rows[id]
	if !ok || v.ServerID != serverID {
		return nil
	}
	if s, ok := c.servers.rows[serverID]; ok {
		if err := c.unplug(ctx, id, v, c.serverDir(s.GuestID)); err != nil {
			return err
		}
	}
	v.ServerID = ""
	return c.volumes.put(id, v)
}

// DeleteVolume deletes a volume. One that is attached is refused, which is worth a retry: its server may be going.
func (c *Cloud) DeleteVolume(_ context.Context, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.volumes.rows[id]
	if !ok {
		return c.removeStrayVolume(id)
	}
	if _, ok := c.servers.rows[v.ServerID]; ok {
		return fmt.Errorf("delete volume %s: it is attached to server %s", id, v.ServerID)
	}
	return c.removeVolume(id, v)
}

// finishDeletes goes on with deletes that were cut off.
func (c *Cloud) finishDeletes() error {
	for id, v := range c.volumes.rows {
		if v.Deleting {
			if err := c.removeVolume(id, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeVolume removes a volume's content, then its record.
func (c *Cloud) removeVolume(id string, v volume) error {
	if !v.Deleting {
		v.Deleting = true
		if err := c.volumes.put(id, v); err != nil {
			return err
		}
	}
	if err := c.removeContent(c.imagePath(id, v)); err != nil {
		return err
	}
	if err := c.removeContent(c.directoryPath(id, v)); err != nil {
		return err
	}
	return c.volumes.remove(id)
}

func (c *Cloud) removeContent(path string) error {
	if err := detachLoops(path); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("delete volume: %w", err)
	}
	return removeEmpty(filepath.Dir(path))
}

// removeStrayVolume removes what has the id of a volume, but no record.
func (c *Cloud) removeStrayVolume(id string) error {
	if id == "" || id != filepath.Base(id) || strings.ContainsAny(id, `*?[\`) {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join(c.cfg.Dir, "servers", "*", volumePrefix+id+"*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := c.removeContent(path); err != nil {
			return err
		}
	}
	return nil
}

// removeEmpty removes a directory unless something is in it.
func removeEmpty(dir string) error {
	err := os.Remove(dir)
	if err == nil || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return fmt.Errorf("remove directory: %w", err)
}
