package redis

import (
	"strconv"
	"strings"

	"github.com/grove-dbaas/grove/internal/host"
)

// systemSettings is what a server needs of its operating system; docs/tuning.md tells where each comes from.
func systemSettings() []host.Setting {
	return []host.Setting{
		{Path: "/proc/sys/vm/overcommit_memory", Want: "1", Fits: equals("1"),
			Why: "Without it a snapshot, a rewrite or a full sync fails when the database holds more than half of the memory."},
		{Path: "/sys/kernel/mm/transparent_hugepage/enabled", Want: "madvise", Fits: chosen("madvise", "never"),
			Why: "Huge pages make each write after a fork copy 2 MiB."},
		{Path: "/proc/sys/net/core/somaxconn", Want: "4096", Fits: atLeast(511),
			Why: "A burst of new connections is refused above it."},
		{Path: "/proc/sys/net/ipv4/tcp_max_syn_backlog", Want: "4096", Fits: atLeast(512),
			Why: "A burst of new connections is delayed above it."},
		{Path: "/proc/sys/vm/swappiness", Want: "1", Fits: atMost(10),
			Why: "A database whose memory is swapped out answers in milliseconds rather than microseconds."},
	}
}

func equals(want string) func(string) bool { return func(value string) bool { return value == want } }

func atLeast(n int) func(string) bool {
	return func(value string) bool { is, err := strconv.Atoi(value); return err == nil && is >= n }
}

func atMost(n int) func(string) bool {
	return func(value string) bool { is, err := strconv.Atoi(value); return err == nil && is <= n }
}

// chosen reads files of the form "always [madvise] never".
func chosen(words ...string) func(string) bool {
	return func(value string) bool {
		for _, word := range words {
			if value == word || strings.Contains(value, "["+word+"]") {
				return true
			}
		}
		return false
	}
}
