package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrVolumeBusy is the answer of Grow when this machine can't grow a filesystem that is in use: stop the database and
// call Grow again.
var ErrVolumeBusy = errors.New("this machine grows a filesystem only while nothing uses it")

// BlockVolume is a volume on a block device, with an ext4 filesystem of our making.
type BlockVolume struct {
	Device     string // or a link to it
	MountPoint string
}

var _ Volume = BlockVolume{}

// mountFlags: nothing on a data volume is a program or a device.
const mountFlags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC

// EnsureMounted formats the device when it is blank, and mounts it. A device that holds anything but a filesystem that
// can be mounted is left as it is, and is an error.
func (v BlockVolume) EnsureMounted(ctx context.Context) error {
	if ok, err := v.Mounted(ctx); err != nil || ok {
		return err
	}
	if err := v.ensureFormatted(ctx); err != nil {
		return err
	}
	if err := v.mount(); err != nil {
		return err
	}
	return v.forgetFormatting()
}

func (v BlockVolume) mount() error {
	if err := os.MkdirAll(v.MountPoint, 0o700); err != nil {
		return fmt.Errorf("mount %s: %w", v.Device, err)
	}
	device, err := filepath.EvalSymlinks(v.Device)
	if err != nil {
		return fmt.Errorf("mount %s: %w", v.Device, err)
	}
	if err := unix.Mount(device, v.MountPoint, "ext4", mountFlags, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", v.Device, v.MountPoint, err)
	}
	if err := os.Chmod(v.MountPoint, 0o700); err != nil {
		return fmt.Errorf("mount %s: %w", v.Device, err)
	}
	return nil
}

