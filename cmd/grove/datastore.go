package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
)

func (a *app) datastoreCommand() *cobra.Command {
	return a.group("datastore", "Datastores, their versions and parameters",
		a.datastoreList(), a.datastoreShow(),
		a.group("version", "Versions of datastores", a.versionList(), a.versionShow(), a.versionCreate(), a.versionSet(), a.versionDelete()),
		a.group("parameter", "Parameters that configuration groups may set", a.parameterList(), a.parameterShow()),
	)
}

// list is a command without arguments that shows a list.
func (a *app) list(cmd *cobra.Command, rows func(ctx context.Context, c *client.Client) (output.List, error)) *cobra.Command {
	cmd.Args = arguments()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		l, err := rows(cmd.Context(), c)
		if err != nil {
			return err
		}
		return a.writer().List(l)
	}
	return cmd
}

// show is a command that shows one thing, found by its first argument.
func (a *app) show(cmd *cobra.Command, k kind, record func(ctx context.Context, c *client.Client, id string) (output.Record, error)) *cobra.Command {
	cmd.ValidArgsFunction = a.completion(k, 0)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), k, args[0])
		if err != nil {
			return err
		}
		r, err := record(cmd.Context(), c, ref.ID)
		if err != nil {
			return err
		}
		return a.writer().Record(r)
	}
	return cmd
}

func (a *app) datastoreList() *cobra.Command {
	return a.list(&cobra.Command{Use: "list", Short: "List datastores"}, func(ctx context.Context, c *client.Client) (output.List, error) {
		all, err := c.Datastores(ctx)
		l := output.List{Columns: []string{"ID", "Name"}}
		for _, d := range all {
			l.Rows = append(l.Rows, []any{d.ID, d.Name})
		}
		return l, err
	})
}

func (a *app) datastoreShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show DATASTORE", Short: "Show a datastore and its versions", Args: arguments("DATASTORE")}
	return a.show(cmd, datastores(), func(ctx context.Context, c *client.Client, id string) (output.Record, error) {
		var r output.Record
		d, err := c.Datastore(ctx, id)
		if err != nil {
			return r, err
		}
		r.Add("id", d.ID)
		r.Add("name", d.Name)
		names := []string{}
		standard := ""
		for _, v := range d.Versions {
			names = append(names, v.Name)
			if v.ID == d.DefaultVersion {
				standard = v.Name
			}
		}
		r.Add("default_version", standard)
		r.Add("versions", names)
		return r, nil
	})
}

func (a *app) versionList() *cobra.Command {
	cmd := &cobra.Command{Use: "list DATASTORE", Short: "List the versions of a datastore", Args: arguments("DATASTORE")}
	cmd.ValidArgsFunction = a.completion(datastores(), 0)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), datastores(), args[0])
		if err != nil {
			return err
		}
		all, err := c.Versions(cmd.Context(), ref.ID)
		if err != nil {
			return err
		}
		l := output.List{Columns: []string{"ID", "Name", "Version"}}
		for _, v := range all {
			l.Rows = append(l.Rows, []any{v.ID, v.Name, v.Version})
		}
		return a.writer().List(l)
	}
	return cmd
}

// datastoreFlag says which datastore a version belongs to.
func (a *app) datastoreFlag(cmd *cobra.Command) *string {
	flag := cmd.Flags().String("datastore", "", "the version's `datastore`, where its name alone is ambiguous")
	_ = cmd.RegisterFlagCompletionFunc("datastore", a.completeFlag(datastores()))
	return flag
}

func (a *app) versionShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show VERSION", Short: "Show a version of a datastore", Args: arguments("VERSION")}
	cmd.ValidArgsFunction = a.completion(versions(), 0)
	datastore := a.datastoreFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		id, err := findVersion(cmd.Context(), c, *datastore, args[0])
		if err != nil {
			return err
		}
		v, err := c.Version(cmd.Context(), id)
		if err != nil {
			return err
		}
		var r output.Record
		r.Add("id", v.ID)
		r.Add("name", v.Name)
		r.Add("version", v.Version)
		r.Add("datastore", v.Datastore)
		if v.VersionAdmin != nil {
			r.Add("active", v.Active)
			r.Add("packages", deref(v.Packages))
			r.Add("image", deref(v.Image))
			r.Add("image_tags", v.ImageTags)
		}
		return a.writer().Record(r)
	}
	return cmd
}

