package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
)

func (a *app) instanceCommand() *cobra.Command {
	return a.group("instance", "Databases: create, look at, change, delete",
		a.instanceList(), a.instanceShow(), a.instanceCreate(), a.instanceDelete(), a.instanceSet(), a.instanceRestart(),
		a.instanceStop(), a.instanceStart(), a.instanceUpgrade(), a.instanceRebuild(), a.instanceFailover(), a.instanceRenewCertificates(),
		a.instancePromote(), a.instanceEject(), a.instanceDetach(),
		a.instanceResize(), a.instanceResetStatus(), a.instanceCredentials(),
		a.group("configuration", "The configuration group of an instance", a.configurationAttach(), a.configurationDetach(), a.configurationDefault()),
	)
}

// pageFlags adds --limit and --marker.
func pageFlags(cmd *cobra.Command) *client.Page {
	var p client.Page
	cmd.Flags().IntVar(&p.Limit, "limit", 0, "show at most this `number` (default: all)")
	cmd.Flags().StringVar(&p.Marker, "marker", "", "begin after the entry with this `id`")
	_ = cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("marker", cobra.NoFileCompletions)
	return &p
}

func (a *app) instanceList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List instances", Args: arguments()}
	page := pageFlags(cmd)
	clustered := cmd.Flags().Bool("include-clustered", false, "members of clusters too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		all, err := c.Instances(cmd.Context(), *page, *clustered)
		if err != nil {
			return err
		}
		l := output.List{Columns: []string{"ID", "Name", "Datastore", "Datastore Version", "Status", "Operating Status",
			"Public", "Addresses", "Flavor ID", "Size", "Role"}}
		for _, i := range all {
			l.Rows = append(l.Rows, []any{i.ID, i.Name, i.Datastore.Type, i.Datastore.Version, i.Status, i.OperatingStatus,
				i.Access.IsPublic, addresses(&i), i.Flavor.ID, size(&i), role(&i)})
		}
		return a.writer().List(l)
	}
	return cmd
}

func addresses(i *wire.Instance) []string {
	list := []string{}
	for _, addr := range i.Addresses {
		list = append(list, addr.Address)
	}
	if len(list) == 0 && len(i.IP) > 0 {
		return i.IP
	}
	return list
}

func size(i *wire.Instance) any {
	if i.Volume == nil {
		return nil
	}
	return i.Volume.Size
}

func role(i *wire.Instance) string {
	switch {
	case i.ReplicaOf != nil:
		return "replica"
	case len(i.Replicas) > 0:
		return "primary"
	}
	return ""
}

func (a *app) instanceShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show INSTANCE", Short: "Show an instance, its addresses and how to connect", Args: arguments("INSTANCE"),
		ValidArgsFunction: a.completion(instances(), 0),
	}
	reveal := cmd.Flags().Bool("show-password", false, "reveal the password, alone and in the URI")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), instances(), args[0])
		if err != nil {
			return err
		}
		i, err := c.Instance(cmd.Context(), ref.ID)
		if err != nil {
			return err
		}
		if *reveal {
			credentials, err := c.Credentials(cmd.Context(), ref.ID)
			if err != nil {
				return err
			}
			d := detail(i)
			d.URI, d.Password = credentials.URI, credentials.Password
			i.InstanceDetail = &d
		}
		return a.writer().Record(instanceRecord(i))
	}
	return cmd
}

// find connects and finds what an argument means.
func (a *app) find(ctx context.Context, k kind, arg string) (*client.Client, wire.Resource, error) {
	c, err := a.client()
	if err != nil {
		return nil, wire.Resource{}, err
	}
	ref, err := find(ctx, c, k, arg)
	return c, ref, err
}

