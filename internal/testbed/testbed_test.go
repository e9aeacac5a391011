package testbed

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func TestEventuallyWaits(t *testing.T) {
	tries := 0
	Eventually(t, 5*time.Second, func() error {
		if tries++; tries < 5 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := poll(t.Context(), 20*time.Millisecond, func() error { return errors.New("never") }); err == nil || err.Error() != "never" {
		t.Errorf("a condition that never holds gave %v", err)
	}
}

func TestRedisServer(t *testing.T) {
	var addr string
	t.Run("runs", func(t *testing.T) { addr = RedisServer(t, "redis-server") })
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the server outlived its test")
	}
}

func TestRabbitMQ(t *testing.T) {
	b := RabbitMQ(t)
	if RabbitMQ(t) != b {
		t.Error("a second broker was started")
	}
	name, _ := b.Vhost(t)
	b.Restart(t)
	if err := b.manage("GET", "/api/vhosts/"+name, nil); err != nil {
		t.Errorf("the vhost was lost by a restart: %v", err)
	}
	b.Wipe(t)
	if err := b.manage("GET", "/api/vhosts/"+name, nil); err == nil {
		t.Error("the vhost survived a wipe")
	}
	t.Logf("resident: %d MiB", b.ResidentBytes(t)>>20)
	b.end()
	if _, err := os.Stat(b.dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
	if !b.node.ended() || !b.epmd.ended() {
		t.Error("a process is left")
	}
}
