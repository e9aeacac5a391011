package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// AttachedVolume is a block volume of a cloud, known by the cloud's id of it. Which device that is the machine finds out by
// itself each time: the name that was asked for is not what one gets, and changes from boot to boot.
type AttachedVolume struct {
	ID         string
	MountPoint string

	sys, dev string // "": the machine's own
}

var _ Volume = AttachedVolume{}

// disk is a block device as the kernel tells of it.
type disk struct {
	path   string
	number string // major:minor
	serial string // "" where the hypervisor tells none
}

// notDisks begin the names of block devices that no volume of a cloud is.
var notDisks = regexp.MustCompile(`^(loop|ram|zram|sr|fd|dm-|md|nbd)`)

// ofVolume is what a hypervisor's serial number looks like that is the id of a cloud's volume, or its beginning.
var ofVolume = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-`)

// disks lists the machine's whole disks that may be written to and carry no partitions.
func (v AttachedVolume) disks() ([]disk, error) {
	sys, dev := v.sys, v.dev
	if sys == "" {
		sys, dev = "/sys/block", "/dev"
	}
	entries, err := os.ReadDir(sys)
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	root, err := MountedAt("/")
	if err != nil {
		return nil, err
	}
	var disks []disk
	for _, e := range entries {
		at := filepath.Join(sys, e.Name())
		d := disk{path: filepath.Join(dev, e.Name()), number: word(at, "dev"), serial: serialOf(at)}
		partitions, err := filepath.Glob(filepath.Join(at, "*", "partition"))
		if err != nil {
			return nil, err
		}
		if notDisks.MatchString(e.Name()) || len(partitions) > 0 || word(at, "ro") == "1" || word(at, "size") == "0" || d.number == root {
			continue
		}
		disks = append(disks, d)
	}
	return disks, nil
}

// word reads a file of one word, "" when it is not there.
func word(elements ...string) string {
	b, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// serialOf gives a disk's serial number: virtio's, NVMe's, or the page that SCSI has for it.
func serialOf(at string) string {
	for _, path := range []string{"serial", "device/serial"} {
		if serial := word(at, path); serial != "" {
			return serial
		}
	}
	const header = 4
	page := word(at, "device/vpd_pg80")
	if len(page) <= header {
		return ""
	}
	return strings.Trim(page[header:], " \x00")
}

// is tells whether the disk says that it is the volume. virtio has room for the first 20 characters of its id.
func (d disk) is(id string) bool {
	const enough = 16
	return len(d.serial) >= enough && strings.HasPrefix(id, d.serial)
}

// block finds the volume's device: the disk whose serial number says so, and where none does, the only one that may be it.
func (v AttachedVolume) block(ctx context.Context) (BlockVolume, error) {
	disks, err := v.disks()
	if err != nil {
		return BlockVolume{}, err
	}
	if i := slices.IndexFunc(disks, func(d disk) bool { return d.is(v.ID) }); i >= 0 {
		return BlockVolume{Device: disks[i].path, MountPoint: v.MountPoint}, nil
	}
	disks = slices.DeleteFunc(disks, func(d disk) bool { return ofVolume.MatchString(d.serial) }) // another volume
	mounted, err := MountedAt(v.MountPoint)
	if err != nil {
		return BlockVolume{}, err
	}
	var found []string
	for _, d := range disks {
		if mounted != "" && d.number == mounted {
			return BlockVolume{Device: d.path, MountPoint: v.MountPoint}, nil
		}
		content, err := probe(ctx, d.path)
		if err != nil {
			return BlockVolume{}, err
		}
		if content == contentBlank || content == contentExt4 {
			found = append(found, d.path)
		}
	}
	switch len(found) {
	case 1:
		return BlockVolume{Device: found[0], MountPoint: v.MountPoint}, nil
	case 0:
		return BlockVolume{}, fmt.Errorf("volume %s is not attached to this machine", v.ID)
	}
	return BlockVolume{}, fmt.Errorf("no disk has the serial number of volume %s, and each of %s may be it", v.ID, strings.Join(found, ", "))
}

// EnsureMounted implements [Volume].
func (v AttachedVolume) EnsureMounted(ctx context.Context) error {
	b, err := v.block(ctx)
	if err != nil {
		return err
	}
	return b.EnsureMounted(ctx)
}

// Mounted implements [Volume]. One that is not attached is not mounted.
func (v AttachedVolume) Mounted(ctx context.Context) (bool, error) {
	b, err := v.block(ctx)
	if err != nil {
		if device, none := MountedAt(v.MountPoint); none == nil && device == "" {
			return false, nil
		}
		return false, err
	}
	return b.Mounted(ctx)
}

// Grow implements [Volume].
func (v AttachedVolume) Grow(ctx context.Context) error {
	b, err := v.block(ctx)
	if err != nil {
		return err
	}
	return b.Grow(ctx)
}

// Usage implements [Volume].
func (v AttachedVolume) Usage(ctx context.Context) (used, total int64, err error) {
	b, err := v.block(ctx)
	if err != nil {
		return 0, 0, err
	}
	return b.Usage(ctx)
}
