package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/host"
)

// machine is what is in memory of a server: its agent, and whose turn it is to do something to it.
type machine struct {
	turn     sync.Mutex // held while something is done to the server; guards the fields below, but for cancel
	agent    Agent
	launched time.Time
	restarts int // of the agent in a row

	mu     sync.Mutex
	cancel context.CancelFunc // of what is being done
}

// machine gives the machine of a server.
func (c *Cloud) machine(id string) *machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.machines[id]
	if !ok {
		m = &machine{}
		c.machines[id] = m
	}
	return m
}

func (m *machine) setCancel(cancel context.CancelFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cancel = cancel
}

// interrupt cuts off what is being done to the server.
func (m *machine) interrupt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		m.cancel()
	}
}

// kick performs a server's task in the background. It is called with c.mu held.
func (c *Cloud) kick(id string) {
	if !c.closing {
		c.work.Go(func() { c.perform(id) })
	}
}

// performNow is perform for a caller who wants to see what comes of it.
func (c *Cloud) performNow(id string) {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return
	}
	c.work.Add(1)
	c.mu.Unlock()
	defer c.work.Done()
	c.perform(id)
}

// perform does what stands in a server's record: its task, or without one, that it runs when it should.
func (c *Cloud) perform(id string) {
	m := c.machine(id)
	m.turn.Lock()
	defer m.turn.Unlock()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	m.setCancel(cancel) // before the look at the record: who changes that afterwards can interrupt us
	defer m.setCancel(nil)
	c.mu.Lock()
	s, ok := c.servers.rows[id]
	c.mu.Unlock()
	if !ok || ctx.Err() != nil || s.building() && !exists(filepath.Join(c.serverDir(s.GuestID), bootstrapName)) {
		return // the last: EnsureServer was cut off, and has to come again with the bootstrap
	}
	if s.Task == taskDelete {
		if err := c.erase(ctx, m, id); err != nil {
			c.cfg.Logger.Error("server not deleted", "server", id, "guest", s.GuestID, "error", err)
		}
		return
	}
	after := s
	after.Task = ""
	err := c.do(ctx, m, id, &after)
	if err != nil && ctx.Err() == nil {
		after.Status, after.Fault = cloud.ServerError, err.Error()
		c.cfg.Logger.Error("server failed", "server", id, "guest", s.GuestID, "task", s.Task, "error", err)
	}
	if err := c.finish(ctx, id, s, after); err != nil {
		c.cfg.Logger.Error("server's record not written", "server", id, "error", err)
	}
}

// finish writes the record as a task left it. A task that was interrupted leaves it alone: the next one, or the next
// Open, goes on. Who interrupts does so under c.mu.
func (c *Cloud) finish(ctx context.Context, id string, before, after server) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, ok := c.servers.rows[id]
	if ctx.Err() != nil || !ok || now.Task != before.Task {
		return nil
	}
	if before.Task == "" { // only the agent was launched anew: but for a failure nothing was ours to say
		if after.Status != cloud.ServerError {
			return nil
		}
		now.Status, now.Fault = after.Status, after.Fault
		return c.servers.put(id, now)
	}
	return c.servers.put(id, after)
}

// do performs the task of the record that s was, and makes s what it is afterwards.
func (c *Cloud) do(ctx context.Context, m *machine, id string, s *server) error {
	c.mu.Lock()
	task := c.servers.rows[id].Task
	c.mu.Unlock()
	switch task {
	case "":
		if !s.On || s.Status == cloud.ServerError {
			return nil
		}
		return c.launch(ctx, m, id, *s)
	case taskStop, taskReboot, taskResize, taskRevert, taskRebuild:
		if err := c.shutdown(ctx, m, *s); err != nil {
			return err
		}
	case taskPowerOff:
		if err := c.powerOff(ctx, m, *s); err != nil {
			return err
		}
	}
	s.Status = settled(*s)
	switch task {
	case taskResize:
		s.FlavorID, s.OldFlavorID, s.NextFlavorID = s.NextFlavorID, s.FlavorID, ""
		s.Status = cloud.ServerVerifyResize
	case taskRevert:
		s.FlavorID, s.OldFlavorID = s.OldFlavorID, ""
	case taskRebuild:
		if err := removeAll(filepath.Join(c.serverDir(s.GuestID), agentName)); err != nil {
			return fmt.Errorf("rebuild server: %w", err)
		}
	}
	if !s.On {
		return nil
	}
	return c.launch(ctx, m, id, *s)
}

