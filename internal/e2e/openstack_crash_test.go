package e2e

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"
)

// crashVariable has the tests run that kill at every step: minutes, or hours.
const crashVariable = "GROVE_CRASH"

// stepGate is the advisory lock that PostgreSQL asks for before an operation may leave a step.
const stepGate = 4711

// stepper stops the taskmanager of a fleet at the end of each step, when the effect is there and nothing is saved.
type stepper struct {
	f       *fleet
	holder  *sql.Conn       // has the gate
	next    *sql.Conn       // takes it over
	stopped map[string]bool // steps at whose end the taskmanager was killed before
	kills   int
}

func openStepper(f *fleet) *stepper {
	f.t.Helper()
	ctx := context.Background()
	s := &stepper{f: f}
	_, err1 := f.rows.ExecContext(ctx, fmt.Sprintf(`CREATE FUNCTION stop_at_the_gate() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_advisory_xact_lock_shared(%d); RETURN NEW; END'`, stepGate))
	_, err2 := f.rows.ExecContext(ctx, `CREATE TRIGGER stop_at_the_gate BEFORE UPDATE ON operations FOR EACH ROW
		WHEN (OLD.step <> NEW.step OR OLD.ended_at = 0 AND NEW.ended_at > 0) EXECUTE FUNCTION stop_at_the_gate()`)
	var err3, err4 error
	s.holder, err3 = f.rows.Conn(ctx)
	s.next, err4 = f.rows.Conn(ctx)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { // a test that failed may leave somebody at the gate
		for _, c := range []*sql.Conn{s.holder, s.next} {
			_, _ = c.ExecContext(ctx, `SELECT pg_advisory_unlock_all()`)
			_ = c.Close()
		}
	})
	if _, err := s.holder.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, stepGate); err != nil {
		f.t.Fatal(err)
	}
	return s
}

// waiting counts who waits for the gate.
func (s *stepper) waiting() (n int, err error) {
	err = s.f.rows.QueryRow(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted`, stepGate).Scan(&n)
	return n, err
}

// letPass lets the one through who waits at the gate, and nobody who comes after: the lock goes to who asked first.
func (s *stepper) letPass() {
	s.f.t.Helper()
	ctx := context.Background()
	took := make(chan error, 1)
	go func() {
		_, err := s.next.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, stepGate)
		took <- err
	}()
	eventually(s.f.t, time.Minute, func() error {
		n, err := s.waiting()
		if err == nil && n < 2 {
			err = fmt.Errorf("%d wait", n)
		}
		return err
	})
	_, err := s.holder.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, stepGate)
	if err = errors.Join(err, <-took); err != nil {
		s.f.t.Fatal(err)
	}
	s.holder, s.next = s.next, s.holder
}

// rollBack ends what a taskmanager that is dead was saving, for PostgreSQL does not notice that by itself while it waits for
// the gate; then the lease is over. A quick step may stand at the gate again by the time that the one before it is killed.
func (s *stepper) rollBack() {
	s.f.t.Helper()
	_, err1 := s.f.rows.Exec(`SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted`, stepGate)
	_, err2 := s.f.rows.Exec(`UPDATE operations SET lease_until = 0 WHERE ended_at = 0`)
	if err := errors.Join(err1, err2); err != nil {
		s.f.t.Fatal(err)
	}
}

// drive kills the taskmanager twice at each step until no operation is left: when the effect is there and not yet saved, and
// as soon as it is saved. Another is started each time, and has the operation at once.
func (s *stepper) drive() {
	s.f.t.Helper()
	s.stopped = map[string]bool{}
	for {
		step := s.nextStep()
		if step == "" {
			return
		}
		manager := s.f.managers[0]
		if s.stopped[step] {
			s.letPass()
		}
		s.stopped[step] = true
		manager.kill()
		s.rollBack()
		s.kills++
		manager.start()
	}
}

// nextStep waits until the taskmanager stands at the end of a step, and gives it; "" when all is done.
func (s *stepper) nextStep() (step string) {
	s.f.t.Helper()
	eventually(s.f.t, 5*time.Minute, func() error {
		unfinished, err := s.f.list(`SELECT kind || '/' || step FROM operations WHERE ended_at = 0`)
		if err != nil || len(unfinished) == 0 {
			step = ""
			return err
		}
		if n, err := s.waiting(); err != nil || n != 1 || len(unfinished) != 1 {
			return fmt.Errorf("%d at the gate, %v unfinished: %w", n, unfinished, err)
		}
		step = unfinished[0]
		return nil
	})
	return step
}

// TestKilledAtEveryStepOnOpenStack kills the taskmanager with SIGKILL at every step of an instance's life, twice at each: a
// kill alone never ends in ERROR, and there is one server, one volume and one port, and nothing at the end (R1, R2).
func TestKilledAtEveryStepOnOpenStack(t *testing.T) {
	if os.Getenv(crashVariable) == "" {
		t.Skip("a long run: `make crash-openstack`")
	}
	d := loginDevcloud(t)
	f := openOpenStackFleet(t, d)
	offerRedis(f.caller(0))
	f.managers[1].stop()
	s := openStepper(f)

	h := f.caller(0)
	in := h.create("killed", object{"datastore": object{"type": "redis", "version": "7.0"}})
	s.drive()
	in.awaitWithin(3*time.Minute, "ACTIVE", "HEALTHY")
	f.audit([]wish{{id: in.id}})
	if err := d.redis(t, in).Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct {
		action    object
		operating string
	}{
		{object{"restart": object{}}, "HEALTHY"},
		{object{"stop": object{}}, "SHUTDOWN"},
		{object{"start": object{}}, "HEALTHY"},
		{object{"resize": object{"volume": object{"size": 2}}}, "HEALTHY"},
		{object{"resize": object{"flavorRef": "2"}}, "HEALTHY"},
		{object{"rebuild": object{}}, "HEALTHY"},
	} {
		in.action(change.action)
		s.drive()
		in.awaitWithin(3*time.Minute, "ACTIVE", change.operating)
		if owned := d.owned(t); len(owned["servers"]) != 1 || len(owned["volumes"]) != 1 || len(owned["ports"]) != 2 {
			t.Errorf("after %v the cloud has %v", change.action, owned)
		}
		if change.operating != "HEALTHY" {
			continue
		}
		eventually(t, time.Minute, func() error {
			got, err := d.redis(t, in).Get(context.Background(), "key").Result()
			if err != nil || got != "value" {
				return fmt.Errorf("after %v: %q, %w", change.action, got, err)
			}
			return nil
		})
	}
	h.do(http.StatusAccepted, "DELETE", "/instances/"+in.id, nil)
	s.drive()
	in.awaitGone()
	f.audit(nil)
	d.requireNothing(t)

	failed, err := f.list(`SELECT kind || ': ' || status FROM operations WHERE status <> 'succeeded'`)
	if err != nil || len(failed) > 0 {
		t.Errorf("a kill alone ended in %v, %v", failed, err)
	}
	kinds, err := f.list(`SELECT DISTINCT kind FROM operations ORDER BY kind`)
	want := []string{"create_instance", "delete_instance", "rebuild_instance", "resize_flavor", "resize_volume", "restart_instance", "start_instance", "stop_instance"}
	if err != nil || !slices.Equal(kinds, want) {
		t.Errorf("killed during %v, %v; want %v", kinds, err, want)
	}
	t.Logf("killed %d times", s.kills)
}
