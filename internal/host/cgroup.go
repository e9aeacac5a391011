package host

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroupParent is the directory that ours stand in; it goes with the last of them.
const cgroupParent = "grove"

// memoryCgroup is a control group that limits a unit's memory.
type memoryCgroup struct {
	Path string `json:"path"`
	V2   bool   `json:"v2"`
}

// makeMemoryCgroup makes a group for the unit of that path, in the memory controller of version 1 or in version 2,
// whichever lets us.
func makeMemoryCgroup(unitPath string, limit int64) (*memoryCgroup, error) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(unitPath))
	name := fmt.Sprintf("%s-%016x", filepath.Base(unitPath), h.Sum64())
	bases, err := memoryCgroupBases()
	if err != nil {
		return nil, err
	}
	err = errors.New("no memory controller is mounted")
	for _, base := range bases {
		g := &memoryCgroup{Path: filepath.Join(base.Path, cgroupParent, name), V2: base.V2}
		if err = g.make(base.Path, limit); err == nil {
			return g, nil
		}
		_ = g.remove()
	}
	return nil, err
}

func (g *memoryCgroup) make(base string, limit int64) error {
	parent := filepath.Dir(g.Path)
	if g.V2 { // the controller must be handed down, level by level
		_ = os.WriteFile(filepath.Join(base, "cgroup.subtree_control"), []byte("+memory"), 0)
	}
	for range 3 { // a last one that goes takes the parent along, maybe just now
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return err
		}
		if g.V2 {
			_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+memory"), 0)
		}
		err := os.Mkdir(g.Path, 0o755)
		if err == nil || errors.Is(err, os.ErrExist) {
			break
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return g.setLimit(limit)
}

func (g *memoryCgroup) setLimit(limit int64) error {
	v := []byte(strconv.FormatInt(limit, 10))
	if g.V2 {
		_ = os.WriteFile(filepath.Join(g.Path, "memory.swap.max"), []byte("0"), 0) // absent without swap accounting
		return os.WriteFile(filepath.Join(g.Path, "memory.max"), v, 0)
	}
	// Memory and swap together may never be less than memory alone, so that the order depends on the direction.
	memory, swap := filepath.Join(g.Path, "memory.limit_in_bytes"), filepath.Join(g.Path, "memory.memsw.limit_in_bytes")
	_ = os.WriteFile(swap, v, 0)
	if err := os.WriteFile(memory, v, 0); err != nil {
		return err
	}
	_ = os.WriteFile(swap, v, 0)
	return nil
}

func (g *memoryCgroup) add(pid int) error {
	return os.WriteFile(filepath.Join(g.Path, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// remove removes the group, whose processes have ended; the kernel may take a moment to see that.
func (g *memoryCgroup) remove() error {
	var err error
	for range 100 {
		err = syscall.Rmdir(g.Path)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			_ = syscall.Rmdir(filepath.Dir(g.Path)) // refused while others are in it
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("remove cgroup %s: %w", g.Path, err)
}

// memoryCgroupBases lists where groups may be made: at the top, else below our own group.
func memoryCgroupBases() ([]memoryCgroup, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, _ := os.ReadFile("/proc/self/cgroup")
	var bases []memoryCgroup
	for line := range strings.Lines(string(mounts)) {
		m, ok := parseMount(line)
		if !ok {
			continue
		}
		switch {
		case m.fsType == "cgroup" && slices.Contains(strings.Split(m.options, ","), "memory"):
			bases = append(bases, memoryCgroup{Path: m.point}, memoryCgroup{Path: m.point + ownCgroup(own, "memory")})
		case m.fsType == "cgroup2" && hasMemory(m.point):
			bases = append(bases, memoryCgroup{Path: m.point, V2: true}, memoryCgroup{Path: m.point + ownCgroup(own, ""), V2: true})
		}
	}
	return bases, nil
}

func hasMemory(point string) bool {
	b, err := os.ReadFile(filepath.Join(point, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(b)), "memory")
}

// ownCgroup finds our group's path for a controller ("" for version 2) in /proc/self/cgroup.
func ownCgroup(own []byte, controller string) string {
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && slices.Contains(strings.Split(f[1], ","), controller) {
			return strings.TrimSuffix(f[2], "/")
		}
	}
	return ""
}
