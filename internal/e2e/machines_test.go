package e2e

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/host"
)

// machines boots what Nova's fake driver says that it has booted: for each server an agent process on this machine, with exactly
// what the server was given. A server's address is put on the loopback device; its volume is a directory that outlives it.
type machines struct {
	t       testing.TB
	servers string // where the driver writes a directory for each server
	project string // whose servers are booted
	dir     string
	done    chan struct{}
	watch   sync.WaitGroup
	running map[string]*machine
}

// machine is a server that was booted.
type machine struct {
	address string
	dir     string // its disk
	volume  string
	seen    int // events that were acted upon
	agent   *exec.Cmd
}

// watchMachines boots the servers of a project, from the driver's directory, until the test ends.
func watchMachines(t testing.TB, servers, project string) *machines {
	t.Helper()
	m := &machines{t: t, servers: servers, project: project, dir: t.TempDir(), done: make(chan struct{}), running: map[string]*machine{}}
	m.watch.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-m.done:
				return
			case <-tick.C:
				m.look()
			}
		}
	})
	t.Cleanup(func() {
		close(m.done)
		m.watch.Wait()
		for _, one := range m.running {
			one.end()
		}
	})
	return m
}

// look acts on the events that are new.
func (m *machines) look() {
	found, err := os.ReadDir(m.servers)
	if err != nil {
		return // the driver makes the directory with the first server
	}
	there := map[string]bool{}
	for _, entry := range found {
		id := entry.Name()
		there[id] = true
		events, err := os.ReadFile(filepath.Join(m.servers, id, "events"))
		if err != nil {
			continue
		}
		lines := bytes.Split(bytes.TrimSpace(events), []byte("\n"))
		one := m.running[id]
		if one == nil {
			if one, err = m.open(id); err != nil {
				m.t.Errorf("server %s: %v", id, err)
			}
			if one == nil {
				continue // not one of Grove's
			}
			m.running[id] = one
		}
		for _, line := range lines[one.seen:] {
			one.seen++
			if err := one.act(line); err != nil {
				m.t.Errorf("server %s: %s: %v", id, line, err)
			}
		}
	}
	for id, one := range m.running {
		if !there[id] { // destroyed
			one.end()
			delete(m.running, id)
		}
	}
}

// open prepares the machine of a server of the project; nil for another's.
func (m *machines) open(id string) (*machine, error) {
	var server struct {
		Project string `json:"project_id"`
		Ports   []struct {
			FixedIPs []string `json:"fixed_ips"`
		} `json:"ports"`
	}
	text, err := os.ReadFile(filepath.Join(m.servers, id, "server.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err = errors.Join(err, json.Unmarshal(text, &server)); err != nil || server.Project != m.project {
		return nil, err
	}
	if len(server.Ports) == 0 || len(server.Ports[0].FixedIPs) == 0 {
		return nil, fmt.Errorf("it has no address: %s", text)
	}
	var given struct {
		GuestID string `json:"guest_id"`
	}
	userData, err := os.ReadFile(filepath.Join(m.servers, id, "user_data"))
	if err != nil {
		return nil, err
	}
	bootstrap, err := bootstrapOf(userData)
	if err = errors.Join(err, json.Unmarshal(bootstrap, &given)); err != nil {
		return nil, err
	}
	one := &machine{address: server.Ports[0].FixedIPs[0], dir: filepath.Join(m.dir, id), volume: filepath.Join(m.dir, "volume-of-"+given.GuestID)}
	size := one.volume + ".size"
	spec, err := json.Marshal(host.Spec{Dir: one.dir, DataDir: one.volume, Address: one.address, SizeFile: size})
	return one, errors.Join(err, os.MkdirAll(one.dir, 0o700), os.MkdirAll(one.volume, 0o700), os.WriteFile(size, []byte(fmt.Sprint(1<<30)), 0o600),
		os.WriteFile(one.dir+".host.json", spec, 0o600), os.WriteFile(one.dir+".bootstrap.json", bootstrap, 0o600))
}

// bootstrapOf takes what cloud-init would write to the disk out of a server's user data.
func bootstrapOf(userData []byte) ([]byte, error) {
	text, ok := bytes.CutPrefix(userData, []byte("#cloud-config\n"))
	if !ok {
		return nil, fmt.Errorf("cloud-init would not read %.40q", userData)
	}
	var config struct {
		Files []struct{ Path, Encoding, Content string } `json:"write_files"`
	}
	if err := json.Unmarshal(text, &config); err != nil || len(config.Files) != 1 || config.Files[0].Encoding != "b64" {
		return nil, fmt.Errorf("the user data hold no bootstrap: %v", err)
	}
	return base64.StdEncoding.DecodeString(config.Files[0].Content)
}

// act does to the machine what was done to the server.
func (one *machine) act(line []byte) error {
	var event struct {
		Event string
		Size  int64
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return err
	}
	switch event.Event {
	case "spawn", "power_on":
		return one.boot()
	case "reboot":
		one.end()
		return one.boot()
	case "power_off", "destroy":
		one.end()
	case "extend_volume":
		return os.WriteFile(one.volume+".size", []byte(fmt.Sprint(event.Size)), 0o600)
	}
	return nil
}

func (one *machine) boot() error {
	if one.agent != nil {
		return nil
	}
	if out, err := exec.Command("ip", "addr", "replace", one.address+"/32", "dev", "lo", "label", addressLabel()).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	log, err := os.OpenFile(one.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, "grove-agent"), "--config", one.dir+".bootstrap.json")
	cmd.Env = append(os.Environ(), host.SpecEnv+"="+one.dir+".host.json")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	one.agent = cmd
	return nil
}

// end takes the power away: from the agent and from all that it started.
func (one *machine) end() {
	if one.agent == nil {
		return
	}
	_ = one.agent.Process.Kill()
	_ = one.agent.Wait()
	one.agent = nil
	for _, line := range processesNaming(one.volume) {
		if number, _, ok := strings.Cut(line, " "); ok {
			if pid, err := strconv.Atoi(number); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	_ = exec.Command("ip", "addr", "del", one.address+"/32", "dev", "lo").Run()
}

// addressLabel marks the addresses of this run of the tests, for its sweep; a label has at most 15 characters.
func addressLabel() string {
	run := os.Getenv("GROVE_RUN") // its directory, whose name ends in six random characters
	return "lo:" + cmp.Or(run[strings.LastIndexByte(run, '.')+1:], "grove")
}
