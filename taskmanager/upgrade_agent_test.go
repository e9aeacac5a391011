package taskmanager_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"testing"

	"github.com/grove-dbaas/grove/internal/control"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// upgradeAgentTrial asks for the program that runs already: agents inside a process are not replaced. That others are is
// shown where they are processes of their own.
func upgradeAgentTrial() trial {
	return trial{
		unasked: true,
		begin: func(ctx context.Context, t *testing.T, h *house, in string) string {
			f, err := os.Open("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			sum := sha256.New()
			if _, err := io.Copy(sum, f); err != nil {
				t.Fatal(err)
			}
			return mustID(t)(h.control.UpgradeAgent(ctx, tester, in, control.AgentState{
				Location: "http://127.0.0.1:1/grove-agent", SHA256: hex.EncodeToString(sum.Sum(nil)),
			}))
		},
		check: func(t *testing.T, h *house, v *dbaas.InstanceView) {
			if v.Fault != nil {
				t.Errorf("the instance has the fault %v", v.Fault)
			}
			h.requireServing(t, v)
		},
	}
}
