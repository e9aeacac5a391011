package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
)

func (a *app) clusterCommand() *cobra.Command {
	return a.group("cluster", "Databases spread over several members",
		a.clusterList(), a.clusterShow(), a.clusterInstances(), a.clusterCreate(), a.clusterDelete(), a.clusterGrow(), a.clusterShrink(),
		a.clusterResize(), a.clusterRestart(), a.clusterSetTLS(), a.clusterRenewCertificates(), a.clusterUpgrade(), a.clusterResetStatus(), a.clusterCredentials(),
		a.group("configuration", "The configuration group of a cluster", a.clusterAttach(), a.clusterDetach()),
	)
}

func clusters() kind {
	return kind{"cluster", "grove cluster list", func(ctx context.Context, c *client.Client) ([]wire.Resource, error) {
		all, err := c.Clusters(ctx, client.Page{})
		return refs(all, func(cl wire.Cluster) wire.Resource { return wire.Resource{ID: cl.ID, Name: cl.Name} }), err
	}}
}

// membersOf are the members of one cluster.
func membersOf(id string) kind {
	return kind{"member", "grove cluster instances", func(ctx context.Context, c *client.Client) ([]wire.Resource, error) {
		cl, err := c.Cluster(ctx, id)
		if err != nil {
			return nil, err
		}
		return refs(cl.Instances, func(m wire.ClusterMember) wire.Resource { return wire.Resource{ID: m.ID, Name: m.Name} }), nil
	}}
}

func (a *app) clusterList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List clusters"}
	page := pageFlags(cmd)
	return a.list(cmd, func(ctx context.Context, c *client.Client) (output.List, error) {
		l := output.List{Columns: []string{"ID", "Name", "Datastore", "Datastore Version", "Task Name", "Health", "Members"}}
		all, err := c.Clusters(ctx, *page)
		for _, cl := range all {
			l.Rows = append(l.Rows, []any{cl.ID, cl.Name, cl.Datastore.Type, cl.Datastore.Version, cl.Task.Name, health(&cl), len(cl.Instances)})
		}
		return l, err
	})
}

func health(cl *wire.Cluster) string {
	if cl.Health == nil {
		return ""
	}
	return cl.Health.State
}

func (a *app) clusterShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show CLUSTER", Short: "Show a cluster, its addresses and its health", Args: arguments("CLUSTER")}
	return a.show(cmd, clusters(), func(ctx context.Context, c *client.Client, id string) (output.Record, error) {
		cl, err := c.Cluster(ctx, id)
		if err != nil {
			return output.Record{}, err
		}
		return clusterRecord(cl), nil
	})
}

func clusterRecord(cl *wire.Cluster) output.Record {
	var r output.Record
	r.Add("id", cl.ID)
	r.Add("name", cl.Name)
	r.Add("task_name", cl.Task.Name)
	r.Add("task_description", cl.Task.Description)
	r.Add("health", health(cl))
	r.Add("datastore", cl.Datastore.Type)
	r.Add("datastore_version", cl.Datastore.Version)
	r.Add("replicas_per_shard", cl.Replicas)
	r.Add("instance_count", len(cl.Instances))
	r.Add("ip", append([]string{}, cl.IP...))
	r.Add("configuration", cl.Configuration)
	r.Add("created", stamp(cl.Created))
	r.Add("updated", stamp(cl.Updated))
	if cl.TLS != "" {
		r.Add("tls", cl.TLS)
		r.Add("tls_certificate_expires", expiry(cl.TLSCertificate))
	}
	if cl.Health != nil && len(cl.Health.Causes) > 0 {
		r.Add("health_causes", cl.Health.Causes)
	}
	if cl.Operation != nil {
		r.Add("operation", cl.Operation.ID)
	}
	if cl.Fault != nil {
		r.Add("fault", cl.Fault.Message)
	}
	if cl.Password != "" {
		r.Add("password", cl.Password)
	}
	return r
}

func (a *app) clusterInstances() *cobra.Command {
	cmd := &cobra.Command{
		Use: "instances CLUSTER", Short: "List a cluster's members: roles, slots, health", Args: arguments("CLUSTER"),
		ValidArgsFunction: a.completion(clusters(), 0),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), clusters(), args[0])
		if err != nil {
			return err
		}
		cl, err := c.Cluster(cmd.Context(), ref.ID)
		if err != nil {
			return err
		}
		l := output.List{Columns: []string{"ID", "Name", "Role", "Status", "Health", "Slots", "Addresses", "Flavor ID", "Size", "Shard ID"}}
		for _, m := range cl.Instances {
			row := []any{m.ID, m.Name, m.Role, m.Status, m.Health, m.Keys, append([]string{}, m.IP...), nil, nil, m.ShardID}
			if m.Flavor != nil {
				row[7] = m.Flavor.ID
			}
			if m.Volume != nil {
				row[8] = m.Volume.Size
			}
			l.Rows = append(l.Rows, row)
		}
		return a.writer().List(l)
	}
	return cmd
}

