package redis

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestLinesAreKept: looks at a peer take one connection, also after the peer was started again; one at a stranger leaves
// none.
func TestLinesAreKept(t *testing.T) {
	t.Parallel()
	master, replica := pair(t, redis70)
	peer := *master.endpoint()
	received := func() (n int) {
		t.Helper()
		i, err := infoOf(t, master)
		if err == nil {
			_, err = fmt.Sscan(i["total_connections_received"], &n)
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	look := func() {
		t.Helper()
		for range 20 {
			if v := replica.Probe(t.Context(), peer); !v.Alive || v.Role != datastore.RoleMaster {
				t.Fatalf("the peer is %+v", v)
			}
		}
	}
	kept := func() int {
		replica.lines.mu.Lock()
		defer replica.lines.mu.Unlock()
		return len(replica.lines.idle)
	}
	replica.desired.Peers = nil
	replica.configure(t)
	look()
	if n := kept(); n != 0 {
		t.Errorf("%d lines to strangers are kept", n)
	}
	replica.desired.Peers = []datastore.Endpoint{peer}
	replica.configure(t)
	look()
	before := received()
	look()
	if n := received() - before; n != 0 {
		t.Errorf("20 looks took %d connections", n)
	}
	if err := errors.Join(master.Stop(t.Context()), master.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	datastoretest.AwaitInStep(t, replica)
	testbed.Eventually(t, 30*time.Second, func() error {
		if v := replica.Probe(t.Context(), peer); !v.Alive {
			return fmt.Errorf("the peer is %+v", v)
		}
		return nil
	})
	look()
	replica.desired.Peers = nil
	replica.configure(t)
	replica.Probe(t.Context(), peer)
	if n := kept(); n != 0 {
		t.Errorf("%d lines are kept to those that were peers", n)
	}
}

// infoOf is what the server says of itself.
func infoOf(t *testing.T, g *trial) (info, error) {
	t.Helper()
	r, err := g.require()
	if err != nil {
		return nil, err
	}
	c, err := g.connect(t.Context(), r)
	if err != nil {
		return nil, err
	}
	return c.info(t.Context())
}
