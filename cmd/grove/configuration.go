package main

import (
	"context"
	"maps"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (a *app) configurationCommand() *cobra.Command {
	return a.group("configuration", "Configuration groups: parameter values for instances to share",
		a.configurationList(), a.configurationShow(), a.configurationCreate(), a.configurationSet(),
		a.configurationPatch("patch"), a.configurationDelete(), a.configurationAttach(), a.configurationDetach(),
		a.configurationInstances(), a.configurationDefault(),
		a.group("parameter", "Parameters that configuration groups may set",
			a.configurationPatch("set"), a.parameterList(), a.parameterShow()),
	)
}

func (a *app) configurationList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List configuration groups"}
	page := pageFlags(cmd)
	return a.list(cmd, func(ctx context.Context, c *client.Client) (output.List, error) {
		all, err := c.Configurations(ctx, *page)
		l := output.List{Columns: []string{"ID", "Name", "Description", "Datastore Name", "Datastore Version Name", "Datastore Version Number"}}
		for _, g := range all {
			l.Rows = append(l.Rows, []any{g.ID, g.Name, deref(g.Description), g.DatastoreName, g.DatastoreVersionName, g.DatastoreVersionNumber})
		}
		return l, err
	})
}

func (a *app) configurationShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show CONFIGURATION", Short: "Show a configuration group and its values", Args: arguments("CONFIGURATION")}
	return a.show(cmd, configurations(), func(ctx context.Context, c *client.Client, id string) (output.Record, error) {
		g, err := c.Configuration(ctx, id)
		if err != nil {
			return output.Record{}, err
		}
		return configurationRecord(g), nil
	})
}

func configurationRecord(g *wire.Configuration) output.Record {
	var r output.Record
	r.Add("id", g.ID)
	r.Add("name", g.Name)
	r.Add("description", deref(g.Description))
	r.Add("datastore_name", g.DatastoreName)
	r.Add("datastore_version_name", g.DatastoreVersionName)
	r.Add("datastore_version_number", g.DatastoreVersionNumber)
	r.Add("datastore_version_id", g.DatastoreVersionID)
	if g.ConfigurationDetail != nil {
		r.Add("values", g.Values)
		r.Add("instance_count", g.InstanceCount)
	}
	r.Add("created", stamp(g.Created))
	r.Add("updated", stamp(g.Updated))
	return r
}

// valueFlags are the ways to give values.
type valueFlags struct {
	set  []string
	file string
}

func (v *valueFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&v.set, "set", nil, "one `name=value` (repeat for more)")
	cmd.Flags().StringVar(&v.file, "values-file", "", "read values, as JSON or YAML, from this `file`; - is standard input")
}

const valuesHelp = `Values are a JSON or YAML object given as an argument, --set name=value, or both, the latter going first; or they
come from --values-file. Secret values, such as requirepass, are taken only from a file or from standard input.`

// read collects the values; parameters, asked only for --set, gives the types.
func (v *valueFlags) read(a *app, cmd *cobra.Command, object string, parameters func() []wire.Parameter) (map[string]any, error) {
	values := map[string]any{}
	if v.file != "" {
		text, err := a.readFile(v.file)
		if err != nil {
			return nil, err
		}
		if values, err = parseValues(text); err != nil {
			return nil, err
		}
	}
	if object != "" {
		given, err := parseValues([]byte(object))
		if err != nil {
			return nil, usage(cmd, "%v", err)
		}
		for name := range given {
			if isSecret(name) {
				return nil, usage(cmd, "%s is a secret, which other users of this machine could read on the command line; give it with --values-file, '-' for standard input", name)
			}
		}
		maps.Copy(values, given)
	}
	return values, v.apply(cmd, values, parameters)
}

// apply adds what --set says.
func (v *valueFlags) apply(cmd *cobra.Command, values map[string]any, parameters func() []wire.Parameter) error {
	if len(v.set) == 0 {
		return nil
	}
	known := parameters()
	for _, text := range v.set {
		name, value, err := parseSetting(text, known)
		if err != nil {
			return usage(cmd, "--set: %v", err)
		}
		values[name] = value
	}
	return nil
}

// knownParameters gives the parameters of a version, none where they cannot be had: they only help to tell types.
func knownParameters(ctx context.Context, c *client.Client, datastore, version string) func() []wire.Parameter {
	return func() []wire.Parameter {
		if datastore == "" && version == "" {
			datastore = onlyDatastore(ctx, c)
		}
		id, err := findVersion(ctx, c, datastore, firstOf(version, datastore))
		if err != nil {
			return nil
		}
		all, err := c.Parameters(ctx, id)
		if err != nil {
			return nil
		}
		return all
	}
}