// newMembers are the flags that say what new members are.
type newMembers struct {
	flavor, volumeType, nic string
	size                    int
}

func (a *app) newMemberFlags(cmd *cobra.Command) *newMembers {
	var f newMembers
	cmd.Flags().StringVar(&f.flavor, "flavor", "", "`flavor` of each member, by name or id")
	cmd.Flags().IntVar(&f.size, "size", 0, "size of each member's volume in `GB`")
	cmd.Flags().StringVar(&f.volumeType, "volume-type", "", "`type` of the volumes")
	cmd.Flags().StringVar(&f.nic, "nic", "", "`net-id=ID`: where to connect them")
	_ = cmd.RegisterFlagCompletionFunc("flavor", a.completeFlag(flavors()))
	return &f
}

func (f *newMembers) wish(cmd *cobra.Command, c *client.Client) (wire.NewMember, error) {
	var m wire.NewMember
	if f.flavor != "" {
		flavor, err := find(cmd.Context(), c, flavors(), f.flavor)
		if err != nil {
			return m, err
		}
		m.FlavorRef = wire.Ref(flavor.ID)
	}
	if f.size != 0 {
		m.Volume = &wire.VolumeRequest{Size: wire.NumberOf(f.size), Type: optional(f.volumeType)}
	}
	if f.nic != "" {
		nic, err := parseNic(f.nic)
		if err != nil {
			return m, usage(cmd, "%v", err)
		}
		m.Nics = []wire.Nic{nic}
	}
	return m, nil
}

func (a *app) clusterCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME --flavor FLAVOR --size GB", Short: "Create a cluster; its password is shown this once", Args: arguments("NAME"),
		Example:           "  grove cluster create shop --flavor 1 --size 1 --masters 3 --replicas 1 --wait",
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := a.newMemberFlags(cmd)
	masters := cmd.Flags().Int("masters", 3, "`number` of masters, among which the data are spread")
	replicas := cmd.Flags().Int("replicas", 0, "`number` of replicas of each master")
	var store wire.DatastoreRef
	cmd.Flags().StringVar(&store.Type, "datastore", "", "`datastore` by name or id (default: the server's)")
	cmd.Flags().StringVar(&store.Version, "datastore-version", "", "`version` by name or id (default: the datastore's)")
	configuration := cmd.Flags().String("configuration", "", "configuration `group` to attach, by name or id")
	locality := cmd.Flags().String("locality", "", "affinity or anti-affinity")
	tlsMode := cmd.Flags().String("tls", "", "how clients connect: off (the default), both or on; see 'grove ca'")
	_ = cmd.RegisterFlagCompletionFunc("tls", fixed("off", "both", "on"))
	w := a.waitFlags(cmd)
	a.keyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.flavor == "" || f.size == 0 {
			return usage(cmd, "--flavor and --size are needed; 'grove flavor list' shows what there is")
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		member, err := f.wish(cmd, c)
		if err != nil {
			return err
		}
		count := wire.NumberOf(*replicas)
		wish := wire.CreateCluster{Name: args[0], Locality: optional(*locality), TLS: optional(*tlsMode), ExtendedProperties: wire.ClusterProperties{ReplicasPerShard: &count}}
		for range *masters {
			wish.Instances = append(wish.Instances, member)
		}
		if store != (wire.DatastoreRef{}) {
			wish.Datastore = &store
		}
		if *configuration != "" {
			group, err := find(cmd.Context(), c, configurations(), *configuration)
			if err != nil {
				return err
			}
			ref := wire.Ref(group.ID)
			wish.Configuration = &ref
		}
		created, reply, err := c.CreateCluster(cmd.Context(), wish)
		if err != nil {
			return err
		}
		waitErr := a.finish(cmd.Context(), reply, created.Name, w)
		if now, err := c.Cluster(context.WithoutCancel(cmd.Context()), created.ID); err == nil && w.wait {
			now.Password, created = created.Password, now
		}
		return errors.Join(waitErr, a.writer().Record(clusterRecord(created)))
	}
	return cmd
}

