package control_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/all"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// TestUsersArePendingUntilTheyAreSet: what a request asks for is in one sealed secret until every member has it; no
// password is anywhere else, and the rows are those of before.
func TestUsersArePendingUntilTheyAreSet(t *testing.T) {
	for name, url := range map[string]func(*testing.T) string{
		"sqlite": func(*testing.T) string { return "" }, "postgres": func(t *testing.T) string { return testbed.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, url(t))
			id := h.active()
			operation, err := h.CreateUsers(h.ctx(), tenant, id, []control.NewUser{{Name: "writer", Password: "wonderland1", Grants: []string{"app:*"}}})
			must(t, err)
			users, _, err := h.Users(h.ctx(), tenant, id, 0, "")
			must(t, err)
			if len(users) != 0 || h.count("secrets WHERE kind = 'pending-users'") != 1 {
				t.Errorf("before they are set the users are %+v", users)
			}
			op := h.operation(operation)
			events, _, err := h.Events(h.ctx(), tenant, store.EventFilter{ProjectID: "demo"})
			must(t, err)
			if text := fmt.Sprintf("%s %s %s", op.State, events[0].Before, events[0].After); strings.Contains(text, "wonderland1") || strings.Contains(text, "hash") {
				t.Errorf("the operation and its event tell %s", text)
			}
			if locks := h.count("operation_locks"); locks != 2 {
				t.Errorf("%d locks are held, want those of the group and of its one instance", locks)
			}
			_, err = h.DeleteUser(h.ctx(), tenant, id, "writer")
			refused(t, err, dbaas.Unprocessable, "set_users")
			_, _, err = h.Users(h.ctx(), stranger, id, 0, "")
			refused(t, err, dbaas.NotFound, id)
		})
	}
}

func TestUsersAreBounded(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	id := h.active()
	var many []control.NewUser
	for i := range 101 {
		many = append(many, control.NewUser{Name: fmt.Sprintf("u%d", i), Password: "wonderland1"})
	}
	_, err := h.CreateUsers(h.ctx(), tenant, id, many)
	refused(t, err, dbaas.OverLimit, "100 users")
	grants := slices.Repeat([]string{""}, 101)
	for i := range grants {
		grants[i] = fmt.Sprintf("k%d", i)
	}
	_, err = h.CreateUsers(h.ctx(), tenant, id, []control.NewUser{{Name: "u", Password: "wonderland1", Grants: grants}})
	refused(t, err, dbaas.OverLimit, "100 grants")
	_, err = h.CreateUsers(h.ctx(), tenant, id, many[:100])
	must(t, err)
}

func TestUsersOfADatastoreWithout(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "", func(c *control.Config) {
		c.Datastores = []datastore.Datastore{incapable{all.Datastores()[0]}}
	})
	_, err := h.CreateUsers(h.ctx(), tenant, h.active(), []control.NewUser{{Name: "u", Password: "wonderland1"}})
	refused(t, err, dbaas.NotImplemented, "redis")
}

type incapable struct{ datastore.Datastore }

func (c incapable) Manifest() *datastore.Manifest {
	m := *c.Datastore.Manifest()
	m.Capabilities = datastore.Capabilities{}
	return &m
}