// instanceRecord is all that is known of an instance. Fields that are mostly absent come last and only when set.
func instanceRecord(i *wire.Instance) output.Record {
	d := detail(i)
	var r output.Record
	r.Add("id", i.ID)
	r.Add("name", i.Name)
	r.Add("status", i.Status)
	r.Add("operating_status", i.OperatingStatus)
	r.Add("datastore", i.Datastore.Type)
	r.Add("datastore_version", i.Datastore.Version)
	r.Add("datastore_version_number", i.Datastore.VersionNumber)
	r.Add("flavor", i.Flavor.ID)
	r.Add("volume", size(i))
	r.Add("addresses", addresses(i))
	r.Add("uri", d.URI)
	r.Add("public", i.Access.IsPublic)
	r.Add("allowed_cidrs", append([]string{}, i.Access.AllowedCIDRs...))
	r.Add("region", deref(i.Region))
	r.Add("configuration", refID(d.Configuration))
	r.Add("deletion_protection", d.DeletionProtection)
	r.Add("created", stamp(d.Created))
	r.Add("updated", stamp(d.Updated))
	if i.Volume != nil && i.Volume.Used != nil {
		r.Add("volume_used", *i.Volume.Used)
	}
	instanceExtras(&r, i, d)
	return r
}

func expiry(c *wire.Certificate) string {
	if c == nil {
		return ""
	}
	return fmt.Sprint(stamp(c.NotAfter))
}

// detail is an instance's detail, empty where the answer has none.
func detail(i *wire.Instance) wire.InstanceDetail {
	if i.InstanceDetail == nil {
		return wire.InstanceDetail{}
	}
	return *i.InstanceDetail
}

func instanceExtras(r *output.Record, i *wire.Instance, d wire.InstanceDetail) {
	if len(i.Replicas) > 0 {
		r.Add("replicas", refIDs(i.Replicas))
	}
	for _, extra := range []struct{ name, value string }{
		{"operating_status_cause", d.OperatingStatusCause},
		{"replica_of", refID(i.ReplicaOf)},
		{"locality", d.Locality},
		{"persistence", d.Persistence},
		{"profile", d.Profile},
		{"tls", d.TLS},
		{"tls_certificate_expires", expiry(d.TLSCertificate)},
		{"cluster_id", d.ClusterID},
		{"tenant_id", i.TenantID},
		{"server_id", d.ServerID},
		{"volume_id", d.VolumeID},
	} {
		if extra.value != "" {
			r.Add(extra.name, extra.value)
		}
	}
	if d.HighAvailability != nil {
		addProtection(r, d.HighAvailability)
	}
	if len(d.Drift) > 0 {
		r.Add("drift", drifts(d.Drift))
	}
	if d.Operation != nil {
		r.Add("operation", d.Operation.ID)
	}
	if d.Fault != nil {
		r.Add("fault", d.Fault.Message)
		r.Add("fault_date", stamp(d.Fault.Created))
		if details := deref(d.Fault.Details); details != "" {
			r.Add("fault_details", details)
		}
	}
	if d.Password != "" {
		r.Add("password", d.Password)
	}
}

// addProtection tells of a hot standby as it was wished for and as it is.
func addProtection(r *output.Record, p *wire.Protection) {
	r.Add("durability", p.Durability)
	if p.WhenDegraded != "" {
		r.Add("when_degraded", p.WhenDegraded)
	}
	r.Add("protection", p.State)
	if p.Cause != "" {
		r.Add("protection_cause", p.Cause)
	}
	if s := p.Standby; s != nil {
		r.Add("standby", s.Status)
		r.Add("standby_in_step", s.InStep)
	}
}

// drifts says in a sentence each what is otherwise than Grove set it.
func drifts(all []wire.Drift) (sentences []string) {
	for _, d := range all {
		sentences = append(sentences, fmt.Sprintf("%s is %q, not %q", d.Setting, d.Value, d.Expected))
	}
	return sentences
}

