package dbaas

import (
	"errors"
	"fmt"
)

// Code classifies an error for whoever receives it. The values are the fault names of the Trove API (api.md 1.10), so
// that one word serves the code, the wire and the logs.
type Code string

// The closed set of codes.
const (
	BadRequest       Code = "badRequest"
	Unauthorized     Code = "unauthorized"
	Forbidden        Code = "forbidden"
	NotFound         Code = "itemNotFound"
	NotAcceptable    Code = "notAcceptable"
	Conflict         Code = "conflict"
	OverLimit        Code = "overLimit"
	UnsupportedMedia Code = "badMediaType"
	Unprocessable    Code = "unprocessableEntity"
	NotImplemented   Code = "notImplemented"
	Unavailable      Code = "serviceUnavailable"
	Internal         Code = "instanceFault"
)

// Error is an error with a code and a message that its receiver may read. The cause stays with the operator: it is in
// the log and in Unwrap, never in Message. Errors cross RPC as code and message.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	cause   error
}

// Error gives the message, followed by the cause when there is one; for logs, not for users.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.Message
	}
	return e.Message + ": " + e.cause.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.cause }

// Errorf makes an error with a code and a message for the user.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WrapError is Errorf with a cause that only operators see.
func WrapError(cause error, code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), cause: cause}
}

// ErrorCode gives the code of the first [Error] in err's chain, Internal when there is none, "" for nil.
func ErrorCode(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// ErrorMessage gives the sentence that a user may read: the message of the first [Error] in the chain, else a fixed one.
func ErrorMessage(err error) string {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "An internal error occurred; the operator's log has the details."
}
