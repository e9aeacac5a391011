package control_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

func TestConfigurationGroups(t *testing.T) {
	onBoth(t, func(t *testing.T, h *house) {
		group := h.group(map[string]any{"timeout": "100", "requirepass": "a secret of the group"})
		if len(group.Values) != 1 || !slices.Equal(group.SecretNames, []string{"requirepass"}) || group.Datastore != "redis" {
			t.Errorf("the group is %+v", group)
		}
		if n := h.count("configurations WHERE CAST(parameters AS TEXT) LIKE '%a secret of%'"); n != 0 {
			t.Error("the group holds its secret in the clear")
		}
		_, err := h.Configuration(h.ctx(), stranger, group.ID)
		refused(t, err, dbaas.NotFound)
		_, err = h.Configuration(h.ctx(), tenant, "nonsense")
		refused(t, err, dbaas.NotFound)

		_, err = h.PatchConfiguration(h.ctx(), tenant, group.ID, control.UpdateConfiguration{Name: new("ignored"), Values: map[string]any{"hz": 20}})
		must(t, err)
		group, err = h.Configuration(h.ctx(), tenant, group.ID)
		must(t, err)
		if names := slices.Sorted(maps.Keys(group.Values)); group.Name != "group" || !slices.Equal(names, []string{"hz", "timeout"}) || len(group.SecretNames) != 1 {
			t.Errorf("after the merge it is %+v", group)
		}
		_, err = h.ReplaceConfiguration(h.ctx(), tenant, group.ID, control.UpdateConfiguration{Name: new("new"), Values: map[string]any{"hz": 30}})
		must(t, err)
		group, err = h.Configuration(h.ctx(), tenant, group.ID)
		must(t, err)
		if group.Name != "new" || len(group.Values) != 1 || len(group.SecretNames) != 0 || h.count("secrets WHERE kind LIKE 'value:%'") != 0 {
			t.Errorf("replaced it is %+v", group)
		}
		_, err = h.PatchConfiguration(h.ctx(), tenant, group.ID, control.UpdateConfiguration{Values: map[string]any{"hz": 10_000}})
		refused(t, err, dbaas.Unprocessable, "hz")
	})
}

// TestAttachedGroups: a change reaches every instance or none, and what is attached stays.
func TestAttachedGroups(t *testing.T) {
	onBoth(t, func(t *testing.T, h *house) {
		group := h.group(map[string]any{"timeout": 100})
		var ids []string
		for range 3 {
			r := wish()
			r.ConfigurationID = group.ID
			created, err := h.CreateInstance(h.ctx(), tenant, r)
			must(t, err)
			h.finish(created.OperationID)
			ids = append(ids, created.View.ID)
		}
		refused(t, h.DeleteConfiguration(h.ctx(), tenant, group.ID), dbaas.BadRequest, "3 instance(s)", ids[0])

		busy, err := h.RestartInstance(h.ctx(), tenant, ids[2])
		must(t, err)
		_, err = h.PatchConfiguration(h.ctx(), tenant, group.ID, control.UpdateConfiguration{Values: map[string]any{"timeout": 200}})
		refused(t, err, dbaas.Unprocessable, busy)
		if v := h.view(ids[0]); v.Task != dbaas.TaskNone || h.count("operations WHERE kind = 'configure_instance'") != 0 {
			t.Error("a refused change has reached some instances")
		}
		h.finish(busy)
		operations, err := h.PatchConfiguration(h.ctx(), tenant, group.ID, control.UpdateConfiguration{Values: map[string]any{"timeout": 300}})
		if err != nil || len(operations) != 3 {
			t.Fatalf("operations %v, %v", operations, err)
		}
		for _, op := range operations {
			h.finish(op)
		}
		for _, id := range ids {
			op, err := h.UpdateInstance(h.ctx(), tenant, id, control.UpdateInstance{Configuration: new("")})
			must(t, err)
			h.finish(op)
		}
		must(t, h.DeleteConfiguration(h.ctx(), tenant, group.ID))
		refused(t, h.DeleteConfiguration(h.ctx(), tenant, group.ID), dbaas.NotFound)
	})
}

// TestAttachRefusals: a group of another project, of another version, too large for the instance, or attached already.
func TestAttachRefusals(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	id := h.active()
	attach := func(group string) error {
		op, err := h.UpdateInstance(h.ctx(), tenant, id, control.UpdateInstance{Configuration: &group})
		if err == nil && op != "" {
			h.finish(op)
		}
		return err
	}
	foreign, err := h.CreateConfiguration(h.ctx(), stranger, control.CreateConfiguration{Name: "x", Datastore: "redis"})
	must(t, err)
	refused(t, attach(foreign.ID), dbaas.NotFound)
	newer, err := h.CreateConfiguration(h.ctx(), tenant, control.CreateConfiguration{Name: "x", Datastore: "redis", Version: "valkey-8.0"})
	must(t, err)
	refused(t, attach(newer.ID), dbaas.BadRequest, "another datastore version")
	refused(t, attach(h.group(map[string]any{"maxmemory": "100gb"}).ID), dbaas.Unprocessable, "maxmemory")
	refused(t, attach("nonsense"), dbaas.NotFound)
	must(t, attach("")) // there is none: nothing to do
	group := h.group(map[string]any{"timeout": 100})
	must(t, attach(group.ID))
	refused(t, attach(group.ID), dbaas.BadRequest, "already")
	must(t, attach(h.group(nil).ID))
	if v := h.view(id); v.ConfigurationID == group.ID || v.Task != dbaas.TaskNone {
		t.Errorf("the instance is %+v", v.Instance)
	}
}

// TestGroupPassword: a group's password is the password of what is created with it, and pending for what it is attached to.
func TestGroupPassword(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	group := h.group(map[string]any{"requirepass": "a secret of the group"})
	r := wish()
	r.ConfigurationID = group.ID
	created, err := h.CreateInstance(h.ctx(), tenant, r)
	must(t, err)
	if created.Password != "a secret of the group" {
		t.Error("the new instance has another password than its group's")
	}
	id := h.active()
	op, err := h.UpdateInstance(h.ctx(), tenant, id, control.UpdateInstance{Configuration: &group.ID})
	must(t, err)
	h.tx(func(tx *store.Tx) error {
		in, err := tx.Instance(id)
		if err != nil {
			return err
		}
		secretID, err := tx.FindSecret(in.GroupID, control.SecretPendingPassword)
		if err != nil {
			return err
		}
		value, err := tx.RevealSecret(secretID)
		if string(value) != "a secret of the group" {
			t.Errorf("pending is %q", value)
		}
		return err
	})
	if n := h.count("operations WHERE id = '" + op + "' AND CAST(state AS TEXT) LIKE '%a secret of%'"); n != 0 {
		t.Error("the operation holds the password in the clear")
	}
}
