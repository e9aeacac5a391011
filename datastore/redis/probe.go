package redis

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/grove-dbaas/grove/internal/host"
)

// requireLocked comes to the door as a stranger does, and wants to be told to show a password.
func requireLocked(ctx context.Context, h *host.Host, address string) error {
	dialCtx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := h.Dial(dialCtx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
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
