package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// knockTimeout bounds the coming to a door.
const knockTimeout = 5 * time.Second

// requireLocked comes to each open door as a stranger does, and wants to be told to show a password.
func (g *Guest) requireLocked(ctx context.Context, r *record) error {
	if r.encrypted() {
		if err := g.knock(ctx, r, tlsPort); err != nil || r.mode() == dbaas.TLSOn {
			return err
		}
	}
	return g.knock(ctx, r, port)
}

func (g *Guest) knock(ctx context.Context, r *record, door int) error {
	dialCtx, cancel := context.WithTimeout(ctx, knockTimeout)
	defer cancel()
	conn, err := g.host.Dial(dialCtx, "tcp", net.JoinHostPort(r.Desired.Address, strconv.Itoa(door)))
	if err == nil && door == tlsPort {
		conn, err = handshake(dialCtx, conn, r.Desired.Address, r.Desired.TLS.CA)
	}
	if err != nil {
		return fmt.Errorf("try the open port: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // a connection that cannot have one fails below
	}
	answer := make([]byte, 64)
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return fmt.Errorf("try the open port: %w", err)
	}
	n, err := conn.Read(answer)
	if err != nil {
		return fmt.Errorf("try the open port: %w", err)
	}
	if text := string(answer[:n]); !strings.HasPrefix(text, "-NOAUTH") && !strings.HasPrefix(text, "-ERR max number of clients") {
		return fmt.Errorf("the server lets strangers in: it answered %q", text)
	}
	return nil
}

// probeTimeout bounds a look at another member.
const probeTimeout = time.Second

// sighting is what a look at another member showed.
type sighting struct {
	datastore.PeerView
	address string
	follows string // address of its master
	linked  bool   // and it is connected to it
}

// Probe implements [datastore.Replica]. A database that says that it cannot serve now is alive, with a cause.
func (g *Guest) Probe(ctx context.Context, peer datastore.Endpoint) datastore.PeerView {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	r, err := g.peek()
	if err != nil {
		return datastore.PeerView{GuestID: peer.GuestID, Cause: "not prepared"}
	}
	return g.ask(ctx, r, peer).PeerView
}

// askAll looks at several members at once.
func (g *Guest) askAll(ctx context.Context, r *record, peers []datastore.Endpoint) []sighting {
	seen := make([]sighting, len(peers))
	var looks sync.WaitGroup
	for n, peer := range peers {
		looks.Go(func() { seen[n] = g.ask(ctx, r, peer) })
	}
	looks.Wait()
	return seen
}

// ask looks at another member through its port, as its replicas see it.
func (g *Guest) ask(ctx context.Context, r *record, peer datastore.Endpoint) sighting {
	s := sighting{PeerView: datastore.PeerView{GuestID: peer.GuestID}, address: peer.Address}
	l := g.call(r, peer)
	pipe := l.Pipeline()
	ping, whole := pipe.Ping(ctx), pipe.Do(ctx, "role")
	_, _ = pipe.Exec(ctx) // each tells for itself
	s.Alive, s.Cause = judge(ping.Err())
	role, err := whole.Slice()
	g.hangUp(r, peer, l, s.Alive && err == nil)
	if !s.Alive || err != nil || len(role) == 0 {
		return s
	}
	switch role[0] {
	case "master":
		s.Role = datastore.RoleMaster
	case "slave":
		s.Role = datastore.RoleReplica
		if len(role) >= 4 {
			s.follows, _ = role[1].(string)
			s.linked = role[3] == "connected"
		}
	}
	return s
}

// judge tells what the answer to a PING, or its absence, says of a database.
func judge(err error) (alive bool, cause string) {
	var answer redis.Error
	switch {
	case err == nil, hasPrefix(err, "MASTERDOWN", "MISCONF"):
		return true, ""
	case hasPrefix(err, "LOADING"):
		return true, "loading"
	case hasPrefix(err, "BUSY"):
		return true, "busy"
	case hasPrefix(err, "ERR max number of clients"):
		return true, "full"
	case hasPrefix(err, "WRONGPASS", "NOAUTH", "NOPERM"):
		return true, "login"
	case errors.As(err, &answer):
		return true, "error"
	case errors.Is(err, syscall.ECONNREFUSED):
		return false, "refused"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return false, "timeout"
	}
	return false, "unreachable"
}
