package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
)

func (a *app) agentCommand() *cobra.Command {
	return a.group("agent", "Guest agents: list, upgrade (administrators)", a.agentList(), a.agentUpgrade())
}

func (a *app) agentList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the guest agents of all projects with their versions", Args: cobra.NoArgs}
	version := cmd.Flags().String("version", "", "only those of this `version`")
	other := cmd.Flags().String("not-version", "", "only those of another `version` than this")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		all, err := c.MgmtInstances(cmd.Context())
		if err != nil {
			return err
		}
		l := output.List{Columns: []string{"Guest ID", "Instance ID", "Instance", "Project", "Version", "Primary", "Seen"}}
		for _, i := range all {
			for _, g := range i.Agents {
				if *version != "" && g.Version != *version || *other != "" && g.Version == *other {
					continue
				}
				l.Rows = append(l.Rows, []any{g.GuestID, i.ID, i.Name, i.TenantID, g.Version, g.Primary, g.SeenAt})
			}
		}
		return a.writer().List(l)
	}
	return cmd
}

func (a *app) agentUpgrade() *cobra.Command {
	cmd := &cobra.Command{
		Use: "upgrade [INSTANCE-ID...]", Short: "Replace guest agents by another program; databases run on",
		Long: `Upgrade has the agents of instances, or with --all of every instance, fetch a program and replace themselves by it. Guests must
reach the location; the SHA-256 decides what they take. An agent that does not reach RabbitMQ in time is rolled back on its own
machine. Instances are taken in batches; after one with a failure no further one is begun. What is busy is left out and told:
run the same command again.`,
		Example: "  grove agent upgrade --all --location https://mirror.example/grove-agent-1.4 --sha256 $(sha256sum < grove-agent | cut -c-64)",
	}
	location := cmd.Flags().String("location", "", "http(s) `URL` of the program, which guests reach")
	sum := cmd.Flags().String("sha256", "", "SHA-256 of the program, in `hex`")
	everyone := cmd.Flags().Bool("all", false, "the agents of all instances")
	batch := cmd.Flags().Int("batch", 10, "`number` of instances at once")
	_, _ = cmd.MarkFlagRequired("location"), cmd.MarkFlagRequired("sha256")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *everyone == (len(args) > 0) || *batch < 1 {
			return errors.New("name the instances by their ids, or say --all; --batch is at least 1")
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		if *everyone {
			all, err := c.MgmtInstances(cmd.Context())
			if err != nil {
				return err
			}
			for _, i := range all {
				if len(i.Agents) > 0 {
					args = append(args, i.ID)
				}
			}
		}
		upgrade := wire.UpgradeAgent{Location: *location}
		upgrade.Metadata.SHA256 = *sum
		return a.upgradeAgents(cmd.Context(), c, args, *batch, upgrade)
	}
	return cmd
}

// upgradeAgents upgrades the agents of instances batch by batch.
func (a *app) upgradeAgents(ctx context.Context, c *client.Client, ids []string, batch int, upgrade wire.UpgradeAgent) error {
	busy, done := 0, 0
	for some := range slices.Chunk(ids, batch) {
		var all []*work
		for _, id := range some {
			reply, err := c.UpgradeAgents(ctx, id, upgrade)
			var refused *client.Error
			if errors.As(err, &refused) && refused.Status == http.StatusUnprocessableEntity {
				fmt.Fprintf(a.err, "Left out: %v\n", err)
				busy++
				continue
			}
			if err != nil {
				return fmt.Errorf("%w (the agents of %d instances were upgraded before)", err, done)
			}
			a.warn(reply)
			all = append(all, works(id, reply.Operations)...)
		}
		if err := a.await(ctx, all, 0); err != nil {
			return fmt.Errorf("%w (no further batch was begun; before, the agents of %d instances were upgraded)", err, done)
		}
		done += len(all)
	}
	if busy > 0 {
		return fmt.Errorf("the agents of %d instances were upgraded; %d were left out: run the command again", done, busy)
	}
	_, err := fmt.Fprintf(a.out, "The agents of %d instances were upgraded.\n", done)
	return err
}
