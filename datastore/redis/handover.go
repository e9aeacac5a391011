package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

var _ datastore.Replica = (*Guest)(nil)

// Position implements [datastore.Replica].
func (g *Guest) Position(ctx context.Context) (datastore.Position, error) {
	c, err := g.running(ctx)
	if err != nil {
		return datastore.Position{}, err
	}
	i, err := c.info(ctx)
	if err != nil {
		return datastore.Position{}, unavailable(err)
	}
	offset, err := strconv.ParseInt(i["master_repl_offset"], 10, 64)
	if err != nil {
		return datastore.Position{}, fmt.Errorf("read the offset: %w", err)
	}
	return datastore.Position{Replication: replication(i), Offset: offset}, nil
}

// running is the connection to a server that must run.
func (g *Guest) running(ctx context.Context) (*client, error) {
	r, err := g.require()
	if err != nil {
		return nil, err
	}
	c, err := g.connect(ctx, r)
	if err != nil {
		return nil, unavailable(err)
	}
	return c, nil
}

func unavailable(err error) error {
	return dbaas.WrapError(err, dbaas.Unavailable, "The database does not answer.")
}

func (g *Guest) positionAction(ctx context.Context, _ json.RawMessage) (any, error) {
	return g.Position(ctx)
}

func (g *Guest) handoverAction(ctx context.Context, args json.RawMessage) (any, error) {
	var to datastore.Endpoint
	if err := json.Unmarshal(args, &to); err != nil || to.Address == "" || to.Port == 0 {
		return nil, dbaas.Errorf(dbaas.BadRequest, "A handover needs the address and port of the new master.")
	}
	return nil, g.Handover(ctx, to)
}

const (
	handoverTimeout = 10 * time.Second // where the caller sets none
	handoverReserve = time.Second      // of the caller's time, to see what came of it
)

// Handover implements [datastore.Replica]. Before, it is noted that to may be the master: should everything here end in
// the middle, this database does not come back as one before that is known.
func (g *Guest) Handover(ctx context.Context, to datastore.Endpoint) error {
	r, err := g.require()
	if err != nil {
		return err
	}
	if r.Desired.Cluster {
		return dbaas.Errorf(dbaas.BadRequest, "Members of a cluster hand over by themselves.")
	}
	c, err := g.connect(ctx, r)
	if err != nil {
		return unavailable(err)
	}
	i, err := c.info(ctx)
	if err != nil {
		return unavailable(err)
	}
	at := r.reach(to)
	if i["role"] != "master" && i["master_failover_state"] == "no-failover" {
		if follows(i, &at) { // done before
			return g.yielded(r, to)
		}
		return dbaas.Errorf(dbaas.Conflict, "The database is not a master, and has nothing to hand over.")
	}
	yielding := *r
	yielding.Yielding = &to
	if err := g.write(&yielding); err != nil {
		return err
	}
	if i["master_failover_state"] == "no-failover" {
		c.awaitMoment(ctx, to)
		err := c.Do(ctx, "failover", "to", at.Address, at.Port, "timeout", patience(ctx).Milliseconds()).Err()
		if hasPrefix(err, "ERR") { // nothing has begun
			return errors.Join(g.write(r), dbaas.WrapError(err, dbaas.Conflict, "The database at %s is no replica in step; it cannot take over.", to.Address))
		}
		if err != nil {
			return fmt.Errorf("begin the handover: %w", err)
		}
	}
	return g.awaitHandover(ctx, c, r, to)
}

// A replica tells once a second how far it is, and while writes wait nobody asks it to: beginBefore the next time, most of
// that second is not spent waiting.
const (
	ackEvery    = time.Second
	beginBefore = 150 * time.Millisecond
)

// awaitMoment waits for the moment to begin a handover: shortly before the replica tells how far it is, or now when it has
// everything or its moments cannot be made out.
func (c *client) awaitMoment(ctx context.Context, to datastore.Endpoint) {
	ctx, cancel := context.WithTimeout(ctx, min(patience(ctx)/2, 3*ackEvery))
	defer cancel()
	first := ""
	err := poll(ctx, func() (bool, error) {
		i, err := c.info(ctx)
		if err != nil {
			return false, err
		}
		told := toldBy(i, to)
		if told == i["master_repl_offset"] {
			cancel() // nothing is being written
		}
		if first == "" {
			first = told
		}
		return told != first, ctx.Err()
	})
	if err != nil {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(ackEvery - beginBefore):
	}
}

// toldBy is the offset that a replica told last, "" for one that is not known.
func toldBy(i info, to datastore.Endpoint) string {
	for name, line := range i {
		if strings.HasPrefix(name, "slave") && strings.HasPrefix(line, "ip="+to.Address+",") {
			_, rest, _ := strings.Cut(line, ",offset=")
			offset, _, _ := strings.Cut(rest, ",")
			return offset
		}
	}
	return ""
}

// patience is how long the replica may take to catch up: writes wait meanwhile.
func patience(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return handoverTimeout
	}
	left := deadline.Sub(clock.Real{}.Now())
	return max(time.Millisecond, min(handoverTimeout, left-min(handoverReserve, left/2)))
}

// awaitHandover waits until the server knows its role again. One that has let go already, and that the new master does not
// answer, is left so: only who knows the other side may decide, by a Configure.
func (g *Guest) awaitHandover(ctx context.Context, c *client, r *record, to datastore.Endpoint) error {
	var i info
	at := r.reach(to)
	err := poll(ctx, func() (bool, error) {
		var err error
		i, err = c.info(ctx)
		return i["master_failover_state"] == "no-failover", err
	})
	switch {
	case err != nil:
		return dbaas.WrapError(err, dbaas.Unavailable, "The handover has begun, and its end is not known yet.")
	case follows(i, &at):
		return g.yielded(r, to)
	}
	return errors.Join(g.write(r), dbaas.Errorf(dbaas.Unavailable, "The replica did not catch up in time; the database is still the master."))
}

// yielded notes that the other is the master now, so that a restart does not bring this one back as one.
func (g *Guest) yielded(r *record, to datastore.Endpoint) error {
	next := *r
	next.Desired.Master, next.Yielding = &to, nil
	return g.write(&next)
}
