package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// client is our own connection to the server, over its socket.
type client struct {
	*redis.Client
	secret string // that it was made with
}

// connect gives the connection to a server that can be reached. Where there is none yet, it knocks first: the library
// remembers a failure for a second, and a start takes less.
func (g *Guest) connect(ctx context.Context, r *record) (*client, error) {
	c := g.ensureClient(r.AgentSecret)
	if c.PoolStats().TotalConns > 0 {
		return c, nil
	}
	conn, err := g.dial(ctx, "", "")
	if err != nil {
		return nil, fmt.Errorf("connect to the server: %w", err)
	}
	return c, conn.Close()
}

// ensureClient gives the connection, made anew when the secret is another.
func (g *Guest) ensureClient(agentSecret string) *client {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil && g.client.secret == agentSecret {
		return g.client
	}
	if g.client != nil {
		_ = g.client.Close()
	}
	// One connection that is kept: a tenant who uses up maxclients must not shut us out, nor push us out for memory.
	g.client = &client{secret: agentSecret, Client: redis.NewClient(&redis.Options{
		Addr: g.path(socketFile), Dialer: g.dial, Username: agentUser, Password: agentSecret,
		Protocol: 2, DisableIdentity: true, PoolSize: 1, MaxRetries: -1, ConnMaxIdleTime: -1,
		DialTimeout: time.Second, DialerRetries: 1, ReadTimeout: 10 * time.Second, ContextTimeoutEnabled: true,
		ReadBufferSize: 8 << 10, WriteBufferSize: 4 << 10,
		OnConnect: func(ctx context.Context, c *redis.Conn) error {
			return c.Do(ctx, "client", "no-evict", "on").Err()
		},
	})}
	return g.client
}

// Close lets go of the connections; the server goes on.
func (g *Guest) Close() error {
	g.lines.close()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client == nil {
		return nil
	}
	err := g.client.Close()
	g.client = nil
	return err
}

// mostSocketPath is a little less than what the kernel takes as the name of a socket.
const mostSocketPath = 100

// socketFD is the number under which the server has our directory open where the socket's path is too long.
const socketFD = 9

// serverSocket is the socket as the server's configuration names it.
func (g *Guest) serverSocket() string {
	if path := g.path(socketFile); len(path) <= mostSocketPath {
		return path
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", socketFD, socketFile)
}

// dial connects to the socket, also where its path is too long for the kernel.
func (g *Guest) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	path := g.path(socketFile)
	if len(path) <= mostSocketPath {
		return d.DialContext(ctx, "unix", path)
	}
	dir, err := os.Open(g.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketFile))
}

// configGet reads all parameters that the server has.
func (c *client) configGet(ctx context.Context, names ...string) (settings, error) {
	args := []any{"config", "get"}
	for _, name := range names {
		args = append(args, name)
	}
	values, err := c.Do(ctx, args...).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	s := settings{}
	for i := 0; i+1 < len(values); i += 2 {
		s[values[i]] = values[i+1]
	}
	return s, nil
}

// configSet sets parameters, all of them or, with an error, none.
func (c *client) configSet(ctx context.Context, values settings) error {
	if len(values) == 0 {
		return nil
	}
	args := []any{"config", "set"}
	for name, value := range values {
		args = append(args, name, value)
	}
	return c.Do(ctx, args...).Err()
}

// setAccounts makes the live accounts as defined. Connections that are open stay, but for those of accounts that are no
// more.
func (c *client) setAccounts(ctx context.Context, list []account) error {
	live, err := c.Do(ctx, "acl", "users").StringSlice()
	if err != nil {
		return fmt.Errorf("list the accounts: %w", err)
	}
	for _, name := range live {
		if slices.ContainsFunc(list, func(a account) bool { return a.name == name }) {
			continue
		}
		if err := c.Do(ctx, "acl", "deluser", name).Err(); err != nil {
			return fmt.Errorf("delete the account %s: %w", name, err)
		}
	}
	for _, a := range list {
		args := []any{"acl", "setuser", a.name}
		for _, word := range a.definition() {
			args = append(args, word)
		}
		if err := c.Do(ctx, args...).Err(); err != nil {
			return fmt.Errorf("set the account %s: %w", a.name, err)
		}
	}
	return nil
}

// answers tells whether the server speaks with us, be it to say that it cannot serve yet.
func (c *client) answers(ctx context.Context) error {
	err := c.Ping(ctx).Err()
	if hasPrefix(err, "LOADING", "BUSY", "MISCONF", "MASTERDOWN") {
		return nil
	}
	return err
}

// hasPrefix tells whether err is the server's and begins with one of those words. Words are the part of its answers
// that stays from version to version.
func hasPrefix(err error, words ...string) bool {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return false
	}
	for _, word := range words {
		if strings.HasPrefix(answer.Error(), word) {
			return true
		}
	}
	return false
}

// info is what the server says of itself.
type info map[string]string

// parseInfo reads the lines of INFO, of which there may be unknown ones.
func parseInfo(text string) info {
	i := info{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok && !strings.HasPrefix(line, "#") {
			i[name] = value
		}
	}
	return i
}

func (c *client) info(ctx context.Context) (info, error) {
	text, err := c.Info(ctx).Result()
	return parseInfo(text), err
}
