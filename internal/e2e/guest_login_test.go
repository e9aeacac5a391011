package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/guest"
	"github.com/grove-dbaas/grove/internal/rpc/amqp"
)

// bootstrapOf reads what the only server's agent was given.
func (h *house) bootstrapOf() (b guest.Bootstrap) {
	h.t.Helper()
	err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "bootstrap.json" {
			return nil // what has gone meanwhile
		}
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &b)
		}
		return err
	})
	if err != nil || b.RPCURL == "" {
		h.t.Fatalf("the server's bootstrap is not found: %v", err)
	}
	return b
}

// loginOf connects as somebody who has taken a guest's login, and tells when the broker ends that.
func (h *house) loginOf(b guest.Bootstrap) chan *amqp091.Error {
	h.t.Helper()
	conn, err := amqp091.Dial(b.RPCURL)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	return conn.NotifyClose(make(chan *amqp091.Error, 1))
}

// requireRevoked requires that a connection ends and that its login opens no other.
func (h *house) requireRevoked(what string, ended chan *amqp091.Error, b guest.Bootstrap) {
	h.t.Helper()
	began := time.Now()
	select {
	case <-ended:
		h.t.Logf("%s: cut off after %s", what, time.Since(began).Round(time.Millisecond))
	case <-time.After(time.Minute):
		h.t.Fatalf("%s: the connection goes on", what)
	}
	conn, err := amqp091.Dial(b.RPCURL)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, amqp091.ErrCredentials) {
		h.t.Errorf("%s: the old login gives %v", what, err)
	}
}

// requireKeyRefused reports that the guest has failed, with its login and under a key that it had once: nobody believes it, as
// the next report with its own key shows, which comes after.
func (in *instance) requireKeyRefused(b guest.Bootstrap, key []byte) {
	t := in.h.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tr, err := amqp.Dial(ctx, amqp.Config{URL: b.RPCURL, Role: amqp.RoleGuest, GuestID: b.GuestID, Queue: b.Queue})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	before := in.h.metric(`grove_guest_reports_total{outcome="refused"}`)
	eventually(t, time.Minute, func() error {
		return guest.NewReporter(tr, b.GuestID, key, 1000).Report(ctx, guest.StatusReport{Status: datastore.Status{Status: dbaas.GuestFailed}})
	})
	eventually(t, time.Minute, func() error {
		if now := in.h.metric(`grove_guest_reports_total{outcome="refused"}`); now <= before {
			return fmt.Errorf("nothing was refused: %v", now)
		}
		return nil
	})
	in.await("ACTIVE", "HEALTHY")
}

// TestGuestLoginIsRevoked: what was taken from a guest is worth nothing once it has been rebuilt, nor once it was deleted; who
// holds a connection is cut off (R13).
func TestGuestLoginIsRevoked(t *testing.T) {
	h, _ := openWithBroker(t)
	in := h.createActive("cache1")
	in.set("greeting", "hello")
	first := h.bootstrapOf()
	taken := h.loginOf(first)
	in.action(object{"rebuild": object{}})
	h.requireRevoked("rebuilt", taken, first)
	in.await("ACTIVE", "HEALTHY")
	in.requireValue("greeting", "hello")
	second := h.bootstrapOf()
	if second.RPCURL == first.RPCURL {
		t.Error("the rebuilt guest has the login that it had")
	}
	if bytes.Equal(second.RPCKey, first.RPCKey) {
		t.Error("the rebuilt guest has the key that it had")
	}
	in.requireKeyRefused(second, first.RPCKey)
	taken = h.loginOf(second)
	h.do(202, "DELETE", "/instances/"+in.id, nil)
	h.requireRevoked("deleted", taken, second)
	in.awaitGone()
}

// TestBrokerWipedUnderAgents deletes all that the broker knows below real agents: nobody has to do anything.
func TestBrokerWipedUnderAgents(t *testing.T) {
	h, broker := openWithBroker(t)
	in := h.createActive("cache1")
	in.set("greeting", "hello")
	broker.Wipe(t)
	eventually(t, 2*time.Minute, func() error { // its agent obeys again
		a, err := h.try("POST", "/instances/"+in.id+"/action", object{"restart": object{}})
		if err != nil || a.status != 202 {
			return fmt.Errorf("restart: %v %v", a, err)
		}
		return nil
	})
	in.awaitWithin(2*time.Minute, "ACTIVE", "HEALTHY")
	in.requireValue("greeting", "hello")
}
