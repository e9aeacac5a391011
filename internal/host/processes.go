package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Processes runs units as plain child processes in sessions of their own. Each has a record (what it is, and which
// process runs it), so that the next agent finds it again, whatever became of this one. It is safe for concurrent use.
type Processes struct {
	dir   string
	netns string // in which units run, "" for our own
	as    *Owner // whom they run as, nil for ourselves
	log   *slog.Logger

	mu       sync.Mutex
	units    map[string]*unit
	watchers map[*watcher]struct{}

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	done sync.WaitGroup
}

var (
	_ Units   = (*Processes)(nil)
	_ Watcher = (*Processes)(nil)
)

// unit is one unit and the process that runs it.
type unit struct {
	name string
	turn sync.Mutex // held by whoever starts or ends the unit

	mu   sync.Mutex // guards the fields below
	rec  unitRecord
	proc *process // nil when none ran since we looked first
}

// unitRecord is what is on disk of a unit.
type unitRecord struct {
	Spec    UnitSpec      `json:"spec"`
	Process identity      `json:"process"`
	Asked   string        `json:"asked,omitempty"` // to end: askedStop or askedShutdown; "" is that it should run
	Cgroup  *memoryCgroup `json:"cgroup,omitempty"`
}

// How a unit may have been asked to end: to stay so, or because its machine goes down.
const (
	askedStop     = "stop"
	askedShutdown = "shutdown"
)

// exitRecord tells how a process ended. It stands beside the unit's record, written by whoever reaped the process.
type exitRecord struct {
	Process identity `json:"process"`
	How     string   `json:"how"`
}

// unitsDir is where the units of a host have their records, below its Dir.
const unitsDir = "units"

// OpenProcesses opens the units whose records are below dir (a Host's Dir), and takes over those that run.
func OpenProcesses(dir string, log *slog.Logger) (*Processes, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(filepath.Join(dir, unitsDir))
	if err != nil {
		return nil, fmt.Errorf("open units: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open units: %w", err)
	}
	p := &Processes{dir: dir, log: log, units: map[string]*unit{}, watchers: map[*watcher]struct{}{}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	if err := p.adoptAll(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close stops looking after the units, which go on running.
func (p *Processes) Close() {
	p.stop()
	p.done.Wait()
}

// Names lists the units that have ever been started here.
func (p *Processes) Names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make([]string, 0, len(p.units))
	for name := range p.units {
		names = append(names, name)
	}
	return names
}

func (p *Processes) adoptAll() error {
	paths, err := filepath.Glob(filepath.Join(p.dir, "*.json"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read unit: %w", err)
		}
		u := &unit{name: strings.TrimSuffix(filepath.Base(path), ".json")}
		if err := json.Unmarshal(b, &u.rec); err != nil {
			return fmt.Errorf("read unit %s: %w", path, err)
		}
		p.units[u.name] = u
		if u.proc = openProcess(u.rec.Process); u.proc != nil {
			p.log.Info("unit adopted", "unit", u.name, "pid", u.proc.PID)
			p.follow(u, u.proc)
		}
	}
	return nil
}

func (p *Processes) path(name, suffix string) string { return filepath.Join(p.dir, name+suffix) }

// find gives the unit of that name, nil when there is none.
func (p *Processes) find(name string) *unit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.units[name]
}

func (p *Processes) findOrAdd(name string) *unit {
	p.mu.Lock()
	defer p.mu.Unlock()
	u, ok := p.units[name]
	if !ok {
		u = &unit{name: name}
		p.units[name] = u
	}
	return u
}

// running gives the unit's process, nil when it has none that runs.
func (u *unit) running() *process {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.proc == nil {
		return nil
	}
	select {
	case <-u.proc.done:
		return nil
	default:
		return u.proc
	}
}

func (u *unit) record() unitRecord {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.rec
}

// save makes a record the unit's, first on disk.
func (p *Processes) save(u *unit, rec unitRecord) error {
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	if err := WriteFile(p.path(u.name, ".json"), b, 0o600, nil); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rec = rec
	return nil
}

// Start starts a unit as specified; one that runs is left alone, but for its memory limit.
func (p *Processes) Start(ctx context.Context, s UnitSpec) error {
	if s.Name == "" || s.Name != filepath.Base(s.Name) || len(s.Argv) == 0 {
		return fmt.Errorf("start unit %q: it needs a plain name and a program", s.Name)
	}
	u := p.findOrAdd(s.Name)
	u.turn.Lock()
	defer u.turn.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if u.running() != nil {
		return p.readopt(u, s)
	}
	if err := p.start(u, s); err != nil {
		return fmt.Errorf("start unit %s: %w", s.Name, err)
	}
	return nil
}

// readopt makes a running unit wanted again, with the memory limit of the new spec.
func (p *Processes) readopt(u *unit, s UnitSpec) error {
	rec := u.record()
	if rec.Asked == "" && rec.Spec.MemoryMax == s.MemoryMax {
		return nil
	}
	if g := rec.Cgroup; g != nil && rec.Spec.MemoryMax != s.MemoryMax {
		limit := s.MemoryMax
		if limit == 0 {
			limit = 1 << 60
		}
		if err := g.setLimit(limit); err != nil {
			p.log.Warn("memory limit unchanged", "unit", u.name, "error", err)
		}
	}
	rec.Spec.MemoryMax, rec.Asked = s.MemoryMax, ""
	return p.save(u, rec)
}

// gate holds a new process back until all is done that must be done before the program runs: above all the record, so
// that no program ever runs unrecorded. When we die in between, the gate closes and the process ends.
const gate = `IFS= read -r go <&3 && [ "$go" = go ] && exec 3<&- && exec "$@"`

func (p *Processes) start(u *unit, s UnitSpec) error {
	program, err := exec.LookPath(s.Argv[0])
	if err != nil {
		return err
	}
	if err := p.clear(u); err != nil {
		return err
	}
	out, err := p.openOutput(s.Name)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	cmd := exec.Command("/bin/sh", append([]string{"-c", gate, "sh", program}, s.Argv[1:]...)...)
	cmd.Env = append(append(plainEnv(), s.Env...), unitMarker+"="+p.path(s.Name, ""))
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, out, out
	if s.Dir == "" {
		cmd.Dir = p.dir
	}
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Credential: p.as.credential()}
	err = InNetNS(p.netns, cmd.Start) // a child is born into its parent thread's
	_ = r.Close()
	if err != nil {
		return err
	}
	proc, err := p.admit(u, s, cmd.Process.Pid)
	if err == nil {
		_, err = w.WriteString("go\n")
	}
	if err != nil {
		_ = w.Close() // the gate closes, and the process ends
		_ = cmd.Wait()
		return err
	}
	proc.reap = func() string {
		_ = cmd.Wait() // the state tells more
		return cmd.ProcessState.String()
	}
	u.mu.Lock()
	u.proc = proc
	u.mu.Unlock()
	p.follow(u, proc)
	return nil
}

// clear removes what an earlier process left that ended while nobody watched: its children, which would hold the
// database's files, and its control group.
func (p *Processes) clear(u *unit) error {
	rec := u.record()
	if rec.Process.PID == 0 {
		return nil
	}
	strays, err := Strays(p.path(u.name, ""))
	if err == nil && rec.Spec.Dir != "" {
		var inDir []Stray
		inDir, err = Strays(rec.Spec.Dir)
		strays = append(strays, inDir...)
	}
	if err != nil {
		return err
	}
	for _, s := range strays {
		if st, err := readStat(s.PID); err == nil && st.session == rec.Process.PID && st.start >= rec.Process.Start {
			if err := ignoreGone(unix.Kill(s.PID, unix.SIGKILL)); err != nil {
				return fmt.Errorf("kill what an earlier process left: %w", err)
			}
		}
	}
	p.dropCgroup(u)
	return nil
}

// admit does what comes before a program may run: its limits, and its record.
func (p *Processes) admit(u *unit, s UnitSpec, pid int) (*process, error) {
	id, err := identify(pid)
	if err != nil {
		return nil, err
	}
	proc := openProcess(id)
	if proc == nil {
		return nil, errors.New("the process ended before its program began")
	}
	rec := unitRecord{Spec: s, Process: id, Cgroup: p.limitMemory(u.name, s.MemoryMax, pid)}
	p.limitFiles(u.name, s.NoFile, pid)
	if err := p.save(u, rec); err != nil {
		proc.close()
		return nil, err
	}
	return proc, nil
}

func (p *Processes) limitMemory(name string, limit int64, pid int) *memoryCgroup {
	if limit <= 0 {
		return nil
	}
	g, err := makeMemoryCgroup(p.path(name, ""), limit)
	if err == nil {
		if err = g.add(pid); err == nil {
			return g
		}
		_ = g.remove()
	}
	p.log.Info("no memory limit", "unit", name, "reason", err)
	return nil
}

func (p *Processes) limitFiles(name string, n uint64, pid int) {
	if n == 0 {
		return
	}
	var old unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old)
	if err == nil {
		err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: max(n, old.Max)}, nil)
		if err != nil && n > old.Max { // only the mighty may raise it
			p.log.Info("fewer open files than wanted", "unit", name, "wanted", n, "limit", old.Max)
			err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: old.Max, Max: old.Max}, nil)
		}
	}
	if err != nil {
		p.log.Warn("limit of open files unchanged", "unit", name, "error", err)
	}
}

