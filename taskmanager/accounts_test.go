package taskmanager_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/datastore/all"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/internal/testbed"
	"github.com/grove-dbaas/grove/taskmanager"
)

// brokerHouse is a house whose taskmanager reaches its guests through RabbitMQ. There is no cloud for them: they are rows,
// and connections as an agent has them.
type brokerHouse struct {
	*house
	broker   *testbed.Broker
	accounts *amqp.Accounts
	manager  *taskmanager.Manager
}

// simulated is a guest with what its agent was given.
type simulated struct {
	rpc.Account
	key []byte
}

func openBrokerHouse(t *testing.T) *brokerHouse {
	t.Helper()
	h := &brokerHouse{house: openHouse(t, "", t.TempDir()), broker: testbed.RabbitMQ(t)}
	var err error
	h.accounts, err = amqp.NewAccounts(h.broker.ManagementURL, "/", nil)
	must(t, err)
	transport, err := amqp.Dial(context.Background(), amqp.Config{URL: h.broker.URL, Role: amqp.RoleControl, Logger: logger(t)})
	must(t, err)
	h.manager, err = taskmanager.New(taskmanager.Config{
		Store: h.store, Cloud: h.cloud, Transport: transport, Accounts: h.accounts, Datastores: all.Datastores(),
		Region: "RegionOne", Node: "taskmanager-broker", Heartbeat: time.Second, Workers: 4, Lease: time.Minute,
		Clock: clock.Real{}, Logger: logger(t),
	})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.manager.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the taskmanager ended with %v", err)
		}
		must(t, transport.Close())
		for _, id := range h.listed(t) {
			must(t, h.accounts.Delete(context.Background(), id, "gone"))
		}
	})
	return h
}

func (h *brokerHouse) listed(t *testing.T) []string {
	t.Helper()
	ids, err := h.accounts.List(context.Background())
	must(t, err)
	return ids
}

// addGuests makes instances with one guest each, as they are once their agents have been given their logins.
func (h *brokerHouse) addGuests(t *testing.T, n int) []simulated {
	t.Helper()
	version := ""
	h.sql(t, "SELECT id FROM datastore_versions LIMIT 1", &version)
	guests := make([]simulated, n)
	must(t, h.store.Tx(t.Context(), func(tx *store.Tx) error {
		for i := range guests {
			in := &dbaas.Instance{ID: uuid.NewString(), GroupID: uuid.NewString(), ProjectID: tester.ProjectID, Name: fmt.Sprint("guest-", i), Task: dbaas.TaskNone,
				DatastoreVersionID: version}
			if err := tx.InsertGroup(&dbaas.Group{ID: in.GroupID, ProjectID: in.ProjectID, Kind: dbaas.GroupSingle}); err != nil {
				return err
			}
			in.PrimaryGuestID = uuid.NewString()
			if err := tx.InsertInstance(in); err != nil {
				return err
			}
			g, err := control.InsertGuest(tx, in, in.PrimaryGuestID)
			if err != nil {
				return err
			}
			guests[i].Account = rpc.Account{GuestID: g.ID, Queue: g.Queue, Password: secret.GeneratePassword()}
			if _, err := tx.PutSecret(g.ID, control.SecretBrokerPassword, []byte(guests[i].Password)); err != nil {
				return err
			}
		}
		return nil
	}))
	for i := range guests {
		key, err := h.store.RevealSecret(t.Context(), guests[i].GuestID, control.SecretRPCKey)
		must(t, err)
		guests[i].key = key
	}
	return guests
}

func (h *brokerHouse) guestURL(t *testing.T, a rpc.Account) string {
	t.Helper()
	u, err := url.Parse(h.broker.URL)
	must(t, err)
	u.User = url.UserPassword(a.GuestID, a.Password)
	return u.String()
}

