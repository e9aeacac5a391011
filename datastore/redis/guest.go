package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
	"github.com/grove-dbaas/grove/internal/secret"
)

// unit is the server's name among the host's units.
const unit = "redis"

// Guest drives the server of one host. What the server is told is written anew from the record at each start.
type Guest struct {
	host *host.Host
	dir  string // ours: configuration, accounts, socket
	data string // on the volume

	door    sync.Mutex // held by whoever opens the port
	healing sync.Mutex // held by whoever looks after failed writes
	naming  sync.Mutex // held by whoever notes which node of its cluster the server is
	mover   mover
	lines   lines
	mu      sync.Mutex // guards the fields below
	client  *client
	drift   driftLook

	persisting sync.Mutex // held by whoever changes how data are kept
	saving     saving
}

var _ datastore.Guest = (*Guest)(nil)

func newGuest(h *host.Host) *Guest {
	// What the library writes to the standard error are errors that it returns as well. It has one logger for all, which
	// may be set at any time, and again.
	redis.SetLogger(&logging.VoidLogger{})
	return &Guest{host: h, dir: filepath.Join(h.Dir, "redis"), data: filepath.Join(h.DataDir, "redis")}
}

// record is what is on disk of what the database should be.
type record struct {
	Desired      datastore.Desired `json:"desired"` // without secrets
	PasswordHash string            `json:"password_hash"`
	AgentSecret  string            `json:"agent_secret"`
	Volume       string            `json:"volume"` // id in its mark
	// ReplicationSecret is by what the members of a group reach each other; a server must know it in clear. The hash of the
	// one before stays valid until the new one has come to everybody.
	ReplicationSecret string                  `json:"replication_secret,omitempty"`
	FormerReplication string                  `json:"former_replication,omitempty"`
	Users             []datastore.UserAccount `json:"users,omitempty"`
	// Yielding is to whom a handover is on its way, whose end is not known yet.
	Yielding *datastore.Endpoint `json:"yielding,omitempty"`
	// LeavesAt is when a member that has nothing left may leave its cluster.
	LeavesAt time.Time `json:"leaves_at,omitzero"`
	// Dismissed: the member has left its cluster, and its port stays shut.
	Dismissed bool `json:"dismissed,omitempty"`
	// TLSPair is the server's private key and its certificate, in PEM; "" while it speaks no TLS.
	TLSPair string `json:"tls_pair,omitempty"`
	// Before is what the database was before an upgrade that has not shown yet that the new version takes its data.
	Before *datastore.Desired `json:"before,omitempty"`
}

// adopt takes over what a Desired says; secrets that it does not carry stay.
func (r *record) adopt(d datastore.Desired) error {
	r.Desired, r.Yielding, r.LeavesAt, r.Dismissed = d, nil, time.Time{}, false
	if password := d.Secrets[datastore.SecretPassword]; password != "" {
		r.PasswordHash = hashPassword(password)
	}
	if s := d.Secrets[datastore.SecretReplication]; s != "" {
		r.FormerReplication = "" // of one that comes again, everybody has it
		if r.ReplicationSecret != "" && s != r.ReplicationSecret {
			r.FormerReplication = hashPassword(r.ReplicationSecret)
		}
		r.ReplicationSecret = s
	}
	if list, ok := d.Secrets[datastore.SecretUsers]; ok {
		users, err := readUsers(list)
		if err != nil {
			return err
		}
		r.Users = users
	}
	if d.Master != nil && r.ReplicationSecret == "" {
		return dbaas.Errorf(dbaas.BadRequest, "A database does not follow another without the group's replication secret.")
	}
	return r.adoptCertificate(d)
}

// The files of the agent's directory.
const (
	recordFile = "record.json"
	configFile = "redis.conf"
	aclFile    = "users.acl"
	socketFile = "redis.sock"
)

func (g *Guest) path(name string) string { return filepath.Join(g.dir, name) }

