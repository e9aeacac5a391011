package redis

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/grove-dbaas/grove/internal/host"
)

// shardField is what a server from 7.2 on notes of each node in nodes.conf: the shard that it belongs to.
const shardField = "shard-id="

// mendNodes makes nodes.conf one that the server takes. While some members are of a version that tells nobody its shard,
// others give them one by chance; a server writes down that a replica is in another shard than its master, and refuses to
// start with that.
func mendNodes(data string) error {
	path := filepath.Join(data, nodesFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what is known of the cluster: %w", err)
	}
	mended := alignShards(string(text))
	if mended == string(text) {
		return nil
	}
	return host.WriteFile(path, []byte(mended), 0o600, nil)
}

// alignShards puts every replica into the shard of its master.
func alignShards(nodes string) string {
	shards := map[string]string{} // by node id
	for line := range strings.Lines(nodes) {
		if id, rest, ok := strings.Cut(line, " "); ok {
			shards[id] = shardOf(rest)
		}
	}
	var mended strings.Builder
	for line := range strings.Lines(nodes) {
		// id address,hostname,field=value… flags master …
		if fields := strings.SplitN(line, " ", 5); len(fields) == 5 {
			own, master := shardOf(fields[1]), shards[fields[3]]
			if own != "" && master != "" && own != master {
				fields[1] = strings.Replace(fields[1], shardField+own, shardField+master, 1)
				line = strings.Join(fields, " ")
			}
		}
		mended.WriteString(line)
	}
	return mended.String()
}

// shardOf finds the shard in a node's address and what follows that.
func shardOf(address string) string {
	address, _, _ = strings.Cut(address, " ")
	for _, field := range strings.Split(address, ",") {
		if shard, ok := strings.CutPrefix(field, shardField); ok {
			return shard
		}
	}
	return ""
}
