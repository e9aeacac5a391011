package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/grove-dbaas/grove/internal/host"
)

// failedWritesFile is in the agent's directory while the append-only files may have holes.
const failedWritesFile = "failed-writes.json"

// failedWrites is remembered from a write error until a rewrite has made the append-only files anew.
type failedWrites struct {
	RunID    string `json:"run_id,omitempty"`   // of the process that we asked for a rewrite
	Rewrites int    `json:"rewrites,omitempty"` // that it had begun before
}

// readFailedWrites gives nil when there were none.
func (g *Guest) readFailedWrites() (*failedWrites, error) {
	b, err := os.ReadFile(g.path(failedWritesFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the note of failed writes: %w", err)
	}
	w := new(failedWrites)
	if json.Unmarshal(b, w) != nil {
		return new(failedWrites), nil // there was something
	}
	return w, nil
}

func (g *Guest) writeFailedWrites(w failedWrites) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return host.WriteFile(g.path(failedWritesFile), b, 0o600, nil)
}

// suspected tells whether the append-only files may have holes.
func (g *Guest) suspected() bool {
	w, err := g.readFailedWrites()
	return err != nil || w != nil
}

// heal remembers write errors and, when they are over, has the append-only files made anew, once in the life of a
// process.
func (g *Guest) heal(ctx context.Context, c *client, i info) error {
	g.healing.Lock()
	defer g.healing.Unlock()
	w, err := g.readFailedWrites()
	if err != nil {
		return err
	}
	if i["aof_last_write_status"] == "err" {
		if w == nil || *w != (failedWrites{}) {
			err = g.writeFailedWrites(failedWrites{})
		}
		return err
	}
	if w == nil || i["loading"] == "1" || i["async_loading"] == "1" || i["tcp_port"] == "0" || i["aof_enabled"] != "1" ||
		i["aof_rewrite_in_progress"] != "0" || i["aof_rewrite_scheduled"] != "0" {
		return nil
	}
	rewrites, err := strconv.Atoi(i["aof_rewrites"])
	if err != nil {
		return fmt.Errorf("read how many rewrites there were: %w", err)
	}
	switch {
	case w.RunID != i["run_id"]:
		if !g.hasRoom(i) {
			return nil
		}
		if err := g.writeFailedWrites(failedWrites{RunID: i["run_id"], Rewrites: rewrites}); err != nil {
			return err
		}
		return c.BgRewriteAOF(ctx).Err()
	case rewrites > w.Rewrites && i["aof_last_bgrewrite_status"] == "ok":
		if err := os.Remove(g.path(failedWritesFile)); err != nil {
			return fmt.Errorf("forget failed writes: %w", err)
		}
		return host.SyncDir(g.dir)
	}
	return nil
}

// hasRoom tells whether the volume has room for the data once more.
func (g *Guest) hasRoom(i info) bool {
	var s syscall.Statfs_t
	size, err := strconv.ParseUint(i["aof_current_size"], 10, 64)
	return err == nil && syscall.Statfs(g.data, &s) == nil && s.Bavail*uint64(s.Bsize) > size
}
