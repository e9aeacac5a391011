package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
)

func TestMain(m *testing.M) { testbed.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// certificates runs `groved certificates` and gives what it says.
func certificates(args ...string) (string, error) {
	cmd := newCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"certificates"}, args...))
	err := cmd.ExecuteContext(context.Background())
	return out.String(), err
}

func trustIn(dir string) amqp.Trust {
	return func() ([]byte, error) { return os.ReadFile(filepath.Join(dir, brokerCA)) }
}

func TestCertificatesInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "broker")
	if _, err := certificates("init", dir); err == nil {
		t.Error("a certificate for nobody was made")
	}
	said, err := certificates("init", dir, "--name", "mq.example.org", "--name", "192.0.2.7")
	must(t, err)
	for _, want := range []string{filepath.Join(dir, brokerServer), filepath.Join(dir, brokerCA), "listeners.tcp = none", "amqps://", "https://"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	for name, mode := range map[string]os.FileMode{brokerServer: 0o600, brokerAuthority: 0o600, brokerCA: 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	names, err := serverNames(dir)
	must(t, err)
	if fmt.Sprint(names) != "[mq.example.org 192.0.2.7]" {
		t.Errorf("the certificate is for %v", names)
	}
	before, err := os.ReadFile(filepath.Join(dir, brokerServer))
	must(t, err)
	if _, err := certificates("init", dir, "--name", "other"); err == nil || !strings.Contains(err.Error(), "rotate") {
		t.Errorf("init over what is there gave %v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, brokerServer)); !bytes.Equal(before, after) {
		t.Error("init has overwritten the certificate")
	}
	if _, err := certificates("rotate", t.TempDir()); err == nil {
		t.Error("nothing was rotated, and it said nothing")
	}
}

// TestBrokerOverTLS takes RabbitMQ with the certificates that Grove makes through its life: it is known by them and by nothing
// else, they are replaced and so is who signs them, and no message is lost meanwhile.
func TestBrokerOverTLS(t *testing.T) {
	dir := t.TempDir()
	_, err := certificates("init", dir, "--name", "127.0.0.1", "--name", "localhost")
	must(t, err)
	files := testbed.BrokerTLS{CA: filepath.Join(dir, brokerCA), Server: filepath.Join(dir, brokerServer)}
	broker := testbed.RabbitMQOverTLS(t, files)
	accounts, err := amqp.NewAccounts(broker.ManagementURL, "/", amqp.Client(trustIn(dir)))
	must(t, err)
	g := rpc.Account{GuestID: uuid.NewString(), Queue: "q." + uuid.NewString(), Password: secret.GeneratePassword()}
	must(t, accounts.Ensure(t.Context(), g))

	// who is not to be trusted is not told the password
	stranger, err := secret.NewBrokerAuthority(time.Now())
	must(t, err)
	strange := func() ([]byte, error) { return []byte(stranger.Certificate()), nil }
	if _, err := amqp.Expiry(within(t, time.Minute), broker.URL, strange); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("a broker of another authority: %v", err)
	}
	if _, err := amqp.Expiry(within(t, time.Minute), broker.URL, nil); err == nil {
		t.Error("the system trusts the broker")
	}
	doubtful, err := amqp.NewAccounts(broker.ManagementURL, "/", amqp.Client(strange))
	must(t, err)
	if _, err := doubtful.List(t.Context()); err == nil || !strings.Contains(fmt.Sprintf("%+v", errorsOf(err)), "unknown authority") {
		t.Errorf("the management API of another authority: %v", err)
	}
	requireUnreached(t, "another authority", amqp.Config{URL: broker.URL, Role: amqp.RoleControl, Trust: strange})
	requireUnreached(t, "plain text", amqp.Config{URL: strings.Replace(broker.URL, "amqps:", "amqp:", 1), Role: amqp.RoleControl})

	// it goes on while certificates change
	control, err := amqp.Dial(context.Background(), amqp.Config{URL: broker.URL, Role: amqp.RoleControl, Trust: trustIn(dir)})
	must(t, err)
	defer control.Close()
	guest, err := amqp.Dial(context.Background(), amqp.Config{
		URL: strings.Replace(broker.URL, userinfo(broker.URL), g.GuestID+":"+g.Password+"@", 1), Role: amqp.RoleGuest,
		GuestID: g.GuestID, Queue: g.Queue, Trust: trustIn(dir),
	})
	must(t, err)
	defer guest.Close()
	arrived := make(map[string]bool)
	var mu sync.Mutex
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- control.Serve(ctx, rpc.TopicReports, 4, func(_ context.Context, m *rpc.Envelope) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			arrived[m.ID] = true
			return nil, nil
		})
	}()
	var sent []string
	cast := func(m *rpc.Envelope) error { return guest.Cast(within(t, time.Minute), m) }
	message := func() *rpc.Envelope {
		return &rpc.Envelope{ID: uuid.NewString(), Topic: rpc.TopicReports, Method: "m"}
	}
	send := func() {
		t.Helper()
		m := message()
		testbed.Eventually(t, time.Minute, func() error { return cast(m) })
		sent = append(sent, m.ID)
	}
	requireArrived := func(ids ...string) error {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids {
			if !arrived[id] {
				return fmt.Errorf("message %s is lost", id)
			}
		}
		return nil
	}
	send()
	expires := func() time.Time {
		t.Helper()
		at, err := amqp.Expiry(within(t, time.Minute), broker.URL, trustIn(dir))
		must(t, err)
		return at
	}
	if left := time.Until(expires()); left < brokerLife-time.Hour || left > brokerLife {
		t.Errorf("the certificate is good for %s", left)
	}
	_, err = certificates("rotate", dir)
	must(t, err)
	first, err := os.ReadFile(files.CA)
	must(t, err)
	send()
	config := noGuests(t, broker, files.CA)
	for i := range 3 { // published, signs, old one withdrawn
		if _, err := certificates("rotate", dir, "--authority"); (err == nil) != (i == 0) {
			t.Errorf("without a configuration change %d gave %v", i, err)
		}
		if i > 0 {
			_, err = certificates("rotate", dir, "--authority", "--config", config)
			must(t, err)
		}
		send()
	}
	formerly := func() ([]byte, error) { return first, nil }
	testbed.Eventually(t, time.Minute, func() error { // as soon as the broker has read the file
		if _, err := amqp.Expiry(within(t, time.Minute), broker.URL, formerly); err == nil {
			return fmt.Errorf("the broker is still known by the old authority")
		}
		return nil
	})
	expires()
	testbed.Eventually(t, time.Minute, func() error { return requireArrived(sent...) })
	broker.Restart(t) // everybody has to connect anew
	late := message()
	testbed.Eventually(t, time.Minute, func() error { // again and again, as reports are: RabbitMQ 3.10 may lose the queue, which is made anew
		return errors.Join(cast(late), requireArrived(late.ID))
	})
	if _, err := accounts.List(t.Context()); err != nil {
		t.Errorf("the management API after the rotation: %v", err)
	}

	// an expired certificate is refused
	a, err := readAuthority(dir, brokerAuthority)
	must(t, err)
	must(t, issueServer(dir, a, []string{"127.0.0.1"}, time.Now().Add(-brokerLife-time.Minute)))
	testbed.Eventually(t, time.Minute, func() error {
		if _, err := amqp.Expiry(within(t, time.Minute), broker.URL, trustIn(dir)); err == nil || !strings.Contains(err.Error(), "expired") {
			return fmt.Errorf("a broker whose certificate has expired: %v", err)
		}
		return nil
	})
	stop()
	must(t, <-served)
}

