// Package client speaks Grove's REST API: JSON over HTTP, with retries where a repetition is harmless. It knows
// resources and paths; it knows nothing of terminals and formats.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/grove-dbaas/grove/api/wire"
)

// Config is where and how to connect.
type Config struct {
	Endpoint  string // base URL including version and project: http://127.0.0.1:8779/v1.0/demo
	Token     string // sent as X-Auth-Token when not empty
	UserAgent string
	Timeout   time.Duration // of one request; 0 is a minute
	TLS       *tls.Config   // nil: the system's trust
	// IdempotencyKey goes with the first POST; later ones, and all when it is empty, get keys of their own.
	IdempotencyKey string
	// DryRun asks what changes would do instead of making them: they end with a *Planned.
	DryRun bool
	// Trace, when set, is told of every request and answer: methods, paths, codes; never bodies or tokens.
	Trace func(format string, args ...any)
}

// Client is a connection to one project of one Grove. It is safe for concurrent use once made.
type Client struct {
	base      *url.URL
	token     string
	userAgent string
	timeout   time.Duration
	keys      chan string // the idempotency key that the caller chose, until it is used
	dryRun    bool
	trace     func(format string, args ...any)
	http      *http.Client
}

// Limits of a request.
const (
	defaultTimeout = time.Minute
	maxAnswer      = 64 << 20
	attempts       = 5
	firstPause     = 200 * time.Millisecond
	longestPause   = 10 * time.Second
)

// New makes a Client. Nothing is sent yet.
func New(c Config) (*Client, error) {
	base, err := url.Parse(c.Endpoint)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fmt.Errorf("the endpoint %q is not an http or https URL; it should look like http://127.0.0.1:8779/v1.0/demo", c.Endpoint)
	}
	base.Path = strings.TrimRight(base.Path, "/")
	base.RawPath, base.RawQuery, base.Fragment = "", "", ""
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = c.TLS
	cl := &Client{
		base: base, token: c.Token, userAgent: c.UserAgent, timeout: c.Timeout, trace: c.Trace, dryRun: c.DryRun, keys: make(chan string, 1),
		// The API never redirects; following one would carry the token to a stranger.
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	if cl.timeout == 0 {
		cl.timeout = defaultTimeout
	}
	if cl.trace == nil {
		cl.trace = func(string, ...any) {}
	}
	if c.IdempotencyKey != "" {
		cl.keys <- c.IdempotencyKey
	}
	return cl, nil
}

// Endpoint is the base URL.
func (c *Client) Endpoint() string { return c.base.String() }

// Project is the project that the endpoint names: its last path segment.
func (c *Client) Project() string { return c.base.Path[strings.LastIndex(c.base.Path, "/")+1:] }

// Reply is what an answer says beside its body.
type Reply struct {
	Status     int
	Operations []string // ids of the accepted operations
	Warnings   []string // about keys that the server ignored
}

// Planned is how a change ends that was only asked about. It is not a failure.
type Planned struct {
	wire.DryRun
}

// Error says that nothing was done.
func (*Planned) Error() string { return "nothing was changed: this was a dry run" }

// request is one call; in and out are the bodies, nil for none.
type request struct {
	method string
	path   []string // segments below the base, unescaped
	query  url.Values
	in     any
	out    any
}

func (r request) String() string {
	s := r.method + " /" + strings.Join(r.path, "/")
	if len(r.query) > 0 {
		s += "?" + r.query.Encode()
	}
	return s
}

// call sends a request, again where that is safe: a GET when the server asks for patience or the connection broke; a
// POST, under its idempotency key, when the connection broke after it was sent, and then as long as the first is at work.
func (c *Client) call(ctx context.Context, r request) (*Reply, error) {
	body, err := encode(r.in)
	if err != nil {
		return nil, err
	}
	if c.dryRun && r.method != http.MethodGet {
		return nil, c.ask(ctx, r, body)
	}
	key := c.idempotencyKey(r.method)
	pause := firstPause
	sent := false
	for attempt := 1; ; attempt++ {
		reply, err := c.send(ctx, r, body, key)
		again, wait := retryable(r.method, err, sent)
		if err == nil || !again || attempt == attempts || ctx.Err() != nil {
			return reply, err
		}
		sent = true
		if wait < pause {
			wait = pause
		}
		c.trace("%s: %v; again in %s", r, err, wait)
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
		pause = min(2*pause, longestPause)
	}
}

