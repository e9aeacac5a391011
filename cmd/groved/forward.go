package main

import (
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/internal/cloud/local"
	"github.com/grove-dbaas/grove/internal/telemetry"
)

// forwardCommand is the process that a local cloud starts to forward the connections of its addresses.
func forwardCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "forward", Short: "Forward the local cloud's addresses; groved starts this by itself", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := telemetry.NewLogger(os.Stderr, telemetry.LogConfig{Format: "text", Level: "info"})
			if err != nil {
				return err
			}
			debug.SetGCPercent(25) // it makes little garbage, and should be small
			return local.Forward(cmd.Context(), o.data, logger)
		},
	}
}

// forwarder is how the local cloud starts the process above for a data directory.
func forwarder(data string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(data) // as the cloud knows it
	if err != nil {
		return nil, err
	}
	return []string{self, "forward", "--data", real}, nil
}
