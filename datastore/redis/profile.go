package redis

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/grove-dbaas/grove/datastore"
	"github.com/grove-dbaas/grove/internal/dbaas"
)

// profile is a kind of use and the values that are set for it, on top of those that follow from the flavor. A tenant's
// own values stand above both. docs/tuning.md gives the reason for each.
type profile struct {
	datastore.Profile
	values map[string]any
}

func profiles() []profile {
	return []profile{
		{datastore.Profile{Name: "cache", Doc: "Data that can be had again: what is used least makes room for what is new."}, map[string]any{
			"maxmemory-policy":  "allkeys-lfu",
			"maxmemory-samples": int64(10),
		}},
		{datastore.Profile{Name: "session", Doc: "Keys with a time to live: when memory is full those go first that would soonest have gone."}, map[string]any{
			"maxmemory-policy":     "volatile-ttl",
			"maxmemory-samples":    int64(10),
			"active-expire-effort": int64(4),
			"tcp-keepalive":        int64(120),
		}},
		{datastore.Profile{Name: "queue", Doc: "Lists, streams and blocking readers: nothing is ever evicted, and a dead reader is noticed soon."}, map[string]any{
			"maxmemory-policy": "noeviction",
			"tcp-keepalive":    int64(60),
		}},
		{datastore.Profile{Name: "store", Doc: "The place where data live: nothing is ever evicted, and what is slow is recorded."}, map[string]any{
			"maxmemory-policy":          "noeviction",
			"latency-monitor-threshold": int64(100),
			"slowlog-max-len":           int64(1024),
		}},
	}
}

// offeredProfiles lists the profiles as the manifest shows them.
func offeredProfiles() []datastore.Profile {
	var list []datastore.Profile
	for _, p := range profiles() {
		list = append(list, p.Profile)
	}
	return list
}

// applyProfile puts a profile's values over a template.
func applyProfile(values map[string]any, name string) error {
	if name == "" {
		return nil
	}
	var names []string
	for _, p := range profiles() {
		if p.Name == name {
			maps.Copy(values, p.values)
			return nil
		}
		names = append(names, p.Name)
	}
	return dbaas.Errorf(dbaas.BadRequest, "There is no profile %q; there are: %s.", name, strings.Join(names, ", "))
}

// sizingOf is what a database's values are fitted to.
func sizingOf(d datastore.Desired) datastore.Sizing {
	return datastore.Sizing{
		FlavorRAM: d.FlavorRAM, VolumeSize: d.VolumeSize, Profile: d.Profile, Persistence: d.Persistence,
		Replicated: d.Cluster || d.Master != nil || len(d.Peers) > 0,
	}
}

// driftLook is the last look for drift, and the moment in the server's life when it was taken.
type driftLook struct {
	runID string
	at    float64 // seconds of uptime
	found []dbaas.Drift
}

// driftEvery is how often, in seconds, a running server's values are compared with what they should be.
const driftEvery = 30

// driftNow gives what is not as it should be, as of the last half minute.
func (g *Guest) driftNow(ctx context.Context, r *record, c *client, i info) []dbaas.Drift {
	uptime, _ := strconv.ParseFloat(i["uptime_in_seconds"], 64)
	g.mu.Lock()
	last := g.drift
	g.mu.Unlock()
	if last.runID == i["run_id"] && uptime-last.at < driftEvery {
		return last.found
	}
	p, err := g.plan(r.Desired)
	if err != nil {
		return last.found
	}
	running, err := c.configGet(ctx, "*")
	if err != nil {
		return last.found
	}
	look := driftLook{runID: i["run_id"], at: uptime, found: drift(p, running)}
	unfit, _ := g.host.Settle(systemSettings()) // what could not be set is among them
	for _, u := range unfit {
		look.found = append(look.found, dbaas.Drift{Setting: u.Path, Value: u.Value, Expected: u.Want, Advice: u.Why})
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drift = look
	return look.found
}

// forgetDrift has the next look compare anew: what should be has changed.
func (g *Guest) forgetDrift() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drift = driftLook{}
}

// drift lists the live values that are not as they should be: somebody has changed them past Grove. What waits for a
// restart is no drift.
func drift(p plan, running settings) []dbaas.Drift {
	live, _ := difference(p.version, p.wanted(), running)
	var found []dbaas.Drift
	for _, name := range slices.Sorted(maps.Keys(live)) {
		found = append(found, dbaas.Drift{
			Setting: name, Value: running[name], Expected: live[name],
			Advice: fmt.Sprintf("Set %s in a configuration group, or restart the instance.", name),
		})
	}
	return found
}
