package amqp

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
)

// Accounts implements [rpc.Accounts] over RabbitMQ's management API. A guest's user name is its id.
type Accounts struct {
	base     string
	user     string
	password string
	vhost    string
	client   *http.Client
}

// NewAccounts makes accounts in a vhost ("/" is RabbitMQ's default). managementURL carries the user and password of an
// administrator; a nil client has a timeout of 10 s.
func NewAccounts(managementURL, vhost string, client *http.Client) (*Accounts, error) {
	u, err := url.Parse(managementURL)
	if err != nil || u.Host == "" || u.User == nil {
		return nil, errors.New("the broker's management URL is not understood: expected http(s)://user:password@host:port") // may hold the password
	}
	password, _ := u.User.Password()
	if client == nil {
		client = &http.Client{Timeout: 10 * time.Second}
	}
	base := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
	return &Accounts{base: base.String(), user: u.User.Username(), password: password, vhost: vhost, client: client}, nil
}

// What a guest's account may do, besides reading its queue. List knows guests by it.
const (
	guestConfigures = "^$"
	guestWrites     = `^grove\.reports$`
)

// readsOnly is the permission to read one queue.
func readsOnly(queue string) string { return "^" + regexp.QuoteMeta(queue) + "$" }

// guestConnections is how many connections a guest may have: one, and those that the broker has not noticed to be dead.
const guestConnections = 4

// Ensure implements [rpc.Accounts]. The queue comes first: an account that can log in finds it.
func (a *Accounts) Ensure(ctx context.Context, account rpc.Account) error {
	if account.GuestID == "" || account.Queue == "" || account.Password == "" {
		return dbaas.Errorf(dbaas.BadRequest, "A broker account needs a guest id, a queue and a password.")
	}
	vhost, user := url.PathEscape(a.vhost), url.PathEscape(account.GuestID)
	queue := rpc.GuestTopic(account.Queue)
	steps := []struct {
		path string
		body any
	}{
		{"/api/queues/" + vhost + "/" + url.PathEscape(queue), map[string]any{"durable": true, "arguments": capped(keptPerGuest)}},
		{"/api/users/" + user, map[string]any{
			"password_hash": hashPassword(account.Password), "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "",
		}},
		{"/api/user-limits/" + user + "/max-connections", map[string]any{"value": guestConnections}},
		{"/api/topic-permissions/" + vhost + "/" + user, map[string]any{
			"exchange": exchangeReports, "write": "^" + regexp.QuoteMeta(account.GuestID) + `\.`, "read": "^$",
		}},
		// last, for without it the account is good for nothing
		{"/api/permissions/" + vhost + "/" + user, map[string]any{
			"configure": guestConfigures, "write": guestWrites, "read": readsOnly(queue),
		}},
	}
	for _, s := range steps {
		if err := a.do(ctx, http.MethodPut, s.path, s.body, nil); err != nil {
			return fmt.Errorf("ensure the broker account of guest %s: %w", account.GuestID, err)
		}
	}
	return nil
}

// hashPassword is RabbitMQ's salted hash, so that the password itself does not travel.
func hashPassword(password string) string {
	salt := make([]byte, 4)
	_, _ = rand.Read(salt) // never fails
	hash := sha256.Sum256(append(slices.Clone(salt), password...))
	return base64.StdEncoding.EncodeToString(append(salt, hash[:]...))
}

// Delete implements [rpc.Accounts]. The user goes first, so that it cannot come back; the broker then ends its
// connections by itself, and those that it shows already are ended here at once.
func (a *Accounts) Delete(ctx context.Context, guestID, queue string) error {
	vhost, user := url.PathEscape(a.vhost), url.PathEscape(guestID)
	err := a.delete(ctx, "/api/users/"+user)
	if err == nil {
		err = a.closeConnections(ctx, guestID)
	}
	if err == nil {
		err = a.delete(ctx, "/api/queues/"+vhost+"/"+url.PathEscape(rpc.GuestTopic(queue)))
	}
	if err != nil {
		return fmt.Errorf("delete the broker account of guest %s: %w", guestID, err)
	}
	return nil
}

func (a *Accounts) closeConnections(ctx context.Context, guestID string) error {
	var connections []struct{ Name string }
	err := a.do(ctx, http.MethodGet, "/api/connections/username/"+url.PathEscape(guestID), nil, &connections)
	if err != nil && !isGone(err) {
		return err
	}
	for _, c := range connections {
		if err := a.delete(ctx, "/api/connections/"+url.PathEscape(c.Name)); err != nil {
			return err
		}
	}
	return nil
}

// List implements [rpc.Accounts], in order. An account without its queue does not count: it has to be made anew.
func (a *Accounts) List(ctx context.Context) ([]string, error) {
	vhost := url.PathEscape(a.vhost)
	var permissions []struct{ User, Configure, Write, Read string }
	if err := a.do(ctx, http.MethodGet, "/api/vhosts/"+vhost+"/permissions", nil, &permissions); err != nil {
		return nil, fmt.Errorf("list broker accounts: %w", err)
	}
	var queues []struct{ Name string }
	if err := a.do(ctx, http.MethodGet, "/api/queues/"+vhost+"?disable_stats=true&enable_queue_totals=true&columns=name", nil, &queues); err != nil {
		return nil, fmt.Errorf("list broker queues: %w", err)
	}
	readable := make(map[string]bool, len(queues))
	for _, q := range queues {
		readable[readsOnly(q.Name)] = true
	}
	ids := []string{}
	for _, p := range permissions {
		if p.Configure == guestConfigures && p.Write == guestWrites && readable[p.Read] {
			ids = append(ids, p.User)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// delete removes what is at path; what is gone already is success.
func (a *Accounts) delete(ctx context.Context, path string) error {
	err := a.do(ctx, http.MethodDelete, path, nil, nil)
	if isGone(err) {
		return nil
	}
	return err
}

func isGone(err error) bool {
	var e *statusError
	return errors.As(err, &e) && e.status == http.StatusNotFound
}

type statusError struct {
	status int
	said   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the broker's management API answered %d: %s", e.status, e.said)
}

// do makes one request. That the broker is away is dbaas.Unavailable.
func (a *Accounts) do(ctx context.Context, method, path string, body, result any) error {
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, content)
	if err != nil {
		return err
	}
	req.SetBasicAuth(a.user, a.password)
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return dbaas.WrapError(err, dbaas.Unavailable, "The message broker's management API is away.")
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return dbaas.WrapError(err, dbaas.Unavailable, "The message broker's management API is away.")
	}
	if resp.StatusCode >= 300 {
		said := string(answer[:min(len(answer), 500)])
		if resp.StatusCode >= 500 {
			return dbaas.WrapError(&statusError{resp.StatusCode, said}, dbaas.Unavailable, "The message broker's management API failed.")
		}
		return &statusError{resp.StatusCode, said}
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer, result)
}
