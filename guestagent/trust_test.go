package guestagent

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
)

func authority(t *testing.T, from time.Time) string {
	t.Helper()
	a, err := secret.NewBrokerAuthority(from)
	if err != nil {
		t.Fatal(err)
	}
	return a.Certificate()
}

// What the agent knows the broker by outlives it, gives way to what is better alone, and to what a rebuilt server comes with.
func TestBrokerTrust(t *testing.T) {
	dir, began := t.TempDir(), time.Now()
	old, next, stranger := authority(t, began.Add(-time.Hour)), authority(t, began), authority(t, began.Add(time.Hour))
	unknown := errors.New("unknown authority")
	tried := func(_ context.Context, ca []byte) error {
		if string(ca) == stranger {
			return unknown
		}
		return nil
	}
	trust := OpenBrokerTrust(dir, old, tried)
	known := func(wanted string) {
		t.Helper()
		for _, one := range []*BrokerTrust{trust, OpenBrokerTrust(dir, old, tried)} {
			if text, err := one.Certificates(); err != nil || string(text) != wanted {
				t.Errorf("it knows the broker by %.60q, %v", text, err)
			}
		}
	}
	known(old)
	if err := trust.replace(t.Context(), []byte(stranger)); dbaas.ErrorCode(err) != dbaas.Conflict || !errors.Is(err, unknown) {
		t.Errorf("an authority that does not know the broker gave %v", err)
	}
	if err := trust.replace(t.Context(), []byte("nothing")); dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("no certificate gave %v", err)
	}
	known(old)
	before := trust.names()
	if err := trust.replace(t.Context(), []byte(old+next)); err != nil {
		t.Fatal(err)
	}
	known(old + next)
	if now := trust.names(); len(now) != 2 || !slices.Contains(now, before[0]) {
		t.Errorf("%v became %v", before, now)
	}
	if err := trust.replace(t.Context(), []byte(old)); dbaas.ErrorCode(err) != dbaas.Conflict { // of a process that has an older file
		t.Errorf("the older ones gave %v", err)
	}
	known(old + next)
	if err := trust.replace(t.Context(), []byte(next)); err != nil {
		t.Fatal(err)
	}
	known(next)
	if text, _ := OpenBrokerTrust(dir, old+next, tried).Certificates(); string(text) != old+next {
		t.Error("a rebuilt server does not go by what it came with")
	}
	if names := (*BrokerTrust)(nil).names(); names != nil {
		t.Errorf("an agent that goes by its system reports %v", names)
	}
}
