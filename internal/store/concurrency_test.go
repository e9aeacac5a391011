package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

// together runs fn n times at once, and gives the errors.
func together(n int, fn func(k int) error) []error {
	errs := make([]error, n)
	var start, end sync.WaitGroup
	start.Add(1)
	for k := range n {
		end.Go(func() {
			start.Wait()
			errs[k] = fn(k)
		})
	}
	start.Done()
	end.Wait()
	return errs
}

// twoProcesses opens a PostgreSQL database a second time, as another process would; SQLite has one process.
func twoProcesses(t *testing.T, s *Store, url string) []*Store {
	if url == "" {
		return []*Store{s}
	}
	return []*Store{s, open(t, Options{URL: url, Keyring: s.keys})}
}

// R8: of many changes of one resource at once exactly one is accepted.
func TestOneWinner(t *testing.T) { onBothURL(t, testOneWinner) }

func testOneWinner(t *testing.T, s *Store, url string) {
	seedVersion(t, s)
	stores := twoProcesses(t, s, url)
	const rounds, callers = 5, 32
	for range rounds {
		i := newInstance(t, s)
		errs := together(callers, func(k int) error {
			return stores[k%len(stores)].Tx(context.Background(), func(tx *Tx) error {
				if k%2 == 0 { // some look at the instance first, some do not
					if _, err := tx.Instance(i.ID); err != nil {
						return err
					}
				}
				locks := []string{i.ID, i.GroupID}
				if k%3 == 0 {
					locks[0], locks[1] = locks[1], locks[0]
				}
				return tx.Enqueue(operationOn(i, fmt.Sprint("kind", k)), locks...)
			})
		})
		won := 0
		for _, err := range errs {
			var busy *BusyError
			switch {
			case err == nil:
				won++
			case !errors.As(err, &busy):
				t.Errorf("a loser gets %v", err)
			}
		}
		n := count(t, s, "SELECT count(*) FROM operations WHERE resource_id = ?", i.ID)
		held := count(t, s, "SELECT count(*) FROM operation_locks WHERE resource_id IN (?, ?)", i.ID, i.GroupID)
		if won != 1 || n != 1 || held != 2 {
			t.Errorf("%d winners, %d operations, %d locks", won, n, held)
		}
	}
}

func onBothURL(t *testing.T, test func(t *testing.T, s *Store, url string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, openSQLite(t), "") })
	t.Run("postgres", func(t *testing.T) {
		s, url := openPostgresURL(t)
		test(t, s, url)
	})
}

// R10: the quota is exact, however many ask at once.
func TestQuotaIsExact(t *testing.T) { onBothURL(t, testQuotaIsExact) }

