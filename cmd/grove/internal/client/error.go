package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Error is a refusal by the server.
type Error struct {
	Request    string // "POST /instances"
	Status     int
	Fault      string // "itemNotFound"; "" when the answer had another shape
	Message    string
	RequestID  string
	RetryAfter time.Duration // 0 when the server named none
	Operations []string      // that the answer names: what was accepted and then failed
}

// Error gives the server's sentence, its code and the request id that its operator needs to find the cause.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s (HTTP %d", strings.TrimRight(e.Message, " ."), e.Status)
	if e.RequestID != "" {
		s += ", request " + e.RequestID
	}
	return s + ")"
}

// UnreachableError says that no answer came.
type UnreachableError struct {
	Endpoint string
	Sent     bool // the request may have reached the server
	Timeout  bool // the server took it and said nothing
	cause    error
}

// Error says what failed.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no answer from %s: %v", e.Endpoint, e.cause)
}

// Unwrap gives the cause.
func (e *UnreachableError) Unwrap() error { return e.cause }

// InterruptedError says that a change was given up before its answer: it may have been accepted.
type InterruptedError struct{ Request string }

// Error says so.
func (e *InterruptedError) Error() string { return e.Request + " was interrupted before its answer" }

// Unwrap gives context.Canceled.
func (e *InterruptedError) Unwrap() error { return context.Canceled }

// IsNotFound tells whether the server knows no such thing.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// unreachable makes the error of a request without an answer; a context that the caller ended stays what it is.
func unreachable(ctx context.Context, r request, base *url.URL, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		if r.method != http.MethodGet && !isDialing(err) {
			return &InterruptedError{Request: r.method + " /" + strings.Join(r.path, "/")}
		}
		return context.Canceled
	}
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err
	}
	timeout := errors.Is(err, context.DeadlineExceeded)
	if timeout {
		err = errors.New("the request timed out")
	}
	return &UnreachableError{Endpoint: base.String(), Sent: !isDialing(err), Timeout: timeout, cause: err}
}

// isDialing tells whether the connection was never made, so that the server saw nothing.
func isDialing(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &dns) || errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &op) && op.Op == "dial"
}

func newError(r request, res *http.Response, body []byte) error {
	e := &Error{Request: r.method + " /" + strings.Join(r.path, "/"), Status: res.StatusCode, RequestID: requestID(res.Header), Operations: operations(res.Header)}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	if location := res.Header.Get("Location"); res.StatusCode < 400 && location != "" {
		e.Message = fmt.Sprintf("the server sends us on to %s: set the endpoint there", location)
		return e
	}
	e.Fault, e.Message = parseFault(body)
	if e.Message == "" {
		e.Message = fmt.Sprintf("%s was refused without a reason: %s", e.Request, res.Status)
	}
	return e
}

// parseFault reads {"itemNotFound": {"code": 404, "message": "..."}} and the flat {"message": "..."}.
func parseFault(body []byte) (fault, message string) {
	var flat struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &flat) == nil && flat.Message != "" {
		return "", flat.Message
	}
	var keyed map[string]struct {
		Message string `json:"message"`
		Details string `json:"details"`
	}
	if json.Unmarshal(body, &keyed) != nil {
		return "", ""
	}
	for name, f := range keyed {
		if f.Details != "" {
			f.Message += " " + f.Details
		}
		return name, f.Message
	}
	return "", ""
}
