package redis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// persistenceOf is what a database keeps on disk.
func persistenceOf(d datastore.Desired) dbaas.Persistence {
	if d.Persistence == "" {
		return dbaas.PersistenceAOF
	}
	return d.Persistence
}

// savePoints are after how many seconds with how many changes a snapshot is taken.
const savePoints = "900 1 300 10 60 10000"

// applyPersistence puts what follows from what is kept on disk into a template.
func applyPersistence(values map[string]any, p dbaas.Persistence) {
	values["appendonly"], values["save"] = p == "" || p == dbaas.PersistenceAOF, ""
	if p == dbaas.PersistenceRDB {
		values["save"] = savePoints
	}
}

// lossOf says what a crash loses.
func lossOf(d datastore.Desired) string {
	switch persistenceOf(d) {
	case dbaas.PersistenceNone:
		return "Nothing is kept on disk from now on: a restart or a crash of a single instance loses all data."
	case dbaas.PersistenceRDB:
		return "A crash loses what was written since the last snapshot: of 10,000 changes or more up to 1 minute, of 10 or more 5 minutes, of fewer 15."
	}
	return "A crash of the database loses nothing that it has confirmed, one of the server up to about 1 second, from when all data have been written to the append-only file."
}

// appendOnlyDone tells whether the append-only file holds all data, after it was turned on with data in memory.
func appendOnlyDone(i info) bool {
	return i["aof_enabled"] == "1" && i["aof_rewrite_in_progress"] == "0" && i["aof_rewrite_scheduled"] == "0" &&
		i["aof_last_bgrewrite_status"] == "ok"
}

// persistNow is persist with a look of its own.
func (g *Guest) persistNow(ctx context.Context, r *record, c *client) (done bool, err error) {
	i, err := c.info(ctx)
	if err != nil {
		return false, err
	}
	return g.persist(ctx, r, c, i)
}

// persist takes the next step to where the server keeps its data as it should. At each moment what was kept before is
// kept until what takes its place is complete.
func (g *Guest) persist(ctx context.Context, r *record, c *client, i info) (done bool, err error) {
	g.persisting.Lock()
	defer g.persisting.Unlock()
	m, err := readMark(g.data)
	if err != nil || m == nil {
		return false, err
	}
	appending := i["aof_enabled"] == "1"
	switch persistenceOf(r.Desired) {
	case dbaas.PersistenceNone:
		return g.keepNothing(ctx, c, i, m, appending)
	case dbaas.PersistenceRDB:
		return g.keepSnapshots(ctx, c, i, m, appending)
	}
	if !appending {
		return false, c.configSet(ctx, settings{"appendonly": "yes"})
	}
	if !appendOnlyDone(i) {
		return false, nil
	}
	return true, noteVolatile(g.data, m, false)
}

func (g *Guest) keepNothing(ctx context.Context, c *client, i info, m *mark, appending bool) (done bool, err error) {
	if i["master_sync_in_progress"] == "1" { // a copy of the master's data comes as a file
		return m.Volatile, nil
	}
	if err := noteVolatile(g.data, m, true); err != nil {
		return false, err
	}
	if appending {
		if err := c.configSet(ctx, settings{"appendonly": "no"}); err != nil {
			return false, err
		}
	}
	return true, dropFiles(g.data)
}

func (g *Guest) keepSnapshots(ctx context.Context, c *client, i info, m *mark, appending bool) (done bool, err error) {
	_, absent := os.Stat(filepath.Join(g.data, rdbFile))
	if appending || m.Volatile || absent != nil {
		if saved, err := g.snapshot(ctx, c, i); !saved || err != nil {
			return false, err
		}
		if err := c.configSet(ctx, settings{"appendonly": "no"}); err != nil {
			return false, err
		}
		if err := noteVolatile(g.data, m, false); err != nil {
			return false, err
		}
	}
	if err := os.RemoveAll(filepath.Join(g.data, aofDir)); err != nil {
		return false, fmt.Errorf("remove the append-only file: %w", err)
	}
	return true, nil
}

// saving is a snapshot that was asked for.
type saving struct {
	runID string // of the server
	saves int    // that it had taken before
}

// snapshot has the server take a snapshot, and tells when it has.
func (g *Guest) snapshot(ctx context.Context, c *client, i info) (done bool, err error) {
	if i["rdb_bgsave_in_progress"] != "0" || i["aof_rewrite_in_progress"] != "0" {
		return false, nil
	}
	saves, err := strconv.Atoi(i["rdb_saves"])
	if err != nil {
		return false, errors.New("the server does not tell how many snapshots it has taken")
	}
	last := g.saving
	if last.runID == i["run_id"] && saves > last.saves {
		g.saving = saving{}
		return true, nil
	}
	g.saving = saving{runID: i["run_id"], saves: saves}
	return false, c.BgSave(ctx).Err()
}
