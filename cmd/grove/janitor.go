package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
)

func (a *app) janitorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "janitor [FINDING...]", Short: "Show where the cloud and Grove's records disagree, or have orphans deleted (administrators)",
		Long: `Janitor lists what taskmanagers found by comparing the cloud and the message broker with Grove's records: an orphan is there and
nothing accounts for it; what is missing is in the records alone. Nothing young is shown, nor what an operation is at work on.
It changes nothing unless told: --delete with findings, or with --all, has orphans deleted. What is missing is only told of:
rebuild the instance, or delete it.`,
		Example:           "  grove janitor\n  grove janitor --delete 0192d3a8-5c1e-7000-8000-000000000001\n  grove janitor --delete --all",
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	remove := cmd.Flags().Bool("delete", false, "have these orphans deleted")
	everything := cmd.Flags().Bool("all", false, "with --delete: all orphans")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *remove && *everything == (len(args) > 0) || !*remove && (*everything || len(args) > 0) {
			return usage(cmd, "name findings with --delete, or say --delete --all")
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		if *remove {
			if err := c.DeleteFindings(cmd.Context(), wire.DeleteFindings{Findings: args, All: *everything}); err != nil {
				return err
			}
			_, err := fmt.Fprintln(a.out, "A taskmanager deletes them; what is left shows grove janitor.")
			return err
		}
		found, err := c.Findings(cmd.Context(), client.Page{})
		if err != nil {
			return err
		}
		l := output.List{Columns: []string{"ID", "Problem", "Kind", "Resource ID", "Owner ID", "Instance ID", "Since", "To be deleted", "Failure"}}
		for _, f := range found {
			l.Rows = append(l.Rows, []any{f.ID, f.Problem, f.Kind, f.ResourceID, f.OwnerID, f.InstanceID, stamp(f.Since), f.ToBeDeleted, f.Failure})
		}
		return a.writer().List(l)
	}
	return cmd
}