// launch makes a server's agent run. What runs already is left alone.
func (c *Cloud) launch(ctx context.Context, m *machine, id string, s server) error {
	if m.agent != nil {
		select {
		case <-m.agent.Done():
			m.agent = nil
		default:
			return nil
		}
	}
	spec, err := c.prepareMachine(ctx, id, s)
	if err != nil {
		return err
	}
	agent, err := c.cfg.Launcher.Launch(ctx, spec)
	if err != nil {
		return fmt.Errorf("launch agent: %w", err)
	}
	m.agent, m.launched = agent, c.cfg.Clock.Now()
	c.work.Go(func() { c.attend(id, m, agent) })
	return nil
}

// prepareMachine makes all that an agent finds at its start.
func (c *Cloud) prepareMachine(ctx context.Context, id string, s server) (Machine, error) {
	dir := c.serverDir(s.GuestID)
	flavor, err := c.cfg.flavor(s.FlavorID)
	if err != nil {
		return Machine{}, err
	}
	m := Machine{GuestID: s.GuestID, ServerID: id, Name: s.Name, Flavor: flavor, Dir: dir,
		BootstrapPath: filepath.Join(dir, bootstrapName), HostPath: filepath.Join(dir, hostName)}
	if m.Bootstrap, err = os.ReadFile(m.BootstrapPath); err != nil {
		return Machine{}, fmt.Errorf("read bootstrap: %w", err)
	}
	m.Host = host.Spec{Dir: filepath.Join(dir, agentName), DataDir: filepath.Join(dir, dataName), Path: c.cfg.Path}
	if err := os.MkdirAll(m.Host.Dir, 0o700); err != nil {
		return Machine{}, err
	}
	ports, err := c.connect(id, s, &m.Host)
	if err != nil {
		return Machine{}, err
	}
	if err := c.joinNetwork(ctx, s.GuestID, &m.Host); err != nil {
		return Machine{}, err
	}
	if err := c.checkAddress(m.Host, ports); err != nil {
		return Machine{}, err
	}
	return m, errors.Join(writeJSON(m.HostPath, m.Host), ctx.Err())
}

// connect plugs the server's volume in and tells its host of it and of the address. It gives the ports to listen on.
func (c *Cloud) connect(id string, s server, h *host.Spec) (ports []int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.ports.rows[s.PortID]
	if !ok {
		return nil, fmt.Errorf("the server's port %s is gone", s.PortID)
	}
	h.Address = p.Address
	h.SizeFile = filepath.Join(c.serverDir(s.GuestID), sizeName)
	v := c.attached(id)
	row := c.volumes.rows[v]
	if v == "" {
		row.Loop = c.loops // what may be attached later
	}
	if row.Loop {
		h.Device, h.SizeFile = filepath.Join(c.serverDir(s.GuestID), deviceName), ""
	}
	if v == "" {
		return p.TCPPorts, nil
	}
	return p.TCPPorts, c.plug(v, row)
}

// checkAddress refuses to start a server whose address someone else has taken.
func (c *Cloud) checkAddress(h host.Spec, ports []int) error {
	err := host.InNetNS(h.NetNS, func() error { return bindable(h.Address, ports) })
	if err == nil {
		return nil
	}
	ours := false
	openErr := withUnits(filepath.Dir(h.Dir), func(u *host.Processes) error {
		for _, name := range u.Names() {
			s, err := u.State(context.Background(), name)
			ours = ours || err == nil && s.Running // our own database, which went on
		}
		return nil
	})
	if ours || openErr != nil {
		return openErr
	}
	return fmt.Errorf("%w; end that process, then start the server", err)
}

