package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/internal/cloud/local"
	"github.com/grove-dbaas/grove/internal/config"
	"github.com/grove-dbaas/grove/internal/lifecycle"
	"github.com/grove-dbaas/grove/internal/telemetry"
)

func cloudCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "cloud", Short: "Run the local cloud as a process of its own, for taskmanagers with cloud.local.shared", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load(config.ProductionDefaults())
			if err != nil {
				return err
			}
			if c.Cloud.Provider != "local" || c.RPC.URL == "" {
				return errors.New("groved cloud needs cloud.provider local, and rpc.url for the agents")
			}
			h := &house{config: c}
			if h.logger, err = telemetry.NewLogger(os.Stderr, telemetry.LogConfig{Format: c.Log.Format, Level: c.Log.Level}); err != nil {
				return err
			}
			provider, parts, err := h.ownLocalCloud(cmd.Context())
			if err != nil {
				return err
			}
			var socket net.Listener
			parts = append(parts, lifecycle.Part{
				Name: "shared cloud",
				Start: func(context.Context) (err error) {
					socket, err = local.Listen(c.Data)
					return err
				},
				Run: func(ctx context.Context) error { return local.Serve(ctx, socket, provider, h.logger) },
			})
			return lifecycle.Run(cmd.Context(), h.logger, func() { fmt.Fprintln(cmd.OutOrStdout(), "grove cloud ready") }, parts...)
		},
	}
}
