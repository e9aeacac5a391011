package client

import (
	"context"
	"net/http"

	"github.com/grove-dbaas/grove/api/wire"
)

// Clusters lists the project's clusters.
func (c *Client) Clusters(ctx context.Context, p Page) ([]wire.Cluster, error) {
	return list[wire.Cluster](ctx, c, request{path: []string{"clusters"}}, "clusters", p)
}

// Cluster shows a cluster with its members.
func (c *Client) Cluster(ctx context.Context, id string) (*wire.Cluster, error) {
	return get[wire.Cluster](ctx, c, "cluster", "clusters", id)
}

// CreateCluster makes a cluster.
func (c *Client) CreateCluster(ctx context.Context, n wire.CreateCluster) (*wire.Cluster, *Reply, error) {
	var body wire.ClusterEnvelope
	reply, err := c.call(ctx, request{method: http.MethodPost, path: []string{"clusters"}, in: wire.CreateClusterRequest{Cluster: &n}, out: &body})
	return &body.Cluster, reply, err
}

// DeleteCluster deletes a cluster.
func (c *Client) DeleteCluster(ctx context.Context, id string) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodDelete, path: []string{"clusters", id}})
}

// ActOnCluster does one deed to a cluster.
func (c *Client) ActOnCluster(ctx context.Context, id string, action wire.ClusterAction) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPost, path: []string{"clusters", id}, in: action})
}

// ClusterCredentials reveals how to connect to a cluster.
func (c *Client) ClusterCredentials(ctx context.Context, id string) (*wire.Credentials, error) {
	return get[wire.Credentials](ctx, c, "credentials", "clusters", id, "credentials")
}
