package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"time"

	"github.com/grove-dbaas/grove/internal/cloud"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// shareSocket is where a cloud that is shared answers, beside its records.
const shareSocket = "cloud.sock"

// shareDrain is how long calls under way may take when a shared cloud ends.
const shareDrain = 10 * time.Second

// Listen opens the socket on which other processes of this machine, of the same user, reach the cloud in dir (see Dial).
func Listen(dir string) (net.Listener, error) {
	l, err := listenUnix(filepath.Join(dir, "cloud"), shareSocket)
	if err != nil {
		return nil, fmt.Errorf("share the local cloud: %w", err)
	}
	return l, nil
}

// Serve lets those who come to l (see Listen) use the cloud p until ctx ends. It is what makes the local cloud one for several
// taskmanagers: its servers need one process that looks after them.
func Serve(ctx context.Context, l net.Listener, p cloud.Provider, log *slog.Logger) error {
	server := &http.Server{Handler: &shared{provider: p, log: log}, ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("share the local cloud: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), shareDrain)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return errors.Join(err, server.Close())
	}
	return nil
}

// shared answers calls of the provider's methods: POST /Method with the arguments as a list.
type shared struct {
	provider cloud.Provider
	log      *slog.Logger
}

// shareAnswer is what a method gave.
type shareAnswer struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *dbaas.Error    `json:"error,omitempty"`  // the provider's word
	Failed string          `json:"failed,omitempty"` // any other error's
}

func (s *shared) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	result, err := s.call(r.Context(), r.URL.Path[1:], r.Body)
	var a shareAnswer
	var word *dbaas.Error
	switch {
	case errors.As(err, &word):
		a.Error, a.Failed = word, err.Error()
	case err != nil:
		a.Failed = err.Error()
	default:
		a.Result = result
	}
	if err := json.NewEncoder(w).Encode(a); err != nil {
		s.log.Warn("the caller of the cloud is gone", "method", r.URL.Path, "error", err)
	}
}

// call finds the method by its name, and its arguments by their types.
func (s *shared) call(ctx context.Context, method string, body io.Reader) (json.RawMessage, error) {
	if _, ok := reflect.TypeFor[cloud.Provider]().MethodByName(method); !ok {
		return nil, dbaas.Errorf(dbaas.NotFound, "A cloud has no method %q.", method)
	}
	var raw []json.RawMessage
	if err := json.NewDecoder(body).Decode(&raw); err != nil {
		return nil, err
	}
	f := reflect.ValueOf(s.provider).MethodByName(method)
	if len(raw) != f.Type().NumIn()-1 {
		return nil, dbaas.Errorf(dbaas.BadRequest, "%s takes %d arguments, not %d.", method, f.Type().NumIn()-1, len(raw))
	}
	args := []reflect.Value{reflect.ValueOf(ctx)}
	for i := range raw {
		arg := reflect.New(f.Type().In(i + 1))
		if err := json.Unmarshal(raw[i], arg.Interface()); err != nil {
			return nil, err
		}
		args = append(args, arg.Elem())
	}
	results := f.Call(args)
	if err, _ := results[len(results)-1].Interface().(error); err != nil || len(results) == 1 {
		return nil, err
	}
	return json.Marshal(results[0].Interface())
}

// Shared is a local cloud that another process runs and serves.
type Shared struct{ client http.Client }

var _ cloud.Provider = (*Shared)(nil)

// Dial gives the cloud that another process serves in dir, now or later. A call while nobody does fails, which is worth a
// retry.
func Dial(dir string) *Shared {
	return &Shared{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialUnix(ctx, filepath.Join(dir, "cloud"), shareSocket)
		},
		MaxIdleConnsPerHost: 16,
	}}}
}

// ask calls a method of the cloud.
func ask[R any](ctx context.Context, c *Shared, method string, args ...any) (result R, err error) {
	if args == nil {
		args = []any{}
	}
	body, err := json.Marshal(args)
	if err != nil {
		return result, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cloud/"+method, bytes.NewReader(body))
	if err != nil {
		return result, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return result, fmt.Errorf("the local cloud does not answer: %w", err)
	}
	defer resp.Body.Close()
	var a shareAnswer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return result, fmt.Errorf("the local cloud's answer was cut off: %w", err)
	}
	switch {
	case a.Error != nil:
		return result, dbaas.WrapError(errors.New(a.Failed), a.Error.Code, "%s", a.Error.Message)
	case a.Failed != "":
		return result, errors.New(a.Failed)
	case len(a.Result) == 0:
		return result, nil
	}
	return result, json.Unmarshal(a.Result, &result)
}

// tell calls a method that gives nothing back.
func tell(ctx context.Context, c *Shared, method string, args ...any) error {
	_, err := ask[json.RawMessage](ctx, c, method, args...)
	return err
}

// Catalog implements [cloud.Provider].
func (c *Shared) Catalog(ctx context.Context) (*dbaas.Catalog, error) {
	return ask[*dbaas.Catalog](ctx, c, "Catalog")
}

// Owned implements [cloud.Provider].
func (c *Shared) Owned(ctx context.Context, ownerID string) ([]cloud.Resource, error) {
	return ask[[]cloud.Resource](ctx, c, "Owned", ownerID)
}

// EnsureServerGroup implements [cloud.Provider].
func (c *Shared) EnsureServerGroup(ctx context.Context, groupID, policy string) (string, error) {
	return ask[string](ctx, c, "EnsureServerGroup", groupID, policy)
}