func (a *app) clusterDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete CLUSTER...", Short: "Delete clusters and all their data", Args: arguments("CLUSTER..."),
		Long:              "Delete deletes clusters with all members and all their data.\n\nOn a terminal it asks first, unless --yes is given.",
		ValidArgsFunction: a.completion(clusters()),
	}
	yes := cmd.Flags().BoolP("yes", "y", false, "do not ask")
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.deleteAll(cmd.Context(), deletion{
			kind: clusters(), args: args, yes: *yes, wait: w, warning: " and all data in it",
			delete: (*client.Client).DeleteCluster,
		})
	}
	return cmd
}

// clusterAction makes a command that does one deed to the cluster that its first argument names.
func (a *app) clusterAction(cmd *cobra.Command, more []string, deed func(cmd *cobra.Command, c *client.Client, id string, args []string) (wire.ClusterAction, error)) *cobra.Command {
	cmd.Args = arguments(append([]string{"CLUSTER"}, more...)...)
	cmd.ValidArgsFunction = a.completion(clusters(), 0)
	w := a.waitFlags(cmd)
	a.keyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), clusters(), args[0])
		if err != nil {
			return err
		}
		action, err := deed(cmd, c, ref.ID, args[1:])
		if err != nil {
			return err
		}
		reply, err := c.ActOnCluster(cmd.Context(), ref.ID, action)
		if err != nil {
			return err
		}
		return a.finish(cmd.Context(), reply, args[0], w)
	}
	return cmd
}

func (a *app) clusterGrow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "grow CLUSTER (--masters N | --replica-of MEMBER)", Short: "Add masters, which take their part of the data, or a replica",
		Example: "  grove cluster grow shop --masters 1 --wait\n  grove cluster grow shop --masters 2 --dry-run\n  grove cluster grow shop --replica-of shop-member-1",
	}
	f := a.newMemberFlags(cmd)
	masters := cmd.Flags().Int("masters", 0, "`number` of masters to add, each with the cluster's number of replicas")
	of := cmd.Flags().StringArray("replica-of", nil, "`member` to add a replica of, by name or id (repeat for more)")
	name := cmd.Flags().String("name", "", "`name` of the new member (default: the next free one)")
	return a.clusterAction(cmd, nil, func(cmd *cobra.Command, c *client.Client, id string, _ []string) (wire.ClusterAction, error) {
		var action wire.ClusterAction
		if *masters < 0 || *masters == 0 && len(*of) == 0 {
			return action, usage(cmd, "give --masters, --replica-of or both")
		}
		if *name != "" && *masters+len(*of) != 1 {
			return action, usage(cmd, "--name is for one new member")
		}
		member, err := f.wish(cmd, c)
		if err != nil {
			return action, err
		}
		member.Name = optional(*name)
		for range *masters {
			action.Grow = append(action.Grow, member)
		}
		for _, related := range *of {
			ref, err := find(cmd.Context(), c, membersOf(id), related)
			if err != nil {
				return action, err
			}
			replica := member
			replica.Type, replica.RelatedTo = wire.Words{"replica"}, &ref.ID
			action.Grow = append(action.Grow, replica)
		}
		return action, nil
	})
}

func (a *app) clusterShrink() *cobra.Command {
	cmd := &cobra.Command{
		Use: "shrink CLUSTER MEMBER...", Short: "Let members leave; a master leaves with its replicas, once others have its data",
		Example: "  grove cluster shrink shop shop-member-4 --dry-run\n  grove cluster shrink shop shop-member-4 --wait",
	}
	return a.clusterAction(cmd, []string{"MEMBER..."}, func(cmd *cobra.Command, c *client.Client, id string, args []string) (wire.ClusterAction, error) {
		var action wire.ClusterAction
		for _, arg := range args {
			ref, err := find(cmd.Context(), c, membersOf(id), arg)
			if err != nil {
				return action, err
			}
			action.Shrink = append(action.Shrink, wire.LeavingMember{ID: wire.Ref(ref.ID)})
		}
		return action, nil
	})
}

