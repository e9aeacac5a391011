package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/grove-dbaas/grove/internal/host"
)

// attachLoop gives the loop device of a file, a new one when it has none.
func attachLoop(file string) (string, error) {
	for range 64 { // between our asking for a free device and our taking it another may take it
		if device, err := findLoop(file); err != nil || device != "" {
			return device, err
		}
		device, err := takeLoop(file)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return device, err
		}
	}
	return "", fmt.Errorf("attach %s: every free loop device was taken by others", file)
}

func takeLoop(file string) (string, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("attach %s: %w", file, err)
	}
	defer func() { _ = ctl.Close() }()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("attach %s: find a free loop device: %w", file, err)
	}
	device := fmt.Sprintf("/dev/loop%d", n)
	if _, err := os.Stat(device); errors.Is(err, os.ErrNotExist) { // a /dev that nobody fills, as in containers
		if err := unix.Mknod(device, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) {
			return "", fmt.Errorf("attach %s: %w", file, err)
		}
	}
	return device, configureLoop(device, file)
}

func configureLoop(device, file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("attach %s: %w", file, err)
	}
	defer func() { _ = f.Close() }()
	d, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("attach %s: %w", file, err)
	}
	defer func() { _ = d.Close() }()
	cfg := unix.LoopConfig{Fd: uint32(f.Fd()), Size: 4096}
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], file)
	if err := unix.IoctlLoopConfigure(int(d.Fd()), &cfg); err != nil {
		return fmt.Errorf("attach %s to %s: %w", file, device, err)
	}
	return nil
}

// findLoop gives the loop device of a file, "" when it has none.
func findLoop(file string) (string, error) {
	loops, err := loopsBelow(file)
	if err != nil {
		return "", err
	}
	for device, backing := range loops {
		if backing == file {
			return device, nil
		}
	}
	return "", nil
}

// loopsBelow maps the loop devices of files at or below a path to their files.
func loopsBelow(path string) (map[string]string, error) {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	loops := map[string]string{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // gone since
		}
		file := strings.TrimSuffix(strings.TrimSpace(string(b)), " (deleted)")
		if file == path || strings.HasPrefix(file, path+"/") {
			loops["/dev/"+strings.Split(name, "/")[3]] = file
		}
	}
	return loops, nil
}

// detachLoops frees the loop devices of files at or below a path. The kernel waits for whoever looks at a device just
// now (udev does), and so do we, for a moment: a file must not be attached again by a device that is about to go.
func detachLoops(path string) error {
	for range 200 {
		loops, err := loopsBelow(path)
		if err != nil || len(loops) == 0 {
			return err
		}
		if err := clearLoops(loops); err != nil {
			return err
		}
		<-time.After(5 * time.Millisecond)
	}
	return fmt.Errorf("detach %s: its loop device is in use", path)
}

func clearLoops(loops map[string]string) error {
	for device := range loops {
		if err := withDevice(device, func(fd int) error { return unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0) }); err != nil && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("detach %s: %w", device, err)
		}
	}
	return nil
}

// refreshLoop lets the device see that its file has grown.
func refreshLoop(device string) error {
	err := withDevice(device, func(fd int) error { return unix.IoctlSetInt(fd, unix.LOOP_SET_CAPACITY, 0) })
	if err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	return nil
}

func withDevice(device string, do func(fd int) error) error {
	d, err := os.OpenFile(device, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return do(int(d.Fd()))
}

// tryLoops tells why volumes can't be loop files here: it formats, mounts and unmounts a small one.
func tryLoops(ctx context.Context, dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("only root may mount")
	}
	for _, program := range []string{"mkfs.ext4", "resize2fs", "e2fsck", "blkid"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	if err := removeTrials(ctx, dir); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, "try-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	file := filepath.Join(tmp, "image")
	if err := makeSparse(file, 8<<20); err != nil {
		return err
	}
	device, err := attachLoop(file)
	if err != nil {
		return err
	}
	v := host.BlockVolume{Device: device, MountPoint: filepath.Join(tmp, "mount")}
	err = v.EnsureMounted(ctx)
	return errors.Join(err, v.Unmount(context.WithoutCancel(ctx)), detachLoops(tmp))
}

// removeTrials removes what trials that were cut off have left.
func removeTrials(ctx context.Context, dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "try-*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		v := host.BlockVolume{MountPoint: filepath.Join(path, "mount")}
		if err := errors.Join(v.Unmount(ctx), detachLoops(path), os.RemoveAll(path)); err != nil {
			return err
		}
	}
	return nil
}

// makeSparse makes a file of that size, or makes it as large; it never shrinks one.
func makeSparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < size {
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	return f.Sync()
}