// stamp is a moment as the API writes it, nil for never.
func stamp(t wire.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05")
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func refIDs(all []wire.Resource) []string {
	ids := []string{}
	for _, r := range all {
		ids = append(ids, r.ID)
	}
	return ids
}

func refID(r *wire.Resource) string {
	if r == nil {
		return ""
	}
	return r.ID
}

// createFlags are what 'instance create' takes.
type createFlags struct {
	name          string
	flavor        string
	size          int
	volumeType    string
	datastore     wire.DatastoreRef
	nic           string
	configuration string
	zone          string
	region        string
	locality      string
	public        bool
	cidrs         []string
	protected     bool
	persistence   string
	profile       string
	tls           string
	replicaOf     string
	replicas      int
	availability  *availability
}

func (a *app) instanceCreate() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use: "create NAME --flavor FLAVOR --size GB", Short: "Create an instance; its password is shown this once", Args: arguments("NAME"),
		Example: `  grove instance create cache1 --flavor 1 --size 1 --datastore redis --wait
  id=$(grove instance create cache2 --flavor 1 --size 1 --wait -f value -c id)`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	a.createFlags(cmd, &f)
	w := a.waitFlags(cmd)
	a.keyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f.name = args[0]
		return a.createInstance(cmd, &f, w)
	}
	return cmd
}

func (a *app) createFlags(cmd *cobra.Command, f *createFlags) {
	flags := cmd.Flags()
	flags.StringVar(&f.flavor, "flavor", "", "`flavor` by name or id (needed)")
	flags.IntVar(&f.size, "size", 0, "size of the volume in `GB` (needed where the datastore has a volume)")
	flags.StringVar(&f.volumeType, "volume-type", "", "`type` of the volume")
	flags.StringVar(&f.datastore.Type, "datastore", "", "`datastore` by name or id (default: the server's)")
	flags.StringVar(&f.datastore.Version, "datastore-version", "", "`version` by name or id (default: the datastore's)")
	flags.StringVar(&f.datastore.VersionNumber, "datastore-version-number", "", "`number` that tells versions of one name apart")
	flags.StringVar(&f.configuration, "configuration", "", "configuration `group` to attach, by name or id")
	flags.StringVar(&f.nic, "nic", "", "`net-id=ID,subnet-id=ID,ip-address=IP`: where to connect it")
	flags.StringVar(&f.zone, "availability-zone", "", "`zone` to put it in")
	flags.StringVar(&f.region, "region-name", "", "`region` to put it in")
	flags.StringVar(&f.locality, "locality", "", "affinity or anti-affinity")
	flags.BoolVar(&f.public, "is-public", false, "reachable from outside")
	flags.StringArrayVar(&f.cidrs, "allowed-cidr", nil, "`network` that may connect from outside (repeat for more)")
	f.availability = availabilityFlags(flags)
	flags.BoolVar(&f.protected, "deletion-protection", false, "refuse deletion until it is taken off")
	flags.StringVar(&f.replicaOf, "replica-of", "", "`instance` to follow, by name or id: its flavor, volume and datastore are the replica's")
	flags.IntVar(&f.replicas, "replica-count", 0, "make this `number` of replicas, NAME-1, NAME-2, ... (with --replica-of)")
	flags.StringVar(&f.persistence, "persistence", "", "what is kept on disk: none, rdb or aof (default aof)")
	flags.StringVar(&f.profile, "profile", "", "`kind` of use to be tuned for")
	flags.StringVar(&f.tls, "tls", "", "how clients connect: off (the default), both or on; see 'grove ca'")
	_ = cmd.RegisterFlagCompletionFunc("tls", fixed("off", "both", "on"))
	_ = cmd.RegisterFlagCompletionFunc("persistence", fixed("none", "rdb", "aof"))
	for flag, k := range map[string]kind{"flavor": flavors(), "datastore": datastores(), "datastore-version": versions(), "configuration": configurations(), "replica-of": instances()} {
		_ = cmd.RegisterFlagCompletionFunc(flag, a.completeFlag(k))
	}
	_ = cmd.RegisterFlagCompletionFunc("locality", fixed("affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"))
}

// completeFlag completes a flag's value: the arguments before it do not matter.
func (a *app) completeFlag(k kind) cobra.CompletionFunc {
	complete := a.completion(k)
	return func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete(cmd, nil, prefix)
	}
}

