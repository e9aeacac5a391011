package taskmanager_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestPasswordWithoutADeadReplica: a replica that is down keeps nobody from a new password and new users; it gets them
// when it is back, without being asked for.
func TestPasswordWithoutADeadReplica(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	ctx, source := t.Context(), h.view(t, h.createReplicated(t))
	replica := h.view(t, h.replicaBeside(t, source.ID))
	h.lose(t, replica)
	root, err := h.control.EnableRoot(ctx, tester, source.ID, "wonderland2")
	must(t, err)
	h.succeed(t, func() (string, error) { return root.OperationID, nil })
	h.requireServing(t, h.view(t, source.ID))
	if missed := h.view(t, replica.ID).Applied.Behind; len(missed) != 1 || missed[0] != replica.Guests[0].ID {
		t.Fatalf("the guests that were not told are %v, want %s", missed, replica.Guests[0].ID)
	}
	h.succeed(t, func() (string, error) {
		return h.control.CreateUsers(ctx, tester, source.ID, []control.NewUser{{Name: "late", Password: "wonderland3", Grants: []string{"*"}}})
	})
	must(t, h.local.StartServer(ctx, replica.Guests[0].ServerID))
	defer h.run(t, nil)()
	for _, account := range []redis.Options{{Username: "default", Password: "wonderland2"}, {Username: "late", Password: "wonderland3"}} {
		account.Addr, account.DisableIdentity = replica.Addresses[0].Address+":6379", true
		client := redis.NewClient(&account)
		defer client.Close()
		testbed.Eventually(t, 2*time.Minute, func() error { return client.Ping(ctx).Err() })
	}
	testbed.Eventually(t, time.Minute, func() error {
		if v := h.view(t, replica.ID); len(v.Applied.Behind) > 0 || !v.Task.Idle() {
			return fmt.Errorf("the replica is %s and behind: %v", v.Task, v.Applied.Behind)
		}
		return nil
	})
}
