package simulation

import (
	"context"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// The kinds of operations.
const (
	create        = "create"
	remove        = "delete"
	resize        = "resize"
	failover      = "failover"
	createCluster = "create_cluster"
)

// status of an instance.
type status string

const (
	building status = "BUILD"
	active   status = "ACTIVE"
	deleting status = "DELETING"
	broken   status = "ERROR"
	deleted  status = "DELETED"
)

// instance is a row. A cluster is one that has members and nothing in the cloud.
type instance struct {
	id           string
	project      string
	status       status
	size         int
	recorded     [kinds]int
	observed     bool
	failovers    int
	lastFailover string
	members      []string
	cluster      string
}

func (w *world) instance(id string) *instance {
	for _, in := range w.rows {
		if in.id == id {
			return in
		}
	}
	return nil
}

// insert adds a row and counts it against its project's quota.
func (w *world) insert(in *instance) {
	w.rows = append(w.rows, in)
	if in.members == nil {
		w.used[in.project]++
	}
}

// fenced changes rows in a transaction that first looks whether the lease is still held.
func (w *world) fenced(op *engine.Operation, change func()) error {
	w.pause(2 * time.Millisecond)
	if w.chance(w.storeDown) {
		return errStoreDown
	}
	row, err := w.memory.Operation(context.Background(), op.ID)
	if err != nil {
		return err
	}
	if w.Bug != RowsWithoutFence && (row.LeaseEpoch != op.LeaseEpoch || row.Status.Ended()) {
		w.result.Refused++
		return engine.ErrLeaseLost
	}
	w.audit.wrote(op)
	change()
	w.audit.counts()
	w.pause(2 * time.Millisecond)
	if w.chance(w.storeDown) {
		return errStoreDown
	}
	return nil
}

type stepFunc func(ctx context.Context, op *engine.Operation, in *instance) error

// step makes a step that gets its instance's row.
func (w *world) step(name string, run stepFunc) engine.Step {
	return engine.Step{Name: name, Doc: "doing " + name, Within: 30 * time.Minute, Run: w.onInstance(run)}
}

func (w *world) onInstance(run stepFunc) func(context.Context, *engine.Operation) error {
	return func(ctx context.Context, op *engine.Operation) error { return run(ctx, op, w.instance(op.ResourceID)) }
}

func (w *world) workflows() []engine.Workflow {
	return []engine.Workflow{w.createWorkflow(), w.deleteWorkflow(), w.resizeWorkflow(), w.failoverWorkflow(), w.clusterWorkflow()}
}

func (w *world) ensure(name string, kind int) engine.Step {
	return w.step(name, func(ctx context.Context, op *engine.Operation, in *instance) error {
		id, err := w.cloud.ensure(ctx, op, kind, in)
		if err != nil {
			return err
		}
		return w.fenced(op, func() { in.recorded[kind] = id })
	})
}

func (w *world) createWorkflow() engine.Workflow {
	return engine.Workflow{
		Kind: create, Doc: "Creates.", Resumed: w.lookAgain,
		Steps: []engine.Step{
			w.ensure("ensurePort", port),
			w.ensure("ensureVolume", volume),
			w.ensure("ensureAccount", account),
			w.ensure("ensureServer", server),
			w.step("awaitServer", func(_ context.Context, _ *engine.Operation, in *instance) error {
				if r := w.cloud.find(in.id, server, in.recorded[server]); r == nil || w.now < r.since+4*time.Second {
					return engine.Wait(3 * time.Second)
				}
				return nil
			}),
			w.step("prepare", func(ctx context.Context, op *engine.Operation, in *instance) error {
				return w.cloud.command(ctx, op, in, op.ID+".prepare", func(g *guest) {
					g.prepared++
					g.size = in.size
					w.after(time.Second+w.upTo(4*time.Second), func() { w.cloud.report(in) })
				})
			}),
			w.step("activate", func(_ context.Context, op *engine.Operation, in *instance) error {
				if !in.observed {
					return engine.Wait(20 * time.Second)
				}
				return w.fenced(op, func() { in.status = active })
			}),
		},
		Failed: w.cleanup(func(_ context.Context, op *engine.Operation, in *instance) error {
			return w.fenced(op, func() { in.status = broken })
		}),
	}
}

// cleanup makes a workflow's Failed, which takes some time and has nothing to do for what is deleted.
func (w *world) cleanup(run stepFunc) func(context.Context, *engine.Operation) error {
	return w.onInstance(func(ctx context.Context, op *engine.Operation, in *instance) error {
		switch {
		case in.status == deleted:
			return nil
		case w.storeNow().Sub(op.StepSince) < 15*time.Second:
			return engine.Wait(5 * time.Second)
		}
		return run(ctx, op, in)
	})
}

// lookAgain ends an operation whose instance was deleted while a failover held it.
func (w *world) lookAgain(_ context.Context, op *engine.Operation) (string, error) {
	if w.instance(op.ResourceID).status == deleted {
		w.audit.excuse(op.ID)
		return "", engine.Permanent(dbaas.Errorf(dbaas.NotFound, "It was deleted."))
	}
	return "", nil
}

func (w *world) deleteWorkflow() engine.Workflow {
	return engine.Workflow{
		Kind: remove, Doc: "Deletes.",
		Steps: []engine.Step{
			w.step("begin", func(_ context.Context, op *engine.Operation, in *instance) error {
				w.audit.deletes(in.id)
				return w.fenced(op, func() {
					if in.status != deleted {
						in.status = deleting
					}
				})
			}),
			w.step("removeOwned", func(ctx context.Context, _ *engine.Operation, in *instance) error {
				for _, r := range w.cloud.owned(in.id) {
					if w.Bug == VolumeForgotten && r.kind == volume {
						continue
					}
					if err := w.cloud.remove(ctx, r); err != nil {
						return err
					}
					return engine.Wait(100 * time.Millisecond)
				}
				return nil
			}),
			w.step("forget", func(_ context.Context, op *engine.Operation, in *instance) error {
				return w.fenced(op, func() {
					if in.status != deleted || w.Bug == QuotaGivenBackTwice {
						w.used[in.project]--
					}
					in.status = deleted
				})
			}),
		},
	}
}

// wish is what a resize was asked for.
type wish struct{ Size int }

func (w *world) resizeWorkflow() engine.Workflow {
	with := func(run func(ctx context.Context, op *engine.Operation, in *instance, size int) error) stepFunc {
		return func(ctx context.Context, op *engine.Operation, in *instance) error {
			var s wish
			if err := op.Load(&s); err != nil {
				return err
			}
			return run(ctx, op, in, s.Size)
		}
	}
	return engine.Workflow{
		Kind: resize, Doc: "Resizes.", Resumed: w.lookAgain,
		Steps: []engine.Step{
			w.step("extendVolume", with(func(ctx context.Context, op *engine.Operation, in *instance, size int) error {
				return w.cloud.extend(ctx, op, in, size)
			})),
			w.step("apply", with(func(ctx context.Context, op *engine.Operation, in *instance, size int) error {
				return w.cloud.command(ctx, op, in, op.ID+".apply", func(g *guest) { g.size = size })
			})),
			w.step("record", with(func(_ context.Context, op *engine.Operation, in *instance, size int) error {
				return w.fenced(op, func() { in.size = size })
			})),
		},
		Failed: w.cleanup(func(ctx context.Context, op *engine.Operation, in *instance) error {
			return w.cloud.command(ctx, op, in, op.ID+".revert", func(g *guest) { g.size = in.size })
		}),
	}
}

func (w *world) failoverWorkflow() engine.Workflow {
	return engine.Workflow{
		Kind: failover, Doc: "Fails over.",
		Steps: []engine.Step{
			w.step("settle", func(_ context.Context, op *engine.Operation, _ *instance) error {
				if w.storeNow().Sub(op.StepSince) < 3*time.Second {
					return engine.Wait(time.Second)
				}
				return nil
			}),
			w.step("promote", func(ctx context.Context, op *engine.Operation, in *instance) error {
				return w.cloud.command(ctx, op, in, op.ID+".promote", func(*guest) {})
			}),
			w.step("record", func(_ context.Context, op *engine.Operation, in *instance) error {
				return w.fenced(op, func() {
					if in.lastFailover != op.ID {
						in.lastFailover = op.ID
						in.failovers++
					}
				})
			}),
		},
	}
}

func (w *world) clusterWorkflow() engine.Workflow {
	return engine.Workflow{
		Kind: createCluster, Doc: "Creates a cluster.",
		Steps: []engine.Step{
			w.step("createMembers", func(_ context.Context, op *engine.Operation, in *instance) error {
				return w.fenced(op, func() {
					for _, id := range in.members {
						if w.instance(id) == nil {
							w.insert(&instance{id: id, project: in.project, status: building, size: in.size, cluster: in.id})
							w.enqueueChild(op, create, id)
						}
					}
				})
			}),
			w.step("awaitMembers", func(_ context.Context, _ *engine.Operation, in *instance) error {
				for _, id := range in.members {
					if w.instance(id).status != active {
						return engine.Wait(time.Minute)
					}
				}
				return nil
			}),
			w.step("finish", func(_ context.Context, op *engine.Operation, in *instance) error {
				return w.fenced(op, func() { in.status = active })
			}),
		},
		Failed: w.cleanup(w.removeMembers),
	}
}

// removeMembers deletes what a cluster's creation has added.
func (w *world) removeMembers(_ context.Context, op *engine.Operation, in *instance) error {
	left := 0
	err := w.fenced(op, func() {
		for _, id := range in.members {
			member := w.instance(id)
			if member == nil || member.status == deleted {
				continue
			}
			left++
			w.requestDelete(member, op)
		}
		if left == 0 {
			in.status = broken
		}
	})
	if err == nil && left > 0 {
		return engine.Wait(10 * time.Second)
	}
	return err
}
