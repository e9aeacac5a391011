package redis

import (
	"strings"
	"testing"
)

// TestAlignShards: a server ends at its start when nodes.conf has a replica in another shard than its master.
func TestAlignShards(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ nodes, want string }{
		"nothing": {"", ""},
		"of 7.0":  {"aa :6379@16379 myself,slave bb 0 0 1 connected\nbb 127.0.0.2:6379@16379 master - 0 0 1 connected 0-5\nvars currentEpoch 1 lastVoteEpoch 0\n", ""},
		"replica first": {
			"aa 127.0.0.1:6379@16379,,tls-port=0,shard-id=11 myself,slave bb 0 0 1 connected\nbb 127.0.0.2:6379@16379,,tls-port=0,shard-id=22 master - 0 0 1 connected 0-5\nvars currentEpoch 1 lastVoteEpoch 0\n",
			"aa 127.0.0.1:6379@16379,,tls-port=0,shard-id=22 myself,slave bb 0 0 1 connected\nbb 127.0.0.2:6379@16379,,tls-port=0,shard-id=22 master - 0 0 1 connected 0-5\nvars currentEpoch 1 lastVoteEpoch 0\n",
		},
		"a name after it": {
			"bb :1@2,,shard-id=22,nodename=shard-id master - 0 0 1 connected\naa :1@2,h,shard-id=11,nodename=x slave bb 0 0 1 connected\n",
			"bb :1@2,,shard-id=22,nodename=shard-id master - 0 0 1 connected\naa :1@2,h,shard-id=22,nodename=x slave bb 0 0 1 connected\n",
		},
		"alike":          {"bb :1@2,,shard-id=22 master - 0 0 1 connected\naa :1@2,,shard-id=22 slave bb 0 0 1 connected\n", ""},
		"unknown master": {"aa :1@2,,shard-id=22 slave bb 0 0 1 connected\n", ""},
		"master unsaid":  {"bb :1@2 master - 0 0 1 connected\naa :1@2,,shard-id=22 slave bb 0 0 1 connected\n", ""},
		"cut off":        {"aa :1@2,,shard-id=22 sl", ""},
	} {
		t.Run(name, func(t *testing.T) {
			want := c.want
			if want == "" {
				want = c.nodes
			}
			if got := alignShards(c.nodes); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if again := alignShards(want); again != want || strings.Count(want, "\n") != strings.Count(c.nodes, "\n") {
				t.Errorf("the second time it is\n%s", again)
			}
		})
	}
}
