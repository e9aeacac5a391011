package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func (a *app) quotaCommand() *cobra.Command {
	return a.group("quota", "How much a project may have", a.quotaShow(), a.quotaSet())
}

func (a *app) quotaShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show [PROJECT]", Short: "Show the quotas of a project and what is in use", Args: arguments("[PROJECT]"), ValidArgsFunction: cobra.NoFileCompletions}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		project := c.Project()
		if len(args) > 0 {
			project = args[0]
		}
		all, err := c.Quotas(cmd.Context(), project)
		if err != nil {
			return err
		}
		l := output.List{Columns: []string{"Resource", "In Use", "Reserved", "Limit"}}
		for _, q := range all {
			l.Rows = append(l.Rows, []any{q.Resource, q.InUse, q.Reserved, q.Limit})
		}
		return a.writer().List(l)
	}
	return cmd
}

func (a *app) quotaSet() *cobra.Command {
	return &cobra.Command{
		Use: "set PROJECT RESOURCE LIMIT [RESOURCE LIMIT...]", Aliases: []string{"update"}, Short: "Change quotas of a project (administrators)",
		Long:    "Set changes limits of a project: " + strings.Join(dbaas.QuotaResources(), ", ") + ". -1 is no limit.\nRESOURCE=LIMIT is taken too.",
		Example: "  grove quota set demo instances 20\n  grove quota set demo instances=20 volumes=500",
		Args:    arguments("PROJECT", "RESOURCE", "[LIMIT...]"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 || len(args)%2 == 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return dbaas.QuotaResources(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			limits, err := parseLimits(cmd, args[1:])
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			changed, err := c.SetQuotas(cmd.Context(), args[0], limits)
			if err != nil {
				return err
			}
			var r output.Record
			for _, name := range sortedKeys(changed) {
				r.Add(name, changed[name])
			}
			return a.writer().Record(r)
		},
	}
}

// parseLimits reads "instances 20" and "instances=20".
func parseLimits(cmd *cobra.Command, args []string) (map[string]int, error) {
	limits := map[string]int{}
	for len(args) > 0 {
		name, value, both := strings.Cut(args[0], "=")
		args = args[1:]
		if !both {
			if len(args) == 0 {
				return nil, usage(cmd, "the limit of %s is missing", name)
			}
			value, args = args[0], args[1:]
		}
		limit, err := strconv.Atoi(value)
		if err != nil {
			return nil, usage(cmd, "the limit of %s should be a whole number, not %q", name, value)
		}
		limits[name] = limit
	}
	return limits, nil
}

func (a *app) limitsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "limits", Aliases: []string{"limit"}, Short: "Show what the project may have"}
	rates := cmd.Flags().Bool("rate", false, "show how many requests may be made instead")
	cmd.Args = arguments()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		limits, err := c.Limits(cmd.Context())
		if err != nil {
			return err
		}
		if *rates {
			return a.writer().List(rateList(limits))
		}
		var r output.Record
		for _, name := range sortedKeys(limits.Absolute) {
			r.Add(name, limits.Absolute[name])
		}
		return a.writer().Record(r)
	}
	return cmd
}

func rateList(limits *client.Limits) output.List {
	l := output.List{Columns: []string{"Value", "Verb", "Remaining", "Unit"}}
	for _, r := range limits.Rates {
		l.Rows = append(l.Rows, []any{r.Value, r.Verb, r.Remaining, r.Unit})
	}
	return l
}
