package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/all"
	"github.com/grove-dbaas/grove/guestagent/embedded"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/cloud/local"
	"github.com/grove-dbaas/grove/internal/config"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/lifecycle"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
	"github.com/grove-dbaas/grove/internal/rpc/inproc"
	"github.com/grove-dbaas/grove/internal/secret"
)

func devCommand(o *options) *cobra.Command {
	var keep bool
	var network string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in this process: SQLite, messages in memory, databases on loopback addresses",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load(config.Defaults())
			if err != nil {
				return err
			}
			c.Cloud.Local.KeepDatabases = c.Cloud.Local.KeepDatabases || keep
			if network != "" {
				c.Cloud.Local.NetworkMode = network
			}
			if err := c.Validate(); err != nil {
				return err
			}
			if c.Cloud.Provider != "local" {
				return fmt.Errorf("groved dev runs servers on this machine alone; for cloud.provider %s run groved api and groved taskmanager", c.Cloud.Provider)
			}
			return runDev(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&keep, "keep-databases", false, "leave databases running after a clean exit")
	cmd.Flags().StringVar(&network, "network", "", "loopback: servers share this machine's network; namespaces: each has one of its own (needs root)")
	return cmd
}

// runDev serves until ctx ends.
func runDev(ctx context.Context, c config.Config, stdout io.Writer) error {
	unlock, err := claimDataDir(ctx, c.Data)
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w; is another groved running? --listen takes another address", c.Listen, err)
	}
	defer listener.Close()
	if err := ensureMasterKey(masterKeyPath(c)); err != nil {
		return err
	}
	h, err := newHouse(ctx, c)
	if err != nil {
		return err
	}
	if err := errors.Join(h.store.Migrate(ctx), h.connect(ctx)); err != nil {
		return errors.Join(err, h.store.Close())
	}
	provider, err := h.openLocalCloud(ctx)
	if err != nil {
		return errors.Join(err, h.transport.Close(), h.store.Close())
	}
	if h.bus != nil && c.Cloud.Local.NetworkMode == "namespaces" {
		h.bus.SetFaults(h.cutOff(provider))
	}
	manager, err := h.taskmanager(provider)
	if err != nil {
		return err
	}
	apiPart, err := h.apiPart(listener)
	if err != nil {
		return err
	}
	return lifecycle.Run(ctx, h.logger,
		func() { fmt.Fprintf(stdout, "grove ready http://%s\n", listener.Addr()) },
		closing("store", h.store),
		closing("transport", h.transport),
		lifecycle.Part{Name: "local cloud", Stop: func(ctx context.Context) error { return provider.Close(ctx, c.Cloud.Local.KeepDatabases) }},
		lifecycle.Part{Name: "taskmanager", Start: func(ctx context.Context) error { return h.publish(ctx, manager) }, Run: manager.Run},
		apiPart,
	)
}

// claimDataDir makes the data directory and keeps other processes from using it at the same time.
func claimDataDir(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	f, err := host.LockFile(ctx, filepath.Join(dir, "lock"))
	if errors.Is(err, host.ErrLocked) {
		return nil, fmt.Errorf("another groved uses %s: stop it, or take another --data", dir)
	}
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// ensureMasterKey makes the key file of a new data directory.
func ensureMasterKey(path string) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err := secret.CreateKeyring(path)
	return err
}

// installed finds a datastore version's program on this machine and gives the number that it reports of itself; "" when
// there is none, or it is another version's.
func installed(v datastore.Version) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, number, err := v.Program(ctx, host.Programs(nil, v.Binary))
	if err != nil {
		return ""
	}
	return number
}

// openLocalCloud opens the provider that runs servers on this machine, and the servers that should run.
func (h *house) openLocalCloud(ctx context.Context) (*local.Cloud, error) {
	l := h.config.Cloud.Local
	launcher, err := h.launcher()
	if err != nil {
		return nil, err
	}
	forward, err := forwarder(h.config.Data)
	if err != nil {
		return nil, err
	}
	networks := append([]dbaas.Network{{ID: "local", Name: "local", CIDR: l.Network}}, l.Networks...)
	return local.Open(ctx, local.Config{
		Dir: h.config.Data, Region: h.config.Region, Networks: networks, Flavors: l.Flavors, VolumeTypes: l.VolumeTypes,
		Zones: l.Zones, Volumes: volumeKind(l.Volumes), NetworkMode: networkMode(l.NetworkMode), Launcher: launcher, Forwarder: forward, Clock: clock.Real{}, Logger: h.logger,
	})
}

func networkMode(option string) local.NetworkMode {
	if option == "loopback" {
		return local.NetworkLoopback
	}
	return local.NetworkMode(option)
}

func volumeKind(option string) local.VolumeKind {
	if option == "auto" {
		return local.VolumesAuto
	}
	return local.VolumeKind(option)
}

// launcher starts agents: inside this process, or each as one of its own.
func (h *house) launcher() (local.Launcher, error) {
	if h.config.Cloud.Local.Agents == "process" {
		binary, err := agentBinary(h.config.Cloud.Local.AgentBinary)
		return local.ProcessLauncher{Binary: binary, Logger: h.logger}, err
	}
	return embedded.Launcher{Transport: h.guestTransport, Datastores: all.Datastores(), Logger: h.logger}, nil
}

// guestTransport connects an embedded agent as the guest that it is.
func (h *house) guestTransport(ctx context.Context, b guest.Bootstrap) (rpc.Transport, error) {
	if h.bus != nil {
		h.guests.Store(rpc.GuestTopic(b.Queue), b.GuestID)
		return h.bus.Guest(b.GuestID, b.Queue), nil
	}
	return amqp.Dial(ctx, amqp.Config{URL: b.RPCURL, Role: amqp.RoleGuest, GuestID: b.GuestID, Queue: b.Queue, Trust: h.trust(), Logger: h.logger})
}

// cutOff makes the messages inside this process obey the servers' networks: who is cut off reaches no control plane, and
// is not reached.
func (h *house) cutOff(c *local.Cloud) inproc.FaultFunc {
	return func(m *rpc.Envelope) inproc.Faults {
		if guest, ok := h.guests.Load(m.Topic); ok {
			return inproc.Faults{Drop: c.CutOff(guest.(string))}
		}
		_, err := uuid.Parse(m.Sender)
		return inproc.Faults{Refuse: err == nil && c.CutOff(m.Sender)}
	}
}

// agentBinary finds grove-agent beside this program, unless one is named.
func agentBinary(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), "grove-agent")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find grove-agent: %w; name it in cloud.local.agent_binary", err)
	}
	return path, nil
}
