package guestagent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/host"
)

// ErrReplaced is what Run ends with when another program is to take the agent's place: the installed one is to be executed,
// which launches it.
var ErrReplaced = errors.New("another program takes the agent's place")

// Programs are the programs that an agent's machine has for it: the installed one, which is never touched, and those that
// took its place since, in files of the agent's own. The installed one starts first, always: it tries a new program as its
// child, under its eyes, and steps aside (exec) for one that was found good. So an agent that is broken is replaced by the one
// before without anybody's help.
type Programs struct {
	dir       string
	installed string // path
	trial     bool   // this process is one that is being tried

	mu   sync.Mutex // guards the fields below
	self string     // SHA-256 of the program that runs, once it is known
	busy string     // the command that is being carried out
}

// programState is what is on disk of an agent's programs.
type programState struct {
	// Installed tells the installed program that was there when another took its place: one installed since then wins.
	Installed string `json:"installed,omitempty"`
	Current   string `json:"current,omitempty"` // SHA-256 of the program that took its place, "" for none
	// Trial is the SHA-256 of the program to be tried, by order of Command.
	Trial    string        `json:"trial,omitempty"`
	Command  string        `json:"command,omitempty"`
	Patience time.Duration `json:"patience,omitempty"`
	Attempts int           `json:"attempts,omitempty"` // that were begun
	Refused  string        `json:"refused,omitempty"`  // why Command came to nothing
}

// The environment by which the programs of an agent know each other. Every release keeps to it.
const (
	installedEnv = "GROVE_AGENT_INSTALLED" // path of the installed program, for one that it launched
	trialEnv     = "GROVE_AGENT_TRIAL"     // this one is tried
)

const (
	programDir    = "program"
	programFile   = "state.json"
	confirmedFile = "confirmed"
	// mostProgram bounds a program's size.
	mostProgram = 256 << 20
	// downloadPatience bounds how long a program may take to arrive.
	downloadPatience = 5 * time.Minute
	// mostAttempts is how often a trial may be cut off, by a reboot for instance, before it counts as failed.
	mostAttempts     = 3
	defaultProbation = time.Minute
)

// OpenPrograms looks who this process is. dir is the host's.
func OpenPrograms(dir string) (*Programs, error) {
	p := &Programs{dir: filepath.Join(dir, programDir), installed: os.Getenv(installedEnv), trial: os.Getenv(trialEnv) != ""}
	if p.installed == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the agent's own program: %w", err)
		}
		p.installed = self
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a place for programs: %w", err)
	}
	return p, nil
}

func (p *Programs) path(sum string) string { return filepath.Join(p.dir, "grove-agent-"+sum) }

// load reads the state. One that cannot be read counts as none: the installed program is always good.
func (p *Programs) load() (s programState) {
	text, err := os.ReadFile(filepath.Join(p.dir, programFile))
	if err != nil || json.Unmarshal(text, &s) != nil {
		return programState{}
	}
	return s
}

func (p *Programs) save(s programState) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := host.WriteFile(filepath.Join(p.dir, programFile), text, 0o600, nil); err != nil {
		return fmt.Errorf("save which program is the agent's: %w", err)
	}
	return nil
}

// running gives the checksum of the program that runs.
func (p *Programs) running() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.self == "" {
		sum, err := sumOf("/proc/self/exe") // the file may have been replaced since
		if err != nil {
			return "", err
		}
		p.self = sum
	}
	return p.self, nil
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read a program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read a program: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// stamp tells an installed program from a later one.
func (p *Programs) stamp() string {
	info, err := os.Stat(p.installed)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %d", p.installed, info.Size(), info.ModTime().UnixNano())
}

// confirm notes that this program reached the broker. Only of one that is tried anybody wants to know.
func (p *Programs) confirm() error {
	if p == nil || !p.trial {
		return nil
	}
	sum, err := p.running()
	if err != nil {
		return err
	}
	return host.WriteFile(filepath.Join(p.dir, confirmedFile), []byte(sum), 0o600, nil)
}

func (p *Programs) confirmed(sum string) bool {
	text, err := os.ReadFile(filepath.Join(p.dir, confirmedFile))
	return err == nil && string(text) == sum
}

var sumPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// UpgradeAgent implements [guest.API].
func (a *Agent) UpgradeAgent(_ context.Context, r guest.AgentRequest) (*guest.AgentUpgrade, error) {
	if !sumPattern.MatchString(r.SHA256) || !strings.HasPrefix(r.Location, "http://") && !strings.HasPrefix(r.Location, "https://") {
		return nil, dbaas.Errorf(dbaas.BadRequest, "A new agent is named by an http(s) URL and the SHA-256 of its program, in hex.")
	}
	if err := a.admit(r.Fence); err != nil {
		return nil, err
	}
	p := a.Programs
	if p == nil {
		p = &Programs{} // which tells what runs
	}
	sum, err := p.running()
	if err != nil {
		return nil, err
	}
	switch {
	case p.trial:
		return &guest.AgentUpgrade{Progress: "the new agent is on trial"}, nil
	case sum == r.SHA256:
		return &guest.AgentUpgrade{Done: true}, nil
	case a.Programs == nil:
		return nil, dbaas.Errorf(dbaas.NotImplemented, "This agent is a part of groved, and is upgraded with it.")
	}
	s := p.load()
	if s.Command == r.CommandID && s.Refused != "" {
		return nil, dbaas.Errorf(dbaas.Unprocessable, "%s", s.Refused)
	}
	if p.begin(r.CommandID) {
		a.jobs.work.Go(func() { a.replace(p, r) })
	}
	return &guest.AgentUpgrade{Progress: "the guest fetches the new agent"}, nil
}

// begin notes that a command is being carried out; false when one is.
func (p *Programs) begin(command string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := p.busy == ""
	if free {
		p.busy = command
	}
	return free
}

// replace fetches a program and has the agent end for it. What fails is told to whoever repeats the command.
func (a *Agent) replace(p *Programs, r guest.AgentRequest) {
	ctx, cancel := context.WithTimeout(a.jobs.ctx, downloadPatience)
	defer cancel()
	err := p.stage(ctx, r)
	if err == nil {
		if err = a.deed.lock(a.jobs.ctx); err == nil { // for good: nothing is begun any more
			close(a.replaced)
			return
		}
	}
	a.Logger.Error("agent not replaced", "error", err)
	if word := new(dbaas.Error); errors.As(err, &word) && a.jobs.ctx.Err() == nil { // one that is cut off by our own end is begun again
		s := p.load()
		s.Command, s.Trial, s.Refused = r.CommandID, "", word.Message
		if err := p.save(s); err != nil {
			a.Logger.Error("refusal not noted", "error", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = ""
}

// stage fetches a program and notes that it is to be tried.
func (p *Programs) stage(ctx context.Context, r guest.AgentRequest) error {
	if sum, err := sumOf(p.path(r.SHA256)); err != nil || sum != r.SHA256 {
		if err := p.fetch(ctx, r); err != nil {
			return err
		}
	}
	s := p.load()
	s.Trial, s.Command, s.Patience, s.Attempts, s.Refused = r.SHA256, r.CommandID, r.Patience, 0, ""
	return p.save(s)
}

func (p *Programs) fetch(ctx context.Context, r guest.AgentRequest) error {
	refuse := func(format string, args ...any) error { return dbaas.Errorf(dbaas.Unprocessable, format, args...) }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Location, nil)
	if err != nil {
		return refuse("The URL of the new agent is not understood.")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return refuse("The guest does not reach the new agent's URL.")
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refuse("The new agent's URL answers %s.", resp.Status)
	}
	f, err := os.CreateTemp(p.dir, ".fetched.*.tmp")
	if err != nil {
		return refuse("The guest cannot keep the new agent: %v.", errors.Unwrap(err))
	}
	defer func() { _ = os.Remove(f.Name()) }()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(resp.Body, mostProgram+1))
	if err = errors.Join(err, f.Chmod(0o700), f.Sync(), f.Close()); err != nil {
		return refuse("The new agent did not arrive whole: the connection was cut, or the guest's disk is full.")
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != r.SHA256 || n > mostProgram {
		return refuse("What is at the new agent's URL has another SHA-256 (%s).", sum)
	}
	if err := os.Rename(f.Name(), p.path(r.SHA256)); err != nil {
		return err
	}
	return host.SyncDir(p.dir)
}
