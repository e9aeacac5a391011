package e2e

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

// TestRollingRestart stops every process of every role in order and starts it again while instances are created and deleted:
// nothing is lost, nobody is answered with an error, and databases notice nothing (R27).
func TestRollingRestart(t *testing.T) {
	f := openFleet(t, fleetLease, localFleet())
	stays, err := f.create("stays", nil, true)
	if err != nil {
		t.Fatal(err)
	}
	client := (&instance{h: f.caller(0), id: stays.id, password: stays.password}).redis()
	process := client.InfoMap(t.Context(), "server").Item("Server", "run_id")
	done := make(chan struct{})
	var work sync.WaitGroup
	failures := make([]error, 4)
	counts := make([]int, len(failures))
	for i := range failures {
		work.Go(func() {
			for failures[i] == nil {
				select {
				case <-done:
					return
				default:
				}
				var w wish
				w, failures[i] = f.create(fmt.Sprintf("rolling-%d-%d", i, counts[i]), nil, false)
				if failures[i] == nil && w.status != "ACTIVE" {
					failures[i] = fmt.Errorf("%s ended %s: %s", w.name, w.status, w.fault)
				}
				counts[i]++
			}
		})
	}
	for range 2 {
		for i := range f.apis {
			for _, h := range []*house{f.managers[i], f.apis[i]} {
				h.stop()
				h.start()
				f.publish()
			}
		}
	}
	close(done)
	work.Wait()
	if err := errors.Join(failures...); err != nil {
		t.Error(err)
	}
	if n := f.refused.Load(); n > 0 {
		t.Errorf("%d requests were answered with 500 or above", n)
	}
	if again := client.InfoMap(t.Context(), "server").Item("Server", "run_id"); again != process {
		t.Errorf("the database was restarted: %s became %s", process, again)
	}
	t.Logf("%v creates and deletes meanwhile", counts)
	f.audit([]wish{stays})
	if err := f.remove(stays.id); err != nil {
		t.Error(err)
	}
	f.audit(nil)
}
