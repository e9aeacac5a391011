package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/telemetry"
)

// answer is what a handler has to say.
type answer struct {
	status     int
	body       any      // nil: none
	operations []string // that were accepted, for the header Grove-Operation
	secrets    []secretField
}

// secretField is a secret value in an answer's body, by which id it can be revealed again.
type secretField struct {
	value *string
	id    string
}

func ok(body any) (*answer, error) { return &answer{status: http.StatusOK, body: body}, nil }

// accepted is Trove's empty 202, naming the operations.
func accepted(operations ...string) *answer {
	return &answer{status: http.StatusAccepted, operations: operations}
}

// reply is an answer as it goes over the wire.
type reply struct {
	status     int
	body       []byte
	operation  string
	warnings   []string
	retryAfter string
	storable   []byte // the body with references in place of secrets
	secretIDs  []string
}

// render turns what a handler said into a reply.
func (s *Server) render(r *request, a *answer, err error) reply {
	var p reply
	if err == nil && a != nil {
		p = s.renderAnswer(r, a)
	} else {
		p = s.renderError(r.Context(), err)
	}
	if a != nil {
		p.operation = joinIDs(a.operations)
	}
	p.warnings = r.warnings
	return p
}

func (s *Server) renderAnswer(r *request, a *answer) reply {
	p := reply{status: a.status}
	if a.body == nil {
		return p
	}
	var err error
	if p.body, err = json.Marshal(a.body); err != nil {
		return s.renderError(r.Context(), err)
	}
	p.storable = p.body
	for _, field := range a.secrets {
		p.storable = replaceText(p.storable, *field.value, reference(field.id))
		p.secretIDs = append(p.secretIDs, field.id)
	}
	return p
}

// reference stands for a secret in a stored answer.
func reference(secretID string) string { return "grove-secret:" + secretID }

// replaceText replaces a whole JSON string by another.
func replaceText(body []byte, old, new string) []byte {
	from, _ := json.Marshal(old)
	to, _ := json.Marshal(new)
	return bytes.ReplaceAll(body, from, to)
}

func joinIDs(ids []string) string {
	return strings.Join(ids, ", ")
}

// retryError asks to come back later.
type retryError struct {
	fault   *dbaas.Error
	after   time.Duration
	details string // of a rate limit, which repeats the time in its body
}

// Error gives the fault's message.
func (e *retryError) Error() string { return e.fault.Error() }

// Unwrap gives the fault.
func (e *retryError) Unwrap() error { return e.fault }

// statusOf is the HTTP status of a code.
func statusOf(code dbaas.Code) int {
	switch code {
	case dbaas.BadRequest:
		return http.StatusBadRequest
	case dbaas.Unauthorized:
		return http.StatusUnauthorized
	case dbaas.Forbidden:
		return http.StatusForbidden
	case dbaas.NotFound:
		return http.StatusNotFound
	case dbaas.NotAcceptable:
		return http.StatusNotAcceptable
	case dbaas.Conflict:
		return http.StatusConflict
	case dbaas.OverLimit:
		return http.StatusRequestEntityTooLarge
	case dbaas.UnsupportedMedia:
		return http.StatusUnsupportedMediaType
	case dbaas.Unprocessable:
		return http.StatusUnprocessableEntity
	case dbaas.NotImplemented:
		return http.StatusNotImplemented
	case dbaas.Unavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// unavailableRetry is when to ask again after a 503.
const unavailableRetry = 5 * time.Second

// renderError gives an error Trove's shape: one object named after the fault, with code and message.
func (s *Server) renderError(ctx context.Context, err error) reply {
	code, message := dbaas.ErrorCode(err), dbaas.ErrorMessage(err)
	if code == dbaas.Internal && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		code, message = dbaas.Unavailable, "The request was not answered in time; try again."
	}
	fault := wire.Fault{Code: statusOf(code), Message: message}
	p := reply{status: fault.Code}
	var again *retryError
	switch {
	case errors.As(err, &again):
		p.retryAfter = seconds(again.after)
		if fault.Details = again.details; fault.Details != "" {
			fault.RetryAfter = p.retryAfter
		}
	case code == dbaas.Unavailable:
		p.retryAfter = seconds(unavailableRetry)
		s.Logger.WarnContext(ctx, "request not served", "error", err)
	case fault.Code == http.StatusInternalServerError:
		code = dbaas.Internal
		fault.Message = "Internal error, quote " + telemetry.RequestID(ctx) + " when reporting."
		s.Logger.ErrorContext(ctx, "request failed", "error", err)
	}
	p.body, _ = json.Marshal(map[dbaas.Code]wire.Fault{code: fault}) // strings and numbers always encode
	p.storable = p.body
	return p
}

// seconds rounds up, so that who waits that long is not too early.
func seconds(d time.Duration) string {
	return strconv.Itoa(int((d + time.Second - 1) / time.Second))
}

// write sends a reply. Every one is JSON by its header, the empty ones too.
func (s *Server) write(w http.ResponseWriter, r *http.Request, p reply) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if p.operation != "" {
		h.Set(wire.HeaderOperation, p.operation)
	}
	if p.retryAfter != "" {
		h.Set("Retry-After", p.retryAfter)
	}
	for i, warning := range p.warnings {
		if i == maxWarnings {
			break
		}
		h.Add("Warning", `299 grove "`+quoteWarning(warning)+`"`)
	}
	if p.status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(p.body)))
	}
	w.WriteHeader(p.status)
	if _, err := w.Write(p.body); err != nil && len(p.body) > 0 {
		s.Logger.DebugContext(r.Context(), "answer not sent", "error", err)
	}
}

// maxWarnings keeps a body full of nonsense from filling the header.
const maxWarnings = 10

// quoteWarning keeps a warning within a header's quoted string.
func quoteWarning(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.write(w, r, s.renderError(r.Context(), err))
}

func (s *Server) noSuchRoute(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, dbaas.Errorf(dbaas.NotFound, "There is no %s %s.", printable(r.Method), printable(r.URL.Path)))
}
