package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/gorilla/mux"

	"github.com/grove-dbaas/grove/internal/control"
)

// request is what a handler sees of a request.
type request struct {
	*http.Request
	caller   control.Caller
	body     []byte   // of routes that read one
	warnings []string // for the Warning header
}

// param gives a variable of the path. The router works on the escaped path, so that an escaped slash stays inside its
// segment.
func (r *request) param(name string) string {
	raw := mux.Vars(r.Request)[name]
	value, err := url.PathUnescape(raw)
	if err != nil {
		return raw
	}
	return value
}

// exchange is what the parts of the chain tell each other about a request.
type exchange struct {
	route  string // template of the path
	caller control.Caller
}

type exchangeKey struct{}

func withExchange(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

func exchangeOf(r *http.Request) *exchange {
	x, _ := r.Context().Value(exchangeKey{}).(*exchange)
	if x == nil {
		x = &exchange{}
	}
	return x
}

// plain is an endpoint without a body.
func plain(rule string, h handler) endpoint {
	return endpoint{rule: rule, handle: h, built: true}
}

// withBody is an endpoint that needs a JSON body of type T. Its rule is asked after the body was understood, as
// Trove's is.
func withBody[T any](s *Server, rule string, h func(r *request, body *T) (*answer, error)) endpoint {
	e := withOptionalBody(s, rule, h)
	inner := e.handle
	e.handle = func(r *request) (*answer, error) {
		if len(r.body) == 0 {
			return nil, badRequest("This request needs a JSON body.")
		}
		return inner(r)
	}
	return e
}

// withOptionalBody is an endpoint whose body of type T may be missing.
func withOptionalBody[T any](s *Server, rule string, h func(r *request, body *T) (*answer, error)) endpoint {
	return endpoint{
		rule: rule, body: true, built: true,
		decode: func(body []byte) error {
			_, err := decodeBody(body, new(T))
			return err
		},
		handle: func(r *request) (*answer, error) {
			body := new(T)
			if len(r.body) > 0 {
				warnings, err := decodeBody(r.body, body)
				if err != nil {
					return nil, err
				}
				r.warnings = warnings
			}
			if rule != "" {
				if err := s.require(r, rule); err != nil {
					return nil, err
				}
			}
			return h(r, body)
		},
	}
}

// serve makes an endpoint an http.Handler.
func (s *Server) serve(template string, e endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		x := exchangeOf(hr)
		x.route = template
		r := &request{Request: hr, caller: x.caller}
		s.write(w, hr, s.answer(r, e))
	})
}

// answer runs an endpoint, once only where the request carries an idempotency key.
func (s *Server) answer(r *request, e endpoint) reply {
	if e.body {
		body, err := readBody(r.Request)
		if err != nil {
			return s.render(r, nil, err)
		}
		r.body = body
	}
	if err := askDryRun(r); err != nil {
		return s.render(r, nil, err)
	}
	if r.Method == http.MethodPost && e.built {
		if key := r.Header.Get(idempotencyHeader); key != "" {
			return s.once(r, e, key)
		}
	}
	return s.run(r, e)
}

// run asks the policy, where the endpoint says so, and calls the handler.
func (s *Server) run(r *request, e endpoint) reply {
	if e.rule != "" && !e.body {
		if err := s.require(r, e.rule); err != nil {
			return s.render(r, nil, err)
		}
	}
	a, err := e.handle(r)
	if errors.Is(err, control.ErrDryRun) {
		a, err = ok(renderPlan(r.caller.DryRun))
	}
	return s.render(r, a, err)
}
