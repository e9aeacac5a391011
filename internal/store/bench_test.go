package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// The databases and sizes of the benchmarks. PostgreSQL is the tests' own, without fsync, unless GROVE_TEST_POSTGRES
// names another.
func benchEach(b *testing.B, bench func(b *testing.B, s *Store, rows int)) {
	for _, database := range []string{"sqlite", "postgres"} {
		for _, rows := range []int{100, 10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", database, rows), func(b *testing.B) {
				s := benchStore(b, database)
				seedMany(b, s, rows)
				bench(b, s, rows)
			})
		}
	}
}

func benchStore(b *testing.B, database string) *Store {
	if database == "sqlite" {
		return openSQLite(b)
	}
	return openPostgres(b)
}

// measured runs op b.N times, with one client and with eight, and reports this process's CPU time beside the rate.
func measured(b *testing.B, op func() error) {
	for _, clients := range []int{1, 8} {
		b.Run(fmt.Sprint("clients-", clients), func(b *testing.B) {
			before := cpuTime()
			b.ResetTimer()
			next := make(chan struct{}, b.N)
			for range b.N {
				next <- struct{}{}
			}
			close(next)
			for _, err := range together(clients, func(int) error {
				for range next {
					if err := op(); err != nil {
						return err
					}
				}
				return nil
			}) {
				if err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
			b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N), "own-cpu-ns/op")
		})
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkListInstances(b *testing.B) {
	benchEach(b, func(b *testing.B, s *Store, rows int) {
		measured(b, func() error {
			marker := manyID(rand.IntN(rows-40)+10, 0)
			list, _, err := s.ListInstances(context.Background(), InstanceFilter{ProjectID: testProject, Limit: 20, Marker: marker})
			if err == nil && len(list) != 20 {
				err = fmt.Errorf("%d instances after %s", len(list), marker)
			}
			return err
		})
	})
}

func BenchmarkShowInstance(b *testing.B) {
	benchEach(b, func(b *testing.B, s *Store, rows int) {
		measured(b, func() error {
			_, err := s.InstanceView(context.Background(), manyID(rows-rand.IntN(rows/2), 0))
			return err
		})
	})
}

// BenchmarkCreate is what one transaction does when a user asks for an instance, in projects of ten.
func BenchmarkCreate(b *testing.B) {
	for _, database := range []string{"sqlite", "postgres"} {
		b.Run(database, func(b *testing.B) {
			s := benchStore(b, database)
			seedVersion(b, s)
			measured(b, func() error {
				return s.Tx(context.Background(), func(tx *Tx) error {
					project := fmt.Sprint("p", rand.IntN(max(b.N/10, 1)))
					if err := tx.LockProject(project); err != nil {
						return err
					}
					if _, err := tx.Usage(project, nil); err != nil {
						return err
					}
					i, err := insertInstance(tx, func(i *dbaas.Instance) { i.ProjectID = project })
					if err != nil {
						return err
					}
					if _, err := tx.PutSecret(i.ID, "password", []byte("password")); err != nil {
						return err
					}
					if err := tx.Enqueue(operationOn(i, "create_instance"), i.ID, i.GroupID); err != nil {
						return err
					}
					return tx.InsertEvent(&dbaas.Event{ProjectID: project, ResourceID: i.ID, Kind: "instance.create.start"})
				})
			})
		})
	}
}

// BenchmarkHeartbeats writes batches of 500 for 10,000 guests, each guest in its turn.
func BenchmarkHeartbeats(b *testing.B) {
	const guests, size = 10_000, 500
	for _, database := range []string{"sqlite", "postgres"} {
		b.Run(database, func(b *testing.B) {
			s := benchStore(b, database)
			sequence := int64(1)
			at := 0
			batch := func() []dbaas.Heartbeat {
				list := make([]dbaas.Heartbeat, size)
				for i := range list {
					if at = (at + 1) % guests; at == 0 {
						sequence++
					}
					list[i] = dbaas.Heartbeat{GuestID: manyID(at, 2), BootID: manyID(at, 5), Sequence: sequence,
						VolumeUsed: rand.Int64N(1 << 31), VolumeTotal: 1 << 31, Metrics: `{"memory":123456,"clients":7}`}
				}
				return list
			}
			for range guests / size { // the rows are there
				if err := s.RecordHeartbeats(context.Background(), batch()); err != nil {
					b.Fatal(err)
				}
			}
			logged := walPosition(b, s)
			b.ResetTimer()
			for range b.N {
				if err := s.RecordHeartbeats(context.Background(), batch()); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "heartbeats/s")
			if database == "postgres" {
				b.ReportMetric(float64(walPosition(b, s)-logged)/float64(b.N*size), "wal-B/heartbeat")
				b.ReportMetric(hotShare(b, s), "hot-%")
			}
		})
	}
}

func walPosition(b *testing.B, s *Store) int {
	if !s.dialect.hasClock() {
		return 0
	}
	return count(b, s, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
}

// hotShare is how many updates of heartbeats stayed on their page. The server tells after a moment.
func hotShare(b *testing.B, s *Store) float64 {
	var share float64
	for deadline := time.Now().Add(5 * time.Second); share == 0 && time.Now().Before(deadline); {
		err := s.read.Raw(`SELECT COALESCE(100.0 * n_tup_hot_upd / NULLIF(n_tup_upd, 0), 0) FROM pg_stat_user_tables
			WHERE relname = 'heartbeats'`).Scan(&share).Error
		if err != nil {
			b.Fatal(err)
		}
	}
	return share
}
