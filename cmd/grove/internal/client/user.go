package client

import (
	"context"
	"net/http"

	"github.com/grove-dbaas/grove/api/wire"
)

// Users lists an instance's accounts by name.
func (c *Client) Users(ctx context.Context, instanceID string, p Page) ([]wire.User, error) {
	return list[wire.User](ctx, c, request{path: []string{"instances", instanceID, "users"}}, "users", p)
}

// User shows an account.
func (c *Client) User(ctx context.Context, instanceID, name string) (*wire.User, error) {
	return get[wire.User](ctx, c, "user", "instances", instanceID, "users", name)
}

// CreateUser makes an account.
func (c *Client) CreateUser(ctx context.Context, instanceID string, u wire.UserRequest) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPost, path: []string{"instances", instanceID, "users"}, in: wire.UsersRequest{Users: []wire.UserRequest{u}}})
}

// UpdateUser renames an account, or gives it a new password.
func (c *Client) UpdateUser(ctx context.Context, instanceID, name string, change wire.UserUpdate) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPut, path: []string{"instances", instanceID, "users", name}, in: wire.UserUpdateRequest{User: &change}})
}

// DeleteUser deletes an account.
func (c *Client) DeleteUser(ctx context.Context, instanceID, name string) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodDelete, path: []string{"instances", instanceID, "users", name}})
}

// GrantUser lets an account touch more.
func (c *Client) GrantUser(ctx context.Context, instanceID, name string, grants []wire.Grant) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodPut, path: []string{"instances", instanceID, "users", name, "databases"}, in: wire.GrantList{Databases: grants}})
}

// RevokeUser takes a grant back.
func (c *Client) RevokeUser(ctx context.Context, instanceID, name, grant string) (*Reply, error) {
	return c.call(ctx, request{method: http.MethodDelete, path: []string{"instances", instanceID, "users", name, "databases", grant}})
}
