// Command groved is Grove's control plane: the API, the taskmanager, and with "dev" all of it in one process.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/internal/config"
)

// version is set when the program is linked.
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "groved:", err)
		os.Exit(1)
	}
}

// options are the flags that every command has.
type options struct {
	configFile string
	listen     string
	data       string
	logLevel   string
}

// load reads the configuration over these defaults; flags win.
func (o *options) load(defaults config.Config) (config.Config, error) {
	c, err := config.Load(o.configFile, defaults)
	if err != nil {
		return c, err
	}
	if o.listen != "" {
		c.Listen = o.listen
	}
	if o.data != "" {
		c.Data = o.data
	}
	if o.logLevel != "" {
		c.Log.Level = o.logLevel
	}
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return c, err
	}
	return c, c.Validate()
}

func newCommand() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:           "groved",
		Short:         "Grove's control plane: databases as a service",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&o.configFile, "config", "", "configuration file (YAML); without it the defaults hold")
	flags.StringVar(&o.listen, "listen", "", "address that the API listens on (default 127.0.0.1:8779)")
	flags.StringVar(&o.data, "data", "", "directory for all that is written (default grove below the user's state directory)")
	flags.StringVar(&o.logLevel, "log-level", "", "debug, info, warn or error")
	root.AddCommand(devCommand(o), apiCommand(o), taskmanagerCommand(o), cloudCommand(o), migrateCommand(o), configCommand(o), policyCommand(o), keysCommand(o), certificatesCommand(o), workflowsCommand(), forwardCommand(o))
	return root
}
