package host

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// loopVolume makes a volume on a loop device of a new sparse file. All is undone with the test.
func loopVolume(t *testing.T, size int64) (v BlockVolume, file string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := t.TempDir()
	file = filepath.Join(dir, "image")
	truncate(t, file, size)
	device := strings.TrimSpace(must(t, "losetup", "-f", "--show", file))
	v = BlockVolume{Device: device, MountPoint: filepath.Join(dir, "data")}
	t.Cleanup(func() {
		if err := v.Unmount(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := Run(context.Background(), "losetup", "-d", device); err != nil {
			t.Error(err)
		}
	})
	return v, file
}

func truncate(t *testing.T, file string, size int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, argv ...string) string {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		t.Skipf("%s is missing", argv[0])
	}
	out, err := Run(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBlockVolume(t *testing.T) {
	v, file := loopVolume(t, 64<<20)
	if ok, err := v.Mounted(t.Context()); ok || err != nil {
		t.Fatalf("mounted before: %v %v", ok, err)
	}
	if _, _, err := v.Usage(t.Context()); err == nil {
		t.Fatal("usage of what is not mounted")
	}
	if err := v.Grow(t.Context()); err == nil {
		t.Fatal("grew what is not mounted")
	}
	for range 2 {
		if err := v.EnsureMounted(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := v.Mounted(t.Context()); !ok || err != nil {
		t.Fatalf("mounted: %v %v", ok, err)
	}
	kept := filepath.Join(v.MountPoint, "kept")
	if err := WriteFile(kept, make([]byte, 5<<20), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	used, total, err := v.Usage(t.Context())
	if err != nil || used < 5<<20 || total < 40<<20 || total > 64<<20 {
		t.Fatalf("usage %d of %d: %v", used, total, err)
	}
	if err := v.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := v.EnsureMounted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Fatalf("the filesystem was made anew: %v", err)
	}

	if err := v.Grow(t.Context()); err != nil { // nothing to do
		t.Fatal(err)
	}
	truncate(t, file, 128<<20)
	must(t, "losetup", "-c", v.Device)
	open, err := os.Open(kept)
	if err != nil {
		t.Fatal(err)
	}
	err = v.Grow(t.Context())
	if !growsMounted() {
		if !errors.Is(err, ErrVolumeBusy) {
			t.Fatalf("grow in use without the capability: %v", err)
		}
		_ = open.Close()
		err = v.Grow(t.Context())
	}
	_ = open.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, total, err = v.Usage(t.Context()); err != nil || total < 110<<20 {
		t.Fatalf("grown to %d: %v", total, err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Fatal(err)
	}
	if full, err := v.fillsDevice(); !full || err != nil {
		t.Fatalf("fills its device: %v %v", full, err)
	}
}

// TestNeverFormatted: whatever a device holds, if it is anything, stays.
func TestNeverFormatted(t *testing.T) {
	write := func(at int64, data string) func(t *testing.T, device string) {
		return func(t *testing.T, device string) {
			f, err := os.OpenFile(device, os.O_RDWR, 0)
			if err == nil {
				_, err = f.WriteAt([]byte(data), at)
				err = errors.Join(err, f.Sync(), f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, fill := range map[string]func(t *testing.T, device string){
		"swap":                 func(t *testing.T, d string) { must(t, "mkswap", d) },
		"partitions":           write(446, "\x00\x01\x01\x00\x83\x0f\x20\x07\x3f\x00\x00\x00\x00\x80\x00\x00"+strings.Repeat("\x00", 48)+"\x55\xaa"),
		"a byte at the start":  write(0, "x"),
		"a byte in first MiB":  write(1<<20-1, "x"),
		"a byte at the end":    write(32<<20-1, "x"),
		"xfs":                  write(0, "XFSB"),
		"md raid at the end":   write(32<<20-64<<10, "\xfc\x4e\x2b\xa9"),
		"btrfs":                write(0x10040, "_BHRfS_M"),
		"lvm physical volume":  write(512, "LABELONE\x01\x00\x00\x00\x00\x00\x00\x00"),
		"luks":                 write(0, "LUKS\xba\xbe\x00\x02"),
		"half of a filesystem": write(4096, "group descriptors without a superblock"),
	} {
		t.Run(name, func(t *testing.T) {
			v, file := loopVolume(t, 32<<20)
			fill(t, v.Device)
			before := sum(t, file)
			if err := v.EnsureMounted(t.Context()); err == nil {
				t.Fatal("mounted")
			}
			if ok, _ := v.Mounted(t.Context()); ok {
				t.Fatal("mounted")
			}
			if after := sum(t, file); after != before {
				t.Fatal("the device was written to")
			}
		})
	}
}

func sum(t *testing.T, file string) string { return must(t, "sha256sum", file) }

// TestFormatThatWasCutOff is gone on with, where the note says that it was ours and nothing else is known there.
func TestFormatThatWasCutOff(t *testing.T) {
	v, _ := loopVolume(t, 32<<20)
	must(t, "sh", "-c", "printf half | dd of="+v.Device+" bs=1 seek=5000 conv=notrunc status=none")
	if err := WriteFile(v.formattingPath(), []byte(v.Device), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	if err := v.EnsureMounted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(v.formattingPath()); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the note is left: %v", err)
	}
}

func TestAnotherDeviceInPlace(t *testing.T) {
	v, _ := loopVolume(t, 32<<20)
	other, _ := loopVolume(t, 32<<20)
	if err := v.EnsureMounted(t.Context()); err != nil {
		t.Fatal(err)
	}
	other.MountPoint = v.MountPoint
	if ok, err := other.Mounted(t.Context()); ok || err == nil {
		t.Fatalf("%v %v", ok, err)
	}
	if err := other.EnsureMounted(t.Context()); err == nil {
		t.Fatal("mounted over another")
	}
}

func TestDirVolume(t *testing.T) {
	dir := t.TempDir()
	v := &DirVolume{Dir: filepath.Join(dir, "data"), SizeBytes: 1 << 30}
	if ok, err := v.Mounted(t.Context()); ok || err != nil {
		t.Fatalf("%v %v", ok, err)
	}
	if err := v.EnsureMounted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Dir, "aof"), make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	used, total, err := v.Usage(t.Context())
	if err != nil || used < 3<<20 || used > 4<<20 || total != 1<<30 {
		t.Fatalf("%d of %d: %v", used, total, err)
	}

	provided := &DirVolume{Dir: filepath.Join(dir, "lost"), SizeFile: filepath.Join(dir, "size")}
	if err := provided.EnsureMounted(t.Context()); err == nil {
		t.Fatal("made what a provider has to")
	}
	if err := os.WriteFile(provided.SizeFile, []byte("2147483648\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := provided.EnsureMounted(t.Context()); err == nil {
		t.Fatal("mounted a directory that is gone")
	}
	if err := os.Mkdir(provided.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(provided.EnsureMounted(t.Context()), provided.Grow(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, total, err := provided.Usage(t.Context()); err != nil || total != 2<<30 {
		t.Fatalf("%d %v", total, err)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "conf")
	for _, content := range []string{"old and long", "new"} {
		if err := WriteFile(path, []byte(content), 0o640, &Owner{UID: os.Getuid(), GID: os.Getgid()}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	fi, statErr := os.Stat(path)
	if err != nil || statErr != nil || string(b) != "new" || fi.Mode() != 0o640 {
		t.Fatalf("%q %v %v", b, fi.Mode(), err)
	}
	if err := WriteFile(filepath.Join(dir, "none", "conf"), nil, 0o600, nil); err == nil {
		t.Fatal("wrote into a directory that is not there")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Fatalf("%v %v", entries, err)
	}
}

func TestCommandErrors(t *testing.T) {
	out, err := Command{Argv: []string{"sh", "-c", "cat >/dev/null; echo half; echo broken >&2; exit 3"}, Stdin: []byte("s3cret")}.Run(t.Context())
	if out != "half\n" || err == nil || !strings.Contains(err.Error(), "broken") || strings.Contains(err.Error(), "s3cret") {
		t.Fatalf("%q %v", out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, "sleep", "10"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
