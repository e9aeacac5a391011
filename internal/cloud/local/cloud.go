// Package local is a cloud on this one machine: a server is a guest agent with a directory and a loopback address of its
// own, a volume is a loop file or a directory. Databases outlive groved and are taken over by the next.
//
// Every resource is a record in a file of its own, written before anything of the resource exists and removed after
// the last of it has gone. Whoever kills groved at any point leaves records from which Open, Ensure and Delete go on.
package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// Cloud is the local cloud. It is safe for concurrent use.
type Cloud struct {
	cfg   Config
	loops bool // volumes are loop files
	lock  *os.File

	mu       sync.Mutex // guards the tables and machines; never held while something takes long
	servers  *table[server]
	groups   *table[serverGroup]
	volumes  *table[volume]
	ports    *table[port]
	security *table[securityGroup]
	address  *table[address]
	machines map[string]*machine // by server id
	closing  bool

	bridge    *bridge         // nil without namespaces
	isolated  map[string]bool // by guest id; guarded by mu
	forwarder *host.Processes // nil while it runs in this process

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup
}

var _ cloud.Provider = (*Cloud)(nil)

// Open opens the cloud in cfg.Dir and brings up what should run there: databases that run are left alone, agents are
// launched or taken over, half-done work is gone on with. It returns before all that has come to its end.
func Open(ctx context.Context, cfg Config) (*Cloud, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "servers"), 0o700); err != nil {
		return nil, fmt.Errorf("local cloud: %w", err)
	}
	if cfg.Dir, err = filepath.EvalSymlinks(cfg.Dir); err != nil { // mounts and loop devices know real paths only
		return nil, fmt.Errorf("local cloud: %w", err)
	}
	c := &Cloud{cfg: cfg, machines: map[string]*machine{}, isolated: map[string]bool{}}
	c.ctx, c.stop = context.WithCancel(context.Background())
	err = c.open(ctx)
	if err != nil {
		c.stop()
		c.work.Wait()
		_ = c.stopForwarder(ctx, true) // what runs goes on
		c.unlock()
		return nil, fmt.Errorf("local cloud: %w", err)
	}
	return c, nil
}

func (c *Cloud) open(ctx context.Context) error {
	if err := c.load(ctx); err != nil {
		return err
	}
	switch err := c.chooseVolumes(ctx); {
	case err != nil && c.cfg.Volumes == VolumesLoop:
		return fmt.Errorf("volumes cannot be loop files here: %w", err)
	case err != nil:
		c.cfg.Logger.Info("volumes are directories", "reason", err)
	}
	if c.cfg.NetworkMode == NetworkNamespaces {
		var err error
		if c.bridge, err = openBridge(ctx, c.cfg.Dir); err != nil {
			return err
		}
	}
	if err := c.startForwarder(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.finishDeletes(); err != nil {
		c.cfg.Logger.Error("volume not deleted", "error", err) // the next delete tries again
	}
	for id := range c.servers.rows {
		c.kick(id)
	}
	return nil
}

// load reads the records, under a lock that keeps a second groved out.
func (c *Cloud) load(ctx context.Context) error {
	dir := filepath.Join(c.cfg.Dir, "cloud")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var err error
	if c.lock, err = host.LockFile(ctx, filepath.Join(dir, "lock")); err != nil {
		return fmt.Errorf("%s is in use by another groved; give this one another directory: %w", c.cfg.Dir, err)
	}
	errs := make([]error, 6)
	c.servers, errs[0] = openTable[server](filepath.Join(dir, "servers"))
	c.groups, errs[1] = openTable[serverGroup](filepath.Join(dir, "server_groups"))
	c.volumes, errs[2] = openTable[volume](filepath.Join(dir, "volumes"))
	c.ports, errs[3] = openTable[port](filepath.Join(dir, "ports"))
	c.security, errs[4] = openTable[securityGroup](filepath.Join(dir, "security_groups"))
	c.address, errs[5] = openTable[address](filepath.Join(dir, addressesName))
	return errors.Join(errs...)
}

func (c *Cloud) unlock() {
	if c.lock != nil {
		_ = c.lock.Close() // and with it the lock
	}
}

func (c *Cloud) chooseVolumes(ctx context.Context) error {
	if c.cfg.Volumes == VolumesDirectory {
		return nil
	}
	err := tryLoops(ctx, filepath.Join(c.cfg.Dir, "cloud"))
	c.loops = err == nil
	return err
}

// Close ends the cloud's work. With keep databases, and agents that are processes, go on and are found by the next
// Open; else all servers are shut down cleanly, to come up again with the next Open.
func (c *Cloud) Close(ctx context.Context, keep bool) error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return nil
	}
	c.closing = true
	c.mu.Unlock()
	c.stop()
	c.work.Wait()
	c.mu.Lock()
	rows := maps.Clone(c.servers.rows)
	c.mu.Unlock()
	failed := make(chan error, len(rows))
	var wg sync.WaitGroup
	for id, row := range rows {
		wg.Go(func() {
			if err := c.closeServer(ctx, id, row, keep); err != nil {
				failed <- fmt.Errorf("close server %s: %w", id, err)
			}
		})
	}
	wg.Wait()
	close(failed)
	errs := []error{c.stopForwarder(ctx, keep)}
	if c.bridge != nil && !keep {
		errs = append(errs, c.bridge.close(ctx))
	}
	c.unlock()
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *Cloud) closeServer(ctx context.Context, id string, row server, keep bool) error {
	m := c.machine(id)
	m.turn.Lock()
	defer m.turn.Unlock()
	if !keep {
		err := c.shutdown(ctx, m, row)
		if err != nil { // nothing may be left: what will not end is ended
			err = errors.Join(err, c.crash(context.WithoutCancel(ctx), c.serverDir(row.GuestID)))
		}
		return err
	}
	agent := m.agent
	m.agent = nil
	switch a := agent.(type) {
	case nil:
		return nil
	case Detacher:
		a.Detach()
		return nil
	default:
		return agent.Stop(ctx)
	}
}

// Catalog tells what is on offer.
func (c *Cloud) Catalog(context.Context) (*dbaas.Catalog, error) {
	cat := c.cfg.catalog()
	cat.UpdatedAt = dbaas.At(c.cfg.Clock.Now())
	return &cat, nil
}

// now is the moment at which a record is born.
func (c *Cloud) now() int64 { return c.cfg.Clock.Now().UnixNano() }

func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return id.String(), nil
}

// serverDir is where all of a guest lies.
func (c *Cloud) serverDir(guestID string) string { return filepath.Join(c.cfg.Dir, "servers", guestID) }

// checkTag refuses what could not name a directory.
func checkTag(guestID, name string) error {
	if guestID == "" || guestID != filepath.Base(guestID) || guestID[0] == '.' || name == "" {
		return dbaas.Errorf(dbaas.BadRequest, "A resource needs a name, and a guest id that is a plain word.")
	}
	return nil
}