func (a *app) clusterResize() *cobra.Command {
	cmd := &cobra.Command{
		Use: "resize CLUSTER (--flavor FLAVOR | --volume GB)", Short: "Give all members another flavor or larger volumes, one after the other",
	}
	flavor := cmd.Flags().String("flavor", "", "new `flavor`, by name or id")
	volume := cmd.Flags().Int("volume", 0, "new size of the volumes in `GB`")
	_ = cmd.RegisterFlagCompletionFunc("flavor", a.completeFlag(flavors()))
	return a.clusterAction(cmd, nil, func(cmd *cobra.Command, c *client.Client, _ string, _ []string) (wire.ClusterAction, error) {
		if (*flavor != "") == cmd.Flags().Changed("volume") {
			return wire.ClusterAction{}, usage(cmd, "give either --flavor or --volume")
		}
		if *flavor == "" {
			return wire.ClusterAction{Resize: &wire.Resize{Volume: &wire.VolumeRequest{Size: wire.NumberOf(*volume)}}}, nil
		}
		ref, err := find(cmd.Context(), c, flavors(), *flavor)
		return wire.ClusterAction{Resize: &wire.Resize{FlavorRef: wire.Ref(ref.ID)}}, err
	})
}

func (a *app) clusterRestart() *cobra.Command {
	cmd := &cobra.Command{Use: "restart CLUSTER", Short: "Restart the members one after the other, replicas first"}
	return a.clusterAction(cmd, nil, func(*cobra.Command, *client.Client, string, []string) (wire.ClusterAction, error) {
		return wire.ClusterAction{Restart: &struct{}{}}, nil
	})
}

func (a *app) clusterSetTLS() *cobra.Command {
	cmd := &cobra.Command{Use: "set-tls CLUSTER MODE", Short: "Change how clients connect to a cluster: off, both or on; they stay connected"}
	return a.clusterAction(cmd, []string{"MODE"}, func(_ *cobra.Command, _ *client.Client, _ string, args []string) (wire.ClusterAction, error) {
		return wire.ClusterAction{SetTLS: &wire.SetTLS{Mode: args[0]}}, nil
	})
}

func (a *app) clusterRenewCertificates() *cobra.Command {
	cmd := &cobra.Command{Use: "renew-certificates CLUSTER", Short: "Give the members new keys and certificates; nobody is cut off"}
	return a.clusterAction(cmd, nil, func(*cobra.Command, *client.Client, string, []string) (wire.ClusterAction, error) {
		return wire.ClusterAction{RenewCertificates: &struct{}{}}, nil
	})
}

func (a *app) clusterUpgrade() *cobra.Command {
	cmd := &cobra.Command{Use: "upgrade CLUSTER VERSION", Short: "Bring the members to another version, one after the other"}
	return a.clusterAction(cmd, []string{"VERSION"}, func(_ *cobra.Command, _ *client.Client, _ string, args []string) (wire.ClusterAction, error) {
		return wire.ClusterAction{Upgrade: &wire.ClusterUpgrade{DatastoreVersion: args[0]}}, nil
	})
}

func (a *app) clusterResetStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "reset-status CLUSTER", Short: "Clear a task that nobody works on, or cancel what runs (administrators)"}
	return a.clusterAction(cmd, nil, func(*cobra.Command, *client.Client, string, []string) (wire.ClusterAction, error) {
		return wire.ClusterAction{ResetStatus: &wire.ResetStatus{}}, nil
	})
}

func (a *app) clusterAttach() *cobra.Command {
	cmd := &cobra.Command{Use: "attach CLUSTER GROUP", Short: "Attach a configuration group to all members"}
	return a.clusterAction(cmd, []string{"GROUP"}, func(cmd *cobra.Command, c *client.Client, _ string, args []string) (wire.ClusterAction, error) {
		ref, err := find(cmd.Context(), c, configurations(), args[0])
		return wire.ClusterAction{ConfigurationAttach: &wire.AttachConfiguration{ConfigurationID: wire.Ref(ref.ID)}}, err
	})
}

func (a *app) clusterDetach() *cobra.Command {
	cmd := &cobra.Command{Use: "detach CLUSTER", Short: "Take the configuration group off all members"}
	return a.clusterAction(cmd, nil, func(*cobra.Command, *client.Client, string, []string) (wire.ClusterAction, error) {
		return wire.ClusterAction{ConfigurationDetach: &struct{}{}}, nil
	})
}

func (a *app) clusterCredentials() *cobra.Command {
	return &cobra.Command{
		Use: "credentials CLUSTER", Short: "Reveal a cluster's user name, password and the URI of one member", Args: arguments("CLUSTER"),
		ValidArgsFunction: a.completion(clusters(), 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, ref, err := a.find(cmd.Context(), clusters(), args[0])
			if err != nil {
				return err
			}
			credentials, err := c.ClusterCredentials(cmd.Context(), ref.ID)
			if err != nil {
				return err
			}
			var r output.Record
			r.Add("username", credentials.Username)
			r.Add("password", credentials.Password)
			r.Add("uri", credentials.URI)
			return a.writer().Record(r)
		},
	}
}