// EnsureServer implements [cloud.Provider].
func (c *Shared) EnsureServer(ctx context.Context, s cloud.ServerSpec) (*cloud.Server, error) {
	return ask[*cloud.Server](ctx, c, "EnsureServer", s)
}

// Server implements [cloud.Provider].
func (c *Shared) Server(ctx context.Context, id string) (*cloud.Server, error) {
	return ask[*cloud.Server](ctx, c, "Server", id)
}

// ResizeServer implements [cloud.Provider].
func (c *Shared) ResizeServer(ctx context.Context, id, flavorID string) error {
	return tell(ctx, c, "ResizeServer", id, flavorID)
}

// ConfirmResize implements [cloud.Provider].
func (c *Shared) ConfirmResize(ctx context.Context, id string) error {
	return tell(ctx, c, "ConfirmResize", id)
}

// RevertResize implements [cloud.Provider].
func (c *Shared) RevertResize(ctx context.Context, id string) error {
	return tell(ctx, c, "RevertResize", id)
}

// RebootServer implements [cloud.Provider].
func (c *Shared) RebootServer(ctx context.Context, id string) error {
	return tell(ctx, c, "RebootServer", id)
}

// StopServer implements [cloud.Provider].
func (c *Shared) StopServer(ctx context.Context, id string) error {
	return tell(ctx, c, "StopServer", id)
}

// StartServer implements [cloud.Provider].
func (c *Shared) StartServer(ctx context.Context, id string) error {
	return tell(ctx, c, "StartServer", id)
}

// PowerOffServer implements [cloud.Provider].
func (c *Shared) PowerOffServer(ctx context.Context, id string) error {
	return tell(ctx, c, "PowerOffServer", id)
}

// RebuildServer implements [cloud.Provider].
func (c *Shared) RebuildServer(ctx context.Context, id string, s cloud.ServerSpec) error {
	return tell(ctx, c, "RebuildServer", id, s)
}

// Console implements [cloud.Provider].
func (c *Shared) Console(ctx context.Context, id string, lines int) (string, error) {
	return ask[string](ctx, c, "Console", id, lines)
}

// DeleteServer implements [cloud.Provider].
func (c *Shared) DeleteServer(ctx context.Context, id string) error {
	return tell(ctx, c, "DeleteServer", id)
}

// DeleteServerGroup implements [cloud.Provider].
func (c *Shared) DeleteServerGroup(ctx context.Context, groupID string) error {
	return tell(ctx, c, "DeleteServerGroup", groupID)
}

// EnsureVolume implements [cloud.Provider].
func (c *Shared) EnsureVolume(ctx context.Context, v cloud.VolumeSpec) (*cloud.Volume, error) {
	return ask[*cloud.Volume](ctx, c, "EnsureVolume", v)
}

// Volume implements [cloud.Provider].
func (c *Shared) Volume(ctx context.Context, id string) (*cloud.Volume, error) {
	return ask[*cloud.Volume](ctx, c, "Volume", id)
}

// ExtendVolume implements [cloud.Provider].
func (c *Shared) ExtendVolume(ctx context.Context, id string, sizeGB int) error {
	return tell(ctx, c, "ExtendVolume", id, sizeGB)
}

// AttachVolume implements [cloud.Provider].
func (c *Shared) AttachVolume(ctx context.Context, id, serverID string) error {
	return tell(ctx, c, "AttachVolume", id, serverID)
}

// DetachVolume implements [cloud.Provider].
func (c *Shared) DetachVolume(ctx context.Context, id, serverID string) error {
	return tell(ctx, c, "DetachVolume", id, serverID)
}

// DeleteVolume implements [cloud.Provider].
func (c *Shared) DeleteVolume(ctx context.Context, id string) error {
	return tell(ctx, c, "DeleteVolume", id)
}

// EnsureSecurityGroup implements [cloud.Provider].
func (c *Shared) EnsureSecurityGroup(ctx context.Context, s cloud.SecurityGroupSpec) (string, error) {
	return ask[string](ctx, c, "EnsureSecurityGroup", s)
}

// EnsurePort implements [cloud.Provider].
func (c *Shared) EnsurePort(ctx context.Context, p cloud.PortSpec) (*cloud.Port, error) {
	return ask[*cloud.Port](ctx, c, "EnsurePort", p)
}

// DeletePort implements [cloud.Provider].
func (c *Shared) DeletePort(ctx context.Context, id string) error {
	return tell(ctx, c, "DeletePort", id)
}

// DeleteSecurityGroup implements [cloud.Provider].
func (c *Shared) DeleteSecurityGroup(ctx context.Context, id string) error {
	return tell(ctx, c, "DeleteSecurityGroup", id)
}

// EnsureAddress implements [cloud.Provider].
func (c *Shared) EnsureAddress(ctx context.Context, a cloud.AddressSpec) (*cloud.Address, error) {
	return ask[*cloud.Address](ctx, c, "EnsureAddress", a)
}

// PointAddress implements [cloud.Provider].
func (c *Shared) PointAddress(ctx context.Context, addressID, portID string, epoch int64) error {
	return tell(ctx, c, "PointAddress", addressID, portID, epoch)
}

// DeleteAddress implements [cloud.Provider].
func (c *Shared) DeleteAddress(ctx context.Context, id string) error {
	return tell(ctx, c, "DeleteAddress", id)
}