// The delays before an agent that ended by itself is launched again, and how long one must run for it to count as well.
const (
	firstRelaunch = 100 * time.Millisecond
	lastRelaunch  = 30 * time.Second
	wellAfter     = time.Minute
)

// attend launches the agent again when it ends by itself.
func (c *Cloud) attend(id string, m *machine, agent Agent) {
	select {
	case <-c.ctx.Done():
		return
	case <-agent.Done():
	}
	m.turn.Lock()
	if m.agent != agent { // it was stopped
		m.turn.Unlock()
		return
	}
	if c.cfg.Clock.Now().Sub(m.launched) > wellAfter {
		m.restarts = 0
	}
	delay := min(firstRelaunch<<min(m.restarts, 16), lastRelaunch)
	m.restarts++
	m.turn.Unlock()
	c.cfg.Logger.Warn("agent ended by itself", "server", id, "again_in", delay)
	select {
	case <-c.ctx.Done():
	case <-time.After(delay):
		c.perform(id)
	}
}

// shutdown brings a server down cleanly: the agent first, which would else start again what stops.
func (c *Cloud) shutdown(ctx context.Context, m *machine, s server) error {
	dir := c.serverDir(s.GuestID)
	if err := c.stopAgent(ctx, m, dir); err != nil {
		return err
	}
	if err := withUnits(dir, func(u *host.Processes) error { return u.Shutdown(ctx) }); err != nil {
		return err
	}
	return c.release(ctx, dir)
}

// withUnits does something with what an agent started in a server.
func withUnits(serverDir string, do func(*host.Processes) error) error {
	dir := filepath.Join(serverDir, agentName)
	if !exists(dir) {
		return nil // never was launched
	}
	units, err := host.OpenProcesses(dir, nil)
	if err != nil {
		return err
	}
	defer units.Close()
	return do(units)
}

// stopAgent ends a server's agent, one of an earlier groved too.
func (c *Cloud) stopAgent(ctx context.Context, m *machine, dir string) error {
	agent := m.agent
	m.agent = nil
	if agent == nil {
		return killLeftAgent(ctx, dir)
	}
	if err := agent.Stop(ctx); err != nil {
		c.cfg.Logger.Warn("agent did not stop and is killed", "dir", dir, "error", err)
		return agent.Kill()
	}
	return nil
}

// release unmounts what is mounted in a server in which nothing runs any more, and frees its loop device and network. That
// data is on disk then is the point.
func (c *Cloud) release(ctx context.Context, dir string) error {
	if err := c.leaveNetwork(ctx, filepath.Base(dir)); err != nil {
		return err
	}
	v := host.BlockVolume{MountPoint: filepath.Join(dir, dataName)}
	err := v.Unmount(ctx)
	if errors.Is(err, unix.EBUSY) { // something that the database left behind
		if err = host.KillStrays(ctx, dir); err == nil {
			err = v.Unmount(ctx)
		}
	}
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, deviceName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return detachLoops(dir)
}

// powerOff kills a server's agent and all else that runs in it.
func (c *Cloud) powerOff(ctx context.Context, m *machine, s server) error {
	if c.bridge != nil { // first, so that nobody hears it die
		if err := c.bridge.unplug(ctx, s.GuestID); err != nil {
			return err
		}
	}
	if err := m.killAgent(); err != nil {
		return err
	}
	return c.crash(ctx, c.serverDir(s.GuestID))
}

func (m *machine) killAgent() error {
	if m.agent == nil {
		return nil
	}
	if err := m.agent.Kill(); err != nil {
		return err
	}
	m.agent = nil
	return nil
}

// crash kills all that runs in a server's directory, and frees its mount and loop device.
func (c *Cloud) crash(ctx context.Context, dir string) error {
	if err := killLeftAgent(ctx, dir); err != nil {
		return err
	}
	if err := withUnits(dir, func(u *host.Processes) error { return u.Destroy(ctx) }); err != nil {
		return err
	}
	if err := host.KillStrays(ctx, dir); err != nil {
		return err
	}
	return c.release(ctx, dir)
}
