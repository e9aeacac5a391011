package testbed

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// rabbitmqServer is Debian's: the script in /usr/sbin would change the user.
const rabbitmqServer = "/usr/lib/rabbitmq/bin/rabbitmq-server"

// The broker that the tests of this binary share; starting one takes seconds.
var sharedBroker struct {
	once   sync.Once
	broker *Broker
	err    error
}

// Broker is a private RabbitMQ node with its management API, everything on loopback.
type Broker struct {
	URL           string // amqp://user:password@127.0.0.1:port/, of an administrator
	ManagementURL string // http://user:password@127.0.0.1:port

	dir   string
	env   []string
	tls   *BrokerTLS
	epmd  *process
	watch io.Closer
	mu    sync.Mutex
	node  *process
}

// RabbitMQ gives the broker that all tests of this binary share, running. Each test takes a Vhost of its own. The
// package needs a TestMain with [Main].
func RabbitMQ(t testing.TB) *Broker {
	t.Helper()
	Program(t, rabbitmqServer)
	epmd := Program(t, "epmd")
	sharedBroker.once.Do(func() {
		sharedBroker.broker, sharedBroker.err = newBroker(epmd, nil)
	})
	if sharedBroker.err != nil {
		t.Fatalf("start RabbitMQ: %v", sharedBroker.err)
	}
	return sharedBroker.broker
}

// BrokerTLS names the PEM files of a broker that speaks TLS alone.
type BrokerTLS struct {
	CA     string
	Server string // key and certificate, for 127.0.0.1
}

// RabbitMQOverTLS starts a broker of its own for the test, which speaks TLS alone and reads its files anew every second.
func RabbitMQOverTLS(t testing.TB, files BrokerTLS) *Broker {
	t.Helper()
	Program(t, rabbitmqServer)
	b, err := newBroker(Program(t, "epmd"), &files)
	if err != nil {
		t.Fatalf("start RabbitMQ: %v", err)
	}
	t.Cleanup(b.end)
	return b
}

func newBroker(epmd string, tls *BrokerTLS) (*Broker, error) {
	dir, err := os.MkdirTemp("", "grove-rabbitmq-")
	if err != nil {
		return nil, err
	}
	b := &Broker{dir: dir, tls: tls}
	if b.watch, err = removeAfterwards(dir); err != nil {
		return nil, err
	}
	AtExit(b.end)
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	if err := b.configure(ports[0], ports[1], ports[2], ports[3]); err != nil {
		return nil, err
	}
	b.epmd, err = startProcess(exec.Command(epmd, "-address", "127.0.0.1", "-port", strconv.Itoa(ports[3])))
	if err != nil {
		return nil, err
	}
	return b, b.start()
}

// removeAfterwards has a shell remove dir when this process has ended, in whatever way, or the closer was closed.
func removeAfterwards(dir string) (io.Closer, error) {
	cmd := exec.Command("/bin/sh", "-c", `cat >/dev/null; sleep 1; rm -rf "$1"`, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = cmd.Wait() }() // so that it is no zombie
	return stdin, nil
}

func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		ports[i] = port
	}
	return ports, nil
}

