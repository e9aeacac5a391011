// Command grove-agent runs in each guest: it does what the control plane asks of the guest's database, and keeps it
// running by itself.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/all"
	"github.com/grove-dbaas/grove/guestagent"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
)

// version is set when the program is linked.
var version = "development"

func main() {
	keepSmall()
	configFile := flag.String("config", "/etc/grove/bootstrap.json", "what the agent was given at first boot")
	showVersion := flag.Bool("version", false, "print the version")
	flag.Parse()
	if *showVersion {
		fmt.Println("grove-agent", version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *configFile); err != nil {
		fmt.Fprintln(os.Stderr, "grove-agent:", err)
		os.Exit(1)
	}
}

// keepSmall trades a little CPU for memory: the tenant's database needs it more.
func keepSmall() {
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(12 << 20)
}

func run(ctx context.Context, configFile string) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	b, err := readBootstrap(configFile)
	if err != nil {
		return err
	}
	spec, err := machineOf(b)
	if err != nil {
		return err
	}
	programs, err := guestagent.OpenPrograms(spec.Dir)
	if err != nil {
		return err
	}
	if err := programs.Launch(ctx, logger); err != nil {
		return err
	}
	machine, err := spec.Open(logger)
	if err != nil {
		return err
	}
	d, err := find(b.Datastore)
	if err != nil {
		return err
	}
	trust := openTrust(b, spec.Dir)
	transport, err := amqp.Dial(ctx, amqp.Config{URL: b.RPCURL, Role: amqp.RoleGuest, GuestID: b.GuestID, Queue: b.Queue, Trust: certificatesOf(trust), Logger: logger})
	if err != nil {
		return err
	}
	agent, err := guestagent.New(guestagent.Config{
		Bootstrap: b.Bootstrap, Host: machine, Datastore: d, Transport: transport, Version: version, Programs: programs, Trust: trust, Logger: logger,
	})
	if err != nil {
		return errors.Join(err, transport.Close())
	}
	err = errors.Join(agent.Run(ctx), agent.Close())
	if errors.Is(err, guestagent.ErrReplaced) {
		logger.Info("another program takes the agent's place")
		return programs.Relaunch()
	}
	return err
}

// bootstrap is what the file says: what the control plane gave, and, where no environment variable names another file
// for it, the machine; without either that is a cloud's server.
type bootstrap struct {
	guest.Bootstrap
	Host *host.Spec `json:"host,omitempty"`
}

func readBootstrap(path string) (b bootstrap, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err == nil && (b.GuestID == "" || b.RPCURL == "" || len(b.RPCKey) == 0) {
		err = errors.New("it needs guest_id, rpc_url and rpc_key")
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w", path, err)
	}
	return b, err
}

// openTrust is whom the broker is known by; nil: as the system does.
func openTrust(b bootstrap, dir string) *guestagent.BrokerTrust {
	if b.BrokerCA == "" {
		return nil
	}
	return guestagent.OpenBrokerTrust(dir, b.BrokerCA, func(ctx context.Context, ca []byte) error {
		_, err := amqp.Expiry(ctx, b.RPCURL, func() ([]byte, error) { return ca, nil })
		return err
	})
}

// certificatesOf is a trust as the transport asks for it.
func certificatesOf(t *guestagent.BrokerTrust) amqp.Trust {
	if t == nil {
		return nil
	}
	return t.Certificates
}

// machineOf tells what the agent's machine is like.
func machineOf(b bootstrap) (host.Spec, error) {
	if path := os.Getenv(host.SpecEnv); path != "" {
		return host.ReadSpec(path)
	}
	switch {
	case b.Host != nil:
		return *b.Host, nil
	case b.Address == "" || b.VolumeID == "":
		return host.Spec{}, fmt.Errorf("the machine is not known: the configuration needs address and volume_id, or host, or %s set to a file", host.SpecEnv)
	}
	return host.Server(b.Address, b.VolumeID), nil
}

func find(name string) (datastore.Datastore, error) {
	for _, d := range all.Datastores() {
		if d.Manifest().Name == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("this agent does not drive the datastore %q", name)
}
