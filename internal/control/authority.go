package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
)

// authorityOwner is whose secret the authority is: no tenant's.
const authorityOwner = "grove"

// Authorities are those that certificates of databases are known by. Clients and databases trust all of them. One is
// replaced in three changes, each of one transaction: the next one is published; it signs, once all databases trust it; the
// old one is withdrawn, once no certificate of it is in use.
type Authorities struct {
	Signs *secret.Authority
	Next  *secret.Authority // will sign; nil: none is to follow
	Old   *secret.Authority // signed before; nil: it has been withdrawn
}

// Trusted lists them, the eldest first, so that what is trusted stays the same when another begins to sign.
func (a *Authorities) Trusted() []*secret.Authority {
	return slices.DeleteFunc([]*secret.Authority{a.Old, a.Signs, a.Next}, func(one *secret.Authority) bool { return one == nil })
}

// Certificate is what clients trust, in PEM.
func (a *Authorities) Certificate() string {
	text := ""
	for _, one := range a.Trusted() {
		text += one.Certificate()
	}
	return text
}

// ids are the names of those who are trusted.
func (a *Authorities) ids() []string {
	var list []string
	for _, one := range a.Trusted() {
		list = append(list, one.ID())
	}
	return list
}

// Fits tells whether a database's certificate is as it should be: issued by whom signs, and it trusts whom it should. One
// that does not tell fits.
func (a *Authorities) Fits(c *datastore.Certificate) bool {
	return c.Issuer == "" || c.Issuer == a.Signs.ID() && slices.Equal(c.Trusts, a.ids())
}

// keptAuthorities is the secret: all of it is read and written at once.
type keptAuthorities struct {
	Signs []byte `json:"signs"`
	Next  []byte `json:"next,omitempty"`
	Old   []byte `json:"old,omitempty"`
}

func parseAuthorities(text []byte) (*Authorities, error) {
	kept := keptAuthorities{Signs: text} // as it was kept before there could be two
	if json.Valid(text) {
		if err := json.Unmarshal(text, &kept); err != nil {
			return nil, fmt.Errorf("read the authorities: not of the right form")
		}
	}
	a := &Authorities{}
	for _, one := range []struct {
		kept []byte
		to   **secret.Authority
	}{{kept.Signs, &a.Signs}, {kept.Next, &a.Next}, {kept.Old, &a.Old}} {
		if len(one.kept) == 0 {
			continue
		}
		parsed, err := secret.ParseAuthority(one.kept)
		if err != nil {
			return nil, err
		}
		*one.to = parsed
	}
	return a, nil
}

func (a *Authorities) bytes() ([]byte, error) {
	var kept keptAuthorities
	for _, one := range []struct {
		from *secret.Authority
		to   *[]byte
	}{{a.Signs, &kept.Signs}, {a.Next, &kept.Next}, {a.Old, &kept.Old}} {
		if one.from == nil {
			continue
		}
		b, err := one.from.Bytes()
		if err != nil {
			return nil, err
		}
		*one.to = b
	}
	return json.Marshal(kept)
}

// ReadAuthorities gives the authorities that certificates of databases are known by; the first is made when it is asked for
// the first time. They are the same for all processes, sealed with the other secrets.
func ReadAuthorities(ctx context.Context, st *store.Store, c clock.Clock) (*Authorities, error) {
	known, err := st.RevealSecret(ctx, authorityOwner, SecretAuthority)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return changeAuthorities(ctx, st, c, func(*Authorities) error { return nil })
	}
	if err != nil {
		return nil, err
	}
	return parseAuthorities(known)
}

// AuthorityExpires is when the authority expires that signs the certificates of databases; zero: there is none yet.
func AuthorityExpires(ctx context.Context, st *store.Store) (time.Time, error) {
	known, err := st.RevealSecret(ctx, authorityOwner, SecretAuthority)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	a, err := parseAuthorities(known)
	if err != nil {
		return time.Time{}, err
	}
	return a.Signs.NotAfter(), nil
}

