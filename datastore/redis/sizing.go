package redis

import (
	"fmt"
	"maps"
	"strings"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// memory is how a flavor's memory is shared out, in bytes.
type memory struct {
	unit      int64 // limit of all of the server's processes; what is left is for the system and the agent
	ceiling   int64 // maxmemory
	backlog   int64 // for replicas that were away for a moment
	clients   int64 // all clients' buffers together: above it the largest is disconnected
	oneClient int64 // one client's unread answers
}

// sizing shares out a flavor's memory so that a full database meets its own limit before it meets the kernel's:
//
//	ceiling × (1 + fragmentation 10 % + copies while a forked child writes 30 %) + backlog + buffers = unit
//
// A database that keeps nothing on disk and has no replicas never forks, and gets what the copies would have taken.
//
// The copies can be more when everything is written anew at once; then the kernel ends the forked child, which is
// more killable (oom-score-adj), and the rewrite is tried again. The ceiling is half of a small flavor and 0.6 of a
// large one.
func sizing(s datastore.Sizing) memory {
	ram := int64(s.FlavorRAM) * mib
	reserve := max(min(300*mib, ram/4), ram/20)
	m := memory{
		unit:    ram - reserve,
		backlog: clamp(ram/32, 4*mib, 256*mib),
	}
	buffers := ram / 32
	tenths := int64(14)
	if s.Persistence == dbaas.PersistenceNone && !s.Replicated {
		tenths = 11
	}
	m.ceiling = (m.unit - m.backlog - buffers) * 10 / tenths / mib * mib
	m.clients = max(m.ceiling/10, min(64*mib, m.ceiling/4))
	m.oneClient = clamp(m.ceiling/4/mib*mib, 16*mib, 256*mib)
	return m
}

func clamp(n, least, most int64) int64 { return max(least, min(n, most)) }

// apply puts the values that follow from the size into a template.
func (m memory) apply(values map[string]any) {
	values["maxmemory"] = m.ceiling
	values["maxmemory-clients"] = datastore.FormatBytes(m.clients / mib * mib)
	values["repl-backlog-size"] = m.backlog
	values["client-output-buffer-limit"] = fmt.Sprintf("normal %d %d 60 replica %d %d 120 pubsub %d %d 60",
		m.oneClient, m.oneClient/4,
		max(256*mib, m.ceiling/8), max(256*mib, m.ceiling/8)/2,
		min(32*mib, m.oneClient), min(8*mib, m.oneClient/4))
}

// requireFit refuses a size below what the data take: the server would evict what goes beyond it, refuse writes, or not
// even load them. A tenant who has said that any key may be evicted gets what was asked for.
func requireFit(version string, values map[string]any, s datastore.Sizing, metrics map[string]float64) error {
	wanted := defaults(version, s)
	maps.Copy(wanted, values)
	if policy, _ := wanted["maxmemory-policy"].(string); strings.HasPrefix(policy, "allkeys-") {
		return nil
	}
	limit, _ := datastore.ParseBytes(fmt.Sprint(wanted["maxmemory"]))
	if used := int64(metrics["used_memory"]); used > limit {
		return dbaas.Errorf(dbaas.Unprocessable, "The data take %d MB; on that flavor they may take %d MB. Delete some of them, or choose a larger flavor.", used/mib+1, limit/mib)
	}
	return nil
}