// plainEnv is what units and commands get of our environment: nothing that may be secret.
func plainEnv() []string {
	env := []string{"LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"PATH", "HOME", "TZ"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// follow waits for the end of a process in the background, and tells the watchers. A child is followed even beyond
// Close, for someone has to reap it.
func (p *Processes) follow(u *unit, proc *process) {
	ctx := p.ctx
	if proc.reap != nil {
		ctx = context.Background()
	} else {
		p.done.Add(1)
	}
	go func() {
		if proc.reap == nil {
			defer p.done.Done()
		}
		if err := proc.follow(ctx); err != nil {
			return // closed
		}
		left := proc.killLeft()
		if proc.reap != nil {
			proc.exitErr = proc.reap()
			p.writeExit(u.name, exitRecord{Process: proc.identity, How: proc.exitErr})
		}
		if left {
			proc.awaitGroup()
		}
		close(proc.done)
		proc.close()
		p.tell(u.name)
	}()
}

func (p *Processes) writeExit(name string, rec exitRecord) {
	b, err := json.Marshal(rec)
	if err == nil {
		err = WriteFile(p.path(name, ".exit"), b, 0o600, nil)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) { // the whole directory may be gone
		p.log.Warn("exit not recorded", "unit", name, "error", err)
	}
}

// dropCgroup removes the control group of a unit whose process has ended.
func (p *Processes) dropCgroup(u *unit) {
	if g := u.record().Cgroup; g != nil {
		if err := g.remove(); err != nil {
			p.log.Warn("cgroup left behind", "unit", u.name, "error", err)
		}
	}
}

// Stop sends SIGTERM, after the timeout SIGKILL, and returns when the unit is gone. It stays stopped until Start.
func (p *Processes) Stop(ctx context.Context, name string) error {
	return p.end(ctx, name, askedStop)
}

// Shutdown stops all units as a machine does that goes down: they count as wanted still.
func (p *Processes) Shutdown(ctx context.Context) error {
	return p.each(func(name string) error { return p.end(ctx, name, askedShutdown) })
}

// Destroy kills all units, and whatever is left of them, and removes their control groups: what a machine that is
// deleted does not need to do cleanly.
func (p *Processes) Destroy(ctx context.Context) error {
	return p.each(func(name string) error {
		if err := p.Kill(ctx, name); err != nil {
			return err
		}
		p.dropCgroup(p.find(name))
		return nil
	})
}

// each does something with all units at once.
func (p *Processes) each(do func(name string) error) error {
	names := p.Names()
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = do(name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// defaultStopTimeout is for units that name none.
const defaultStopTimeout = 10 * time.Second

func (p *Processes) end(ctx context.Context, name, asked string) error {
	u := p.find(name)
	if u == nil {
		return nil
	}
	u.turn.Lock()
	defer u.turn.Unlock()
	rec := u.record()
	proc := u.running()
	if (proc != nil || asked == askedStop) && rec.Asked != askedStop && rec.Asked != asked {
		rec.Asked = asked
		if err := p.save(u, rec); err != nil {
			return fmt.Errorf("stop unit %s: %w", name, err)
		}
	}
	if proc != nil {
		if err := terminate(ctx, proc, rec.Spec.StopTimeout); err != nil {
			return fmt.Errorf("stop unit %s: %w", name, err)
		}
	}
	p.dropCgroup(u)
	return nil
}

// askAgain is how soon a process is asked again to end: a Redis that writes its first append-only file, as it does after
// a full copy, refuses and forgets that it was asked.
const askAgain = 2 * time.Second

func terminate(ctx context.Context, proc *process, seconds int) error {
	timeout := defaultStopTimeout
	if seconds > 0 {
		timeout = time.Duration(seconds) * time.Second
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		if err := proc.signal(unix.SIGTERM); err != nil {
			return err
		}
		if err := proc.signal(unix.SIGCONT); err != nil { // a suspended one would not end
			return err
		}
		select {
		case <-proc.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return kill(ctx, proc)
		case <-again.C:
		}
	}
}

func kill(ctx context.Context, proc *process) error {
	if err := proc.killGroup(); err != nil {
		return err
	}
	select {
	case <-proc.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill ends a unit as a crash does: at once, and unasked, as far as State can tell.
func (p *Processes) Kill(ctx context.Context, name string) error {
	u := p.find(name)
	if u == nil {
		return nil
	}
	proc := u.running() // not in turn: a crash waits for nobody, nor for a stop that takes long
	if proc == nil {
		return nil
	}
	if err := kill(ctx, proc); err != nil {
		return fmt.Errorf("kill unit %s: %w", name, err)
	}
	return nil
}

// State looks at a unit; of one that is unknown, the zero state.
func (p *Processes) State(_ context.Context, name string) (UnitState, error) {
	u := p.find(name)
	if u == nil {
		return UnitState{}, nil
	}
	u.mu.Lock()
	rec, proc := u.rec, u.proc
	u.mu.Unlock()
	if rec.Process.PID == 0 { // never came as far
		return UnitState{}, nil
	}
	s := UnitState{Started: rec.Process.String(), Output: p.output(name)}
	if u.running() != nil {
		s.Running, s.PID = true, rec.Process.PID
		st, err := readStat(s.PID)
		s.Suspended = err == nil && (st.state == 'T' || st.state == 't')
		p.boundOutput(name)
		return s, nil
	}
	s.Stopped = rec.Asked == askedStop
	if rec.Asked == "" {
		s.ExitErr = p.howEnded(name, rec.Process, proc)
	}
	return s, nil
}

func (p *Processes) howEnded(name string, id identity, proc *process) string {
	if proc != nil && proc.exitErr != "" {
		return proc.exitErr
	}
	var rec exitRecord
	b, err := os.ReadFile(p.path(name, ".exit"))
	if err == nil && json.Unmarshal(b, &rec) == nil && rec.Process == id {
		return rec.How
	}
	return "ended, how is not known: whoever started it was gone"
}

// outputMax bounds what is kept of a unit's output, twice: in its file and in the one before.
const outputMax = 4 << 20

func (p *Processes) openOutput(name string) (*os.File, error) {
	path := p.path(name, ".log")
	if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// boundOutput moves an output that has grown too large aside. The process appends, so that it may be cut under it.
func (p *Processes) boundOutput(name string) {
	path := p.path(name, ".log")
	if fi, err := os.Stat(path); err != nil || fi.Size() < outputMax {
		return
	}
	b, err := readTail(path, outputMax)
	if err == nil {
		err = os.WriteFile(path+".1", b, 0o600)
	}
	if err == nil {
		err = os.Truncate(path, 0)
	}
	if err != nil {
		p.log.Warn("output not cut", "unit", name, "error", err)
	}
}

func (p *Processes) output(name string) string {
	b, err := readTail(p.path(name, ".log"), tailBytes)
	if err != nil {
		return ""
	}
	return lastLines(b)
}

func readTail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(n, fi.Size()))
	got, err := f.ReadAt(b, fi.Size()-int64(len(b)))
	if got == len(b) {
		err = nil
	}
	return b[:got], err
}

// watcher is one who wants to know which units end.
type watcher struct {
	ctx   context.Context
	names chan string
	sends sync.WaitGroup
}

// Watch names each unit whose process ends from now on, asked or not: State tells which. What ended before is not told,
// so look at all states once after calling Watch. The channel is closed when ctx is.
func (p *Processes) Watch(ctx context.Context) <-chan string {
	w := &watcher{ctx: ctx, names: make(chan string, 16)}
	p.mu.Lock()
	p.watchers[w] = struct{}{}
	p.mu.Unlock()
	context.AfterFunc(ctx, func() {
		p.mu.Lock()
		delete(p.watchers, w)
		p.mu.Unlock()
		w.sends.Wait()
		close(w.names)
	})
	return w.names
}

func (p *Processes) tell(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.watchers {
		w.sends.Go(func() {
			select {
			case w.names <- name:
			case <-w.ctx.Done():
			}
		})
	}
}