func (a *app) createInstance(cmd *cobra.Command, f *createFlags, w *waitFlags) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	wish, err := f.wish(cmd, c)
	if err != nil {
		return err
	}
	created, reply, err := c.CreateInstance(cmd.Context(), wish)
	if err != nil {
		return err
	}
	return a.created(cmd.Context(), c, created, reply, w)
}

// wish turns the flags into the request.
func (f *createFlags) wish(cmd *cobra.Command, c *client.Client) (wire.CreateInstance, error) {
	wish := wire.CreateInstance{
		Name: f.name, AvailabilityZone: optional(f.zone), RegionName: optional(f.region), Locality: optional(f.locality),
		DeletionProtection: f.protected, Persistence: optional(f.persistence), Profile: optional(f.profile), TLS: optional(f.tls), HighAvailability: f.availability.wish(),
	}
	if err := f.shape(cmd, c, &wish); err != nil {
		return wish, err
	}
	if f.configuration != "" {
		group, err := find(cmd.Context(), c, configurations(), f.configuration)
		if err != nil {
			return wish, err
		}
		ref := wire.Ref(group.ID)
		wish.Configuration = &ref
	}
	if f.nic != "" {
		nic, err := parseNic(f.nic)
		if err != nil {
			return wish, usage(cmd, "%v", err)
		}
		wish.Nics = []wire.Nic{nic}
	}
	if f.size != 0 || f.volumeType != "" {
		wish.Volume = &wire.VolumeRequest{Size: wire.NumberOf(f.size), Type: optional(f.volumeType)}
	}
	if f.datastore != (wire.DatastoreRef{}) {
		wish.Datastore = &f.datastore
	}
	if f.public || len(f.cidrs) > 0 {
		wish.Access = &wire.AccessRequest{IsPublic: f.public, AllowedCIDRs: f.cidrs}
	}
	return wish, nil
}

// shape names the flavor or, of a replica, the source that it has its flavor from.
func (f *createFlags) shape(cmd *cobra.Command, c *client.Client, wish *wire.CreateInstance) error {
	if f.replicas != 0 {
		count := wire.NumberOf(f.replicas)
		wish.ReplicaCount = &count
	}
	if f.replicaOf != "" {
		source, err := find(cmd.Context(), c, instances(), f.replicaOf)
		wish.ReplicaOf, _ = json.Marshal(source.ID)
		return err
	}
	if f.flavor == "" {
		return usage(cmd, "--flavor is missing; 'grove flavor list' shows what there is")
	}
	flavor, err := find(cmd.Context(), c, flavors(), f.flavor)
	wish.FlavorRef = wire.Ref(flavor.ID)
	return err
}

// optional is nil for what was not given.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// parseNic reads net-id=ID,subnet-id=ID,ip-address=IP.
func parseNic(text string) (wire.Nic, error) {
	var nic wire.Nic
	for field := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok || value == "" {
			return nic, fmt.Errorf("--nic %q: %q should be key=value", text, field)
		}
		switch key {
		case "net-id", "network-id":
			nic.NetworkID = value
		case "subnet-id":
			nic.SubnetID = value
		case "ip-address":
			nic.IPAddress = value
		default:
			return nic, fmt.Errorf("--nic %q: there is no key %q; there are net-id, subnet-id, ip-address", text, key)
		}
	}
	return nic, nil
}

// created waits where asked and shows the new instance. Whatever becomes of it, the password is shown: the answer to
// the create is the only one that has it unasked.
func (a *app) created(ctx context.Context, c *client.Client, created *wire.Instance, reply *client.Reply, w *waitFlags) error {
	waitErr := a.finish(ctx, reply, created.Name, w)
	shown := created
	if w.wait {
		// Not under ctx: after Ctrl-C there is still something to show.
		if now, err := c.Instance(context.WithoutCancel(ctx), created.ID); err == nil {
			d := detail(now)
			d.Password = detail(created).Password
			now.InstanceDetail, shown = &d, now
		}
	}
	return errors.Join(waitErr, a.writer().Record(instanceRecord(shown)))
}