// noGuests makes the configuration of a Grove without guests.
func noGuests(t *testing.T, broker *testbed.Broker, ca string) (config string) {
	t.Helper()
	dir := t.TempDir()
	config = filepath.Join(dir, "grove.yaml")
	text := fmt.Sprintf("data: %q\nrpc: {url: %q, management_url: %q, ca_file: %q}\n", dir, broker.URL, broker.ManagementURL, ca)
	must(t, os.WriteFile(config, []byte(text), 0o600))
	for _, args := range [][]string{{"keys", "create"}, {"migrate", "up"}} {
		cmd := newCommand()
		cmd.SetOut(io.Discard)
		cmd.SetArgs(append(args, "--config", config))
		must(t, cmd.ExecuteContext(t.Context()))
	}
	return config
}

// Who is not known to know the next authority is named, some of them at least.
func TestUnknowingGuestsAreNamed(t *testing.T) {
	guests := []store.TrustingGuest{{ID: "g1", InstanceID: "i1", BrokerTrust: "aa bb"}, {ID: "g2", InstanceID: "i2", BrokerTrust: "bb"}}
	if err := unknowing(guests, "bb"); err != nil {
		t.Errorf("all know it, and it says %v", err)
	}
	if err := unknowing(guests, "aa"); err == nil || !strings.Contains(err.Error(), "guest g2 of instance i2") || strings.Contains(err.Error(), "g1") {
		t.Errorf("one does not know it, and it says %v", err)
	}
	if err := unknowing(slices.Repeat(guests, 20), "cc"); err == nil || !strings.Contains(err.Error(), "40 guest agents") || !strings.Contains(err.Error(), "30 more") {
		t.Errorf("forty do not know it, and it says %v", err)
	}
}

// requireUnreached requires that nothing can be sent.
func requireUnreached(t *testing.T, what string, c amqp.Config) {
	t.Helper()
	tr, err := amqp.Dial(context.Background(), c)
	must(t, err)
	defer tr.Close()
	ctx := within(t, 2*time.Second)
	for ctx.Err() == nil {
		if err := tr.Cast(ctx, &rpc.Envelope{ID: uuid.NewString(), Topic: rpc.TopicTaskmanager, Method: "m"}); err == nil {
			t.Fatalf("%s: the broker took a message", what)
		}
	}
}

// errorsOf are an error and what it wraps.
func errorsOf(err error) (all []string) {
	for ; err != nil; err = unwrap(err) {
		all = append(all, err.Error())
	}
	return all
}

func unwrap(err error) error {
	if u, ok := err.(interface{ Unwrap() error }); ok {
		return u.Unwrap()
	}
	return nil
}

// userinfo is the login in a URL, with its @.
func userinfo(rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "//")
	login, _, _ := strings.Cut(rest, "@")
	return login + "@"
}
