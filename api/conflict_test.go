package api

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// deeds are the changes that may meet on one instance. All but delete exclude each other; a delete goes through always.
func deeds(id, group string) map[string]func(c *client) *result {
	action := func(body string) func(c *client) *result {
		return func(c *client) *result { return c.post("/instances/"+id+"/action", body) }
	}
	return map[string]func(c *client) *result{
		"restart":       action(`{"restart": {}}`),
		"resize volume": action(`{"resize": {"volume": {"size": 9}}}`),
		"resize flavor": action(`{"resize": {"flavorRef": "2"}}`),
		"attach": func(c *client) *result {
			return c.put("/instances/"+id, `{"instance": {"configuration": "`+group+`"}}`)
		},
		"root": func(c *client) *result { return c.post("/instances/"+id+"/root", "") },
		"access": func(c *client) *result {
			return c.put("/instances/"+id, `{"instance": {"access": {"is_public": true}}}`)
		},
		"delete": func(c *client) *result { return c.delete("/instances/" + id) },
	}
}

// TestConflictingChangesHaveOneWinner lets every pair of changes meet, those of one kind too: of many at once exactly one
// is accepted, the others are told which operation is in the way, and there is one operation.
func TestConflictingChangesHaveOneWinner(t *testing.T) {
	h := newHouse(t, withConfig(func(c *Config) { c.AwaitAtMost = time.Millisecond }))
	group := h.newConfiguration("tuned", `{"hz": 15}`)
	names := slices.Sorted(maps.Keys(deeds("", "")))
	for i, first := range names {
		for _, second := range names[i:] {
			id := h.newInstance("a")
			both := deeds(id, group)
			before := h.count("operations")
			statuses := h.atOnce(8, both[first], both[second])
			accepted := statuses[200] + statuses[202]
			want := 1
			if first == "delete" || second == "delete" {
				want = 0 // checked below: a delete is accepted whatever runs, and one more time when repeated
			}
			if want == 1 && (accepted != 1 || statuses[422] != 7) {
				t.Errorf("%s and %s: %v, want one accepted and seven 422", first, second, statuses)
			}
			if want == 0 && statuses[202] < 4 {
				t.Errorf("%s and %s: %v, but a delete is always accepted", first, second, statuses)
			}
			if after := h.count("operations"); want == 1 && after != plus(before, 1) {
				t.Errorf("%s and %s: operations went from %s to %s", first, second, before, after)
			}
			h.settle()
		}
	}
}

// atOnce sends n requests at the same time, half of each kind, and counts the statuses.
func (h *house) atOnce(n int, one, other func(c *client) *result) map[int]int {
	var all sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			deed := one
			if i%2 == 1 {
				deed = other
			}
			r := deed(h.client)
			mu.Lock()
			defer mu.Unlock()
			statuses[r.status]++
			if r.status == http.StatusUnprocessableEntity && h.t != nil {
				r.fault(422, "unprocessableEntity")
			}
		})
	}
	close(start)
	all.Wait()
	return statuses
}

func plus(count string, n int) string {
	var i int
	_, _ = fmt.Sscan(count, &i)
	return fmt.Sprint(i + n)
}

// Many creates at once never pass the quota.
func TestQuotaHoldsUnderContention(t *testing.T) {
	h := newHouse(t, withQuotas(map[string]int{"instances": 5, "volumes": 100, "backups": 5, "ram": -1}))
	create := func(c *client) *result { return c.post("/instances", createBody("a")) }
	statuses := h.atOnce(24, create, create)
	if statuses[200] != 5 || statuses[413] != 19 {
		t.Errorf("%v, want five 200 and nineteen 413", statuses)
	}
	if n := h.count("instances"); n != "5" {
		t.Errorf("%s instances", n)
	}
}
