package simulation

import (
	"context"
	"errors"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// The kinds of what an instance has in the cloud.
const (
	port = iota
	volume
	server
	account
	kinds
)

// resource is something in the cloud, tagged with the guest that it is for.
type resource struct {
	kind  int
	guest string
	id    int
	since time.Duration // when it shows; later than its creation when the effect arrives late
	gone  bool
	size  int
}

type cloud struct {
	world  *world
	all    []*resource
	guests map[string]*guest
}

// owned lists what shows in the cloud for a guest, the oldest first.
func (c *cloud) owned(guest string) (found []*resource) {
	for _, r := range c.all {
		if r.guest == guest && !r.gone && r.since <= c.world.now {
			found = append(found, r)
		}
	}
	return found
}

func (c *cloud) find(guest string, kind, recorded int) *resource {
	var oldest *resource
	for _, r := range c.owned(guest) {
		if r.kind == kind && (r.id == recorded || oldest == nil) {
			oldest = r
		}
	}
	return oldest
}

var (
	errTransient = errors.New("503 from the cloud")
	errTimeout   = errors.New("no answer")
)

// begin is the way of a call to the cloud. Once it is sent, nothing can take it back.
func (c *cloud) begin(ctx context.Context) error {
	w := c.world
	w.pause(10 * time.Millisecond)
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.chance(w.transient) {
		return errTransient
	}
	w.pause(300 * time.Millisecond)
	return nil
}

// end is the way of an answer.
func (c *cloud) end() error {
	c.world.pause(10 * time.Millisecond)
	if c.world.chance(c.world.late) {
		return errTimeout
	}
	return nil
}

// refuse draws whether the cloud will never do what an operation wants.
func (c *cloud) refuse(op *engine.Operation) error {
	if !c.world.chance(c.world.permanent) {
		return nil
	}
	c.world.audit.excuse(op.ID)
	return engine.Permanent(dbaas.Errorf(dbaas.OverLimit, "There is no room for it."))
}

// ensure finds a resource by its tag, or creates it.
func (c *cloud) ensure(ctx context.Context, op *engine.Operation, kind int, in *instance) (id int, err error) {
	w, began := c.world, c.world.now
	if err := c.begin(ctx); err != nil {
		return 0, err
	}
	if r := c.find(in.id, kind, in.recorded[kind]); r != nil && w.Bug != EffectNotLookedUp {
		if w.Bug == OwnEffectIsConflict && in.recorded[kind] == 0 {
			return 0, engine.Permanent(dbaas.Errorf(dbaas.Conflict, "The name is taken."))
		}
		return r.id, c.end()
	}
	w.pause(100 * time.Millisecond)
	if err := c.refuse(op); err != nil {
		return 0, err
	}
	w.audit.created(in.id, kind, began)
	w.ids++
	r := &resource{kind: kind, guest: in.id, id: w.ids, since: w.now, size: in.size}
	c.all = append(c.all, r)
	if w.chance(w.late) {
		r.since += w.upTo(lateByMost)
		return 0, errTimeout
	}
	w.trace("created", in.id)
	return r.id, c.end()
}

func (c *cloud) remove(ctx context.Context, r *resource) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	r.gone = true
	return c.end()
}

func (c *cloud) extend(ctx context.Context, op *engine.Operation, in *instance, size int) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	r := c.find(in.id, volume, in.recorded[volume])
	if r == nil {
		return errTransient
	}
	if err := c.refuse(op); err != nil {
		return err
	}
	r.size = max(r.size, size)
	return c.end()
}

// janitor removes what no row accounts for, once no late arrival can be meant by it.
func (w *world) janitor() {
	for _, r := range w.cloud.all {
		if r.gone || w.now < r.since+2*lateByMost+lease {
			continue
		}
		in := w.instance(r.guest)
		if holder, _ := w.memory.Holder(context.Background(), in.id); holder != "" {
			continue
		}
		if in.status == deleted || (in.recorded[r.kind] != 0 && in.recorded[r.kind] != r.id) {
			r.gone = true
			w.trace("janitor removes what came late for", r.guest)
		}
	}
}

// guest is an agent on its server. Its journal answers a command that it has done already.
type guest struct {
	journal  map[string]bool
	highest  map[string]int64 // epoch by operation
	size     int
	prepared int
	heard    bool // its report has arrived
}

func (c *cloud) guest(id string) *guest {
	if c.guests == nil {
		c.guests = map[string]*guest{}
	}
	if c.guests[id] == nil {
		c.guests[id] = &guest{journal: map[string]bool{}, highest: map[string]int64{}}
	}
	return c.guests[id]
}

// command has a guest do a job. The bus may lose it, or bring it again later.
func (c *cloud) command(ctx context.Context, op *engine.Operation, in *instance, job string, effect func(*guest)) error {
	w := c.world
	if err := c.begin(ctx); err != nil {
		return err
	}
	id, epoch := op.ID, op.LeaseEpoch
	deliver := func() error {
		if c.find(in.id, server, in.recorded[server]) == nil {
			return errTimeout
		}
		g := c.guest(in.id)
		if epoch < g.highest[id] && w.Bug != GuestTakesAnyEpoch {
			w.result.Refused++
			return engine.ErrLeaseLost
		}
		w.audit.obeys(id, epoch, g.highest[id])
		g.highest[id] = max(g.highest[id], epoch)
		if !g.journal[job] {
			g.journal[job] = true
			w.trace("guest", in.id, "does", job)
			effect(g)
		}
		return nil
	}
	if w.chance(w.drop) {
		return errTimeout
	}
	if w.chance(w.duplicate) {
		w.after(w.upTo(2*lease), func() { _ = deliver() })
	}
	if err := deliver(); err != nil {
		return err
	}
	return c.end()
}

// report tells that a guest is ready, again and again until it is heard.
func (c *cloud) report(in *instance) {
	w, g := c.world, c.guest(in.id)
	if g.heard || w.done() || in.status == deleted {
		return
	}
	w.send("report", func() {
		if in.status == deleted {
			return
		}
		g.heard, in.observed = true, true
		w.trace("report of", in.id)
		if holder, _ := w.memory.Holder(context.Background(), in.id); holder != "" {
			_ = w.memory.Wake(context.Background(), holder)
			w.nudge(holder)
			if in.cluster == "" && w.rng.IntN(10) == 0 { // somebody only tried it out
				w.soon(50*time.Millisecond, func() { w.requestDelete(in, nil) })
			}
		}
	})
	w.after(10*time.Second, func() { c.report(in) })
}
