package store

import "context"

// leap is more failovers of a group, and more takers of an operation, than there were between a backup and its restoration.
const leap = 1_000_000

// Restored prepares a database that was restored from a backup. Operations that were at work then go on: guests know later holders
// of them, so their lease epochs leap ahead. What the janitor had found begins anew, and with it the time for which it does
// nothing about it; what anybody wanted deleted was of another day. To repeat it does no harm.
func (s *Store) Restored(ctx context.Context) error {
	return s.Tx(ctx, func(tx *Tx) error {
		return tx.failed("prepare the restored database", firstError(
			tx.db.Exec(`UPDATE operations SET lease_epoch = lease_epoch + ? WHERE ended_at = 0`, leap).Error,
			tx.db.Exec(`DELETE FROM findings`).Error,
		))
	})
}

// RestoreRoles makes who takes the writes in the groups of these instances what a restored database says. Guests that were failed
// over since the backup refuse all orders of before: that keeps the writes, which the present primary takes, until somebody says
// that they may be given up.
func (s *Store) RestoreRoles(ctx context.Context, instances []string) error {
	return s.Tx(ctx, func(tx *Tx) error {
		groups := map[string]bool{}
		for _, id := range instances {
			in, err := tx.Instance(id)
			if err != nil {
				return err
			}
			groups[in.GroupID] = true
		}
		for id := range groups {
			if err := tx.db.Exec(`UPDATE instance_groups SET epoch = epoch + ? WHERE id = ?`, leap, id).Error; err != nil {
				return tx.failed("restore the roles of a group", err)
			}
		}
		return nil
	})
}