// attach connects guests as agents do; each says every second that it lives, until the test ends.
func (h *brokerHouse) attach(t *testing.T, guests []simulated) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	for i, g := range guests {
		tr, err := amqp.Dial(ctx, amqp.Config{URL: h.guestURL(t, g.Account), Role: amqp.RoleGuest, GuestID: g.GuestID, Queue: g.Queue})
		must(t, err)
		reporter := guest.NewReporter(tr, g.GuestID, g.key, int64(i+1))
		all.Go(func() {
			defer tr.Close()
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					_ = reporter.Heartbeat(ctx, guest.Heartbeat{VolumeTotal: 1}) // the next one comes soon enough
				}
			}
		})
	}
}

// awaitHeartbeats returns when every guest was heard of since.
func (h *brokerHouse) awaitHeartbeats(t *testing.T, n int, since time.Time, atMost time.Duration) {
	t.Helper()
	testbed.Eventually(t, atMost, func() error {
		var heard int
		h.sql(t, fmt.Sprintf("SELECT COUNT(*) FROM heartbeats WHERE seen_at >= %d", dbaas.At(since)), &heard)
		if heard != n {
			return fmt.Errorf("%d of %d guests were heard of", heard, n)
		}
		return nil
	})
}

// TestBrokerWiped deletes all that the broker knows: accounts, queues and permissions are made again from the database, and
// every agent is heard of again with what it was given at first (R4). GROVE_TEST_GUESTS=1000 is the row's own number.
func TestBrokerWiped(t *testing.T) {
	t.Parallel() // it mostly waits
	n := 20
	if s := os.Getenv("GROVE_TEST_GUESTS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		must(t, err)
	}
	h := openBrokerHouse(t)
	guests := h.addGuests(t, n)
	began := time.Now()
	must(t, h.manager.RestoreAccounts(t.Context()))
	t.Logf("%d accounts made in %s", n, time.Since(began).Round(time.Millisecond))
	h.attach(t, guests)
	h.awaitHeartbeats(t, n, began, 2*time.Minute)

	h.broker.Wipe(t)
	wiped := time.Now()
	h.awaitHeartbeats(t, n, wiped, 2*time.Minute)
	t.Logf("all of %d agents were heard of again %s after the empty broker served", n, time.Since(wiped).Round(100*time.Millisecond))

	// a login that is whole is left alone; one without its queue is not whole
	must(t, h.manager.RestoreAccounts(t.Context()))
	if got := h.listed(t); len(got) != n {
		t.Errorf("%d accounts, not %d", len(got), n)
	}
}

// TestStrayAccounts: the login of a guest that was deleted is removed, and does not come back; one that the database knows
// nothing of is somebody else's.
func TestStrayAccounts(t *testing.T) {
	h := openBrokerHouse(t)
	guests := h.addGuests(t, 3)
	deleted, revoked, live := guests[0], guests[1], guests[2]
	stranger := rpc.Account{GuestID: uuid.NewString(), Queue: "stranger", Password: secret.GeneratePassword()}
	must(t, h.accounts.Ensure(t.Context(), stranger))
	must(t, h.accounts.Ensure(t.Context(), deleted.Account)) // made late by somebody who did not know
	must(t, h.store.Tx(t.Context(), func(tx *store.Tx) error {
		if err := tx.DeleteGuest(deleted.GuestID); err != nil {
			return err
		}
		id, err := tx.FindSecret(revoked.GuestID, control.SecretBrokerPassword) // as the step of a delete does first
		if err != nil {
			return err
		}
		return tx.DeleteSecret(id)
	}))
	must(t, h.manager.RestoreAccounts(t.Context()))
	want := []string{stranger.GuestID, live.GuestID}
	slices.Sort(want)
	if got := h.listed(t); !slices.Equal(got, want) {
		t.Errorf("accounts %v, want %v", got, want)
	}
	must(t, h.accounts.Delete(t.Context(), stranger.GuestID, stranger.Queue))
}

