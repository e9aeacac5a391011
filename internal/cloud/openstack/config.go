package openstack

import (
	"errors"

	"github.com/grove-dbaas/grove/internal/keystone"
)

// Config says where guests go. Account and Network must be given.
type Config struct {
	// Account is the service account; its project owns everything.
	Account *keystone.Account
	// Region and Interface ("public", "internal", "admin") choose the endpoints from the catalog.
	Region, Interface string
	// Network is the id of the network of guests whose tenant names none.
	Network string
	// ManagementNetwork is the id of the network from which agents reach the broker; "" where they reach it from their own.
	ManagementNetwork string
	// ExternalNetwork is the id of the network of public addresses; "" is the only one that there is.
	ExternalNetwork string
	// ImageTags choose the image of a datastore version that names neither an image nor tags: the youngest that has them all.
	ImageTags []string
}

func (c Config) check() error {
	if c.Account == nil || c.Network == "" {
		return errors.New("openstack: an account and a network are needed")
	}
	return nil
}
