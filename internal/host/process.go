package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// identity tells one process from every other that ever had its pid.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, from /proc/<pid>/stat
	Boot  string `json:"boot"`  // id of the machine's boot
}

// String is short, and differs between any two processes.
func (i identity) String() string {
	return fmt.Sprintf("%.8s-%d-%d", i.Boot, i.PID, i.Start)
}

// identify gives the identity of a process that lives now.
func identify(pid int) (identity, error) {
	st, err := readStat(pid)
	if err != nil {
		return identity{}, err
	}
	return identity{PID: pid, Start: st.start, Boot: bootID()}, nil
}

// stat is what we read of /proc/<pid>/stat.
type stat struct {
	state   byte
	session int
	tty     int
	start   uint64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The command's name stands in parentheses and may hold anything, parentheses too.
	end := bytes.LastIndexByte(b, ')')
	f := bytes.Fields(b[end+1:])
	if end < 0 || len(f) < 20 {
		return stat{}, fmt.Errorf("process %d: cannot read its stat", pid)
	}
	s := stat{state: f[0][0]}
	s.session, _ = strconv.Atoi(string(f[3]))
	s.tty, _ = strconv.Atoi(string(f[4]))
	s.start, err = strconv.ParseUint(string(f[19]), 10, 64)
	return s, err
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without one, pid and start time must do
	return strings.TrimSpace(string(b))
}

// process is a handle on one running process that can't come to mean another.
type process struct {
	identity
	pidfd   *os.File // nil where the kernel or a sandbox has no pidfds
	reap    func() string
	done    chan struct{}
	exitErr string // valid when done is closed
}

// openProcess gives a handle on the process of that identity, nil when it is gone.
func openProcess(id identity) *process {
	if id.PID <= 0 || id.Boot != bootID() {
		return nil
	}
	p := &process{identity: id, done: make(chan struct{})}
	// First the handle, then the look: what lives with that start time now is what the handle means.
	if fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK); err == nil {
		p.pidfd = os.NewFile(uintptr(fd), "pidfd")
	} else if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if !p.lives() {
		p.close()
		return nil
	}
	return p
}

// lives looks whether the process runs; a zombie doesn't.
func (p *process) lives() bool {
	st, err := readStat(p.PID)
	return err == nil && st.start == p.Start && st.state != 'Z' && st.state != 'X'
}

func (p *process) close() {
	if p.pidfd != nil {
		_ = p.pidfd.Close()
	}
}

// follow returns when the process ended, or ctx.
func (p *process) follow(ctx context.Context) error {
	if p.pidfd == nil {
		return p.poll(ctx)
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return p.poll(ctx)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// A pidfd is readable when its process ended. The runtime's poller waits, so that no thread does.
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return p.poll(ctx)
	}
}

const pollInterval = 50 * time.Millisecond

func (p *process) poll(ctx context.Context) error {
	for p.lives() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
	return nil
}

// signal sends a signal to the process; one that is gone is no error.
func (p *process) signal(sig unix.Signal) error {
	var err error
	if p.pidfd != nil {
		if raw, e := p.pidfd.SyscallConn(); e == nil {
			e = raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
			if e == nil && !errors.Is(err, unix.ENOSYS) {
				return ignoreGone(err)
			}
		}
	}
	if !p.lives() {
		return nil
	}
	return ignoreGone(unix.Kill(p.PID, sig))
}

// killGroup kills the process and what it forked.
func (p *process) killGroup() error {
	if p.lives() { // it leads its group, so that the group's id is nobody else's
		if err := unix.Kill(-p.PID, unix.SIGKILL); err == nil {
			return nil
		}
	}
	return p.signal(unix.SIGKILL)
}

// killLeft kills what the process forked and left in its group, and tells whether there may be any. It is called right
// after its end: as long as members are left, or we did not reap it, the group's number is nobody else's.
func (p *process) killLeft() bool {
	return unix.Kill(-p.PID, unix.SIGKILL) == nil
}

// groupPatience is how long the dead of a group may wait for being reaped by whoever adopted them.
const groupPatience = 200 * time.Millisecond

// awaitGroup returns when the killed group is gone.
func (p *process) awaitGroup() {
	for end := time.Now().Add(groupPatience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if errors.Is(unix.Kill(-p.PID, 0), unix.ESRCH) {
			return
		}
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrProcessDone) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// unitMarker is the environment variable that marks a unit's processes with the path of their unit.
const unitMarker = "GROVE_UNIT"

// Stray is a process that belongs to a unit. Path is the unit's, or the directory in which the process works.
type Stray struct {
	PID  int
	Path string
}

// Strays lists the processes that belong to units below dir, also when all records are gone: those that carry the
// units' mark, and those that work in the directory in a session that was made for it. Someone's shell that happens to
// stand there is none of them, nor is a command in the caller's own session, whose leader may be long gone.
func Strays(dir string) ([]Stray, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []Stray
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if path := strayPath(pid, dir); path != "" {
			found = append(found, Stray{PID: pid, Path: path})
		}
	}
	return found, nil
}

func strayPath(pid int, dir string) string {
	st, err := readStat(pid)
	if err != nil || st.state == 'Z' || st.state == 'X' || st.tty != 0 {
		return ""
	}
	if path := unitOf(pid); beneath(path, dir) {
		return path
	}
	path := workDir(pid)
	if !beneath(path, dir) {
		return ""
	}
	if own, err := unix.Getsid(0); err == nil && own == st.session {
		return ""
	}
	if _, err = readStat(st.session); st.session == pid || err != nil || beneath(workDir(st.session), dir) {
		return path
	}
	return ""
}

// unitOf gives the unit whose mark a process carries, "" for none. Some programs write over their environment.
func unitOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if path, ok := strings.CutPrefix(string(v), unitMarker+"="); ok {
			return path
		}
	}
	return ""
}

func workDir(pid int) string {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(cwd, " (deleted)")
}

func beneath(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return path != "" && err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// KillStrays kills what Strays finds and returns when it is gone.
func KillStrays(ctx context.Context, dir string) error {
	for {
		strays, err := Strays(dir)
		if err != nil || len(strays) == 0 {
			return err
		}
		for _, s := range strays {
			if err := killStray(s.PID, dir); err != nil {
				return fmt.Errorf("kill process %d: %w", s.PID, err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// killStray kills a process if it is, now that we hold it, still the stray that it was.
func killStray(pid int, dir string) error {
	id, err := identify(pid)
	if err != nil {
		return nil // gone
	}
	p := openProcess(id)
	if p == nil {
		return nil
	}
	defer p.close()
	if strayPath(pid, dir) == "" {
		return nil
	}
	return p.signal(unix.SIGKILL)
}
