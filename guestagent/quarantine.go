package guestagent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/host"
)

// defaultPatience is how long the dead master of a hot standby waits to be told its new role before it asks its peers:
// more than a failover takes.
const defaultPatience = 8 * time.Second

// quarantine keeps a dead master from starting while another may be taking over. Guarded by the agent's deed.
type quarantine struct {
	process string // identity of the one that died
	since   time.Time
	epoch   int64 // of the role that it died in
	boot    bool  // it was dead when the agent came: others may have gone on without it for long
	over    bool
	cause   string // why it waits
}

// What a tenant reads while a dead master waits.
const (
	causeAwaitsRole = "The database's process has ended; another member of its group is to take over."
	causeClosed     = "The database's process has ended, and no other member of its group can be asked which of them takes writes: bounded in what it may lose, it stays closed until it is told."
	causeOutdated   = "The database's process has ended, and what is on its disk may be older than what another member of its group has: it stays closed until it is told which of them takes writes."
)

// expectsFailover tells whether another takes over when this database dies.
func expectsFailover(d datastore.Desired) bool {
	return d.Failover && d.Master == nil && len(d.Peers) > 0
}

// waitsForRole tells whether the database, which is dead, must not be started yet. That is so for a master that another
// may replace: until a configuration of a higher epoch came, or its patience is over and its peers say how it stands, and
// it has all that they may have. One that has a new master by then is made its replica. The caller holds deed.
func (a *Agent) waitsForRole(ctx context.Context, s host.UnitState, boot bool) (wait bool, err error) {
	known := a.memory.get()
	if !expectsFailover(known.Desired) {
		return false, nil
	}
	now, q := a.Clock.Now(), &a.quarantine
	if q.since.IsZero() || q.process != s.Started || now.Before(q.since) {
		*q = quarantine{process: s.Started, since: now, epoch: known.RoleEpoch, boot: boot, cause: causeAwaitsRole}
	}
	defer func() { a.quarantined(wait) }()
	if q.over = q.over || known.RoleEpoch > q.epoch; q.over {
		return false, nil
	}
	waited := now.Sub(q.since)
	views := a.peers.seen()
	if master := findMaster(known.Desired.Peers, views); master != nil && (q.boot || waited >= a.patience) {
		return true, a.follow(ctx, *master)
	}
	if waited < a.patience || len(views) < len(known.Desired.Peers) {
		return true, nil
	}
	if q.cause = staysClosed(known.Desired, views, q.boot); q.cause != "" {
		return true, nil
	}
	q.over = true
	a.Logger.WarnContext(ctx, "nobody has taken over: the database goes on as the master")
	return false, nil
}

// staysClosed tells why a dead master that nobody tells its role does not go on as the master, "" when it does. Followers
// would copy what it has, however old: it goes on only where they cannot have more.
func staysClosed(d datastore.Desired, views []datastore.PeerView, boot bool) (cause string) {
	alive := slices.ContainsFunc(views, func(v datastore.PeerView) bool { return v.Alive })
	empty := !slices.ContainsFunc(views, func(v datastore.PeerView) bool { return v.Cause != causeRefused })
	switch {
	case !alive && bounded(d):
		return causeClosed
	case d.Persistence == dbaas.PersistenceNone && !empty, d.Persistence == dbaas.PersistenceRDB:
		return causeOutdated
	case boot && bounded(d): // with its server went the end of its append-only file
		return causeOutdated
	}
	return "" // who keeps nothing on disk and lets nobody in has nothing either
}

// quarantined says why the database is not started, at once.
func (a *Agent) quarantined(wait bool) {
	if wait && a.quarantine.cause != "" && a.watch.trouble() != a.quarantine.cause {
		a.watch.hold(a.quarantine.cause)
		a.watch.tellNow()
	}
}

func bounded(d datastore.Desired) bool {
	return d.Durability != nil && d.Durability.Durability == dbaas.DurabilityBounded
}

// findMaster finds the peer that takes writes now, nil when none does.
func findMaster(peers []datastore.Endpoint, views []datastore.PeerView) *datastore.Endpoint {
	for _, v := range views {
		if !v.Alive || v.Role != datastore.RoleMaster {
			continue
		}
		if i := slices.IndexFunc(peers, func(e datastore.Endpoint) bool { return e.GuestID == v.GuestID }); i >= 0 {
			return &peers[i]
		}
	}
	return nil
}

// follow makes the dead database a replica of the one that took over, and starts it. What it had alone is lost: the other
// has gone on without it.
func (a *Agent) follow(ctx context.Context, master datastore.Endpoint) error {
	if !a.mayRestart() {
		return nil
	}
	if err := a.Host.Volume.EnsureMounted(ctx); err != nil {
		return fmt.Errorf("mount the data volume: %w", err)
	}
	d := a.memory.get().Desired
	d.Master = &master
	if d.Moving != nil {
		d.Moving = &datastore.MovingAddress{Address: d.Moving.Address}
	}
	if _, err := a.driver.Configure(ctx, d); err != nil {
		return fmt.Errorf("follow the new master: %w", err)
	}
	if err := a.become(d, a.memory.get().RoleEpoch); err != nil {
		return err
	}
	a.quarantine = quarantine{} // it has its role
	a.watch.hold("")
	a.watch.tell("database.follows", fmt.Sprintf("The database died as the master and comes back as a replica: %s took over meanwhile.", master.Address))
	return a.start(ctx)
}
