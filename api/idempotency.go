package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/grove-dbaas/grove/api/wire"
	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/store"
)

const idempotencyHeader = wire.HeaderIdempotencyKey

const (
	// duplicateWait is how long a repeated request waits for the first to end.
	duplicateWait = 5 * time.Second
	// duplicateTick is how often it looks, where another process is at work on the first.
	duplicateTick = 200 * time.Millisecond
	// workAtMost bounds a request that goes on without its client.
	workAtMost = 30 * time.Second
	// givenUp is when a request without an answer is taken to have died with its process.
	givenUp = time.Minute
)

// once answers a request with an idempotency key: the first runs, each repetition gets the first one's answer. The
// first goes on when its client goes away, for that is when the answer will be asked for again.
func (s *Server) once(r *request, e endpoint, key string) reply {
	if !validKey(key) {
		return s.render(r, nil, badRequest("%s must be 1 to 255 printable ASCII characters.", idempotencyHeader))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), workAtMost)
	defer cancel()
	r.Request = r.WithContext(ctx)
	row, fresh, err := s.begin(r, key)
	switch {
	case err != nil:
		return s.render(r, nil, err)
	case !fresh && row.Status == 0:
		return s.recollect(r, store.EffectOf(row))
	case !fresh:
		return s.replay(r, row)
	}
	r.caller.Claim = &control.Claim{Row: row}
	defer s.underWay.end(r.caller.ProjectID, key)
	return s.runOnce(r, e, row)
}

func validKey(key string) bool {
	return len(key) <= 255 && !strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c > '~' })
}

// begin claims the key, or waits for the request that has it. When it gives fresh, the key is under way until end.
func (s *Server) begin(r *request, key string) (row *dbaas.Idempotency, fresh bool, err error) {
	ctx, cancel := context.WithTimeout(r.Context(), s.duplicateWait)
	defer cancel()
	hash := requestHash(r)
	tick := time.NewTicker(duplicateTick)
	defer tick.Stop()
	for {
		if !s.underWay.begin(ctx, r.caller.ProjectID, key) {
			return nil, false, stillAtWork()
		}
		row, fresh, err = s.Control.BeginIdempotent(ctx, r.caller, key, hash, givenUp)
		if err == nil && fresh {
			return row, true, nil
		}
		s.underWay.end(r.caller.ProjectID, key)
		switch {
		case ctx.Err() != nil:
			return nil, false, stillAtWork()
		case err != nil || row.Status != 0:
			return row, false, err
		case s.Clock.Now().Sub(row.CreatedAt.Time()) > givenUp && store.EffectOf(row) != nil: // it took effect, and there is no answer
			return row, false, nil
		}
		select {
		case <-ctx.Done():
			return nil, false, stillAtWork()
		case <-tick.C:
		}
	}
}

func stillAtWork() error {
	return &retryError{
		fault: dbaas.Errorf(dbaas.Conflict, "The first request with this %s is still at work.", idempotencyHeader),
		after: time.Second,
	}
}

// requestHash tells requests apart that use the same key.
func requestHash(r *request) string {
	h := sha256.New()
	for _, part := range []string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery} {
		h.Write([]byte(part + "\n"))
	}
	h.Write(r.body)
	return hex.EncodeToString(h.Sum(nil))
}

