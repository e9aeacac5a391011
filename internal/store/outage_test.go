package store

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// R5: whatever is under way when PostgreSQL is ended, or asked for while it starts, is told as what is worth another try.
func TestDatabaseEndedUnderLoad(t *testing.T) {
	server := testbed.PrivatePostgres(t)
	s := openMigrated(t, Options{URL: server.URL, Keyring: newKeyring(t)})
	seedVersion(t, s)
	i := newInstance(t, s)
	deeds := map[string]func(ctx context.Context) error{
		"transaction": func(ctx context.Context) error {
			return s.Tx(ctx, func(tx *Tx) error { _, err := tx.Instance(i.ID); return err })
		},
		"list":  func(ctx context.Context) error { _, _, err := s.ListInstances(ctx, InstanceFilter{}); return err },
		"claim": func(ctx context.Context) error { _, err := s.Claim(ctx, "w", "", time.Minute); return err },
		"beat": func(ctx context.Context) error {
			return s.RecordHeartbeats(ctx, []dbaas.Heartbeat{{GuestID: "g", BootID: "b"}})
		},
	}
	done := make(chan struct{})
	var work sync.WaitGroup
	for name, deed := range deeds {
		for range 4 {
			work.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if err := deed(t.Context()); err != nil && dbaas.ErrorCode(err) != dbaas.Unavailable {
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		}
	}
	for range 5 {
		server.Kill()
		server.Start(t)
		for name, deed := range deeds {
			testbed.Eventually(t, 5*time.Second, func() error {
				if err := deed(t.Context()); err != nil {
					t.Logf("%s after the start: %v", name, err)
					return err
				}
				return nil
			})
		}
	}
	close(done)
	work.Wait()
}