// TestCapturedGuest sends what somebody says who has all that a guest's server knows. Nothing of it changes what is stored of
// another guest, and what is told of the guest itself goes forward only (R12, R18).
func TestCapturedGuest(t *testing.T) {
	h := openBrokerHouse(t)
	guests := h.addGuests(t, 2)
	captured, victim := guests[0], guests[1]
	must(t, h.manager.RestoreAccounts(t.Context()))
	tr, err := amqp.Dial(context.Background(), amqp.Config{URL: h.guestURL(t, captured.Account), Role: amqp.RoleGuest, GuestID: captured.GuestID, Queue: captured.Queue})
	must(t, err)
	defer tr.Close()
	victimBefore := h.rowsOf(t, victim.GuestID)

	report := func(key []byte, guestID, status string, change func(m *rpc.Envelope)) {
		t.Helper()
		m, err := rpc.NewEnvelope(rpc.TopicReports, guest.MethodReport, guest.StatusReport{GuestID: guestID, Status: datastore.Status{Status: dbaas.GuestStatus(status)}})
		must(t, err)
		m.Sender, m.BootID, m.Sequence = captured.GuestID, dbaas.BootID(1, "boot"), 10
		if change != nil {
			change(m)
		}
		if key != nil {
			must(t, rpc.Sign(key, m))
		}
		testbed.Eventually(t, time.Minute, func() error { return tr.Cast(t.Context(), m) })
	}
	none := func(*rpc.Envelope) {}
	report(captured.key, victim.GuestID, "FAILED", none)                                                          // a claim about another
	report(captured.key, victim.GuestID, "FAILED", func(m *rpc.Envelope) { m.Sender = victim.GuestID })           // in another's name
	report(nil, captured.GuestID, "FAILED", none)                                                                 // not signed
	report(victim.key, captured.GuestID, "FAILED", none)                                                          // by another's key
	report(captured.key, captured.GuestID, "FAILED", func(m *rpc.Envelope) { m.Method = "nudge" })                // not a guest's method
	report(captured.key, captured.GuestID, "FAILED", func(m *rpc.Envelope) { m.Args = []byte(`["no","sense"]`) }) // not understood
	report(captured.key, captured.GuestID, "HEALTHY", none)                                                       // its own business
	report(captured.key, captured.GuestID, "FAILED", func(m *rpc.Envelope) { m.Sequence = 9 })                    // said before
	report(captured.key, captured.GuestID, "FAILED", func(m *rpc.Envelope) { m.BootID = dbaas.BootID(0, "earlier") })
	if err := tr.Cast(t.Context(), &rpc.Envelope{Topic: rpc.TopicTaskmanager, Method: "nudge"}); dbaas.ErrorCode(err) != dbaas.Forbidden {
		t.Errorf("a guest's word to the taskmanager gave %v", err)
	}
	// all that was said above has been dealt with when what is said last was
	report(captured.key, captured.GuestID, "SHUTDOWN", func(m *rpc.Envelope) { m.Sequence = 11 })
	testbed.Eventually(t, time.Minute, func() error {
		g, err := h.store.Guest(t.Context(), captured.GuestID)
		if err == nil && g.Status != "SHUTDOWN" {
			err = fmt.Errorf("the captured guest is %s", g.Status)
		}
		return err
	})
	testbed.Eventually(t, time.Minute, func() error { // those handled beside the last one, too
		u, err := url.Parse(h.broker.ManagementURL + "/api/queues/%2F/grove.reports?columns=messages")
		if err != nil {
			return err
		}
		var q struct{ Messages int }
		if err := getJSON(u.String(), &q); err != nil || q.Messages > 0 {
			return fmt.Errorf("%d reports wait, %w", q.Messages, err)
		}
		return nil
	})
	if after := h.rowsOf(t, victim.GuestID); after != victimBefore {
		t.Errorf("the other guest was\n%s\nand is\n%s", victimBefore, after)
	}
	g, err := h.store.Guest(t.Context(), captured.GuestID)
	must(t, err)
	if g.Status != "SHUTDOWN" || g.Sequence != 11 {
		t.Errorf("the captured guest is %s at %d", g.Status, g.Sequence)
	}

	// its login opens nothing else
	management, err := url.Parse(h.broker.ManagementURL)
	must(t, err)
	management.User = url.UserPassword(captured.GuestID, captured.Password)
	for _, path := range []string{"/api/whoami", "/api/overview", "/api/users", "/api/queues", "/api/connections", "/api/definitions", "/api/queues/%2F/grove.reports"} {
		if err := getJSON(management.String()+path, nil); err == nil {
			t.Errorf("the management API gives a guest %s", path)
		}
	}
	h.broker.MakeVhost(t, "other")
	elsewhere, err := amqp.Dial(context.Background(), amqp.Config{URL: h.guestURL(t, captured.Account) + "other", Role: amqp.RoleGuest, GuestID: captured.GuestID, Queue: captured.Queue})
	must(t, err)
	defer elsewhere.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if elsewhere.Cast(ctx, &rpc.Envelope{Topic: rpc.TopicReports, Method: guest.MethodReport}) == nil {
			t.Fatal("a guest reports in another vhost")
		}
	}
}