func (a *app) instanceDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete INSTANCE...", Short: "Delete instances", Args: arguments("INSTANCE..."),
		Long: `Delete deletes instances and all their data.

On a terminal it asks first, unless --yes is given; elsewhere it does not ask, as openstackclient does not.`,
		ValidArgsFunction: a.completion(instances()),
	}
	yes := cmd.Flags().BoolP("yes", "y", false, "do not ask")
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.deleteAll(cmd.Context(), deletion{
			kind: instances(), args: args, yes: *yes, wait: w, warning: " and all data in it",
			delete: (*client.Client).DeleteInstance,
		})
	}
	return cmd
}

// deletion is the wish to delete things of one kind.
type deletion struct {
	kind    kind
	args    []string
	yes     bool
	warning string // what goes with it, for the question
	wait    *waitFlags
	delete  func(c *client.Client, ctx context.Context, id string) (*client.Reply, error)
}

// deleteAll finds everything first, so that a wrong name deletes nothing; then a failure does not keep the others.
func (a *app) deleteAll(ctx context.Context, d deletion) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	victims, err := findAll(ctx, c, d.kind, d.args)
	if err != nil {
		return err
	}
	if sure, err := a.confirm(ctx, d, victims); err != nil || !sure {
		return err
	}
	var failures []error
	var all []*work
	for _, v := range victims {
		reply, err := d.delete(c, ctx, v.ID)
		if err != nil {
			failures = append(failures, fmt.Errorf("delete %s %s: %w", d.kind.noun, label(v), err))
			continue
		}
		a.warn(reply)
		all = append(all, works(label(v), reply.Operations)...)
	}
	return errors.Join(append(failures, a.finishAll(ctx, all, d.wait))...)
}

func findAll(ctx context.Context, c *client.Client, k kind, args []string) ([]wire.Resource, error) {
	var found []wire.Resource
	var failures []error
	for _, arg := range args {
		ref, err := find(ctx, c, k, arg)
		if err != nil {
			failures = append(failures, err)
		} else if !slices.ContainsFunc(found, func(r wire.Resource) bool { return r.ID == ref.ID }) {
			found = append(found, ref)
		}
	}
	return found, errors.Join(failures...)
}

// confirm asks, when there is somebody to ask.
func (a *app) confirm(ctx context.Context, d deletion, victims []wire.Resource) (bool, error) {
	if d.yes || a.dryRun || !a.interactive() {
		return true, nil
	}
	var list []string
	for _, v := range victims {
		list = append(list, label(v))
	}
	sure, err := a.ask(ctx, fmt.Sprintf("Delete %s %s%s? [y/N] ", d.kind.noun, strings.Join(list, ", "), d.warning))
	if err == nil && !sure {
		return false, errors.New("nothing was deleted")
	}
	return sure, err
}

