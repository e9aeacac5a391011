package dbaas

import (
	"slices"
	"testing"
	"time"
)

// transitions is the table that Task.CanBecome must be: a line per task, with all that may follow it.
func transitions() map[Task][]Task {
	busy := []Task{TaskNone, TaskRestartRequired, TaskError, TaskDeleting}
	idle := slices.DeleteFunc(Tasks(), func(t Task) bool { return t == TaskBuilding || t == TaskError })
	return map[Task][]Task{
		TaskNone:            idle,
		TaskRestartRequired: idle,
		TaskBuilding:        {TaskNone, TaskError, TaskDeleting},
		TaskDeleting:        {TaskError},
		TaskError:           {TaskNone, TaskDeleting},
		TaskRebooting:       busy,
		TaskResizing:        busy,
		TaskUpdating:        busy,
		TaskUpgrading:       busy,
		TaskPromoting:       busy,
		TaskEjecting:        busy,
		TaskDetaching:       busy,
	}
}

// TestTransitions walks all pairs of tasks.
func TestTransitions(t *testing.T) {
	table := transitions()
	if len(table) != len(Tasks()) {
		t.Fatalf("the table has %d lines, there are %d tasks", len(table), len(Tasks()))
	}
	for _, from := range Tasks() {
		for _, to := range Tasks() {
			want := from == to || slices.Contains(table[from], to)
			if got := from.CanBecome(to); got != want {
				t.Errorf("%s to %s: %t, want %t", from, to, got, want)
			}
		}
	}
}

// TestStatuses: what the API shows of each task (api.md 4.1), and that only idle instances may be changed.
func TestStatuses(t *testing.T) {
	want := map[Task]Status{
		TaskNone: "ACTIVE", TaskBuilding: "BUILD", TaskDeleting: "SHUTDOWN", TaskRebooting: "REBOOT", TaskResizing: "RESIZE",
		TaskUpdating: "ACTIVE", TaskUpgrading: "UPGRADE", TaskPromoting: "PROMOTE", TaskEjecting: "EJECT",
		TaskDetaching: "DETACH", TaskRestartRequired: "RESTART_REQUIRED", TaskError: "ERROR",
	}
	for _, task := range Tasks() {
		if got := task.Status(); got != want[task] {
			t.Errorf("%s shows as %s, want %s", task, got, want[task])
		}
		if idle := task == TaskNone || task == TaskRestartRequired; task.Idle() != idle {
			t.Errorf("%s is idle: %t", task, task.Idle())
		}
	}
}

func TestIdleTask(t *testing.T) {
	in := &Instance{FlavorID: "2", VolumeSize: 3, ConfigurationID: "c"}
	if got := in.IdleTask(); got != TaskNone {
		t.Errorf("without a shape it is %s", got)
	}
	in.Applied = in.Shape()
	if s := in.Applied; s.FlavorID != "2" || s.VolumeSize != 3 || s.ConfigurationID != "c" || in.IdleTask() != TaskNone {
		t.Errorf("the shape is %+v, the task %s", s, in.IdleTask())
	}
	in.Applied.RestartRequired = []string{"databases"}
	if got := in.IdleTask(); got != TaskRestartRequired {
		t.Errorf("with a value that waits it is %s", got)
	}
}

// TestOperatingStatus is api.md 4.2: nothing while a task runs, else the guest's word, and ERROR for a silent guest.
func TestOperatingStatus(t *testing.T) {
	now := At(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	seen := func(ago time.Duration) map[string]Heartbeat {
		return map[string]Heartbeat{"g": {GuestID: "g", SeenAt: now.Add(-ago)}}
	}
	for _, c := range []struct {
		name  string
		task  Task
		guest GuestStatus
		beats map[string]Heartbeat
		want  string
	}{
		{"healthy", TaskNone, GuestHealthy, seen(0), "HEALTHY"},
		{"no sign of life yet", TaskNone, GuestHealthy, nil, "HEALTHY"},
		{"at the limit", TaskNone, GuestHealthy, seen(HeartbeatExpiry), "HEALTHY"},
		{"silent", TaskNone, GuestHealthy, seen(HeartbeatExpiry + 1000), "ERROR"},
		{"busy", TaskRebooting, GuestHealthy, seen(0), ""},
		{"waits for a restart", TaskRestartRequired, GuestHealthy, seen(0), ""},
		{"new", TaskNone, GuestNew, nil, "NEW"},
		{"building", TaskNone, GuestBuilding, nil, "BUILD"},
		{"blocked", TaskNone, GuestBlocked, nil, "BLOCKED"},
		{"shut down", TaskNone, GuestShutdown, nil, "SHUTDOWN"},
		{"crashed", TaskNone, GuestCrashed, nil, "SHUTDOWN"},
		{"failed", TaskNone, GuestFailed, nil, "FAILED"},
		{"unknown", TaskNone, GuestUnknown, nil, "ERROR"},
		{"a word that nobody knows", TaskNone, "splendid", nil, "ERROR"},
	} {
		v := &InstanceView{Instance: Instance{Task: c.task}, Guests: []Guest{{ID: "g", Status: c.guest}}, Heartbeats: c.beats}
		if got := v.OperatingStatus(now); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := (&InstanceView{Instance: Instance{Task: TaskNone}}).OperatingStatus(now); got != "" {
		t.Errorf("without a guest it is %q", got)
	}
}
