package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openUnits opens units whose processes all end with the test, and checks that they do.
func openUnits(t *testing.T, dir string) *Processes {
	t.Helper()
	p, err := OpenProcesses(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
		p.Close()
		if left, err := Strays(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	})
	return p
}

func start(t *testing.T, p *Processes, s UnitSpec) UnitState {
	t.Helper()
	if err := p.Start(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return state(t, p, s.Name)
}

func state(t *testing.T, p *Processes, name string) UnitState {
	t.Helper()
	s, err := p.State(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestUnitRunsAndStops(t *testing.T) {
	p := openUnits(t, t.TempDir())
	if s := state(t, p, "db"); s != (UnitState{}) {
		t.Fatalf("unknown unit: %+v", s)
	}
	first := start(t, p, sleeper("db"))
	if !first.Running || first.PID == 0 || first.Started == "" {
		t.Fatalf("started: %+v", first)
	}
	if again := start(t, p, sleeper("db")); again.PID != first.PID {
		t.Fatalf("a running unit was started again: %+v", again)
	}
	if sid, err := unix.Getsid(first.PID); err != nil || sid != first.PID {
		t.Fatalf("session %d of %d: %v", sid, first.PID, err)
	}
	eventually(t, "output", func() bool { return state(t, p, "db").Output == "up" })
	if err := p.Stop(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if s := state(t, p, "db"); s.Running || !s.Stopped || s.ExitErr != "" {
		t.Fatalf("stopped: %+v", s)
	}
	if second := start(t, p, sleeper("db")); !second.Running || second.Started == first.Started {
		t.Fatalf("started again: %+v", second)
	}
}

func TestUnitThatEndsByItselfTellsHow(t *testing.T) {
	p := openUnits(t, t.TempDir())
	ended := p.Watch(t.Context())
	start(t, p, UnitSpec{Name: "db", Argv: []string{"sh", "-c", "for i in $(seq 100); do echo line $i; done; echo no memory >&2; exit 7"}})
	if name := <-ended; name != "db" {
		t.Fatal(name)
	}
	s := state(t, p, "db")
	if s.Running || s.Stopped || s.ExitErr != "exit status 7" {
		t.Fatalf("%+v", s)
	}
	if !strings.HasSuffix(s.Output, "line 100\nno memory") || strings.Count(s.Output, "\n") >= tailLines {
		t.Fatalf("output: %q", s.Output)
	}
	if err := p.Start(t.Context(), UnitSpec{Name: "db", Argv: []string{"/nowhere/redis"}}); err == nil {
		t.Fatal("a program that is not there was started")
	}
}

func TestKillLooksLikeACrash(t *testing.T) {
	p := openUnits(t, t.TempDir())
	start(t, p, sleeper("db"))
	if err := p.Kill(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if s := state(t, p, "db"); s.Running || s.Stopped || s.ExitErr != "signal: killed" {
		t.Fatalf("%+v", s)
	}
}

// TestSuspendedUnit: one that was stopped by a signal runs and does nothing; it can be stopped and killed all the same.
func TestSuspendedUnit(t *testing.T) {
	p := openUnits(t, t.TempDir())
	suspended := func(want bool) func() bool {
		return func() bool { s := state(t, p, "db"); return s.Running && s.Suspended == want }
	}
	for name, end := range map[string]func(context.Context, string) error{"stop": p.Stop, "kill": p.Kill} {
		spec := sleeper("db")
		spec.StopTimeout = 60
		pid := start(t, p, spec).PID
		eventually(t, "output", func() bool { return state(t, p, "db").Output == "up" })
		for _, s := range []struct {
			signal    unix.Signal
			suspended bool
		}{{unix.SIGSTOP, true}, {unix.SIGCONT, false}, {unix.SIGSTOP, true}} {
			if err := unix.Kill(pid, s.signal); err != nil {
				t.Fatal(err)
			}
			eventually(t, s.signal.String(), suspended(s.suspended))
		}
		began := time.Now()
		if err := end(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
		if s := state(t, p, "db"); s.Running || s.Suspended {
			t.Errorf("after %s it is %+v", name, s)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

// TestNothingOutlivesItsUnit: what a program forked goes with it, also when nobody watched the program's end.
func TestNothingOutlivesItsUnit(t *testing.T) {
	dir := t.TempDir()
	forks := UnitSpec{Name: "db", Dir: dir, Argv: []string{"sh", "-c", "sleep 1000 & echo forked; wait"}}
	children := func() int {
		strays, err := Strays(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(strays)
	}
	p := openUnits(t, dir)
	s := start(t, p, forks)
	eventually(t, "a child", func() bool { return children() == 2 })
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "end of the child", func() bool { return children() == 0 })
}

// TestStartEndsWhatAnEarlierProcessLeft: its parent ended while nobody watched.
func TestStartEndsWhatAnEarlierProcessLeft(t *testing.T) {
	dir := t.TempDir()
	cmd, out := helper(t, "start-one", dir)
	_, _ = bufio.NewReader(out).ReadString('\n')
	strays := func() []Stray {
		s, err := Strays(dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	eventually(t, "a child", func() bool { return len(strays()) == 2 })
	before := strays()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for _, s := range before {
		if st, err := readStat(s.PID); err == nil && st.session == s.PID {
			_ = syscall.Kill(s.PID, syscall.SIGKILL)
		}
	}
	eventually(t, "the parent's end", func() bool { return len(strays()) == 1 })
	p := openUnits(t, dir)
	start(t, p, UnitSpec{Name: "db", Argv: []string{"sleep", "1000"}})
	now := strays()
	if len(now) != 1 || now[0].PID == before[0].PID || now[0].PID == before[1].PID {
		t.Fatalf("before %v, now %v", before, now)
	}
}

func TestStopKillsWhatWillNotStop(t *testing.T) {
	p := openUnits(t, t.TempDir())
	start(t, p, UnitSpec{Name: "db", Argv: []string{"sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"}, StopTimeout: 1})
	eventually(t, "deaf", func() bool { return state(t, p, "db").Output == "deaf" })
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Stop(short, "db"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a stop that was cut off: %v", err)
	}
	if s := state(t, p, "db"); !s.Running || s.Stopped {
		t.Fatalf("%+v", s)
	}
	if err := p.Stop(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if s := state(t, p, "db"); s.Running || !s.Stopped {
		t.Fatalf("%+v", s)
	}
}

func TestShutdownLeavesUnitsWanted(t *testing.T) {
	p := openUnits(t, t.TempDir())
	start(t, p, sleeper("db"))
	start(t, p, sleeper("proxy"))
	if err := p.Stop(t.Context(), "proxy"); err != nil {
		t.Fatal(err)
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := state(t, p, "db"); s.Running || s.Stopped || s.ExitErr != "" {
		t.Fatalf("db: %+v", s)
	}
	if s := state(t, p, "proxy"); !s.Stopped {
		t.Fatalf("proxy: %+v", s)
	}
}

// TestAdoption: the agent is killed, its database goes on, the next agent finds it and sees its end.
func TestAdoption(t *testing.T) {
	dir := t.TempDir()
	cmd, out := helper(t, "start-one", dir)
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "<nil>\n" {
		t.Fatal(line)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	p := openUnits(t, dir)
	s := state(t, p, "db")
	if !s.Running {
		t.Fatalf("%+v", s)
	}
	eventually(t, "its output", func() bool { return state(t, p, "db").Output == "up" })
	ended := p.Watch(t.Context())
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if name := <-ended; name != "db" {
		t.Fatal(name)
	}
	if s := state(t, p, "db"); s.Running || s.ExitErr == "" || s.Stopped {
		t.Fatalf("%+v", s)
	}
	start(t, p, sleeper("db"))
}

func TestAdoptedUnitStops(t *testing.T) {
	dir := t.TempDir()
	cmd, out := helper(t, "start-one", dir)
	_, _ = bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	p := openUnits(t, dir)
	if s := start(t, p, sleeper("db")); !s.Running {
		t.Fatalf("%+v", s)
	}
	if err := p.Stop(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if s := state(t, p, "db"); s.Running || !s.Stopped {
		t.Fatalf("%+v", s)
	}
}

// TestTwoHoldersOfOneUnit: who did not start it sees its end and how, too.
func TestTwoHoldersOfOneUnit(t *testing.T) {
	dir := t.TempDir()
	p := openUnits(t, dir)
	start(t, p, UnitSpec{Name: "db", Argv: []string{"sh", "-c", "sleep 0.2; exit 3"}})
	q, err := OpenProcesses(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	<-q.Watch(t.Context())
	eventually(t, "how it ended", func() bool { return state(t, q, "db").ExitErr == "exit status 3" })
}

func TestRecycledPIDIsAnother(t *testing.T) {
	dir := t.TempDir()
	p := openUnits(t, dir)
	start(t, p, sleeper("db"))
	rec := p.find("db").record()
	other, err := identify(os.Getpid()) // a process that lives, with the pid of the record but not its start
	if err != nil {
		t.Fatal(err)
	}
	for what, id := range map[string]identity{
		"start": {PID: other.PID, Start: other.Start + 1, Boot: other.Boot},
		"boot":  {PID: other.PID, Start: other.Start, Boot: "an earlier one"},
		"gone":  {PID: 1 << 22, Start: 1, Boot: other.Boot},
	} {
		if openProcess(id) != nil {
			t.Errorf("%s: taken for the unit's", what)
		}
	}
	q := openProcess(rec.Process)
	if q == nil {
		t.Fatal("the right one was not found")
	}
	q.close()
}

// TestNothingRunsUnrecorded kills whoever starts units at random moments.
func TestNothingRunsUnrecorded(t *testing.T) {
	for range 15 {
		dir := t.TempDir()
		cmd, out := helper(t, "start-many", dir)
		_, _ = bufio.NewReader(out).ReadString('\n')
		time.Sleep(time.Duration(rand.IntN(30000)) * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		p := openUnits(t, dir)
		recorded := map[int]bool{}
		for _, name := range p.Names() {
			recorded[state(t, p, name).PID] = true
		}
		eventually(t, "only recorded ones run", func() bool { // a held one sees the closed gate in a moment
			strays, err := Strays(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range strays {
				if !recorded[s.PID] {
					return false
				}
			}
			return true
		})
	}
}

func TestOpenFilesLimit(t *testing.T) {
	p := openUnits(t, t.TempDir())
	start(t, p, UnitSpec{Name: "db", NoFile: 777, Argv: []string{"sh", "-c", "ulimit -n; ulimit -Hn >/dev/null; sleep 1000 & wait"}})
	eventually(t, "limit", func() bool { return state(t, p, "db").Output == "777" })
}

func TestUnitGetsNoneOfOurEnvironment(t *testing.T) {
	t.Setenv("OS_PASSWORD", "hunter2")
	p := openUnits(t, t.TempDir())
	ended := p.Watch(t.Context())
	start(t, p, UnitSpec{Name: "env", Argv: []string{"env"}, Env: []string{"MINE=1"}})
	<-ended
	out := state(t, p, "env").Output
	if strings.Contains(out, "hunter2") || !strings.Contains(out, "MINE=1") {
		t.Fatal(out)
	}
}

func TestMemoryLimit(t *testing.T) {
	p := openUnits(t, t.TempDir())
	ended := p.Watch(t.Context())
	start(t, p, sleeperWithMemory("db", 64<<20))
	g := p.find("db").record().Cgroup
	if g == nil {
		t.Skip("no memory controller that we may use")
	}
	start(t, p, sleeperWithMemory("db", 96<<20)) // a running one gets the new limit
	limit := map[bool]string{false: "memory.limit_in_bytes", true: "memory.max"}[g.V2]
	if b, err := os.ReadFile(filepath.Join(g.Path, limit)); err != nil || strings.TrimSpace(string(b)) != fmt.Sprint(96<<20) {
		t.Fatalf("limit: %s %v", b, err)
	}
	start(t, p, UnitSpec{Name: "hog", MemoryMax: 32 << 20, Argv: []string{"sh", "-c", "head -c 200000000 /dev/zero | tail -c 199999999 | wc -c"}})
	if name := <-ended; name != "hog" {
		t.Fatal(name)
	}
	hog := p.find("hog").record().Cgroup
	if out := state(t, p, "hog").Output; !slices.Contains(strings.Fields(out), "0") {
		t.Fatalf("the hog got its memory: %s", out)
	}
	if err := p.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{g.Path, hog.Path} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

func sleeperWithMemory(name string, limit int64) UnitSpec {
	s := sleeper(name)
	s.MemoryMax = limit
	return s
}

func TestOutputIsBounded(t *testing.T) {
	dir := t.TempDir()
	p := openUnits(t, dir)
	start(t, p, UnitSpec{Name: "db", Argv: []string{"sh", "-c", "head -c 6000000 /dev/zero | tr '\\0' x; echo; echo end; sleep 1000 & wait"}})
	size := func(suffix string) int64 {
		fi, err := os.Stat(filepath.Join(dir, unitsDir, "db.log"+suffix))
		if err != nil {
			return 0
		}
		return fi.Size()
	}
	eventually(t, "output cut", func() bool {
		state(t, p, "db")
		return size("") < outputMax && size(".1") >= outputMax-1 && size(".1") <= outputMax
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	p := openUnits(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	ended := p.Watch(ctx)
	start(t, p, UnitSpec{Name: "db", Argv: []string{"true"}})
	cancel()
	for range ended { // closes
	}
}

func TestShellInADirectoryIsNoStray(t *testing.T) {
	dir := t.TempDir()
	cmd, out := helper(t, "start-one", dir)
	_, _ = bufio.NewReader(out).ReadString('\n')
	p := openUnits(t, dir)
	if strays, err := Strays(dir); err != nil || len(strays) == 0 {
		t.Fatalf("the unit is none: %v %v", strays, err)
	}
	_ = cmd.Process.Kill()
	if err := KillStrays(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "end", func() bool { return !state(t, p, "db").Running })
	bystander := Command{Argv: []string{"sh", "-c", "echo in; sleep 1"}, Dir: dir}
	done := make(chan error, 1)
	go func() { _, err := bystander.Run(context.Background()); done <- err }()
	for range 10 {
		if strays, err := Strays(dir); err != nil || len(strays) > 0 {
			t.Fatalf("%v %v", strays, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A build server's shell is often gone while its children go on.
func TestShellInADirectoryIsNoStrayInASessionWithoutLeader(t *testing.T) {
	report := filepath.Join(t.TempDir(), "report")
	script := `("$0" -test.run='^TestShellInADirectoryIsNoStray$' >"$1.part" 2>&1; mv "$1.part" "$1") &`
	cmd := exec.Command("sh", "-c", script, os.Args[0], report)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var out []byte
	eventually(t, "a report", func() bool {
		var err error
		out, err = os.ReadFile(report)
		return err == nil
	})
	if !strings.HasSuffix(string(out), "PASS\n") {
		t.Fatalf("%s", out)
	}
}

func TestAsOrdinaryUser(t *testing.T) {
	asNobody(t, "TestUnitRunsAndStops|TestAdoption|TestMemoryLimit|TestOpenFilesLimit|TestDirVolume|TestWriteFile")
}

// TestUnknownUser: an agent on a machine that is older than it goes on as before.
func TestUnknownUser(t *testing.T) {
	h, err := Spec{Dir: t.TempDir(), User: "nobody-has-this-name"}.Open(nil)
	if err != nil || h.Owner != nil {
		t.Fatalf("it is opened for %+v, %v", h, err)
	}
	h.Close()
	if u, err := findUser(ServerUser + "-not"); os.Geteuid() == 0 && !errors.Is(err, errNoUser) {
		t.Errorf("an unknown user is %+v, %v", u, err)
	}
	if u, err := findUser(""); u != nil || err != nil {
		t.Errorf("no user is %+v, %v", u, err)
	}
}