func (a *app) instanceSet() *cobra.Command {
	cmd := &cobra.Command{
		Use: "set INSTANCE", Aliases: []string{"update"}, Short: "Change an instance's name, protection, access, persistence, profile, TLS or configuration group",
		Args: arguments("INSTANCE"), ValidArgsFunction: a.completion(instances(), 0),
	}
	flags := cmd.Flags()
	name := flags.String("name", "", "new `name`")
	configuration := flags.String("configuration", "", "configuration `group` to attach, by name or id")
	flags.Bool("remove-configuration", false, "detach the configuration group")
	flags.Bool("deletion-protection", false, "refuse deletion")
	flags.Bool("no-deletion-protection", false, "allow deletion")
	public := flags.Bool("is-public", false, "reachable from outside; --is-public=false takes it back")
	cidrs := flags.StringArray("allowed-cidr", nil, "`network` that may connect from outside, replacing those that may now (repeat for more)")
	persistence := flags.String("persistence", "", "what is kept on disk: none, rdb or aof")
	profile := flags.String("profile", "", "`kind` of use to be tuned for; \"\" is none")
	tlsMode := flags.String("tls", "", "how clients connect: off, both or on; see 'grove ca'")
	_ = cmd.RegisterFlagCompletionFunc("tls", fixed("off", "both", "on"))
	_ = cmd.RegisterFlagCompletionFunc("persistence", fixed("none", "rdb", "aof"))
	cmd.MarkFlagsMutuallyExclusive("configuration", "remove-configuration")
	cmd.MarkFlagsMutuallyExclusive("deletion-protection", "no-deletion-protection")
	_ = cmd.RegisterFlagCompletionFunc("configuration", a.completeFlag(configurations()))
	availability := availabilityFlags(flags)
	flags.Bool("no-high-availability", false, "remove the standby")
	cmd.MarkFlagsMutuallyExclusive("high-availability", "no-high-availability")
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), instances(), args[0])
		if err != nil {
			return err
		}
		var change wire.PutInstance
		if wish := availability.wish(); wish != nil {
			change.HighAvailability = wire.Some(*wish)
		}
		if boolFlag(cmd, "no-high-availability", "") {
			change.HighAvailability = wire.Null[wire.HighAvailability]()
		}
		if flags.Changed("name") {
			change.Name = name
		}
		if flags.Changed("deletion-protection") || flags.Changed("no-deletion-protection") {
			on := boolFlag(cmd, "deletion-protection", "no-deletion-protection")
			change.DeletionProtection = &on
		}
		if flags.Changed("is-public") || flags.Changed("allowed-cidr") {
			change.Access = wire.Some(wire.AccessRequest{IsPublic: *public, AllowedCIDRs: *cidrs})
		}
		if flags.Changed("persistence") {
			change.Persistence = wire.Some(*persistence)
		}
		if flags.Changed("profile") {
			change.Profile = wire.Some(*profile)
		}
		if flags.Changed("tls") {
			change.TLS = wire.Some(*tlsMode)
		}
		if boolFlag(cmd, "remove-configuration", "") {
			change.Configuration = wire.Null[wire.Ref]()
		}
		if *configuration != "" {
			group, err := find(cmd.Context(), c, configurations(), *configuration)
			if err != nil {
				return err
			}
			change.Configuration = wire.Some(wire.Ref(group.ID))
		}
		if reflect.ValueOf(change).IsZero() { // an empty change would detach the configuration group
			return usage(cmd, "nothing to set: name at least one flag")
		}
		reply, err := c.UpdateInstance(cmd.Context(), ref.ID, change)
		if err != nil {
			return err
		}
		return a.finish(cmd.Context(), reply, args[0], w)
	}
	return cmd
}

// boolFlag is the value of a flag that has an opposite.
func boolFlag(cmd *cobra.Command, yes, no string) bool {
	if no != "" && cmd.Flags().Changed(no) {
		off, _ := cmd.Flags().GetBool(no)
		return !off
	}
	on, _ := cmd.Flags().GetBool(yes)
	return on
}

// action is a command that starts an action on an instance; wish, called when the flags are read, gives the request.
func (a *app) action(cmd *cobra.Command, wish func(*cobra.Command, *client.Client) (wire.InstanceAction, error)) *cobra.Command {
	cmd.Args = arguments("INSTANCE")
	cmd.ValidArgsFunction = a.completion(instances(), 0)
	w := a.waitFlags(cmd)
	a.keyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, positional []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		action, err := wish(cmd, c)
		if err != nil {
			return err
		}
		ref, err := find(cmd.Context(), c, instances(), positional[0])
		if err != nil {
			return err
		}
		reply, err := c.ActOnInstance(cmd.Context(), ref.ID, action)
		if err != nil {
			return err
		}
		return a.finish(cmd.Context(), reply, positional[0], w)
	}
	return cmd
}

func (a *app) instanceRestart() *cobra.Command {
	cmd := &cobra.Command{Use: "restart INSTANCE", Short: "Restart the database of an instance"}
	return a.action(cmd, func(*cobra.Command, *client.Client) (wire.InstanceAction, error) {
		return wire.InstanceAction{Restart: &struct{}{}}, nil
	})
}

