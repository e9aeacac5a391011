package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
)

// passwordVariable is the environment's way to give a password: never an argument, which every user can see.
const passwordVariable = "GROVE_ROOT_PASSWORD"

func (a *app) rootCommand() *cobra.Command {
	return a.group("root", "The root account of an instance", a.rootEnable(), a.rootShow(), a.rootDisable())
}

func (a *app) rootEnable() *cobra.Command {
	cmd := &cobra.Command{
		Use: "enable INSTANCE", Short: "Enable root and show its password this once", Args: arguments("INSTANCE"),
		Long: `Enable makes the root account usable, or gives it a new password.

The password is generated, unless one is given: on standard input with --password-stdin, at a prompt with
--password-prompt, or in the environment variable ` + passwordVariable + `. It is never an argument.`,
		ValidArgsFunction: a.completion(instances(), 0),
	}
	from := passwordFlags(cmd)
	w := a.waitFlags(cmd)
	a.keyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), instances(), args[0])
		if err != nil {
			return err
		}
		password, err := a.password(cmd.Context(), *from)
		if err != nil {
			return err
		}
		user, reply, err := c.EnableRoot(cmd.Context(), ref.ID, password)
		if err != nil {
			return err
		}
		// Shown whatever becomes of the wait: a generated password is in this answer alone.
		return errors.Join(a.finish(cmd.Context(), reply, args[0], w), a.writer().Record(userRecord(user)))
	}
	return cmd
}

// passwordSource is where a password comes from; the zero value is the environment, or nowhere.
type passwordSource struct {
	stdin  bool
	prompt bool
}

func (a *app) password(ctx context.Context, from passwordSource) (string, error) {
	switch {
	case from.prompt:
		return a.askPassword(ctx)
	case from.stdin:
		password, err := interruptible(ctx, func() (string, error) { return readLine(a.in) })
		if err == nil && password == "" {
			err = errors.New("there is no password on standard input")
		}
		return password, err
	}
	return a.getenv(passwordVariable), nil
}

func userRecord(u *wire.RootUser) output.Record {
	var r output.Record
	r.Add("name", u.User.Name)
	r.Add("password", u.User.Password)
	if len(u.FailedSlaves) > 0 {
		r.Add("failed_replicas", u.FailedSlaves)
	}
	return r
}

func (a *app) rootShow() *cobra.Command {
	return &cobra.Command{
		Use: "show INSTANCE", Short: "Show whether root is enabled", Args: arguments("INSTANCE"),
		ValidArgsFunction: a.completion(instances(), 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, ref, err := a.find(cmd.Context(), instances(), args[0])
			if err != nil {
				return err
			}
			enabled, err := c.RootEnabled(cmd.Context(), ref.ID)
			if err != nil {
				return err
			}
			var r output.Record
			r.Add("is_root_enabled", enabled)
			return a.writer().Record(r)
		},
	}
}

func (a *app) rootDisable() *cobra.Command {
	cmd := &cobra.Command{
		Use: "disable INSTANCE", Short: "Disable root", Args: arguments("INSTANCE"),
		ValidArgsFunction: a.completion(instances(), 0),
	}
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), instances(), args[0])
		if err != nil {
			return err
		}
		reply, err := c.DisableRoot(cmd.Context(), ref.ID)
		if err != nil {
			return err
		}
		return a.finish(cmd.Context(), reply, args[0], w)
	}
	return cmd
}
