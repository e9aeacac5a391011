package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/internal/config"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

func checkCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Try what the configuration names: keys, policy, database, broker, identity service, cloud", Args: cobra.NoArgs,
		Long: "Check reads and asks only. Every part is tried, and a line says how it went; the exit status is 1 when one has failed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load(config.ProductionDefaults())
			if err != nil {
				return err
			}
			return check(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
}

// checkPatience is how long each part may take to answer.
const checkPatience = 20 * time.Second

// check tries each part of an installation, and goes on after one that fails.
func check(ctx context.Context, c config.Config, w io.Writer) error {
	failed := 0
	try := func(what string, deed func(ctx context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, checkPatience)
		defer cancel()
		if err := deed(ctx); err != nil {
			failed++
			fmt.Fprintf(w, "%-18s failed: %v\n", what, err)
			return
		}
		fmt.Fprintf(w, "%-18s ok\n", what)
	}
	try("policy", func(context.Context) error { _, err := loadPolicy(c); return err })
	h := &house{config: c}
	try("keys and database", func(ctx context.Context) (err error) {
		if h, err = newHouse(ctx, c); err != nil {
			h = nil
			return err
		}
		return h.store.Ready(ctx)
	})
	if h == nil {
		return fmt.Errorf("%d parts have failed; without the database the others were not tried", failed)
	}
	defer h.store.Close()
	if c.RPC.URL != "" {
		try("broker", h.checkBroker)
	}
	if c.API.Auth == "keystone" || c.Cloud.Provider == "openstack" {
		try("identity service", func(ctx context.Context) error {
			account, err := h.account()
			if err == nil {
				_, err = account.Login(ctx)
			}
			return err
		})
	}
	if c.Cloud.Provider == "openstack" {
		try("cloud", h.checkCloud)
	}
	if failed > 0 {
		return fmt.Errorf("%d parts have failed", failed)
	}
	return nil
}

// checkBroker connects, and asks the management API.
func (h *house) checkBroker(ctx context.Context) error {
	if err := h.connect(ctx); err != nil {
		return err
	}
	_, err := h.accounts.List(ctx)
	return errors.Join(err, h.transport.Close())
}

// checkCloud asks for what the cloud has on offer, the networks of the configuration among it.
func (h *house) checkCloud(ctx context.Context) error {
	provider, err := h.openStack()
	if err != nil {
		return err
	}
	catalog, err := provider.Catalog(ctx)
	if err != nil {
		return err
	}
	o := h.config.Cloud.OpenStack
	for option, network := range map[string]string{"network": o.Network, "management_network": o.Management, "external_network": o.External} {
		if network != "" && !slices.ContainsFunc(catalog.Networks, func(n dbaas.Network) bool { return n.ID == network }) {
			return fmt.Errorf("the account sees no network %s (cloud.openstack.%s)", network, option)
		}
	}
	if len(catalog.Flavors) == 0 {
		return errors.New("the account sees no flavor")
	}
	return nil
}
