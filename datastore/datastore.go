// Package datastore is the seam behind which each kind of database lives in a folder of its own.
//
// A datastore has two sides: a [Manifest], pure data that the API validates against without knowing what Redis is, and
// a [Guest], which drives the database on its server. The core carries the private conversation between the two
// (Desired.Values, Status.Observed) without understanding it.
package datastore

import (
	"context"
	"encoding/json"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// Datastore is one kind of database.
type Datastore interface {
	Manifest() *Manifest
	// Guest makes the driver for the database on this host. It starts nothing.
	Guest(h *host.Host) Guest
}

// Desired is everything that a guest's database should be. It is complete: what is not in it is the default. The same
// Desired applied twice changes nothing.
type Desired struct {
	Version     string            `json:"version"` // of the manifest: "7.0"
	Address     string            `json:"address"`
	FlavorRAM   int               `json:"flavor_ram"` // MB
	VCPUs       int               `json:"vcpus"`
	VolumeSize  int               `json:"volume_size"` // GB
	Values      map[string]any    `json:"values"`      // of the configuration group; validated against the manifest
	Persistence dbaas.Persistence `json:"persistence,omitempty"`
	Profile     string            `json:"profile,omitempty"` // of tuning, from the manifest
	// Master is whom this database follows; nil: it follows nobody, and takes writes.
	Master *Endpoint `json:"master,omitempty"`
	// Peers are the other members of the group. The agent looks at them and reports what it sees.
	Peers []Endpoint `json:"peers,omitempty"`
	// Failover: should this database die as the master of its group, another is to take over, and it waits for its new
	// role before it starts again.
	Failover bool `json:"failover,omitempty"`
	// Durability of a hot standby; nil for all others.
	Durability *dbaas.HighAvailability `json:"durability,omitempty"`
	// Cluster: the database is a member of a cluster, whose topology it keeps itself.
	Cluster bool `json:"cluster,omitempty"`
	// TLS is how tenants connect; nil: plain. Key and certificate are the secret "tls_key".
	TLS *TLS `json:"tls,omitempty"`
	// Secrets by kind ("password"); never logged, never journalled in clear. Only Prepare and a change of secrets carry
	// them: nil means "as they are".
	Secrets map[string]string `json:"-"`
	// Moving is the address that clients know the instance by; nil: they know this guest's own.
	Moving *MovingAddress `json:"moving,omitempty"`
}

// MovingAddress is an address that leads to whichever guest of an instance takes its clients. On a machine that announces
// such addresses itself (host.Host.Announces) the agent sees to it, and the database listens on it, now or later.
type MovingAddress struct {
	Address string `json:"address"`
	Here    bool   `json:"here"` // it leads to this guest
}

// Endpoint is where a member of a group listens.
type Endpoint struct {
	GuestID string `json:"guest_id"`
	Address string `json:"address"`
	Port    int    `json:"port"`
}

// TLS is how a server is reached, and by whose word it is known. All of it may be known. Without the secret "tls_key" a
// server keeps the certificate that it has.
type TLS struct {
	Mode dbaas.TLSMode `json:"mode"`
	CA   string        `json:"ca"` // PEM, of Grove's own authority; of two while one follows the other
	// Turning: the members of a cluster go over to TLS, or leave it, one after the other. Off and turning, a member says of
	// itself all that those need to know that have gone over already; both and turning, it speaks TLS with who comes so, while
	// everybody is still told to come plain. From either to the other, and to the same without turning, no member is lost.
	Turning bool `json:"turning,omitempty"`
}

// Certificate is what a database says of its own. It is part of Observed, under the key "certificate", so that the core
// renews it in time.
type Certificate struct {
	Mode     dbaas.TLSMode `json:"mode"`
	NotAfter time.Time     `json:"not_after"`
	Names    []string      `json:"names"` // host names and addresses that it is good for
	// Issuer is the key id of the authority that issued it, in hexadecimal, and Trusts those of the ones that the database
	// knows others by.
	Issuer string   `json:"issuer,omitempty"`
	Trusts []string `json:"trusts,omitempty"`
}

// The kinds of secrets that a Desired carries.
const (
	SecretPassword    = "password"    // of the tenant's own account
	SecretReplication = "replication" // of the account by which members reach each other
	SecretUsers       = "users"       // JSON: []UserAccount
	SecretTLSKey      = "tls_key"     // PEM: the private key, then its certificate; together, so that they always match
)

// UserAccount is a tenant's further account, as the secret "users" carries it.
type UserAccount struct {
	Name   string   `json:"name"`
	Hash   string   `json:"hash"` // SHA-256 of the password, in hexadecimal
	Grants []string `json:"grants"`
}

// Applied is what came of a Configure.
type Applied struct {
	// RestartRequired names the parameters that take effect only at the next start.
	RestartRequired []string `json:"restart_required,omitempty"`
	// Effective holds values that the database read back otherwise than they were asked for.
	Effective map[string]string `json:"effective,omitempty"`
	// Warnings are sentences for the tenant: what the change may cost.
	Warnings []string `json:"warnings,omitempty"`
}

// Status is what a guest sees of its database.
type Status struct {
	Status   dbaas.GuestStatus  `json:"status"`
	Cause    string             `json:"cause,omitempty"` // a sentence for the tenant when not healthy
	Observed json.RawMessage    `json:"observed,omitempty"`
	Metrics  map[string]float64 `json:"metrics,omitempty"`
	// Silent: the process runs, and did not answer as long as the look lasted.
	Silent bool `json:"silent,omitempty"`
}

// Guest drives one database on its server. Methods are called by one goroutine at a time, save Status, Replica.Probe and
// actions that were begun as jobs, which may run beside any other; every method may be repeated and may have been cut off
// half way the last time.
type Guest interface {
	// Prepare makes everything that must be there before the first start: directories on the mounted volume, files,
	// credentials. A database that is already there is kept.
	Prepare(ctx context.Context, d Desired) error
	// Start starts the database and returns when its process runs; Status tells when it serves.
	Start(ctx context.Context) error
	// Stop stops the database cleanly, its data on disk.
	Stop(ctx context.Context) error
	// Status looks at the database. It never fails: what cannot be seen is a status with a cause.
	Status(ctx context.Context) Status
	// Configure makes the running database as desired, where it can be done live, and the files so for the next start.
	// A refused value leaves everything as it was and is a dbaas.Error that names it.
	Configure(ctx context.Context, d Desired) (Applied, error)
	// Units names the host units that are supervised: one that died unasked is started again, with back-off.
	Units() []string
	// Actions are the named things that only this datastore's own topology asks for.
	Actions() map[string]Action
}

// Action is one named deed of a guest, with JSON arguments and result.
type Action func(ctx context.Context, args json.RawMessage) (any, error)