// onlyDatastore is the datastore that is meant when none is named: where there is one only, it can be told.
func onlyDatastore(ctx context.Context, c *client.Client) string {
	all, err := c.Datastores(ctx)
	if err != nil || len(all) != 1 {
		return ""
	}
	return all[0].Name
}

func second(args []string) string {
	if len(args) < 2 {
		return ""
	}
	return args[1]
}

func (a *app) configurationCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME [VALUES]", Short: "Create a configuration group", Long: "Create makes a configuration group.\n\n" + valuesHelp,
		Args: arguments("NAME", "[VALUES]"), ValidArgsFunction: cobra.NoFileCompletions,
		Example: `  grove configuration create lru --datastore redis --set maxmemory-policy=allkeys-lru --set timeout=300
  grove configuration create lru '{"maxmemory-policy": "allkeys-lru"}' --datastore redis`,
	}
	var values valueFlags
	values.register(cmd)
	var datastore wire.DatastoreRef
	cmd.Flags().StringVar(&datastore.Type, "datastore", "", "`datastore` by name or id (default: the server's)")
	cmd.Flags().StringVar(&datastore.Version, "datastore-version", "", "`version` by name or id (default: the datastore's)")
	cmd.Flags().StringVar(&datastore.VersionNumber, "datastore-version-number", "", "`number` that tells versions of one name apart")
	description := cmd.Flags().String("description", "", "a `text` for people")
	_ = cmd.RegisterFlagCompletionFunc("datastore", a.completeFlag(datastores()))
	_ = cmd.RegisterFlagCompletionFunc("datastore-version", a.completeFlag(versions()))
	a.keyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		wish := wire.CreateConfiguration{Name: args[0], Description: optional(*description)}
		wish.Values, err = values.read(a, cmd, second(args), knownParameters(cmd.Context(), c, datastore.Type, datastore.Version))
		if err != nil {
			return err
		}
		if datastore != (wire.DatastoreRef{}) {
			wish.Datastore = &datastore
		}
		g, reply, err := c.CreateConfiguration(cmd.Context(), wish)
		if err != nil {
			return err
		}
		a.warn(reply)
		return a.writer().Record(configurationRecord(g))
	}
	return cmd
}

func (a *app) configurationSet() *cobra.Command {
	cmd := &cobra.Command{
		Use: "set CONFIGURATION [VALUES]", Short: "Replace all values of a configuration group",
		Long: "Set replaces all values of a group, on all instances that use it too; those that are not given are gone.\n" +
			"Only some values are changed by 'grove configuration parameter set'.\n\n" + valuesHelp,
		Args: arguments("CONFIGURATION", "[VALUES]"), ValidArgsFunction: a.completion(configurations(), 0),
	}
	var values valueFlags
	values.register(cmd)
	name := cmd.Flags().String("name", "", "new `name`")
	description := cmd.Flags().String("description", "", "new `text` for people")
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), configurations(), args[0])
		if err != nil {
			return err
		}
		if len(args) == 1 && len(values.set) == 0 && values.file == "" {
			return usage(cmd, "no values are given, and set takes all others away; an empty group is asked for with '{}'")
		}
		change := wire.UpdateConfiguration{Name: optional(*name), Description: optional(*description)}
		change.Values, err = values.read(a, cmd, second(args), groupParameters(cmd.Context(), c, ref.ID))
		if err != nil {
			return err
		}
		reply, err := c.ReplaceConfiguration(cmd.Context(), ref.ID, change)
		if err != nil {
			return err
		}
		return a.finish(cmd.Context(), reply, args[0], w)
	}
	return cmd
}

// groupParameters gives the parameters that a group's version knows.
func groupParameters(ctx context.Context, c *client.Client, id string) func() []wire.Parameter {
	return func() []wire.Parameter {
		g, err := c.Configuration(ctx, id)
		if err != nil {
			return nil
		}
		return knownParameters(ctx, c, "", g.DatastoreVersionID)()
	}
}

