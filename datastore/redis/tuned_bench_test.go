package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// BenchmarkTuned runs the same work on a server with its package's defaults and on one with Grove's values, for a flavor of
// tunedRAM, each work chosen for what a group of the values is there for. docs/tuning.md has its table.
func BenchmarkTuned(b *testing.B) {
	for _, w := range []struct {
		name, profile string
		also          settings // on both sides
		do            func(b *testing.B, s *bareServer)
	}{
		{name: "serve", do: tunedServe},
		{name: "crash", do: tunedCrash},
		{name: "delete", do: tunedDelete},
		{name: "slow-reader", do: tunedSlowReader},
		{name: "interruption", do: tunedInterruption},
		{name: "cache", profile: "cache", also: settings{"maxmemory": "16mb"}, do: tunedCache},
		{name: "session", profile: "session", do: tunedSession},
	} {
		plain, grove := settings{}, tunedSettings(b, w.profile)
		if w.name == "cache" {
			plain = settings{"maxmemory-policy": "allkeys-lru"} // what one sets who wants a cache; the default refuses writes
		}
		for _, side := range []struct {
			name   string
			values settings
		}{{"package", plain}, {"grove", grove}} {
			b.Run(w.name+"/"+side.name, func(b *testing.B) {
				for b.Loop() {
					s := startBare(b, side.values, w.also)
					w.do(b, s)
					s.kill()
				}
				b.ReportMetric(0, "ns/op") // the work's own measures say it
			})
		}
	}
}

const tunedRAM = 2048

func tunedSettings(b *testing.B, profile string) settings {
	p, err := newPlan(datastore.Desired{Version: redis70, FlavorRAM: tunedRAM, VolumeSize: 10, Profile: profile})
	if err != nil {
		b.Fatal(err)
	}
	return p.wanted()
}

// bareServer is a redis-server without an agent.
type bareServer struct {
	*redis.Client
	b         *testing.B
	dir, addr string
	cmd       *exec.Cmd
}

