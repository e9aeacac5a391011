package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const volumeID = "5a0d1c9e-7b1f-4c55-9d0e-2f6a8b3c4d5e"

// machine is a /sys/block and a /dev of a test's own.
type machine struct {
	t        *testing.T
	sys, dev string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, sys: t.TempDir(), dev: t.TempDir()}
	m.add("sr0", "/dev/null", map[string]string{"ro": "1"})
	m.add("loop0", "/dev/null", nil)
	return m
}

// add gives the machine a disk, with files of /sys.
func (m *machine) add(name, device string, files map[string]string) {
	m.t.Helper()
	all := map[string]string{"size": "131072", "ro": "0", "dev": "259:7"}
	if number, err := deviceNumber(device); err == nil {
		all["dev"] = number
	}
	for path, text := range files {
		all[path] = text
	}
	for path, text := range all {
		path = filepath.Join(m.sys, name, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := os.Symlink(device, filepath.Join(m.dev, name)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) volume(point string) AttachedVolume {
	return AttachedVolume{ID: volumeID, MountPoint: point, sys: m.sys, dev: m.dev}
}

func (m *machine) found() (string, error) {
	b, err := m.volume(filepath.Join(m.t.TempDir(), "data")).block(context.Background())
	return filepath.Base(b.Device), err
}

// TestVolumeIsFoundBySerial: whatever its name is, and whatever stands beside it.
func TestVolumeIsFoundBySerial(t *testing.T) {
	for kind, files := range map[string]map[string]string{
		"virtio": {"serial": volumeID[:20]},
		"nvme":   {"device/serial": volumeID},
		"scsi":   {"device/vpd_pg80": "\x00\x80\x00\x24" + volumeID},
	} {
		m := newMachine(t)
		m.add("vda", "/dev/null", map[string]string{"vda1/partition": "1"})
		m.add("vdb", "/dev/null", map[string]string{"serial": "11111111-2222-3333-4"})
		m.add("vdc", "/dev/null", files)
		if name, err := m.found(); err != nil || name != "vdc" {
			t.Errorf("%s: %s %v", kind, name, err)
		}
	}
}

// TestVolumeIsTheOnlyOne: where no disk says its serial number, the only one that can be the volume is it. It is formatted
// once, and found again with what is on it; a second candidate is nobody's to choose from.
func TestVolumeIsTheOnlyOne(t *testing.T) {
	v, _ := loopVolume(t, 64<<20)
	configDrive, file := loopVolume(t, 1<<20)
	if err := os.WriteFile(file, iso(), 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMachine(t)
	m.add("vda", "/dev/null", map[string]string{"vda1/partition": "1"})
	m.add("vdb", "/dev/null", map[string]string{"serial": "11111111-2222-3333-4"}) // another volume
	if name, err := m.found(); err == nil || !strings.Contains(err.Error(), "not attached") {
		t.Errorf("before it is attached: %s %v", name, err)
	}
	attached := m.volume(v.MountPoint)
	if ok, err := attached.Mounted(t.Context()); ok || err != nil {
		t.Errorf("before it is attached it is mounted: %v %v", ok, err)
	}
	m.add("vdc", configDrive.Device, nil)
	m.add("vdd", v.Device, nil)
	if err := attached.EnsureMounted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.MountPoint, "kept"), []byte("yes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := attached.EnsureMounted(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(v.MountPoint, "kept")); err != nil {
		t.Error(err)
	}
	if _, total, err := attached.Usage(t.Context()); err != nil || total == 0 {
		t.Errorf("usage %d %v", total, err)
	}
	other, _ := loopVolume(t, 64<<20)
	m.add("vde", other.Device, nil)
	if ok, err := attached.Mounted(t.Context()); !ok || err != nil { // what is mounted is known by that
		t.Errorf("mounted: %v %v", ok, err)
	}
	if err := v.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := attached.EnsureMounted(t.Context()); err == nil || !strings.Contains(err.Error(), "vde") {
		t.Errorf("with two candidates: %v", err)
	}
}

// iso is the least of an ISO 9660 filesystem that blkid knows: a config drive.
func iso() []byte {
	b := make([]byte, 1<<20)
	copy(b[0x8000:], "\x01CD001\x01")
	copy(b[0x8000+40:], "config-2                        ")
	copy(b[0x8800:], "\xffCD001\x01")
	return b
}