// findVersion gives the id of a version: by id, by a name that is unique or belongs to the datastore that is given, or
// by the name of a datastore, which stands for its default version.
func findVersion(ctx context.Context, c *client.Client, datastore, arg string) (string, error) {
	if uuid.Validate(arg) == nil && len(arg) == 36 {
		return arg, nil
	}
	all, err := c.Datastores(ctx)
	if err != nil {
		return "", err
	}
	if datastore != "" {
		ref, err := match(datastores(), refs(all, func(d wire.Datastore) wire.Resource { return wire.Resource{ID: d.ID, Name: d.Name} }), datastore)
		if err != nil {
			return "", err
		}
		all = slices.DeleteFunc(all, func(d wire.Datastore) bool { return d.ID != ref.ID })
	}
	var found []wire.Resource
	for _, d := range all {
		if d.Name == arg && d.DefaultVersion != "" {
			return d.DefaultVersion, nil
		}
		for _, v := range d.Versions {
			found = append(found, wire.Resource{ID: v.ID, Name: v.Name})
		}
	}
	ref, err := match(versions(), found, arg)
	return ref.ID, err
}

func (a *app) parameterList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list VERSION", Short: "List the parameters of a version", Args: arguments("VERSION"),
		Example: "  grove datastore parameter list redis       # of its default version\n  grove datastore parameter list valkey-8.0",
	}
	cmd.ValidArgsFunction = a.completion(versions(), 0)
	datastore := a.datastoreFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		id, err := findVersion(cmd.Context(), c, *datastore, args[0])
		if err != nil {
			return err
		}
		all, err := c.Parameters(cmd.Context(), id)
		if err != nil {
			return err
		}
		l := output.List{Columns: []string{"Name", "Type", "Min Size", "Max Size", "Restart Required"}}
		for _, p := range all {
			l.Rows = append(l.Rows, []any{p.Name, p.Type, bound(p.Min), bound(p.Max), p.RestartRequired})
		}
		return a.writer().List(l)
	}
	return cmd
}

func bound(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

func (a *app) parameterShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show VERSION PARAMETER", Short: "Show a parameter of a version", Args: arguments("VERSION", "PARAMETER")}
	cmd.ValidArgsFunction = a.completion(versions(), 0)
	datastore := a.datastoreFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		id, err := findVersion(cmd.Context(), c, *datastore, args[0])
		if err != nil {
			return err
		}
		p, err := c.Parameter(cmd.Context(), id, args[1])
		if client.IsNotFound(err) {
			return fmt.Errorf("%w\n'grove datastore parameter list %s' shows those that there are", err, args[0])
		}
		if err != nil {
			return err
		}
		var r output.Record
		r.Add("name", p.Name)
		r.Add("type", p.Type)
		r.Add("min", bound(p.Min))
		r.Add("max", bound(p.Max))
		if len(p.Values) > 0 {
			r.Add("values", p.Values)
		}
		r.Add("restart_required", p.RestartRequired)
		r.Add("datastore_version_id", p.DatastoreVersionID)
		return a.writer().Record(r)
	}
	return cmd
}

func (a *app) flavorCommand() *cobra.Command {
	return a.group("flavor", "Sizes of servers", a.flavorList(), a.flavorShow())
}

func (a *app) flavorList() *cobra.Command {
	return a.list(&cobra.Command{Use: "list", Short: "List flavors"}, func(ctx context.Context, c *client.Client) (output.List, error) {
		all, err := c.Flavors(ctx)
		l := output.List{Columns: []string{"ID", "Name", "RAM", "vCPUs", "Disk", "Ephemeral"}}
		for _, f := range all {
			l.Rows = append(l.Rows, []any{f.StrID, f.Name, f.RAM, f.VCPUs, f.Disk, f.Ephemeral})
		}
		return l, err
	})
}

func (a *app) flavorShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show FLAVOR", Short: "Show a flavor", Args: arguments("FLAVOR")}
	return a.show(cmd, flavors(), func(ctx context.Context, c *client.Client, id string) (output.Record, error) {
		var r output.Record
		f, err := c.Flavor(ctx, id)
		if err != nil {
			return r, err
		}
		r.Add("id", f.StrID)
		r.Add("name", f.Name)
		r.Add("ram", f.RAM)
		r.Add("vcpus", f.VCPUs)
		r.Add("disk", f.Disk)
		r.Add("ephemeral", f.Ephemeral)
		return r, nil
	})
}
