package control

import (
	"context"
	"errors"
	"slices"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

// ErrDryRun is how a use case ends for a caller who only wants to know: everything was checked, nothing was changed,
// and [Caller.DryRun] tells what would have been.
var ErrDryRun = errors.New("dry run: nothing was changed")

// Plan is what a request would do.
type Plan struct {
	Operation string   // kind of the operation, the first of several; "" for what takes effect at once
	Resources []string // ids of what it would change
	Steps     []string // what would be done, in order
	Effects   []string // what users would notice, in sentences
	OnFailure string   // how it would end if one of the steps failed for good
	// Moves is what would be moved between the members of a cluster.
	Moves *datastore.Plan
}

// Workflow tells what the operations of one kind do, for plans.
type Workflow struct {
	Doc   string
	Steps []string
	Ended string // how it ends when a step fails for good
}

// commit runs a use case's transaction. That of a dry run is rolled back once it has passed every check. Every change
// goes through here, so that none can mistake a dry run for an order.
func (s *Service) commit(ctx context.Context, c Caller, change func(tx *store.Tx) error) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		if c.DryRun != nil {
			*c.DryRun = Plan{}
		}
		if c.Claim != nil {
			c.Claim.effect = store.Effect{}
		}
		err := change(tx)
		if err == nil && c.DryRun == nil && c.Claim != nil {
			return tx.NoteIdempotent(c.Claim.Row, c.Claim.effect)
		}
		if err != nil || c.DryRun == nil {
			return err
		}
		if len(c.DryRun.Effects) == 0 {
			c.DryRun.Effects = []string{"It takes effect at once; the database is not touched."}
		}
		return ErrDryRun
	})
}

// plan notes a change in the caller's plan, if that is what was asked for.
func (s *Service) plan(c Caller, ch change) {
	if c.DryRun == nil {
		return
	}
	p, workflow := c.DryRun, s.Workflows[ch.kind]
	p.Resources = append(append(p.Resources, ch.resource().id), ch.lock...)
	if ch.moves != nil {
		p.Moves = ch.moves
	}
	if p.Operation != "" {
		return
	}
	p.Operation, p.Steps, p.OnFailure = ch.kind, workflow.Steps, workflow.Ended
	p.Effects = append(append(p.Effects, effects(ch.kind, workflow)...), ch.effects...)
	if loss := losses(ch); loss != "" {
		p.Effects = append(p.Effects, loss)
	}
}

// losses says what data a change loses by the way in which the instance keeps it.
func losses(ch change) string {
	switch {
	case ch.instance == nil:
		return ""
	case ch.kind == "set_persistence":
		return PersistenceLoss(ch.instance.Persistence)
	case ch.instance.Persistence == dbaas.PersistenceNone &&
		slices.Contains([]string{"restart_instance", "stop_instance", "resize_flavor", "upgrade_instance"}, ch.kind):
		return "All data is lost: the instance has no persistence."
	default:
		return ""
	}
}

// effects says what users notice of an operation, beside what its description says.
func effects(kind string, w Workflow) []string {
	var said []string
	if w.Doc != "" {
		said = append(said, w.Doc)
	}
	switch kind {
	case "create_instance", "create_replicas":
		said = append(said, "Nothing that exists is touched.")
	case kindDelete:
		said = append(said, "All data is lost.")
	case "restart_instance", "resize_flavor", "upgrade_instance", "rebuild_instance":
		said = append(said, "Connections are cut, and a single database does not answer until it has loaded its data again.")
	case "restart_pair", "upgrade_pair", "resize_pair", "rebuild_pair":
		said = append(said, "Connections are cut once, when the standby takes over: writes wait for less than a second, and none is lost.")
	case "upgrade_cluster":
		said = append(said, "Connections to a member are cut when its turn comes; clients of the cluster follow to who serves then. There is no way back to the old version.")
	case "create_cluster":
		said = append(said, "Nothing that exists is touched.")
	case kindDeleteCluster:
		said = append(said, "All data is lost.")
	case "stop_instance":
		said = append(said, "Connections are cut, and none are accepted until the instance is started.")
	case "resize_volume":
		said = append(said, "The database goes on serving, save on a machine that can grow only a volume that is not in use.")
	case "configure_instance":
		said = append(said, "Values that need a restart wait for one (status RESTART_REQUIRED).")
	case "set_tls":
		said = append(said, "Who is connected stays so; a way in that is shut takes no new connections.")
	case "set_users":
		said = append(said, "Who may do less than before is cut off or refused at once; all others notice nothing.")
	case "promote_replica":
		said = append(said, "Writes wait for less than a second, and none is lost; clients write to the new source's address from then on.")
	case "eject_source":
		said = append(said, "What the old source had not passed on yet is lost to the set; it keeps its own data, detached.")
	case "upgrade_agent":
		said = append(said, "Users notice nothing.")
	case "set_password":
		said = append(said, "New connections need the new password.")
	}
	return said
}
