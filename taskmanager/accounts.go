package taskmanager

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
	"github.com/grove-dbaas/grove/internal/rpc"
	"github.com/grove-dbaas/grove/internal/secret"
	"github.com/grove-dbaas/grove/internal/store"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

const (
	// accountsEvery is how often the guests' logins at the broker are compared with the database: a broker that lost its data
	// is whole again soon after.
	accountsEvery = 10 * time.Second
	// accountsAtOnce is how many logins are made side by side.
	accountsAtOnce = 8
)

// RestoreAccounts makes the guests' logins at the broker what the database says: one that is missing is made again with
// the password that its agent has, one of a guest that was deleted is removed. A login that the database knows nothing of is
// left alone, for it may be somebody else's. Several may do so at once.
func (m *Manager) RestoreAccounts(ctx context.Context) error {
	there, err := m.Accounts.List(ctx) // first: a guest that is new then is no stranger
	if err != nil {
		return err
	}
	queues, err := m.Store.GuestQueues(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(accountsAtOnce)
	for _, id := range there {
		if _, live := queues[id]; !live {
			g.Go(func() error { return m.dropStray(ctx, id) })
		}
		delete(queues, id)
	}
	for id, queue := range queues {
		g.Go(func() error { return m.restoreAccount(ctx, id, queue) })
	}
	return g.Wait()
}

// restoreAccount makes the login of a guest that has been given a password. Whoever deletes the login deletes the password
// first; so one that is gone after all was not to be restored.
func (m *Manager) restoreAccount(ctx context.Context, guestID, queue string) error {
	password, err := m.Store.RevealSecret(ctx, guestID, control.SecretBrokerPassword)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil // not yet, or no longer
	}
	if err != nil {
		return err
	}
	if err := m.Accounts.Ensure(ctx, rpc.Account{GuestID: guestID, Queue: queue, Password: string(password)}); err != nil {
		return err
	}
	now, err := m.Store.RevealSecret(ctx, guestID, control.SecretBrokerPassword)
	switch {
	case dbaas.ErrorCode(err) == dbaas.NotFound:
		return m.Accounts.Delete(ctx, guestID, queue)
	case err == nil && !slices.Equal(now, password): // renewed meanwhile: the new one must be the last that is set
		return m.Accounts.Ensure(ctx, rpc.Account{GuestID: guestID, Queue: queue, Password: string(now)})
	case err != nil:
		return err
	}
	m.Logger.InfoContext(ctx, "a login at the broker was made again", "guest", guestID)
	return nil
}

// dropStray removes the login of a guest that was deleted.
func (m *Manager) dropStray(ctx context.Context, guestID string) error {
	g, err := m.Store.DeletedGuest(ctx, guestID)
	if dbaas.ErrorCode(err) == dbaas.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	m.Logger.WarnContext(ctx, "a login at the broker outlived its guest and is removed", "guest", guestID)
	return m.Accounts.Delete(ctx, g.ID, g.Queue)
}

// deleteAccountOf removes a guest's login: the password first, so that nobody makes the login again.
func (m *Manager) deleteAccountOf(ctx context.Context, op *engine.Operation, g *dbaas.Guest) error {
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error { return dropSecret(tx, g.ID, control.SecretBrokerPassword) })
	if err != nil {
		return err
	}
	return m.Accounts.Delete(ctx, g.ID, g.Queue)
}

// credentials are what a guest proves itself with: at the broker, and in each of its messages.
type credentials struct {
	password string
	key      []byte
}

// parseCredentials reads what was chosen: by which operation, the password, the key. The release before chose no key.
func parseCredentials(text string) (op string, c credentials) {
	words := strings.Split(text, " ")
	op = words[0]
	if len(words) > 1 {
		c.password = words[1]
	}
	if len(words) > 2 {
		c.key, _ = hex.DecodeString(words[2]) // we wrote it
	}
	return op, c
}

func (c credentials) chosenBy(op string) []byte {
	return []byte(op + " " + c.password + " " + hex.EncodeToString(c.key))
}

// nextCredentials chooses what the guest proves itself with once its server is rebuilt, the same whenever the operation asks:
// what the old disk knew is worth nothing then.
func (m *Manager) nextCredentials(ctx context.Context, op *engine.Operation, s *subject) (c credentials, err error) {
	err = m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		id, err := tx.FindSecret(s.guest.ID, control.SecretNextCredentials)
		if err != nil {
			return err
		}
		c = credentials{password: secret.GeneratePassword()}
		if id != "" {
			known, err := tx.RevealSecret(id)
			if err != nil {
				return err
			}
			if by, chosen := parseCredentials(string(known)); by == op.ID {
				c = chosen
			}
		}
		if len(c.key) > 0 {
			return nil
		}
		c.key = control.NewRPCKey()
		_, err = tx.PutSecret(s.guest.ID, control.SecretNextCredentials, c.chosenBy(op.ID))
		return err
	})
	return c, err
}

// renewCredentials makes what was chosen the guest's, and cuts off whoever came with what it had. Both are stored first: who
// makes logins anew meanwhile takes the new one, and no message that the old key signs is believed.
func (m *Manager) renewCredentials(ctx context.Context, op *engine.Operation, s *subject, c credentials) error {
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		if _, err := tx.PutSecret(s.guest.ID, control.SecretRPCKey, c.key); err != nil {
			return err
		}
		if m.GuestRPCURL == nil { // guests have no logins
			return nil
		}
		_, err := tx.PutSecret(s.guest.ID, control.SecretBrokerPassword, []byte(c.password))
		return err
	})
	if err != nil {
		return err
	}
	m.keys.forget(s.guest.ID)
	if m.GuestRPCURL == nil {
		return nil
	}
	if err := m.Accounts.Delete(ctx, s.guest.ID, s.guest.Queue); err != nil {
		return err
	}
	return m.Accounts.Ensure(ctx, rpc.Account{GuestID: s.guest.ID, Queue: s.guest.Queue, Password: c.password})
}

// dropSecret removes an owner's secret of a kind; one that is not there is success.
func dropSecret(tx *store.Tx, ownerID, kind string) error {
	id, err := tx.FindSecret(ownerID, kind)
	if err != nil || id == "" {
		return err
	}
	return tx.DeleteSecret(id)
}
