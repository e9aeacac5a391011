package local

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// VolumeKind is what volumes are made of.
type VolumeKind string

// The kinds of volumes. Auto takes loop files where the machine lets us, else directories.
const (
	VolumesAuto      VolumeKind = ""
	VolumesLoop      VolumeKind = "loop"
	VolumesDirectory VolumeKind = "directory"
)

// Config is what the local cloud offers, and where it lives. Only Dir and Launcher must be given.
type Config struct {
	// Dir holds everything: records in Dir/cloud, servers in Dir/servers/<guest id>.
	Dir string
	// Launcher starts the agents.
	Launcher Launcher
	// Forwarder is the command line of a process that calls Forward with Dir, none for forwarding in this process, which
	// ends with it.
	Forwarder   []string
	Region      string
	Flavors     []dbaas.Flavor
	VolumeTypes []dbaas.VolumeType
	// Networks have CIDRs of addresses that this machine has: loopback ones need no set-up. The first is the default.
	Networks []dbaas.Network
	Zones    []string
	// NetworkMode tells whether servers share this machine's network.
	NetworkMode NetworkMode
	Volumes     VolumeKind
	// Path lists directories in which servers look for programs before $PATH.
	Path   []string
	Clock  clock.Clock
	Logger *slog.Logger
}

// DefaultFlavors are the flavors of a cloud that is configured without any.
func DefaultFlavors() []dbaas.Flavor {
	return []dbaas.Flavor{
		{ID: "1", Name: "tiny", RAM: 512, VCPUs: 1, Disk: 5},
		{ID: "2", Name: "small", RAM: 1024, VCPUs: 1, Disk: 10},
		{ID: "3", Name: "medium", RAM: 2048, VCPUs: 2, Disk: 20},
		{ID: "4", Name: "large", RAM: 4096, VCPUs: 2, Disk: 40},
	}
}

// withDefaults fills what is not given and checks the rest.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.Launcher == nil {
		return c, fmt.Errorf("local cloud: a directory and a launcher are needed")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("local cloud: %w", err)
	}
	c.Dir = dir
	if len(c.Flavors) == 0 {
		c.Flavors = DefaultFlavors()
	}
	if len(c.VolumeTypes) == 0 {
		c.VolumeTypes = []dbaas.VolumeType{{ID: "local", Name: "local", IsPublic: true}}
	}
	if len(c.Networks) == 0 {
		c.Networks = []dbaas.Network{{ID: "local", Name: "local", CIDR: "127.77.0.0/16"}}
	}
	if len(c.Zones) == 0 {
		c.Zones = []string{"local"}
	}
	if c.Region == "" {
		c.Region = "local"
	}
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, n := range c.Networks {
		if p, err := netip.ParsePrefix(n.CIDR); err != nil || !p.Addr().Is4() || p.Bits() > 30 {
			return c, fmt.Errorf("local cloud: network %s: %q is no IPv4 network of four addresses or more, such as 127.77.0.0/16", n.Name, n.CIDR)
		}
	}
	return c, nil
}

func (c *Config) catalog() dbaas.Catalog {
	return dbaas.Catalog{Region: c.Region, Flavors: c.Flavors, VolumeTypes: c.VolumeTypes, Networks: c.Networks, Zones: c.Zones}
}

func (c *Config) flavor(id string) (dbaas.Flavor, error) {
	for _, f := range c.Flavors {
		if f.ID == id {
			return f, nil
		}
	}
	return dbaas.Flavor{}, dbaas.Errorf(dbaas.BadRequest, "There is no flavor %q.", id)
}

func (c *Config) checkZone(zone string) error {
	if zone != "" && !slices.Contains(c.Zones, zone) {
		return dbaas.Errorf(dbaas.BadRequest, "There is no availability zone %q.", zone)
	}
	return nil
}

func (c *Config) checkVolumeType(name string) error {
	known := slices.ContainsFunc(c.VolumeTypes, func(t dbaas.VolumeType) bool { return t.ID == name || t.Name == name })
	if name != "" && !known {
		return dbaas.Errorf(dbaas.BadRequest, "There is no volume type %q.", name)
	}
	return nil
}

// network finds a network by id or name; "" is the default one.
func (c *Config) network(id string) (dbaas.Network, error) {
	if id == "" {
		return c.Networks[0], nil
	}
	for _, n := range c.Networks {
		if n.ID == id || n.Name == id {
			return n, nil
		}
	}
	return dbaas.Network{}, dbaas.Errorf(dbaas.BadRequest, "There is no network %q.", id)
}
