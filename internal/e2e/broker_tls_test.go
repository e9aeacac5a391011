package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/testbed"
)

// overTLS is a house whose roles are processes of their own, with PostgreSQL, and with a RabbitMQ that speaks TLS alone with the
// certificates that groved makes.
type overTLS struct {
	*house
	broker       *testbed.Broker
	machine      *house // where the servers are
	data, config string
	certificates string
}

func openOverTLS(t *testing.T) *overTLS {
	t.Helper()
	dir := t.TempDir()
	o := &overTLS{data: filepath.Join(dir, "data"), config: filepath.Join(dir, "grove.yaml"), certificates: filepath.Join(dir, "broker")}
	o.groved(t, "certificates", "init", o.certificates, "--name", "127.0.0.1")
	ca := filepath.Join(o.certificates, "ca.pem")
	o.broker = testbed.RabbitMQOverTLS(t, testbed.BrokerTLS{CA: ca, Server: filepath.Join(o.certificates, "server.pem")})
	text := fmt.Sprintf("listen: 127.0.0.1:0\ndata: %q\ndatabase: {url: %q}\nrpc: {url: %q, management_url: %q, ca_file: %q}\napi: {rate_limits: {GET: 0}}\ncloud: {local: {shared: true, agents: process, agent_binary: %q, volumes: directory}}\n",
		o.data, testbed.Postgres(t), o.broker.URL, o.broker.ManagementURL, ca, filepath.Join(bin, "grove-agent"))
	if err := os.WriteFile(o.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(o.data, 0o700); err != nil {
		t.Fatal(err)
	}
	o.groved(t, "keys", "create", "--config", o.config)
	o.groved(t, "migrate", "up", "--config", o.config)
	o.machine = &house{t: t, dir: o.data}
	t.Cleanup(o.machine.requireNothingLeft)
	openRole(t, dir, "cloud", "--config", o.config)
	openRole(t, dir, "taskmanager", "--config", o.config)
	o.house = openRole(t, dir, "api", "--config", o.config)
	o.house.project = "demo"
	t.Cleanup(o.tellAfterFailure)
	return o
}

// groved runs a command of groved, which must succeed.
func (o *overTLS) groved(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "groved"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("groved %s: %v: %s", args, err, out)
	}
	return string(out)
}

// rotate makes the next change of who signs the broker's certificate.
func (o *overTLS) rotate() error {
	out, err := exec.Command(filepath.Join(bin, "groved"), "certificates", "rotate", "--authority", o.certificates, "--config", o.config).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// TestAuthorityOfTheBrokerIsRotated takes real agents that reach RabbitMQ by TLS through a change of who signs its certificate:
// they learn it without a rebuild, one that is away holds the change up, and nobody is cut off. The instances are used before,
// meanwhile and after, and deleted.
func TestAuthorityOfTheBrokerIsRotated(t *testing.T) {
	t.Parallel()
	o := openOverTLS(t)
	in := o.createActive("shop")
	in.set("greeting", "hello")
	other := o.createActive("other")
	process := in.redis().InfoMap(t.Context(), "server").Item("Server", "run_id")
	guest := o.machine.guestOf(other.primaryProcess())
	pid := agentOf(t, filepath.Join(o.data, "servers", guest))
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil { // away, while the next authority is published
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	if err := o.rotate(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error { // all but it learn it
		err := o.rotate()
		if err == nil {
			t.Fatal("the next authority signs, and an agent does not know it")
		}
		if !strings.Contains(err.Error(), "1 guest agents have not confirmed") || !strings.Contains(err.Error(), guest) {
			return err
		}
		return nil
	})
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, o.rotate) // the next one signs
	if err := o.rotate(); err != nil {     // the old one is withdrawn
		t.Fatal(err)
	}
	o.broker.Restart(t) // everybody has to connect anew
	for _, one := range []*instance{in, other} {
		eventually(t, 2*time.Minute, func() error {
			a, err := o.try("POST", "/instances/"+one.id+"/action", object{"restart": object{}})
			if err != nil || a.status != 202 {
				return fmt.Errorf("restart: %v %v", a, err)
			}
			return nil
		})
		one.awaitWithin(2*time.Minute, "ACTIVE", "HEALTHY")
	}
	in.requireValue("greeting", "hello")
	if again := in.redis().InfoMap(t.Context(), "server").Item("Server", "run_id"); again == process {
		t.Error("the database was not restarted: its agent does not obey")
	}
	if err := o.rotate(); err != nil { // the old one is not in the way of another change
		t.Fatal(err)
	}
	for _, one := range []*instance{in, other} {
		o.do(202, "DELETE", "/instances/"+one.id, nil)
		one.awaitGone()
	}
}
