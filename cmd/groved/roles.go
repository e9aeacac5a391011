package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/cloud/local"
	"github.com/grove-dbaas/grove/internal/cloud/openstack"
	"github.com/grove-dbaas/grove/internal/config"
	"github.com/grove-dbaas/grove/internal/lifecycle"
)

func apiCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "api", Short: "Run the REST API on PostgreSQL and RabbitMQ", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRole(cmd.Context(), o, func(_ context.Context, h *house) (parts []lifecycle.Part, ready string, err error) {
				l, err := net.Listen("tcp", h.config.Listen)
				if err != nil {
					return nil, "", fmt.Errorf("listen on %s: %w", h.config.Listen, err)
				}
				part, err := h.apiPart(l)
				return []lifecycle.Part{part}, "grove ready http://" + l.Addr().String(), err
			}, cmd)
		},
	}
}

func taskmanagerCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "taskmanager", Short: "Run a taskmanager on PostgreSQL and RabbitMQ", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runRole(cmd.Context(), o, taskmanagerParts, cmd)
		},
	}
}

func taskmanagerParts(ctx context.Context, h *house) ([]lifecycle.Part, string, error) {
	provider, parts, err := h.openCloud(ctx)
	if err != nil {
		return nil, "", err
	}
	manager, err := h.taskmanager(provider)
	if err != nil {
		return nil, "", err
	}
	parts = append(parts, lifecycle.Part{Name: "taskmanager", Start: func(ctx context.Context) error { return h.publish(ctx, manager) }, Run: manager.Run})
	if h.config.Metrics.Listen != "" {
		l, err := net.Listen("tcp", h.config.Metrics.Listen)
		if err != nil {
			return nil, "", fmt.Errorf("listen on %s: %w", h.config.Metrics.Listen, err)
		}
		parts = append(parts, h.httpPart("metrics", l, h.metricsHandler()))
	}
	return parts, "grove taskmanager ready", nil
}

// openCloud opens the configured provider, with what is to be done about it at the end.
func (h *house) openCloud(ctx context.Context) (cloud.Provider, []lifecycle.Part, error) {
	if h.config.Cloud.Provider == "openstack" {
		provider, err := h.openStack()
		return provider, nil, err
	}
	if h.config.Cloud.Local.Shared {
		return local.Dial(h.config.Data), nil, nil
	}
	return h.ownLocalCloud(ctx)
}

// ownLocalCloud runs servers in this process, with what is to be done about it at the end.
func (h *house) ownLocalCloud(ctx context.Context) (cloud.Provider, []lifecycle.Part, error) {
	unlock, err := claimDataDir(ctx, h.config.Data)
	if err != nil {
		return nil, nil, err
	}
	provider, err := h.openLocalCloud(ctx)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return provider, []lifecycle.Part{{Name: "local cloud", Stop: func(ctx context.Context) error {
		defer unlock()
		return provider.Close(ctx, h.config.Cloud.Local.KeepDatabases)
	}}}, nil
}

func (h *house) openStack() (cloud.Provider, error) {
	account, err := h.account()
	if err != nil {
		return nil, err
	}
	o := h.config.Cloud.OpenStack
	return openstack.New(openstack.Config{Account: account, Region: h.config.Region, Interface: o.Interface, Network: o.Network,
		ManagementNetwork: o.Management, ExternalNetwork: o.External, ImageTags: o.ImageTags})
}

// metricsHandler is what a role without an API shows.
func (h *house) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h.metrics.Handler())
	mux.HandleFunc("GET /healthcheck", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "OK") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := h.store.Ready(r.Context()); err != nil {
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "OK")
	})
	return mux
}

// runRole runs one role of the control plane until its context ends.
func runRole(ctx context.Context, o *options, build func(context.Context, *house) ([]lifecycle.Part, string, error), cmd *cobra.Command) error {
	c, err := o.load(config.ProductionDefaults())
	if err != nil {
		return err
	}
	if c.RPC.URL == "" || c.Database.URL == "" {
		return errors.New("a role of its own needs database.url and rpc.url in the configuration; `groved dev` needs neither")
	}
	h, err := newHouse(ctx, c)
	if err != nil {
		return err
	}
	if err := errors.Join(h.store.Ready(ctx), h.connect(ctx)); err != nil {
		return errors.Join(err, h.store.Close())
	}
	parts, ready, err := build(ctx, h)
	if err != nil {
		return errors.Join(err, h.transport.Close(), h.store.Close())
	}
	parts = append([]lifecycle.Part{closing("store", h.store), closing("transport", h.transport)}, parts...)
	return lifecycle.Run(ctx, h.logger, func() { fmt.Fprintln(cmd.OutOrStdout(), ready) }, parts...)
}