func (a *app) instanceStop() *cobra.Command {
	cmd := &cobra.Command{
		Use: "stop INSTANCE", Short: "Stop the database of an instance until it is started",
		Long: "Stop ends the database cleanly, its data kept. It stays stopped, whatever restarts around it, until 'grove instance start'.",
	}
	return a.action(cmd, func(*cobra.Command, *client.Client) (wire.InstanceAction, error) {
		return wire.InstanceAction{Stop: &struct{}{}}, nil
	})
}

func (a *app) instanceStart() *cobra.Command {
	cmd := &cobra.Command{Use: "start INSTANCE", Short: "Start the database of a stopped instance"}
	return a.action(cmd, func(*cobra.Command, *client.Client) (wire.InstanceAction, error) {
		return wire.InstanceAction{Start: &struct{}{}}, nil
	})
}

func (a *app) instanceUpgrade() *cobra.Command {
	cmd := &cobra.Command{
		Use: "upgrade INSTANCE VERSION", Short: "Make an instance and its group another version of the datastore, the data kept", Args: arguments("INSTANCE", "VERSION"),
		Example:           "  grove instance upgrade cache1 valkey-8.0 --wait",
		ValidArgsFunction: a.completion(instances(), 0),
	}
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), instances(), args[0])
		if err != nil {
			return err
		}
		version, err := json.Marshal(args[1])
		if err != nil {
			return err
		}
		reply, err := c.UpdateInstance(cmd.Context(), ref.ID, wire.PutInstance{DatastoreVersion: wire.Some(json.RawMessage(version))})
		if err != nil {
			return err
		}
		return a.finish(cmd.Context(), reply, args[0], w)
	}
	return cmd
}

func (a *app) instancePromote() *cobra.Command {
	cmd := &cobra.Command{
		Use: "promote REPLICA", Short: "Make a replica the source of its set, without losing a write",
		Long: "Promote has the source hand its writes over to a replica. They wait for less than a second; then clients write to the replica's address.",
	}
	return a.action(cmd, func(*cobra.Command, *client.Client) (wire.InstanceAction, error) {
		return wire.InstanceAction{PromoteToReplicaSource: json.RawMessage("{}")}, nil
	})
}

func (a *app) instanceEject() *cobra.Command {
	cmd := &cobra.Command{
		Use: "eject SOURCE", Short: "Replace a source that is down by its most advanced replica",
		Long: "Eject makes sure that the old source takes no write any more, and detaches it with the data that it has. A source that lives is refused: promote a replica.",
	}
	return a.action(cmd, func(*cobra.Command, *client.Client) (wire.InstanceAction, error) {
		return wire.InstanceAction{EjectReplicaSource: json.RawMessage("{}")}, nil
	})
}

func (a *app) instanceDetach() *cobra.Command {
	cmd := &cobra.Command{
		Use: "detach REPLICA", Short: "Make a replica an instance of its own", Args: arguments("REPLICA"),
		ValidArgsFunction: a.completion(instances()),
	}
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		ref, err := find(cmd.Context(), c, instances(), args[0])
		if err != nil {
			return err
		}
		detach := wire.Null[json.RawMessage]()
		reply, err := c.UpdateInstance(cmd.Context(), ref.ID, wire.PutInstance{ReplicaOf: detach})
		if err != nil {
			return err
		}
		return a.finish(cmd.Context(), reply, args[0], w)
	}
	return cmd
}

func (a *app) instanceRebuild() *cobra.Command {
	cmd := &cobra.Command{Use: "rebuild INSTANCE", Short: "Give the server of an instance a new root disk; the volume with all data stays"}
	return a.action(cmd, func(*cobra.Command, *client.Client) (wire.InstanceAction, error) {
		return wire.InstanceAction{Rebuild: &struct{}{}}, nil
	})
}

// availability is the wish for a standby, as flags say it.
type availability struct{ durability, whenDegraded string }

func availabilityFlags(flags *pflag.FlagSet) *availability {
	var v availability
	flags.StringVar(&v.durability, "high-availability", "", "keep a standby that takes over, of this `durability`: async or bounded")
	flags.StringVar(&v.whenDegraded, "when-degraded", "", "what a bounded instance does with `writes` while its standby is out of reach: refuse (the default) or accept")
	return &v
}

