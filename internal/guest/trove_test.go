package guest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// TestTroveNames: each name answers, and does what our own method does.
func TestTroveNames(t *testing.T) {
	key := newKey()
	api := &agent{}
	s := &server{key: key, api: api, clock: clock.Real{}}
	master := &datastore.Endpoint{GuestID: "g0", Address: "10.0.0.1", Port: 6379}
	request := func(master *datastore.Endpoint, sealed Sealed) ConfigureRequest {
		return ConfigureRequest{Fence: Fence{CommandID: "c"}, Desired: datastore.Desired{Version: "7.0", Master: master}, Sealed: sealed}
	}
	password := Sealed{datastore.SecretPassword: []byte("sealed")}
	sequence := int64(0)
	call := func(method string, args any) (json.RawMessage, error) {
		t.Helper()
		m, err := rpc.NewEnvelope("guest.q1", method, args)
		if err != nil {
			t.Fatal(err)
		}
		sequence++
		m.Sender, m.BootID, m.Sequence, m.Deadline = "node", "boot", sequence, dbaas.At(time.Now().Add(time.Minute))
		if err := rpc.Sign(key, m); err != nil {
			t.Fatal(err)
		}
		result, err := s.handle(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		var raw json.RawMessage
		return raw, result.(*answer).open(key, m, &raw)
	}
	for _, c := range []struct {
		name  string
		args  any
		asked any // of our own API
		code  dbaas.Code
		says  string
	}{
		{MethodRestart, Fence{CommandID: "c"}, Fence{CommandID: "c"}, "", ""},
		{MethodStop, StopRequest{Fence: Fence{CommandID: "c"}}, StopRequest{Fence: Fence{CommandID: "c"}}, "", ""},
		{TroveConfigurationManager, request(master, nil), request(master, nil), "", ""},
		{TroveUpdateOverrides, request(nil, nil), request(nil, nil), "", ""},
		{TroveEnableAsMaster, request(master, nil), request(nil, nil), "", ""},
		{TroveDetachReplica, request(master, nil), request(nil, nil), "", ""},
		{TroveAttachReplica, request(master, nil), request(master, nil), "", ""},
		{TroveAttachReplica, request(nil, nil), nil, dbaas.BadRequest, "master"},
		{TroveEnableRoot, request(nil, password), request(nil, password), "", ""},
		{TroveEnableRoot, request(nil, nil), nil, dbaas.BadRequest, "password"},
		{TroveDisableRoot, request(nil, password), request(nil, password), "", ""},
		{TroveDisableRoot, request(nil, nil), nil, dbaas.BadRequest, "password"},
		{TroveUpdateOverrides, "nonsense", nil, dbaas.BadRequest, "not understood"},
		{TroveGetRootPassword, nil, nil, dbaas.Forbidden, "credentials"},
		{TroveCreateBackup, nil, nil, dbaas.NotImplemented, "backups"},
	} {
		before := api.calls()
		_, err := call(c.name, c.args)
		if dbaas.ErrorCode(err) != c.code || err != nil && !strings.Contains(dbaas.ErrorMessage(err), c.says) {
			t.Errorf("%s gave %v", c.name, err)
		}
		if c.asked == nil {
			if api.calls() != before {
				t.Errorf("%s did something", c.name)
			}
			continue
		}
		if api.calls() != before+1 || jsonOf(t, api.last()) != jsonOf(t, c.asked) {
			t.Errorf("%s asked %s; want %s", c.name, jsonOf(t, api.last()), jsonOf(t, c.asked))
		}
	}
}