// TestKeyIsRenewed: a guest that was rebuilt by another taskmanager signs with another key. It is believed, at once; what the
// key signs that it had is not, whoever sends it.
func TestKeyIsRenewed(t *testing.T) {
	h := openBrokerHouse(t)
	g := h.addGuests(t, 1)[0]
	must(t, h.manager.RestoreAccounts(t.Context()))
	tr, err := amqp.Dial(context.Background(), amqp.Config{URL: h.guestURL(t, g.Account), Role: amqp.RoleGuest, GuestID: g.GuestID, Queue: g.Queue})
	must(t, err)
	defer tr.Close()
	sequence := int64(0)
	report := func(key []byte, status dbaas.GuestStatus) {
		t.Helper()
		m, err := rpc.NewEnvelope(rpc.TopicReports, guest.MethodReport, guest.StatusReport{GuestID: g.GuestID, Status: datastore.Status{Status: status}})
		must(t, err)
		sequence++
		m.Sender, m.BootID, m.Sequence = g.GuestID, dbaas.BootID(1, "boot"), sequence
		must(t, rpc.Sign(key, m))
		testbed.Eventually(t, time.Minute, func() error { return tr.Cast(t.Context(), m) })
	}
	await := func(status dbaas.GuestStatus) {
		t.Helper()
		testbed.Eventually(t, time.Minute, func() error {
			row, err := h.store.Guest(t.Context(), g.GuestID)
			if err == nil && row.Status != status {
				err = fmt.Errorf("the guest is %s, not %s", row.Status, status)
			}
			return err
		})
	}
	report(g.key, dbaas.GuestHealthy)
	await(dbaas.GuestHealthy) // this taskmanager knows the key now
	next := control.NewRPCKey()
	must(t, h.store.Tx(t.Context(), func(tx *store.Tx) error {
		_, err := tx.PutSecret(g.GuestID, control.SecretRPCKey, next)
		return err
	}))
	testbed.Eventually(t, time.Minute, func() error { // one may come in the second in which nobody asks again
		report(next, dbaas.GuestBlocked)
		row, err := h.store.Guest(t.Context(), g.GuestID)
		if err == nil && row.Status != dbaas.GuestBlocked {
			err = fmt.Errorf("the guest is %s", row.Status)
		}
		return err
	})
	report(g.key, dbaas.GuestFailed)
	for range 8 { // as many are dealt with side by side
		report(next, dbaas.GuestHealthy)
	}
	await(dbaas.GuestHealthy)
	row, err := h.store.Guest(t.Context(), g.GuestID)
	must(t, err)
	var told int
	h.sql(t, "SELECT COUNT(*) FROM guests WHERE status = 'FAILED'", &told)
	if told != 0 || row.Status != dbaas.GuestHealthy {
		t.Errorf("what the old key signed is believed: %s", row.Status)
	}
}

// rowsOf is all that the database says of a guest.
func (h *brokerHouse) rowsOf(t *testing.T, guestID string) string {
	t.Helper()
	g, err := h.store.Guest(t.Context(), guestID)
	must(t, err)
	var beats int
	h.sql(t, "SELECT COUNT(*) FROM heartbeats WHERE guest_id = '"+guestID+"'", &beats)
	return fmt.Sprintf("%+v %d", *g, beats)
}

// getJSON reads from the management API; result may be nil.
func getJSON(rawURL string, result any) error {
	resp, err := http.Get(rawURL)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if result == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(result)
}
