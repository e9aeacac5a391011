package store

import (
	"testing"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// TestRestored: what was at work goes on under a later lease, findings begin anew, and roles are restored where that was asked for.
func TestRestored(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		seedMany(t, s, 100)
		if _, _, err := s.RecordFindings(t.Context(), []dbaas.Finding{{Problem: dbaas.ProblemOrphan, Kind: "server", ResourceID: "s"}}, 0); err != nil {
			t.Fatal(err)
		}
		count := func(query string) (n int) {
			t.Helper()
			if err := s.read.Raw(query).Scan(&n).Error; err != nil {
				t.Fatal(err)
			}
			return n
		}
		running := count(`SELECT count(*) FROM operations WHERE ended_at = 0`)
		if err := s.Restored(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := count(`SELECT count(*) FROM operations WHERE lease_epoch >= 1000000`); n != running || n == 0 {
			t.Errorf("%d operations leapt ahead, want the %d that run", n, running)
		}
		if n := count(`SELECT count(*) FROM findings`); n != 0 {
			t.Errorf("%d findings are of before", n)
		}
		if n := count(`SELECT count(*) FROM instance_groups WHERE epoch > 0`); n != 0 {
			t.Errorf("%d groups have other epochs, and nobody asked", n)
		}
		if err := s.RestoreRoles(t.Context(), []string{manyID(50, 0), "nobody"}); dbaas.ErrorCode(err) != dbaas.NotFound {
			t.Errorf("an instance that is unknown: %v", err)
		}
		if err := s.RestoreRoles(t.Context(), []string{manyID(50, 0)}); err != nil {
			t.Fatal(err)
		}
		if n := count(`SELECT count(*) FROM instance_groups WHERE epoch = 1000000`); n != 1 {
			t.Errorf("%d groups have their roles restored, want 1", n)
		}
	})
}
