package guest

import (
	"crypto/hmac"
	"encoding/json"
	"fmt"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// answer is the result of every method: signed with the guest's key, and bound to the message that asked.
type answer struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *dbaas.Error    `json:"error,omitempty"`
	MAC    []byte          `json:"mac"`
}

// newAnswer makes the answer to m out of what a method gave.
func newAnswer(key []byte, m *rpc.Envelope, result any, err error) (*answer, error) {
	a := new(answer)
	if err != nil {
		a.Error = dbaas.Errorf(dbaas.ErrorCode(err), "%s", dbaas.ErrorMessage(err))
	} else if result != nil {
		raw, err := json.Marshal(result)
		if err != nil {
			return nil, fmt.Errorf("encode result of %s: %w", m.Method, err)
		}
		a.Result = raw
	}
	a.MAC = a.mac(key, m)
	return a, nil
}

// open gives the caller of m its result, or the error that the guest answered.
func (a *answer) open(key []byte, m *rpc.Envelope, result any) error {
	if !hmac.Equal(a.MAC, a.mac(key, m)) {
		return dbaas.Errorf(dbaas.Unauthorized, "The guest's answer to %s is not authentic.", m.Method)
	}
	if a.Error != nil {
		return a.Error
	}
	if result == nil || len(a.Result) == 0 {
		return nil
	}
	if err := json.Unmarshal(a.Result, result); err != nil {
		return fmt.Errorf("decode the guest's answer to %s: %w", m.Method, err)
	}
	return nil
}

func (a *answer) mac(key []byte, m *rpc.Envelope) []byte {
	var code, message string
	if a.Error != nil {
		code, message = string(a.Error.Code), a.Error.Message
	}
	return rpc.MAC(key, "grove answer 1", string(m.MAC), string(a.Result), code, message)
}
