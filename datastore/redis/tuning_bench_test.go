package redis

import (
	"encoding/csv"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore/datastoretest"
	"github.com/grove-dbaas/grove/internal/testbed"
)

// BenchmarkTuned measures a database as Grove sets it up beside the same server with its package's defaults, one after
// the other in the same run: docs/tuning.md.
func BenchmarkTuned(b *testing.B) {
	program, err := exec.LookPath("redis-benchmark")
	if err != nil {
		b.Skip("redis-benchmark (package redis-tools) is not installed")
	}
	for _, pipeline := range []string{"1", "16"} {
		b.Run("pipeline="+pipeline, func(b *testing.B) {
			b.Run("package", func(b *testing.B) {
				measure(b, program, "-h", "127.0.0.1", "-p", packaged(b), "-P", pipeline)
			})
			for _, name := range append([]string{""}, "cache", "session", "queue", "store") {
				b.Run("grove/"+name, func(b *testing.B) {
					h := datastoretest.Machine(b)
					g := newGuest(h)
					b.Cleanup(func() { _ = g.Close() })
					d := datastoretest.Desired(redis70, h)
					d.Profile = name
					datastoretest.Up(b, g, d)
					measure(b, program, "-h", h.Address, "-p", strconv.Itoa(port), "-P", pipeline, "--user", tenantUser, "-a", datastoretest.Password)
				})
			}
		})
	}
}

// packaged starts a server as its package does, with nothing but a port and a directory of its own, and gives the port.
func packaged(b *testing.B) string {
	port := strconv.Itoa(testbed.FreePort(b))
	cmd := exec.Command(testbed.Program(b, "redis-server"), "--bind", "127.0.0.1", "--port", port, "--dir", b.TempDir())
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	testbed.Eventually(b, 10*time.Second, func() error {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return port
}

// measure runs the package's own load generator and reports what it says.
func measure(b *testing.B, program string, args ...string) {
	for b.Loop() {
		args := append([]string{"-t", "set,get", "-n", "200000", "-d", "100", "-r", "100000", "-c", "50", "--csv"}, args...)
		out, err := exec.CommandContext(b.Context(), program, args...).Output()
		if err != nil {
			b.Fatal(err)
		}
		rows, err := csv.NewReader(strings.NewReader(string(out))).ReadAll()
		if err != nil || len(rows) != 3 {
			b.Fatalf("%v: %s", err, out)
		}
		for _, row := range rows[1:] {
			report(b, row[1], row[0]+"/s")
			report(b, row[6], row[0]+"-p99-ms")
		}
	}
}

func report(b *testing.B, value, unit string) {
	f, err := strconv.ParseFloat(value, 64)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(f, unit)
}
