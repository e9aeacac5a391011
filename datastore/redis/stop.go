package redis

import (
	"context"
	"fmt"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Stop implements [datastore.Guest]. The server writes what it has not yet written, and ends.
func (g *Guest) Stop(ctx context.Context) error {
	r, err := g.read()
	if err != nil {
		return err
	}
	if state, err := g.host.Units.State(ctx, unit); r != nil && err == nil && state.Running {
		if err := g.beforeStop(ctx, r); err != nil {
			return err
		}
	}
	return g.host.Units.Stop(ctx, unit)
}

// beforeStop makes sure that nothing is lost by the end of the server. One that does not listen will be killed.
func (g *Guest) beforeStop(ctx context.Context, r *record) error {
	c, err := g.connect(ctx, r)
	if err != nil {
		return nil // see above
	}
	running, err := c.configGet(ctx, "port", "tls-port", "appendonly", "save")
	if err != nil {
		return nil // likewise
	}
	if running["appendonly"] == "yes" {
		g.dropConversion(ctx, c, running)
		return nil
	}
	if running["save"] == "" {
		return nil
	}
	return lastSnapshot(ctx, c)
}

// dropConversion ends the first writing of an append-only file, during which a server refuses to end. The snapshot has
// the data, and nobody was let in.
func (g *Guest) dropConversion(ctx context.Context, c *client, running settings) {
	if isOpen(running) {
		return
	}
	if found, err := inspectData(g.data); err == nil && found == formSnapshot {
		_ = c.configSet(ctx, settings{"appendonly": "no"}) // a server that does not end is killed, which is as good then
	}
}

// lastSnapshot has the server write what it has before it is told to end. Where it cannot, as on a full volume, it would
// refuse to end, and be killed in the end with all that its last snapshot does not have. A replica's data are its master's.
func lastSnapshot(ctx context.Context, c *client) error {
	asked := false
	return poll(ctx, func() (bool, error) {
		i, err := c.info(ctx)
		switch {
		case err != nil:
			return false, fmt.Errorf("look at the last snapshot: %w", err)
		case i["role"] == "slave" || i["loading"] == "1" || i["rdb_changes_since_last_save"] == "0":
			return true, nil
		case i["rdb_bgsave_in_progress"] == "1" || i["aof_rewrite_in_progress"] == "1":
			return false, nil
		case !asked:
			asked = true
			return false, c.BgSave(ctx).Err()
		case i["rdb_last_bgsave_status"] != "ok":
			return false, dbaas.Errorf(dbaas.Conflict, "The database cannot write its last snapshot and is not stopped, for it would lose what was written since. The volume may be full: make it larger, or delete data.")
		}
		return true, nil // what is written from now on, the server saves when it ends
	})
}
