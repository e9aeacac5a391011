package redis

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// TestSlotSizes compares what is said of slots with what the server says of each of their keys: of slots with one key, of one with
// more keys than are measured together, and of one with a large key among small ones.
func TestSlotSizes(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redis70, 3, 0)
	c := f.tenant()
	f.fill(c, 3, 600)
	f.fill(c, 300, 1)
	if err := c.Set(t.Context(), "{tag1}:large", strings.Repeat("x", 1<<20), 0).Err(); err != nil {
		t.Fatal(err)
	}
	slots := 0
	for _, n := range f.nodes {
		sizes := new(slotSizes)
		if err := n.Do(t.Context(), actionSizes, nothing{}, sizes); err != nil {
			t.Fatal(err)
		}
		slots += len(sizes.Keys)
		for slot, count := range sizes.Keys {
			keys, bytes := measureEach(t, n.admin(t).Client, slot)
			if count != keys || sizes.Bytes[slot] != bytes {
				t.Errorf("slot %d has %d keys of %d bytes in all, not %d of %d", slot, keys, bytes, count, sizes.Bytes[slot])
			}
		}
	}
	if want := 250; slots < want { // of 300 tags some share a slot
		t.Errorf("%d slots have keys, want %d at least", slots, want)
	}
}

func measureEach(t *testing.T, c *redis.Client, slot int) (count, bytes int64) {
	t.Helper()
	keys, err := c.ClusterGetKeysInSlot(t.Context(), slot, 10_000).Result()
	for _, key := range keys {
		if err == nil {
			var size int64
			size, err = c.MemoryUsage(t.Context(), key).Result()
			bytes += size
		}
	}
	if err != nil {
		t.Fatal(fmt.Errorf("measure slot %d: %w", slot, err))
	}
	return int64(len(keys)), bytes
}