// Unmount unmounts the volume; one that is not mounted is success.
func (v BlockVolume) Unmount(ctx context.Context) error {
	for {
		device, err := MountedAt(v.MountPoint)
		if err != nil || device == "" {
			return err
		}
		if err := unix.Unmount(v.MountPoint, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", v.MountPoint, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// Mounted tells whether this very device is mounted where it should be. Another one in its place is an error.
func (v BlockVolume) Mounted(context.Context) (bool, error) {
	got, err := MountedAt(v.MountPoint)
	if err != nil || got == "" {
		return false, err
	}
	want, err := deviceNumber(v.Device)
	if err != nil {
		return false, err
	}
	if got != want {
		return false, fmt.Errorf("on %s device %s is mounted, not %s (%s)", v.MountPoint, got, v.Device, want)
	}
	return true, nil
}

// formattingPath names the note that formatting began: it lies beside the mount point, off the volume.
func (v BlockVolume) formattingPath() string { return v.MountPoint + ".formatting" }

func (v BlockVolume) forgetFormatting() error {
	if err := os.Remove(v.formattingPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// ensureFormatted formats a blank device. One that holds half of a format that we began, and nothing else that anybody
// knows, is blank too.
func (v BlockVolume) ensureFormatted(ctx context.Context) error {
	content, err := probe(ctx, v.Device)
	if err != nil {
		return err
	}
	switch {
	case content == contentExt4:
		return nil
	case content == contentBlank:
	case content == contentUnknown && v.formattingBegan():
	default:
		return fmt.Errorf("device %s holds %s: it is neither blank nor a volume of ours, and is left as it is", v.Device, content)
	}
	if err := os.MkdirAll(filepath.Dir(v.MountPoint), 0o700); err != nil {
		return fmt.Errorf("format %s: %w", v.Device, err)
	}
	if err := WriteFile(v.formattingPath(), []byte(v.resolved()), 0o600, nil); err != nil {
		return err
	}
	_, err = Run(ctx, "mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", v.Device)
	return err
}

func (v BlockVolume) formattingBegan() bool {
	_, err := os.Stat(v.formattingPath())
	return err == nil
}

func (v BlockVolume) resolved() string {
	if path, err := filepath.EvalSymlinks(v.Device); err == nil {
		return path
	}
	return v.Device
}

// What a device may hold; other words are blkid's names of what it found.
const (
	contentBlank   = "nothing"
	contentExt4    = "ext4"
	contentUnknown = "data of no known kind"
)

// probeBytes is how much of either end of a device must be zero for it to be blank: every filesystem, partition table
// and volume manager has something there.
const probeBytes = 1 << 20

// probe looks what a device holds. Both its own look and blkid's must find nothing for it to be blank.
func probe(ctx context.Context, device string) (string, error) {
	sb, err := readSuperblock(device)
	if err != nil {
		return "", err
	}
	if sb.valid() {
		return contentExt4, nil
	}
	kind, err := blkid(ctx, device)
	if err != nil || kind != "" {
		return kind, err
	}
	zero, err := zeroEnds(device)
	if err != nil {
		return "", err
	}
	if zero {
		return contentBlank, nil
	}
	return contentUnknown, nil
}

// blkid names what it knows on a device, "" when it finds nothing.
func blkid(ctx context.Context, device string) (string, error) {
	out, err := Run(ctx, "blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE", device)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "what blkid calls " + strconv.Quote(strings.TrimSpace(out)), nil
	case errors.As(err, &exit) && exit.ExitCode() == 2: // nothing found
		return "", nil
	case errors.As(err, &exit) && exit.ExitCode() == 8:
		return "several things at once, as blkid says", nil
	default:
		return "", fmt.Errorf("probe %s: %w", device, err)
	}
}

func zeroEnds(device string) (bool, error) {
	f, err := os.Open(device)
	if err != nil {
		return false, fmt.Errorf("probe device: %w", err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, fmt.Errorf("probe %s: %w", device, err)
	}
	n := min(int64(probeBytes), size)
	buf := make([]byte, n)
	for _, at := range []int64{0, size - n} {
		if _, err := f.ReadAt(buf, at); err != nil && !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("probe %s: %w", device, err)
		}
		for _, b := range buf {
			if b != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

// superblock is what we read of ext4's.
type superblock struct {
	magic     uint16
	blocks    int64
	blockSize int64
}

func (s superblock) valid() bool { return s.magic == 0xEF53 && s.blocks > 0 }

func readSuperblock(device string) (superblock, error) {
	f, err := os.Open(device)
	if err != nil {
		return superblock{}, fmt.Errorf("read superblock: %w", err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 1024)
	if _, err := f.ReadAt(b, 1024); err != nil {
		return superblock{}, fmt.Errorf("read superblock of %s: %w", device, err)
	}
	le := binary.LittleEndian
	s := superblock{magic: le.Uint16(b[0x38:])}
	if shift := le.Uint32(b[0x18:]); shift < 7 {
		s.blockSize = 1024 << shift
		s.blocks = int64(le.Uint32(b[0x04:])) | int64(le.Uint32(b[0x150:]))<<32
	}
	return s, nil
}

// Grow makes the filesystem as large as the device; one that is so already is success. Where the machine can't do that
// under a running database it answers ErrVolumeBusy.
func (v BlockVolume) Grow(ctx context.Context) error {
	mounted, err := v.Mounted(ctx)
	if err != nil {
		return err
	}
	if !mounted {
		return fmt.Errorf("grow %s: it is not mounted on %s", v.Device, v.MountPoint)
	}
	if full, err := v.fillsDevice(); err != nil || full {
		return err
	}
	if _, err := Run(ctx, "resize2fs", v.Device); err == nil || ctx.Err() != nil || growsMounted() {
		return err
	}
	return v.growUnmounted(ctx)
}

// growsMounted tells whether the kernel lets us grow a mounted filesystem: it asks for CAP_SYS_RESOURCE, which some
// containers withhold even from root.
func growsMounted() bool {
	var caps [2]unix.CapUserData
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&h, &caps[0]); err != nil {
		return false
	}
	return caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func (v BlockVolume) growUnmounted(ctx context.Context) error {
	if err := v.Unmount(ctx); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("grow %s: %w", v.Device, ErrVolumeBusy)
		}
		return err
	}
	_, err := Run(ctx, "e2fsck", "-f", "-p", v.Device) // resize2fs insists
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 { // mended, and well now
		err = nil
	}
	if err == nil {
		_, err = Run(ctx, "resize2fs", v.Device)
	}
	return errors.Join(err, v.mount())
}

// fillsDevice tells whether the filesystem is as large as the device, but for what is less than a block group's
// overhead.
func (v BlockVolume) fillsDevice() (bool, error) {
	sb, err := readSuperblock(v.Device)
	if err != nil {
		return false, err
	}
	f, err := os.Open(v.Device)
	if err != nil {
		return false, fmt.Errorf("measure device: %w", err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, fmt.Errorf("measure device: %w", err)
	}
	return sb.valid() && sb.blocks*sb.blockSize+sb.blockSize > size, nil
}

// Usage gives used and total bytes, as they are for the database: what it can't have does not count.
func (v BlockVolume) Usage(ctx context.Context) (used, total int64, err error) {
	mounted, err := v.Mounted(ctx)
	if err != nil {
		return 0, 0, err
	}
	if !mounted {
		return 0, 0, fmt.Errorf("nothing is mounted on %s", v.MountPoint)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(v.MountPoint, &st); err != nil {
		return 0, 0, fmt.Errorf("measure %s: %w", v.MountPoint, err)
	}
	used = int64(st.Blocks-st.Bfree) * st.Bsize
	return used, used + int64(st.Bavail)*st.Bsize, nil
}
