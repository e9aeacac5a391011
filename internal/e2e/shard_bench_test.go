package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/internal/testbed"
)

// BenchmarkShardFailover measures after how long the API shows the new master of a shard whose master was suspended, and how
// much of that the cluster took to elect it.
func BenchmarkShardFailover(b *testing.B) {
	h := open(b)
	c := h.createCluster("measured", 3, 1)
	var elected, shown []time.Duration
	for range 5 {
		took, all := c.timeShardFailover()
		elected, shown = append(elected, took), append(shown, all)
		b.Logf("elected after %.2f s, shown after %.2f s", took.Seconds(), all.Seconds())
	}
	slices.Sort(elected)
	slices.Sort(shown)
	b.ReportMetric(elected[len(elected)/2].Seconds(), "elected-p50-s")
	b.ReportMetric(shown[len(shown)/2].Seconds(), "shown-p50-s")
	b.ReportMetric(shown[len(shown)-1].Seconds(), "shown-worst-s")
	b.ReportMetric(0, "ns/op")
}

func (c *cluster) timeShardFailover() (elected, shown time.Duration) {
	c.h.t.Helper()
	members := c.members()
	master := members[slices.IndexFunc(members, func(m object) bool { return m.text("role") == "master" })]
	replica := members[slices.IndexFunc(members, func(m object) bool {
		return m.text("shard_id") == master.text("shard_id") && m.text("role") == "replica"
	})]
	pid := c.h.redisAt(fmt.Sprint(master.at("ip", 0)))
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		c.h.t.Fatal(err)
	}
	begun := time.Now()
	took := make(chan time.Duration, 1)
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	go func() {
		direct := redis.NewClient(&redis.Options{Addr: fmt.Sprint(replica.at("ip", 0)) + ":6379", Password: c.password, DisableIdentity: true})
		defer direct.Close()
		for ctx.Err() == nil {
			if role, err := direct.Do(ctx, "role").Slice(); err == nil && len(role) > 0 && role[0] == "master" {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		took <- time.Since(begun)
	}()
	testbed.Eventually(c.h.t, 60*time.Second, func() error {
		for _, m := range c.members() {
			if m.text("id") == replica.text("id") && m.text("role") == "master" {
				return nil
			}
		}
		return errors.New("the shard shows no new master")
	})
	shown = time.Since(begun)
	stop()
	elected = <-took
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
		c.h.t.Fatal(err)
	}
	c.awaitMembers(3, 3)
	c.awaitLinks(3)
	return elected, shown
}
