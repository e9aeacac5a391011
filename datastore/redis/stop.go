package redis

import (
	"context"
)

// Stop implements [datastore.Guest]. The server writes what it has not yet written, and ends.
func (g *Guest) Stop(ctx context.Context) error {
	r, err := g.read()
	if err != nil {
		return err
	}
	if state, err := g.host.Units.State(ctx, unit); r != nil && err == nil && state.Running {
		g.dropConversion(ctx, r)
	}
	return g.host.Units.Stop(ctx, unit)
}

// dropConversion ends the first writing of an append-only file, during which a server refuses to end. The snapshot has
// the data, and nobody was let in. A server that does not listen will be killed, which is as good then.
func (g *Guest) dropConversion(ctx context.Context, r *record) {
	c, err := g.connect(ctx, r)
	if err != nil {
		return
	}
	running, err := c.configGet(ctx, "port", "tls-port", "appendonly")
	if err != nil || isOpen(running) || running["appendonly"] != "yes" {
		return
	}
	if found, err := inspectData(g.data); err == nil && found == formSnapshot {
		_ = c.configSet(ctx, settings{"appendonly": "no"}) // see above
	}
}