// ask asks what a request would do.
func (c *Client) ask(ctx context.Context, r request, body []byte) error {
	var plan wire.DryRunEnvelope
	r.query, r.out = url.Values{"dry_run": {"true"}}, &plan
	if _, err := c.send(ctx, r, body, ""); err != nil {
		return err
	}
	if len(plan.DryRun.Effects) == 0 {
		return fmt.Errorf("%s: the server at %s knows no dry runs; it may have done what was asked", r, c.base)
	}
	return &Planned{plan.DryRun}
}

// idempotencyKey gives the key for a request: the caller's for the first POST, else a new one; none for other methods.
func (c *Client) idempotencyKey(method string) string {
	if method != http.MethodPost {
		return ""
	}
	select {
	case key := <-c.keys:
		return key
	default:
		return uuid.NewString()
	}
}

// retryable tells whether a failed request may be sent again, and how long the server asked to wait. A server that
// refuses connections is not waited for, unless an earlier attempt reached it: then it is restarting.
func retryable(method string, err error, sentBefore bool) (bool, time.Duration) {
	var unreachable *UnreachableError
	if errors.As(err, &unreachable) {
		safe := method == http.MethodGet || method == http.MethodPost
		return safe && !unreachable.Timeout && (unreachable.Sent || sentBefore), 0
	}
	var e *Error
	if !errors.As(err, &e) || e.RetryAfter == 0 {
		return false, 0
	}
	switch method {
	case http.MethodGet:
		busy := e.Status == http.StatusServiceUnavailable || e.Status == http.StatusRequestEntityTooLarge // too many requests
		return busy, min(e.RetryAfter, longestPause)
	case http.MethodPost:
		firstAtWork := e.Status == http.StatusConflict && sentBefore
		return firstAtWork, min(e.RetryAfter, longestPause)
	}
	return false, 0
}

func (c *Client) send(ctx context.Context, r request, body []byte, key string) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := c.newRequest(ctx, r, body, key)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, r, c.base, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, unreachable(ctx, r, c.base, err)
	}
	c.trace("%s: %s %s", r, res.Status, requestID(res.Header))
	if res.StatusCode >= 300 {
		return nil, newError(r, res, answer)
	}
	if err := decode(answer, r.out); err != nil {
		return nil, fmt.Errorf("%s: the server at %s answered with something else than Grove's API: %w", r, c.base, err)
	}
	return &Reply{Status: res.StatusCode, Operations: operations(res.Header), Warnings: warnings(res.Header)}, nil
}

func (c *Client) newRequest(ctx context.Context, r request, body []byte, key string) (*http.Request, error) {
	target := c.base.JoinPath(escape(r.path)...)
	target.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.userAgent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("X-Auth-Token", c.token)
	}
	if key != "" {
		req.Header.Set(wire.HeaderIdempotencyKey, key)
	}
	return req, nil
}

// escape keeps a name with a slash in it one segment.
func escape(segments []string) []string {
	escaped := make([]string, len(segments))
	for i, s := range segments {
		escaped[i] = url.PathEscape(s)
		if s == "." || s == ".." {
			escaped[i] = strings.ReplaceAll(s, ".", "%2E")
		}
	}
	return escaped
}

func encode(in any) ([]byte, error) {
	if in == nil {
		return nil, nil
	}
	return json.Marshal(in)
}

func decode(answer []byte, out any) error {
	if out == nil {
		return nil
	}
	if len(bytes.TrimSpace(answer)) == 0 {
		return errors.New("the answer is empty")
	}
	return json.Unmarshal(answer, out)
}

// operations reads the header of accepted changes: one id or several.
func operations(h http.Header) []string {
	var ids []string
	for _, line := range h.Values(wire.HeaderOperation) {
		for id := range strings.SplitSeq(line, ",") {
			if id = strings.TrimSpace(id); id != "" {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// warnings reads the texts of Warning headers: 299 agent "text".
func warnings(h http.Header) []string {
	var texts []string
	for _, line := range h.Values("Warning") {
		text := line
		if first := strings.Index(line, `"`); first >= 0 {
			if quoted, err := strconv.Unquote(strings.TrimSpace(line[first:])); err == nil {
				text = quoted
			}
		}
		texts = append(texts, text)
	}
	return texts
}

func requestID(h http.Header) string {
	return h.Get(wire.HeaderRequestID)
}

// sleep waits, or ends early with the context.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
