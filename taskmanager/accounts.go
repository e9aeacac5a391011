package taskmanager

import (
	"context"
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

// nextBrokerPassword chooses what the guest logs in with once its server is rebuilt, the same whenever the operation asks: what
// the old disk knew is worth nothing then. It is "" where guests have no logins.
func (m *Manager) nextBrokerPassword(ctx context.Context, op *engine.Operation, s *subject) (password string, err error) {
	if m.GuestRPCURL == nil {
		return "", nil
	}
	err = m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		id, err := tx.FindSecret(s.guest.ID, control.SecretNextBrokerPassword)
		if err != nil {
			return err
		}
		if id != "" {
			known, err := tx.RevealSecret(id)
			if err != nil {
				return err
			}
			if chosenBy, chosen, _ := strings.Cut(string(known), " "); chosenBy == op.ID {
				password = chosen
				return nil
			}
		}
		password = secret.GeneratePassword()
		_, err = tx.PutSecret(s.guest.ID, control.SecretNextBrokerPassword, []byte(op.ID+" "+password))
		return err
	})
	return password, err
}

// renewAccount gives the guest another password at the broker and cuts off whoever came with the old one. The password is
// stored first: who makes logins anew meanwhile takes the new one.
func (m *Manager) renewAccount(ctx context.Context, op *engine.Operation, s *subject, password string) error {
	err := m.Store.Fenced(ctx, &op.Operation, func(tx *store.Tx) error {
		_, err := tx.PutSecret(s.guest.ID, control.SecretBrokerPassword, []byte(password))
		return err
	})
	if err != nil {
		return err
	}
	if err := m.Accounts.Delete(ctx, s.guest.ID, s.guest.Queue); err != nil {
		return err
	}
	return m.Accounts.Ensure(ctx, rpc.Account{GuestID: s.guest.ID, Queue: s.guest.Queue, Password: password})
}

// dropSecret removes an owner's secret of a kind; one that is not there is success.
func dropSecret(tx *store.Tx, ownerID, kind string) error {
	id, err := tx.FindSecret(ownerID, kind)
	if err != nil || id == "" {
		return err
	}
	return tx.DeleteSecret(id)
}
