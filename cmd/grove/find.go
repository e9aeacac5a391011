package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
)

// lister gives all things of a kind, by id and name.
type lister func(ctx context.Context, c *client.Client) ([]wire.Resource, error)

// kind is a kind of thing that can be named on the command line.
type kind struct {
	noun string // "instance"
	list string // the command that lists them
	all  lister
}

func instances() kind {
	return kind{"instance", "grove instance list", func(ctx context.Context, c *client.Client) ([]wire.Resource, error) {
		all, err := c.Instances(ctx, client.Page{}, true)
		return refs(all, func(i wire.Instance) wire.Resource { return wire.Resource{ID: i.ID, Name: i.Name} }), err
	}}
}

func configurations() kind {
	return kind{"configuration", "grove configuration list", func(ctx context.Context, c *client.Client) ([]wire.Resource, error) {
		all, err := c.Configurations(ctx, client.Page{})
		return refs(all, func(g wire.Configuration) wire.Resource { return wire.Resource{ID: g.ID, Name: g.Name} }), err
	}}
}

func flavors() kind {
	return kind{"flavor", "grove flavor list", func(ctx context.Context, c *client.Client) ([]wire.Resource, error) {
		all, err := c.Flavors(ctx)
		return refs(all, func(f wire.Flavor) wire.Resource { return wire.Resource{ID: f.StrID, Name: f.Name} }), err
	}}
}

func datastores() kind {
	return kind{"datastore", "grove datastore list", func(ctx context.Context, c *client.Client) ([]wire.Resource, error) {
		all, err := c.Datastores(ctx)
		return refs(all, func(d wire.Datastore) wire.Resource { return wire.Resource{ID: d.ID, Name: d.Name} }), err
	}}
}

func versions() kind {
	return kind{"datastore version", "grove datastore version list", func(ctx context.Context, c *client.Client) ([]wire.Resource, error) {
		all, err := c.Datastores(ctx)
		var found []wire.Resource
		for _, d := range all {
			found = append(found, refs(d.Versions, func(v wire.Version) wire.Resource { return wire.Resource{ID: v.ID, Name: v.Name} })...)
		}
		return found, err
	}}
}

// openOperations are those that can be followed, retried or cancelled; they have no names.
func openOperations() kind {
	return kind{"operation", "grove operation list", func(ctx context.Context, c *client.Client) ([]wire.Resource, error) {
		all, err := c.Operations(ctx, client.OperationFilter{}, client.Page{Limit: 100})
		return refs(all, func(o wire.Operation) wire.Resource { return wire.Resource{ID: o.ID} }), err
	}}
}

func refs[T any](all []T, ref func(T) wire.Resource) []wire.Resource {
	out := make([]wire.Resource, len(all))
	for i, one := range all {
		out[i] = ref(one)
	}
	return out
}

// find gives what a name or an id means. An id in the form of a UUID is taken as it is; the server judges it.
func find(ctx context.Context, c *client.Client, k kind, arg string) (wire.Resource, error) {
	if uuid.Validate(arg) == nil && len(arg) == 36 {
		return wire.Resource{ID: arg}, nil
	}
	all, err := k.all(ctx, c)
	if err != nil {
		return wire.Resource{}, err
	}
	return match(k, all, arg)
}

// match looks for an id first, then for a name, which only one may have.
func match(k kind, all []wire.Resource, arg string) (wire.Resource, error) {
	if i := slices.IndexFunc(all, func(r wire.Resource) bool { return r.ID == arg }); i >= 0 {
		return all[i], nil
	}
	var named []wire.Resource
	for _, r := range all {
		if r.Name == arg {
			named = append(named, r)
		}
	}
	switch len(named) {
	case 0:
		return wire.Resource{}, fmt.Errorf("there is no %s %q; '%s' shows those that there are", k.noun, arg, k.list)
	case 1:
		return named[0], nil
	}
	var found []string
	for _, r := range named {
		found = append(found, r.ID)
	}
	return wire.Resource{}, fmt.Errorf("%d %ss are called %q; take the id of the one you mean:\n  %s", len(named), k.noun, arg, strings.Join(found, "\n  "))
}

// label is how people call a thing.
func label(r wire.Resource) string {
	if r.Name != "" {
		return r.Name
	}
	return r.ID
}

// completionTime bounds how long a shell waits for names.
const completionTime = 2 * time.Second

// completion completes names (and ids of what has none) of a kind: positions are those of the arguments that it is for; none is all.
func (a *app) completion(k kind, positions ...int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(positions) > 0 && !slices.Contains(positions, len(args)) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), completionTime)
		defer cancel()
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := k.all(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return suggestions(all, args, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

func suggestions(all []wire.Resource, taken []string, prefix string) []cobra.Completion {
	var out []cobra.Completion
	for _, r := range all {
		word, about := r.Name, r.ID
		if word == "" {
			word, about = r.ID, ""
		}
		if strings.HasPrefix(word, prefix) && !slices.Contains(taken, word) {
			out = append(out, cobra.CompletionWithDesc(word, about))
		}
	}
	return out
}

// fixed completes one of some words.
func fixed(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}
