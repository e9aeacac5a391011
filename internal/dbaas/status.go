package dbaas

// Task is what an instance is busy with (api.md 4.3). It is stored; [Status] and the operating status are derived.
type Task string

// The tasks of an instance.
const (
	TaskNone            Task = "NONE"
	TaskBuilding        Task = "BUILDING"
	TaskDeleting        Task = "DELETING"
	TaskRebooting       Task = "REBOOTING"
	TaskResizing        Task = "RESIZING"
	TaskUpdating        Task = "UPDATING"
	TaskUpgrading       Task = "UPGRADING"
	TaskPromoting       Task = "PROMOTING"
	TaskEjecting        Task = "EJECTING"
	TaskDetaching       Task = "DETACHING"
	TaskRestartRequired Task = "RESTART_REQUIRED"
	TaskError           Task = "ERROR"
)

// Tasks lists every task, for tests and for validation of stored rows.
func Tasks() []Task {
	return []Task{TaskNone, TaskBuilding, TaskDeleting, TaskRebooting, TaskResizing, TaskUpdating, TaskUpgrading,
		TaskPromoting, TaskEjecting, TaskDetaching, TaskRestartRequired, TaskError}
}

// Idle tells whether an instance with this task may be changed (api.md 4.2).
func (t Task) Idle() bool { return t == TaskNone || t == TaskRestartRequired }

// CanBecome tells whether the transition from t to next is one that Grove makes. Staying is always allowed, so that a
// step may run twice. Deleting is possible from everywhere and leads only to the end or to ERROR.
func (t Task) CanBecome(next Task) bool {
	switch {
	case next == t, next == TaskDeleting:
		return true
	case next == TaskBuilding:
		return false
	case t == TaskDeleting:
		return next == TaskError
	case t == TaskBuilding:
		return next == TaskNone || next == TaskError
	case t == TaskError:
		return next == TaskNone
	case t.Idle():
		return next != TaskError
	default: // busy with a change
		return next.Idle() || next == TaskError
	}
}

// Status is the instance status of the API (api.md 4.1).
type Status string

// The statuses that the API shows.
const (
	StatusActive          Status = "ACTIVE"
	StatusBackup          Status = "BACKUP"
	StatusBuild           Status = "BUILD"
	StatusDetach          Status = "DETACH"
	StatusEject           Status = "EJECT"
	StatusError           Status = "ERROR"
	StatusPromote         Status = "PROMOTE"
	StatusReboot          Status = "REBOOT"
	StatusResize          Status = "RESIZE"
	StatusRestartRequired Status = "RESTART_REQUIRED"
	StatusShutdown        Status = "SHUTDOWN"
	StatusUpgrade         Status = "UPGRADE"
)

// Status derives what the API shows. A task without a status of its own (UPDATING) shows as ACTIVE (api.md 4.1).
func (t Task) Status() Status {
	switch t {
	case TaskBuilding:
		return StatusBuild
	case TaskDeleting:
		return StatusShutdown
	case TaskRebooting:
		return StatusReboot
	case TaskResizing:
		return StatusResize
	case TaskUpgrading:
		return StatusUpgrade
	case TaskPromoting:
		return StatusPromote
	case TaskEjecting:
		return StatusEject
	case TaskDetaching:
		return StatusDetach
	case TaskRestartRequired:
		return StatusRestartRequired
	case TaskError:
		return StatusError
	default:
		return StatusActive
	}
}

// GuestStatus is what a guest says of its database (api.md 4.2).
type GuestStatus string

// The statuses that a guest reports, and the two that only the control plane assigns (new, unknown).
const (
	GuestNew      GuestStatus = "new"
	GuestBuilding GuestStatus = "building"
	GuestHealthy  GuestStatus = "healthy"
	GuestBlocked  GuestStatus = "blocked" // alive but not able to serve: loading, disk full
	GuestShutdown GuestStatus = "shutdown"
	GuestCrashed  GuestStatus = "crashed"
	GuestFailed   GuestStatus = "failed to spawn"
	GuestUnknown  GuestStatus = "unknown"
)

// OperatingStatus is the API's word for a guest status: the instance's operating_status while no task runs.
func (g GuestStatus) OperatingStatus() string {
	switch g {
	case GuestNew:
		return "NEW"
	case GuestBuilding:
		return "BUILD"
	case GuestHealthy:
		return "HEALTHY"
	case GuestBlocked:
		return "BLOCKED"
	case GuestShutdown, GuestCrashed:
		return "SHUTDOWN"
	case GuestFailed:
		return "FAILED"
	default:
		return "ERROR"
	}
}
