package inproc

import (
	"time"

	"github.com/grove-dbaas/grove/internal/rpc"
)

// Faults is what goes wrong with one message.
type Faults struct {
	Refuse    bool          // the sender gets dbaas.Unavailable, nothing is delivered
	Drop      bool          // lost: a cast looks sent, a call ends at its deadline
	DropReply bool          // a call is handled, and its answer lost
	Delay     time.Duration // before it is delivered
	Duplicate int           // further deliveries of the same message
	Reorder   bool          // the next message on the topic overtakes it
}

// FaultFunc chooses the faults of a message as it is sent. It must be safe for concurrent use.
type FaultFunc func(m *rpc.Envelope) Faults

// SetFaults makes f choose faults from now on; nil ends them.
func (b *Bus) SetFaults(f FaultFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = f
}

func (b *Bus) faultsOf(m *rpc.Envelope) Faults {
	b.mu.Lock()
	f := b.faults
	b.mu.Unlock()
	if f == nil {
		return Faults{}
	}
	return f(m)
}
