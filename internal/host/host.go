// Package host is a guest's machine: its files, its mounted volume and the units that run on it.
package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// Host is where one guest's database lives. On a real server the directories are the system's; on the local cloud they
// are below the server's own directory, and the address is its own loopback address.
type Host struct {
	// Dir holds what is the agent's: journal, rendered configuration, sockets. Off the data volume.
	Dir string
	// DataDir is where the data volume is mounted.
	DataDir string
	// Address is the guest's own address; databases listen on it and connect from it.
	Address string
	// NetNS names the network namespace that has the address, "" for this process's own. Units run in it; Dial connects
	// from it.
	NetNS string
	// Units runs the database's processes.
	Units Units
	// Owner is whom units run as, nil where that is ourselves.
	Owner *Owner
	// Volume is the data volume.
	Volume Volume
	// Dedicated: the machine is this guest's alone, so that its kernel's settings are the agent's to make.
	Dedicated bool
	// Announces: an address that moves between machines is here while this machine has it and tells its neighbours so.
	// Where the provider leads such addresses by itself, the machine never has them.
	Announces bool
	// Programs finds the programs of a name, in the order in which they are looked for: versions stand beside each other.
	Programs func(name string) []string
}

// Spec is a host as data: what the provider of a machine tells an agent that is a process of its own.
type Spec struct {
	Dir     string `json:"dir"`
	DataDir string `json:"data_dir"`
	Address string `json:"address"`
	// NetNS names the network namespace of the machine's units, "" for the agent's own.
	NetNS string `json:"netns,omitempty"`
	// Device is the data volume's block device, mounted on DataDir. Where it is "", DataDir is itself the volume, and
	// SizeFile holds its size in bytes.
	Device string `json:"device,omitempty"`
	// VolumeID is the cloud's id of the data volume, by which its device is found; it takes Device's place.
	VolumeID string `json:"volume_id,omitempty"`
	SizeFile string `json:"size_file,omitempty"`
	// Dedicated: the machine is this guest's alone.
	Dedicated bool `json:"dedicated,omitempty"`
	// Announces: the machine itself has the address that moves between machines, while it is there.
	Announces bool `json:"announces,omitempty"`
	// User is whom the machine's units run as where the agent is root and the machine has such a user; else as the agent.
	User string `json:"user,omitempty"`
	// Path lists directories in which programs are looked for before $PATH.
	Path []string `json:"path,omitempty"`
}

// Close ends the watching of the machine's processes, which go on.
func (h *Host) Close() {
	if units, ok := h.Units.(interface{ Close() }); ok {
		units.Close()
	}
}

// SpecEnv is the environment variable that names the file with an agent's Spec.
const SpecEnv = "GROVE_HOST"

// ReadSpec reads a Spec from a file.
func ReadSpec(path string) (Spec, error) {
	var s Spec
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read host: %w", err)
	}
	return s, nil
}

// Server is the host that a cloud's server is by itself: the whole machine is the guest's, and a volume of the cloud is
// attached to it.
func Server(address, volumeID string) Spec {
	return Spec{
		Dir: "/var/lib/grove-agent", DataDir: "/var/lib/grove-data", Address: address, VolumeID: volumeID, Dedicated: true, Announces: true,
		User: ServerUser,
	}
}

// Open makes a host of the spec whose units are [Processes], and takes over those that run.
func (s Spec) Open(log *slog.Logger) (*Host, error) {
	units, err := OpenProcesses(s.Dir, log)
	if err != nil {
		return nil, err
	}
	units.netns = s.NetNS
	if units.as, err = findUser(s.User); errors.Is(err, errNoUser) { // of an image that is older than this program
		units.log.Warn("databases run as the agent does, as root: rebuild the server from a newer image", "error", err)
	} else if err != nil {
		units.Close()
		return nil, err
	}
	return &Host{Owner: units.as, Dir: s.Dir, DataDir: s.DataDir, Address: s.Address, NetNS: s.NetNS, Units: units, Volume: s.Volume(), Programs: func(name string) []string { return Programs(s.Path, name) }, Dedicated: s.Dedicated, Announces: s.Announces}, nil
}

// Volume is the spec's data volume.
func (s Spec) Volume() Volume {
	if s.VolumeID != "" {
		return AttachedVolume{ID: s.VolumeID, MountPoint: s.DataDir}
	}
	if s.Device != "" {
		return BlockVolume{Device: s.Device, MountPoint: s.DataDir}
	}
	return &DirVolume{Dir: s.DataDir, SizeFile: s.SizeFile}
}

// Programs lists the programs of a name in the directories, and in those of $PATH.
func Programs(dirs []string, name string) (list []string) {
	for _, dir := range append(slices.Clone(dirs), filepath.SplitList(os.Getenv("PATH"))...) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && !slices.Contains(list, path) {
			list = append(list, path)
		}
	}
	return list
}

// UnitSpec is a long-running process.
type UnitSpec struct {
	Name string // "redis"
	Argv []string
	Env  []string
	Dir  string
	// MemoryMax in bytes limits the unit where cgroups allow; 0 is no limit.
	MemoryMax int64
	// NoFile is the limit of open files; 0 keeps the default.
	NoFile uint64
	// StopTimeout in seconds before a stop becomes a kill.
	StopTimeout int
}

// UnitState is how a unit stands.
type UnitState struct {
	Running bool
	// Suspended: it runs, but was stopped by a signal and does nothing until another lets it go on.
	Suspended bool
	Stopped   bool // it does not run, and was asked not to
	PID       int
	Started   string // identity of the process: changes with every start
	ExitErr   string // how it ended last, when it ended by itself
	Output    string // the last lines that it wrote
}

// Units starts and stops processes that outlive the agent, and finds them again. Implementations: plain child
// processes in sessions of their own, and systemd.
type Units interface {
	// Start starts a unit as specified; one that runs is left alone.
	Start(ctx context.Context, u UnitSpec) error
	// Stop sends SIGTERM, also to one that is suspended, after the timeout SIGKILL, and returns when it is gone.
	Stop(ctx context.Context, name string) error
	// Kill ends a unit as a crash does.
	Kill(ctx context.Context, name string) error
	// State looks at a unit; of one that is unknown, the zero state.
	State(ctx context.Context, name string) (UnitState, error)
}

// Watcher is what Units may also be: one that tells which units end.
type Watcher interface {
	// Watch names each unit that ends from now on, asked or not: State tells which. The channel is closed when ctx is.
	Watch(ctx context.Context) <-chan string
}

// Volume is a data volume on its machine.
type Volume interface {
	// EnsureMounted formats the device when it is blank (never when it holds anything), and mounts it.
	EnsureMounted(ctx context.Context) error
	// Mounted tells whether the volume is where it should be; a database must not be started when it is not.
	Mounted(ctx context.Context) (bool, error)
	// Grow makes the filesystem as large as the device; one that is so already is success. [ErrVolumeBusy] says that
	// this machine can do so only while nothing uses it: stop the database, Grow again, start it.
	Grow(ctx context.Context) error
	// Usage gives used and total bytes.
	Usage(ctx context.Context) (used, total int64, err error)
}
