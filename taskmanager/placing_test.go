package taskmanager_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// slowNova leaves the first server that it makes in BUILD until it is told to go on, and notes all that are asked for.
type slowNova struct {
	cloud.Provider
	asked chan string // guest ids, one for each server that was asked for
	mu    sync.Mutex  // guards the fields below
	first string      // the server that builds
	looks int         // at it
	built bool
}

func (c *slowNova) EnsureServer(ctx context.Context, spec cloud.ServerSpec) (*cloud.Server, error) {
	server, err := c.Provider.EnsureServer(ctx, spec)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.first == "" {
			c.first = server.ID
		}
		c.asked <- spec.GuestID
	}
	return server, err
}

func (c *slowNova) Server(ctx context.Context, id string) (*cloud.Server, error) {
	server, err := c.Provider.Server(ctx, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == c.first && !c.built {
		c.looks++
		server.Status = cloud.ServerBuild
	}
	return server, nil
}

func (c *slowNova) seen() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.looks
}

func (c *slowNova) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.built = true
}

// TestServersOfAGroupAreBootedInTurn: of servers that it places at the same moment Nova sends two to one host. Those that are to
// be kept apart are asked for one after the other, each when the one before has its place.
func TestServersOfAGroupAreBootedInTurn(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	nova := &slowNova{Provider: h.cloud, asked: make(chan string, 10)}
	h.cloud = nova
	defer h.run(t, nil)()
	wish := clusterWish(0)
	wish.Locality = "anti-affinity"
	created, err := h.control.CreateCluster(t.Context(), tester, wish)
	must(t, err)
	<-nova.asked
	testbed.Eventually(t, 60*time.Second, func() error {
		if n := nova.seen(); n < 20 { // its own operation's, and those of the one that waits for it
			return fmt.Errorf("the first server was looked at %d times", n)
		}
		return nil
	})
	if n := len(nova.asked); n != 0 {
		t.Errorf("%d servers were asked for while the first one had no place", n)
	}
	nova.finish()
	h.succeeded(t, created.OperationID)
	if n := len(nova.asked); n != len(wish.Masters)-1 {
		t.Errorf("%d servers were asked for after the first one, want %d", n, len(wish.Masters)-1)
	}
}