// startBare starts a server with the values of all lists; a later list has the last word.
func startBare(b *testing.B, lists ...settings) *bareServer {
	b.Helper()
	s := &bareServer{b: b, dir: b.TempDir(), addr: net.JoinHostPort(datastoretest.Address(b), strconv.Itoa(port))}
	var conf strings.Builder
	for _, values := range lists {
		values.render(&conf)
	}
	host, _, _ := net.SplitHostPort(s.addr)
	fmt.Fprintf(&conf, "bind %s\nport %d\ndir %s\nlogfile log\nenable-debug-command yes\n", host, port, s.dir)
	if err := os.WriteFile(filepath.Join(s.dir, "redis.conf"), []byte(conf.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	s.Client = redis.NewClient(&redis.Options{Addr: s.addr, DisableIdentity: true, Protocol: 2, PoolSize: 64, ReadTimeout: time.Minute, WriteTimeout: time.Minute})
	b.Cleanup(func() { _ = s.Close() })
	b.Cleanup(s.kill)
	s.start()
	return s
}

func (s *bareServer) start() {
	s.b.Helper()
	s.cmd = exec.Command(testbed.Program(s.b, "redis-server"), filepath.Join(s.dir, "redis.conf"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.b.Fatal(err)
	}
	testbed.Eventually(s.b, 20*time.Second, func() error { return s.Ping(s.b.Context()).Err() })
}

// kill ends the server as a crash does.
func (s *bareServer) kill() {
	_ = s.cmd.Process.Kill() // one that ended is what we want
	_ = s.cmd.Wait()
}

func (s *bareServer) info(name string) float64 {
	s.b.Helper()
	text, err := s.Info(s.b.Context(), "everything").Result()
	if err != nil {
		s.b.Fatal(err)
	}
	n, _ := strconv.ParseFloat(parseInfo(text)[name], 64)
	return n
}

// pipelined sends n commands, a thousand at a time.
func (s *bareServer) pipelined(n int, command func(p redis.Pipeliner, i int)) {
	s.b.Helper()
	for from := 0; from < n; from += 1000 {
		_, err := s.Pipelined(s.b.Context(), func(p redis.Pipeliner) error {
			for i := from; i < min(n, from+1000); i++ {
				command(p, i)
			}
			return nil
		})
		if err != nil {
			s.b.Fatal(err)
		}
	}
}

// tunedServe has 16 clients read and write 100 bytes for three seconds.
func tunedServe(b *testing.B, s *bareServer) {
	ctx, end := context.WithTimeout(b.Context(), 3*time.Second)
	defer end()
	var mu sync.Mutex
	var all []time.Duration
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			var took []time.Duration
			value := strings.Repeat("x", 100)
			for i := 0; ctx.Err() == nil; i++ {
				key := strconv.Itoa(rand.IntN(100_000))
				start := time.Now()
				if i%2 == 0 {
					s.Set(b.Context(), key, value, 0)
				} else {
					s.Get(b.Context(), key)
				}
				took = append(took, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	clients.Wait()
	slices.Sort(all)
	b.ReportMetric(float64(len(all))/3, "ops/s")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
}

// tunedCrash kills the server after 20,000 acknowledged writes.
func tunedCrash(b *testing.B, s *bareServer) {
	const keys = 20_000
	s.pipelined(keys, func(p redis.Pipeliner, i int) { p.Set(b.Context(), strconv.Itoa(i), i, 0) })
	s.kill()
	s.start()
	b.ReportMetric(keys-float64(s.DBSize(b.Context()).Val()), "lost-writes")
}

// tunedDelete deletes a set of two million members, and tells how long the longest of another client's commands took.
func tunedDelete(b *testing.B, s *bareServer) {
	s.pipelined(20_000, func(p redis.Pipeliner, i int) {
		members := make([]any, 100)
		for n := range members {
			members[n] = fmt.Sprintf("member:%d:%d", i, n)
		}
		p.SAdd(b.Context(), "large", members...)
	})
	ctx, end := context.WithCancel(b.Context())
	longest := make(chan time.Duration)
	go func() {
		var worst time.Duration
		for ctx.Err() == nil {
			start := time.Now()
			s.Ping(b.Context())
			worst = max(worst, time.Since(start))
		}
		longest <- worst
	}()
	if err := s.Del(b.Context(), "large").Err(); err != nil {
		b.Fatal(err)
	}
	end()
	b.ReportMetric(float64((<-longest).Microseconds())/1000, "longest-ms")
}

// tunedSlowReader asks for 1 GiB and reads nothing, and tells how much memory the server kept for it.
func tunedSlowReader(b *testing.B, s *bareServer) {
	if err := s.Set(b.Context(), "large", bytes.Repeat([]byte("x"), 1<<20), 0).Err(); err != nil {
		b.Fatal(err)
	}
	slow, err := net.Dial("tcp", s.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer slow.Close()
	var most float64
	for range 1024 {
		if _, err := slow.Write([]byte("GET large\r\n")); err != nil {
			break // the server has cut it off
		}
		most = max(most, s.info("mem_clients_normal"))
	}
	b.ReportMetric(most/(1<<20), "MiB")
}

// tunedInterruption has a replica hang while 32 MiB are written, and tells what it takes until it is in step again.
func tunedInterruption(b *testing.B, s *bareServer) {
	value := strings.Repeat("x", 1<<10)
	s.pipelined(200_000, func(p redis.Pipeliner, i int) { p.Set(b.Context(), strconv.Itoa(i), value, 0) })
	values := settings{}
	if s.ConfigGet(b.Context(), "appendonly").Val()["appendonly"] == "yes" {
		values = tunedSettings(b, "")
	}
	replica := startBare(b, values)
	host, _, _ := net.SplitHostPort(s.addr)
	if err := replica.Do(b.Context(), "replicaof", host, port).Err(); err != nil {
		b.Fatal(err)
	}
	inStep := func() error {
		if replica.info("slave_repl_offset") < s.info("master_repl_offset") || replica.DBSize(b.Context()).Val() < 200_000 {
			return errors.New("the replica is behind")
		}
		return nil
	}
	testbed.Eventually(b, time.Minute, inStep)
	full := s.info("sync_full")
	if err := replica.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		b.Fatal(err)
	}
	if err := s.ClientKillByFilter(b.Context(), "TYPE", "replica").Err(); err != nil {
		b.Fatal(err)
	}
	s.pipelined(32<<10, func(p redis.Pipeliner, i int) { p.Set(b.Context(), strconv.Itoa(i), value, 0) })
	start := time.Now()
	if err := replica.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		b.Fatal(err)
	}
	testbed.Eventually(b, time.Minute, inStep)
	b.ReportMetric(time.Since(start).Seconds(), "s")
	b.ReportMetric(s.info("sync_full")-full, "full-copies")
	replica.kill()
}

// tunedCache reads keys by Zipf's law, ten times as many as fit, and writes what it did not find; beside every two of them one
// that nobody ever asks for again.
func tunedCache(b *testing.B, s *bareServer) {
	keys := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.05, 1, 500_000)
	value, hits := strings.Repeat("x", 200), 0
	const rounds, each = 400, 1000
	for round := range rounds {
		wanted := make([]string, each*3/2)
		for i := range wanted {
			wanted[i] = strconv.FormatUint(keys.Uint64(), 10)
			if i >= each {
				wanted[i] = fmt.Sprintf("once:%d:%d", round, i)
			}
		}
		found, err := s.MGet(b.Context(), wanted...).Result()
		if err != nil {
			b.Fatal(err)
		}
		s.pipelined(len(wanted), func(p redis.Pipeliner, i int) {
			if found[i] == nil {
				p.Set(b.Context(), wanted[i], value, 0)
			} else {
				hits++
			}
		})
	}
	b.ReportMetric(float64(hits)/rounds/each*100, "hit-%")
}

// tunedSession has 500,000 sessions end at once that nobody asks for any more, and tells when their memory is free.
func tunedSession(b *testing.B, s *bareServer) {
	const sessions = 500_000
	end := time.Now().Add(10 * time.Second)
	s.pipelined(sessions, func(p redis.Pipeliner, i int) {
		p.Do(b.Context(), "set", i, "session", "pxat", end.UnixMilli())
	})
	testbed.Eventually(b, time.Minute, func() error {
		if n := s.DBSize(b.Context()).Val(); n > sessions/100 {
			return fmt.Errorf("%d sessions are left", n)
		}
		return nil
	})
	b.ReportMetric(time.Since(end).Seconds(), "s")
}
