package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of /proc/self/mountinfo.
type mount struct {
	device  string // major:minor
	point   string
	fsType  string
	options string // of the filesystem
}

// parseMount reads a line as proc(5) describes it: fixed fields, optional ones, " - ", type, source, options.
func parseMount(line string) (mount, bool) {
	head, tail, ok := strings.Cut(strings.TrimSpace(line), " - ")
	h, t := strings.Fields(head), strings.Fields(tail)
	if !ok || len(h) < 6 || len(t) < 3 {
		return mount{}, false
	}
	return mount{device: h[2], point: unescapeMount(h[4]), fsType: t[0], options: t[2]}, true
}

func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// MountedAt gives the device (major:minor) of what is mounted on a directory, "" for nothing.
func MountedAt(point string) (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	if path, err := filepath.EvalSymlinks(point); err == nil {
		point = path
	}
	device := ""
	for line := range strings.Lines(string(b)) {
		if m, ok := parseMount(line); ok && m.point == point {
			device = m.device // the last one lies on top
		}
	}
	return device, nil
}

// deviceNumber gives a block device's major:minor.
func deviceNumber(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("look at device %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", fmt.Errorf("%s is not a block device", path)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}