// configure writes the node's files and the environment that it runs with.
func (b *Broker) configure(amqp, management, distribution, epmd int) error {
	password := rand.Text()
	b.URL = fmt.Sprintf("amqp://grove:%s@127.0.0.1:%d/", password, amqp)
	b.ManagementURL = fmt.Sprintf("http://grove:%s@127.0.0.1:%d", password, management)
	listeners := fmt.Sprintf(`listeners.tcp.1 = 127.0.0.1:%d
management.tcp.ip = 127.0.0.1
management.tcp.port = %d
`, amqp, management)
	if b.tls != nil {
		b.URL, b.ManagementURL = strings.Replace(b.URL, "amqp:", "amqps:", 1), strings.Replace(b.ManagementURL, "http:", "https:", 1)
		listeners = b.tls.listeners(amqp, management)
	}
	files := map[string]string{
		"rabbitmq.conf": listeners + fmt.Sprintf(`default_user = grove
default_pass = %s
loopback_users = none
collect_statistics_interval = 1000
disk_free_limit.absolute = 10MB
vm_memory_high_watermark.absolute = 1GB
`, password),
		"enabled_plugins": "[rabbitmq_management].\n",
		"rabbitmq-env":    "",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	b.env = append(os.Environ(),
		"HOME="+b.dir, // of the Erlang cookie
		"RABBITMQ_CONF_ENV_FILE="+filepath.Join(b.dir, "rabbitmq-env"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(b.dir, "rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(b.dir, "enabled_plugins"),
		"RABBITMQ_MNESIA_BASE="+filepath.Join(b.dir, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(b.dir, "log"),
		"RABBITMQ_NODENAME=grove-"+strings.ToLower(rand.Text()[:12])+"@localhost",
		"RABBITMQ_DIST_PORT="+strconv.Itoa(distribution),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -ssl ssl_pem_cache_clean 1000",
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_EPMD_PORT="+strconv.Itoa(epmd),
		"RUNNING_UNDER_SYSTEMD=true", // so that the script becomes the node, and its process id the node's
	)
	return nil
}

// listeners are as `groved certificates init` tells operators to have them.
func (f *BrokerTLS) listeners(amqp, management int) string {
	return fmt.Sprintf(`listeners.tcp = none
listeners.ssl.1 = 127.0.0.1:%[1]d
ssl_options.certfile = %[3]s
ssl_options.keyfile = %[3]s
ssl_options.cacertfile = %[4]s
ssl_options.verify = verify_none
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
management.ssl.ip = 127.0.0.1
management.ssl.port = %[2]d
management.ssl.certfile = %[3]s
management.ssl.keyfile = %[3]s
management.ssl.cacertfile = %[4]s
`, amqp, management, f.Server, f.CA)
}

func (b *Broker) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var output bytes.Buffer
	cmd := exec.Command(rabbitmqServer)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = b.env, b.dir, &output, &output
	node, err := startProcess(cmd)
	if err != nil {
		return err
	}
	b.node = node
	err = poll(context.Background(), 90*time.Second, func() error {
		if node.ended() {
			return nil
		}
		return b.ready()
	})
	if err == nil && node.ended() {
		err = errors.New("the node ended")
	}
	if err != nil {
		node.stop(syscall.SIGKILL, time.Minute) // output is complete only then
		return fmt.Errorf("%w; it said: %s", err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

// ready asks a question that needs the listeners, the default user and vhost, and the management plugin.
func (b *Broker) ready() error {
	return b.manage(http.MethodGet, "/api/health/checks/virtual-hosts", nil)
}

// Start starts a broker that was killed, and returns when it serves.
func (b *Broker) Start(t testing.TB) {
	t.Helper()
	if err := b.start(); err != nil {
		t.Fatalf("start RabbitMQ: %v", err)
	}
}

// Kill ends the broker as by kill -9, and returns when it is gone.
func (b *Broker) Kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.node.stop(syscall.SIGKILL, time.Minute)
}

// Dir is where the broker keeps all its files.
func (b *Broker) Dir() string { return b.dir }

// Restart kills the broker and starts it again.
func (b *Broker) Restart(t testing.TB) {
	t.Helper()
	b.Kill()
	b.Start(t)
}

// Wipe kills the broker, deletes all that it knew, and starts it again: users, vhosts, queues and messages are gone.
func (b *Broker) Wipe(t testing.TB) {
	t.Helper()
	b.Kill()
	if err := os.RemoveAll(filepath.Join(b.dir, "data")); err != nil {
		t.Fatalf("wipe RabbitMQ: %v", err)
	}
	b.Start(t)
}

// Vhost makes a virtual host for this test alone, and gives its name and the URL of it. It goes with the test.
func (b *Broker) Vhost(t testing.TB) (name, amqpURL string) {
	t.Helper()
	name = "test-" + strings.ToLower(rand.Text()[:12])
	b.MakeVhost(t, name)
	t.Cleanup(func() {
		if err := b.manage(http.MethodDelete, "/api/vhosts/"+name, nil); err != nil {
			t.Logf("delete vhost %s: %v", name, err)
		}
	})
	return name, b.URL + name
}

// MakeVhost makes a virtual host, such as one that was wiped.
func (b *Broker) MakeVhost(t testing.TB, name string) {
	t.Helper()
	if err := b.manage(http.MethodPut, "/api/vhosts/"+name, nil); err != nil {
		t.Fatalf("make vhost %s: %v", name, err)
	}
}

// ResidentBytes tells how much memory the node has resident.
func (b *Broker) ResidentBytes(t testing.TB) int64 {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", b.node.cmd.Process.Pid))
	if err != nil {
		t.Fatalf("read the broker's memory: %v", err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(raw), &size, &resident); err != nil {
		t.Fatalf("read the broker's memory: %v", err)
	}
	return resident * int64(os.Getpagesize())
}

func (b *Broker) manage(method, path string, body []byte) error {
	u, err := url.Parse(b.ManagementURL + path)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, u.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: b.trust()}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return nil
}

// trust is how this package knows a broker that speaks TLS.
func (b *Broker) trust() *tls.Config {
	if b.tls == nil {
		return nil
	}
	pool := x509.NewCertPool()
	if text, err := os.ReadFile(b.tls.CA); err == nil {
		pool.AppendCertsFromPEM(text)
	}
	return &tls.Config{RootCAs: pool}
}

// end stops everything and removes it.
func (b *Broker) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range []*process{b.node, b.epmd} {
		if p != nil {
			p.stop(syscall.SIGKILL, time.Minute)
		}
	}
	_ = b.watch.Close() // and with it goes the directory, now or soon
	_ = os.RemoveAll(b.dir)
}
