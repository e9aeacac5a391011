package store

import (
	"fmt"
	"testing"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// TestLateReportOfAnUnknownBoot: reports that waited while nobody received them may arrive in any order. One of an earlier
// start does not pass for a new one, though nothing was heard of that start before, and shuts nobody out.
func TestLateReportOfAnUnknownBoot(t *testing.T) { onBoth(t, testLateReportOfAnUnknownBoot) }

func testLateReportOfAnUnknownBoot(t *testing.T, s *Store) {
	seedVersion(t, s)
	i := newInstance(t, s)
	status := func() dbaas.GuestStatus {
		v, err := s.InstanceView(t.Context(), i.ID)
		if err != nil {
			t.Fatal(err)
		}
		return v.Guests[0].Status
	}
	v, err := s.InstanceView(t.Context(), i.ID)
	if err != nil {
		t.Fatal(err)
	}
	for n, step := range []struct {
		boot, sequence int64
		key            string
		says, want     dbaas.GuestStatus
	}{
		{8, 5, "key", dbaas.GuestHealthy, dbaas.GuestHealthy},
		{10, 1, "key", dbaas.GuestBlocked, dbaas.GuestBlocked},
		{9, 7, "key", dbaas.GuestShutdown, dbaas.GuestBlocked}, // never heard of, and late
		{10, 2, "key", dbaas.GuestHealthy, dbaas.GuestHealthy},
		{1, 1, "another key", dbaas.GuestBuilding, dbaas.GuestBuilding}, // the disk is new, and counts anew
		{1, 2, "another key", dbaas.GuestHealthy, dbaas.GuestHealthy},
	} {
		_, err := s.RecordReport(t.Context(), ReportRow{GuestID: v.Guests[0].ID, BootID: dbaas.BootID(step.boot, fmt.Sprint("boot-", step.boot)),
			Sequence: step.sequence, Status: step.says, PublicKey: []byte(step.key)})
		if got := status(); err != nil || got != step.want {
			t.Errorf("after report %d of boot %d the guest is %s, want %s; %v", n, step.boot, got, step.want, err)
		}
	}
}

// TestNewAgentIsHeard: the agent of a new root disk counts its boots from the start; its reports count, be its key taken from
// the first of them or before.
func TestNewAgentIsHeard(t *testing.T) { onBoth(t, testNewAgentIsHeard) }

func testNewAgentIsHeard(t *testing.T, s *Store) {
	seedVersion(t, s)
	i := newInstance(t, s)
	guest := func() dbaas.Guest { t.Helper(); return guestOf(t, s, i.ID) }
	id := guest().ID
	report := func(boot, key string, says, want dbaas.GuestStatus) {
		t.Helper()
		_, err := s.RecordReport(t.Context(), ReportRow{GuestID: id, BootID: boot, Sequence: 7, Status: says, PublicKey: []byte(key)})
		if got := guest().Status; err != nil || got != want {
			t.Errorf("after boot %s said %s the guest is %s, want %s; %v", boot, says, got, want, err)
		}
	}
	report(dbaas.BootID(3, "old"), "old key", dbaas.GuestHealthy, dbaas.GuestHealthy)
	for range 2 { // a step may run twice
		do(t, s, func(tx *Tx) error {
			guests, err := tx.Guests(i.ID)
			if err != nil {
				return err
			}
			if err := tx.MeetAgent(&guests[0], []byte("new key")); err != nil {
				return err
			}
			return tx.UpdateGuest(&guests[0])
		})
	}
	if g := guest(); string(g.PublicKey) != "new key" {
		t.Errorf("the key is %q", g.PublicKey)
	}
	report(dbaas.BootID(3, "old"), "old key", dbaas.GuestCrashed, dbaas.GuestHealthy) // late
	report(dbaas.BootID(1, "new"), "new key", dbaas.GuestBuilding, dbaas.GuestBuilding)
	report(dbaas.BootID(2, "new"), "new key", dbaas.GuestShutdown, dbaas.GuestShutdown)
	report(dbaas.BootID(1, "new"), "new key", dbaas.GuestHealthy, dbaas.GuestShutdown) // late
}
