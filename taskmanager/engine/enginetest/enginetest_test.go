package enginetest

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/grove-dbaas/grove/internal/clock"
	"github.com/grove-dbaas/grove/taskmanager/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type memory struct {
	*engine.Memory
	*clock.Manual
}

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) Subject {
		c := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
		return memory{engine.NewMemory(c), c}
	})
}

func TestMemoryOnARealClock(t *testing.T) {
	Run(t, func(*testing.T) Subject { return engine.NewMemory(clock.Real{}) })
}
