package dbaas

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestErrorChains: the first Error in a chain speaks; its cause is for logs and never for users.
func TestErrorChains(t *testing.T) {
	cause := errors.New("disk sda is on fire")
	inner := WrapError(cause, NotFound, "No %s here.", "volume")
	const unknown = "An internal error occurred; the operator's log has the details."
	for _, c := range []struct {
		name    string
		err     error
		code    Code
		message string
	}{
		{"nil", nil, "", ""},
		{"plain", cause, Internal, unknown},
		{"own", Errorf(BadRequest, "Not %d.", 7), BadRequest, "Not 7."},
		{"with a cause", inner, NotFound, "No volume here."},
		{"wrapped", fmt.Errorf("attach: %w", inner), NotFound, "No volume here."},
		{"joined", errors.Join(cause, inner), NotFound, "No volume here."},
		{"the outer one speaks", WrapError(inner, Unavailable, "Later."), Unavailable, "Later."},
	} {
		if got := ErrorCode(c.err); got != c.code {
			t.Errorf("%s: code %q, want %q", c.name, got, c.code)
		}
		if got := ErrorMessage(c.err); got != c.message {
			t.Errorf("%s: message %q, want %q", c.name, got, c.message)
		}
		if strings.Contains(ErrorMessage(c.err), "sda") {
			t.Errorf("%s: the user reads the cause", c.name)
		}
	}
	if !errors.Is(inner, cause) || inner.Error() != "No volume here.: disk sda is on fire" {
		t.Errorf("operators read %q", inner)
	}
}

// TestErrorsCrossWithoutTheirCause: code and message are all that leaves a process.
func TestErrorsCrossWithoutTheirCause(t *testing.T) {
	raw, err := json.Marshal(WrapError(errors.New("password is hunter2"), Conflict, "Busy."))
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != `{"code":"conflict","message":"Busy."}` {
		t.Errorf("it crosses as %s", raw)
	}
	var back Error
	if err := json.Unmarshal(raw, &back); err != nil || back.Code != Conflict || back.Error() != "Busy." || back.Unwrap() != nil {
		t.Errorf("it comes back as %+v, %v", back, err)
	}
}
