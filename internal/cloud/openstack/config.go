package openstack

import (
	"errors"
	"time"

	"github.com/grove-dbaas/grove/internal/clock"
)

// Config says which cloud, as whom, and where guests go. AuthURL, the account and Network must be given.
type Config struct {
	// AuthURL is Keystone's, with its version: https://keystone.example/v3.
	AuthURL string
	// The service account; its project owns everything. Domains are names.
	Username, Password, UserDomain string
	Project, ProjectDomain         string
	// Region and Interface ("public", "internal", "admin") choose the endpoints from the catalog.
	Region, Interface string
	// CAFile has the certificates to trust, "" for the system's.
	CAFile string
	// Timeout bounds each request.
	Timeout time.Duration
	// Network is the id of the network of guests whose tenant names none.
	Network string
	// ImageTags choose the image of a datastore version that names neither an image nor tags: the youngest that has them all.
	ImageTags []string
	Clock     clock.Clock
}

const defaultTimeout = time.Minute

func (c Config) withDefaults() (Config, error) {
	if c.AuthURL == "" || c.Username == "" || c.Password == "" || c.Project == "" || c.Network == "" {
		return c, errors.New("openstack: auth_url, username, password, project and network are needed")
	}
	if c.UserDomain == "" {
		c.UserDomain = "Default"
	}
	if c.ProjectDomain == "" {
		c.ProjectDomain = c.UserDomain
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Clock == nil {
		c.Clock = clock.Real{}
	}
	return c, nil
}