// configurationPatch is known as 'configuration patch' and, as in openstackclient, as 'configuration parameter set'.
func (a *app) configurationPatch(verb string) *cobra.Command {
	cmd := &cobra.Command{
		Use: verb + " CONFIGURATION [VALUES]", Short: "Set some values of a configuration group",
		Long: "Changes the given values of a group, on all instances that use it too; the others stay.\n\n" + valuesHelp,
		Args: arguments("CONFIGURATION", "[VALUES]"), ValidArgsFunction: a.completion(configurations(), 0),
		Example: "  grove configuration parameter set lru --set timeout=60 --wait",
	}
	var values valueFlags
	values.register(cmd)
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), configurations(), args[0])
		if err != nil {
			return err
		}
		given, err := values.read(a, cmd, second(args), groupParameters(cmd.Context(), c, ref.ID))
		if err != nil {
			return err
		}
		if len(given) == 0 {
			return usage(cmd, "no values are given")
		}
		reply, err := c.PatchConfiguration(cmd.Context(), ref.ID, given)
		if err != nil {
			return err
		}
		return a.finish(cmd.Context(), reply, args[0], w)
	}
	return cmd
}

func (a *app) configurationDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete CONFIGURATION...", Short: "Delete configuration groups that no instance uses", Args: arguments("CONFIGURATION..."),
		Long:              "Delete deletes configuration groups. On a terminal it asks first, unless --yes is given.",
		ValidArgsFunction: a.completion(configurations()),
	}
	yes := cmd.Flags().BoolP("yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.deleteAll(cmd.Context(), deletion{
			kind: configurations(), args: args, yes: *yes, wait: &waitFlags{}, delete: (*client.Client).DeleteConfiguration,
		})
	}
	return cmd
}

func (a *app) configurationAttach() *cobra.Command {
	cmd := &cobra.Command{Use: "attach INSTANCE CONFIGURATION", Short: "Let an instance use a configuration group", Args: arguments("INSTANCE", "CONFIGURATION")}
	byInstance, byGroup := a.completion(instances(), 0), a.completion(configurations(), 1)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return byInstance(cmd, args, prefix)
		}
		return byGroup(cmd, args, prefix)
	}
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), instances(), args[0])
		if err != nil {
			return err
		}
		group, err := find(cmd.Context(), c, configurations(), args[1])
		if err != nil {
			return err
		}
		reply, err := c.UpdateInstance(cmd.Context(), ref.ID, wire.PutInstance{Configuration: wire.Some(wire.Ref(group.ID))})
		if err != nil {
			return err
		}
		if err := a.finish(cmd.Context(), reply, args[0], w); err != nil {
			return err
		}
		a.restartHint(cmd.Context(), c, ref.ID, args[0])
		return nil
	}
	return cmd
}

// restartHint tells when a change takes effect only after a restart.
func (a *app) restartHint(ctx context.Context, c *client.Client, id, name string) {
	i, err := c.Instance(ctx, id)
	if err == nil && i.Status == string(dbaas.StatusRestartRequired) {
		a.remark("Some values take effect only after a restart: grove instance restart %s", name)
	}
}

func (a *app) configurationDetach() *cobra.Command {
	cmd := &cobra.Command{Use: "detach INSTANCE", Short: "Let an instance use no configuration group", Args: arguments("INSTANCE")}
	cmd.ValidArgsFunction = a.completion(instances(), 0)
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), instances(), args[0])
		if err != nil {
			return err
		}
		reply, err := c.UpdateInstance(cmd.Context(), ref.ID, wire.PutInstance{Configuration: wire.Null[wire.Ref]()})
		if err != nil {
			return err
		}
		if err := a.finish(cmd.Context(), reply, args[0], w); err != nil {
			return err
		}
		a.restartHint(cmd.Context(), c, ref.ID, args[0])
		return nil
	}
	return cmd
}

func (a *app) configurationInstances() *cobra.Command {
	cmd := &cobra.Command{Use: "instances CONFIGURATION", Short: "List the instances that use a configuration group", Args: arguments("CONFIGURATION")}
	cmd.ValidArgsFunction = a.completion(configurations(), 0)
	page := pageFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), configurations(), args[0])
		if err != nil {
			return err
		}
		all, err := c.ConfigurationInstances(cmd.Context(), ref.ID, *page)
		if err != nil {
			return err
		}
		l := output.List{Columns: []string{"ID", "Name"}}
		for _, i := range all {
			l.Rows = append(l.Rows, []any{i.ID, i.Name})
		}
		return a.writer().List(l)
	}
	return cmd
}

func (a *app) configurationDefault() *cobra.Command {
	cmd := &cobra.Command{Use: "default INSTANCE", Short: "Show the values that an instance has without a configuration group", Args: arguments("INSTANCE")}
	return a.show(cmd, instances(), func(ctx context.Context, c *client.Client, id string) (output.Record, error) {
		var r output.Record
		values, err := c.DefaultConfiguration(ctx, id)
		for _, name := range sortedKeys(values) {
			r.Add(name, values[name])
		}
		return r, err
	})
}
