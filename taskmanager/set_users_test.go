package taskmanager_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// usersTrial makes one account after another.
func usersTrial() trial {
	var want string
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			all, _, err := h.control.Users(ctx, tester, in, 0, "")
			must(t, err)
			want = fmt.Sprintf("user-%03d", len(all))
			return mustID(t)(h.control.CreateUsers(ctx, tester, in, []control.NewUser{{Name: want, Password: "wonderland1", Grants: []string{"app:*"}}}))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			u, err := h.control.User(t.Context(), tester, v.ID, want)
			must(t, err)
			if strings.Join(u.Grants, " ") != "app:*" {
				t.Errorf("the user's grants are %v", u.Grants)
			}
			client := redis.NewClient(&redis.Options{Addr: v.Addresses[0].Address + ":6379", Username: want, Password: "wonderland1", DisableIdentity: true})
			defer client.Close()
			if err := client.Set(t.Context(), "app:k", "v", 0).Err(); err != nil {
				t.Errorf("the user cannot write what it was granted: %v", err)
			}
			if err := client.Set(t.Context(), "other:k", "v", 0).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
				t.Errorf("the user may write what it was not granted: %v", err)
			}
			h.requireServing(t, v)
		},
	}
}

// TestFailedUsersAreForgotten: what could not be set everywhere is as if it had never been asked for.
func TestFailedUsersAreForgotten(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createActive(t)
	h.succeed(t, func() (string, error) {
		return h.control.CreateUsers(t.Context(), tester, in, []control.NewUser{{Name: "writer", Password: "wonderland1", Grants: []string{"app:*"}}})
	})
	v := h.during(t, "applyUsers", nil, func() (string, error) {
		return h.control.UpdateUser(t.Context(), tester, in, "writer", control.UpdateUser{Name: ref("renamed")})
	})
	users, _, err := h.control.Users(t.Context(), tester, in, 0, "")
	must(t, err)
	if len(users) != 1 || users[0].Name != "writer" || v.Fault == nil || v.Status() != dbaas.StatusActive {
		t.Errorf("after a failed change the users are %+v, the instance is %s with %v", users, v.Status(), v.Fault)
	}
	h.requireServing(t, v) // with its old password
}

func ref[T any](v T) *T { return &v }

// TestStopThatFailsStartsAgain: a stop that is called off leaves a running database.
func TestStopThatFailsStartsAgain(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createActive(t)
	v := h.during(t, "awaitStopped", nil, func() (string, error) { return h.control.StopInstance(t.Context(), tester, in) })
	if v.Stopped || v.Status() != dbaas.StatusActive {
		t.Errorf("the instance is %s (stopped: %t)", v.Status(), v.Stopped)
	}
	h.requireServing(t, v)
}

// TestUsersOfACluster: what is asked of one member holds on all of them.
func TestUsersOfACluster(t *testing.T) {
	t.Parallel()
	h := openHouse(t, "", t.TempDir())
	in := h.createMember(t)
	h.succeed(t, func() (string, error) {
		return h.control.CreateUsers(t.Context(), tester, in, []control.NewUser{{Name: "writer", Password: "wonderland1", Grants: []string{"app:*"}}})
	})
	members := h.clusterView(t, h.view(t, in).ClusterID).Members
	for _, m := range members {
		client := redis.NewClient(&redis.Options{Addr: m.Guests[0].Address + ":6379", Username: "writer", Password: "wonderland1", DisableIdentity: true})
		defer client.Close()
		if err := client.Ping(t.Context()).Err(); err != nil {
			t.Errorf("member %s does not know the user: %v", m.Name, err)
		}
	}
	if len(members) < 3 {
		t.Errorf("the cluster has %d members", len(members))
	}
}