// changeAuthorities changes them, one process at a time, in one transaction.
func changeAuthorities(ctx context.Context, st *store.Store, c clock.Clock, change func(*Authorities) error) (a *Authorities, err error) {
	made, err := secret.NewAuthority(c.Now())
	if err != nil {
		return nil, err
	}
	err = st.Tx(ctx, func(tx *store.Tx) error {
		if err := tx.LockProject(authorityOwner); err != nil { // one makes it, the others find it
			return err
		}
		id, err := tx.FindSecret(authorityOwner, SecretAuthority)
		if err != nil {
			return err
		}
		a = &Authorities{Signs: made}
		if id != "" {
			known, err := tx.RevealSecret(id)
			if err != nil {
				return err
			}
			if a, err = parseAuthorities(known); err != nil {
				return err
			}
		}
		if err := change(a); err != nil {
			return err
		}
		text, err := a.bytes()
		if err != nil {
			return err
		}
		_, err = tx.PutSecret(authorityOwner, SecretAuthority, text)
		return err
	})
	return a, err
}

// Authorities gives the authorities by which clients know the databases.
func (s *Service) Authorities(ctx context.Context) (*Authorities, error) {
	return ReadAuthorities(ctx, s.Store, s.Clock)
}

const (
	// authorityNotice is for how long the next authority is published before it signs, so that clients know it.
	authorityNotice = 30 * 24 * time.Hour
	// authorityRenewBefore is how long before its end an authority is replaced: its certificates must end before.
	authorityRenewBefore = 365 * 24 * time.Hour
)

// RotateAuthority makes the next change by which one authority follows another, and says what it was. It is refused while
// databases are not ready for it. The watch asks for it as well, with due: then nothing happens before its time.
func RotateAuthority(ctx context.Context, st *store.Store, c clock.Clock, due bool) (said string, err error) {
	views, err := st.Encrypted(ctx)
	if err != nil {
		return "", err
	}
	now := c.Now()
	next, err := secret.NewAuthority(now)
	if err != nil {
		return "", err
	}
	_, err = changeAuthorities(ctx, st, c, func(a *Authorities) error {
		switch {
		case a.Old != nil:
			if who := unready(views, now, func(c *datastore.Certificate) bool { return c.Issuer == a.Signs.ID() }); who != "" {
				return dbaas.Errorf(dbaas.Conflict, "The old authority is not withdrawn while the certificate of instance %s is its. It is renewed within the hour where the instance is idle, or by renew_certificates.", who)
			}
			a.Old, said = nil, "The old authority is withdrawn."
		case a.Next != nil:
			if due && now.Before(a.Next.NotBefore().Add(authorityNotice)) {
				return dbaas.Errorf(dbaas.Conflict, "Clients have time until then.")
			}
			if who := unready(views, now, func(c *datastore.Certificate) bool { return slices.Contains(c.Trusts, a.Next.ID()) }); who != "" {
				return dbaas.Errorf(dbaas.Conflict, "The next authority does not sign while instance %s does not trust it. It is told within the hour where it is idle, or by renew_certificates.", who)
			}
			a.Old, a.Signs, a.Next, said = a.Signs, a.Next, nil, "The next authority signs now. Databases take certificates of it within the hour."
		case due && a.Signs.NotAfter().Sub(now) > authorityRenewBefore:
			return dbaas.Errorf(dbaas.Conflict, "The authority is good for long.")
		default:
			a.Next, said = next, "The next authority is published (GET /ca), and databases trust it within the hour. Clients must take it before it signs."
		}
		return nil
	})
	return said, err
}

// unready names an instance with a database whose certificate is not as it must be; "" when there is none. Certificates that
// have expired do not count, nor databases that never came up.
func unready(views []dbaas.InstanceView, now time.Time, good func(*datastore.Certificate) bool) string {
	for i := range views {
		v := &views[i]
		for j := range v.Guests {
			switch c := CertificateIn(v.Guests[j].Observed); {
			case c == nil && v.Applied == nil && v.Task == dbaas.TaskError:
			case c == nil, c.NotAfter.After(now) && !good(c):
				return v.ID
			}
		}
	}
	return ""
}