func testQuotaIsExact(t *testing.T, s *Store, url string) {
	seedVersion(t, s)
	stores := twoProcesses(t, s, url)
	defaults := map[string]int{dbaas.QuotaInstances: 10, dbaas.QuotaVolumes: 1000, dbaas.QuotaRAM: -1}
	errs := together(60, func(k int) error {
		return stores[k%len(stores)].Tx(context.Background(), func(tx *Tx) error {
			if err := tx.LockProject(testProject); err != nil {
				return err
			}
			usage, err := tx.Usage(testProject, defaults)
			if err != nil {
				return err
			}
			if usage[0].InUse >= usage[0].Limit {
				return dbaas.Errorf(dbaas.OverLimit, "full")
			}
			i, err := insertInstance(tx)
			if err != nil {
				return err
			}
			return tx.Enqueue(operationOn(i, "create_instance"), i.ID, i.GroupID)
		})
	})
	accepted := 0
	for _, err := range errs {
		if err == nil {
			accepted++
		} else if dbaas.ErrorCode(err) != dbaas.OverLimit {
			t.Error(err)
		}
	}
	if n := count(t, s, "SELECT count(*) FROM instances"); accepted != 10 || n != 10 {
		t.Errorf("%d accepted, %d stored, want 10", accepted, n)
	}
	list, _, err := s.ListInstances(t.Context(), InstanceFilter{ProjectID: testProject, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	gone := together(20, func(k int) error {
		return stores[k%len(stores)].Tx(context.Background(), func(tx *Tx) error { return tx.DeleteInstance(list[0].ID) })
	})
	deleted := 0
	for _, err := range gone {
		if err == nil {
			deleted++
		} else if dbaas.ErrorCode(err) != dbaas.NotFound {
			t.Error(err)
		}
	}
	usage, err := s.Usage(t.Context(), testProject, defaults)
	if err != nil || deleted != 1 || usage[0].InUse != 9 {
		t.Errorf("%d deletes succeeded, usage %+v, %v", deleted, usage, err)
	}
}

// Sixteen workers take four hundred operations: none is leased twice at a time, each ends once.
func TestClaimersShareTheWork(t *testing.T) { onBothURL(t, testClaimers) }

func testClaimers(t *testing.T, s *Store, url string) {
	const workers = 16
	rows := int64(400)
	if url == "" && raceDetector {
		rows = 60
	}
	stores := twoProcesses(t, s, url)
	do(t, s, func(tx *Tx) error {
		for range rows {
			if err := tx.Enqueue(&dbaas.Operation{Kind: "k"}); err != nil {
				return err
			}
		}
		return nil
	})
	var held, ended sync.Map
	var double, done atomic.Int64
	errs := together(workers, func(k int) error {
		s := stores[k%len(stores)]
		for done.Load() < rows {
			op, err := s.Claim(context.Background(), fmt.Sprint("w", k), "", time.Minute)
			if err != nil {
				return err
			}
			if op == nil {
				continue
			}
			if _, taken := held.LoadOrStore(op.ID, k); taken {
				double.Add(1)
			}
			if op.LeaseEpoch == 1 { // a first step, with the lease kept, then released
				if err := s.Save(context.Background(), op, engine.Save{Keep: time.Minute, NewStep: true}); err != nil {
					return err
				}
				held.Delete(op.ID)
				if err := s.Save(context.Background(), op, engine.Save{}); err != nil {
					return err
				}
				continue
			}
			op.Status = dbaas.OperationSucceeded
			held.Delete(op.ID)
			if err := s.Save(context.Background(), op, engine.Save{Ended: true}); err != nil {
				return err
			}
			if _, again := ended.LoadOrStore(op.ID, true); again {
				return fmt.Errorf("%s ended twice", op.ID)
			}
			done.Add(1)
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	n := count(t, s, "SELECT count(*) FROM operations WHERE status = 'succeeded' AND lease_epoch = 2")
	if double.Load() != 0 || int64(n) != rows {
		t.Errorf("%d double leases, %d of %d ended after two leases", double.Load(), n, rows)
	}
}

// Workers that nudge the same operation at once: one gets it.
func TestClaimByIDHasOneWinner(t *testing.T) { onBothURL(t, testClaimByID) }

func testClaimByID(t *testing.T, s *Store, url string) {
	stores := twoProcesses(t, s, url)
	for range 20 {
		id := enqueue(t, s, "k").ID
		var won atomic.Int64
		errs := together(8, func(k int) error {
			op, err := stores[k%len(stores)].Claim(context.Background(), "w", id, time.Minute)
			if op != nil {
				won.Add(1)
			}
			return err
		})
		if err := errors.Join(errs...); err != nil || won.Load() != 1 {
			t.Errorf("%d winners, %v", won.Load(), err)
		}
	}
}

// Users, workers, guests and failovers at the same rows: they wait for each other, and nothing is lost.
func TestNoDeadlock(t *testing.T) { onBothURL(t, testNoDeadlock) }

func testNoDeadlock(t *testing.T, s *Store, url string) {
	seedVersion(t, s)
	stores := twoProcesses(t, s, url)
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, s := range stores {
		s.log = logger
	}
	i := newInstance(t, s)
	guests, err := s.LiveGuests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var changes atomic.Int64
	began := time.Now()
	errs := together(12, func(k int) error {
		s := stores[k%len(stores)]
		for n := range 40 {
			err := actor(s, k, n, i, guests[0].ID, &changes)
			var busy *BusyError
			if err != nil && !errors.As(err, &busy) && !errors.Is(err, engine.ErrLeaseLost) {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	t.Logf("%d changes by workers in %v", changes.Load(), time.Since(began))
	if log.Len() > 0 {
		t.Errorf("transactions that lost against others: %s", log.String())
	}
}

// actor is one deed of a user, a worker, a guest, or an operator.
func actor(s *Store, k, n int, i *dbaas.Instance, guestID string, changes *atomic.Int64) error {
	ctx := context.Background()
	switch k % 4 {
	case 0: // a user deletes, or changes
		return s.Tx(ctx, func(tx *Tx) error {
			i, err := tx.Instance(i.ID)
			if err != nil {
				return err
			}
			holder, err := tx.OperationHolding(i.ID)
			if err != nil {
				return err
			}
			if holder != nil {
				return tx.Supersede(holder.ID, "other")
			}
			return tx.Enqueue(operationOn(i, "change"), i.ID, i.GroupID)
		})
	case 1: // a guest
		_, err := s.RecordReport(ctx, ReportRow{GuestID: guestID, BootID: fmt.Sprint(k), Sequence: int64(n + 1), Status: dbaas.GuestHealthy})
		return err
	case 2: // a failover
		return s.Tx(ctx, func(tx *Tx) error {
			return tx.Preempt(operationOn(i, "failover"), i.ID, i.GroupID)
		})
	}
	op, err := s.Claim(ctx, "w", "", time.Minute)
	if err != nil || op == nil {
		return err
	}
	if err := s.Fenced(ctx, op, func(tx *Tx) error {
		i, err := tx.Instance(i.ID)
		if err != nil {
			return err
		}
		i.Name = op.ID
		changes.Add(1)
		return tx.UpdateInstance(i)
	}); err != nil {
		return err
	}
	if op.ParkedBy != "" {
		op.Status = dbaas.OperationParked
		return s.Save(ctx, op, engine.Save{})
	}
	op.Status = dbaas.OperationSucceeded
	err = s.Save(ctx, op, engine.Save{Ended: true})
	if !errors.Is(err, engine.ErrSuperseded) {
		return err
	}
	if op, err = s.Operation(ctx, op.ID); err != nil {
		return err
	}
	op.Kind = op.SupersededBy
	return s.Save(ctx, op, engine.Save{Superseded: true})
}
