package taskmanager_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// trial says how an operation of one kind comes about, so that the crash suite can begin one. Each workflow's own test
// file adds its trial; the suite fails for a workflow without one.
type trial struct {
	// begin asks for the change as a user does and gives the operation's id. in is an ACTIVE instance of the trial's
	// form, or "" for a trial that creates its own.
	begin func(ctx context.Context, t *testing.T, h *house, in string) (operationID string)
	// form is what the instance must be, a key of forms.
	form string
	// heavy: the trial takes several guests. make test kills it at a sample of its points only (see crashPoints).
	heavy bool
	// soaks: the trial takes a whole cluster or a pair for long, and is for make crash alone.
	soaks bool
	// every: of a heavy trial's steps make test takes one in so many; 0 for all.
	every int
	// creates: the trial needs no instance and makes one. deletes: it leaves none. spends: what it leaves has another form
	// than before, and is not used again.
	creates, deletes, spends bool
	// settles: the watch goes on with the instance afterwards until it is protected again, so that the effects vary.
	settles bool
	// unasked: the watch begins it, and a tenant reads of its failure nowhere but in the operation.
	unasked bool
	// varies: it begins in another way each second time; make crash lets it fail at each step in both.
	varies bool
	// child is the workflow by which it changes the members of a cluster, "" for none.
	child string
	// check looks at the instance afterwards; nil: being ACTIVE is enough.
	check func(t *testing.T, h *house, in *dbaas.InstanceView)
	// failed looks at the instance after a failure for good; nil: it must be as before, and serve.
	failed func(t *testing.T, h *house, in *dbaas.InstanceView)
}

// sampled tells whether make test takes a heavy trial's nth step.
func (tr *trial) sampled(n int) bool { return n%max(tr.every, 1) == 0 }

// forms make the instances that trials begin with, by form. What is given must be ACTIVE, and any member of a group will
// do: trials find the others, for roles change.
func forms() map[string]func(h *house, t *testing.T) (in string) {
	return map[string]func(*house, *testing.T) string{
		"":            (*house).createActive,
		"replication": (*house).createReplicated,
		"cluster":     (*house).createMember,
		"standby":     (*house).createStandby,
		"tls":         (*house).createEncrypted,
	}
}

// trials by workflow kind; a second one of the same kind has a form's name added.
func trials() map[string]trial {
	return map[string]trial{
		"create_instance": createTrial(),
		"delete_instance": deleteTrial(),

		"create_instance/standby": createStandbyTrial(),
		"set_tls/cluster":         clusterTLSTrial(),

		"restart_instance":   restartTrial(),
		"stop_instance":      stopTrial(),
		"start_instance":     startTrial(),
		"resize_volume":      resizeVolumeTrial(),
		"resize_flavor":      resizeFlavorTrial(),
		"configure_instance": configureTrial(),
		"set_password":       passwordTrial(),
		"set_users":          usersTrial(),
		"set_persistence":    persistenceTrial(),
		"set_profile":        profileTrial(),
		"set_tls":            setTLSTrial(),
		"renew_certificates": renewTrial(),
		"upgrade_instance":   upgradeTrial(),
		"rebuild_instance":   rebuildTrial(),
		"update_access":      accessTrial(),
		"create_replicas":    createReplicasTrial(),
		"promote_replica":    promoteTrial(),
		"eject_source":       ejectTrial(),
		"detach_replica":     detachTrial(),

		"create_cluster":        createClusterTrial(),
		"delete_cluster":        deleteClusterTrial(),
		"grow_cluster":          growClusterTrial(),
		"shrink_cluster":        shrinkClusterTrial(),
		"restart_cluster":       restartClusterTrial(),
		"resize_cluster_volume": resizeClusterVolumeTrial(),
		"resize_cluster_flavor": resizeClusterFlavorTrial(),
		"upgrade_cluster":       upgradeClusterTrial(),
		"configure_cluster":     configureClusterTrial(),
		"heal_cluster":          healClusterTrial(),

		"add_guest":           addGuestTrial(),
		"remove_guest":        removeGuestTrial(),
		"change_availability": changeAvailabilityTrial(),
		"failover":            failoverTrial(),
		"repair_standby":      repairTrial(),
		"restart_pair":        restartPairTrial(),
		"resize_pair":         resizePairTrial(),
		"rebuild_pair":        rebuildPairTrial(),
		"upgrade_pair":        upgradePairTrial(),
		"upgrade_agent":       upgradeAgentTrial(),
	}
}

// kindOf is the workflow kind of a trial.
func kindOf(name string) string {
	kind, _, _ := strings.Cut(name, "/")
	return kind
}

// tried gives the workflows by the names of their trials: one that has several is there several times.
func tried() []engine.Workflow {
	all := taskmanager.Workflows()
	for _, name := range slices.Sorted(maps.Keys(trials())) {
		i := slices.IndexFunc(all, func(w engine.Workflow) bool { return w.Kind == kindOf(name) })
		if i >= 0 && name != kindOf(name) {
			again := all[i]
			again.Kind = name
			all = append(all, again)
		}
	}
	return all
}

