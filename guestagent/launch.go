package guestagent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Launch gives way to the program that took the place of this one, should there be one; it returns when this one is to be the
// agent. A new program is tried before, which takes a while. Only the installed program launches others.
func (p *Programs) Launch(ctx context.Context, log *slog.Logger) error {
	if p.trial || os.Getenv(installedEnv) != "" {
		return nil
	}
	s := p.load()
	if s.Trial != "" {
		var err error
		if s, err = p.try(ctx, s, log); err != nil {
			return err
		}
	}
	if s.Current == "" {
		return ctx.Err()
	}
	if s.Installed != p.stamp() {
		log.Info("another agent was installed, and takes over", "program", p.installed)
		return p.save(programState{Command: s.Command, Refused: s.Refused})
	}
	if sum, err := sumOf(p.path(s.Current)); err != nil || sum != s.Current {
		log.Error("the agent's program is damaged; the installed one takes over", "program", p.path(s.Current), "error", err)
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return syscall.Exec(p.path(s.Current), os.Args, p.environ(installedEnv+"="+p.installed))
}

// Relaunch executes the installed program in this process, for an agent that ended with ErrReplaced.
func (p *Programs) Relaunch() error { return syscall.Exec(p.installed, os.Args, p.environ()) }

// environ is our own environment, as it is for the installed program, and more.
func (p *Programs) environ(more ...string) []string {
	mine := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, installedEnv+"=") || strings.HasPrefix(v, trialEnv+"=")
	})
	return append(mine, more...)
}

// try runs a new program as our child until it has reached the broker, and makes it the agent's; or puts it away.
func (p *Programs) try(ctx context.Context, s programState, log *slog.Logger) (programState, error) {
	sum := s.Trial
	s.Attempts++
	if err := p.save(s); err != nil {
		return s, err
	}
	reason := "was cut off several times"
	if s.Attempts <= mostAttempts {
		log.Info("a new agent is tried", "sha256", sum)
		reason = p.watchTrial(ctx, sum, s.Patience)
	}
	if ctx.Err() != nil {
		return s, ctx.Err() // the next start tries again
	}
	s.Trial, s.Patience, s.Attempts = "", 0, 0
	if reason == "" {
		s.Current, s.Installed, s.Refused = sum, p.stamp(), ""
		log.Info("the new agent takes over", "sha256", sum)
	} else {
		s.Refused = fmt.Sprintf("The new agent %s; the one before was put back.", reason)
		log.Error("the new agent was rolled back", "sha256", sum, "reason", reason)
	}
	err := p.save(s)
	p.prune(s)
	return s, err
}

// watchTrial gives the reason why a program is no good, "" for one that is.
func (p *Programs) watchTrial(ctx context.Context, sum string, patience time.Duration) string {
	if patience <= 0 {
		patience = defaultProbation
	}
	_ = os.Remove(filepath.Join(p.dir, confirmedFile))
	runtime.LockOSThread() // the child dies with the thread that started it
	defer runtime.UnlockOSThread()
	cmd := exec.Command(p.path(sum), os.Args[1:]...)
	cmd.Env = p.environ(installedEnv+"="+p.installed, trialEnv+"="+sum)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "cannot be started"
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	defer stopChild(cmd, ended)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return "was not tried to the end"
		case <-ended:
			return "ended by itself"
		case <-limit.C:
			return fmt.Sprintf("was silent for %s", patience)
		case <-tick.C:
			if p.confirmed(sum) {
				return ""
			}
		}
	}
}

// stopChild ends a program that was tried, by force when it does not want to.
func stopChild(cmd *exec.Cmd, ended <-chan struct{}) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	select {
	case <-ended:
	case <-limit.C:
		_ = cmd.Process.Kill()
		<-ended
	}
}

// prune removes programs that nobody needs any more.
func (p *Programs) prune(s programState) {
	paths, _ := filepath.Glob(filepath.Join(p.dir, "grove-agent-*")) // a pattern that is well formed
	aside, _ := filepath.Glob(filepath.Join(p.dir, ".fetched.*.tmp"))
	for _, path := range append(paths, aside...) {
		if path != p.path(s.Current) {
			_ = os.Remove(path) // what stays takes room, and does no harm
		}
	}
}
