package inproc

import (
	"context"
	"slices"
	"sync"

	"github.com/grove-dbaas/grove/internal/rpc"
)

// Accounts implements [rpc.Accounts] where there is no broker: it remembers. The zero value remembers nobody.
type Accounts struct {
	mu       sync.Mutex
	accounts map[string]rpc.Account
}

// Ensure implements [rpc.Accounts].
func (a *Accounts) Ensure(_ context.Context, account rpc.Account) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.accounts == nil {
		a.accounts = map[string]rpc.Account{}
	}
	a.accounts[account.GuestID] = account
	return nil
}

// Delete implements [rpc.Accounts].
func (a *Accounts) Delete(_ context.Context, guestID, _ string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.accounts, guestID)
	return nil
}

// List implements [rpc.Accounts], in order.
func (a *Accounts) List(context.Context) ([]string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]string, 0, len(a.accounts))
	for id := range a.accounts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}