var tester = control.Caller{ProjectID: "demo", UserID: "tester", RequestID: "req-test", Admin: false}

func createTrial() trial {
	return trial{creates: true, begin: func(ctx context.Context, t *testing.T, h *house, _ string) string {
		created, err := h.control.CreateInstance(ctx, tester, control.CreateInstance{Name: "trial", FlavorID: "1", VolumeSize: 1})
		must(t, err)
		return created.OperationID
	}}
}

// createStandbyTrial creates both guests of a hot standby. The watch looks after them from then on.
func createStandbyTrial() trial {
	return trial{creates: true, form: "standby", heavy: true, every: 4, settles: true, begin: func(ctx context.Context, t *testing.T, h *house, _ string) string {
		created, err := h.control.CreateInstance(ctx, tester, control.CreateInstance{Name: "trial", FlavorID: "1", VolumeSize: 1, HighAvailability: async()})
		must(t, err)
		return created.OperationID
	}, check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
		if v = h.awaitProtected(t, v.ID); len(v.Guests) != 2 {
			t.Errorf("a hot standby of %d guests", len(v.Guests))
		}
		h.requireServing(t, v)
	}}
}

func deleteTrial() trial {
	return trial{deletes: true, begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
		return mustID(t)(h.control.DeleteInstance(ctx, tester, in))
	}}
}

func restartTrial() trial {
	return trial{begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
		return mustID(t)(h.control.RestartInstance(ctx, tester, in))
	}}
}

func resizeVolumeTrial() trial {
	var want int
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			v, err := h.control.Instance(ctx, tester, in)
			must(t, err)
			want = v.VolumeSize + 1
			return mustID(t)(h.control.ResizeVolume(ctx, tester, in, want))
		},
		check: func(t *testing.T, _ *house, v *dbaas.InstanceView) {
			if v.VolumeSize != want || v.Applied.VolumeSize != want {
				t.Errorf("volume is %d GB (applied %d), want %d", v.VolumeSize, v.Applied.VolumeSize, want)
			}
		},
	}
}

func resizeFlavorTrial() trial {
	var want string
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			v, err := h.control.Instance(ctx, tester, in)
			must(t, err)
			if want = "2"; v.FlavorID == want {
				want = "1"
			}
			return mustID(t)(h.control.ResizeFlavor(ctx, tester, in, want))
		},
		check: func(t *testing.T, _ *house, v *dbaas.InstanceView) {
			if v.FlavorID != want || v.Applied.FlavorID != want {
				t.Errorf("flavor is %s (applied %s), want %s", v.FlavorID, v.Applied.FlavorID, want)
			}
		},
	}
}

// configureTrial attaches a group, or detaches the one that the trial before attached.
func configureTrial() trial {
	var want string
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			v, err := h.control.Instance(ctx, tester, in)
			must(t, err)
			if want = ""; v.ConfigurationID == "" {
				group, err := h.control.CreateConfiguration(ctx, tester, control.CreateConfiguration{
					Name: "trial", Datastore: "redis", Values: map[string]any{"timeout": 300}})
				must(t, err)
				want = group.ID
			}
			return mustID(t)(h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{Configuration: &want}))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			timeout := "0"
			if want != "" {
				timeout = "300"
			}
			if v.ConfigurationID != want {
				t.Errorf("configuration is %q, want %q", v.ConfigurationID, want)
			}
			if got := h.parameters(t, v, "timeout"); got != timeout {
				t.Errorf("timeout is %s in the configuration file, want %s", got, timeout)
			}
		},
	}
}

func passwordTrial() trial {
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			root, err := h.control.EnableRoot(ctx, tester, in, "")
			must(t, err)
			h.password = root.Password
			return root.OperationID
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			credentials, err := h.control.Credentials(t.Context(), tester, v.ID)
			must(t, err)
			if credentials.Password != h.password {
				t.Error("the credentials are not the password that root was given")
			}
			h.requireServing(t, v)
		},
	}
}

func accessTrial() trial {
	var want string
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			v, err := h.control.Instance(ctx, tester, in)
			must(t, err)
			if want = "127.0.0.0/8"; len(v.Access.AllowedCIDRs) > 0 && v.Access.AllowedCIDRs[0] == want {
				want = "127.0.0.1/32"
			}
			return mustID(t)(h.control.UpdateInstance(ctx, tester, in, control.UpdateInstance{Access: &dbaas.Access{AllowedCIDRs: []string{want}}}))
		},
		check: func(t *testing.T, _ *house, v *dbaas.InstanceView) {
			if len(v.Access.AllowedCIDRs) != 1 || v.Access.AllowedCIDRs[0] != want {
				t.Errorf("access is %v, want %s", v.Access, want)
			}
		},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustID(t *testing.T) func(string, error) string {
	return func(id string, err error) string {
		t.Helper()
		must(t, err)
		if id == "" {
			t.Fatal("no operation was made")
		}
		return id
	}
}
