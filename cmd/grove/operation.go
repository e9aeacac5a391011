package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (a *app) operationCommand() *cobra.Command {
	return a.group("operation", "Accepted changes: how far they are, what they did",
		a.operationList(), a.operationShow(), a.operationWatch(),
		a.operationChange("retry", "Let an operation try its current step again now", wire.OperationAction{Retry: &struct{}{}}),
		a.operationChange("cancel", "End an operation at its next step", wire.OperationAction{Cancel: &struct{}{}}),
	)
}

func (a *app) operationList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List operations, the newest first"}
	page := pageFlags(cmd)
	instance := a.instanceFlag(cmd, "only those that work on this `instance`")
	status := cmd.Flags().String("status", "", "only those with this `status`: running, failing, parked, succeeded, failed, cancelled")
	_ = cmd.RegisterFlagCompletionFunc("status", fixed("running", "failing", "parked", "succeeded", "failed", "cancelled"))
	return a.list(cmd, func(ctx context.Context, c *client.Client) (output.List, error) {
		l := output.List{Columns: []string{"ID", "Kind", "Resource ID", "Status", "Step", "Progress", "Created", "Ended"}}
		id, err := resourceID(ctx, c, *instance)
		if err != nil {
			return l, err
		}
		all, err := c.Operations(ctx, client.OperationFilter{ResourceID: id, Status: *status}, *page)
		for _, o := range all {
			l.Rows = append(l.Rows, []any{o.ID, o.Kind, o.ResourceID, o.Status, o.Step, position(o.OperationSummary), stamp(o.Created), stamp(o.Ended)})
		}
		return l, err
	})
}

// instanceFlag narrows a list to an instance; one that is no longer there is named by its id.
func (a *app) instanceFlag(cmd *cobra.Command, about string) *string {
	flag := cmd.Flags().String("instance", "", about+", by name or id")
	_ = cmd.RegisterFlagCompletionFunc("instance", a.completeFlag(instances()))
	return flag
}

func resourceID(ctx context.Context, c *client.Client, arg string) (string, error) {
	if arg == "" {
		return "", nil
	}
	ref, err := find(ctx, c, instances(), arg)
	return ref.ID, err
}

func position(o wire.OperationSummary) string {
	if o.StepTotal == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", o.StepNumber, o.StepTotal)
}

func (a *app) operationShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show OPERATION", Short: "Show an operation and its steps", Args: arguments("OPERATION")}
	return a.show(cmd, openOperations(), func(ctx context.Context, c *client.Client, id string) (output.Record, error) {
		o, err := c.Operation(ctx, id)
		if err != nil {
			return output.Record{}, err
		}
		return operationRecord(o), nil
	})
}

func operationRecord(o *wire.Operation) output.Record {
	var r output.Record
	r.Add("id", o.ID)
	r.Add("kind", o.Kind)
	r.Add("resource_type", o.ResourceType)
	r.Add("resource_id", o.ResourceID)
	r.Add("status", o.Status)
	r.Add("step", o.Step)
	r.Add("step_number", o.StepNumber)
	r.Add("step_total", o.StepTotal)
	r.Add("attempt", o.Attempt)
	r.Add("progress", o.Progress)
	r.Add("actor", o.Actor)
	r.Add("request_id", o.RequestID)
	r.Add("created", stamp(o.Created))
	r.Add("updated", stamp(o.Updated))
	r.Add("ended", stamp(o.Ended))
	if o.ParentID != "" {
		r.Add("parent_id", o.ParentID)
	}
	if o.Failure != nil {
		r.Add("failure", o.Failure.Message)
		if details := deref(o.Failure.Details); details != "" {
			r.Add("failure_details", details)
		}
	}
	r.Add("steps", steps(o.Steps))
	return r
}

// steps is an operation's history: objects for programs, a line each for people.
type history []wire.OperationStep

func steps(all []wire.OperationStep) history { return append(history{}, all...) }

// String gives a line per step.
func (h history) String() string {
	var text string
	for i, s := range h {
		if i > 0 {
			text += "\n"
		}
		text += fmt.Sprintf("%s %s %.2fs", s.Step, s.Outcome, s.Seconds)
		if s.Message != "" {
			text += ": " + s.Message
		}
	}
	return text
}

// MarshalYAML gives the steps as JSON has them.
func (h history) MarshalYAML() (any, error) {
	out := []map[string]any{}
	for _, s := range h {
		m := map[string]any{
			"kind": s.Kind, "step": s.Step, "attempt": s.Attempt, "outcome": s.Outcome, "seconds": s.Seconds,
			"started": stamp(s.Started), "ended": stamp(s.Ended),
		}
		if s.Message != "" {
			m["message"] = s.Message
		}
		out = append(out, m)
	}
	return out, nil
}

func (a *app) operationWatch() *cobra.Command {
	cmd := &cobra.Command{
		Use: "watch OPERATION...", Short: "Follow operations to their end", Args: arguments("OPERATION..."),
		Long:              "Watch shows the current step until all have ended: exit code 0 when all succeeded, 1 when one failed, 2 when\n--timeout was over first. Ctrl-C ends the watching, not the work.",
		ValidArgsFunction: a.completion(openOperations()),
	}
	timeout := cmd.Flags().Duration("timeout", 0, "give up watching after this `time`, e.g. 90s or 10m (default: never)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		var all []*work
		for _, id := range args {
			op, err := c.Operation(cmd.Context(), id) // a wrong id is an error at once
			if err != nil {
				return err
			}
			all = append(all, &work{id: op.ID, name: subject(cmd.Context(), c, op)})
		}
		return a.await(cmd.Context(), all, *timeout)
	}
	return cmd
}

// subject is how people call what an operation works on.
func subject(ctx context.Context, c *client.Client, op *wire.Operation) string {
	if op.ResourceType == "instance" {
		if i, err := c.Instance(ctx, op.ResourceID); err == nil {
			return i.Name
		}
	}
	return op.ResourceID
}

func (a *app) operationChange(verb, short string, action wire.OperationAction) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " OPERATION", Short: short, Args: arguments("OPERATION"), ValidArgsFunction: a.completion(openOperations(), 0)}
	w := a.waitFlags(cmd)
	a.keyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		reply, err := c.ActOnOperation(cmd.Context(), args[0], action)
		if err != nil {
			return err
		}
		a.warn(reply)
		one := &work{id: args[0], name: args[0]}
		if action.Cancel != nil {
			one.want = dbaas.OperationCancelled
		}
		return a.finishAll(cmd.Context(), []*work{one}, w)
	}
	return cmd
}

func (a *app) eventCommand() *cobra.Command {
	return a.group("event", "What happened", a.eventList())
}

func (a *app) eventList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List events, the newest first"}
	page := pageFlags(cmd)
	instance := a.instanceFlag(cmd, "only those of this `instance`")
	return a.list(cmd, func(ctx context.Context, c *client.Client) (output.List, error) {
		l := output.List{Columns: []string{"ID", "Created", "Kind", "Resource ID", "Operation ID", "Actor", "Message"}}
		id, err := resourceID(ctx, c, *instance)
		if err != nil {
			return l, err
		}
		all, err := c.Events(ctx, id, *page)
		for _, e := range all {
			l.Rows = append(l.Rows, []any{e.ID, stamp(e.Created), e.Kind, e.ResourceID, e.OperationID, e.Actor, e.Message})
		}
		return l, err
	})
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