// storedHeader is what is kept of an answer beside its status and body.
type storedHeader struct {
	Operation string   `json:"operation,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
	SecretIDs []string `json:"secret_ids,omitempty"`
}

// runOnce runs the first request of a key and stores its answer. A failure of the server's forgets the key.
func (s *Server) runOnce(r *request, e endpoint, row *dbaas.Idempotency) (p reply) {
	p.status = http.StatusInternalServerError
	defer func() {
		if p.status >= http.StatusInternalServerError { // also while panicking
			if err := s.Control.ForgetIdempotent(r.Context(), row); err != nil {
				s.Logger.ErrorContext(r.Context(), "idempotency key not forgotten", "error", err)
			}
		}
	}()
	p = s.run(r, e)
	if p.status >= http.StatusInternalServerError {
		return p
	}
	row.Status = p.status
	row.Body = p.storable
	row.Header, _ = json.Marshal(storedHeader{Operation: p.operation, Warnings: p.warnings, SecretIDs: p.secretIDs})
	if err := s.Control.FinishIdempotent(r.Context(), row); err != nil {
		s.Logger.ErrorContext(r.Context(), "answer not stored for its idempotency key", "error", err)
	}
	return p
}

// recollect answers for a request whose process ended after it took effect and before there was an answer: what it made is
// shown as it is now.
func (s *Server) recollect(r *request, did *store.Effect) reply {
	creates := strings.HasSuffix(r.URL.Path, "/instances") || strings.HasSuffix(r.URL.Path, "/clusters")
	switch {
	case creates && did.ResourceType == "instance":
		view, err := s.Control.Instance(r.Context(), r.caller, did.ResourceID)
		if err != nil {
			return s.render(r, nil, err)
		}
		instance := s.renderInstanceDetail(r, view)
		if view.ReplicaOf == "" {
			instance.Password = s.passwordNow(s.Control.Credentials(r.Context(), r.caller, view.ID))
		}
		return s.render(r, &answer{status: http.StatusOK, body: wire.InstanceEnvelope{Instance: instance}, operations: []string{did.OperationID}}, nil)
	case creates && did.ResourceType == "cluster":
		view, err := s.Control.Cluster(r.Context(), r.caller, did.ResourceID)
		if err != nil {
			return s.render(r, nil, err)
		}
		cluster := renderCluster(r, view)
		cluster.Password = s.passwordNow(s.Control.ClusterCredentials(r.Context(), r.caller, view.ID))
		return s.render(r, &answer{status: http.StatusOK, body: wire.ClusterEnvelope{Cluster: cluster}, operations: []string{did.OperationID}}, nil)
	case strings.HasSuffix(r.URL.Path, "/action"):
		return s.render(r, accepted(did.OperationID), nil)
	default:
		return s.render(r, &answer{operations: []string{did.OperationID}}, dbaas.Errorf(dbaas.Conflict, "The first request with this %s took effect, "+
			"but the server ended before it answered. Look at the resource before you ask again, with a new key.", idempotencyHeader))
	}
}

// passwordNow is a password as it is; "" where it cannot be told.
func (s *Server) passwordNow(c *control.Credentials, err error) string {
	if err != nil {
		return ""
	}
	return c.Password
}

// replay gives the stored answer again, its secrets revealed anew.
func (s *Server) replay(r *request, row *dbaas.Idempotency) reply {
	var header storedHeader
	if err := json.Unmarshal(row.Header, &header); err != nil {
		return s.render(r, nil, err)
	}
	p := reply{status: row.Status, body: row.Body, operation: header.Operation, warnings: header.Warnings}
	if string(p.body) == "null" {
		p.body = nil
	}
	for _, id := range header.SecretIDs {
		value, err := s.Control.RevealSecret(r.Context(), r.caller, id)
		switch {
		case dbaas.ErrorCode(err) == dbaas.NotFound:
			p.warnings = append(p.warnings, "A password of the first answer has been replaced since; /credentials reveals the present one.")
		case err != nil:
			return s.render(r, nil, err)
		}
		p.body = replaceText(p.body, reference(id), value)
	}
	return p
}

// underWay holds the keys that this process works on, so that repetitions wait in memory and not at the database.
type underWay struct {
	mu   sync.Mutex
	keys map[[2]string]chan struct{}
}

func newUnderWay() *underWay { return &underWay{keys: map[[2]string]chan struct{}{}} }

// begin waits until nobody else has the key; it gives up with the context.
func (u *underWay) begin(ctx context.Context, project, key string) bool {
	for {
		u.mu.Lock()
		other, busy := u.keys[[2]string{project, key}]
		if !busy {
			u.keys[[2]string{project, key}] = make(chan struct{})
		}
		u.mu.Unlock()
		if !busy {
			return true
		}
		select {
		case <-other:
		case <-ctx.Done():
			return false
		}
	}
}

func (u *underWay) end(project, key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	close(u.keys[[2]string{project, key}])
	delete(u.keys, [2]string{project, key})
}
