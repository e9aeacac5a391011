package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// How often the server is asked how far an operation is: often at first, for most changes are short.
const (
	eager       = 100 * time.Millisecond
	eagerFor    = 3 * time.Second
	steady      = time.Second
	silentAtMax = 2 * time.Minute // how long the server may be away before waiting is given up
)

// waitFlags are the flags of commands that start work.
type waitFlags struct {
	wait    bool
	timeout time.Duration
}

// waitFlags adds --wait, --timeout and --dry-run.
func (a *app) waitFlags(cmd *cobra.Command) *waitFlags {
	var w waitFlags
	cmd.Flags().BoolVar(&w.wait, "wait", false, "wait until the work is done (exit 0), failed (1) or --timeout is over (2)")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 0, "with --wait: give up waiting after this `time`, e.g. 90s or 10m; the work goes on (default: never)")
	cmd.Flags().BoolVar(&a.dryRun, "dry-run", false, "change nothing; show what would be done and what users would notice")
	return &w
}

// timedOutError says that work was not done in the time that the user gave it.
type timedOutError struct {
	after time.Duration
	ids   []string
	line  string
}

func (e *timedOutError) Error() string {
	return fmt.Sprintf("not done after %s: %s\nThe work goes on. Follow it with: %s", e.after, e.line, follow(e.ids))
}

func follow(ids []string) string { return "grove operation watch " + strings.Join(ids, " ") }

// work is an operation that is waited for.
type work struct {
	id   string
	name string // what it works on, for people
	op   *wire.Operation
	want dbaas.OperationStatus // the end that is hoped for; "" is succeeded
}

func (w *work) ended() bool { return w.op != nil && dbaas.OperationStatus(w.op.Status).Ended() }

// finish ends a command that started work: it waits for it where asked, else says how to follow it. A change that
// started no operation is done already.
func (a *app) finish(ctx context.Context, reply *client.Reply, name string, w *waitFlags) error {
	a.warn(reply)
	return a.finishAll(ctx, works(name, reply.Operations), w)
}

func works(name string, ids []string) []*work {
	all := make([]*work, len(ids))
	for i, id := range ids {
		all[i] = &work{id: id, name: name}
	}
	return all
}

func (a *app) finishAll(ctx context.Context, all []*work, w *waitFlags) error {
	if len(all) == 0 {
		return nil
	}
	if w.wait {
		return a.await(ctx, all, w.timeout)
	}
	if !a.quiet {
		a.remarkAccepted(ctx, all)
	}
	return nil
}

// remarkAccepted says how to follow what is still at work: some changes are answered only after their effect.
func (a *app) remarkAccepted(ctx context.Context, all []*work) {
	for _, w := range all {
		if op, err := a.connection.Operation(ctx, w.id); err == nil {
			w.op = op
		}
	}
	if left := open(all); len(left) > 0 {
		a.remark("Accepted. Follow it with: %s", follow(ids(left)))
	}
}

func ids(all []*work) []string {
	out := make([]string, len(all))
	for i, w := range all {
		out[i] = w.id
	}
	return out
}

// await follows operations until all have ended, showing the current step. Cancelling ctx leaves them at work.
func (a *app) await(ctx context.Context, all []*work, timeout time.Duration) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	p := newProgress(a.err, a.quiet, clock.Real{})
	bounded := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	err = poll(bounded, c, all, p)
	p.end()
	switch {
	case ctx.Err() != nil:
		a.remark("The work goes on. Follow it with: %s", follow(ids(open(all))))
		return context.Canceled
	case bounded.Err() != nil:
		return &timedOutError{after: timeout, ids: ids(open(all)), line: p.summary(open(all))}
	case err != nil:
		return fmt.Errorf("%w\nThe work goes on. Follow it with: %s", err, follow(ids(open(all))))
	}
	return outcome(all)
}

// poll asks for each open operation in turn until all have ended. A server that is away for a while, because it is
// being restarted, is waited for.
func poll(ctx context.Context, c *client.Client, all []*work, p *progress) error {
	lastAnswer := p.started
	for {
		for _, w := range open(all) {
			op, err := c.Operation(ctx, w.id)
			switch {
			case err == nil:
				w.op, lastAnswer = op, p.clock.Now()
				p.saw(w)
			case ctx.Err() != nil:
				return ctx.Err()
			case !passing(err) || p.clock.Now().Sub(lastAnswer) > silentAtMax:
				return err
			default:
				p.away(err)
			}
		}
		if len(open(all)) == 0 {
			return nil
		}
		if err := p.pause(ctx, all); err != nil {
			return err
		}
	}
}

// passing tells whether an error may be over soon: no answer, or a server that says so.
func passing(err error) bool {
	var gone *client.UnreachableError
	var refused *client.Error
	return errors.As(err, &gone) || errors.As(err, &refused) && (refused.RetryAfter > 0 || refused.Status >= 500 && refused.Status != http.StatusNotImplemented)
}

func open(all []*work) []*work {
	var left []*work
	for _, w := range all {
		if !w.ended() {
			left = append(left, w)
		}
	}
	return left
}

// outcome is nil when all operations ended as they should.
func outcome(all []*work) error {
	var failures []error
	for _, w := range all {
		if want := cmp.Or(w.want, dbaas.OperationSucceeded); dbaas.OperationStatus(w.op.Status) != want {
			failures = append(failures, fmt.Errorf("%s of %s %s%s", w.op.Kind, w.name, w.op.Status, reason(w.op)))
		}
	}
	return errors.Join(failures...)
}

func reason(op *wire.Operation) string {
	if op.Failure == nil || op.Failure.Message == "" {
		return ""
	}
	return ": " + op.Failure.Message
}
