package main

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/cmd/grove/internal/client"
	"github.com/grove-dbaas/grove/cmd/grove/internal/output"
)

// userPasswordVariable is the environment's way to give the password of a user.
const userPasswordVariable = "GROVE_USER_PASSWORD"

func (a *app) userCommand() *cobra.Command {
	return a.group("user", "The accounts of an instance",
		a.userList(), a.userShow(), a.userCreate(), a.userUpdate(), a.userDelete(), a.userGrant(), a.userRevoke())
}

func (a *app) userList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list INSTANCE", Short: "List the accounts of an instance", Args: arguments("INSTANCE"),
		ValidArgsFunction: a.completion(instances(), 0),
	}
	page := pageFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), instances(), args[0])
		if err != nil {
			return err
		}
		users, err := c.Users(cmd.Context(), ref.ID, *page)
		if err != nil {
			return err
		}
		l := output.List{Columns: []string{"Name", "Databases"}}
		for _, u := range users {
			l.Rows = append(l.Rows, []any{u.Name, grants(u)})
		}
		return a.writer().List(l)
	}
	return cmd
}

func grants(u wire.User) []string {
	names := []string{}
	for _, g := range u.Databases {
		names = append(names, g.Name)
	}
	return names
}

func (a *app) userShow() *cobra.Command {
	return &cobra.Command{
		Use: "show INSTANCE USER", Aliases: []string{"show-access"}, Short: "Show an account and what it may touch", Args: arguments("INSTANCE", "USER"),
		ValidArgsFunction: a.completion(instances(), 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, ref, err := a.find(cmd.Context(), instances(), args[0])
			if err != nil {
				return err
			}
			u, err := c.User(cmd.Context(), ref.ID, args[1])
			if err != nil {
				return err
			}
			var r output.Record
			r.Add("name", u.Name)
			r.Add("databases", grants(*u))
			return a.writer().Record(r)
		},
	}
}

func (a *app) userCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "create INSTANCE USER", Short: "Make an account; a generated password is shown this once", Args: arguments("INSTANCE", "USER"),
		Long: `Create makes an account that may touch what --database names: for Redis patterns of keys.

The password is generated, unless one is given: on standard input with --password-stdin, at a prompt with
--password-prompt, or in the environment variable ` + userPasswordVariable + `. It is never an argument.`,
		Example:           "  grove user create cache1 writer --database 'app:*' --database 'jobs:*'",
		ValidArgsFunction: a.completion(instances(), 0),
	}
	databases := cmd.Flags().StringArray("database", nil, "`pattern` of keys that it may touch (repeat for more)")
	from := passwordFlags(cmd)
	w := a.waitFlags(cmd)
	a.keyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, ref, err := a.find(cmd.Context(), instances(), args[0])
		if err != nil {
			return err
		}
		password, err := a.userPassword(cmd.Context(), *from)
		if err != nil {
			return err
		}
		generated := password == ""
		if generated {
			password = rand.Text()
		}
		wish := wire.UserRequest{Name: args[1], Password: password}
		for _, d := range *databases {
			wish.Databases = append(wish.Databases, wire.Grant{Name: d})
		}
		reply, err := c.CreateUser(cmd.Context(), ref.ID, wish)
		if err != nil {
			return err
		}
		var r output.Record
		r.Add("name", args[1])
		r.Add("databases", append([]string{}, *databases...))
		if generated { // shown whatever becomes of the wait: nothing else tells it
			r.Add("password", password)
		}
		return errors.Join(a.finish(cmd.Context(), reply, args[0], w), a.writer().Record(r))
	}
	return cmd
}

// passwordFlags adds the ways to give a password.
func passwordFlags(cmd *cobra.Command) *passwordSource {
	var from passwordSource
	cmd.Flags().BoolVar(&from.stdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().BoolVar(&from.prompt, "password-prompt", false, "ask for the password")
	cmd.MarkFlagsMutuallyExclusive("password-stdin", "password-prompt")
	return &from
}

// userPassword is the password that was given, "" when none was.
func (a *app) userPassword(ctx context.Context, from passwordSource) (string, error) {
	if !from.stdin && !from.prompt {
		return a.getenv(userPasswordVariable), nil
	}
	return a.password(ctx, from)
}

func (a *app) userUpdate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "update INSTANCE USER", Aliases: []string{"set"}, Short: "Rename an account, or give it a new password", Args: arguments("INSTANCE", "USER"),
		ValidArgsFunction: a.completion(instances(), 0),
	}
	name := cmd.Flags().String("name", "", "new `name`")
	from := passwordFlags(cmd)
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		password, err := a.userPassword(cmd.Context(), *from)
		if err != nil {
			return err
		}
		change := wire.UserUpdate{Name: optional(*name), Password: optional(password)}
		if change == (wire.UserUpdate{}) {
			return usage(cmd, "nothing to change: give --name or a password")
		}
		return a.userChange(cmd.Context(), args[0], w, func(c *client.Client, id string) (*client.Reply, error) {
			return c.UpdateUser(cmd.Context(), id, args[1], change)
		})
	}
	return cmd
}

// userChange does one change of an instance's accounts.
func (a *app) userChange(ctx context.Context, instance string, w *waitFlags, change func(c *client.Client, id string) (*client.Reply, error)) error {
	c, ref, err := a.find(ctx, instances(), instance)
	if err != nil {
		return err
	}
	reply, err := change(c, ref.ID)
	if err != nil {
		return err
	}
	return a.finish(ctx, reply, instance, w)
}

func (a *app) userDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete INSTANCE USER", Short: "Delete an account and cut its connections", Args: arguments("INSTANCE", "USER"),
		ValidArgsFunction: a.completion(instances(), 0),
	}
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.userChange(cmd.Context(), args[0], w, func(c *client.Client, id string) (*client.Reply, error) {
			return c.DeleteUser(cmd.Context(), id, args[1])
		})
	}
	return cmd
}

func (a *app) userGrant() *cobra.Command {
	cmd := &cobra.Command{
		Use: "grant INSTANCE USER DATABASE...", Short: "Let an account touch more: for Redis patterns of keys", Args: arguments("INSTANCE", "USER", "DATABASE..."),
		Example:           "  grove user grant cache1 writer 'jobs:*'",
		ValidArgsFunction: a.completion(instances(), 0),
	}
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var grants []wire.Grant
		for _, d := range args[2:] {
			grants = append(grants, wire.Grant{Name: d})
		}
		return a.userChange(cmd.Context(), args[0], w, func(c *client.Client, id string) (*client.Reply, error) {
			return c.GrantUser(cmd.Context(), id, args[1], grants)
		})
	}
	return cmd
}

func (a *app) userRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke INSTANCE USER DATABASE", Short: "Take a grant back", Args: arguments("INSTANCE", "USER", "DATABASE"),
		ValidArgsFunction: a.completion(instances(), 0),
	}
	w := a.waitFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.userChange(cmd.Context(), args[0], w, func(c *client.Client, id string) (*client.Reply, error) {
			return c.RevokeUser(cmd.Context(), id, args[1], args[2])
		})
	}
	return cmd
}
