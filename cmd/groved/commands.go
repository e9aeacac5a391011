package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/grove-dbaas/grove/internal/config"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager"
)

func migrateCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Bring the database's schema up or down, or tell where it stands"}
	add := func(use, short string, run func(ctx context.Context, s *store.Store) error) *cobra.Command {
		verb := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return withHouse(cmd.Context(), o, func(ctx context.Context, h *house) error {
				if err := run(ctx, h.store); err != nil {
					return err
				}
				return printMigrations(ctx, h.store, cmd.OutOrStdout())
			})
		}}
		cmd.AddCommand(verb)
		return verb
	}
	add("up", "Apply every migration that is pending", func(ctx context.Context, s *store.Store) error { return s.Migrate(ctx) })
	add("down", "Undo the newest migration", func(ctx context.Context, s *store.Store) error { return s.MigrateDown(ctx) })
	var roles []string
	restored := add("restored", "Prepare a database that was restored from a backup, before the services start", func(ctx context.Context, s *store.Store) error {
		if len(roles) > 0 {
			return s.RestoreRoles(ctx, roles)
		}
		return s.Restored(ctx)
	})
	restored.Flags().StringSliceVar(&roles, "roles", nil,
		"only this: `INSTANCES` that were failed over since the backup are to have the primary again that the backup names; what the present one takes until then may be lost")
	add("status", "List the migrations and whether they are applied", func(context.Context, *store.Store) error { return nil })
	return cmd
}

func printMigrations(ctx context.Context, s *store.Store, w io.Writer) error {
	migrations, err := s.MigrationStatus(ctx)
	if err != nil {
		return err
	}
	for _, m := range migrations {
		state := "pending"
		if m.Applied {
			state = "applied"
		}
		fmt.Fprintf(w, "%5d  %-8s %s\n", m.Version, state, m.Name)
	}
	return nil
}

// withHouse opens the configured keys and database for one deed.
func withHouse(ctx context.Context, o *options, deed func(ctx context.Context, h *house) error) error {
	c, err := o.load(config.ProductionDefaults())
	if err != nil {
		return err
	}
	h, err := newHouse(ctx, c)
	if err != nil {
		return err
	}
	return errors.Join(deed(ctx, h), h.store.Close())
}

func policyCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "policy", Short: "Print the rules that say who may do what, as a policy file", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load(config.ProductionDefaults())
			if err != nil {
				return err
			}
			p, err := loadPolicy(c)
			if err != nil {
				return err
			}
			return yaml.NewEncoder(cmd.OutOrStdout()).Encode(p.Rules())
		},
	}
}

func configCommand(o *options) *cobra.Command {
	var dev bool
	cmd := &cobra.Command{
		Use: "config", Short: "Print the effective configuration, secrets masked", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			defaults := config.ProductionDefaults()
			if dev {
				defaults = config.Defaults()
			}
			c, err := o.load(defaults)
			if err != nil {
				return err
			}
			text, err := config.Effective(c)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().BoolVar(&dev, "dev", false, "as `groved dev` sees it")
	cmd.AddCommand(checkCommand(o))
	return cmd
}

func keysCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Manage the master keys that seal secrets"}
	cmd.AddCommand(&cobra.Command{
		Use: "create", Short: "Make the file of master keys, with one; a file that is there is left alone", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load(config.ProductionDefaults())
			if err != nil {
				return err
			}
			if err := ensureMasterKey(masterKeyPath(c)); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the master keys are in %s: keep a copy where the database's backups are not\n", masterKeyPath(c))
			return err
		},
	}, &cobra.Command{
		Use: "rotate", Short: "Add a new master key and seal every secret with it; works while Grove runs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHouse(cmd.Context(), o, func(ctx context.Context, h *house) error {
				return rotateKeys(ctx, h, cmd.OutOrStdout())
			})
		},
	})
	return cmd
}

// rotateKeys adds a master key and seals every secret anew.
func rotateKeys(ctx context.Context, h *house, w io.Writer) error {
	id, err := h.keyring.Rotate()
	if err != nil {
		return err
	}
	n, err := h.store.RotateKeys(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "sealed %d secrets with key %s\n", n, id)
	return err
}

func workflowsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "workflows", Short: "Print the workflows as diagrams (docs/workflows.md)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), taskmanager.Page())
			return err
		},
	}
}
