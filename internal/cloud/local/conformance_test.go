package local

import (
	"context"
	"log/slog"
	"testing"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/cloud/cloudtest"
)

func TestConformance(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(string(kind), func(t *testing.T) {
			cloudtest.Run(t, func(t *testing.T) cloudtest.Fixture {
				c := openCloud(t, Config{Volumes: kind})
				return cloudtest.Fixture{Cloud: c, TCPPorts: []int{testPort}, Surplus: surplus(c)}
			})
		})
	}
}

// A cloud that another process shares behaves as one of its own.
func TestConformanceOfSharedCloud(t *testing.T) {
	cloudtest.Run(t, func(t *testing.T) cloudtest.Fixture {
		c := openCloud(t, Config{Volumes: VolumesDirectory})
		ctx, cancel := context.WithCancel(context.Background())
		socket, err := Listen(c.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- Serve(ctx, socket, c, slog.New(slog.DiscardHandler)) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		return cloudtest.Fixture{Cloud: Dial(c.cfg.Dir), TCPPorts: []int{testPort}, Surplus: surplus(c)}
	})
}

func TestConformanceAsOrdinaryUser(t *testing.T) {
	asNobody(t, "^(TestConformance|TestDatabaseOutlivesTheCloud)$")
}

// surplus makes a second record, as only a fault could.
func surplus(c *Cloud) func(t *testing.T, kind, id string) string {
	return func(t *testing.T, kind, id string) string {
		t.Helper()
		c.mu.Lock()
		defer c.mu.Unlock()
		second, err := newID()
		if err != nil {
			t.Fatal(err)
		}
		switch kind {
		case cloud.KindServer:
			row := c.servers.rows[id]
			row.Born++
			err = c.servers.put(second, row)
		case cloud.KindVolume:
			row := c.volumes.rows[id]
			row.Born++
			row.Ready, row.ServerID = false, ""
			if err = c.volumes.put(second, row); err == nil {
				err = c.makeVolume(second)
			}
		case cloud.KindPort:
			row := c.ports.rows[id]
			row.Born++
			err = c.ports.put(second, row)
		case cloud.KindAddress:
			row := c.address.rows[id]
			row.Born++
			err = c.address.put(second, row)
		}
		if err != nil {
			t.Fatal(err)
		}
		return second
	}
}