func (v *availability) wish() *wire.HighAvailability {
	if v.durability == "" && v.whenDegraded == "" {
		return nil
	}
	return &wire.HighAvailability{Durability: v.durability, WhenDegraded: v.whenDegraded}
}

func (a *app) instanceFailover() *cobra.Command {
	cmd := &cobra.Command{
		Use: "failover INSTANCE", Short: "Let the standby of an instance take over",
		Long: `Failover lets the standby take over, and the primary become the standby. Id and address stay.

No write is lost: writes wait for less than a second. With --drill the primary is stopped as if it had died, to see what a
real failure does.`,
	}
	drill := cmd.Flags().Bool("drill", false, "treat the primary as if it had died")
	return a.action(cmd, func(*cobra.Command, *client.Client) (wire.InstanceAction, error) {
		return wire.InstanceAction{Failover: &wire.Failover{Drill: *drill}}, nil
	})
}

func (a *app) instanceRenewCertificates() *cobra.Command {
	cmd := &cobra.Command{
		Use: "renew-certificates INSTANCE", Short: "Give an instance and its replicas new keys and certificates; nobody is cut off",
		Long: "Renew-certificates gives the databases new keys and certificates. Grove does so by itself a month before they expire.",
	}
	return a.action(cmd, func(*cobra.Command, *client.Client) (wire.InstanceAction, error) {
		return wire.InstanceAction{RenewCertificates: &struct{}{}}, nil
	})
}

func (a *app) instanceResetStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "reset-status INSTANCE", Short: "Clear an instance's task and status (administrators)"}
	return a.action(cmd, func(*cobra.Command, *client.Client) (wire.InstanceAction, error) {
		return wire.InstanceAction{ResetStatus: &wire.ResetStatus{}}, nil
	})
}

func (a *app) instanceResize() *cobra.Command {
	cmd := &cobra.Command{
		Use: "resize INSTANCE (--flavor FLAVOR | --volume GB)", Short: "Give an instance another flavor or a larger volume",
		Example: "  grove instance resize cache1 --volume 2 --wait\n  grove instance resize cache1 --flavor 2 --wait",
	}
	flavor := cmd.Flags().String("flavor", "", "new `flavor`, by name or id")
	volume := cmd.Flags().Int("volume", 0, "new size of the volume in `GB`")
	_ = cmd.RegisterFlagCompletionFunc("flavor", a.completeFlag(flavors()))
	return a.action(cmd, func(cmd *cobra.Command, c *client.Client) (wire.InstanceAction, error) {
		if (*flavor != "") == cmd.Flags().Changed("volume") {
			return wire.InstanceAction{}, usage(cmd, "give either --flavor or --volume")
		}
		if *flavor == "" {
			return wire.InstanceAction{Resize: &wire.Resize{Volume: &wire.VolumeRequest{Size: wire.NumberOf(*volume)}}}, nil
		}
		ref, err := find(cmd.Context(), c, flavors(), *flavor)
		return wire.InstanceAction{Resize: &wire.Resize{FlavorRef: wire.Ref(ref.ID)}}, err
	})
}

func (a *app) instanceCredentials() *cobra.Command {
	return &cobra.Command{
		Use: "credentials INSTANCE", Short: "Reveal an instance's user name, password and URI", Args: arguments("INSTANCE"),
		ValidArgsFunction: a.completion(instances(), 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, ref, err := a.find(cmd.Context(), instances(), args[0])
			if err != nil {
				return err
			}
			return a.showCredentials(cmd.Context(), c, ref.ID)
		},
	}
}

func (a *app) showCredentials(ctx context.Context, c *client.Client, id string) error {
	credentials, err := c.Credentials(ctx, id)
	if err != nil {
		return err
	}
	var r output.Record
	r.Add("username", credentials.Username)
	r.Add("password", credentials.Password)
	r.Add("uri", credentials.URI)
	return a.writer().Record(r)
}
