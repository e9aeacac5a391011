package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
)

// versionFlags are what an administrator says of a version.
type versionFlags struct {
	image                      string
	tags, packages             []string
	active, inactive, standard bool
}

func (f *versionFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.image, "image", "", "`image` of its servers, by id")
	cmd.Flags().StringSliceVar(&f.tags, "image-tag", nil, "`tag` of its images, of which the youngest is taken (repeat for more: an image needs them all)")
	cmd.Flags().StringSliceVar(&f.packages, "package", nil, "`package` (repeat for more)")
	cmd.Flags().BoolVar(&f.active, "active", false, "databases may be made of it")
	cmd.Flags().BoolVar(&f.inactive, "inactive", false, "none may be made of it any more")
	cmd.Flags().BoolVar(&f.standard, "default", false, "it is what is made when no version is named")
	cmd.MarkFlagsMutuallyExclusive("active", "inactive")
	cmd.MarkFlagsMutuallyExclusive("default", "inactive")
}

// wish holds what was said.
func (f *versionFlags) wish(cmd *cobra.Command) (w wire.UpdateVersion) {
	said := cmd.Flags().Changed
	if said("image") {
		w.Image = &f.image
	}
	if said("image-tag") {
		w.ImageTags = &f.tags
	}
	if said("package") {
		w.Packages = &f.packages
	}
	if said("active") || said("inactive") {
		active := f.active
		w.Active = &active
	}
	if said("default") {
		w.Default = &f.standard
	}
	return w
}

func (a *app) versionCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME DATASTORE MANAGER", Short: "Offer a version of a datastore (administrators)",
		Long: `Create offers a version of a datastore, which is made when it is not there. NAME is one that MANAGER, which drives it, knows
("7.0"). Its servers are made from an image that is named, or from the youngest that has all tags.`,
		Example: "  grove datastore version create 7.0 redis redis --image-tag grove --image-tag redis-7.0 --default",
		Args:    arguments("NAME", "DATASTORE", "MANAGER"), ValidArgsFunction: cobra.NoFileCompletions,
	}
	var f versionFlags
	f.add(cmd)
	number := cmd.Flags().String("version-number", "", "`number` that tells versions of one name apart (default: the name)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		wish := wire.CreateVersion{DatastoreName: args[1], Number: *number, UpdateVersion: f.wish(cmd)}
		wish.Name, wish.DatastoreManager = &args[0], &args[2]
		active := !f.inactive
		wish.Active = &active
		if _, err := c.CreateVersion(cmd.Context(), wish); err != nil {
			return err
		}
		if *number == "" {
			*number = args[0]
		}
		return a.showMgmtVersion(cmd.Context(), c, func(v wire.MgmtVersion) bool {
			return v.Name == args[0] && v.DatastoreName == args[1] && v.Version == *number
		})
	}
	return cmd
}

func (a *app) versionSet() *cobra.Command {
	cmd := &cobra.Command{Use: "set VERSION", Short: "Change a version of a datastore (administrators)", Args: arguments("VERSION")}
	cmd.ValidArgsFunction = a.completion(versions(), 0)
	var f versionFlags
	f.add(cmd)
	cmd.MarkFlagsOneRequired("image", "image-tag", "package", "active", "inactive", "default")
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
		if _, err := c.UpdateVersion(cmd.Context(), id, f.wish(cmd)); err != nil {
			return err
		}
		return a.showMgmtVersion(cmd.Context(), c, func(v wire.MgmtVersion) bool { return v.ID == id })
	}
	return cmd
}

func (a *app) versionDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete VERSION...", Short: "Withdraw versions that nothing uses (administrators)", Args: arguments("VERSION...")}
	cmd.ValidArgsFunction = a.completion(versions())
	yes := cmd.Flags().BoolP("yes", "y", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.deleteAll(cmd.Context(), deletion{kind: versions(), args: args, yes: *yes, wait: &waitFlags{}, delete: (*client.Client).DeleteVersion})
	}
	return cmd
}

// showMgmtVersion shows the version that is meant.
func (a *app) showMgmtVersion(ctx context.Context, c *client.Client, meant func(wire.MgmtVersion) bool) error {
	all, err := c.MgmtVersions(ctx)
	if err != nil {
		return err
	}
	for _, v := range all {
		if !meant(v) {
			continue
		}
		var r output.Record
		r.Add("id", v.ID)
		r.Add("name", v.Name)
		r.Add("version", v.Version)
		r.Add("datastore", v.DatastoreName)
		r.Add("manager", v.DatastoreManager)
		r.Add("image", v.Image)
		r.Add("image_tags", v.ImageTags)
		r.Add("packages", v.Packages)
		r.Add("active", v.Active)
		r.Add("default", v.Default)
		return a.writer().Record(r)
	}
	return nil
}
