package keystone

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Identity is who a token stands for. A token that is not for a project has no ProjectID.
type Identity struct {
	UserID, ProjectID string
	Roles             []string // in the project
}

// Tokens tells whom tokens stand for, by asking Keystone, and remembers it for a while. It is safe for concurrent use.
type Tokens struct {
	account *Account
	keep    time.Duration
	known   *lru.Cache[[sha256.Size]byte, answer]
	asking  singleflight.Group
}

// answer is what Keystone said of a token.
type answer struct {
	identity *Identity // nil: it is not valid
	until    time.Time
}

// rememberedTokens bounds the memory that tokens take: some 10 MiB.
const rememberedTokens = 20_000

// NewTokens makes a Tokens that believes an answer of Keystone for as long as keep, and no token beyond its end. A token that
// is revoked is refused after keep at the latest.
func NewTokens(a *Account, keep time.Duration) *Tokens {
	known, err := lru.New[[sha256.Size]byte, answer](rememberedTokens)
	if err != nil {
		panic(err) // it refuses a size below one only
	}
	return &Tokens{account: a, keep: keep, known: known}
}

// Identify tells whom a token stands for: dbaas.Unauthorized for one that is not valid, dbaas.Unavailable when Keystone does
// not say.
func (t *Tokens) Identify(ctx context.Context, token string) (*Identity, error) {
	if !plausible(token) {
		return nil, unauthorized()
	}
	key := sha256.Sum256([]byte(token)) // a copy of memory has no tokens in it
	found, ok := t.known.Get(key)
	if !ok || !t.account.config.Clock.Now().Before(found.until) {
		var err error
		if found, err = t.ask(ctx, key, token); err != nil {
			return nil, err
		}
	}
	if found.identity == nil {
		return nil, unauthorized()
	}
	return found.identity, nil
}

func unauthorized() error {
	return dbaas.Errorf(dbaas.Unauthorized, "The request you have made requires authentication: X-Auth-Token must be a valid token.")
}

// patience is how long a request waits for Keystone.
const patience = 10 * time.Second

// longestToken is beyond every kind that Keystone makes.
const longestToken = 8 << 10

// plausible keeps what cannot be a token out of a request to Keystone.
func plausible(token string) bool {
	return token != "" && len(token) <= longestToken && !strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c >= 0x7f })
}

// ask asks Keystone, once for all who wait for the same answer. Who gives up does not end it for the others.
func (t *Tokens) ask(ctx context.Context, key [sha256.Size]byte, token string) (answer, error) {
	asked := t.asking.DoChan(string(key[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		found, err := t.validate(ctx, token)
		if err == nil {
			t.known.Add(key, found)
		}
		return found, err
	})
	select {
	case <-ctx.Done():
		return answer{}, dbaas.WrapError(ctx.Err(), dbaas.Unavailable, "The identity service does not answer.")
	case r := <-asked:
		if r.Err != nil {
			return answer{}, dbaas.WrapError(r.Err, dbaas.Unavailable, "The identity service does not answer.")
		}
		return r.Val.(answer), nil
	}
}

// validate is GET /v3/auth/tokens. Keystone answers 404 for a token that is expired, revoked or none.
func (t *Tokens) validate(ctx context.Context, token string) (answer, error) {
	client, err := t.account.Login(ctx)
	if err != nil {
		return answer{}, err
	}
	now := t.account.config.Clock.Now()
	var body struct {
		Token struct {
			ExpiresAt time.Time `json:"expires_at"`
			User      struct {
				ID string `json:"id"`
			} `json:"user"`
			Project struct {
				ID string `json:"id"`
			} `json:"project"`
			Roles []struct {
				Name string `json:"name"`
			} `json:"roles"`
		} `json:"token"`
	}
	_, err = client.Request(ctx, http.MethodGet, strings.TrimSuffix(t.account.config.AuthURL, "/")+"/auth/tokens?nocatalog", &gophercloud.RequestOpts{
		MoreHeaders: map[string]string{"X-Subject-Token": token}, JSONResponse: &body, OkCodes: []int{http.StatusOK},
	})
	switch {
	case gophercloud.ResponseCodeIs(err, http.StatusNotFound):
		return answer{until: now.Add(t.keep)}, nil
	case err != nil:
		return answer{}, err
	}
	identity := &Identity{UserID: body.Token.User.ID, ProjectID: body.Token.Project.ID}
	for _, role := range body.Token.Roles {
		identity.Roles = append(identity.Roles, role.Name)
	}
	until := now.Add(t.keep)
	if body.Token.ExpiresAt.Before(until) {
		until = body.Token.ExpiresAt
	}
	return answer{identity, until}, nil
}
