package local

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// Launcher starts the guest agent of a server, or takes over the one that runs there.
type Launcher interface {
	// Launch returns when the agent was started; ctx is for the launch alone.
	Launch(ctx context.Context, m Machine) (Agent, error)
}

// Agent is a guest agent at work. Neither its end nor its death ends a database: that is the server's affair.
type Agent interface {
	// Stop ends the agent and returns when it is gone.
	Stop(ctx context.Context) error
	// Kill ends the agent as a crash does.
	Kill() error
	// Done is closed when the agent has ended, however.
	Done() <-chan struct{}
}

// Detacher is what an agent may also be: one that goes on when groved ends.
type Detacher interface {
	// Detach lets go of the agent, which goes on.
	Detach()
}

// Machine is a server as its agent finds it.
type Machine struct {
	GuestID  string
	ServerID string
	Name     string
	Flavor   dbaas.Flavor // RAM (MB) is the limit of the database's memory
	// Dir is the server's own directory; all of the below is in it.
	Dir string
	// Host tells the directories, the address and the volume.
	Host host.Spec
	// Bootstrap is the agent's configuration file, as it was given as user data; BootstrapPath is where it lies.
	Bootstrap     []byte
	BootstrapPath string
	// HostPath is where Host lies as a file, for an agent that is a process of its own.
	HostPath string
}

// agentUnit is the unit's name under which ProcessLauncher runs agents.
const agentUnit = "agent"

// machineDir holds what is beneath the guest: the agent process's record and output.
const machineDir = "machine"

// ProcessLauncher runs agents as processes of their own, which go on when groved ends and are taken over by the next:
// Binary --config <bootstrap file>, with the path of the host's file in the environment (host.SpecEnv).
type ProcessLauncher struct {
	Binary string
	Args   []string // further arguments
	Env    []string // further environment
	Logger *slog.Logger
}

var _ Launcher = ProcessLauncher{}

// Launch starts the agent's process, or takes over the one that runs.
func (l ProcessLauncher) Launch(ctx context.Context, m Machine) (Agent, error) {
	units, err := host.OpenProcesses(filepath.Join(m.Dir, machineDir), l.Logger)
	if err != nil {
		return nil, err
	}
	watchCtx, stop := context.WithCancel(context.Background())
	a := &processAgent{units: units, stop: stop, done: make(chan struct{})}
	ended := units.Watch(watchCtx)
	err = units.Start(ctx, host.UnitSpec{
		Name: agentUnit,
		Argv: append([]string{l.Binary, "--config", m.BootstrapPath}, l.Args...),
		Env:  append([]string{host.SpecEnv + "=" + m.HostPath}, l.Env...),
		Dir:  m.Dir,
	})
	if err != nil {
		a.Detach()
		return nil, err
	}
	go a.follow(ended)
	return a, nil
}

// processAgent is an agent that is a process of its own.
type processAgent struct {
	units *host.Processes
	stop  context.CancelFunc
	done  chan struct{}
}

// follow closes done when the process has ended.
func (a *processAgent) follow(ended <-chan string) {
	for {
		if s, err := a.units.State(context.Background(), agentUnit); err == nil && !s.Running {
			close(a.done)
			a.Detach()
			return
		}
		if _, open := <-ended; !open {
			return // detached
		}
	}
}

// Stop ends the process.
func (a *processAgent) Stop(ctx context.Context) error { return a.units.Stop(ctx, agentUnit) }

// Kill kills the process.
func (a *processAgent) Kill() error { return a.units.Kill(context.Background(), agentUnit) }

// Done is closed when the process has ended.
func (a *processAgent) Done() <-chan struct{} { return a.done }

// Detach lets go of the process, which goes on.
func (a *processAgent) Detach() {
	a.stop()
	a.units.Close()
}

// killLeftAgent kills an agent process that nobody holds.
func killLeftAgent(ctx context.Context, serverDir string) error {
	dir := filepath.Join(serverDir, machineDir)
	if _, err := os.Stat(dir); err != nil {
		return nil // never was one
	}
	units, err := host.OpenProcesses(dir, nil)
	if err != nil {
		return err
	}
	defer units.Close()
	return units.Destroy(ctx)
}