// read gives the record, nil before the first Prepare.
func (g *Guest) read() (*record, error) {
	b, err := os.ReadFile(g.path(recordFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	r := new(record)
	if err == nil {
		err = json.Unmarshal(b, r)
	}
	if err != nil {
		return nil, fmt.Errorf("read what the database should be: %w", err)
	}
	return r, nil
}

// require is read for those who need a prepared database.
func (g *Guest) require() (*record, error) {
	r, err := g.read()
	if err == nil && r == nil {
		err = dbaas.Errorf(dbaas.Conflict, "The database has not been prepared yet.")
	}
	return r, err
}

// write keeps the record and writes the files that follow from it. Only we may read them, and the server those that are its.
func (g *Guest) write(r *record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := host.WriteFile(g.path(recordFile), b, 0o600, nil); err != nil {
		return err
	}
	g.forgetDrift()
	return g.render(r)
}

// render writes the server's own files.
func (g *Guest) render(r *record) error {
	p, err := g.plan(r.Desired)
	if err != nil {
		return err
	}
	if err := g.writeCertificate(r); err != nil {
		return err
	}
	if err := g.host.WriteShared(g.path(aclFile), renderACL(r.accounts())); err != nil {
		return err
	}
	return g.host.WriteShared(g.path(configFile), p.render(g.owned(r)))
}

// owned lists what nobody else may decide. The port is shut until the server has shown what it holds.
func (g *Guest) owned(r *record) []directive {
	return append([]directive{
		{"port", "0"},
		{"bind", g.listens(r.Desired)},
		{"bind-source-addr", r.Desired.Address},
		{"protected-mode", "no"},
		{"unixsocket", g.serverSocket()},
		{"unixsocketperm", "700"},
		{"aclfile", g.path(aclFile)},
		{"dir", g.data},
		{"dbfilename", rdbFile},
		{"appenddirname", aofDir},
		{"appendfilename", aofFile},
		{"enable-debug-command", "no"},
		{"enable-module-command", "no"},
		{"enable-protected-configs", "no"},
		{"daemonize", "no"},
		{"supervised", "auto"},
		{"logfile", ""},
		{"always-show-logo", "no"},
	}, slices.Concat(r.roleDirectives(), clusterDirectives(r), g.tlsDirectives(r))...)
}

// listens tells on which addresses the server listens: on one that moves also while another machine has it.
func (g *Guest) listens(d datastore.Desired) string {
	if d.Moving == nil || !g.host.Announces {
		return d.Address
	}
	return d.Address + " " + d.Moving.Address
}

// Units implements [datastore.Guest].
func (g *Guest) Units() []string { return []string{unit} }

// Actions implements [datastore.Guest].
func (g *Guest) Actions() map[string]datastore.Action {
	actions := g.clusterActions()
	actions[datastore.ActionPosition] = g.positionAction
	actions[datastore.ActionHandover] = g.handoverAction
	return actions
}

// Prepare implements [datastore.Guest].
func (g *Guest) Prepare(ctx context.Context, d datastore.Desired) error {
	if err := g.requireMounted(ctx); err != nil {
		return err
	}
	if _, err := g.program(ctx, d.Version); err != nil {
		return err
	}
	r, err := g.read()
	if err != nil {
		return err
	}
	if r != nil { // here already: only make it as desired
		if _, err := claimVolume(g.data, r.Volume); err != nil {
			return err
		}
		_, err := g.Configure(ctx, d)
		return err
	}
	if r, err = g.newRecord(d); err != nil {
		return err
	}
	return g.write(r)
}

func (g *Guest) newRecord(d datastore.Desired) (*record, error) {
	if d.Secrets[datastore.SecretPassword] == "" {
		return nil, dbaas.Errorf(dbaas.BadRequest, "A database is not prepared without a password.")
	}
	r := &record{AgentSecret: secret.GeneratePassword()}
	if err := r.adopt(d); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the agent's directory: %w", err)
	}
	if _, err := newPlan(d); err != nil {
		return nil, err
	}
	var err error
	r.Volume, err = claimVolume(g.data, "")
	return r, err
}

func (g *Guest) requireMounted(ctx context.Context) error {
	mounted, err := g.host.Volume.Mounted(ctx)
	if err != nil {
		return fmt.Errorf("look for the data volume: %w", err)
	}
	if !mounted {
		return dbaas.Errorf(dbaas.Unavailable, "The data volume is not mounted; the database is not started without it.")
	}
	return nil
}
