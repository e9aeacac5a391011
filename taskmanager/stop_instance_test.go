package taskmanager_test

import (
	"context"
	"testing"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// stopTrial stops an instance. The trial of start, which comes after it, leaves the instance running for the others.
func stopTrial() trial {
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			h.haveStopped(t, in, false)
			return mustID(t)(h.control.StopInstance(ctx, tester, in))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if !v.Stopped || v.Status() != dbaas.StatusActive || v.Guests[0].Status != dbaas.GuestShutdown {
				t.Errorf("a stopped instance is %s, its guest %s (stopped: %t)", v.Status(), v.Guests[0].Status, v.Stopped)
			}
		},
	}
}

func startTrial() trial {
	return trial{
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			h.haveStopped(t, in, true)
			return mustID(t)(h.control.StartInstance(ctx, tester, in))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.Stopped {
				t.Error("the instance was started and is said to be stopped")
			}
			h.requireServing(t, v)
		},
		failed: func(t *testing.T, h *house, v *dbaas.InstanceView) { // it may not have been started yet: a restart does it
			h.requireServing(t, h.succeed(t, func() (string, error) { return h.control.RestartInstance(t.Context(), tester, v.ID) }))
		},
	}
}

// haveStopped brings an instance to where a trial begins.
func (h *house) haveStopped(t *testing.T, in string, stopped bool) {
	t.Helper()
	v, err := h.control.Instance(t.Context(), tester, in)
	must(t, err)
	switch {
	case v.Stopped == stopped:
		return
	case stopped:
		h.awaitEnd(t, mustID(t)(h.control.StopInstance(t.Context(), tester, in)))
	default:
		h.awaitEnd(t, mustID(t)(h.control.StartInstance(t.Context(), tester, in)))
	}
	h.effects.reset()
}

// TestStoppedStaysStopped: neither the death of everything nor another change starts a stopped database; what is refused
// says why; start and restart bring it back with its data.
func TestStoppedStaysStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := openHouse(t, "", dir)
	in := h.createActive(t)
	stop := h.run(t, nil)
	v, err := h.control.Instance(t.Context(), tester, in)
	must(t, err)
	h.requireServing(t, v)
	h.haveStopped(t, in, true)
	_, err = h.control.StopInstance(t.Context(), tester, in)
	if dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("a stop of what is stopped ends with %v", err)
	}
	stop()
	h.close(t, false)

	h = openHouse(t, h.url, dir)
	stop = h.run(t, nil)
	defer stop()
	h.effects.reset()
	for what, change := range map[string]func() (string, error){
		"volume": func() (string, error) { return h.control.ResizeVolume(t.Context(), tester, in, 2) },
		"flavor": func() (string, error) { return h.control.ResizeFlavor(t.Context(), tester, in, "2") },
		"password": func() (string, error) {
			root, err := h.control.EnableRoot(t.Context(), tester, in, "")
			if err != nil {
				return "", err
			}
			return root.OperationID, nil
		},
	} {
		if op := h.awaitEnd(t, mustID(t)(change())); op.Status != dbaas.OperationSucceeded {
			t.Errorf("%s of a stopped instance: %s %+v", what, op.Status, op.Failure)
		}
		v, err := h.control.Instance(t.Context(), tester, in)
		must(t, err)
		if !v.Stopped || v.Guests[0].Status != dbaas.GuestShutdown {
			t.Errorf("after a change of %s the guest is %s (stopped: %t)", what, v.Guests[0].Status, v.Stopped)
		}
	}
	for _, effect := range h.effects.list() {
		if effect == "database started" {
			t.Error("a stopped database was started")
		}
	}
	h.awaitEnd(t, mustID(t)(h.control.RestartInstance(t.Context(), tester, in)))
	v, err = h.control.Instance(t.Context(), tester, in)
	must(t, err)
	if v.Stopped || v.Guests[0].Status != dbaas.GuestHealthy {
		t.Errorf("after a restart the guest is %s (stopped: %t)", v.Guests[0].Status, v.Stopped)
	}
	h.requireServing(t, v)
	_, err = h.control.StartInstance(t.Context(), tester, in)
	if dbaas.ErrorCode(err) != dbaas.BadRequest {
		t.Errorf("a start of what runs ends with %v", err)
	}
}
